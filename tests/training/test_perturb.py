"""The same patients with less: absent is absent, noise is a patient's own, nothing else moves."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from adacomed.training.perturb import Spread, left, modalities, noisy, subsets, without
from adacomed.training.raw import RawSeries

from .conftest import make_inputs

SERIES = RawSeries(
    names=("hr",),
    start=np.minimum(np.arange(121), 60),  # the first 60 of 120 patients have one value each
    hours=np.zeros(60, np.float32),
    variable=np.zeros(60, np.int64),
    value=np.ones(60, np.float32),
)


def test_subsets_are_all_of_them_from_none_to_all():
    found = list(subsets(["a", "b", "c"]))
    assert len(set(found)) == 8
    assert (found[0], found[-1]) == ((), ("a", "b", "c"))
    assert [len(s) for s in found] == sorted(len(s) for s in found)
    assert list(subsets([])) == [()]


def test_what_is_taken_away_is_absent_and_the_rest_is_untouched(inputs):
    inputs = replace(inputs, raw={"vitals": SERIES})
    assert modalities(inputs) == ["a", "b", "clinical", "vitals"]
    less = without(inputs, ["a", "clinical", "vitals"])
    assert np.isnan(less.vectors["a"]).all()
    assert less.vectors["a"].shape == inputs.vectors["a"].shape
    assert np.array_equal(less.vectors["b"], inputs.vectors["b"], equal_nan=True)
    assert less.tables["clinical"].schema == inputs.tables["clinical"].schema
    assert less.tables["clinical"].null_count().row(0) == (120, 120)
    assert not less.raw
    assert np.array_equal(less.sample_id, inputs.sample_id)
    assert np.array_equal(less.target, inputs.target)
    assert not np.isnan(inputs.vectors["a"]).any()  # the patients themselves stay as they are
    assert without(inputs, []).fingerprint() == inputs.fingerprint()


def test_a_table_that_is_its_own_vector_goes_as_both(inputs):
    own = np.zeros((120, 1), np.float32)
    both = replace(inputs, vectors={**inputs.vectors, "clinical": own}, own=["clinical"])
    less = without(both, ["clinical"])
    assert np.isnan(less.vectors["clinical"]).all()
    assert less.tables["clinical"].null_count().row(0) == (120, 120)


def test_what_is_left_counts_tables_and_raw_inputs(inputs):
    table = inputs.tables["clinical"].with_columns(
        pl.when(pl.int_range(pl.len()) == 70).then(None).otherwise(pl.all()).name.keep()
    )
    inputs = replace(inputs, tables={"clinical": table}, raw={"vitals": SERIES})
    has = left(inputs)
    b = ~np.isnan(inputs.vectors["b"]).any(axis=1)
    assert [("b" in row) for row in has] == b.tolist()
    assert [i for i, row in enumerate(has) if "clinical" not in row] == [70]
    assert [i for i, row in enumerate(has) if "vitals" in row] == list(range(60))
    assert left(without(inputs, modalities(inputs))) == [[]] * 120


def test_spread_is_the_deviation_of_who_has_the_input(inputs):
    spread = Spread.of(inputs)
    b = inputs.vectors["b"].astype(np.float64)
    assert spread.vectors["b"] == pytest.approx(np.nanstd(b, axis=0))
    age = inputs.tables["clinical"]["age"].drop_nulls().to_numpy()
    assert spread.tables["clinical"] == {"age": pytest.approx(age.std())}  # a ward has none
    nobody = Spread.of(without(inputs, ["a", "clinical"]))
    assert not nobody.vectors["a"].any()
    assert nobody.tables["clinical"] == {"age": 0.0}


@pytest.mark.parametrize("amount", [0.5, 2.0])
def test_noise_is_in_training_deviations_and_leaves_what_is_missing(amount):
    inputs = make_inputs(2000)
    spread = Spread.of(inputs)
    worse = noisy(inputs, amount, spread)
    for name, x in inputs.vectors.items():
        added = (worse.vectors[name] - x) / spread.vectors[name]
        assert np.array_equal(np.isnan(worse.vectors[name]), np.isnan(x))
        assert np.nanstd(added) == pytest.approx(amount, rel=0.05)
        assert np.nanmean(added) == pytest.approx(0, abs=0.05 * amount)
    before, after = inputs.tables["clinical"], worse.tables["clinical"]
    assert after["ward"].equals(before["ward"])
    assert after["age"].null_count() == before["age"].null_count()
    moved = (after["age"] - before["age"]) / spread.tables["clinical"]["age"]
    assert moved.std() == pytest.approx(amount, rel=0.05)


def test_a_patients_noise_is_the_patients_own(inputs):
    """In any company and order, and half as much is half as far; modalities differ."""
    spread = Spread.of(inputs)
    whole = noisy(inputs, 1.0, spread)
    rows = np.array([7, 3, 90])
    few = noisy(inputs.take(rows), 1.0, spread)
    assert np.array_equal(few.vectors["a"], whole.vectors["a"][rows])
    assert few.tables["clinical"].equals(whole.tables["clinical"][rows])
    half = noisy(inputs, 0.5, spread)
    full, some = (x.vectors["a"] - inputs.vectors["a"] for x in (whole, half))
    assert some * 2 == pytest.approx(full, abs=1e-5)
    standard = [(whole.vectors[m] - inputs.vectors[m]) / spread.vectors[m] for m in ("a", "b")]
    here = ~np.isnan(standard[1]).any(axis=1)
    assert abs(np.corrcoef(standard[0][here, 0], standard[1][here, 0])[0, 1]) < 0.5


def test_a_placeholder_says_who_has_it_and_gets_no_noise(inputs):
    own = np.where(np.arange(120)[:, None] < 100, 0.0, np.nan).astype(np.float32)
    both = replace(inputs, vectors={**inputs.vectors, "clinical": own}, own=["clinical"])
    worse = noisy(both, 1.0, Spread.of(both))
    assert np.array_equal(worse.vectors["clinical"], own, equal_nan=True)
    assert not worse.tables["clinical"]["age"].equals(both.tables["clinical"]["age"])
