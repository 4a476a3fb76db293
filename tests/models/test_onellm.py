"""OneLLM: contract, the parts against transformers' own, frozen models, published size."""

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import (
    CLIPConfig,
    CLIPModel,
    CLIPTextConfig,
    CLIPVisionConfig,
    CLIPVisionModel,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaModel,
)
from transformers.models.llama.modeling_llama import LlamaDecoderLayer

from adacomed.encoders.backbones import load_backbones, tiny_backbones
from adacomed.errors import InputError
from adacomed.models.baselines.onellm import CLIP_SCALE, build_onellm
from adacomed.models.baselines.tokenisers import Tokens
from adacomed.models.baselines.universal_projection import ExpertBlock
from adacomed.models.raw import NONE, ImageShape, SeriesShape, TextShape
from tests.models.raw_batches import SHAPES, make_raw_batch
from tests.models.test_tokenisers import (
    ALONE,
    EVERY,
    check_gradients,
    check_raw_model,
    double,
    labelled,
    learnt,
    nobody,
)

TINY = {"experts": 2, "depth": 1, "heads": 4, "width": 32, "tokens": 3}
PROMPT = (5, 17, 2)


def tiny(shapes=SHAPES, *, seed=0, clip="clip", lm=None, prompt=(), **sizes):
    backbones = tiny_backbones()
    torch.manual_seed(seed)
    return build_onellm(
        shapes,
        classes=2,
        clip=backbones[0] if clip == "clip" else clip,
        lm=lm or backbones[1],
        prompt=prompt,
        **TINY | sizes,
    )


def loud(model):
    """Larger weights: what initial ones of 0.02 leave alike becomes different."""
    for p in model.parameters():
        if p.ndim > 1:
            nn.init.normal_(p, std=0.3)
    return model


@EVERY
def test_contract_of_a_model(shapes):
    check_raw_model(loud(tiny(shapes, prompt=PROMPT)))


@pytest.mark.parametrize("changes", [{}, {"clip": None}], ids=["no prompt", "no clip"])
def test_contract_without_a_prompt_and_without_clip(changes):
    check_raw_model(loud(tiny(**changes)))


def test_contract_with_an_image_size_that_is_not_clips():
    clip = CLIPVisionModel(
        CLIPVisionConfig(
            hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2,
            image_size=28, patch_size=14,
        )
    )  # fmt: skip
    check_raw_model(loud(tiny({"xray": SHAPES["xray"]}, clip=clip)))


def tiny_lm(kind):
    if kind == "gpt2":
        return GPT2LMHeadModel(GPT2Config(n_embd=32, n_layer=1, n_head=2, vocab_size=50))
    return LlamaForCausalLM(
        LlamaConfig(
            hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=4,
            vocab_size=50,
        )
    )  # fmt: skip


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_contract_around_other_language_models_with_a_head(kind):
    model = loud(tiny(lm=tiny_lm(kind), prompt=PROMPT))
    check_raw_model(model)
    assert not [name for name, _ in model.named_parameters() if "lm_head" in name]


@EVERY
def test_gradients_pass_through_the_frozen_models_to_all_that_is_trained(shapes):
    check_gradients(tiny(shapes, prompt=PROMPT if "ct" in shapes else ()))


def test_a_seed_gives_the_same_numbers_and_leaves_the_random_state():
    batch = make_raw_batch()
    a, b, c = (tiny(seed=s)(batch).logits for s in (3, 3, 4))
    assert torch.equal(a, b)
    assert not torch.equal(a, c)
    torch.manual_seed(1)
    want = torch.rand(3)
    torch.manual_seed(1)
    first, other = tiny_backbones(), tiny_backbones(seed=1)
    assert torch.equal(torch.rand(3), want)
    words = [lm.embed_tokens.weight for _, lm in (first, tiny_backbones(), other)]
    assert torch.equal(words[0], words[1])
    assert not torch.equal(words[0], words[2])


@pytest.mark.parametrize("prompt", [PROMPT, ()], ids=["prompt", "no prompt"])
def test_packed_sequences_equal_each_patients_own_unpadded_one(prompt):
    model, batch = loud(tiny(prompt=prompt)).double().eval(), double(make_raw_batch())
    lm, got = model.lm, model(batch).logits
    lengths = set()
    for i in range(len(batch)):
        one = model.encoder(batch.rows(torch.tensor([i])))
        parts = []
        for (_, tokens), route in zip(one.items(), model.projection.routes, strict=True):
            if tokens.here.any():
                x = tokens.x[tokens.here][None]
                full = torch.ones(x.shape[:2], dtype=torch.bool)
                parts.append(model.projection.project(route, x, full))
        words = lm.embed_tokens(torch.tensor(prompt)) if prompt else model.ask
        sequence = torch.cat([*parts, words[None]], 1)
        lengths.add(sequence.shape[1])
        hidden = lm(inputs_embeds=sequence).last_hidden_state[0, -1]
        assert float((model.head(hidden) - got[i]).detach().abs().max()) <= 1e-6
    assert len(lengths) > 1  # patients with more and fewer modalities
    assert all((n - len(prompt or (0,))) % (TINY["tokens"] + 2) == 0 for n in lengths)


def test_a_patient_without_a_modality_is_the_prompt_alone():
    model = tiny(prompt=PROMPT).double().eval()
    hidden = model.lm(input_ids=torch.tensor([PROMPT])).last_hidden_state[0, -1]
    got = model(double(nobody())).logits
    assert torch.allclose(got, model.head(hidden).expand(2, -1), atol=1e-6)


def test_image_tokens_are_clips_own_last_states():
    model, batch = loud(tiny()).double().eval(), double(make_raw_batch())
    tokens, images = model.encoder(batch)["xray"], batch.raw["xray"]
    mean, std = torch.tensor(CLIP_SCALE, dtype=torch.float64)[:, None, :, None, None]
    clip = model.encoder.clip
    assert not model.encoder.see(images).x[~model.encoder.see(images).here].any()
    for i in range(len(batch)):
        rows = [k for _, k in sorted(zip(images.hours[i], images.item[i], strict=True)) if k >= 0]
        got = tokens.x[i][tokens.here[i]]
        assert len(got) == 5 * len(rows)  # CLS and 2 × 2 patches
        if rows:
            x = (images.pixels[torch.stack(rows)].double()[:, None] / 255 - mean) / std
            out = clip(pixel_values=x)
            want = clip.post_layernorm(out.last_hidden_state)
            assert torch.equal(want[:, 0], out.pooler_output)
            assert torch.allclose(got, want.flatten(0, 1), rtol=0, atol=1e-12)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_other_tokens_pass_clips_layers_without_seeing_padding(attention):
    config = tiny_backbones()[0].config
    config._attn_implementation = attention
    model = loud(tiny(clip=CLIPVisionModel(config))).double().eval()
    x, here = (
        torch.randn(3, 5, 32, dtype=torch.float64),
        torch.arange(5) < torch.tensor([[5], [2], [0]]),
    )
    got = model.encoder.encode(Tokens(x, here)).x
    clip = model.encoder.clip
    for i, n in enumerate([5, 2]):
        y = clip.pre_layrnorm(x[i : i + 1, :n])
        for layer in clip.encoder.layers:
            y = layer(y, torch.zeros(1, 1, n, n, dtype=torch.float64))
        want = clip.post_layernorm(y if torch.is_tensor(y) else y[0])
        assert torch.allclose(got[i, :n], want[0], rtol=0, atol=1e-12)
    assert not got[~here].any()


def test_expert_blocks_are_llamas_layers_without_positions_and_causality():
    config = LlamaConfig(
        hidden_size=32, num_attention_heads=4, intermediate_size=256, rms_norm_eps=1e-5
    )
    theirs, ours = LlamaDecoderLayer(config, 0).double(), ExpertBlock(32, heads=4).double()
    loud(ours)
    for norm in (ours.norm1, ours.norm2):
        nn.init.normal_(norm.weight)
    q, k, v = ours.qkv.weight.chunk(3)
    gate, up = ours.gate_up.weight.chunk(2)
    theirs.load_state_dict(
        {
            "self_attn.q_proj.weight": q,
            "self_attn.k_proj.weight": k,
            "self_attn.v_proj.weight": v,
            "self_attn.o_proj.weight": ours.out.weight,
            "mlp.gate_proj.weight": gate,
            "mlp.up_proj.weight": up,
            "mlp.down_proj.weight": ours.down.weight,
            "input_layernorm.weight": ours.norm1.weight,
            "post_attention_layernorm.weight": ours.norm2.weight,
        }
    )
    x = torch.randn(2, 6, 32, dtype=torch.float64)
    here = torch.arange(6) < torch.tensor([[6], [4]])
    mask = torch.zeros(2, 1, 1, 6, dtype=torch.float64).masked_fill(~here[:, None, None], -1e300)
    unturned = (torch.ones(2, 6, 8, dtype=torch.float64), torch.zeros(2, 6, 8, dtype=torch.float64))
    want = theirs(x, attention_mask=mask.expand(-1, -1, 6, -1), position_embeddings=unturned)
    want = want if torch.is_tensor(want) else want[0]
    # LLaMA's norm computes in single precision
    assert torch.allclose(ours(x, here)[here], want[here], rtol=1e-5, atol=1e-5)


def test_the_router_weighs_the_experts_by_normalised_sigmoids():
    model = loud(tiny()).double().eval()
    projection, route = model.projection, model.projection.routes[0]
    x, here = torch.randn(2, 4, 32, dtype=torch.float64), torch.ones(2, 4, dtype=torch.bool)
    last = route.router[-1]
    nn.init.zeros_(last.weight)

    def tokens(*odds: float) -> torch.Tensor:
        last.bias.data = torch.tensor(odds, dtype=torch.float64).logit()
        route.leave = nn.Identity()  # the mixture itself
        return projection.project(route, x, here)[:, 1:-1]

    route_leave, route.start = route.leave, nn.Parameter(torch.zeros(1, 32).double())
    route.end = route.start
    first, second, both = tokens(0.9, 1e-300), tokens(1e-300, 0.9), tokens(0.6, 0.2)
    assert float((first - second).detach().abs().max()) > 1e-3
    assert torch.allclose(both, 0.75 * first + 0.25 * second, rtol=0, atol=1e-9)
    assert route_leave[0].out_features == 32


def test_a_modality_speaks_between_its_own_tags_in_the_order_of_the_shapes():
    model, batch = tiny(prompt=PROMPT).eval(), make_raw_batch()
    sequence = model.sequence(batch)
    ones = {m: t.here.any(1) for m, t in model.encoder(batch).items()}
    for i in range(len(batch)):
        x = sequence.x[i][sequence.here[i]]
        routes = [r for r, m in zip(model.projection.routes, SHAPES, strict=True) if ones[m][i]]
        assert torch.equal(x[:-3:5], torch.cat([r.start for r in routes])) if routes else True
        assert torch.equal(x[4:-3:5], torch.cat([r.end for r in routes])) if routes else True
        assert torch.equal(x[-3:], model.lm.embed_tokens(torch.tensor(PROMPT)))


@ALONE
def test_it_learns_from_every_kind_and_the_frozen_models_stay(shapes):
    model = tiny(shapes)
    before = [{n: x.clone() for n, x in m.state_dict().items()} for m in model.frozen]
    trained = {n: p.clone() for n, p in model.projection.named_parameters()}
    assert learnt(model, lr=3e-3, steps=30) >= 0.9
    for frozen, state in zip(model.frozen, before, strict=True):
        assert all(torch.equal(x, state[n]) for n, x in frozen.state_dict().items())
    assert not [n for n, p in model.projection.named_parameters() if torch.equal(p, trained[n])]


def test_frozen_models_are_in_evaluation_mode_always():
    lm = GPT2LMHeadModel(GPT2Config(n_embd=32, n_layer=1, n_head=2, vocab_size=50)).train()
    model = tiny(lm=lm)
    for mode in (True, False, True):
        model.train(mode)
        assert model.projection.training is mode
        assert not [n for f in model.frozen for n, m in f.named_modules() if m.training]
    batch = make_raw_batch()
    assert torch.equal(model(batch).logits, model(batch).logits)  # GPT-2 has dropout


def test_half_precision_backbones_around_a_single_precision_projection():
    clip, lm = (m.to(torch.bfloat16) for m in tiny_backbones())
    model = tiny(clip=clip, lm=lm, prompt=PROMPT)
    batch = labelled(8, seed=1)
    logits = model(batch).logits
    assert logits.dtype == torch.float32
    nn.functional.cross_entropy(logits, batch.target).backward()
    grads = [p.grad for p in model.parameters() if p.requires_grad and p.numel()]
    assert all(g is not None and g.isfinite().all() and g.dtype == torch.float32 for g in grads)
    whole = tiny(prompt=PROMPT)(batch).logits
    assert torch.allclose(logits, whole, atol=0.05)


def test_published_size():
    with torch.device("meta"):
        clip = CLIPVisionModel(
            CLIPVisionConfig(
                hidden_size=1024, intermediate_size=4096, num_hidden_layers=24,
                num_attention_heads=16, image_size=224, patch_size=14,
            )
        )  # fmt: skip
        lm = LlamaModel(LlamaConfig())  # LLaMA-7B's shape
        images = {str(m): ImageShape(1, 224) for m in range(8)}
        original = build_onellm(images, classes=2, clip=clip, lm=lm, prompt=(1,))
        three = {"xray": ImageShape(2, 224), "vitals": SeriesShape(46), "note": TextShape(50, 512)}
        ours = build_onellm(three, classes=2, clip=clip, lm=lm, prompt=(1,))

    def trained(model: nn.Module) -> int:
        return sum(p.numel() for p in model.parameters() if p.requires_grad)

    assert trained(original) == pytest.approx(383.0e6, rel=0.01)  # Table 6
    assert round(trained(original.projection) / 1e6, 1) == 384.4
    assert round(trained(ours.projection) / 1e6, 1) == 336.9  # M = 3: five modalities fewer
    assert round(trained(ours) / 1e6, 1) == 337.7  # with tokenisers of series and words


def test_a_prompt_token_that_the_language_model_lacks_is_refused():
    with pytest.raises(InputError, match="0 … 127"):
        tiny(prompt=(3, 128))


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Both models as the hub has them: CLIP with its text tower, the decoder with its head."""
    root = tmp_path_factory.mktemp("backbones")
    shape = {
        "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
        "num_attention_heads": 4,
    }  # fmt: skip
    ends = {"bos_token_id": 1, "eos_token_id": 2}
    text = CLIPTextConfig(**shape, **ends, vocab_size=50, max_position_embeddings=8)
    vision = CLIPVisionConfig(**shape, image_size=32, patch_size=16)
    clip = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=8))
    lm = LlamaForCausalLM(LlamaConfig(**shape, vocab_size=50))
    clip.save_pretrained(root / "clip")
    lm.save_pretrained(root / "lm")
    return root, clip, lm


def test_backbones_load_from_folders_whole_and_frozen(folders):
    root, clip, lm = folders
    found = load_backbones(str(root / "clip"), str(root / "lm"))
    pixels, ids = torch.randn(2, 3, 32, 32), torch.tensor([[3, 1, 4]])
    with torch.no_grad():
        want = clip.eval().vision_model(pixels).last_hidden_state
        assert torch.equal(found[0](pixel_values=pixels).last_hidden_state, want)
        want = lm.eval().model(input_ids=ids).last_hidden_state
        assert torch.equal(found[1](input_ids=ids).last_hidden_state, want)
    assert not [p for m in found for p in m.parameters() if p.requires_grad]
    model = tiny(clip=found[0], lm=found[1], prompt=PROMPT)
    assert torch.isfinite(model(make_raw_batch()).logits).all()


def test_backbones_with_a_missing_parameter_or_no_folder_are_refused(folders, tmp_path):
    root, _, _ = folders
    for file in (root / "lm").iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    tensors = load_file(tmp_path / "model.safetensors")
    del tensors["model.layers.0.mlp.up_proj.weight"]
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match="1 parameters are not in the weights file"):
        load_backbones(str(root / "clip"), str(tmp_path))
    (tmp_path / "model.safetensors").write_bytes(b"rubbish")
    with pytest.raises(InputError, match="not a model that transformers can load"):
        load_backbones(str(root / "clip"), str(tmp_path))
    with pytest.raises(InputError, match="nowhere"):
        load_backbones(str(tmp_path / "nowhere"), str(root / "lm"))
    if not torch.cuda.is_available():
        with pytest.raises(InputError, match="CUDA"):
            load_backbones(str(root / "clip"), str(root / "lm"), "cuda")


def test_images_that_nobody_has_are_no_tokens():
    batch = make_raw_batch()
    tokens = tiny().encoder(nobody())["xray"]
    assert tokens.x.shape == (2, 0, 32)
    assert (batch.raw["xray"].item != NONE).any()
