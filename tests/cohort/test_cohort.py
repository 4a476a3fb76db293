from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from adacomed.cohort.cohort import load_cohort
from adacomed.errors import InputError

Make = Callable[..., Path]
DATA = Path(__file__).parents[2] / ".." / "shared" / "data"
EMBEDDING = {"wsi": {"kind": "embedding", "root": "wsi"}}


def frame(n: int = 40, **columns: Any) -> pl.DataFrame:
    base = {
        "patient": [f"{k:03d}" for k in range(n)],
        "age": [50.0 + k for k in range(n)],
        "sex": (["F", "M"] * n)[:n],
        "went_icu": (["Y", "N", "N", "Y"] * n)[:n],
    }
    return pl.DataFrame(base | columns)


def test_reads_a_table_by_its_yaml_or_folder(make: Make) -> None:
    file = make(frame())
    for path in (file, file.parent):
        cohort = load_cohort(path)
        assert cohort.samples["sample_id"].to_list()[7] == "007"  # not the number 7
        assert cohort.samples["split"].null_count() == len(cohort) == 40
        assert cohort.classes("icu") == ("N", "Y")
        assert cohort.target("icu")[:4].tolist() == [1, 0, 0, 1]
        assert cohort.target("icu").dtype == np.int64
        table = cohort.table("clinical")
        assert table.schema == {"age": pl.Float64, "sex": pl.String}
    assert cohort.bayes_prob("icu") is None


@pytest.mark.parametrize(
    ("values", "positive"),
    [
        ([1, 0], "1"),
        ([1.0, 0.0], 1),
        (["1", "0"], 1.0),
        ([True, False], True),
        ([True, False], 1),
        ([True, False], "true"),
        (["yes", "no"], True),  # PyYAML reads an unquoted yes as true
        (["Yes", "No"], True),
        (["dead", "alive"], "dead"),
        ([2, 1], 2),
    ],
)
def test_positive_compares_sensibly(make: Make, values: list[Any], positive: Any) -> None:
    file = make(
        frame(went_icu=values * 20), tasks={"icu": {"column": "went_icu", "positive": positive}}
    )
    assert load_cohort(file).target("icu").tolist() == [1, 0] * 20


def test_negative_leaves_the_rest_unlabelled(make: Make) -> None:
    labels = ["dead", "alive", "unknown", None] * 10
    task = {"column": "went_icu", "positive": "dead", "negative": "alive"}
    cohort = load_cohort(make(frame(went_icu=labels), tasks={"icu": task}))
    assert cohort.target("icu").tolist() == [1, 0, -1, -1] * 10
    del task["negative"]
    cohort = load_cohort(make(frame(went_icu=labels), tasks={"icu": task}))
    assert cohort.target("icu").tolist() == [1, 0, 0, -1] * 10
    assert cohort.classes("icu") == ("not dead", "dead")


def test_several_classes_keep_the_order_of_the_card(make: Make) -> None:
    task = {"column": "went_icu", "classes": ["home", "ward", "icu"]}
    cohort = load_cohort(
        make(frame(went_icu=["icu", "home", "ward", None] * 10), tasks={"t": task})
    )
    assert cohort.target("t").tolist() == [2, 0, 1, -1] * 10
    assert cohort.classes("t") == ("home", "ward", "icu")


def test_zero_one_needs_no_more(make: Make) -> None:
    file = make(frame(went_icu=[0, 1] * 20), tasks={"t": {"column": "went_icu"}})
    assert load_cohort(file).target("t").tolist() == [0, 1] * 20
    file = make(frame(went_icu=["a", "b"] * 20), tasks={"t": {"column": "went_icu"}})
    with pytest.raises(InputError, match="positive: VALUE"):
        load_cohort(file)


def test_typed_columns(make: Make) -> None:
    columns = {"stage": [1, 2, -1, None] * 10, "score": [1.5, -1, 2, None] * 10}
    part = {"kind": "tabular", "columns": list(columns), "categorical": ["stage"], "missing": [-1]}
    table = load_cohort(make(frame(**columns), modalities={"c": part})).table("c")
    assert table["stage"].to_list() == ["1", "2", None, None] * 10
    assert table["score"].to_list() == [1.5, None, 2.0, None] * 10


@pytest.mark.parametrize("codes", [[-1, -9], ["-1", "-9.0"], [-1.0, "unk", -9]])
def test_missing_codes_compare_as_numbers(make: Make, codes: list[Any]) -> None:
    part = {"kind": "tabular", "columns": ["x"], "missing": codes}
    cells = ["-1", "3", "-9.0", "4"] if "unk" not in codes else ["-1", "3", "unk", "4"]
    table = load_cohort(make(frame(x=cells * 10), modalities={"c": part})).table("c")
    assert table["x"].to_list() == [None, 3.0, None, 4.0] * 10


def test_text_in_a_numeric_column_names_row_and_patient_not_the_value(make: Make) -> None:
    ages = ["61", "70", "secret", "55"] + ["60"] * 36
    with pytest.raises(InputError) as error:
        load_cohort(make(frame(age=ages))).table("clinical")
    assert "'age'" in str(error.value)
    assert "row 3 (patient 002)" in str(error.value)
    assert "missing:" in str(error.value)
    assert "secret" not in str(error.value)


def test_free_text_is_no_category(make: Make) -> None:
    with pytest.raises(InputError, match="kind: text"):
        load_cohort(make(frame(sex=[f"patient number {k}" for k in range(40)]))).table("clinical")


def test_take_keeps_types_and_order(make: Make) -> None:
    cohort = load_cohort(make(frame()))
    mask = cohort.target("icu") == 1
    some = cohort.take(mask).take(np.array([3, 0]))
    rows = np.flatnonzero(mask)[[3, 0]]
    assert some.samples["sample_id"].to_list() == [f"{r:03d}" for r in rows]
    assert some.target("icu").tolist() == [1, 1]
    assert some.table("clinical")["age"].to_list() == [50.0 + r for r in rows]


def test_task_names(make: Make) -> None:
    one = load_cohort(make(frame()))
    assert one.task_name(None) == "icu"
    with pytest.raises(InputError, match="did you mean 'icu'"):
        one.target("icuu")
    task = {"column": "went_icu", "positive": "Y"}
    with pytest.raises(InputError, match="a, b"):
        load_cohort(make(frame(), tasks={"a": task, "b": task})).task_name(None)


def test_a_table_of_its_own_is_matched_by_sample(make: Make, tmp_path: Path) -> None:
    pl.DataFrame({"patient": ["003", "001"], "lab": [3.0, 1.0]}).write_csv(tmp_path / "labs.csv")
    part = {"kind": "tabular", "columns": ["lab"], "table": "labs.csv"}
    table = load_cohort(make(frame(), modalities={"labs": part})).table("labs")
    assert table["lab"].to_list() == [None, 1.0, None, 3.0] + [None] * 36


def test_new_patients_need_no_labels(make: Make) -> None:
    file = make(frame(3).drop("went_icu"), groups=["ward"])
    with pytest.raises(InputError, match="no column 'went_icu'"):
        load_cohort(file)
    cohort = load_cohort(file, labels=False)
    assert cohort.target("icu").tolist() == [-1, -1, -1]
    assert cohort.table("clinical").shape == (3, 2)


WRONG: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("4 labelled patients", {"n": 4}, {}),
    ("one class", {"went_icu": ["Y"] * 40}, {}),
    ("'y'.*holds 'N', 'Y'", {}, {"tasks": {"icu": {"column": "went_icu", "positive": "y"}}}),
    ("did you mean 'went_icu'", {}, {"tasks": {"icu": {"column": "went_ic", "positive": "Y"}}}),
    (
        "is the label of task",
        {},
        {"modalities": {"c": {"kind": "tabular", "columns": ["went_icu"]}}},
    ),
    ("is the patient id", {}, {"modalities": {"c": {"kind": "tabular", "columns": ["patient"]}}}),
    (
        "'age' is listed twice",
        {},
        {"modalities": {"c": {"kind": "tabular", "columns": ["age"] * 2}}},
    ),
    ("001 occurs twice", {"patient": ["001"] * 2 + [f"p{k}" for k in range(38)]}, {}),
    ("no 'patient' in row 1", {"patient": [None] + [f"p{k}" for k in range(39)]}, {}),
    ("unknown key 'subjct'", {}, {"subjct": "patient"}),
    ("no such table", {}, {"table": "other.csv"}),
    ("groups.*no column 'sexe'; did you mean 'sex'", {}, {"groups": ["age", "sexe"]}),
    ("names the split 'tarin'", {"part": ["tarin", "test"] * 20}, {"split": "part"}),
]


@pytest.mark.parametrize(("message", "columns", "card"), WRONG)
def test_wrong_input_is_one_sentence(
    make: Make, message: str, columns: dict[str, Any], card: dict[str, Any]
) -> None:
    with pytest.raises(InputError, match=message):
        load_cohort(make(frame(**columns), **card))


def test_many_label_codes_are_counted_not_listed(make: Make) -> None:
    task = {"t": {"column": "code", "positive": 999}}
    with pytest.raises(InputError, match="40 distinct values") as error:
        load_cohort(make(frame(code=[50 + k for k in range(40)]), tasks=task))
    assert "50" not in str(error.value)


# ---- vectors ------------------------------------------------------------------------------------
IDS = ["C3L-1", "C3L-10", "C3L-1-2"] + [f"P{k}" for k in range(37)]


def test_ids_that_begin_alike_are_told_apart(make: Make, tmp_path: Path) -> None:
    (tmp_path / "wsi").mkdir()
    for name, value in {"C3L-1-7": 1.0, "C3L-1-8": 3.0, "C3L-10": 10.0, "C3L-1-2-1": 12.0}.items():
        np.savez(tmp_path / "wsi" / f"{name}.npz", np.full((1, 1, 5, 1), value))
    cohort = load_cohort(make(frame(patient=IDS), modalities=EMBEDDING))
    vectors = cohort.vectors("wsi")
    assert vectors.shape == (40, 5)
    assert vectors.dtype == np.float32
    assert vectors[:3, 0].tolist() == [2.0, 10.0, 12.0]
    assert np.isnan(vectors[3:]).all()
    alone = cohort.take(np.array([1, 0]))  # C3L-1-2 is still not an item of C3L-1
    np.testing.assert_array_equal(alone.vectors("wsi"), vectors[[1, 0]])


def test_a_parquet_gives_the_same_means(make: Make, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    who = rng.choice(IDS, 100)
    values = rng.normal(size=(100, 6)).astype(np.float32)
    pl.DataFrame({"sample_id": who, "vector": values.tolist()}).write_parquet(
        tmp_path / "v.parquet"
    )
    part = {"wsi": {"kind": "embedding", "root": "v.parquet"}}
    vectors = load_cohort(make(frame(patient=IDS), modalities=part)).vectors("wsi")
    for row, name in enumerate(IDS):
        if name in who:
            np.testing.assert_allclose(vectors[row], values[who == name].mean(axis=0), atol=1e-6)
        else:
            assert np.isnan(vectors[row]).all()


def test_files_named_by_a_column(make: Make, tmp_path: Path) -> None:
    (tmp_path / "wsi").mkdir()
    np.save(tmp_path / "wsi" / "a.npy", np.arange(3.0))
    part = {"wsi": {"kind": "embedding", "root": "wsi", "column": "file"}}
    cohort = load_cohort(make(frame(file=["a.npy"] + [None] * 39), modalities=part))
    assert cohort.vectors("wsi")[0].tolist() == [0.0, 1.0, 2.0]
    cohort = load_cohort(make(frame(file=["b.npy"] + [None] * 39), modalities=part))
    with pytest.raises(InputError, match=r"b\.npy: no such file"):
        cohort.vectors("wsi")


def test_wrong_vectors_are_named(make: Make, tmp_path: Path) -> None:
    folder = tmp_path / "wsi"
    folder.mkdir()
    cohort = load_cohort(make(frame(), modalities=EMBEDDING))
    with pytest.raises(InputError, match="no vector in"):
        cohort.vectors("wsi")
    assert load_cohort(make(frame(), modalities=EMBEDDING), labels=False).vectors("wsi").shape == (
        40,
        0,
    )
    np.save(folder / "000.npy", np.zeros(4))
    np.save(folder / "001.npy", np.zeros(4))
    bad = folder / "002.npz"
    wrong: dict[str, Callable[[], object]] = {
        r"002\.npz: a vector of width 5, the others have 4": lambda: np.savez(bad, np.zeros(5)),
        r"found 2: x, y": lambda: np.savez(bad, x=np.zeros(4), y=np.zeros(4)),
        r"002\.npz: not a readable vector": lambda: bad.write_bytes(b"PK\x03\x04 broken"),
        r"shape \(2, 4\)": lambda: np.savez(bad, np.zeros((2, 4))),
        r"not finite": lambda: np.savez(bad, np.full(4, np.nan)),
        r"not a readable vector \(ValueError": lambda: np.savez(bad, np.array([{}], dtype=object)),
    }
    for message, write in wrong.items():
        write()
        with pytest.raises(InputError, match=message):
            cohort.vectors("wsi")


# ---- real data ----------------------------------------------------------------------------------
def need(folder: str) -> Path:
    if not (DATA / folder).is_dir():
        pytest.skip(f"needs ../shared/data/{folder}")
    return (DATA / folder).resolve()


def test_icu_demo_with_one_yaml(make: Make) -> None:
    data = need("icu-demo")
    static = pl.read_parquet(data / "sta.parquet")
    stays = static.join(pl.read_parquet(data / "outc.parquet"), on="stay_id")
    clinical = {"kind": "tabular", "columns": ["age", "sex", "height", "weight"]}
    file = make(
        stays,
        subject="stay_id",
        tasks={"d": {"column": "label"}},
        modalities={"clinical": clinical},
    )
    cohort = load_cohort(file)
    assert (len(cohort), cohort.target("d").sum()) == (1367, 70)
    oracle = stays["weight"].to_numpy()
    np.testing.assert_array_equal(cohort.table("clinical")["weight"].to_numpy(), oracle)


def test_covid_cxr_has_several_images_a_patient(make: Make) -> None:
    data = need("covid-cxr")
    table = pl.read_csv(data / "metadata_open.csv", infer_schema=False).with_row_index("row")
    parts = {
        "xray": {"kind": "image", "column": "image_file", "root": str(data / "images")},
        "note": {"kind": "text", "column": "clinical_notes"},
        "clinical": {"kind": "tabular", "columns": ["age", "sex", "temperature"]},
    }
    cohort = load_cohort(make(table, subject="patientid", sample="row", modalities=parts))
    assert cohort.samples["subject_id"].n_unique() == 158
    assert np.unique(cohort.target("icu"), return_counts=True)[1].tolist() == [107, 67, 112]
    assert sum(len(notes) for notes in cohort.cells("note")) == 190
    with pytest.raises(InputError, match="adacomed embed"):
        cohort.vectors("xray")
