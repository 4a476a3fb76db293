"""The sections of the page: their numbers against outside oracles and against the tables read."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from adacomed.report import curves, decisions, findings, patients, robustness, sets, survival
from adacomed.report.facts import facts, limits
from adacomed.report.figures import styles
from adacomed.report.report import Page, build_page
from adacomed.report.source import Source, read_source


@pytest.fixture(scope="module")
def frame(synthetic) -> pl.DataFrame:
    return synthetic.predictions(n=300, methods=("adacomed", "small"))


@pytest.fixture(scope="module")
def source(synthetic, frame, tmp_path_factory) -> Source:
    return read_source(synthetic.write_run(tmp_path_factory.mktemp("sections") / "run", frame))


def built(source: Source) -> Page:
    return build_page(source, title=None, table=None, paired=None, extra={})


@pytest.fixture(scope="module")
def page(source) -> Page:
    return built(source)


# ---- bands --------------------------------------------------------------------------------------
def test_bands_hold_the_curve_that_sklearn_draws(source):
    from sklearn.metrics import precision_recall_curve, roc_curve

    rows = source.rows("adacomed")
    y, p = rows["label"].to_numpy(), rows["prob"].to_numpy()
    low, high = curves.roc_band(y, p, rows["subject_id"].to_numpy())
    fpr, tpr, _ = roc_curve(y, p, drop_intermediate=False)
    at = np.array([tpr[fpr <= x].max() for x in curves.GRID])
    inside = (low - 0.03 <= at) & (at <= high + 0.03)
    assert inside.mean() > 0.97
    assert (high[5:60] - low[5:60]).min() > 0.02
    low, high = curves.precision_band(y, p, rows["subject_id"].to_numpy())
    precision, recall, _ = precision_recall_curve(y, p)
    at = np.array([precision[np.flatnonzero(recall >= x - 1e-12)[-1]] for x in curves.GRID[1:]])
    inside = (low[1:] - 0.03 <= at) & (at <= high[1:] + 0.03)
    assert inside.mean() > 0.97
    assert np.all(low <= high)


def test_the_bands_resample_subjects_not_rows(source):
    rows = source.rows("adacomed")
    y, p = (np.repeat(rows[c].to_numpy(), 4) for c in ("label", "prob"))
    who = np.repeat(rows["subject_id"].to_numpy(), 4)
    one = curves.roc_band(rows["label"], rows["prob"], rows["subject_id"].to_numpy())
    four = curves.roc_band(y, p, who)
    for a, b in zip(one, four, strict=True):
        np.testing.assert_allclose(a, b)


# ---- decisions ----------------------------------------------------------------------------------
def test_confusion_matrix_is_sklearns(source):
    from sklearn.metrics import confusion_matrix

    rows = source.patients("adacomed")
    figure = decisions.matrix(source, rows)
    expected = confusion_matrix(rows["label"], rows["prob"] >= 0.3)
    assert figure.table is not None
    assert [[int(c) for c in r.cells[1:]] for r in figure.table.rows] == expected.tolist()
    assert figure.title == "Confusion matrix at the threshold .300"


# ---- stress -------------------------------------------------------------------------------------
def test_heat_map_cells_are_sklearns_and_none_kept_is_left_out(source):
    from sklearn.metrics import roc_auc_score

    assert source.stress is not None
    look = styles(source.methods, "adacomed", "small")
    heat, noise = robustness.section(source, look).figures
    data = heat.spec["data"][0]
    assert data["x"] == ["adacomed", "small"]
    assert len(data["y"]) == 7
    row = data["y"].index("ct + wsi")
    rows = source.stress.filter(
        pl.col("method") == "small", pl.col("kept") == ["ct", "wsi"], pl.col("noise") == 0
    )
    expected = roc_auc_score(rows["label"], rows["prob"])
    assert data["z"][row][1] == pytest.approx(expected, abs=1e-9)
    nothing = (rows["present"].list.len() == 0).sum()
    assert f"{nothing} of {len(rows)} patients left with nothing" in data["customdata"][row][1]
    assert noise.spec["data"][-1]["x"] == [0, 0.5, 1, 2]


def test_a_stress_table_that_cannot_be_scored_is_said_and_nothing_else_is_lost(source):
    assert source.stress is not None
    broken = source.stress.filter(pl.col("kept").list.len() < 3)  # no row of intact inputs
    other = Source(source.folder, source.predictions, stress=broken)
    section = robustness.section(other, styles(source.methods, "adacomed", "small"))
    assert section.missing.startswith("stress.parquet cannot be scored")
    assert section.figures == []


# ---- prediction sets ----------------------------------------------------------------------------
def test_coverage_is_counted_per_class(source):
    found = sets.coverage(source)
    assert found is not None
    rows = source.patients("small").filter(pl.col("label") == 1)
    inside = rows.select(pl.col("prediction_set").list.contains(1)).to_series()
    row = found.filter(pl.col("method") == "small", pl.col("class") == 1).row(0, named=True)
    assert row["coverage"] == pytest.approx(inside.mean())
    assert row["n"] == len(rows)
    assert "90 % " not in sets.section(source, None).lead
    assert "90% " in sets.section(source, 0.9).lead


# ---- patients -----------------------------------------------------------------------------------
def test_examples_are_what_they_are_called(source):
    found = {e.why: e.row for e in patients.examples(source)}
    rows = source.patients("adacomed")
    high = rows.filter(pl.col("label") == 0)["prob"].max()
    low = rows.filter(pl.col("label") == 1)["prob"].min()
    assert len({row["sample_id"] for row in found.values()}) == len(found) == 5
    assert found["high risk, wrong"]["prob"] == high
    assert found["low risk, wrong"]["prob"] == low
    assert found["high risk, right"]["label"] == 1
    apart = found["the branches disagree most"]
    gap = (rows["logit_large"] - rows["logit_small"]).abs().max()
    assert abs(apart["logit_large"] - apart["logit_small"]) == pytest.approx(gap)


def test_shapley_bars_come_from_the_stress_table_and_an_absent_modality_gets_0(source):
    assert source.stress is not None
    for example in patients.examples(source):
        assert example.shapley is not None
        mine = source.stress.filter(
            pl.col("method") == "adacomed",
            pl.col("sample_id") == example.sample,
            pl.col("noise") == 0,
        )
        of = dict(zip(mine["kept"].list.len(), mine["prob"], strict=True))  # 0: none, 3: all
        assert sum(example.shapley.values()) == pytest.approx(of[3] - of[0], abs=1e-9)
        absent = set(example.shapley) - set(example.row["present"])
        assert all(example.shapley[name] == 0 for name in absent)


def test_explanations_come_before_the_stress_table(source):
    chosen = [e.sample for e in patients.examples(source)]
    table = pl.DataFrame({"sample_id": chosen, "class": 1, "level": "modality", "modality": "ct"})
    table = table.with_columns(name=pl.lit("ct"), value=pl.lit(0.25))
    other = Source(source.folder, source.predictions, explanations=table, stress=source.stress)
    assert [e.shapley for e in patients.examples(other)] == [{"ct": 0.25}] * 5


# ---- flow, encoders, limits ---------------------------------------------------------------------
def test_left_out_patients_and_contamination_are_said(page):
    flow = next(s for s in page.sections if s.id == "flow")
    assert flow.tables[0].rows[1].cells == ["labelled", "240", "240", "10", "no label"]
    encoders = next(s for s in page.sections if s.id == "encoders")
    assert "trained on Drawn-Numbers" in encoders.warnings[0]
    assert [r.kind for r in encoders.tables[0].rows] == ["", "warned", ""]
    assert encoders.warnings[0] in page.warnings


def test_limits_follow_from_facts(source, page):
    text = " ".join(limits(page.known))
    assert "simulated" in text
    assert "no external validation" in text
    assert "pool 5 folds" in text
    assert "ct is there for" in text
    assert "no columns of sex" not in text
    fewer = Source(source.folder, source.predictions.drop("group_sex", "group_age"))
    known = facts(fewer, "x", pl.DataFrame({"method": ["adacomed"], "auroc": [0.7]}))
    assert "no columns of sex" in " ".join(limits(known))


# ---- other tasks --------------------------------------------------------------------------------
def test_findings_have_a_table_and_their_mean(synthetic, tmp_path):
    parts = [
        synthetic.predictions(n=n, methods=("adacomed", "small"), seed=n).with_columns(
            task=pl.lit(f"findings: {name}")
        )
        for name, n in (("oedema", 120), ("effusion", 200))
    ]
    run = synthetic.write_run(tmp_path / "findings", pl.concat(parts), everything=False)
    source = read_source(run)
    assert source.task == "findings: effusion"  # more patients in its rarer class
    section = findings.section(source)
    assert section is not None
    names = [r.cells[0] for r in section.tables[0].rows]
    assert names == ["findings: oedema", "findings: effusion", "mean over 2 findings"]
    assert "[" in section.tables[0].rows[-1].cells[3]
    assert read_source(run, "findings: oedema").test["sample_id"].n_unique() == 100
    page = built(source)
    assert [s.id for s in page.sections][:2] == ["results", "findings"]
    assert "On 166 test patients" in page.summary[0]


def test_survival_has_the_c_index_of_scikit_survival(synthetic, tmp_path):
    from sksurv.metrics import concordance_index_censored

    run = synthetic.write_run(tmp_path / "time", synthetic.survival(), everything=False)
    source = read_source(run)
    assert source.survival
    rows = source.rows("adacomed")
    expected = concordance_index_censored(rows["label"] == 1, rows["time"], rows["prob"])[0]
    found = survival.scores(source).filter(pl.col("method") == "adacomed").row(0, named=True)
    assert found["c_index"] == pytest.approx(expected, abs=1e-9)
    assert found["c_index_low"] < expected < found["c_index_high"]
    page = built(source)
    ids = [s.id for s in page.sections]
    assert "curves" not in ids
    assert "calibration" not in ids
    assert [f.id for f in page.sections[0].figures] == ["kaplan-meier"]
    assert page.cards[1].name == "C-index"
    assert "reaches a C-index of" in page.summary[0]


def test_a_survival_winner_is_named_only_where_the_test_says_so(synthetic, tmp_path):
    def said(frame, name):
        run = synthetic.write_run(tmp_path / name, frame, everything=False)
        source = read_source(run)
        return survival.words(source, survival.scores(source))[1]

    frame = synthetic.survival()
    assert said(frame, "clear").endswith("in favour of adacomed.")
    other = {"adacomed": "small", "small": "adacomed"}
    assert said(frame.with_columns(pl.col("method").replace(other)), "lost").endswith(
        "in favour of small."
    )
    assert "which may be chance" in said(frame.filter(pl.int_range(pl.len()) % 200 < 12), "few")
    apart = frame.filter((pl.col("method") == "adacomed") | (pl.col("sample_id") != "SECRET-3"))
    assert "tested on other patients, so no winner is named" in said(apart, "apart")


def test_a_survival_page_has_the_risk_at_the_horizon(synthetic):
    rows = synthetic.survival(methods=("adacomed",))
    assert survival.calibrated(rows, "adacomed") is None  # a table from elsewhere without it
    table = survival.calibrated(rows.with_columns(pl.lit(24.0).alias("horizon")), "adacomed")
    assert table is not None
    assert [r.cells[1] for r in table.rows] == ["40"] * 5
    predicted = [float(r.cells[2]) for r in table.rows]
    assert predicted == sorted(predicted)


def test_survival_curves_are_kaplan_and_meiers(synthetic, tmp_path):
    from sksurv.nonparametric import kaplan_meier_estimator

    rows = synthetic.survival(methods=("adacomed",))
    figure = survival.risk_groups(rows, "adacomed")
    cut = np.quantile(rows["prob"], [1 / 3, 2 / 3])
    lowest = rows.filter(pl.Series(np.searchsorted(cut, rows["prob"], side="right") == 0))
    x, y = kaplan_meier_estimator(lowest["label"] == 1, lowest["time"])
    drawn = next(
        t for t in figure.spec["data"] if t["meta"].get("legend") == "lowest third of risk"
    )
    assert drawn["y"][-1] == pytest.approx(y[-1], abs=1e-3)
    assert drawn["x"][-1] == pytest.approx(x[-1], abs=1e-3)
    assert figure.table is not None
    assert "Log-rank test: p < .001" in figure.table.notes[0]
