"""Static codes of a MEDS dataset as a table: one row per sample, one column per kind of code."""

from __future__ import annotations

import polars as pl

from adacomed.cohort.meds import AT, DAYS, SAMPLE
from adacomed.cohort.meds_files import BIRTH, CODE, NUMBER, SUBJECT, TEXT
from adacomed.schema import TRAIN, Samples

AGE = "age"  # column: years from MEDS_BIRTH to the prediction time
MOST = 20  # values of a category; rarer ones in training are OTHER
OTHER, YES = "other", "yes"
SEPARATOR = "//"  # RACE//WHITE is the value WHITE of RACE


def static_table(
    facts: pl.DataFrame, samples: pl.DataFrame, share: float
) -> tuple[pl.DataFrame, list[str], list[str]]:
    """The static table of the samples.

    RACE//WHITE becomes WHITE in the column RACE, AGE_DECADE with a number the number, one with a
    text the text, any other code yes. Of several numbers of a code the last counts; several texts
    are joined. Columns that few training samples have are left out.

    Args:
        facts: as of `meds.find_known`.
        samples: sample_id, subject_id, prediction_time, split.
        share: of the training samples, below which a column is left out.
    Returns:
        The samples with the columns; names of the numbers; names of the categories.
    """
    facts = facts.filter(pl.col(CODE) != BIRTH).with_columns(name=_name())
    number = facts.filter(pl.col(NUMBER).is_finite())
    number = number.group_by(SUBJECT, "name", maintain_order=True).agg(pl.col(NUMBER).last())
    words = facts.filter(pl.col(NUMBER).is_null()).with_columns(value=_value())
    joined = pl.col("value").unique().sort().str.join(" + ")
    words = words.group_by(SUBJECT, "name").agg(joined)
    both = set(number["name"]) & set(words["name"])
    taken = {*samples.columns, AGE}
    table = samples
    numbers: list[str] = []
    categories: list[str] = []
    for rows, value, names in ((number, NUMBER, numbers), (words, "value", categories)):
        for name in rows["name"].unique().sort():
            column = f"{name} (static)" if name in taken else str(name)
            column += " (text)" if name in both and value == "value" else ""
            mine = rows.filter(pl.col("name") == name).select(SUBJECT, pl.col(value).alias(column))
            wide = table.join(mine, on=SUBJECT, how="left", maintain_order="left")
            if wide[column].drop_nulls().len() and _known(wide, column) >= share:
                table = wide
                names.append(column)
    return _few_values(table, categories), numbers, categories


def with_age(facts: pl.DataFrame, samples: pl.DataFrame) -> tuple[pl.DataFrame, list[str]]:
    """The samples with their age in years, where the dataset tells a birth; and its column."""
    births = (
        facts.filter(pl.col("birth").is_not_null()).group_by(SUBJECT).agg(pl.col("birth").min())
    )
    if births.is_empty():
        return samples, []
    joined = samples.join(births, on=SUBJECT, how="left", maintain_order="left")
    years = (pl.col(AT) - pl.col("birth")).dt.total_microseconds() / (8.64e10 * DAYS)
    age = pl.when(years >= 0).then(years).alias(AGE)
    return joined.with_columns(age).drop("birth"), [AGE]


def _name() -> pl.Expr:
    """Column of a code: what comes before its first separator, of a number all of it."""
    return (
        pl.when(pl.col(NUMBER).is_null() & pl.col(TEXT).is_null())
        .then(pl.col(CODE).str.split(SEPARATOR).list.first())
        .otherwise(CODE)
    )


def _value() -> pl.Expr:
    parts = pl.col(CODE).str.split(SEPARATOR)
    after = parts.list.slice(1).list.join(SEPARATOR)
    return pl.coalesce(TEXT, pl.when(after != "").then(after), pl.lit(YES))


def _trained() -> pl.Expr:
    return pl.col(Samples.SPLIT).fill_null(TRAIN) == TRAIN


def _known(table: pl.DataFrame, column: str) -> float:
    """Share of the training samples that have a column."""
    mine = table.filter(_trained())[column]
    return (len(mine) - mine.null_count()) / max(len(mine), 1)


def _few_values(table: pl.DataFrame, categories: list[str]) -> pl.DataFrame:
    """At most MOST values of each category, the most frequent of training, and OTHER."""
    for column in categories:
        if table[column].n_unique() <= MOST:
            continue
        seen = table.filter(_trained())[column].drop_nulls().value_counts()
        most = seen.sort(["count", column], descending=[True, False])[column].head(MOST - 1)
        keep = pl.col(column).is_in(most.implode()) | pl.col(column).is_null()
        table = table.with_columns(
            pl.when(keep).then(column).otherwise(pl.lit(OTHER)).alias(column)
        )
    return table.sort(SAMPLE)
