"""PEFT adapters out of a local folder or the hub, merged into a model's weights."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from adacomed.encoders.weights import Weights, find_weights, load_tensors
from adacomed.errors import InputError

PATTERNS = ("adapter_model*.safetensors",)
SUBSTITUTE = "leave the adapter out"
PREFIX = "base_model.model."


def find_adapter(source: str) -> Weights:
    """The folder of an adapter; safetensors only.

    Raises:
        InputError: not here, or no adapter_config.json in it.
    """
    found = find_weights(source, substitute=SUBSTITUTE, patterns=PATTERNS, config=False)
    if not (found.folder / "adapter_config.json").is_file():
        raise InputError(f"{found.folder}: no adapter_config.json in it, so it is not an adapter")
    return found


def merge_adapter(model: Any, adapter: Weights) -> Any:
    """The model with the adapter's change added to its weights.

    An adapter made for the same model with a language head fits too; its head is left out.

    Args:
        model: of transformers.
        adapter: of `find_adapter`.
    Raises:
        InputError: peft is not installed, or the adapter is of another model.
    """
    try:
        from peft import PeftConfig, get_peft_model, set_peft_model_state_dict
    except ImportError:
        raise InputError("an adapter needs peft: pip install 'adacomed[llm]'") from None
    folder = str(adapter.folder)
    tensors = _without_head(load_tensors(adapter.files()))
    try:
        config = PeftConfig.from_pretrained(folder)
        config.inference_mode = True
        adapted = get_peft_model(model, config)
        result: Any = set_peft_model_state_dict(adapted, tensors)
        merged = adapted.merge_and_unload(safe_merge=True)
    except (OSError, ValueError, TypeError, KeyError, RuntimeError, AttributeError) as error:
        reason = str(error).strip().splitlines()[0][:200]
        raise InputError(f"{folder}: an adapter that does not fit this model ({reason})") from None
    absent = [name for name in result.missing_keys if "lora_" in name and "lm_head" not in name]
    wrong = [*result.unexpected_keys, *absent]
    if wrong or not tensors:
        named = f" ({wrong[0]}, …)" if wrong else ""
        raise InputError(
            f"{folder}: {len(wrong)} of the adapter's tensors do not fit this model{named}; the "
            f"adapter belongs to another model"
        )
    return merged


def _without_head(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Names as the bare model has them: those of a model with a language head lie one deeper."""
    bare = {name: tensor for name, tensor in tensors.items() if "lm_head" not in name}
    deep = PREFIX + "model."
    if not all(name.startswith(deep) for name in bare):
        return bare
    return {PREFIX + name.removeprefix(deep): tensor for name, tensor in bare.items()}
