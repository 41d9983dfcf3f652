"""The model agrees with TransformerLens, with arithmetic by hand, and with its own files."""

import json
import os
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mi_course import models, pretrained
from mi_course.errors import CourseError
from mi_course.models import TinyConfig, TinyTransformer, load
from mi_course.pretrained import to_bridge

SMALL = TinyConfig(n_layers=2, n_heads=2, d_model=16, d_vocab=11, n_ctx=12)


def perturbed(config: TinyConfig) -> TinyTransformer:
    """A model in which no bias, gain or table is at its neutral start."""
    model, draw = TinyTransformer(config), torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data += 0.1 * torch.randn(parameter.shape, generator=draw)
    return model


def tokens_for(config: TinyConfig, batch: int = 3, pos: int = 9) -> torch.Tensor:
    return torch.randint(config.d_vocab, (batch, pos), generator=torch.Generator().manual_seed(2))


variants = st.builds(
    TinyConfig,
    n_layers=st.integers(0, 2),
    n_heads=st.sampled_from([1, 2]),
    d_model=st.just(8),
    d_vocab=st.just(7),
    n_ctx=st.just(8),
    d_mlp=st.sampled_from([0, 12]),
    act=st.sampled_from(["relu", "gelu"]),
    norm=st.sampled_from(["none", "layernorm", "rmsnorm"]),
    positions=st.sampled_from(["none", "learned", "sinusoidal", "rotary"]),
    tied=st.booleans(),
    bias=st.booleans(),
    head_width=st.sampled_from([None, 2, 6]),
)


@settings(max_examples=40, deadline=None)
@given(variants)
def test_the_bridge_is_the_same_model(config):
    model, tokens = perturbed(config), tokens_for(config, pos=8)
    with torch.no_grad():
        difference = (to_bridge(model)(tokens) - model(tokens)).abs().max()
    assert difference <= (1e-5 if config.norm == "none" else 1e-4)


def test_bridge_says_what_it_lacks():
    with pytest.raises(CourseError, match="no shortformer positions"):
        to_bridge(TinyTransformer(SMALL))
    with pytest.raises(CourseError, match="no smeared keys"):
        to_bridge(TinyTransformer(replace(SMALL, positions="none", smeared=True)))


def test_forward_by_hand():
    """One layer, one head, every number worked out with loops."""
    model = perturbed(TinyConfig(n_layers=1, n_heads=1, d_model=4, d_vocab=5, n_ctx=6))
    tokens = torch.tensor([[3, 1, 4, 1]])
    E, P, U = model.W_E, model.W_pos, model.W_U
    Q, K, V, O = (w[0, 0] for w in (model.W_Q, model.W_K, model.W_V, model.W_O))
    x = E[tokens[0]]
    for q in range(4):
        scores = [((x[q] + P[q]) @ Q @ ((x[k] + P[k]) @ K)).item() / 2 for k in range(q + 1)]  # √d_head = 2
        weights = torch.tensor(scores).softmax(0)
        write = sum(w * (x[k] @ V @ O) for k, w in enumerate(weights))
        by_hand = (x[q] + write) @ U  # positions reach Q and K, never the stream
        assert torch.allclose(model(tokens)[0, q], by_hand, atol=1e-5)


def test_smeared_keys_by_hand():
    model = TinyTransformer(replace(SMALL, n_layers=1, smeared=True))
    model.blocks[0].attn.smear.data = torch.tensor([-1.0, 2.0])
    tokens = tokens_for(SMALL)
    _, cache = model.run_with_cache(tokens)
    x = cache["resid_pre", 0] + model.W_pos[:9]
    plain = torch.einsum("bpd,hdk->bphk", x, model.W_K[0])
    share = torch.tensor([-1.0, 2.0]).sigmoid()[:, None]
    expected = share * plain[:, 3] + (1 - share) * plain[:, 2]
    assert torch.allclose(cache["k", 0][:, 3], expected, atol=1e-5)
    assert torch.allclose(cache["k", 0][:, 0], plain[:, 0], atol=1e-5), "the first key has nothing before it"


def test_shortformer_positions_reach_only_the_layers_named():
    tokens = tokens_for(SMALL)
    for layers, moved in ((None, True), (1, False)):
        model = TinyTransformer(replace(SMALL, position_layers=layers))
        _, cache = model.run_with_cache(tokens)
        q = torch.einsum("bpd,hdk->bphk", cache["resid_pre", 1], model.W_Q[1])
        assert torch.allclose(cache["q", 1], q, atol=1e-5) != moved


def test_nothing_sees_the_future():
    model, tokens = perturbed(SMALL), tokens_for(SMALL)
    changed = tokens.clone()
    changed[:, 5:] = (changed[:, 5:] + 1) % SMALL.d_vocab
    assert torch.equal(model(tokens)[:, :5], model(changed)[:, :5])
    assert not torch.allclose(model(tokens)[:, 5:], model(changed)[:, 5:])


def test_circuits_are_products_of_the_weights():
    model = perturbed(SMALL)
    E, U = model.W_E, model.W_U
    Q, K, V, O = model.W_Q[1, 0], model.W_K[1, 0], model.W_V[1, 0], model.W_O[1, 0]
    assert torch.allclose(model.full_QK(1, 0), E @ Q @ K.T @ E.T, atol=1e-5)
    assert torch.allclose(model.full_OV(1, 0), E @ V @ O @ U, atol=1e-5)
    assert torch.allclose(model.direct_path(), E @ U)
    assert int(torch.linalg.matrix_rank(model.W_OV[1, 0])) <= SMALL.d_head


def test_loss_is_the_mean_of_minus_log_p():
    model, tokens = perturbed(SMALL), tokens_for(SMALL)
    logp = model(tokens).log_softmax(-1)
    by_hand = [-logp[b, i, tokens[b, i + 1]] for b in range(3) for i in range(8)]
    assert torch.allclose(model(tokens, return_type="loss"), torch.stack(by_hand).mean())
    per_token = model(tokens, return_type="loss", loss_per_token=True)
    assert per_token.shape == (3, 8) and torch.allclose(per_token.flatten(), torch.stack(by_hand))
    logits, loss = model(tokens, return_type="both")
    assert torch.equal(logits, model(tokens)) and loss.ndim == 0


def test_stop_at_layer_gives_the_stream():
    model, tokens = perturbed(SMALL), tokens_for(SMALL)
    _, cache = model.run_with_cache(tokens)
    assert torch.equal(model(tokens, stop_at_layer=1), cache["resid_pre", 1])
    assert torch.equal(model(tokens, stop_at_layer=2), cache["resid_post", 1])


def test_head_results_add_up():
    model, tokens = perturbed(replace(SMALL, bias=True)), tokens_for(SMALL)
    plain = model(tokens)
    model.use_attn_result = True
    logits, cache = model.run_with_cache(tokens)
    total = cache["result", 0].sum(2) + model.blocks[0].attn.b_O
    assert torch.allclose(total, cache["attn_out", 0], atol=1e-5) and torch.allclose(logits, plain, atol=1e-5)


def test_hooks_edit_and_leave():
    model, tokens = perturbed(SMALL), tokens_for(SMALL)
    before = model(tokens)
    assert torch.equal(before, model.run_with_hooks(tokens, fwd_hooks=[("hook_embed", lambda x, hook: x)]))
    zeroed = model.run_with_hooks(tokens, fwd_hooks=[("blocks.1.hook_attn_out", lambda x, hook: 0 * x)])
    assert torch.allclose(zeroed, model(tokens, stop_at_layer=1) @ model.W_U, atol=1e-5)

    def broken(x, hook):
        raise RuntimeError("on purpose")

    with pytest.raises(RuntimeError, match="on purpose"):
        model.run_with_hooks(tokens, fwd_hooks=[("blocks.0.attn.hook_z", broken)])
    with pytest.raises(RuntimeError), model.hooks([("hook_embed", broken)]):
        model(tokens)
    assert torch.equal(before, model(tokens))
    assert not any(point.fwd_hooks for point in model.hook_dict.values())


def test_backward_hooks_see_gradients():
    model, tokens, seen = perturbed(SMALL), tokens_for(SMALL), {}
    with model.hooks(bwd_hooks=[("blocks.1.hook_resid_pre", lambda g, hook: seen.update(grad=g))]):
        model(tokens, return_type="loss").backward()
    assert seen["grad"].shape == (3, 9, 16) and seen["grad"].abs().sum() > 0


def test_cache_knows_transformer_lens_tricks():
    model, tokens = perturbed(SMALL), tokens_for(SMALL)
    logits, cache = model.run_with_cache(tokens)
    stack = cache.stack_head_results(layer=2)
    assert stack.shape == (4, 3, 9, 16)
    assert torch.allclose((cache["embed"] + stack.sum(0)) @ model.W_U, logits, atol=1e-5)
    _, plain = model.run_with_cache(tokens, return_cache_object=False)
    assert isinstance(plain, dict)
    _, one = model.run_with_cache(tokens[:1], remove_batch_dim=True)
    assert one["pattern", 0].shape == (2, 9, 9)


def test_same_seed_same_model():
    first, again, other = (TinyTransformer(replace(SMALL, seed=s)) for s in (3, 3, 4))
    assert torch.equal(first.W_E, again.W_E) and not torch.equal(first.W_E, other.W_E)
    state = torch.get_rng_state()
    TinyTransformer(SMALL)
    assert torch.equal(state, torch.get_rng_state()), (
        "building a model must not disturb anybody's random numbers"
    )


def test_generate():
    model, start = perturbed(SMALL), tokens_for(SMALL, batch=4, pos=3)
    once, again = (model.generate(start, 6, seed=5) for _ in range(2))
    assert torch.equal(once, again) and once.shape == (4, 9) and torch.equal(once[:, :3], start)
    assert not torch.equal(once, model.generate(start, 6, seed=6))
    greedy = model.generate(start, 1, temperature=0)
    assert torch.equal(greedy[:, -1], model(start)[:, -1].argmax(-1))
    assert torch.equal(model.generate(start, 1, top_k=1), greedy)
    stop = int(greedy[0, -1])
    stopped = model.generate(start[:1], 9, temperature=0, stop=stop)
    assert stopped.shape[1] == 4
    longer = model.generate(start, 20)  # beyond n_ctx: the window slides
    assert longer.shape == (4, 23)
    for bad in ({"n": -1}, {"n": 1, "temperature": -1.0}, {"n": 1, "top_k": 0}, {"n": 1, "top_k": 12}):
        with pytest.raises(CourseError, match="generate needs"):
            model.generate(start, **bad)
    with pytest.raises(CourseError, match=r"tokens must be \[batch pos\], not \[3\]: use tokens\[None\]"):
        model.generate(start[0], 2)
    with pytest.raises(CourseError, match="at least one token"):
        model.generate(start[:, :0], 2)


# -- bad input -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change, words",
    [
        ({"norm": "layer_norm"}, "layernorm"),
        ({"positions": "rotory"}, "rotary"),
        ({"d_model": 0}, "d_model=0 must be at least 1"),
        ({"n_heads": 3}, "3 heads do not divide d_model=16"),
        ({"n_layers": -1}, "cannot be negative"),
        ({"positions": "rotary", "head_width": 3}, "d_head=3 is odd"),
    ],
)
def test_config_refuses(change, words):
    with pytest.raises(CourseError, match=words):
        replace(SMALL, **change)


def test_tokens_are_checked():
    model = TinyTransformer(SMALL)
    with pytest.raises(CourseError, match="0…11 leave the vocabulary 0…10"):
        model(torch.tensor([[0, 11]]))
    with pytest.raises(CourseError, match="leave the vocabulary"):
        model(torch.tensor([[-1, 2]]))
    with pytest.raises(CourseError, match="n_ctx=12"):
        model(torch.zeros(1, 13, dtype=torch.long))
    with pytest.raises(CourseError, match="return_type"):
        model(torch.zeros(1, 3, dtype=torch.long), return_type="logit")


def test_wrong_hook_and_head_names_are_named():
    model, tokens = TinyTransformer(SMALL), tokens_for(SMALL)
    with pytest.raises(CourseError, match="blocks.0.attn.hook_pattern"):
        model.run_with_hooks(tokens, fwd_hooks=[("blocks.0.attn.hook_patern", lambda x, hook: x)])
    with pytest.raises(CourseError, match="use_attn_result"):
        model.run_with_hooks(tokens, fwd_hooks=[("blocks.0.attn.hook_result", lambda x, hook: x)])
    with pytest.raises(CourseError, match="heads 0…1"):
        model.full_OV(0, 2)
    with pytest.raises(CourseError, match="zero layers has no W_Q"):
        _ = TinyTransformer(replace(SMALL, n_layers=0)).W_Q


# -- files ---------------------------------------------------------------------------------------


@settings(max_examples=15, deadline=None)
@given(variants, st.booleans())
def test_save_then_load(tmp_path_factory, config, half):
    folder, model = tmp_path_factory.mktemp("models"), perturbed(config)
    model.save(folder / "m", half=half, seed=7, corpus="none")
    again = load(folder / "m")
    assert again.cfg == config and again.card["seed"] == 7 and not again.training
    tokens = tokens_for(config, pos=5)
    assert torch.allclose(again(tokens), model(tokens), atol=0.05 if half else 0.0)


@pytest.fixture
def saved(tmp_path):
    TinyTransformer(SMALL).save(tmp_path / "induction-9l")
    return tmp_path / "induction-9l.safetensors"


def test_damaged_files_are_named(saved):
    card = saved.with_suffix(".json")
    good, good_card = saved.read_bytes(), card.read_text()
    saved.write_bytes(good[:-10])
    with pytest.raises(CourseError, match="truncated or altered.*train induction-9l"):
        load(saved)
    saved.write_bytes(good)
    card.write_text(good_card.replace('"format": 1', '"format": 99'))
    with pytest.raises(CourseError, match="format 99; this version reads 1"):
        load(saved)
    card.write_text(good_card[:50])
    with pytest.raises(CourseError, match="not a readable card"):
        load(saved)
    wrong = json.loads(good_card)
    wrong["config"]["d_model"] = 32
    card.write_text(json.dumps(wrong))
    with pytest.raises(CourseError, match="Card and weights .* disagree"):
        load(saved)
    card.unlink()
    with pytest.raises(CourseError, match="json is missing"):
        load(saved)


def test_unknown_model_names_the_nearest():
    with pytest.raises(CourseError, match="There is no model 'induction-2'"):
        load("induction-2")


def test_full_disk_leaves_the_previous_pair(saved, monkeypatch):
    before = saved.read_bytes(), saved.with_suffix(".json").read_bytes()

    def full(fd):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(CourseError, match="No space left on device.*untouched"):
        TinyTransformer(replace(SMALL, seed=1)).save(saved)
    assert before == (saved.read_bytes(), saved.with_suffix(".json").read_bytes())
    assert sorted(p.name for p in saved.parent.iterdir()) == ["induction-9l.json", "induction-9l.safetensors"]
    load(saved)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64], ids=str)
@pytest.mark.parametrize("positions", models.CHOICES["positions"])
def test_other_widths_of_floats_stay_what_they_are(positions, dtype):
    """Every hook sees the model's own dtype, and the logits are those of 32 bits to its rounding."""
    cfg = replace(SMALL, positions=positions)
    tokens = torch.arange(8).reshape(2, 4) % cfg.d_vocab
    logits, cache = TinyTransformer(cfg).to(dtype).run_with_cache(tokens)
    assert {value.dtype for value in cache.values()} == {logits.dtype} == {dtype}
    eps = max(torch.finfo(dtype).eps, torch.finfo(torch.float32).eps)
    torch.testing.assert_close(logits.float(), TinyTransformer(cfg)(tokens), atol=50 * eps, rtol=50 * eps)


# -- pretrained ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def gpt2_folder(tmp_path_factory):
    """GPT-2's format, random weights, a tokenizer of a few words."""
    transformers = pytest.importorskip("transformers")
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace

    folder = tmp_path_factory.mktemp("gpt2-tiny")
    words = {word: i for i, word in enumerate(["<unk>", "<eos>", "the", "cat", "sat", "on", "mat"])}
    tokenizer = Tokenizer(WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = Whitespace()
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", eos_token="<eos>"
    )
    fast.save_pretrained(folder)
    torch.manual_seed(0)
    config = transformers.GPT2Config(vocab_size=7, n_positions=16, n_embd=8, n_layer=2, n_head=2)
    transformers.GPT2LMHeadModel(config).save_pretrained(folder)
    return folder


def test_pretrained_from_a_folder_offline(gpt2_folder):
    import transformers

    bridge = pretrained.load(gpt2_folder)
    source = transformers.AutoModelForCausalLM.from_pretrained(gpt2_folder)
    tokens = torch.tensor([[2, 3, 4, 5, 2, 6]])
    with torch.no_grad():
        assert torch.allclose(bridge(tokens), source(tokens).logits, atol=1e-4)
    _, cache = bridge.run_with_cache(tokens)
    assert cache["pattern", 1].shape == (1, 2, 6, 6)


def test_pretrained_says_what_is_missing(tmp_path):
    with pytest.raises(CourseError, match="no config.json"):
        pretrained.load(tmp_path)
    with pytest.raises(CourseError, match="could not be fetched.*pass a folder"):
        pretrained.load("no-such-owner/no-such-model")


def test_a_cached_run_leaves_no_hook_behind_even_when_it_fails():
    model = TinyTransformer(TinyConfig(n_layers=1, n_heads=2, d_model=8, d_vocab=11, n_ctx=6))
    _, cache = model.run_with_cache(torch.randint(11, (1, 6)))
    kept = cache["pattern", 0].clone()
    with pytest.raises(CourseError):
        model.run_with_cache(torch.full((1, 6), 99))
    assert all(not point._forward_hooks for point in model.hook_dict.values())
    model(torch.randint(11, (1, 6)))
    assert torch.equal(cache["pattern", 0], kept)
