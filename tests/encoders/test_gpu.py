"""Every family on a graphics card: the processor's vectors, and the same ones in any company.

Needs CUDA; skipped without. The models are tiny ones with random weights.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.encoders import test_dinov2, test_llm2vec, test_merlin, test_moirai, test_text_encoder
from tests.encoders import test_uni as uni
from tests.encoders.check_encoder import check_encoder
from tests.encoders.conftest import save_tiny, save_tiny_llama
from tests.readers.slide_files import tissue_image

from adacomed.encoders.base import load_encoder
from adacomed.readers.slide import ArraySlide

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


def slides() -> list[ArraySlide]:
    """Ten in memory, of one to six patches."""
    sizes = [(300 + 40 * i, 280 + 25 * i) for i in range(10)]
    return [
        ArraySlide(tissue_image(*size, [(0.4, 0.35, 0.3)], i), 0.5 if i % 3 else 0.25)
        for i, size in enumerate(sizes)
    ]


def volumes() -> list[Any]:
    """Ten, of different shapes and spacings."""
    return [
        test_merlin.volume((20 + i, 18, 14 + i % 3), (3.0, 3.0, 4.0 + i % 2), seed=i)
        for i in range(10)
    ]


FAMILIES: list[tuple[str, str, Callable[[Path], object], str, Callable[[], Sequence[Any]]]] = [
    ("text-encoder", "text", save_tiny, "", lambda: test_text_encoder.SENTENCES),
    ("llm2vec", "text", save_tiny_llama, "", lambda: test_llm2vec.ITEMS),
    ("dinov2", "image", test_dinov2.save_tiny_dinov2, "?size=56", test_dinov2.pictures),
    ("uni", "slide", uni.save_tiny, "", slides),
    ("moirai", "series", test_moirai.save_tiny, "", lambda: test_moirai.ITEMS),
    ("merlin", "volume", test_merlin.save_checkpoint, "", volumes),
]


@pytest.mark.parametrize(
    ("name", "kind", "save", "options", "items"), FAMILIES, ids=[f[0] for f in FAMILIES]
)
def test_a_card_gives_the_processors_vectors(
    name: str,
    kind: str,
    save: Callable[[Path], object],
    options: str,
    items: Callable[[], Sequence[Any]],
    tmp_path: Path,
) -> None:
    save(tmp_path / "model")
    spec = f"{name}:{tmp_path / 'model'}{options}"
    card = load_encoder(spec, kind=kind, folder=tmp_path, device="cuda")
    check_encoder(card, items())
    here = load_encoder(spec, kind=kind, folder=tmp_path, device="cpu")
    one, other = card.encode(items()), here.encode(items())
    apart = np.abs(one - other).max() / np.abs(other).max()
    assert apart < 0.03, f"{apart:.1e} of the largest number apart"  # the card computes in bfloat16
