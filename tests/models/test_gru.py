"""The GRU on series: inputs and recurrence against loops by hand, the contract of models."""

import math

import pytest
import torch
from torch.nn import functional as F

from adacomed.errors import InputError
from adacomed.models.baselines.gru import DEVIATIONS, binned, build_gru
from adacomed.models.batch import Batch
from adacomed.models.raw import Events, SeriesShape, TableShape
from tests.models.raw_batches import SHAPES, make_raw_batch
from tests.models.test_tokenisers import check_raw_model, nobody, padded

V = SHAPES["vitals"].variables
nan = math.nan


def make(shapes=SHAPES, seed=0, **settings):
    torch.manual_seed(seed)
    model = build_gru(shapes, **{"classes": 2, "width": 8, **settings})
    for series in model.series:  # not the zeros that it starts as
        torch.nn.init.normal_(series.nothing)
    return model


def by_hand(events: Events, i: int, width: float, most: int) -> list[list[float]]:
    """Patient i's inputs bin by bin, as Che et al. define them."""
    stamps = [(float(h), row) for h, row in zip(events.hours[i], events.value[i], strict=True)]
    stamps = [(math.floor(h / width), row.tolist()) for h, row in stamps if not math.isnan(h)]
    if not stamps:
        return []
    end = stamps[-1][0]
    start = max(stamps[0][0], end - most + 1)
    rows, carried, ago = [], [0.0] * V, [0.0] * V
    for b in range(start, end + 1):
        mine = [row for k, row in stamps if max(k, start) == b]
        mask = [any(not math.isnan(row[v]) for row in mine) for v in range(V)]
        for row in mine:
            for v in range(V):
                if not math.isnan(row[v]):
                    carried[v] = (row[v] - 0.5) * DEVIATIONS
        rows.append([*carried, *map(float, mask), *(a / 24 for a in ago)])
        ago = [width if mask[v] else ago[v] + width for v in range(V)]
    return rows


@pytest.mark.parametrize(("width", "most"), [(1.0, 256), (4.0, 256), (0.5, 7), (100.0, 3)])
def test_inputs_are_those_of_a_loop_over_bins(width, most):
    events = make_raw_batch(30).raw["vitals"].to("cpu", torch.float64)
    events = Events(events.hours - 6, events.value)  # some before the index time
    x, lengths = binned(events, bin_hours=width, max_bins=most)
    assert x.shape[1] == max(lengths) <= most
    assert 0 < sum(lengths == 0) < 30
    for i, n in enumerate(lengths.tolist()):
        wanted = torch.tensor(by_hand(events, i, width, most), dtype=torch.float64).view(-1, 3 * V)
        assert torch.allclose(x[i, :n], wanted, rtol=0, atol=1e-12), i


def test_a_patient_by_hand():
    hours = torch.tensor([[0.2, 0.9, 3.0, nan]])
    value = torch.tensor([[[0.5, nan], [0.7, nan], [nan, 1.0], [9.0, 9.0]]])
    x, lengths = binned(Events(hours, value), bin_hours=1.0, max_bins=10)
    assert lengths.tolist() == [4]
    assert torch.allclose(x[0, :, 0], torch.tensor([0.2, 0.2, 0.2, 0.2]) * DEVIATIONS)
    assert torch.allclose(x[0, :, 1], torch.tensor([0, 0, 0, 0.5]) * DEVIATIONS)
    assert x[0, :, 2:4].tolist() == [[1, 0], [0, 0], [0, 0], [0, 1]]
    assert torch.allclose(x[0, :, 4] * 24, torch.tensor([0.0, 1, 2, 3]))
    assert torch.allclose(x[0, :, 5] * 24, torch.tensor([0.0, 1, 2, 3]))


def test_logits_are_those_of_a_recurrence_by_hand():
    model = make().double().eval()
    batch = make_raw_batch(20).to("cpu", torch.float64)
    (series,) = model.series
    w, u, b, c = series.gru.parameters()  # of inputs, of the state; their biases
    logits = model(batch).logits
    for i in range(20):
        state = torch.zeros(8, dtype=torch.float64)
        rows = by_hand(batch.raw["vitals"], i, 1.0, 256)
        for row in rows:
            r, z, n = (w @ torch.tensor(row, dtype=torch.float64) + b).chunk(3)
            hr, hz, hn = (u @ state + c).chunk(3)
            r, z = torch.sigmoid(r + hr), torch.sigmoid(z + hz)
            state = (1 - z) * torch.tanh(n + r * hn) + z * state
        table = batch.small["clinical"][i]
        parts = [state if rows else series.nothing, table.nan_to_num(), (~table.isnan()).double()]
        wanted = model.head.weight @ torch.cat(parts) + model.head.bias
        assert torch.allclose(logits[i], wanted, rtol=0, atol=1e-12), i


@pytest.mark.parametrize("names", [["vitals"], ["vitals", "clinical"], list(SHAPES)], ids="+".join)
def test_contract_of_a_model(names):
    assert check_raw_model(make({name: SHAPES[name] for name in names})) <= 1e-12


def test_gradients_are_finite_and_reach_every_parameter():
    model = make().train()
    for batch in (make_raw_batch(16), padded(make_raw_batch(16)), nobody()):
        model.zero_grad()
        F.cross_entropy(model(batch).logits, batch.target).backward()
        for name, p in model.named_parameters():
            silent = batch.raw["vitals"].hours.isnan().all() and "gru" in name
            assert p.grad is None if silent else torch.isfinite(p.grad).all(), name
            assert silent or p.grad.abs().sum() > 0, name


def test_a_seed_repeats_and_the_meta_device_counts_the_same():
    batch = make_raw_batch()
    a, b, c = (make(seed=s).eval()(batch).logits for s in (3, 3, 4))
    assert torch.equal(a, b)
    assert not torch.equal(a, c)
    with torch.device("meta"):
        meta = build_gru(SHAPES, classes=2)
    n = 64
    wanted = 3 * n * (3 * V + n + 2) + n + 2 * (n + 2 * 4 + 1)  # GRU, nobody's state, head
    assert sum(p.numel() for p in meta.parameters()) == wanted


def test_several_series_have_a_state_each():
    shapes = {"vitals": SeriesShape(V), "labs": SeriesShape(V)}
    a, b = make_raw_batch(8), make_raw_batch(8, seed=1)
    raw = {"vitals": a.raw["vitals"], "labs": b.raw["vitals"]}
    batch = Batch(a.embeddings, a.present, raw=raw).to("cpu", torch.float64)
    model = make(shapes).double().eval()
    states = torch.cat([series(batch) for series in model.series], dim=1)
    assert states.shape == (8, 16)
    assert torch.equal(model(batch).logits, model.head(states))


@pytest.mark.parametrize("shapes", [{"clinical": TableShape(4)}, {"vitals": SeriesShape(0)}])
def test_a_cohort_without_a_series_is_refused(shapes):
    with pytest.raises(InputError, match=r"none among (clinical|vitals); it .* kind series"):
        build_gru(shapes, classes=2)


def test_it_learns_what_only_the_order_tells():
    """Rising or falling: the same values, so that no summary without time could tell."""
    g = torch.Generator().manual_seed(0)
    n = 256
    hours = torch.arange(8.0).expand(n, -1)
    value = torch.rand(n, 8, 1, generator=g).sort(1).values
    y = torch.randint(0, 2, (n,), generator=g)
    value = torch.where(y[:, None, None] > 0, value, value.flip(1))
    nothing = torch.zeros(n, 0, dtype=torch.bool)
    batch = Batch({}, nothing, target=y, raw={"vitals": Events(hours, value)})
    model = make({"vitals": SeriesShape(1)}, dropout=0.1).train()
    step = torch.optim.Adam(model.parameters(), 0.03)
    for _ in range(40):
        step.zero_grad()
        F.cross_entropy(model(batch).logits, y).backward()
        step.step()
    assert (model.eval()(batch).logits.argmax(1) == y).float().mean() > 0.95
