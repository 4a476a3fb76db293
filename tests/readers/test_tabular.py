from __future__ import annotations

import json

import numpy as np
import polars as pl
import pytest
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from adacomed.errors import InputError
from adacomed.readers.tabular import TableEncoder

RNG = np.random.default_rng(0)
TRAIN = pl.DataFrame(
    {
        "age": RNG.normal(60, 12, 50),
        "sodium": np.where(RNG.random(50) < 0.3, np.nan, RNG.normal(139, 4, 50)),
        "ward": RNG.choice(["A", "B", "C"], 50),
        "fixed": [7.1] * 50,
        "empty": pl.Series([None] * 50, dtype=pl.Float64),
    }
)


def test_like_scikit_learn_with_missing_left_missing() -> None:
    encoder = TableEncoder.fit(TRAIN)
    found = encoder.transform(TRAIN)
    assert found.dtype == np.float32
    amounts = TRAIN.select("age", "sodium").to_numpy()
    np.testing.assert_allclose(found[:, :2], StandardScaler().fit_transform(amounts), atol=1e-6)
    hot = OneHotEncoder(sparse_output=False).fit_transform(TRAIN.select("ward").to_numpy())
    np.testing.assert_array_equal(found[:, 2:5], hot)
    assert (found[:, 5] == 0).all()
    assert np.isnan(found[:, 6]).all()
    assert encoder.columns_out == ["age", "sodium", "ward=A", "ward=B", "ward=C", "fixed", "empty"]


def test_new_patients_use_the_training_statistics() -> None:
    encoder = TableEncoder.fit(TRAIN)
    new = pl.DataFrame(
        {
            "ward": ["B", "Z", None],
            "age": [TRAIN["age"].mean(), None, float("nan")],
            "sodium": ["139", None, "140.5"],  # numbers that were read as text
            "fixed": [7.1, 9.0, None],
            "empty": [None, None, 1.0],
            "extra": [1, 2, 3],
        }
    )
    found = encoder.transform(new)
    np.testing.assert_allclose(found[:, 0], [0, np.nan, np.nan], atol=1e-6)
    np.testing.assert_array_equal(found[0, 2:5], [0, 1, 0])
    np.testing.assert_array_equal(found[1, 2:5], [0, 0, 0])  # unseen
    assert np.isnan(found[2, 2:5]).all()  # missing
    np.testing.assert_array_equal(found[:, 5], [0, 0, np.nan])
    np.testing.assert_array_equal(found[:, 6], [np.nan, np.nan, 0])
    alone = np.concatenate([encoder.transform(new[k]) for k in range(3)])
    np.testing.assert_array_equal(alone, found)


def test_state_goes_through_json_unchanged() -> None:
    encoder = TableEncoder.fit(TRAIN)
    again = TableEncoder.from_dict(json.loads(json.dumps(encoder.to_dict())))
    assert again == encoder
    np.testing.assert_array_equal(again.transform(TRAIN), encoder.transform(TRAIN))


def test_codes_read_as_numbers_meet_their_category() -> None:
    encoder = TableEncoder.fit(pl.DataFrame({"stage": ["1", "2", "3"]}))
    found = encoder.transform(pl.DataFrame({"stage": [3.0, 1.0, None]}))
    np.testing.assert_array_equal(found[:2], [[0, 0, 1], [1, 0, 0]])
    assert np.isnan(found[2]).all()


def test_wrong_tables() -> None:
    encoder = TableEncoder.fit(TRAIN)
    with pytest.raises(InputError, match="'sodium'; did you mean 'sodum'"):
        encoder.transform(TRAIN.rename({"sodium": "sodum"}))
    with pytest.raises(InputError, match="numeric column 'age', row 2") as error:
        encoder.transform(TRAIN.with_columns(pl.Series("age", ["61", "old"] + ["50"] * 48)))
    assert "old" not in str(error.value)
    with pytest.raises(InputError, match="at least one training row"):
        TableEncoder.fit(TRAIN.clear())
