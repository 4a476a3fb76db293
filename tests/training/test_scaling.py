"""Scalers and vocabularies: fitted on training patients only, absent stays absent."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from adacomed.errors import InputError
from adacomed.training.scaling import Standardiser, fit_inputs

from .conftest import make_inputs


def test_nothing_is_fitted_on_anyone_but_the_training_patients(inputs):
    train = np.arange(60)
    fitted = fit_inputs(inputs, train)
    others = np.arange(120)[:, None] >= 60
    table = inputs.tables["clinical"]
    strangers = table[60:].with_columns(pl.col("age") * 3, ward=pl.lit("Z"))
    moved = replace(
        inputs,
        vectors={m: np.where(others, x * 7 + 3, x) for m, x in inputs.vectors.items()},
        tables={"clinical": table[:60].vstack(strangers)},
    )
    again = fit_inputs(moved, train)
    for m in ("a", "b"):
        assert np.array_equal(fitted.large[m].mean, again.large[m].mean)
        assert np.array_equal(fitted.large[m].scale, again.large[m].scale)
    assert fitted.tables["clinical"].to_dict() == again.tables["clinical"].to_dict()


def test_training_vectors_are_standardised_over_those_who_have_them(inputs):
    batch = fit_inputs(inputs, np.arange(120)).batch(inputs)
    x = batch.embeddings["b"][batch.present[:, 1]]
    assert x.mean(0).abs().max() < 1e-5
    assert (x.std(0, correction=0) - 1).abs().max() < 1e-5
    assert batch.embeddings["b"][~batch.present[:, 1]].isnan().all()


def test_pca_keeps_the_leading_directions_and_absent_rows(inputs):
    fitted = fit_inputs(inputs, np.arange(120), pca=3)
    batch = fitted.batch(inputs)
    assert fitted.widths == {"a": 3, "b": 3}
    assert batch.embeddings["a"].shape == (120, 3)
    assert not batch.present[:, 1].all()
    z = Standardiser.fit(inputs.vectors["a"], None)(inputs.vectors["a"]).astype(float)
    left, _, _ = np.linalg.svd(z - z.mean(0), full_matrices=False)
    ours = batch.embeddings["a"].numpy()
    assert np.abs(np.corrcoef(ours[:, 0], left[:, 0])[0, 1]) == pytest.approx(1, abs=1e-4)


def test_another_width_names_the_modality_and_both_widths(inputs):
    fitted = fit_inputs(inputs, np.arange(60))
    wide = replace(inputs, vectors={**inputs.vectors, "a": np.ones((120, 8), np.float32)})
    with pytest.raises(InputError, match=r"'a'.*8.*6"):
        fitted.batch(wide)


def test_a_modality_that_no_training_patient_has(inputs):
    nobody = replace(inputs, vectors={**inputs.vectors, "b": np.full((120, 9), np.nan, np.float32)})
    with pytest.raises(InputError, match=r"'b'.*modalities: \[a\]"):
        fit_inputs(nobody, np.arange(60))


def test_the_fingerprint_sees_every_change(inputs):
    other = make_inputs()
    assert inputs.fingerprint() == other.fingerprint()
    other.vectors["a"][3, 2] += 1e-3
    assert inputs.fingerprint() != other.fingerprint()
    assert inputs.fingerprint() != replace(make_inputs(), small=["a"]).fingerprint()
