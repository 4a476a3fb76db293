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

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from safetensors import SafetensorError
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
from adacomed.models.batch import Batch, Output

CLIP_SCALE = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
UNREADABLE = (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError, ImportError)


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


class ExpertBlock(nn.Module):
    """A LLaMA-style block without positions or a causal mask, and without biases."""

    def __init__(self, width: int, *, heads: int) -> None:
        super().__init__()
        hidden = (
            -(-(8 * width // 3) // 256) * 256
        )  # LLaMA: 2/3 · 4 · width, up to a multiple of 256
        self.heads = heads
        self.norm1, self.norm2 = nn.RMSNorm(width, eps=1e-5), nn.RMSNorm(width, eps=1e-5)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        self.gate_up = nn.Linear(width, 2 * hidden, bias=False)
        self.down = nn.Linear(hidden, width, bias=False)

    def forward(self, x: Tensor, here: Tensor) -> Tensor:
        """x (B, L, width); nobody attends to a token where `here` (B, L) is false."""
        B, L, width = x.shape
        qkv = self.qkv(self.norm1(x)).view(B, L, 3, self.heads, width // self.heads)
        q, k, v = qkv.transpose(1, 3).unbind(2)  # (B, heads, L, width/heads)
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=here[:, None, None])
        x = x + self.out(mixed.transpose(1, 2).reshape(B, L, width))
        gate, up = self.gate_up(self.norm2(x)).chunk(2, -1)
        y: Tensor = x + self.down(F.silu(gate) * up)
        return y


class Route(nn.Module):
    """What a modality has of its own in the projection module.

    The router reads tokens before the experts, so on the learned `queries` its weights depend on
    the modality alone, in the original too.
    """

    def __init__(
        self, width_in: int, width_out: int, *, width: int, tokens: int, experts: int
    ) -> None:
        super().__init__()
        self.enter = nn.Sequential(nn.Linear(width_in, width), nn.LayerNorm(width))
        self.queries = nn.Parameter(torch.empty(tokens, width).normal_(std=0.02))
        self.router = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, experts)
        )
        self.leave = nn.Sequential(nn.Linear(width, width_out), nn.LayerNorm(width_out))
        self.start, self.end = (nn.Parameter(torch.rand(1, width_out)) for _ in range(2))


class UniversalProjection(nn.Module):
    """A modality's tokens → a start tag, `tokens` tokens and an end tag for the language model.

    Args:
        modalities: names, each with a `Route` of its own.
        experts, depth, heads, width: experts shared by all modalities, blocks in each, their shape.
        width_in, width_out: of the encoder's tokens and of the language model's.
    """

    def __init__(
        self,
        modalities: Sequence[str],
        *,
        width_in: int,
        width_out: int,
        experts: int,
        depth: int,
        heads: int,
        width: int,
        tokens: int,
    ) -> None:
        super().__init__()
        self.modalities = list(modalities)
        self.routes = nn.ModuleList(
            Route(width_in, width_out, width=width, tokens=tokens, experts=experts)
            for _ in modalities
        )
        self.experts = nn.ModuleList(
            nn.ModuleList(ExpertBlock(width, heads=heads) for _ in range(depth))
            for _ in range(experts)
        )

    def forward(self, found: Mapping[str, Tokens]) -> Tokens:
        """Modality → tokens; all modalities one after the other, an absent one's masked."""
        parts = []
        for name, route in zip(self.modalities, self.routes, strict=True):
            here, x = found[name].here, found[name].x
            rows = here.any(1).nonzero()[:, 0]  # who has the modality at all
            y = self.project(route, x[rows], here[rows])
            full = y.new_zeros(len(here), *y.shape[1:]).index_copy(0, rows, y)
            parts.append(Tokens(full, here.any(1, keepdim=True).expand(full.shape[:2])))
        return join(parts)

    def project(self, route: Any, x: Tensor, here: Tensor) -> Tensor:
        """x (R, L, width_in), here (R, L) → (R, 1 + tokens + 1, width_out)."""
        R, T = len(x), len(route.queries)
        x = route.enter(x.to(route.queries.dtype))  # CLIP's dtype may be coarser
        x = torch.cat([route.queries.expand(R, -1, -1), x], 1)
        here = torch.cat([here.new_ones(R, T), here], 1)
        weight = route.router(x[:, :T]).sigmoid()  # (R, tokens, experts)
        weight = weight / weight.sum(-1, keepdim=True)
        mixed = torch.zeros_like(x[:, :T])
        for e, blocks in enumerate(self.experts):
            y = x
            for block in blocks.children():
                y = block(y, here)
            mixed = mixed + weight[..., e, None] * y[:, :T]
        start, end = (tag.expand(R, 1, -1) for tag in (route.start, route.end))
        return torch.cat([start, route.leave(mixed), end], 1)


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


def tiny_backbones(vocabulary: int = 128, seed: int = 0) -> tuple[Any, Any]:
    """A CLIPVisionModel (32 px) and a LlamaModel, 32 wide with random weights.

    For tests and for machines without weights; results must then say "random weights". The random
    state of the process is left as it was.

    Raises:
        InputError: transformers is not installed.
    """
    t = _transformers()
    shape = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "initializer_range": 32**-0.5,  # at the usual 0.02 so narrow a layer passes nothing on
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        clip = t.CLIPVisionModel(t.CLIPVisionConfig(**shape, image_size=32, patch_size=16))
        lm = t.LlamaModel(t.LlamaConfig(**shape, vocab_size=vocabulary))
    return clip.eval(), lm.eval()


def load_backbones(clip: str, lm: str, device: str = "cpu") -> tuple[Any, Any]:
    """A CLIPVisionModel and a decoder; float32 on a CPU, else bfloat16 where the device can.

    Args:
        clip, lm: each a folder as save_pretrained writes it, or a hub id (cached or fetched);
            weights as safetensors only. The original's are CLIP ViT-L/14 and LLaMA-2-7B.
        device: "cpu" or "cuda".
    Raises:
        InputError: not to be found or read, no such device, or a parameter not in the file.
    """
    if not device.startswith("cpu") and not torch.cuda.is_available():
        raise InputError(f"device {device!r}: torch sees no CUDA device here; use device='cpu'")
    t = _transformers()
    return _load(t.CLIPVisionModel, clip, device), _load(t.AutoModel, lm, device)


def _load(kind: Any, source: str, device: str) -> Any:
    """Everything out of the file, in evaluation mode; no code of a repository is run."""
    whole = device.startswith("cpu") or not torch.cuda.is_bf16_supported()
    try:
        with _quiet():
            model, info = kind.from_pretrained(
                source,
                dtype=torch.float32 if whole else torch.bfloat16,
                use_safetensors=True,
                trust_remote_code=False,
                output_loading_info=True,
            )
    except (SafetensorError, *UNREADABLE) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        raise InputError(
            f"{source}: not a model that transformers can load ({reason}); give a folder as "
            f"save_pretrained writes it, or a hub id"
        ) from None
    absent = [str(n) for key in ("missing_keys", "mismatched_keys") for n in sorted(info[key])]
    if absent:
        raise InputError(
            f"{source}: {len(absent)} parameters are not in the weights file ({absent[0]}, …), "
            f"the model would be partly random"
        )
    return model.eval().requires_grad_(False).to(device)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without transformers' bars and its tables of what the file holds beside the model."""
    from transformers.utils import logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()  # type: ignore[no-untyped-call]


def _transformers() -> Any:
    try:
        import transformers
    except ImportError:
        raise InputError("OneLLM needs transformers: pip install 'adacomed[paper]'") from None
    return transformers
