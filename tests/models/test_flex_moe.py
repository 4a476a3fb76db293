"""Flex-MoE: the contract, the bank, the gate against a dense mixture and simulated noise, XOR."""

import pytest
import torch
from torch.nn import functional as F

from adacomed.models.baselines.flex_moe import (
    MissingBank,
    NoisyTopK,
    SparseExperts,
    build_flex_moe,
    complete_first,
    router_loss,
)
from adacomed.models.batch import Batch
from adacomed.models.mome import modality_subsets

from .check_model import check_model, prob
from .conftest import WIDTHS, make_batch


def every_pattern(n: int = 64) -> Batch:
    """`make_batch` with all 8 patterns of 3 modalities in turn, the empty one among them."""
    batch = make_batch(n, complete=True)
    batch.present[:] = torch.arange(n)[:, None] // 2 ** torch.arange(3) % 2 == 1
    for column, x in enumerate(batch.embeddings.values()):
        x[~batch.present[:, column]] = torch.nan
    return batch


def xor_batch(n: int, seed: int) -> Batch:
    """The class is whether the first numbers of two modalities agree in sign: neither tells it."""
    g = torch.Generator().manual_seed(seed)
    a, b = torch.randn(n, 4, generator=g), torch.randn(n, 3, generator=g)
    target = ((a[:, 0] > 0) == (b[:, 0] > 0)).long()
    return Batch({"a": a, "b": b}, torch.ones(n, 2, dtype=torch.bool), target=target)


def learn(model, train: Batch, steps: int, lr: float = 3e-3) -> None:
    torch.manual_seed(0)
    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    model.train()
    for step in range(steps):
        part = train.rows(torch.arange(64) + 64 * step % len(train))
        loss = F.cross_entropy(model(part).logits, part.target)
        auxiliary = getattr(model, "auxiliary", None)
        optimizer.zero_grad()
        (loss if auxiliary is None else loss + auxiliary).backward()
        optimizer.step()
    model.eval()


def accuracy(model, batch: Batch) -> float:
    with torch.no_grad():
        return float((model(batch).logits.argmax(-1) == batch.target).float().mean())


def make(**settings):
    torch.manual_seed(0)
    model = build_flex_moe(WIDTHS, **{"classes": 2, "H": 16, "depth": 2, **settings})
    for p in model.parameters():
        torch.nn.init.normal_(p, std=0.3)
    return model


@pytest.mark.parametrize("settings", [{}, {"depth": 1, "top_k": 7}, {"experts": 9}])
def test_it_keeps_the_contract_of_a_model_on_every_pattern(settings):
    check_model(make(**settings), every_pattern(), make_batch(30, seed=5))


def test_training_has_finite_gradients_wherever_a_part_takes_part():
    model = make()
    model.train()
    batch = every_pattern()
    output = model(batch)
    (F.cross_entropy(output.logits, batch.target) + model.auxiliary).backward()
    unused = {name for name, p in model.named_parameters() if p.grad is None}
    assert all("experts.experts" in name for name in unused)  # only an expert that nobody chose
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)
    assert model.blocks[0].experts.gate.noise.weight.grad.abs().sum() > 0
    model.eval()
    model(batch)
    assert model.auxiliary is None


def test_a_seed_repeats_and_the_meta_device_counts_the_same():
    a, b = (prob(make(), make_batch()) for _ in range(2))
    assert torch.equal(a, b)
    with torch.device("meta"):
        meta = build_flex_moe(WIDTHS, classes=2, H=16, depth=2)
    assert sum(p.numel() for p in meta.parameters()) == sum(p.numel() for p in make().parameters())
    # published sizes: bank (2^M − 1) × M × H
    assert meta.bank.tokens.shape == (7, 3, 16)


def test_the_bank_fills_by_combination_and_leaves_what_is_there():
    bank = MissingBank(3, 4)
    present = every_pattern(8).present
    tokens = torch.randn(8, 3, 4)
    filled = bank(tokens, present)
    subsets = modality_subsets(3)
    for i, row in enumerate(present):
        subset = tuple(torch.where(row)[0].tolist())
        for m in range(3):
            if m in subset:
                expected = tokens[i, m]
            else:
                expected = bank.tokens[subsets.index(subset), m] if subset else torch.zeros(4)
            assert torch.equal(filled[i, m], expected)


def test_gradients_reach_the_used_entries_of_the_bank_and_no_other():
    model = make()
    model.train()
    batch = make_batch(4, complete=True)
    batch.present[:] = torch.tensor([[1, 1, 0], [0, 0, 1], [1, 1, 1], [0, 0, 0]]).bool()
    model(batch).logits.pow(2).sum().backward()
    reached = model.bank.tokens.grad.abs().sum(-1) > 0  # (7, 3)
    subsets = modality_subsets(3)
    expected = torch.zeros(7, 3, dtype=torch.bool)
    expected[subsets.index((0, 1)), 2] = True
    expected[subsets.index((2,)), :2] = True
    assert torch.equal(reached, expected)


def test_sparse_experts_equal_the_dense_mixture_of_their_gates():
    torch.manual_seed(0)
    experts = SparseExperts(8, experts=7, top_k=2, dropout=0.5).eval()
    h, nobody = torch.randn(5, 3, 8), torch.full((5,), -1)
    y, gates, _ = experts(h, nobody, 6)
    assert torch.equal((gates > 0).sum(-1), torch.full((5, 3), 2))
    torch.testing.assert_close(gates.sum(-1), torch.ones(5, 3))
    best = experts.gate.clean(h).topk(2, dim=-1)
    torch.testing.assert_close(gates.gather(-1, best.indices), best.values.softmax(-1))
    dense = torch.stack([e(h) for e in experts.experts], dim=2)  # (B, M, C, H)
    torch.testing.assert_close(y, torch.einsum("bmc,bmch->bmh", gates, dense))


def test_the_load_is_the_chance_to_be_chosen_under_the_noise():
    torch.manual_seed(0)
    gate = NoisyTopK(4, 5, top_k=2).double().train()
    x = torch.randn(1, 4, dtype=torch.float64)
    with torch.no_grad():
        _, logits, load = gate(x)
        clean, std = gate.clean(x)[0], F.softplus(gate.noise(x))[0] + 1e-2
    for i in range(5):  # draw expert i's noise again, the others' stand
        others = torch.cat([logits[0, :i], logits[0, i + 1 :]])
        draws = clean[i] + std[i] * torch.randn(200_000, dtype=torch.float64)
        chance = (draws > others.topk(2).values[-1]).double().mean()
        assert float(load[0, i]) == pytest.approx(float(chance), abs=0.005)


def test_router_loss_by_hand():
    even = torch.full((3, 3), 1 / 3)
    logits = torch.tensor([[0.0, 0, 0], [1, 0, 0], [5, 5, 5]])
    # balanced, and patient 1 of combination 1: −log(1 / (e + 2)); 2 is complete, −1 takes no part
    loss = router_loss(even, logits, even, torch.tensor([2, 1, -1]), 2)
    assert float(loss) == pytest.approx(float(torch.log(torch.e + torch.tensor(2.0))), rel=1e-6)
    # a complete patient's gates (1, 0, 0): variance 1/3 over mean² 1/9
    one = torch.eye(3)[:1]
    assert float(router_loss(one, logits[:1], even[:1], torch.tensor([2]), 2)) == pytest.approx(3.0)
    # an incomplete one's (0, 0, 1) is on the complete's expert: nothing to balance among the rest
    one = torch.eye(3)[2:]
    loss = router_loss(one, logits[:1], even[:1], torch.tensor([0]), 2)
    assert float(loss) == pytest.approx(float(torch.log(torch.tensor(3.0))), rel=1e-6)


def test_the_specialised_router_learns_to_send_patients_to_their_combination():
    torch.manual_seed(0)
    model = build_flex_moe(WIDTHS, classes=2, H=16, dropout=0.1)
    batch = every_pattern(128)
    target = model.bank.combination(batch.present)
    incomplete = (target >= 0) & (target != 6)

    def hit() -> float:
        model.eval()
        router = model(batch).router
        assert router.shape == (128, 7)
        torch.testing.assert_close(router.sum(-1), torch.ones(128))
        return float((router.argmax(-1) == target)[incomplete].float().mean())

    before = hit()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(100):
        model.train()
        model(batch)
        optimizer.zero_grad()
        model.auxiliary.backward()
        optimizer.step()
    assert before < 0.6
    assert hit() > 0.95


def test_the_router_is_reported_only_where_an_expert_is_a_combination():
    model = make(experts=9)
    assert model.eval()(make_batch()).router is None
    with pytest.raises(ValueError, match="3 modalities need ≥ 7 experts"):
        make(experts=6)


def test_one_modality_has_one_expert():
    torch.manual_seed(0)
    model = build_flex_moe({"ct": 7}, classes=3).train()
    batch = Batch({"ct": torch.randn(4, 7)}, torch.ones(4, 1, dtype=torch.bool))
    assert torch.equal(model(batch).router, torch.ones(4, 1))
    assert float(model.auxiliary) == 0


def test_complete_patients_come_first_in_the_warm_up():
    present = torch.tensor([[1, 0, 0], [1, 1, 1], [0, 1, 1], [1, 1, 1], [0, 0, 1]]).bool()
    assert complete_first(present).tolist() == [1, 3, 2, 0, 4]


def test_it_learns_xor_of_two_modalities():
    torch.manual_seed(0)
    model = build_flex_moe({"a": 4, "b": 3}, classes=2, H=16, dropout=0.1)
    test = xor_batch(1000, seed=2)
    learn(model, xor_batch(1024, seed=1), steps=150)
    assert accuracy(model, test) > 0.9
