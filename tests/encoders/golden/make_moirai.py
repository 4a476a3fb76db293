"""Makes moirai.json and moirai.npz: what uni2ts' own MOIRAI gives on weights that a seed makes.

Run once, by hand, in a throw-away environment: uni2ts pins an old torch, so it is no dependency.

    python -m venv /tmp/oracle && /tmp/oracle/bin/pip install --no-deps uni2ts==2.0.0
    /tmp/oracle/bin/pip install torch==2.13.0 einops jaxtyping hydra-core gluonts \
        lightning "jax[cpu]" orjson python-dotenv datasets safetensors
    /tmp/oracle/bin/python tests/encoders/golden/make_moirai.py

The weights are not kept: `random_weights` makes the same ones in the test.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
MODELS = {  # one head, and two
    "narrow": {"d_model": 64, "num_layers": 2, "patch_sizes": (8, 16), "max_seq_len": 64},
    "wide": {"d_model": 128, "num_layers": 2, "patch_sizes": (8, 16, 32), "max_seq_len": 64},
}
CASES = [  # model, patch size, variables, hours, what stands for a missing value
    ("narrow", 8, 3, 40, "zero"),
    ("narrow", 16, 3, 40, "mean"),
    ("wide", 8, 4, 24, "mean"),
    ("wide", 32, 5, 48, "zero"),
]


def random_weights(shapes: Mapping[str, Sequence[int]], seed: int) -> dict[str, np.ndarray]:
    """name → float32 values, the same from numpy's frozen RandomState wherever it runs."""
    rng = np.random.RandomState(seed)
    weights = {}
    for name in sorted(shapes):
        shape = shapes[name]
        values = rng.standard_normal(shape)
        if "norm" in name:
            values = 1 + 0.3 * values
        elif len(shape) > 1 and "emb." not in name:
            values = values * 1.5 / np.sqrt(shape[-1])
        weights[name] = values.astype(np.float32)
    return weights


def measurements(variables: int, hours: int, seed: int) -> np.ndarray:
    """(V, T) float32, NaN where not observed: heart rates, sodium, lactate … of unlike scales."""
    rng = np.random.RandomState(seed)
    mean = np.array([80.0, 140.0, 1.5, 37.0, 7.4])[:variables, None]
    values = mean * (1 + 0.1 * rng.standard_normal((variables, hours)))
    values[rng.uniform(size=values.shape) < 0.4] = np.nan
    values[0, 8:16] = np.nan  # a patch with nothing in it
    values[1] = np.nan
    values[1, 3] = 140.0  # a variable seen once
    values[variables - 1] = np.nan  # and one never seen
    return values.astype(np.float32)


def oracle(module, values: np.ndarray, patch: int, imputed: str) -> dict[str, np.ndarray]:
    """States of uni2ts' encoder and the scaler's loc and scale, by token (variable, then time)."""
    import torch

    largest = max(module.patch_sizes)
    hours = -values.shape[1] % patch  # padded on the left, as MoiraiForecast does
    padded = np.pad(values, ((0, 0), (hours, 0)), constant_values=np.nan)
    observed = ~np.isnan(padded)
    if imputed == "zero":
        padded = np.nan_to_num(padded, nan=0.0)
    else:
        mean = np.nansum(padded.astype(np.float64), 1) / np.maximum(observed.sum(1), 1)
        padded = np.where(observed, padded, mean[:, None]).astype(np.float32)
    variables, times = padded.shape[0], padded.shape[1] // patch

    def tokens(array):
        array = array.reshape(variables * times, patch)
        return torch.from_numpy(np.pad(array, ((0, 0), (0, largest - patch))))[None]

    mask = tokens(observed)
    inputs = {
        "target": tokens(padded),
        "observed_mask": mask,
        "sample_id": mask.any(-1).long(),  # 0: padding, that no token of the sample attends to
        "time_id": torch.arange(times).repeat(variables)[None],
        "variate_id": torch.arange(variables).repeat_interleave(times)[None],
        "prediction_mask": torch.zeros(1, variables * times, dtype=torch.bool),
        "patch_size": torch.full((1, variables * times), patch),
    }
    caught = {}
    module.encoder.register_forward_hook(lambda m, i, o: caught.update(states=o))
    module.scaler.register_forward_hook(lambda m, i, o: caught.update(loc=o[0], scale=o[1]))
    with torch.no_grad():
        module(**inputs)
    seen = mask.any(-1)[0].numpy()
    found = {name: value[0].numpy()[seen] for name, value in caught.items()}
    return {"seen": seen, "values": values, **found}


def main() -> None:
    """Write both files beside this script."""
    import torch
    from uni2ts.distribution import StudentTOutput
    from uni2ts.model.moirai.module import MoiraiModule

    kept: dict[str, dict] = {}
    for name, options in MODELS.items():
        module = MoiraiModule(StudentTOutput(), attn_dropout_p=0.0, dropout_p=0.0, **options)
        module.save_pretrained(HERE / name)  # config.json as the hub has it
        config = json.loads((HERE / name / "config.json").read_text())
        for file in (HERE / name).iterdir():
            file.unlink()
        (HERE / name).rmdir()
        shapes = {key: list(value.shape) for key, value in module.state_dict().items()}
        kept[name] = {"config": config, "shapes": shapes}
    arrays = {}
    for i, (name, patch, variables, hours, imputed) in enumerate(CASES):
        options = MODELS[name]
        module = MoiraiModule(StudentTOutput(), attn_dropout_p=0.0, dropout_p=0.0, **options)
        weights = random_weights(kept[name]["shapes"], seed=7)
        module.load_state_dict({key: torch.from_numpy(value) for key, value in weights.items()})
        result = oracle(module.eval(), measurements(variables, hours, seed=i), patch, imputed)
        arrays.update({f"{i}.{key}": value for key, value in result.items()})
    (HERE / "moirai.json").write_text(json.dumps({"models": kept, "cases": CASES}, indent=1))
    np.savez_compressed(HERE / "moirai.npz", **arrays)


if __name__ == "__main__":
    main()
