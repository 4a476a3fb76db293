"""The series branch of MultimodalPred-Small: events at distinct time stamps → one vector.

Every measured value is an event. Its embedding is Linear(variable ‖ value): the variable's part is
learned, the value's is a fixed sinusoid of which of 200 bins it falls into. At each time stamp the
events and the patient's table (the demographics of the original) are max-pooled; with a fixed
embedding of the hour they go through a bidirectional LSTM, and the maximum over time is the vector.
Source: Wang, Yin, Zhang, Heliyon 2024, the joint variant, and facts read off its public code.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from adacomed.models.batch import Batch
from adacomed.models.raw import Events

BINS = 200
HORIZON = 48.0  # hours; later events share the last bin
TABLE_RANGE = 3.0  # standard deviations; a table's columns are binned over ± this


def fixed_embedding(bins: int, width: int) -> Tensor:
    """Sinusoids of the number of a bin, (bins, width); row 0 is zero: not measured.

    Row b holds the sines, then the cosines, of the angles b·i / ((bins − 1)(width/2 − 1)) for i in
    0 … width/2 − 1, so that angles lie in [0, 1] radian.
    """
    half = width // 2
    angle = torch.outer(torch.arange(bins, dtype=torch.float64), torch.arange(half).double())
    angle = angle / max((bins - 1) * (half - 1), 1)  # (bins, half)
    rows = torch.cat([angle.sin(), angle.cos()], dim=1)
    rows[0] = 0.0
    return rows.to(torch.get_default_dtype())


def value_bins(x: Tensor) -> Tensor:
    """Row of the value embedding, 1 … 199, for values scaled to [0, 1]; others go to the ends."""
    return 1 + (x.clamp(0.0, 1.0) * (BINS - 1)).long().clamp_max(BINS - 2)


def hour_bins(hours: Tensor) -> Tensor:
    """Row of the hour embedding, 0 … 199, over 48 hours; others go to the ends."""
    return (hours / HORIZON * BINS).long().clamp(0, BINS - 1)


def lstm_maximum(lstm: nn.LSTM, x: Tensor, lengths: Tensor) -> Tensor:
    """An LSTM's outputs, maximum over each row's own steps.

    Args:
        lstm: batch first.
        x: (n, T, D); what lies behind a row's length is not read.
        lengths: (n,) int64, 0 … T.
    Returns:
        (n, hidden × directions); zeros for a row without any step.
    """
    hidden = lstm.hidden_size * (2 if lstm.bidirectional else 1)
    y = x.new_zeros(len(x), hidden)
    rows = lengths.nonzero().squeeze(1)
    if not len(rows):
        return y
    steps, _ = recurrent(lstm, x[rows], lengths[rows])
    padded, _ = pad_packed_sequence(steps, batch_first=True, padding_value=-torch.inf)
    return y.index_copy(0, rows, padded.amax(1).to(y.dtype))


def recurrent(layer: nn.RNNBase, x: Tensor, lengths: Tensor) -> Any:
    """What an LSTM or GRU returns of x (n, T, D), row by row as long as `lengths` (n,) says.

    In its weights' precision under autocast too: not every processor has a half one of it.
    """
    x = x.to(next(layer.parameters()).dtype)
    packed = pack_padded_sequence(x, lengths.cpu(), batch_first=True, enforce_sorted=False)
    with torch.autocast(x.device.type, enabled=False):
        return layer(packed)


class EventEncoder(nn.Module):
    """Events of one series, with the table's columns at every time stamp → (B, width).

    A patient without a time stamp gets one step at hour 0 made of the table alone; one without
    either gets zeros. Without a series the table alone makes the branch.

    Args:
        series: name of the series in `Batch.raw`, or None.
        variables: V of that series.
        tables: name in `Batch.small` → its number of columns, standardised, NaN = not recorded.
        width: of the output, a multiple of 4; the embeddings and each LSTM direction have half.
    """

    bins: Tensor

    def __init__(
        self, *, series: str | None, variables: int, tables: Mapping[str, int], width: int
    ) -> None:
        super().__init__()
        if width % 4:
            raise ValueError(f"width={width} must be a multiple of 4")
        half = width // 2
        self.series, self.tables, self.variables = series, list(tables), variables
        self.variable = nn.Embedding(variables + sum(tables.values()), half)
        self.map = nn.Linear(2 * half, half)
        self.lstm = nn.LSTM(2 * half, half, batch_first=True, bidirectional=True)
        self.register_buffer("bins", fixed_embedding(BINS, half), persistent=False)

    def forward(self, batch: Batch) -> Tensor:
        """(B, width); a patient without any event or recorded column gets zeros."""
        table = self._table(batch)  # (B, P)
        recorded = ~table.isnan()
        hours, value, lengths = self._steps(batch, table, recorded.any(1))
        steps = self._pooled(value, table, recorded)  # (B, T, width/2)
        clock = F.embedding(hour_bins(hours), self.bins)
        return lstm_maximum(self.lstm, torch.cat([steps, clock], dim=-1), lengths)

    def _table(self, batch: Batch) -> Tensor:
        """Columns of all tables (B, P), their range scaled to [0, 1], NaN where not recorded."""
        columns = [batch.small[name] for name in self.tables]
        if not columns:
            return self.bins.new_empty(len(batch), 0)
        return (torch.cat(columns, dim=1) + TABLE_RANGE) / (2 * TABLE_RANGE)

    def _steps(
        self, batch: Batch, table: Tensor, described: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Hours (B, T) without NaN, values (B, T, V) with NaN where none, steps (B,)."""
        if self.series is None:
            hours, value = table.new_zeros(len(table), 1), table.new_empty(len(table), 1, 0)
            return hours, value, described.long()
        events = batch.raw[self.series]
        assert isinstance(events, Events)
        here = ~events.hours.isnan()
        value = torch.where(here[..., None], events.value, torch.nan)
        lengths = torch.where(here.any(1), here.sum(1), described.long())
        return torch.where(here, events.hours, 0.0), value, lengths

    def _pooled(self, value: Tensor, table: Tensor, recorded: Tensor) -> Tensor:
        """Maximum over what is known at each time stamp, (B, T, width/2); zero for nothing."""
        # Linear(variable ‖ value) = one table of variables + one of bins: rows are looked up
        # for what was measured only, and no (B, T, V, width) tensor exists
        half = self.map.out_features
        of_variable = F.linear(self.variable.weight, self.map.weight[:, :half], self.map.bias)
        of_bin = F.linear(self.bins, self.map.weight[:, half:])  # (200, width/2)
        B, T, V = value.shape

        def maximum(x: Tensor, known: Tensor, first: int) -> Tensor:
            """x and known (n, columns) → (n, width/2), −inf where nothing is known."""
            row, column = known.nonzero(as_tuple=True)
            bins = value_bins(x[row, column])
            events = F.embedding(first + column, of_variable) + F.embedding(bins, of_bin)
            empty = events.new_full((len(x), half), -torch.inf)
            return empty.scatter_reduce(0, row[:, None].expand(-1, half), events, "amax")

        flat = value.reshape(B * T, V)
        measured = maximum(flat, ~flat.isnan(), 0).view(B, T, half)
        described = maximum(table, recorded, V)[:, None]  # (B, 1, width/2)
        steps = torch.maximum(measured, described)
        return steps.masked_fill(steps == -torch.inf, 0.0)
