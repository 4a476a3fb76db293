"""The planned truth against the files, by the written rules: nothing of the generator or builder.

Everything is read as text, and each rule is a few lines of polars.
"""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest
from polars.testing import assert_frame_equal
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from adacomed.datasets.mimic.variables import CHARTED, DEMOGRAPHICS, LABORATORY, PROCEDURES
from adacomed.datasets.mimic_release.build import build

HOURS_48 = pl.duration(hours=48)


class Files:
    """The tables of a release, times parsed, and the rules applied to them."""

    def __init__(self, root: Path) -> None:
        self.root = root
        admissions = self.table("hosp/admissions", "admittime", "dischtime", "deathtime")
        people = self.table("hosp/patients").select("subject_id", "anchor_age", "anchor_year")
        self.admissions = admissions.join(people, on="subject_id").with_columns(
            end=pl.min_horizontal(pl.col("admittime") + HOURS_48, "dischtime"),
            age=pl.col("anchor_age").cast(int)
            + pl.col("admittime").dt.year()
            - pl.col("anchor_year").cast(int),
        )
        stays = self.table("icu/icustays", "intime").select("stay_id", "hadm_id", "intime")
        self.stays = stays.join(self.admissions, on="hadm_id").filter(
            pl.col("intime") < pl.col("admittime") + HOURS_48, pl.col("age") >= 18
        )
        self.variables = self._variables()

    def table(self, name: str, *times: str) -> pl.DataFrame:
        path = self.root / f"mimic-iv/{name}.csv.gz"
        path = path if path.is_file() else self.root / f"{name}.csv.gz"
        frame = pl.read_csv(path, infer_schema=False)
        return frame.with_columns(pl.col(c).str.to_datetime("%Y-%m-%d %H:%M:%S") for c in times)

    def _variables(self) -> pl.DataFrame:
        items = self.table("icu/d_items").filter(pl.col("linksto") == "procedureevents")
        ids = dict(items.select("label", "itemid").rows())
        rows = [(str(i), v.name) for v in (*CHARTED, *LABORATORY) for i in v.ids]
        rows += [(ids[v.label], v.name) for v in PROCEDURES]
        return pl.DataFrame(rows, schema=["itemid", "variable"], orient="row")

    def with_admission(self, rows: pl.DataFrame) -> pl.DataFrame:
        """Rows that name no admission get the only one that they lie in."""
        lost = rows.with_row_index("n").filter(pl.col("hadm_id").is_null()).drop("hadm_id")
        spans = self.admissions.select("subject_id", "hadm_id", "admittime", "dischtime")
        inside = lost.join(spans, on="subject_id").filter(
            pl.col("charttime").is_between("admittime", "dischtime")
        )
        found = inside.filter(pl.len().over("n") == 1).select(rows.columns)
        return pl.concat([rows.filter(pl.col("hadm_id").is_not_null()), found])

    def in_window(self, rows: pl.DataFrame, key: str) -> pl.DataFrame:
        """Rows of each stay in (0, 48 h], before discharge, and stored by then."""
        when = [c for c in ("stay_id", "hadm_id", "admittime", "end") if c == key or c != "hadm_id"]
        joined = rows.join(self.stays.select(*when), on=key)
        return joined.filter(
            pl.col("charttime") > pl.col("admittime"),
            pl.col("charttime") <= pl.col("end"),
            pl.col("storetime").fill_null(pl.col("charttime")) <= pl.col("end"),
        ).with_columns(
            sample_id="stay_id",
            hours=(pl.col("charttime") - pl.col("admittime")).dt.total_microseconds() / 3.6e9,
        )

    def events(self) -> pl.DataFrame:
        charts = self.table("icu/chartevents", "charttime", "storetime")
        labs = self.table("hosp/labevents", "charttime", "storetime")
        keep = ["itemid", "charttime", "storetime", "valuenum", "valueuom"]
        done = self.table("icu/procedureevents", "starttime", "storetime").with_columns(
            charttime="starttime", valuenum=pl.lit("1"), valueuom=pl.lit(None, pl.String)
        )
        parts = [self.in_window(t.select("stay_id", *keep), "stay_id") for t in (charts, done)]
        labs = self.with_admission(labs.select("subject_id", "hadm_id", *keep))
        parts.append(self.in_window(labs, "hadm_id"))
        rows = pl.concat([p.select("sample_id", "hours", *keep) for p in parts])
        rows = rows.join(self.variables, on="itemid").filter(pl.col("valuenum").is_not_null())
        return _resolve(_convert(rows))

    def images(self) -> pl.DataFrame:
        rows = self.table("mimic-cxr-jpg/mimic-cxr-2.0.0-metadata")
        rows = rows.filter(pl.col("ViewPosition") == "AP").with_columns(
            time=pl.col("StudyDate").str.to_datetime("%Y%m%d")
            + pl.duration(milliseconds=_milliseconds(pl.col("StudyTime"))),
            path=pl.format(
                "files/p{}/p{}/s{}/{}.jpg",
                pl.col("subject_id").str.head(2),
                "subject_id",
                "study_id",
                "dicom_id",
            ),
        )
        here = [(self.root / "mimic-cxr-jpg" / p).is_file() for p in rows["path"]]
        joined = rows.filter(here).join(self.stays, on="subject_id")
        inside = joined.filter(pl.col("time").is_between("admittime", "end"))
        hours = (pl.col("time") - pl.col("admittime")).dt.total_microseconds() / 3.6e9
        return inside.select("path", sample_id="stay_id", hours=hours, view="ViewPosition")

    def notes(self) -> pl.DataFrame:
        rows = self.table("mimic-iv-note/note/radiology", "charttime", "storetime")
        return self.in_window(self.with_admission(rows.drop("note_type")), "hadm_id").select(
            "sample_id", "text", "hours", "note_id"
        )

    def labels(self, samples: list[str], *, paper: bool) -> pl.DataFrame:
        mine = self.stays.filter(pl.col("stay_id").is_in(samples))
        others = mine.unique("hadm_id") if paper else self.admissions
        later = others.select("subject_id", start="admittime", other="hadm_id")
        pairs = mine.join(later, on="subject_id").filter(pl.col("other") != pl.col("hadm_id"))
        pairs = pairs.filter(pl.col("start") > pl.col("admittime"))
        # the very next one alone; one that begins before discharge is the same episode
        after = pairs.sort("start").unique("stay_id", keep="first")
        again = after.filter(
            pl.col("start").is_between("dischtime", pl.col("dischtime") + pl.duration(days=30))
        )["stay_id"]
        died = pl.col("deathtime").is_not_null() | (pl.col("hospital_expire_flag") == "1")
        stay = pl.col("dischtime") - pl.col("admittime")
        told = pl.col("stay_id").is_in(again.implode()).cast(int)
        wide = mine.select(
            sample_id="stay_id",
            mortality=died.cast(int),
            longstay=pl.when(stay >= pl.duration(days=3))
            .then(stay > pl.duration(days=7))
            .cast(int),
            readmission=told if paper else pl.when(~died).then(told),
        )
        long = wide.unpivot(index="sample_id", variable_name="task", value_name="label")
        return long.drop_nulls().with_columns(pl.col("label").cast(pl.Int64))


def _milliseconds(clock: pl.Expr) -> pl.Expr:
    """HHMMSS.fff, its leading zeros lost, since midnight."""
    whole = clock.str.split(".").list.get(0).str.zfill(6)
    parts = [whole.str.slice(k, 2).cast(int) for k in (0, 2, 4)]
    rest = clock.str.split(".").list.get(1).str.pad_end(3, "0").cast(int)
    return ((parts[0] * 60 + parts[1]) * 60 + parts[2]) * 1000 + rest


def _convert(rows: pl.DataFrame) -> pl.DataFrame:
    """Values in the variable's own unit, possible ones alone."""
    parts = []
    for v in (*CHARTED, *LABORATORY, *PROCEDURES):
        unit = pl.col("valueuom").str.to_lowercase().str.replace_all(" ", "")
        factors = {u.lower().replace(" ", ""): f for u, f in {v.unit: 1.0, **v.factors}.items()}
        factor = unit.replace_strict(factors, default=None, return_dtype=pl.Float64)
        factor = pl.when(unit.is_null()).then(1.0).otherwise(factor)
        mine = rows.filter(pl.col("variable") == v.name)
        mine = mine.with_columns(value=pl.col("valuenum").cast(float) * factor).drop_nulls("value")
        parts.append(mine.filter(pl.col("value").is_between(*v.limits)) if v.limits else mine)
    return pl.concat(parts)


def _resolve(rows: pl.DataFrame) -> pl.DataFrame:
    """One row per sample, variable and time: the latest stored, the largest item, the largest."""
    order = pl.struct("storetime", pl.col("itemid").cast(int), "value")
    last = rows.filter(
        order.rank("ordinal").over("sample_id", "variable", "charttime")
        == pl.len().over("sample_id", "variable", "charttime")
    )
    return last.select("sample_id", "hours", "variable", "value")


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("truth") / "r"
    build(out, stays=220, seed=11)
    return out


def test_truth_is_what_the_rules_make_of_the_files(release: Path) -> None:
    files = Files(release)
    truth = {p.stem: pl.read_parquet(p) for p in (release / "truth").glob("*.parquet")}
    parts = {"events": files.events(), "images": files.images(), "notes": files.notes()}
    samples = set.intersection(*(set(p["sample_id"]) for p in parts.values()))
    assert samples == set(truth["samples"]["sample_id"])
    assert 0.7 < len(samples) / len(truth["stays"]) < 0.95
    found = {n: p.filter(pl.col("sample_id").is_in(list(samples))) for n, p in parts.items()}
    found["events_default"] = found.pop("events")
    normal = {v.name: v.normal for v in CHARTED if v.normal}
    inside = [
        (pl.col("variable") != name) | pl.col("value").is_between(*limits)
        for name, limits in normal.items()
    ]
    found["events_paper"] = found["events_default"].filter(*inside)
    found["labels_default"] = files.labels(list(samples), paper=False)
    found["labels_paper"] = files.labels(list(samples), paper=True)
    for name, frame in found.items():
        options = {"check_row_order": False, "check_column_order": False, "rel_tol": 1e-12}
        # a time of whole milliseconds is never near the middle between two such numbers of hours
        hours = [pl.col("hours").round(8)] if "hours" in frame.columns else []
        assert_frame_equal(frame.with_columns(hours), truth[name].with_columns(hours), **options)
    for rows in ("events_default", "events_paper", "images", "notes"):
        assert set(truth[rows]["sample_id"]) == samples
    decade = pl.min_horizontal(pl.col("age") // 10 * 10, 90).alias("age_decade")
    told = files.stays.with_columns(decade).select(
        pl.col("stay_id").alias("sample_id"), *DEMOGRAPHICS
    )
    told = told.filter(pl.col("sample_id").is_in(list(samples)))
    columns = truth["samples"].select("sample_id", *DEMOGRAPHICS)
    assert_frame_equal(told, columns, check_row_order=False, check_dtypes=False)


def test_labels_can_be_learned_and_not_read_off(release: Path) -> None:
    labels = pl.read_parquet(release / "truth/labels_default.parquet")
    share = dict(labels.group_by("task").agg(pl.col("label").mean()).rows())
    assert 0.07 < share["mortality"] < 0.25
    assert 0.4 < share["longstay"] < 0.7
    assert 0.05 < share["readmission"] < 0.25
    events = pl.read_parquet(release / "truth/events_default.parquet")
    names = [v.name for v in (*CHARTED, *LABORATORY)]
    means = events.filter(pl.col("variable").is_in(names)).pivot(
        "variable", index="sample_id", values="value", aggregate_function="median"
    )
    for task in ("mortality", "longstay"):
        both = labels.filter(pl.col("task") == task).join(means, on="sample_id").sort("sample_id")
        model = make_pipeline(SimpleImputer(), StandardScaler(), LogisticRegression(C=0.03))
        x, y = both.select(names).to_numpy(), both["label"].to_numpy()
        prob = cross_val_predict(model, x, y, cv=5, method="predict_proba")[:, 1]
        assert 0.6 < roc_auc_score(y, prob) < 0.95, task
