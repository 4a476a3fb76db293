"""OneLLM's frozen models: CLIP's vision tower and a language model, of transformers."""

from __future__ import annotations

from typing import Any

import torch
from safetensors import SafetensorError

from adacomed.encoders.weights import quiet
from adacomed.errors import InputError

UNREADABLE = (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError, ImportError)


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
        with quiet():
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


def _transformers() -> Any:
    try:
        import transformers
    except ImportError:
        raise InputError("OneLLM needs transformers: pip install 'adacomed[paper]'") from None
    return transformers
