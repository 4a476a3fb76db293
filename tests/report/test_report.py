from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import polars as pl
import pytest

from adacomed.errors import InputError
from adacomed.report.report import write_report

SECTIONS = [
    "results", "paired", "curves", "calibration", "decisions", "subgroups", "robustness", "sets",
    "weights", "router-weights", "training", "patients", "flow", "encoders", "limits", "reproduce",
]  # fmt: skip
BARE = {"roc", "pr", "reliability", "probabilities", "confusion", "decision-curve"}
FIGURES = BARE | {
    "forest", "subgroup-forest", "stress", "noise", "set-coverage", "w-large", "s-weight", "logits",
    "promise", "router", "training-loss", "training-auroc", "training-weights", "data-flow",
    "patient-1", "patient-2", "patient-3", "patient-4", "patient-5",
}  # fmt: skip


class Page(HTMLParser):
    """What a reader and a browser get out of the file."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.text: dict[str, str] = {}  # section id → its text
        self.scripts: list[str] = []
        self.title = ""
        self._section, self._in = "header", ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self._in = tag
        if tag == "section":
            self._section = dict(attrs)["id"]
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag):
        self._in = ""
        if tag == "section":
            self._section = "footer"

    def handle_data(self, data):
        if self._in == "script":
            self.scripts[-1] += data
        elif self._in == "title":
            self.title += data
        elif self._in != "style":
            self.text[self._section] = self.text.get(self._section, "") + data

    def all(self, tag):
        return [attrs for name, attrs in self.tags if name == tag]

    @property
    def specs(self):
        return json.loads(self.scripts[0])


@pytest.fixture(scope="module")
def run(synthetic, tmp_path_factory) -> Path:
    return synthetic.write_run(tmp_path_factory.mktemp("reports") / "demo")


@pytest.fixture(scope="module")
def html(run) -> str:
    extra = {
        "Paper's Table 4 beside ours": pl.DataFrame(
            {"method": ["AdaCoMed", "ours"], "Auroc": [0.898, None], "n": [58, 121]}
        )
    }
    return write_report(run, extra=extra).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page(html) -> Page:
    return Page(html)


def test_every_section_and_figure_is_there(page):
    assert [a["id"] for a in page.all("section")] == SECTIONS
    assert {a["id"] for a in page.all("figure")} == FIGURES == set(page.specs)
    assert not [a for a in page.all("p") if a.get("class") == "missing" and "id" in a]


def test_plotly_accepts_every_figure(page):
    from plotly.graph_objects import Figure

    for spec in page.specs.values():
        text = re.sub(r"var\(--[a-z0-9-]+\)", "#123456", json.dumps(spec))
        Figure(json.loads(text))  # validates every property name and value


def test_nothing_is_loaded_from_outside(html, page):
    assert html.count("plotly.js v") == 1
    assert len(html.encode()) < 6_000_000
    for tag, attrs in page.tags:
        for name in ("src", "href", "data", "poster", "action"):
            assert not re.match(r"(https?:)?//", attrs.get(name) or ""), (tag, attrs)
    [policy] = [a for a in page.all("meta") if "http-equiv" in a]
    assert "default-src 'none'" in policy["content"]
    assert "@import" not in html.split("</style>")[0]


def test_the_title_says_simulated(page):
    assert page.title == "AdaCoMed on drawn numbers (simulated)"
    assert "nothing here is about patients" in page.text["header"]


def test_five_patients_are_named_by_their_sample_id_and_no_other(html, page):
    named = set(re.findall(r"SECRET-\d+", html))
    assert named == set(re.findall(r"SECRET-\d{4}", page.text["patients"]))
    assert len(named) == 5
    assert "SUBJECT-" not in html


def test_tables_and_charts_speak_to_a_screen_reader(page):
    assert len(page.all("caption")) == len(page.all("table"))
    assert all(a.get("scope") in ("row", "col") for a in page.all("th"))
    charts = [a for a in page.all("div") if a.get("class") == "chart"]
    assert len(charts) == len(FIGURES)
    assert all(a["role"] == "img" and len(a["aria-label"]) > 20 for a in charts)
    assert page.all("html")[0]["lang"] == "en"


def test_first_shown_methods(page):
    shown = {
        trace["meta"]["legend"].split(" · ")[0]
        for trace in page.specs["roc"]["data"]
        if trace["visible"] is True and "legend" in trace["meta"]
    }
    assert {"adacomed", "small", "large-ensemble", "chance"} < shown
    assert len(shown) == 5  # and the best rival
    assert "bayes" not in shown


def test_numbers_are_those_of_sklearn(run, page):
    from sklearn.metrics import average_precision_score, roc_auc_score

    frame = pl.read_parquet(run / "predictions.parquet").filter(pl.col("split") == "test")
    for method in frame["method"].unique():
        rows = frame.filter(pl.col("method") == method)
        for score in (roc_auc_score, average_precision_score):
            value = f"{score(rows['label'], rows['prob']):.3f}".removeprefix("0")
            assert value in page.text["results"], (method, score.__name__)
    rows = frame.filter(pl.col("method") == "adacomed")
    assert f"{len(rows)} test patients, {rows['label'].sum()} of them" in page.text["header"]
    prevalence = f"{rows['label'].mean():.3f}".removeprefix("0")
    assert f"prevalence {prevalence}" in json.dumps(page.specs["pr"])


def test_router_means_and_expert_names(run, page, synthetic):
    frame = pl.read_parquet(run / "predictions.parquet").filter(
        (pl.col("split") == "test") & (pl.col("method") == "adacomed")
    )
    spec = page.specs["router"]["data"][0]
    assert spec["x"] == synthetic.experts
    row = next(i for i, name in enumerate(spec["y"]) if name.startswith("clinical + wsi<br>"))
    rows = frame.filter(pl.col("present").list.sort().list.join(",") == "clinical,wsi")
    expected = sum(rows["router"].to_list()[i][1] for i in range(len(rows))) / len(rows)
    assert spec["z"][row][1] == pytest.approx(expected, abs=1e-3)


def test_extra_tables_and_reproducibility(page):
    assert "Paper's Table 4 beside ours" in page.text["results"]
    assert ".898" in page.text["results"]
    assert "preset: default" in page.text["reproduce"]
    assert "2.13.0" in page.text["reproduce"]
    assert re.search(r"[0-9a-f]{64}", page.text["reproduce"])
    assert "research use only" in page.text["footer"]


def test_a_hostile_method_name_stays_text(synthetic, tmp_path):
    evil = '<script>alert("x")</script><a href="http://x.example">'
    frame = synthetic.predictions(methods=("adacomed", "small", evil))
    html = write_report(synthetic.write_run(tmp_path / "evil", frame, everything=False)).read_text()
    assert "<script>alert" not in html
    page = Page(html)
    assert len(page.scripts) == 3
    assert not [a for a in page.all("a") if "x.example" in (a.get("href") or "")]
    assert evil in page.text["results"]
    names = [trace.get("name", "") for trace in page.specs["roc"]["data"]]
    assert any("&lt;script&gt;" in name for name in names)  # plotly reads tags in names


def test_predictions_alone_are_enough(synthetic, tmp_path):
    run = synthetic.write_run(
        tmp_path / "bare", synthetic.predictions(methods=("adacomed", "small")), everything=False
    )
    page = Page(write_report(run).read_text())
    assert page.title == "AdaCoMed report: bare"
    assert "no history.parquet" in page.text["training"]
    assert "Not in the folder: config.yaml and environment.json" in page.text["reproduce"]
    assert page.specs["router"]["data"][0]["x"][0] == "expert 1"
    lacking = ("training", "patient-", "stress", "noise", "data-flow")
    assert set(page.specs) == {f for f in FIGURES if not f.startswith(lacking)}


def test_one_method_without_branches(synthetic, tmp_path):
    optional = ("router", "present", "w_large", "prediction_set", "group_sex", "group_age")
    frame = synthetic.predictions(methods=("logistic",)).drop(optional)
    page = Page(
        write_report(synthetic.write_run(tmp_path / "one", frame, everything=False)).read_text()
    )
    assert "only one method" in page.text["paired"]
    assert "only a fused model has them" in page.text["weights"]
    assert "no router weights" in page.text["router-weights"]
    assert "do not say which modalities" in page.text["subgroups"]
    assert "no prediction sets" in page.text["sets"]
    assert "no stress.parquet" in page.text["robustness"]
    assert "no flow.json" in page.text["flow"]
    assert "does not say which modalities" in page.text["encoders"]
    assert set(page.specs) == BARE
    assert "simulated" not in page.title


def test_no_labelled_test_patient(synthetic, tmp_path):
    frame = synthetic.predictions(n=30).with_columns(label=pl.lit(None, dtype=pl.Int64))
    page = Page(
        write_report(synthetic.write_run(tmp_path / "new", frame, everything=False)).read_text()
    )
    assert "no labelled test patients" in page.text["header"]
    assert not {"roc", "pr", "reliability"} & set(page.specs)


def test_one_class_only(synthetic, tmp_path):
    frame = synthetic.predictions(n=30, methods=("adacomed", "small")).with_columns(label=pl.lit(0))
    page = Page(
        write_report(synthetic.write_run(tmp_path / "flat", frame, everything=False)).read_text()
    )
    assert "AUROC is not defined" in page.text["header"]
    assert "roc" not in page.specs


def test_several_classes(synthetic, tmp_path):
    run = synthetic.write_run(tmp_path / "stage", synthetic.multiclass(), everything=False)
    page = Page(write_report(run).read_text())
    legends = [t["meta"].get("legend", "") for t in page.specs["roc"]["data"]]
    for k in range(3):
        assert any(name.startswith(f"adacomed, class {k}") for name in legends)


def test_repeats_count_a_patient_once(synthetic, tmp_path):
    frame = synthetic.predictions(methods=("adacomed", "small"), repeats=3)
    run = synthetic.write_run(tmp_path / "cv", frame, everything=False)
    page = Page(write_report(run).read_text())
    patients = frame.filter(pl.col("split") == "test")["sample_id"].n_unique()
    assert f"On {patients} test patients" in page.text["header"]
    assert sum(page.specs["w-large"]["data"][0]["y"]) == patients
    assert "pool every repeat" in page.text["curves"]


def test_random_weights_are_in_the_title(synthetic, tmp_path):
    run = synthetic.write_run(
        tmp_path / "tiny",
        synthetic.predictions(n=60, methods=("adacomed", "bayes")),
        everything=False,
    )
    (run / "metrics.json").write_text('{"random_weights": true}')
    page = Page(write_report(run, title="My cohort").read_text())
    assert page.title == "My cohort (simulated, random weights)"


def test_a_comparison_folder_lends_from_its_run(synthetic, tmp_path):
    frame = synthetic.predictions(methods=("adacomed", "small"))
    folder = synthetic.write_run(tmp_path / "demo", frame, everything=False)
    synthetic.write_run(folder / "run", synthetic.predictions(methods=("adacomed",)))
    page = Page(write_report(folder, tmp_path / "out" / "page.html").read_text())
    assert "training-loss" in page.specs
    assert "forest" in page.specs
    assert not list((tmp_path / "out").glob(".report-*"))


@pytest.mark.parametrize(
    ("paired", "table_says", "summary_says"),
    [
        ((0.02, 0.01, 0.03), "★", "is above it by"),
        ((0.02, -0.01, 0.05), "no clear", "no clear winner"),
        ((-0.02, -0.03, -0.01), "above", "is below it"),
    ],
)
def test_a_win_is_claimed_only_when_the_interval_says_so(
    synthetic, tmp_path, paired, table_says, summary_says
):
    run = synthetic.write_run(
        tmp_path / "x", synthetic.predictions(methods=("adacomed", "small")), everything=False
    )
    value, low, high = paired
    frame = pl.DataFrame({"method": ["small"], "difference": [value], "low": [low], "high": [high]})
    page = Page(write_report(run, paired=frame).read_text())
    assert table_says in page.text["results"]
    assert summary_says in page.text["header"]
    assert ("★" in page.text["results"]) == (low > 0)


def test_errors_name_the_folder(synthetic, tmp_path):
    synthetic.write_run(tmp_path / "demo", synthetic.predictions(n=30), everything=False)
    with pytest.raises(InputError, match="did you mean 'demo'"):
        write_report(tmp_path / "dmo")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"no predictions\.parquet"):
        write_report(tmp_path / "empty")
    (tmp_path / "empty" / "predictions.parquet").write_bytes(b"junk")
    with pytest.raises(InputError, match="not a readable parquet"):
        write_report(tmp_path / "empty")
    frame = synthetic.predictions(n=12).drop("prob")
    with pytest.raises(InputError, match="'prob'"):
        write_report(synthetic.write_run(tmp_path / "lacks", frame, everything=False))


def test_a_rival_tested_on_other_patients_is_left_out_of_the_pairs(synthetic, tmp_path):
    frame = synthetic.predictions(methods=("adacomed", "small", "forest"))
    frame = frame.filter((pl.col("method") != "forest") | (pl.col("sample_id") > "SECRET-0020"))
    run = synthetic.write_run(tmp_path / "uneven", frame, everything=False)
    page = Page(write_report(run).read_text())
    assert page.specs["forest"]["data"][0]["y"] == ["small"]
