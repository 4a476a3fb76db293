from __future__ import annotations

import hashlib
from pathlib import Path

import polars as pl
import pytest

from adacomed.encoders.prompt import PROMPTS, PromptTemplate, load_template, render
from adacomed.errors import InputError

MMIST = Path(__file__).parents[2].parent / "shared/data/mmist-ccrcc/clinical+genomic_split.csv"
NOT_INPUTS = ["case_id", "vital_status_12", "Split"]
needs_mmist = pytest.mark.skipif(not MMIST.exists(), reason=f"needs the folder {MMIST.parent}")
TABLE = pl.DataFrame(
    {
        "age": [61.0, float("nan"), None, 40.5],
        "sex": ["Female", None, "  ", "Male"],
        "smoker": [True, None, None, False],
        "died": [0, 1, 0, 1],
    }
)
INPUTS = TABLE.drop("died")
GENERIC = PROMPTS["generic-v1"]


def test_generic() -> None:
    assert render(INPUTS, GENERIC, forbidden=["died"]) == [
        "age: 61; sex: Female; smoker: yes",
        None,
        None,
        "age: 40.5; sex: Male; smoker: no",
    ]


def test_label_in_the_table_is_refused() -> None:
    with pytest.raises(InputError, match="died holds a label"):
        render(TABLE, GENERIC, forbidden=["died"])


def test_label_in_the_template_is_refused() -> None:
    template = PromptTemplate("mine", "{age} {died}")
    with pytest.raises(InputError, match="asks for 'died', which holds a label"):
        render(INPUTS, template, forbidden=["died"])


def test_users_own_file(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("{{A}} {sex} patient, {age} years.\n")
    template = load_template("mine.txt", tmp_path)
    assert render(INPUTS, template, forbidden=[]) == [
        "{A} Female patient, 61 years.",
        None,
        None,
        "{A} Male patient, 40.5 years.",
    ]
    half = INPUTS[:1].with_columns(age=pl.lit(None))
    assert render(half, template, forbidden=[]) == ["{A} Female patient, not recorded years."]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{age.__class__}", "no column 'age.__class__'"),
        ("{sex[0]}", r"no column 'sex\[0\]'"),
        ("{0}", "no column '0'"),
        ("{}", "no column ''"),
        ("{agee}", "did you mean 'age'"),
        ("{age:>1000000000}", "has a format"),
        ("{age!r}", "has a format"),
        ("{age", "a brace is doubled"),
        ("no placeholder", "has no {column}"),
    ],
)
def test_a_template_is_only_column_names(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        render(INPUTS, PromptTemplate("mine", text), forbidden=[])


def test_a_value_is_never_read_as_a_template() -> None:
    table = pl.DataFrame({"note": ["{age} {note.__class__}"]})
    assert render(table, PromptTemplate("mine", "{note}!"), forbidden=[]) == [
        "{age} {note.__class__}!"
    ]


def test_unknown_template(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="did you mean 'generic-v1'"):
        load_template("generic-v2", tmp_path)
    (tmp_path / "latin.txt").write_bytes("{âge}".encode("latin-1"))
    with pytest.raises(InputError, match="must be UTF-8"):
        load_template("latin.txt", tmp_path)


@needs_mmist
def test_mmist_first_patient() -> None:
    table = pl.read_csv(MMIST).drop(NOT_INPUTS)
    texts = render(table, PROMPTS["mmist-ccrcc-v1"], forbidden=["vital_status_12"])
    assert texts[0] == (
        "Patient with clear cell renal cell carcinoma. Gender code 1; age at diagnosis code 6; "
        "race White; history of cancer code not recorded. Tumour grade code 3; "
        "pathological T stage code 7; pathological N stage code 0; clinical M stage code 1; "
        "pathological M stage code 0; overall pathological stage code 3. "
        "Mutation codes: VHL 1, PBMR1 1, TTN 0."
    )


@needs_mmist
def test_mmist_every_patient_and_every_column() -> None:
    raw = pl.read_csv(MMIST)
    table, template = raw.drop(NOT_INPUTS), PROMPTS["mmist-ccrcc-v1"]
    texts = render(table, template, forbidden=["vital_status_12"])
    assert len(texts) == 618
    assert all(text is not None and "-1" not in text and "nan" not in text for text in texts)
    # hand-counted in the csv: −1 or empty
    for phrase, count in [("history of cancer code", 545), ("clinical M stage code", 494)]:
        assert sum(f"{phrase} not recorded" in str(text) for text in texts) == count
    assert sum("race White" in str(text) for text in texts) == 553
    for column in table.columns:  # each of the 17 reaches the text
        changed = table.with_columns((1 - pl.col(column).clip(0, 1).fill_null(0)).alias(column))
        assert render(changed, template, forbidden=[]) != texts, column
    # the label does not: it can be anything
    with pytest.raises(InputError, match="vital_status_12 holds a label"):
        render(raw.drop("case_id", "Split"), template, forbidden=["vital_status_12"])


def test_published_templates_do_not_change() -> None:
    text = str(PROMPTS["mmist-ccrcc-v1"].text)
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == "474ad193993afcd3", (
        "a published template changed: make it mmist-ccrcc-v2"
    )
