"""MultimodalPred-Small against plain loops over patients, and the contract of every model."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from adacomed.errors import InputError
from adacomed.models.adacomed import SmallModel
from adacomed.models.batch import Batch
from adacomed.models.presets import PRESETS, build_adacomed
from adacomed.models.raw import (
    NONE,
    Events,
    Images,
    ImageShape,
    Notes,
    SeriesShape,
    TableShape,
    TextShape,
    VectorShape,
)
from adacomed.models.small.events import EventEncoder, fixed_embedding, hour_bins, value_bins
from adacomed.models.small.images import (
    ImageEncoder,
    ResNetSize,
    ViewNetwork,
    hour_weights,
    load_resnet,
)
from adacomed.models.small.multimodal_pred import (
    RECIPE,
    MultimodalPred,
    NoteEncoder,
    build_multimodal_pred,
)
from adacomed.training.fit import Recipe
from adacomed.training.neural import fill_bank
from tests.models.raw_batches import SHAPES, make_raw_batch

ORIGINAL = {
    "vitals": SeriesShape(41),
    "note": TextShape(30_000, 512),
    "xray": ImageShape(4, 224),
    "demographics": TableShape(5),
}


def make_model(shapes=SHAPES, *, width: int = 16, seed: int = 0, **options) -> MultimodalPred:
    torch.manual_seed(seed)
    resnet: ResNetSize = "tiny"
    return build_multimodal_pred(shapes, classes=2, width=width, resnet=resnet, **options)


def doubled(batch: Batch) -> Batch:
    return batch.to("cpu", torch.float64)


def logits(model: nn.Module, batch: Batch) -> torch.Tensor:
    with torch.no_grad():
        return model.double().eval()(doubled(batch)).logits


def bare(batch: Batch) -> Batch:
    """The same patients without a single observed value."""
    events, images, notes = (batch.raw[m] for m in ("vitals", "xray", "note"))
    assert isinstance(events, Events)
    assert isinstance(images, Images)
    assert isinstance(notes, Notes)
    none = torch.full_like
    return replace(
        batch,
        present=torch.zeros_like(batch.present),
        small={m: none(x, torch.nan) for m, x in batch.small.items()},
        raw={
            "vitals": Events(none(events.hours, torch.nan), none(events.value, 1e9)),
            "xray": replace(
                images, item=none(images.item, NONE), hours=none(images.hours, torch.nan)
            ),
            "note": replace(notes, item=none(notes.item, NONE)),
        },
    )


# ---- size


def test_parameters_at_the_original_shapes():
    with torch.device("meta"):
        model = build_multimodal_pred(ORIGINAL, classes=2)
    count = sum(p.numel() for p in model.parameters())
    assert count == 49_581_058
    assert count == pytest.approx(49.7e6, rel=0.01)  # Table 6 of the paper
    assert model.width == 1536
    assert model.head.weight.shape == (2, 1536)


def test_resnet18_is_the_known_network():
    with torch.device("meta"):
        network = ViewNetwork(width=512, resnet="18")
    convolutions = [m for m in network.trunk.modules() if isinstance(m, nn.Conv2d)]
    assert len(convolutions) == 17 + 3  # and the linear layer; 3 on the short cuts
    assert sum(p.numel() for p in network.trunk.parameters()) == 11_176_512


# ---- series


def test_fixed_embedding_by_hand():
    table = fixed_embedding(200, 8)
    angles = np.arange(4) * 7 / (199 * 3)
    assert table.shape == (200, 8)
    assert not table[0].any()
    np.testing.assert_allclose(table[7], np.r_[np.sin(angles), np.cos(angles)], rtol=1e-6)


def test_bins_by_hand():
    x = torch.tensor([-1.0, 0.0, 0.5, 0.999, 1.0, 7.0])
    assert value_bins(x).tolist() == [1, 1, 100, 199, 199, 199]
    hours = torch.tensor([-3.0, 0.0, 0.25, 24.0, 47.9, 48.0, 500.0])
    assert hour_bins(hours).tolist() == [0, 0, 1, 100, 199, 199, 199]


def loop_events(encoder: EventEncoder, batch: Batch) -> torch.Tensor:
    """The same branch with an explicit concatenation per measured value."""
    events, table = batch.raw["vitals"], batch.small["clinical"]
    assert isinstance(events, Events)
    rows = []
    for b in range(len(batch)):

        def embed(number: int, x: torch.Tensor) -> torch.Tensor:
            pair = [encoder.variable.weight[number], encoder.bins[value_bins(x)]]
            return encoder.map(torch.cat(pair))

        described = [
            embed(encoder.variables + p, (x + 3) / 6) for p, x in enumerate(table[b]) if x == x
        ]
        steps = [(h, v) for h, v in zip(events.hours[b], events.value[b], strict=True) if h == h]
        if not steps and described:
            steps = [(events.hours.new_zeros(()), events.value[b, 0] * torch.nan)]
        sequence = []
        for hour, value in steps:
            seen = [embed(v, x) for v, x in enumerate(value) if x == x] + described
            known = torch.stack(seen).amax(0) if seen else encoder.bins.new_zeros(8)
            sequence.append(torch.cat([known, encoder.bins[hour_bins(hour)]]))
        zeros = encoder.bins.new_zeros(16)
        rows.append(encoder.lstm(torch.stack(sequence))[0].amax(0) if sequence else zeros)
    return torch.stack(rows)


def test_series_branch_equals_a_loop_over_patients():
    batch = doubled(make_raw_batch(24))
    batch.small["clinical"][:8] = torch.nan  # some with neither table nor events
    torch.manual_seed(0)
    encoder = EventEncoder(series="vitals", variables=3, tables={"clinical": 4}, width=16)
    encoder.double()
    y = encoder(batch)
    torch.testing.assert_close(y, loop_events(encoder, batch), rtol=0, atol=1e-12)
    events = batch.raw["vitals"]
    assert isinstance(events, Events)
    nothing = batch.small["clinical"].isnan().all(1) & events.hours.isnan().all(1)
    assert 0 < nothing.sum() < 8
    assert not y[nothing].any()


def test_table_alone_is_one_step_at_hour_zero():
    batch = doubled(make_raw_batch(6))
    events = batch.raw["vitals"]
    assert isinstance(events, Events)
    torch.manual_seed(0)
    series = EventEncoder(series="vitals", variables=0, tables={"clinical": 4}, width=16).double()
    alone = EventEncoder(series=None, variables=0, tables={"clinical": 4}, width=16).double()
    alone.load_state_dict(series.state_dict())
    hours, value = torch.full((6, 1), torch.nan), torch.zeros(6, 1, 0)
    empty = replace(batch, raw={"vitals": Events(hours, value)})
    assert torch.equal(series(empty), alone(batch))
    assert alone(batch).any()


# ---- images


def test_images_of_a_view_are_weighted_by_softmax_of_their_hours():
    hours = torch.tensor([[1.0, 2.0, 4.0, torch.nan]])
    of_view = torch.tensor([[[1, 0], [0, 1], [1, 0], [0, 0]]]).bool()
    late = 1 / (1 + np.exp(-3.0))
    expected = [[[1 - late, 0], [0, 1], [late, 0], [0, 0]]]
    np.testing.assert_allclose(hour_weights(hours, of_view), expected, rtol=1e-6)


def test_image_branch_equals_a_loop_over_patients():
    batch = doubled(make_raw_batch(12))
    images = batch.raw["xray"]
    assert isinstance(images, Images)
    torch.manual_seed(0)
    encoder = ImageEncoder(name="xray", views=2, width=8, resnet="tiny").double().eval()
    expected = []
    for b in range(12):
        views = []
        for v in range(2):
            mine = [
                (images.pixels[i], h)
                for i, h in zip(images.item[b], images.hours[b], strict=True)
                if i >= 0 and images.view[i] == v
            ]
            if mine:
                x = torch.stack([p for p, _ in mine]).double() / 255
                weights = torch.stack([h for _, h in mine]).softmax(0)
                views.append(weights @ encoder.networks[v](x))
        expected.append(torch.stack(views).mean(0) if views else torch.zeros(8).double())
    y = encoder(batch)
    torch.testing.assert_close(y, torch.stack(expected), rtol=0, atol=1e-12)
    assert not y[(images.item < 0).all(1)].any()


def test_each_image_of_the_batch_goes_through_one_network_once():
    batch = make_raw_batch(12)
    images = batch.raw["xray"]
    assert isinstance(images, Images)
    encoder = ImageEncoder(name="xray", views=2, width=8, resnet="tiny").eval()
    seen: list[int] = []
    for network in encoder.networks:
        network.register_forward_hook(lambda _, args, __: seen.append(len(args[0])))
    some = torch.tensor([3, 1, 3, 5, 5, 5])
    encoder(batch.rows(some))
    item = images.item[some]
    assert sum(seen) == len(set(item[item >= 0].tolist()))


def test_a_single_training_image_is_normalised_by_the_running_statistics():
    torch.manual_seed(0)
    network = ViewNetwork(width=8, resnet="tiny").train()
    before = {k: v.clone() for k, v in network.state_dict().items()}
    network(torch.rand(1, 32, 32)).sum().backward()
    assert all(torch.equal(v, before[k]) for k, v in network.state_dict().items())
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())
    assert network.trunk.training
    network(torch.rand(2, 32, 32))
    assert not all(torch.equal(v, before[k]) for k, v in network.state_dict().items())


@pytest.mark.parametrize("prefix", ["", "resnet."])
def test_published_weights_reach_every_view(prefix):
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(5)
    sizes = {"embedding_size": 8, "hidden_sizes": [8, 8, 16, 16], "depths": [1, 1, 1, 1]}
    config = transformers.ResNetConfig(layer_type="basic", **sizes)
    published = transformers.ResNetForImageClassification(config).eval()
    tensors = published.state_dict() if prefix else published.resnet.state_dict()
    model = make_model().eval()
    load_resnet(model, {k: v for k, v in tensors.items() if "num_batches" not in k})
    x = torch.rand(2, 32, 32)
    expected = published.resnet(x[:, None].repeat(1, 3, 1, 1)).pooler_output.flatten(1)
    networks = [m for m in model.modules() if isinstance(m, ViewNetwork)]
    assert len(networks) == 2
    for network in networks:
        torch.testing.assert_close(network(x), network.fc(expected))


def test_foreign_weights_are_refused():
    model = make_model()
    network = next(m for m in model.modules() if isinstance(m, ViewNetwork))
    tensors = network.trunk.state_dict()
    name = "embedder.embedder.convolution.weight"
    with pytest.raises(InputError, match="microsoft/resnet-18"):
        load_resnet(model, {**tensors, name: torch.zeros(64, 3, 7, 7)})
    with pytest.raises(InputError, match=name):
        load_resnet(model, {k: v for k, v in tensors.items() if k != name})
    with pytest.raises(InputError, match="no images"):
        load_resnet(make_model({"ct": VectorShape(7)}), tensors)


# ---- notes


def test_note_branch_equals_a_loop_over_patients():
    batch = doubled(make_raw_batch(12))
    notes = batch.raw["note"]
    assert isinstance(notes, Notes)
    torch.manual_seed(0)
    encoder = NoteEncoder(name="note", width_in=6, width=8).double()
    expected = [
        encoder.lstm(notes.vector[item[item >= 0]])[0].amax(0)
        if (item >= 0).any()
        else torch.zeros(8).double()
        for item in notes.item
    ]
    torch.testing.assert_close(encoder(batch), torch.stack(expected), rtol=0, atol=1e-12)


# ---- the contract of every model


def test_a_prediction_depends_on_that_patient_alone():
    model, batch = make_model(), make_raw_batch(24)
    together = logits(model, batch)
    assert together.isfinite().all()
    assert together.std(0).min() > 1e-3  # and patients differ
    for rows in ([i] for i in range(24)):
        alone = logits(model, batch.rows(torch.tensor(rows)))
        assert (alone - together[rows]).abs().max() <= 1e-6
    some = torch.randperm(24, generator=torch.Generator().manual_seed(1))[:17]
    assert (logits(model, batch.rows(some)) - together[some]).abs().max() <= 1e-6


def test_absent_values_never_reach_the_output():
    model, batch = make_model(), make_raw_batch(24)
    half = torch.arange(12)
    together = logits(model, batch)[:12]
    mine = batch.rows(half)
    events, images, notes = (mine.raw[m] for m in ("vitals", "xray", "note"))
    assert isinstance(events, Events)
    assert isinstance(images, Images)
    assert isinstance(notes, Notes)
    pixels, vector = torch.full_like(images.pixels, 255), torch.full_like(notes.vector, torch.nan)
    used, read = images.item[images.item >= 0], notes.item[notes.item >= 0]
    pixels[used], vector[read] = images.pixels[used], notes.vector[read]
    value = torch.where(events.hours.isnan()[..., None], 1e9, events.value)
    poisoned = replace(
        mine,
        embeddings={"ct": torch.where(mine.present, mine.embeddings["ct"], 1e9)},
        raw={
            "vitals": replace(events, value=value),
            "xray": replace(images, pixels=pixels),
            "note": replace(notes, vector=vector),
        },
    )
    assert (logits(model, poisoned) - together).abs().max() <= 1e-12


def test_a_patient_with_nothing_at_all_gets_the_heads_bias():
    model, batch = make_model(), bare(make_raw_batch(5))
    assert torch.equal(logits(model, batch), model.head.bias.detach().expand(5, 2))
    model.float().train()(batch).logits.sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


def test_training_gives_finite_gradients_and_a_seed_the_same_numbers():
    batch = make_raw_batch(24)
    runs = []
    for _ in range(2):
        model = make_model().train()
        out = model(batch)
        assert out.logits_small is out.logits
        assert batch.target is not None
        nn.functional.cross_entropy(out.logits, batch.target).backward()
        for name, p in model.named_parameters():
            assert p.grad is not None, name
            assert p.grad.isfinite().all(), name
        runs.append([p.grad for p in model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))


@pytest.mark.parametrize(
    ("names", "branches"),
    [
        (["clinical"], 1),
        (["ct"], 1),
        (["ct", "clinical", "other"], 2),  # tables share one branch
        (["vitals", "clinical", "other"], 1),  # or join the series
        (["vitals"], 1),
        (["vitals", "labs", "note", "letters", "xray", "photo", "clinical"], 6),
    ],
)
def test_any_mixture_of_modalities(names, branches):
    twins = {"labs": "vitals", "letters": "note", "photo": "xray", "other": "clinical"}
    batch = make_raw_batch(8)
    raw = batch.raw | {a: batch.raw[b] for a, b in twins.items() if b in batch.raw}
    batch = replace(batch, raw=raw, small=batch.small | {"other": batch.small["clinical"].flip(0)})
    shapes = {n: SHAPES[twins.get(n, n)] for n in names}
    model = make_model(shapes)
    y = logits(model, batch)
    assert model.width == 16 * branches
    assert y.shape == (8, 2)
    assert (logits(model, batch.rows(torch.tensor([5]))) - y[5]).abs().max() <= 1e-6


def test_what_cannot_be_built_says_why():
    with pytest.raises(ValueError, match="multiple of 4"):
        make_model({"clinical": TableShape(2)}, width=6)
    with pytest.raises(ValueError, match="no modality"):
        make_model({})


def test_recipe_is_one_of_the_loops():
    assert Recipe(**RECIPE).batch_size == 8


# ---- as the small model of AdaCoMed


def test_adacomed_starts_from_its_pretrained_head():
    batch = make_raw_batch(24)
    small: SmallModel = make_model()
    pretrained = logits(small, batch)
    model = build_adacomed(PRESETS["default"], {"ct": 7}, small, strategy="ensemble")
    fill_bank(model.float(), batch, seed=0)
    model.double().eval().refresh()
    with torch.no_grad():
        out = model(doubled(batch))
        f = model.head(model.p.small(model.small.embed(doubled(batch))))
    torch.testing.assert_close(f, pretrained, rtol=0, atol=1e-6)
    torch.testing.assert_close(out.logits_small, pretrained, rtol=0, atol=1e-6)
    assert out.logits.isfinite().all()
    model.float().train()(batch).logits.sum().backward()
    assert all(p.grad is None for p in model.small.parameters())


# ---- it learns


def planted(modality: str, n: int, seed: int) -> Batch:
    """Patients whose class is written into one modality; only those who have it."""
    batch = make_raw_batch(n, seed)
    rng = torch.Generator().manual_seed(seed)
    target = torch.randint(0, 2, (n,), generator=rng)
    raw, small, embeddings = dict(batch.raw), dict(batch.small), dict(batch.embeddings)
    if modality == "clinical":
        small["clinical"] = small["clinical"].clone()
        small["clinical"][:, 1] = target * 2.0 - 1 + 0.3 * torch.randn(n, generator=rng)
        return replace(batch, small=small, target=target)
    if modality == "ct":
        here = batch.present[:, 0]
        embeddings["ct"] = embeddings["ct"] + 2.0 * target[:, None] - 1
    elif modality == "vitals":
        events = batch.raw["vitals"]
        assert isinstance(events, Events)
        value = events.value.clone()
        noise = 0.1 * torch.rand(n, 5, generator=rng)
        value[..., 2] = 0.2 + 0.6 * target[:, None] + noise + 0 * value[..., 2]  # one variable
        here = ~value[..., 2].isnan().all(1)
        raw["vitals"] = replace(events, value=value)
    elif modality == "note":
        notes = batch.raw["note"]
        assert isinstance(notes, Notes)
        here, vector = notes.item[:, 0] >= 0, notes.vector.clone()
        vector[notes.item[here, 0], 0] = 4.0 * target[here] - 2
        raw["note"] = replace(notes, vector=vector)
    else:
        images = batch.raw["xray"]
        assert isinstance(images, Images)
        here, pixels = images.item[:, 0] >= 0, images.pixels.clone()
        for row, y in zip(images.item, target, strict=True):
            pixels[row[row >= 0]] //= 3 if y else 1  # dark images
        raw["xray"] = replace(images, pixels=pixels)
    whole = replace(batch, raw=raw, embeddings=embeddings, target=target)
    return whole.rows(here.nonzero().squeeze(1))


@pytest.mark.parametrize("modality", SHAPES)
def test_it_learns_from_every_modality(modality):
    train, test = planted(modality, 160, 1), planted(modality, 160, 2)
    model = make_model({modality: SHAPES[modality]}).train()
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-2)
    assert train.target is not None
    for _ in range(40):
        optimiser.zero_grad()
        nn.functional.cross_entropy(model(train).logits, train.target).backward()
        optimiser.step()
    accuracy = (logits(model, test).argmax(1) == test.target).double().mean()
    assert accuracy >= 0.85
