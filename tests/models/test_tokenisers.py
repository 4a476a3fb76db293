"""Tokens of every kind of input against loops over patients, and the contract of models on them."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from adacomed.errors import InputError
from adacomed.models.baselines.tokenisers import (
    IMAGENET,
    Limits,
    Tokenisers,
    join,
    pack,
    sinusoidal,
)
from adacomed.models.batch import Batch
from adacomed.models.raw import NONE, Events, Images, ImageShape, Notes
from tests.models.raw_batches import SHAPES, make_raw_batch

KINDS = [{name: shape} for name, shape in SHAPES.items()]
EVERY = pytest.mark.parametrize("shapes", [SHAPES, *KINDS], ids=lambda s: "+".join(s))
ALONE = pytest.mark.parametrize("shapes", KINDS, ids=lambda s: "+".join(s))


def double(batch: Batch) -> Batch:
    return batch.to("cpu", torch.float64)


def padded(batch: Batch) -> Batch:
    """The same patients; every raw input has more padding, with rubbish where it may be."""
    n = len(batch)
    vitals, xray, note = (batch.raw[name] for name in ("vitals", "xray", "note"))
    none, late = torch.full((n, 2), NONE), torch.full((n, 7), torch.nan)
    fill = vitals.value.masked_fill(vitals.hours.isnan()[..., None], 1e9)
    raw = {
        "vitals": Events(
            torch.cat([vitals.hours, late], 1), torch.cat([fill, torch.full((n, 7, 3), 1e9)], 1)
        ),
        "xray": replace(
            xray,
            pixels=torch.cat([xray.pixels, torch.full((1, 32, 32), 255).byte()]),
            item=torch.cat([xray.item, none], 1),
            hours=torch.cat([xray.hours, late[:, :2]], 1),
        ),
        "note": replace(
            note,
            vector=torch.cat([note.vector, torch.full((1, 6), torch.nan)]),
            token=torch.cat([nn.functional.pad(note.token, (0, 4)), torch.full((1, 13), 7)]),
            item=torch.cat([note.item, none], 1),
        ),
    }
    ct = batch.embeddings["ct"].masked_fill(~batch.present, 1e9)
    return replace(batch, embeddings={"ct": ct}, raw=raw)


def nobody(n: int = 2) -> Batch:
    """Patients without any modality."""
    batch = make_raw_batch(n)
    vitals, xray, note = (batch.raw[name] for name in ("vitals", "xray", "note"))
    return replace(
        batch,
        embeddings={"ct": torch.full_like(batch.embeddings["ct"], torch.nan)},
        present=torch.zeros_like(batch.present),
        small={"clinical": torch.full_like(batch.small["clinical"], torch.nan)},
        raw={
            "vitals": Events(vitals.hours * torch.nan, vitals.value * torch.nan),
            "xray": replace(xray, item=torch.full_like(xray.item, NONE), hours=xray.hours * 0),
            "note": replace(note, item=torch.full_like(note.item, NONE)),
        },
    )


def joined(a: Batch, b: Batch) -> Batch:
    """The patients of a, then those of b."""
    raw = {}
    for name, x in a.raw.items():
        y = b.raw[name]
        shared = {"xray": ("pixels", "view"), "note": ("vector", "token")}.get(name, ())
        values = {f: torch.cat([getattr(x, f), getattr(y, f)]) for f in vars(x)}
        if shared:
            item = torch.where(y.item == NONE, NONE, y.item + len(getattr(x, shared[0])))
            values["item"] = torch.cat([x.item, item])
        raw[name] = type(x)(**values)
    return Batch(
        {m: torch.cat([x, b.embeddings[m]]) for m, x in a.embeddings.items()},
        torch.cat([a.present, b.present]),
        {m: torch.cat([x, b.small[m]]) for m, x in a.small.items()},
        torch.cat([a.target, b.target]),
        raw=raw,
    )


def prob(model: nn.Module, batch: Batch) -> torch.Tensor:
    with torch.no_grad():
        return torch.softmax(model.double().eval()(double(batch)).logits, -1)[:, 1]


def check_raw_model(model: nn.Module) -> float:
    """A patient's prediction is the patient's own, whatever surrounds it; the largest change."""
    batch, mates = make_raw_batch(10), make_raw_batch(6, seed=5)
    together = prob(model, batch)
    assert torch.isfinite(together).all()
    assert together.std() > 1e-6  # it says something of the patient
    alone = torch.cat([prob(model, batch.rows(torch.tensor([i]))) for i in range(10)])
    order = torch.randperm(10, generator=torch.Generator().manual_seed(1))
    others = [
        alone,
        prob(model, batch.rows(order))[order.argsort()],
        prob(model, joined(mates, batch))[6:],
        prob(model, padded(batch)),
    ]
    worst = max(float((p - together).abs().max()) for p in others)
    assert worst <= 1e-6
    empty = prob(model, nobody())
    assert torch.isfinite(empty).all()
    assert torch.allclose(empty, prob(model, joined(batch, nobody()))[10:], atol=1e-6)
    return worst


def check_gradients(model: nn.Module) -> None:
    """Finite for every trained parameter, none for a frozen one, whatever absent rows hold."""
    model.float().train()
    for batch in (make_raw_batch(16), padded(make_raw_batch(16)), nobody()):
        model.zero_grad()
        nn.functional.cross_entropy(model(batch).logits, batch.target).backward()
        for name, p in model.named_parameters():
            assert p.requires_grad or p.grad is None, name
            assert p.grad is None or torch.isfinite(p.grad).all(), name
        if batch.present.any():
            silent = [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
            assert not [n for n in silent if p_numel(model, n)], silent


def p_numel(model: nn.Module, name: str) -> int:
    return model.get_parameter(name).numel()


def labelled(n: int, seed: int) -> Batch:
    """Patients who have everything; every modality alone tells the class."""
    g = torch.Generator().manual_seed(seed)
    y = torch.randint(0, 2, (n,), generator=g)
    sign = (2.0 * y - 1)[:, None]
    ct, table = torch.randn(n, 7, generator=g), torch.randn(n, 4, generator=g)
    ct[:, :2] += 2 * sign
    table[:, :2] += 2 * sign
    value = torch.rand(n, 4, 3, generator=g)
    value[..., 0] = 0.2 * value[..., 0] + 0.8 * y[:, None]
    pixels = torch.randint(0, 120, (n, 32, 32), generator=g) + 120 * y[:, None, None]
    token = torch.randint(6, 20, (n, 6), generator=g)
    token[:, 2] = 1 + y
    one = torch.arange(n)[:, None]
    hours = torch.arange(4.0).expand(n, 4)
    return Batch(
        {"ct": ct},
        torch.ones(n, 1, dtype=torch.bool),
        {"clinical": table},
        y,
        raw={
            "vitals": Events(hours, value),
            "xray": Images(pixels.byte(), 0 * y, one, 0.0 * one),
            "note": Notes(torch.zeros(n, 6), token, one),
        },
    )


def learnt(model: nn.Module, *, lr: float, steps: int) -> float:
    """Accuracy on new patients after a few steps on 64 others."""
    train, test = labelled(64, seed=1), labelled(200, seed=2)
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=lr)
    model.train()
    for _ in range(steps):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(train).logits, train.target).backward()
        optimizer.step()
    model.eval()
    with torch.no_grad():
        return float((model(test).logits.argmax(1) == test.target).double().mean())


def tokenise(batch: Batch, **limits: int):
    """Tokens in double precision, the vector of the kind of modality left out."""
    torch.manual_seed(0)
    tokenisers = Tokenisers(SHAPES, width=8, limits=Limits(**limits)).double()
    nn.init.zeros_(tokenisers.kind)
    each = dict(zip(tokenisers.modalities, tokenisers.each, strict=True))
    return tokenisers(double(batch)), each


def rows_of(tokens, i: int) -> torch.Tensor:
    return tokens.x[i][tokens.here[i]]


@pytest.mark.parametrize("most", [1, 3, 100])
def test_series_is_torchs_circular_convolution_over_the_own_last_steps(most):
    batch = make_raw_batch()
    tokens, each = tokenise(batch, steps=most)
    conv = nn.Conv1d(6, 8, 3, padding=1, padding_mode="circular", bias=False).double()
    weight = each["vitals"].conv.weight  # (8, 3 · 2V), step by step
    conv.weight = nn.Parameter(weight.view(8, 3, 6).transpose(1, 2))
    events = double(batch).raw["vitals"]
    lengths = set()
    for i in range(len(batch)):
        n = int((~events.hours[i].isnan()).sum())
        lengths.add(n)
        value, hours = events.value[i, :n][-most:], events.hours[i, :n][-most:]
        got = rows_of(tokens["vitals"], i)
        assert len(got) == min(n, most)
        if n:
            steps = torch.cat([value.nan_to_num(0.0), (~value.isnan()).double()], 1)
            want = conv(steps.T[None])[0].T + sinusoidal(hours, 8)
            assert torch.allclose(got, want, rtol=0, atol=1e-12)
    assert lengths >= {0, 1, 2, 5}  # one and two steps wrap onto themselves


def test_hours_are_sines_and_cosines_of_periods_from_6_hours_on():
    hours = torch.tensor([0.0, 3.0], dtype=torch.float64)
    want = [torch.sin(hours), torch.sin(hours / 100), torch.cos(hours), torch.cos(hours / 100)]
    assert torch.allclose(sinusoidal(hours, 4), torch.stack(want, 1), rtol=0, atol=1e-12)


@pytest.mark.parametrize("most", [1, 2, 4])
def test_images_are_patches_of_the_latest_ones(most):
    batch = make_raw_batch()
    tokens, each = tokenise(batch, images=most)
    images, stem, mean_std = (
        batch.raw["xray"],
        each["xray"].stem,
        torch.tensor(IMAGENET, dtype=torch.float64),
    )
    for i in range(len(batch)):
        mine = [
            (float(h), int(k))
            for h, k in zip(images.hours[i], images.item[i], strict=True)
            if k != NONE
        ]
        parts = []
        for _, k in sorted(mine)[-most:]:
            grey = images.pixels[k].double() / 255
            rgb = torch.stack([(grey - m) / s for m, s in mean_std.T])
            for p, (r, c) in enumerate([(0, 0), (0, 16), (16, 0), (16, 16)]):
                patch = rgb[:, r : r + 16, c : c + 16].flatten()
                token = stem.weight.flatten(1) @ patch + stem.bias
                parts.append(token + each["xray"].position[p])
        got = rows_of(tokens["xray"], i)
        assert len(got) == 4 * min(len(mine), most)
        if parts:
            assert torch.allclose(got, torch.stack(parts), rtol=0, atol=1e-12)


def test_the_image_stem_runs_once_an_image_that_occurs():
    batch = make_raw_batch()
    images = batch.raw["xray"]
    twice = replace(images, item=images.item[:1].expand(12, -1), hours=images.hours[:1] * 0)
    twice = replace(twice, hours=twice.hours.expand(12, -1))
    seen = []
    tokenisers = Tokenisers({"xray": SHAPES["xray"]}, width=8, limits=Limits())
    tokenisers.each[0].stem.register_forward_hook(lambda _, x, __: seen.append(len(x[0])))
    tokenisers(replace(batch, raw={"xray": twice}))
    assert seen == [int((images.item[0] != NONE).sum())]
    assert 0 < seen[0] < len(images.pixels)


@pytest.mark.parametrize("most", [1, 7, 100])
def test_text_is_the_last_words_of_all_notes(most):
    batch = make_raw_batch()
    tokens, each = tokenise(batch, words=most)
    notes = batch.raw["note"]
    for i in range(len(batch)):
        words = [int(w) for k in notes.item[i] if k != NONE for w in notes.token[k] if w]
        got = rows_of(tokens["note"], i)
        assert len(got) == min(len(words), most)
        for p, word in enumerate(words[-most:]):
            want = each["note"].word.weight[word] + each["note"].position[p]
            assert torch.allclose(got[p], want, rtol=0, atol=1e-12)


def test_a_vector_is_one_token_and_a_table_one_a_column():
    batch = make_raw_batch()
    tokens, each = tokenise(batch)
    ct, table = batch.embeddings["ct"].double(), batch.small["clinical"].double()
    assert torch.equal(tokens["ct"].here, batch.present)
    assert torch.equal(tokens["clinical"].here, ~table.isnan())
    here = batch.present[:, 0]
    want = ct[here] @ each["ct"].projection.weight.T + each["ct"].projection.bias
    assert torch.allclose(tokens["ct"].x[here, 0], want, rtol=0, atol=1e-12)
    for i, j in (~table.isnan()).nonzero():
        want = table[i, j] * each["clinical"].weight[j] + each["clinical"].bias[j]
        assert torch.allclose(tokens["clinical"].x[i, j], want, rtol=0, atol=1e-12)


def test_a_vectors_column_is_its_place_among_the_embeddings():
    batch = make_raw_batch()
    both = replace(
        batch,
        embeddings={"other": torch.zeros(12, 2), "ct": torch.randn(12, 7)},
        present=torch.cat([~batch.present, batch.present], 1),
    )
    tokens = Tokenisers({"ct": SHAPES["ct"]}, width=8, limits=Limits())(both)
    assert torch.equal(tokens["ct"].here, batch.present)


def test_every_token_says_its_modality_and_what_is_not_there_is_zero():
    batch = make_raw_batch()
    torch.manual_seed(0)
    tokenisers = Tokenisers(SHAPES, width=8, limits=Limits())
    kind = tokenisers.kind.detach().clone()
    with torch.no_grad():
        one = tokenisers(batch)
        tokenisers.kind.zero_()
        zero = tokenisers(batch)
    for m, name in enumerate(SHAPES):
        x, here = one[name].x, one[name].here
        assert here.any()
        assert not x[~here].any()
        assert torch.allclose(x[here], zero[name].x[here] + kind[m], atol=1e-6)


def test_word_vectors_are_frozen_by_option():
    for train in (True, False):
        tokenisers = Tokenisers(SHAPES, width=8, limits=Limits(), train_words=train)
        frozen = {n for n, p in tokenisers.named_parameters() if not p.requires_grad}
        assert frozen == (set() if train else {"each.2.word.weight"})


def test_pack_closes_gaps_and_cuts_to_the_longest():
    here = torch.tensor([[False, True, False, True], [False, False, True, False]])
    x = torch.arange(8.0).view(2, 4)
    packed, mask = pack(x, here)
    assert packed[mask].tolist() == [1, 3, 6]
    assert mask.tolist() == [[True, True], [True, False]]
    tokens = Tokenisers(SHAPES, width=8, limits=Limits())(nobody())
    assert join(tokens.values()).x.shape == (2, 0, 8)


def test_an_image_smaller_than_a_patch_is_refused():
    with pytest.raises(InputError, match="8 px"):
        Tokenisers({"xray": ImageShape(views=1, size=8)}, width=8, limits=Limits())
