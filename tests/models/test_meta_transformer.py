"""Meta-Transformer: contract, blocks against torch's own, published size and weights."""

import pytest
import torch
from torch import nn

from adacomed.errors import InputError
from adacomed.models.baselines.meta_transformer import (
    SIZES,
    Block,
    build_meta_transformer,
    load_trunk,
)
from adacomed.models.raw import ImageShape, SeriesShape, TextShape
from tests.models.raw_batches import SHAPES, make_raw_batch
from tests.models.test_tokenisers import (
    ALONE,
    EVERY,
    check_gradients,
    check_raw_model,
    learnt,
    nobody,
)

LAYERS = ("norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2")


def tiny(shapes=SHAPES, seed=0):
    torch.manual_seed(seed)
    return build_meta_transformer(shapes, classes=2, size="tiny")


@EVERY
def test_contract_of_a_model(shapes):
    assert check_raw_model(tiny(shapes)) <= 1e-12


@EVERY
def test_finite_gradients_for_everything_that_is_trained(shapes):
    check_gradients(tiny(shapes))


def test_a_seed_gives_the_same_numbers():
    batch = make_raw_batch()
    a, b, c = (tiny(seed=s)(batch).logits for s in (3, 3, 4))
    assert torch.equal(a, b)
    assert not torch.equal(a, c)


def test_a_patient_without_a_modality_is_the_cls_token_alone():
    model = tiny().double().eval()
    x, here = model.cls[None, None], torch.ones(1, 1, dtype=torch.bool)
    for block in model.trunk:
        x = block(x, here)
    want = model.head(model.norm(x[0]))
    assert torch.allclose(model(nobody().to("cpu", torch.float64)).logits, want, rtol=0, atol=1e-12)


def test_blocks_are_torchs_pre_norm_encoder_layer():
    torch.manual_seed(0)
    ours = Block(32, heads=4).double()
    for p in ours.parameters():
        nn.init.normal_(p, std=0.3)
    theirs = nn.TransformerEncoderLayer(
        32, 4, 128, dropout=0.0, activation="gelu", layer_norm_eps=1e-6, batch_first=True,
        norm_first=True, dtype=torch.float64,
    )  # fmt: skip
    names = ("norm1", "self_attn.in_proj_", "self_attn.out_proj", "norm2", "linear1", "linear2")
    state = {}
    for mine, other in zip(LAYERS, names, strict=True):
        for kind in ("weight", "bias"):
            key = f"{other}{kind}" if other.endswith("_") else f"{other}.{kind}"
            state[key] = ours.state_dict()[f"{mine}.{kind}"]
    theirs.load_state_dict(state)
    x = torch.randn(3, 7, 32, dtype=torch.float64)
    here = torch.arange(7) < torch.tensor([[7], [4], [1]])
    want = theirs(x, src_key_padding_mask=~here)
    assert float((ours(x, here) - want)[here].detach().abs().max()) <= 1e-12


@ALONE
def test_it_learns_from_every_kind_of_input(shapes):
    assert learnt(tiny(shapes), lr=3e-3, steps=30) >= 0.9


def test_published_size():
    shapes = {"xray": ImageShape(2, 224), "vitals": SeriesShape(46), "note": TextShape(49408, 512)}
    with torch.device("meta"):
        model = build_meta_transformer(shapes, classes=2, train_words=False)
    trunk = sum(p.numel() for p in model.trunk.parameters())
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert round(trunk / 1e6, 1) == 302.3
    assert trained == pytest.approx(302.8e6, rel=0.01)  # Table 6


def published(blocks: int, width: int) -> dict[str, torch.Tensor]:
    """A state dict in the naming of the published encoder, a list of timm's ViT blocks."""
    rows = {"attn.qkv": 3, "mlp.fc1": 4}
    columns = {"mlp.fc2": 4}
    found = {}
    for i in range(blocks):
        for layer in LAYERS:
            n = rows.get(layer, 1) * width
            shape = (n,) if "norm" in layer else (n, columns.get(layer, 1) * width)
            found[f"{i}.{layer}.weight"] = torch.randn(shape)
            found[f"{i}.{layer}.bias"] = torch.randn(n)
    return found


def test_published_weights_load_by_name_into_the_trunk_alone():
    model, tensors = tiny(), published(2, 32)
    before = {n: p.clone() for n, p in model.named_parameters() if not n.startswith("trunk")}
    load_trunk(model, tensors)
    assert torch.equal(model.trunk[1].attn.qkv.weight, tensors["1.attn.qkv.weight"])
    assert all(torch.equal(model.trunk.state_dict()[n], x) for n, x in tensors.items())
    assert all(torch.equal(model.get_parameter(n), p) for n, p in before.items())
    with torch.device("meta"):
        model = build_meta_transformer({"ct": SHAPES["ct"]}, classes=2)
        assert {n: x.shape for n, x in model.trunk.state_dict().items()} == {
            n: x.shape for n, x in published(24, 1024).items()
        }


def test_weights_that_do_not_fit_are_named_and_nothing_is_loaded():
    model, tensors = tiny(), published(3, 32)
    del tensors["0.mlp.fc1.bias"]
    tensors["1.norm2.weight"] = torch.zeros(16)
    before = {n: x.clone() for n, x in model.state_dict().items()}
    with pytest.raises(InputError) as error:
        load_trunk(model, tensors)
    for part in ("1 missing (0.mlp.fc1.bias)", "12 not of a ViT block (2.attn", "(16,) for (32,)"):
        assert part in str(error.value)
    assert all(torch.equal(x, before[n]) for n, x in model.state_dict().items())


def test_an_unknown_size_is_refused():
    with pytest.raises(InputError, match="did you mean 'small'"):
        build_meta_transformer(SHAPES, classes=2, size="smal")
    assert SIZES["published"].width == 1024
