"""Embedding on a Ray cluster: an encoder in each worker, one writer, the local engine's bits.

Ray Data hands out shards (what the store keeps in one file) and gives their vectors back in order,
so the store is filled exactly as by the local engine: same shards, same pieces, same files. A
worker that dies is started again, and what it had is computed once more.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from adacomed.cohort.cohort import Cohort
from adacomed.cohort.items import Item, Source
from adacomed.embed import Shard
from adacomed.encoders.ahead import Piece
from adacomed.encoders.base import EncoderCard, fingerprint
from adacomed.encoders.choice import recall_encoders, weights_signature
from adacomed.errors import InputError
from adacomed.scale.cluster import DEATHS, Devices, Starts, losses
from adacomed.scale.worker import (
    RETURNED,
    WORK,
    Carried,
    Loading,
    Work,
    Worker,
    measure,
)
from adacomed.store import CARD, store_folder

MOST_TASKS = 10_000  # that Ray Data keeps books about; more shards go several to a task
AHEAD = 2  # shards that a GPU's worker has in hand: one is read while another is computed


@dataclass(frozen=True)
class RayEncoder:
    """An encoder (`base.Encoder`) that the workers of a cluster load; here is its card only.

    Attributes:
        workers: processes that compute; a GPU each where `gpu`, else a CPU core each.
    """

    card: EncoderCard
    loading: Loading
    workers: int
    gpu: bool

    def encode(self, items: Sequence[Any]) -> NDArray[np.float32]:
        """Vectors of n items, (n, D) float32, finite, in their order.

        Raises:
            InputError: as `pieces`, or an item has no vector.
        """
        unnamed = [Item(str(i), "item", "") for i in range(len(items))]
        shards = [[list(range(len(items)))]] if len(items) else []
        found = list(self.pieces(Carried(unnamed, list(items)), shards))
        for reason in [reason for piece in found for reason in piece.broken.values()]:
            raise InputError(reason)
        nothing = np.zeros((0, self.card.width or 0), np.float32)
        return np.concatenate([nothing, *(piece.vectors for piece in found)])

    def pieces(self, source: Source, shards: Sequence[Shard]) -> Iterator[Piece]:
        """The vectors of every item of the shards, in order, a `Piece` each.

        Raises:
            InputError: a worker cannot load the encoder, loads another one, or keeps dying.
        """
        if not shards:
            return
        import ray

        work = [{WORK: Work.of(source, shard)} for shard in shards]
        rows = iter([row for shard in shards for part in shard for row in part])
        starts = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)(Starts).remote()
        with losses(self.card.name, "--workers"):
            for found in self._computed(work, starts):
                for row, vector, reason in zip(*(found[c] for c in RETURNED), strict=True):
                    if row < 0:
                        raise InputError(str(reason))
                    assert row == next(rows), "Ray Data changed the order"
                    yield Piece([int(row)], vector[None], {int(row): str(reason)} if reason else {})

    def _computed(
        self, work: list[dict[str, Any]], starts: Any
    ) -> Iterator[dict[str, NDArray[Any]]]:
        """Batches of rows, in the order of the work."""
        from ray import data as ray_data

        data: Any = ray_data
        context = data.DataContext.get_current().copy()
        context.execution_options.preserve_order = True
        context.enable_progress_bars = context.print_on_execution_start = False
        context.max_consecutive_actor_init_deaths = DEATHS
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        ahead = AHEAD if self.gpu else 1
        with data.DataContext.current(context):
            tasks = min(len(work), MOST_TASKS)
            computed = data.from_items(work, override_num_blocks=tasks).map_batches(
                Worker,
                fn_constructor_args=(self.loading, self.card, starts),
                batch_size=1,
                batch_format="numpy",
                compute=data.ActorPoolStrategy(
                    size=min(self.workers, tasks),
                    max_concurrent_calls_per_actor=ahead,
                    enable_true_multi_threading=ahead > 1,
                ),
                num_cpus=1,
                num_gpus=1 if self.gpu else 0,
            )
        yield from computed.iter_batches(batch_size=None, batch_format="numpy")


def open_encoder(
    cohort: Cohort,
    modality: str,
    spec: str,
    *,
    root: Path,
    devices: Devices,
    device: str | None = None,
    workers: int | None = None,
) -> RayEncoder:
    """An encoder on the cluster that this process is connected to.

    Its card comes from the store where that was filled with the same weights; else a worker loads
    the encoder once to measure it.

    Args:
        spec: the encoder's name, as for `load_encoder`.
        root: of the store.
        devices: of the cluster.
        device: cpu or cuda; None: cuda where the cluster has GPUs.
        workers: None: as many as the cluster has GPUs, or cores; never more.
    Raises:
        InputError: another device, or the encoder cannot be loaded.
    """
    if device not in (None, "cpu", "cuda"):
        raise InputError(
            f"--device {device}: Ray chooses which device; say cpu or cuda, or nothing"
        )
    gpu = device != "cpu" and devices.gpus > 0
    if device == "cuda" and not gpu:
        raise InputError("--device cuda: the Ray cluster has no GPU; say --device cpu, or nothing")
    most = devices.gpus if gpu else devices.cpus
    nobody = Cohort(
        card=cohort.card,
        root=cohort.root.resolve(),
        samples=cohort.samples.clear(),
        labels=cohort.labels.clear(),
        class_names=cohort.class_names,
    )
    loading = Loading(nobody, modality, spec, device if gpu else "cpu", Path.cwd())
    card = _known(root, modality, spec) or _measured(loading, gpu)
    return RayEncoder(card, loading, min(workers or most, most), gpu)


def _known(root: Path, modality: str, spec: str) -> EncoderCard | None:
    """The card of the encoder that filled the store, if its weights are the same."""
    before = recall_encoders(root, modality).get(spec)
    if before is None or before["signature"] != weights_signature(spec):
        return None
    path = store_folder(root, modality, before["name"], before["fingerprint"]) / CARD
    try:
        stored = json.loads(path.read_bytes())
        stored.pop("fingerprint")
        card = EncoderCard.model_validate(stored)
    except (OSError, ValueError, KeyError):
        return None
    return card if fingerprint(card) == before["fingerprint"] else None


def _measured(loading: Loading, gpu: bool) -> EncoderCard:
    import ray

    task = ray.remote(num_cpus=1, num_gpus=1 if gpu else 0, max_retries=DEATHS)(measure)
    with losses(loading.spec, "--workers"):
        found = ray.get(task.remote(loading))
    if isinstance(found, str):
        raise InputError(found)
    return EncoderCard.model_validate(found)
