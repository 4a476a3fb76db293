"""A GRU on raw series: hourly values carried forward, what was measured, and how long ago.

Source: Che, Purushotham, Cho, Sontag, Liu, Scientific Reports 2018, "Recurrent Neural Networks for
Multivariate Time Series with Missing Values": its inputs [x; m; δ] to an ordinary GRU, with values
carried forward (their GRU-forward with the mask and the interval of GRU-simple).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from adacomed.errors import InputError
from adacomed.models.batch import Batch, Output
from adacomed.models.raw import Events, SeriesShape, Shape, TableShape
from adacomed.models.small.events import recurrent

BIN_HOURS = 1.0
MAX_BINS = 256  # a patient's last ones; what is older is carried into the first of them
# Events scale a variable's 1st to 99th percentile to [0, 1]: 4.65 standard deviations of a normal
DEVIATIONS = 4.65
DAY = 24.0  # hours; the unit of δ, so that it is of the order of one


def binned(events: Events, *, bin_hours: float, max_bins: int) -> tuple[Tensor, Tensor]:
    """Events in equal bins of time, from a patient's first measurement to the last.

    Args:
        events: (B, T) time stamps of V variables.
        bin_hours: width of a bin, which holds its variable's last value.
        max_bins: L is at most this.
    Returns:
        x: (B, L, 3V): per variable the value carried forward, about standardised, 0 before the
            first one; 1 where measured in this bin, else 0; days since the last bin before this one
            in which it was measured (since the first bin where there is none).
        lengths: (B,) int64, bins of each patient; 0 without any time stamp.
    """
    here = ~events.hours.isnan()  # (B, T)
    place = (torch.where(here, events.hours, 0.0) / bin_hours).floor().long()
    steps = here.sum(1)  # (B,)
    last = place.gather(1, (steps - 1).clamp_min(0)[:, None])[:, 0]
    first = torch.maximum(place[:, 0], last - max_bins + 1)
    lengths = torch.where(steps > 0, last - first + 1, 0)
    L = max(int(lengths.max()), 1) if len(lengths) else 1
    place = (place - first[:, None]).clamp(0, L - 1)

    T, V = events.value.shape[1:]
    measured = here[..., None] & ~events.value.isnan()  # (B, T, V)
    event = torch.where(measured, torch.arange(T, device=place.device)[:, None], -1)
    latest = event.new_full((len(event), L, V), -1)
    latest = latest.scatter_reduce(1, place[..., None].expand(-1, -1, V), event, "amax")
    mask = latest >= 0  # (B, L, V)
    latest = latest.cummax(1).values  # carried forward
    value = events.value.gather(1, latest.clamp_min(0))
    value = torch.where(latest >= 0, (value - 0.5) * DEVIATIONS, 0.0)

    step = torch.arange(L, device=place.device)[:, None]
    seen = torch.where(mask, step, 0).cummax(1).values
    before = torch.cat([torch.zeros_like(seen[:, :1]), seen[:, :-1]], dim=1)
    since = (step - before).to(value.dtype) * (bin_hours / DAY)
    return torch.cat([value, mask.to(value.dtype), since], dim=-1), lengths


class SeriesState(nn.Module):
    """The GRU's state after a patient's last bin; a learnt vector for a patient without series.

    Args:
        name: of the series in `Batch.raw`.
        variables: V.
        width: of the state.
    """

    def __init__(
        self, *, name: str, variables: int, width: int, bin_hours: float, max_bins: int
    ) -> None:
        super().__init__()
        self.name, self.bin_hours, self.max_bins = name, bin_hours, max_bins
        self.gru = nn.GRU(3 * variables, width, batch_first=True)
        self.nothing = nn.Parameter(torch.zeros(width))

    def forward(self, batch: Batch) -> Tensor:
        """(B, width)."""
        events = batch.raw[self.name]
        assert isinstance(events, Events)
        x, lengths = binned(events, bin_hours=self.bin_hours, max_bins=self.max_bins)
        state = self.nothing.expand(len(batch), -1)
        rows = lengths.nonzero().squeeze(1)
        if not len(rows):
            return state
        _, last = recurrent(self.gru, x[rows], lengths[rows])  # (1, rows, width)
        return state.index_copy(0, rows, last[0].to(state.dtype))


class GRUClassifier(nn.Module):
    """States of all series and the tables' columns side by side, and one Linear.

    A column that is not recorded is 0 (the training mean), with a flag of its own.

    Args:
        series: each maps a `Batch` to (B, width).
        tables: name in `Batch.small` → its number of columns, standardised, NaN = not recorded.
        classes: K.
        dropout: of the states.
    """

    def __init__(
        self,
        *,
        series: list[SeriesState],
        width: int,
        tables: Mapping[str, int],
        classes: int,
        dropout: float,
    ) -> None:
        super().__init__()
        self.series, self.tables = nn.ModuleList(series), list(tables)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(width * len(series) + 2 * sum(tables.values()), classes)

    def forward(self, batch: Batch) -> Output:
        """Logits (B, K)."""
        states = [self.dropout(series(batch)) for series in self.series]
        for name in self.tables:
            recorded = ~batch.small[name].isnan()
            filled = torch.where(recorded, batch.small[name], 0.0)
            states += [filled, recorded.to(filled.dtype)]
        return Output(logits=self.head(torch.cat(states, dim=1)))


def build_gru(
    shapes: Mapping[str, Shape],
    *,
    classes: int,
    width: int = 64,
    dropout: float = 0.5,
    bin_hours: float = BIN_HOURS,
    max_bins: int = MAX_BINS,
) -> GRUClassifier:
    """A GRU for the series and tables among these modalities; the others are not read.

    Args:
        shapes: modality → its shape.
        classes: K.
        width: of a series' state.
    Raises:
        InputError: there is no series.
    """
    series = [
        SeriesState(
            name=name,
            variables=shape.variables,
            width=width,
            bin_hours=bin_hours,
            max_bins=max_bins,
        )
        for name, shape in shapes.items()
        if isinstance(shape, SeriesShape) and shape.variables
    ]
    if not series:
        raise InputError(
            f"gru reads series, and there is none among {', '.join(shapes)}; it needs a modality "
            f"of kind series with measurements"
        )
    tables = {name: s.columns for name, s in shapes.items() if isinstance(s, TableShape)}
    return GRUClassifier(
        series=series, width=width, tables=tables, classes=classes, dropout=dropout
    )
