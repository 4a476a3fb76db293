"""Many more rows of chartevents, none of which counts: to try a reader at the real table's size.

They are of other items, or of the nine variables outside any window or of stays that are no sample
whatever is charted in them. Made a part at a time, so memory does not grow with their number.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta

import numpy as np
import polars as pl

from adacomed.datasets.mimic.variables import CHARTED
from adacomed.datasets.mimic_release.items import OTHER_CHARTED
from adacomed.datasets.mimic_release.plan import Stay
from adacomed.datasets.mimic_release.tables import caregiver
from adacomed.datasets.mimic_release.trap_stays import NO_EVENT

PART = 250_000  # rows made at once
NINE = 0.2  # share of rows that are of the nine variables
EPOCH = datetime(1970, 1, 1)
BEYOND = 20 * 24 * 3600  # seconds after the window's end
_ITEMS: list[tuple[int, str | None, float]] = [(i, u, value) for i, _, u, value in OTHER_CHARTED]
_ITEMS += [(v.ids[0], v.unit, sum(v.limits or (0, 0)) // 3) for v in CHARTED]
ITEM = np.array([i for i, _, _ in _ITEMS], np.int32)
UNIT = pl.Series([unit if i not in (220739, 223900, 223901) else None for i, unit, _ in _ITEMS])
TYPICAL = np.array([value for _, _, value in _ITEMS], np.float64)


def parts(
    stays: Sequence[Stay], rows: int, seed: int, columns: Sequence[str]
) -> Iterator[tuple[Sequence[Stay], bytes]]:
    """The filler as csv, a part at a time.

    Args:
        stays: in the order of the file.
        rows: in all; 0 gives one part without any.
        columns: of chartevents, in order.
    Yields:
        The stays whose own rows have their place before this part, and the part.
    """
    number = max(1, -(-rows // PART))
    for k in range(number):
        low, high = k * len(stays) // number, (k + 1) * len(stays) // number
        mine = stays[low : max(high, low + 1)]
        count = (k + 1) * rows // number - k * rows // number
        rng = np.random.default_rng([seed, 1, k])
        yield stays[low:high], _part(mine, count, rng, columns) if count else b""


def _part(
    stays: Sequence[Stay], count: int, rng: np.random.Generator, columns: Sequence[str]
) -> bytes:
    who = np.sort(rng.integers(len(stays), size=count))
    nine = rng.random(count) < NINE
    item = np.where(
        nine,
        rng.integers(len(OTHER_CHARTED), len(ITEM), size=count),
        rng.integers(len(OTHER_CHARTED), size=count),
    )
    # Of the nine, only what no window holds; where events cannot make a sample, anything.
    ends = [s.admission.admit + timedelta(hours=48) for s in stays]
    free = np.array([s.left_out not in (None, NO_EVENT) for s in stays])
    inside = ~nine | free[who]
    first = np.array([_seconds(s.intime) for s in stays])[who]
    beyond = np.array([_seconds(end) + 60 for end in ends])[who]
    offset = rng.integers(BEYOND // 60, size=count) * 60
    time = np.where(inside, first, beyond) + offset
    value = np.rint(TYPICAL[item] * rng.uniform(0.8, 1.2, size=count)).astype(np.int32)
    frame = pl.DataFrame(
        {
            **{name: np.array(cells)[who] for name, cells in _ids(stays).items()},
            "charttime": _times(time),
            "storetime": _times(time + rng.integers(1, 60, size=count) * 60),
            "itemid": ITEM[item],
            "value": value,
            "valuenum": value,
            "valueuom": UNIT.gather(item),
            "warning": np.zeros(count, np.int8),
        }
    )
    buffer = io.BytesIO()
    frame.select(columns).write_csv(
        buffer, include_header=False, datetime_format="%Y-%m-%d %H:%M:%S"
    )
    return buffer.getvalue()


def _ids(stays: Sequence[Stay]) -> dict[str, list[int]]:
    return {
        "subject_id": [s.admission.patient.subject_id for s in stays],
        "hadm_id": [s.admission.hadm_id for s in stays],
        "stay_id": [s.stay_id for s in stays],
        "caregiver_id": [caregiver(s.stay_id) for s in stays],
    }


def _seconds(time: datetime) -> int:
    return int((time - EPOCH).total_seconds())


def _times(seconds: np.ndarray) -> pl.Series:
    return pl.Series(seconds * 1000).cast(pl.Datetime("ms"))
