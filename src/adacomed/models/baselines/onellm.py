"""OneLLM: frozen CLIP → trained Universal Projection Module → frozen causal language model.

Every modality is encoded by one frozen CLIP vision transformer, projected to a few tokens by
experts that all modalities share, and read by a frozen language model. The original answers in
generated words; here a linear layer on the last token's hidden state answers, which gives the
probabilities that AUROC needs. A patient's images are all read (the original averages frames), and
word numbers, which are not the language model's own, go the way of every other kind of input: a
trained tokeniser, then CLIP's layers.

Source: Han et al. 2024, arXiv 2312.03700 (CLIP ViT-L/14, LLaMA-2-7B, 384 M trained).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from adacomed.errors import InputError
from adacomed.models import raw
from adacomed.models.baselines.tokenisers import (
    Limits,
    Tokenisers,
    Tokens,
    join,
    latest_images,
    normalised,
    spread,
)
from adacomed.models.baselines.universal_projection import UniversalProjection
from adacomed.models.batch import Batch, Output

CLIP_SCALE = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))


class UniversalEncoder(nn.Module):
    """A frozen CLIP vision model, for images as they are and for all other kinds as tokens.

    Args:
        shapes: modality → its shape; their order is the order of the tokens.
        clip: CLIPVisionModel of transformers; None: tokens are not encoded any further.
        width: of the tokens where there is no CLIP.
    """

    def __init__(
        self, shapes: Mapping[str, raw.Shape], *, clip: Any, width: int, limits: Limits
    ) -> None:
        super().__init__()
        self.clip: Any = getattr(clip, "vision_model", clip)  # releases before 5 wrap it
        self.width: int = width if clip is None else clip.config.hidden_size
        self.modalities, self.most = list(shapes), limits.images
        self.images = [
            m for m, s in shapes.items() if self.clip is not None and isinstance(s, raw.ImageShape)
        ]
        others = {m: s for m, s in shapes.items() if m not in self.images}
        self.tokenisers = Tokenisers(others, width=self.width, limits=limits)

    def forward(self, batch: Batch) -> dict[str, Tokens]:
        """Modality → tokens (B, L, clip width), in order and without gaps."""
        found = {m: self.encode(join([x])) for m, x in self.tokenisers(batch).items()}
        for m in self.images:
            images = batch.raw[m]
            assert isinstance(images, raw.Images)
            found[m] = join([self.see(images)])
        return {m: found[m] for m in self.modalities}

    def encode(self, tokens: Tokens) -> Tokens:
        """Tokens through CLIP's layers; its patch embedding, CLS and positions are left out."""
        if self.clip is None or not tokens.here.numel():
            return tokens
        x = self.clip.pre_layrnorm(tokens.x.to(self.clip.pre_layrnorm.weight.dtype))
        absent = ~tokens.here[:, None, None]  # (B, 1, 1, L), added to the attention's scores
        mask = x.new_zeros(absent.shape).masked_fill(absent, torch.finfo(x.dtype).min)
        y = self.clip.encoder(inputs_embeds=x, attention_mask=mask).last_hidden_state
        y = self.clip.post_layernorm(y)
        return Tokens(torch.where(tokens.here[..., None], y, 0.0), tokens.here)

    def see(self, images: raw.Images) -> Tokens:
        """CLS and patches of each of a patient's latest images, resized to CLIP's pixels."""
        rows, slot, here = latest_images(images, self.most)
        x = normalised(images.pixels[rows], CLIP_SCALE, self.tokenisers.kind.dtype)
        if not len(rows):
            return spread(x.new_zeros(0, 1, self.width), slot, here)
        side = self.clip.config.image_size
        if x.shape[-1] != side:
            x = F.interpolate(x, (side, side), mode="bicubic", antialias=True)
        seen = self.clip(pixel_values=x).last_hidden_state  # (U, 1 + patches, width)
        return spread(self.clip.post_layernorm(seen), slot, here)


class OneLLM(nn.Module):
    """Universal encoder, projection and language model put together.

    CLIP and the language model are frozen and in evaluation mode always; gradients flow through
    them to the tokenisers and to the projection. A patient with no modality is the prompt alone.

    Args:
        lm: any decoder of transformers, inputs_embeds (B, L, W) → last_hidden_state (B, L, W).
        prompt: token ids after the modalities; none: one learned token.
        classes: K.
    Raises:
        InputError: a token id that the language model does not have.
    """

    prompt: Tensor

    def __init__(
        self,
        *,
        encoder: UniversalEncoder,
        projection: UniversalProjection,
        lm: Any,
        prompt: Sequence[int],
        classes: int,
    ) -> None:
        super().__init__()
        self.encoder, self.projection = encoder, projection
        self.lm = lm.base_model  # without its head of words
        words, W = self.lm.get_input_embeddings().weight.shape
        if not all(0 <= token < words for token in prompt):
            raise InputError(f"a prompt token is not in the language model's 0 … {words - 1}")
        self.register_buffer(
            "prompt", torch.tensor(list(prompt), dtype=torch.int64), persistent=False
        )
        self.ask = None if prompt else nn.Parameter(torch.rand(1, W))
        self.head = nn.Linear(W, classes)
        for model in self.frozen:
            model.requires_grad_(False).train(False)

    @property
    def frozen(self) -> list[Any]:
        """CLIP and the language model."""
        return [model for model in (self.encoder.clip, self.lm) if model is not None]

    def train(self, mode: bool = True) -> OneLLM:
        """Training mode for everything but the frozen models."""
        super().train(mode)
        for model in self.frozen:
            model.train(False)
        return self

    def forward(self, batch: Batch) -> Output:
        """Logits (B, K), as the whole prediction and as the large branch."""
        logits = self.head(self.read(self.sequence(batch)))
        return Output(logits=logits, logits_large=logits)

    def sequence(self, batch: Batch) -> Tokens:
        """What the language model reads: present modalities without gaps, then the prompt."""
        modalities = self.projection(self.encoder(batch))
        words = self.lm.get_input_embeddings()(self.prompt) if self.ask is None else self.ask
        words = words.to(modalities.x.dtype).expand(len(batch), -1, -1)
        return join([modalities, Tokens(words, modalities.here.new_ones(words.shape[:2]))])

    def read(self, tokens: Tokens) -> Tensor:
        """Hidden state (B, W) of each patient's last real token; padding comes after it."""
        x = tokens.x.to(self.lm.get_input_embeddings().weight.dtype)
        mask = tokens.here.long()
        h = self.lm(inputs_embeds=x, attention_mask=mask, use_cache=False).last_hidden_state
        last = h[torch.arange(len(h), device=h.device), mask.sum(1) - 1]
        found: Tensor = last.to(tokens.x.dtype)
        return found


def build_onellm(
    shapes: Mapping[str, raw.Shape],
    *,
    classes: int,
    clip: Any,
    lm: Any,
    prompt: Sequence[int] = (),
    experts: int = 3,
    depth: int = 8,
    heads: int = 16,
    width: int = 1024,
    tokens: int = 30,
    limits: Limits = Limits(),  # noqa: B008 (frozen)
) -> OneLLM:
    """OneLLM around two models of transformers, which it freezes in place.

    Args:
        shapes: modality → its shape, in the order in which the language model reads them.
        clip: CLIPVisionModel; None: the tokenisers' tokens, `width` wide, are not encoded further.
        lm: a decoder, with or without its head of words (LlamaModel, LlamaForCausalLM, …).
        prompt: token ids of a question, read after the modalities.
        experts, depth, heads, width, tokens: of the projection module; the original's by default.
    """
    encoder = UniversalEncoder(shapes, clip=clip, width=width, limits=limits)
    projection = UniversalProjection(
        list(shapes),
        width_in=encoder.width,
        width_out=lm.get_input_embeddings().weight.shape[1],
        experts=experts,
        depth=depth,
        heads=heads,
        width=width,
        tokens=tokens,
    )
    return OneLLM(encoder=encoder, projection=projection, lm=lm, prompt=prompt, classes=classes)
