"""The contract of every encoder; each encoder's test calls it on real items."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from typing import Any

import numpy as np

from adacomed.encoders.base import Encoder, EncoderCard, Staged, fingerprint
from adacomed.encoders.golden import golden_item


def check_encoder(encoder: Encoder, items: Sequence[Any]) -> None:
    """Shape, type, determinism, bit-equality in any company, and a complete card.

    Args:
        encoder: loaded.
        items: at least ten, of different sizes.
    """
    assert len(items) >= 10
    together = encoder.encode(items)
    _check_card(encoder.card)

    assert together.dtype == np.float32
    assert together.shape == (len(items), encoder.card.width)
    assert np.isfinite(together).all()
    assert encoder.encode([]).shape == (0, encoder.card.width)
    assert len(np.unique(together, axis=0)) > 1, "every item has the same vector"

    assert np.array_equal(together, encoder.encode(items)), "not deterministic"
    for i, item in enumerate(items):
        assert np.array_equal(encoder.encode([item])[0], together[i]), f"item {i} alone differs"
    rng = np.random.default_rng(0)
    for size in (2, 3, len(items) // 2, len(items)):
        some = rng.permutation(len(items))[:size]
        vectors = encoder.encode([items[i] for i in some])
        assert np.array_equal(vectors, together[some]), f"{size} items in another order differ"
    golden = encoder.encode([golden_item(encoder.card.kinds[0])])[0]
    assert np.array_equal(golden, np.asarray(encoder.card.golden, np.float32))
    if isinstance(encoder, Staged):  # prepare runs in worker processes
        prepare = pickle.loads(pickle.dumps(encoder.prepare))
        assert len(pickle.dumps(encoder.prepare)) < 100_000, "prepare carries weights"
        staged = encoder.forward([prepare(item) for item in items])
        assert np.array_equal(staged, together), "in two steps it differs"


def _check_card(card: EncoderCard) -> None:
    for name in ("name", "kinds", "id", "revision", "licence", "pooling", "input", "trained_on"):
        assert getattr(card, name), f"the card has no {name}"
    assert card.width is not None
    assert card.preprocessing
    for digest in (card.preprocessing_hash, card.weights_hash):
        assert digest is not None
        assert len(bytes.fromhex(digest)) == 32
    assert len(bytes.fromhex(fingerprint(card))) == 6
    assert len(card.golden) == card.width
    again = EncoderCard.model_validate_json(card.model_dump_json())
    assert again == card, "the card does not survive card.json"
    assert card.libraries
