"""The images, volumes and slides of one patient, and what the page says of each."""

from __future__ import annotations

from dataclasses import dataclass, field

from adacomed.cohort.cohort import Cohort
from adacomed.cohort.items import inside
from adacomed.errors import InputError, nearest
from adacomed.schema import FileCard
from adacomed.serve.views.memory import Memory
from adacomed.serve.views.opening import open_image, open_slide, open_volume
from adacomed.serve.views.pixels import BRIGHT, Picture, Window

SHOWN = 6  # items of a modality that the page shows

Pictures = Memory[Picture]


def pictures(limit: int = 400_000_000) -> Pictures:
    """Room for pictures that were looked at lately, `limit` bytes of them."""
    return Memory(limit, size=lambda picture: picture.values.nbytes)


@dataclass(frozen=True)
class Look:
    """What a page says of one picture; `missing` is the sentence where there is none.

    Attributes:
        n: which item of the modality, counted from 0.
        size: in words.
        low, high: of the values, for sliders; `step` of these.
        planes: of a volume, with their numbers of slices.
    """

    n: int
    missing: str = ""
    size: str = ""
    unit: str = ""
    window: Window = BRIGHT
    low: float = 0.0
    high: float = 255.0
    step: float = 1.0
    presets: dict[str, Window] = field(default_factory=dict)
    planes: dict[str, int] = field(default_factory=dict)
    note: str = ""

    @property
    def lowest(self) -> float:
        """Of the slider of the window's centre."""
        return min(self.low, *(window.centre for window in self._windows))

    @property
    def highest(self) -> float:
        """Of the same slider."""
        return max(self.high, *(window.centre for window in self._windows))

    @property
    def widest(self) -> float:
        """Of the slider of the window's width."""
        return max(self.high - self.low, *(window.width for window in self._windows))

    @property
    def _windows(self) -> list[Window]:
        """Those that a button sets: the sliders must reach them."""
        return [self.window, *self.presets.values()]


def files(cohort: Cohort, modality: str) -> list[str]:
    """Names of the files that the one patient of `cohort` has of a modality, each once."""
    return list(dict.fromkeys(cohort.cells(modality)[0]))


def picture(cohort: Cohort, modality: str, n: int, kept: Pictures) -> Picture:
    """Item n, counted from 0, of the one patient's images, volumes or slides.

    Raises:
        InputError: there is no such item, or it cannot be read; the message has no path in it.
    """
    card = cohort.card.modalities.get(modality)
    if not isinstance(card, FileCard):
        known = [m for m, c in cohort.card.modalities.items() if isinstance(c, FileCard)]
        raise InputError(f"no images of {modality!r}{nearest(modality, known)}")
    names = files(cohort, modality)
    if not 0 <= n < len(names):
        raise InputError(f"modality {modality!r} has {len(names)} of {card.kind}, there is no {n}")
    root = (cohort.root / card.root).resolve()
    try:
        path = inside(root, names[n])
        stat = path.stat()
        key = (card.kind, str(path), stat.st_size, stat.st_mtime_ns)
        return kept.get(key, lambda: _OPEN[card.kind](path))
    except OSError:
        raise InputError(f"{card.kind} {n + 1} of {modality!r} cannot be read") from None
    except InputError as error:
        # a path says where the data lie, and a file's name may say whose they are
        told = str(error).replace(str(root / names[n]), f"{card.kind} {n + 1}")
        told = told.replace(names[n], f"{card.kind} {n + 1}").replace(str(root), "its folder")
        raise InputError(told) from None


def looks(cohort: Cohort, modality: str, kept: Pictures) -> list[Look]:
    """What the page says of the patient's first items of a modality, at most `SHOWN`."""
    return [
        _look(cohort, modality, n, kept) for n in range(min(SHOWN, len(files(cohort, modality))))
    ]


def _look(cohort: Cohort, modality: str, n: int, kept: Pictures) -> Look:
    try:
        found = picture(cohort, modality, n, kept)
    except InputError as error:
        return Look(n, missing=str(error))
    low, high = found.range
    return Look(
        n=n,
        size=_size(found),
        unit=found.unit,
        window=found.window,
        low=low,
        high=high,
        step=1.0 if high - low > 20 else (high - low) / 200,
        presets=found.presets,
        planes=found.planes,
        note=found.note,
    )


def _size(found: Picture) -> str:
    if found.spacing is not None:
        voxels = " × ".join(map(str, found.values.shape))
        return f"{voxels} voxels of {' × '.join(f'{mm:.3g}' for mm in found.spacing)} mm"
    return f"{found.values.shape[1]} × {found.values.shape[0]} pixels"


_OPEN = {"image": open_image, "volume": open_volume, "slide": open_slide}
