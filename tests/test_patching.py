"""Activation patching: the fast engine equals the naive loop and TransformerLens, and hand-made circuits are exact."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mi_course import models, patching, pretrained
from mi_course.errors import CourseError
from mi_course.induction.by_hand import blank
from mi_course.patching import Node, logit_diff, noised_embeddings, record
from mi_course.patching.experiment import Experiment
from mi_course.patching.forward import Forward
from mi_course.patching.hooked import Hooked
from mi_course.sae.dictionary import SaeConfig, SparseAutoencoder
from tests.naive_patching import HEADS, cache_of, model_of, patched, prompts, swept

CLOSE = {"atol": 1e-5, "rtol": 1e-5}
STREAM = ["resid_pre", "resid_post", "attn_out"]
KINDS = [*STREAM, *HEADS]
WITH_MLP = ["resid_mid", "mlp_out", "neuron"]


def same(ours, theirs, **bounds):
    torch.testing.assert_close(ours, theirs, **(CLOSE | bounds))


def naive_sides(model, clean, corrupted, direction):
    """Host tokens and source cache."""
    host, source = (corrupted, clean) if direction == "denoising" else (clean, corrupted)
    model.use_attn_result = True
    return host, cache_of(model, source)


shapes = st.fixed_dictionaries({
    "n_layers": st.integers(1, 3), "n_heads": st.sampled_from([1, 2, 4]),
    "norm": st.sampled_from(["none", "layernorm", "rmsnorm"]), "act": st.sampled_from(["relu", "gelu"]),
    "positions": st.sampled_from(["none", "learned", "sinusoidal", "shortformer", "rotary"]),
    "d_mlp": st.sampled_from([0, 6]), "bias": st.booleans(), "smeared": st.booleans(), "tied": st.booleans(),
    "position_layers": st.sampled_from([None, 1]), "seed": st.integers(0, 100),
})  # fmt: skip


@given(shape=shapes, kind=st.sampled_from([*KINDS, *WITH_MLP]), positions=st.sampled_from(["each", "all", [-1, 1], "pairs"]),
       direction=st.sampled_from(patching.DIRECTIONS), batch=st.integers(1, 3), n_pos=st.integers(2, 5), data=st.data())  # fmt: skip
@settings(max_examples=80, deadline=None)
def test_a_sweep_equals_the_naive_loop(shape, kind, positions, direction, batch, n_pos, data):
    shape["d_mlp"] = 6 if kind in WITH_MLP else shape["d_mlp"]
    positions = "each" if positions == "pairs" and kind != "pattern" else positions
    model = model_of(
        **shape
    ).double()  # without norms streams grow: what is compared is the arithmetic, not rounding
    clean, corrupted, right, wrong = prompts(model, batch, n_pos, shape["seed"])
    shared = data.draw(st.integers(0, n_pos - 1))  # a common beginning, where every patch is idle
    corrupted[:, :shared] = clean[:, :shared]
    corrupted[0, -1] = (clean[0, -1] + 1) % model.cfg.d_vocab
    pos = torch.tensor(data.draw(st.lists(st.integers(0, n_pos - 1), min_size=batch, max_size=batch)))
    exp = Experiment(model, clean, corrupted, right, wrong, pos=pos)
    assert isinstance(exp.engine, Forward)
    result = exp.sweep(kind, direction, positions=positions)
    host, source = naive_sides(model, clean, corrupted, direction)
    theirs = swept(model, host, source, result.axes, kind, pos)
    same(result.per_prompt, logit_diff(theirs, right, wrong), atol=1e-9, rtol=1e-9)
    same(exp.logits(kind, direction, positions=positions), theirs, atol=1e-9, rtol=1e-9)


PARTS = {"layer": st.integers(0, 2), "head": st.integers(0, 1), "unit": st.integers(0, 5)}


@st.composite
def node_lists(draw):
    """Nodes of all kinds, each (layer, kind, part) once or at one position."""
    nodes = {}
    for _ in range(draw(st.integers(1, 7))):
        kind, layer = (
            draw(st.sampled_from([*STREAM, "z", "q", "k", "v", "pattern", *WITH_MLP])),
            draw(PARTS["layer"]),
        )
        head = draw(PARTS["head"]) if kind in HEADS else None
        unit = draw(PARTS["unit"]) if kind == "neuron" else None
        nodes[kind, layer, head, unit] = Node(
            kind, layer, head, unit, draw(st.sampled_from([None, 0, 2, 4, -1]))
        )
    return list(nodes.values())


SOURCES = ("other run", "zero", "mean", "resampled")


def naive_source(exp, name, cache):
    """The source of that name made from a cache: zeros, means of prompts 0 and 2, or the rows of other prompts."""
    if name == "zero":
        return exp.clean.zero(), {site: torch.zeros_like(x) for site, x in cache.items()}
    if name == "mean":
        mean = lambda x: torch.stack([(x[0] + x[2]) / 2, x[1], (x[0] + x[2]) / 2])  # noqa: E731
        return exp.clean.mean(["a", "b", "a"]), {site: mean(x) for site, x in cache.items() if len(x) == 3}
    run, first = exp.clean.resampled(1), exp.clean.acts["resid_pre", 0]
    order = [next(j for j in range(3) if torch.equal(first[j], row)) for row in run.acts["resid_pre", 0]]
    return run, {site: x[order] for site, x in cache.items() if len(x) == 3}


@given(nodes=node_lists(), direction=st.sampled_from(patching.DIRECTIONS), seed=st.integers(0, 50),
       positions=st.sampled_from(["learned", "shortformer", "rotary"]), name=st.sampled_from(SOURCES))  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_many_nodes_at_once_equal_many_hooks_at_once(nodes, direction, seed, positions, name):
    shape = {"n_layers": 3, "d_mlp": 6, "norm": "layernorm", "smeared": positions == "rotary"}
    model = model_of(
        seed, positions=positions, **shape
    ).double()  # a norm of zeros and means magnifies rounding
    clean, corrupted, right, wrong = prompts(model, 3, 5, seed)
    exp = Experiment(model, clean, corrupted, right, wrong)
    host, cache = naive_sides(model, clean, corrupted, direction)
    run = None
    if name != "other run":
        run, cache = naive_source(exp, name, cache_of(model, clean))
    patches = [(n.kind, n.layer, n.unit if n.kind == "neuron" else n.head, n.pos) for n in nodes]
    theirs = patched(model, host, cache, patches, -1)
    same(exp.logits(nodes, direction, source=run), theirs, atol=1e-8, rtol=1e-8)
    same(
        exp.patch(nodes, direction, source=run).per_prompt,
        logit_diff(theirs, right, wrong),
        atol=1e-8,
        rtol=1e-8,
    )


@given(nodes=node_lists(), seed=st.integers(0, 50), freeze=st.booleans())
@settings(max_examples=40, deadline=None)
def test_a_model_of_unknown_make_is_patched_with_hooks(nodes, seed, freeze):
    model = model_of(seed, n_layers=3, d_mlp=6, norm="rmsnorm").double()
    clean, corrupted, right, wrong = prompts(model, 2, 5, seed)
    known = Experiment(model, clean, corrupted, right, wrong)
    other = hooked(model, clean, corrupted, right, wrong)
    same(other.logits(nodes, freeze_patterns=freeze), known.logits(nodes, freeze_patterns=freeze))


class Unforeseen(models.TinyTransformer):
    """A transformer that caps its logits, which no engine knows of."""

    def unembed_stream(self, resid):
        return super().unembed_stream(resid).tanh()


def hooked(model, *given, **options):
    """An experiment on a model whose forward the engine cannot rebuild, for lack of a norm it knows."""
    exp = Experiment(model, *given, **options)
    engine = Hooked(model)
    runs = [patching.Run(run.tokens, run.acts, engine, run.embed) for run in (exp.clean, exp.corrupted)]
    return Experiment(model, *runs, *given[2:], **options)


@pytest.mark.parametrize("kind", [*KINDS[:-1], *WITH_MLP])
def test_where_the_rebuilt_forward_differs_hooks_take_over(kind):
    model = model_of(1, n_layers=2, d_mlp=6, norm="layernorm")
    model.__class__ = Unforeseen
    clean, corrupted, right, wrong = prompts(model)
    exp = Experiment(model, clean, corrupted, right, wrong)
    assert isinstance(exp.engine, Hooked)
    result = exp.sweep(kind, positions=[0, -1])
    host, source = naive_sides(model, clean, corrupted, "denoising")
    same(result.per_prompt, logit_diff(swept(model, host, source, result.axes, kind, -1), right, wrong))
    with pytest.raises(CourseError, match="plain pre-norm transformer"):
        exp.path(Node("z", 0, 0), "logits")
    with pytest.raises(CourseError, match="plain pre-norm transformer"):
        exp.attribution("q", qk_fix=True)
    with pytest.raises(CourseError, match="plain pre-norm transformer"):
        exp.edge_attribution()


# -- what must hold of any patch -------------------------------------------------------------------


@pytest.fixture
def toy():
    """An experiment on three prompts of six tokens, two layers with MLPs."""
    model = model_of(3, n_layers=2, d_mlp=6, norm="layernorm", positions="learned")
    return Experiment(model, *prompts(model))


@pytest.mark.parametrize("direction", patching.DIRECTIONS)
def test_patching_everything_gives_the_other_run_and_nothing_changes_nothing(toy, direction):
    host, other = (toy.corrupted, toy.clean) if direction == "denoising" else (toy.clean, toy.corrupted)
    everything = toy.patch(Node("resid_pre", 0), direction)
    nothing = toy.patch(Node("resid_pre", 0), direction, source=host)
    assert float(everything) == pytest.approx(1 if direction == "denoising" else 0, abs=1e-5)
    assert float(nothing) == pytest.approx(0 if direction == "denoising" else 1, abs=1e-5)
    assert float(everything.effect) == pytest.approx(1, abs=1e-5)
    all_parts = [Node("z", i, h) for i in range(2) for h in range(2)] + [Node("mlp_out", i) for i in range(2)]
    same(
        toy.logits([Node("resid_pre", 0), *all_parts], direction), toy.logits(Node("resid_pre", 0), direction)
    )
    assert other is not host


def test_positions_behind_the_answer_and_before_the_first_difference_do_nothing(toy):
    exp = Experiment(toy.model, toy.clean, toy.corrupted, toy.right, toy.wrong, pos=3)
    late = exp.sweep("resid_pre", positions=[4, 5])
    assert torch.equal(late.scores, torch.full((2, 2), exp.corrupted_score))


def test_memory_bound_and_progress_change_nothing(toy, capsys):
    given = (toy.model, toy.clean, toy.corrupted, toy.right, toy.wrong)
    need = toy.engine.bytes_per_copy(6, 2) * 3
    one = Experiment(*given, max_bytes=need, progress=True)
    for kind in ("z", "neuron", "resid_mid"):
        same(one.sweep(kind).per_prompt, toy.sweep(kind).per_prompt, atol=1e-6)
    assert "patches: 100%" in capsys.readouterr().err
    same(one.path_sweep("logits").per_prompt, toy.path_sweep("logits").per_prompt)
    with pytest.raises(CourseError, match=f"takes about {need:,} bytes, more than max_bytes={need - 1:,}"):
        Experiment(*given, max_bytes=need - 1).sweep("z")


def test_no_gradient_is_kept_and_weights_stay(toy):
    before = [weight.clone() for weight in toy.model.parameters()]
    for kind in ("z", "pattern", "neuron"):
        assert not toy.sweep(kind).per_prompt.requires_grad
    toy.attribution("z"), toy.edge_attribution()
    assert all(torch.equal(a, b) and b.grad is None for a, b in zip(before, toy.model.parameters()))
    assert all(not point._forward_hooks for point in toy.model.hook_dict.values())


def test_freezing_patterns_leaves_only_values(toy):
    everything = [Node("q", i, h) for i in range(2) for h in range(2)] + [Node("k", 0, 0), Node("k", 1, 1)]
    same(toy.logits(everything, freeze_patterns=True), toy.logits(Node("resid_pre", 0), source=toy.corrupted))
    model, tokens = toy.model, toy.corrupted.tokens
    host, source = cache_of(model, tokens), cache_of(model, toy.clean.tokens)
    hooks = [(f"blocks.{i}.attn.hook_pattern", lambda x, hook: host[hook.name]) for i in range(2)]
    hooks.append(("blocks.0.hook_resid_pre", lambda x, hook: source[hook.name]))
    with torch.no_grad():
        theirs = model.run_with_hooks(tokens, fwd_hooks=hooks)[:, -1]
    same(toy.logits(Node("resid_pre", 0), freeze_patterns=True), theirs)


def test_noised_embeddings_are_a_corrupted_run(toy):
    model, clean = toy.model, toy.clean.tokens
    embed = noised_embeddings(model, clean, sd=2, positions=[1, -1], seed=4)
    change = embed - model.W_E[clean]
    assert bool((change[:, [0, 2, 3, 4]] == 0).all()) and bool((change[:, [1, 5]] != 0).all())
    exp = Experiment(model, clean, record(model, clean, embed=embed), toy.right, toy.wrong)
    with torch.no_grad():
        hooks = [("hook_embed", lambda x, hook: embed)]
        theirs = model.run_with_hooks(clean, fwd_hooks=hooks)[:, -1]
    assert exp.corrupted_score == pytest.approx(
        float(logit_diff(theirs, toy.right, toy.wrong).mean()), abs=1e-5
    )
    other = hooked(model, exp.clean, exp.corrupted, toy.right, toy.wrong)
    same(other.sweep("z").scores, exp.sweep("z").scores)


@pytest.mark.parametrize("hook", ["blocks.1.hook_resid_pre", "blocks.0.hook_mlp_out", "blocks.1.attn.hook_z", "blocks.0.mlp.hook_post"])  # fmt: skip
@pytest.mark.parametrize("kind", ["relu", "topk"])
def test_features_move_and_the_error_term_stays(toy, hook, kind):
    width = {"pre": 8, "out": 8, "k_z": 8, "ost": 6}[hook[-3:]]
    sae = SparseAutoencoder(SaeConfig(d_in=width, d_sae=5, kind=kind, k=3)).eval()
    sae.scale.fill_(1.7)
    model, layer = toy.model, int(hook.split(".")[1])
    source = sae.encode(cache_of(model, toy.clean.tokens)[hook].flatten(2)).detach()

    def move(x, hook, unit, pos, earlier=()):
        x = x.clone()
        flat, f = x.flatten(2), sae.encode(x.flatten(2))
        new = f.clone()
        new[:, pos, unit] = source[:, pos, unit]
        return (flat - sae.decode(f) + sae.decode(new)).view_as(x).detach()

    def run(unit, pos, *more):
        hooks = [*more, (hook, lambda x, hook: move(x, hook, unit, pos))]
        with torch.no_grad():
            return model.run_with_hooks(toy.corrupted.tokens, fwd_hooks=hooks)[:, -1]

    ours = toy.logits("feature", sae=(sae, hook))
    same(ours, torch.stack([torch.stack([run(unit, pos) for pos in range(6)]) for unit in range(5)]))
    same(
        toy.logits("feature", sae=(sae, hook), positions="all", units=[4, 1]),
        torch.stack([run(4, slice(None)), run(1, slice(None))]),
    )
    changed = (
        "blocks.0.hook_resid_pre",
        lambda x, hook: x.index_copy(1, torch.tensor([2]), toy.clean.acts["resid_pre", 0][:, [2]]),
    )
    nodes = [Node("resid_pre", 0, pos=2), Node("feature", layer, unit=3)]
    same(toy.logits(nodes, sae=(sae, hook)), run(3, slice(None), changed))


# -- agreement with TransformerLens ----------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder in GPT-2's Hugging Face format: random weights, three layers."""
    transformers = pytest.importorskip("transformers")
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel

    folder = tmp_path_factory.mktemp("gpt2-tiny")
    words = Tokenizer(WordLevel({"<unk>": 0, "<eos>": 1, "the": 2}, unk_token="<unk>"))
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>", eos_token="<eos>")
    fast.save_pretrained(folder)
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        vocab_size=17, n_positions=12, n_embd=12, n_layer=3, n_head=3, initializer_range=0.3
    )
    transformers.GPT2LMHeadModel(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module", params=["Hugging Face", "native", "native rotary"])
def bridged(request, folder):
    """An experiment on a bridge, with the caches that TransformerLens' loops want."""
    if request.param == "Hugging Face":
        model = pretrained.load(folder)
    else:
        positions = "rotary" if request.param == "native rotary" else "learned"
        tiny = model_of(5, n_layers=3, n_heads=3, d_model=12, d_vocab=17, n_ctx=12, d_mlp=16, norm="layernorm", act="gelu",
                        positions=positions)  # fmt: skip
        model = pretrained.to_bridge(tiny)
    clean, corrupted, _, _ = prompts(model, 3, 7)
    right, wrong = torch.tensor([4, 4, 4]), torch.tensor([9, 9, 9])
    exp = Experiment(model, clean, corrupted, right, wrong)
    assert isinstance(exp.engine, Forward)
    return exp, cache_of(model, clean), cache_of(model, corrupted)


LOOPS = {
    ("resid_pre", "each"): "resid_pre", ("resid_mid", "each"): "resid_mid", ("attn_out", "each"): "attn_out",
    ("mlp_out", "each"): "mlp_out", ("pattern", "pairs"): "attn_head_pattern_dest_src_pos",
    **{(kind, "all"): f"attn_head_{name}_all_pos" for kind, name in
       (("z", "out"), ("q", "q"), ("k", "k"), ("v", "v"), ("pattern", "pattern"))},
    **{(kind, "each"): f"attn_head_{name}_by_pos" for kind, name in
       (("z", "out"), ("q", "q"), ("k", "k"), ("v", "v"), ("pattern", "pattern"))},
}  # fmt: skip


def loops():
    """TransformerLens' own patching; only models.py may import it in the package, tests may anywhere."""
    return pytest.importorskip("transformer_lens.patching")


@pytest.mark.parametrize(("kind", "positions"), LOOPS)
def test_sweeps_agree_with_transformer_lens(bridged, kind, positions):
    exp, clean, _ = bridged
    loop = getattr(loops(), f"get_act_patch_{LOOPS[kind, positions]}")
    with torch.no_grad():
        theirs = loop(
            exp.model,
            exp.corrupted.tokens,
            clean,
            lambda x: logit_diff(x[:, -1], exp.right, exp.wrong).mean(),
        )
    ours = exp.sweep(kind, positions=positions).scores
    if positions == "each" and kind in ("z", "q", "k", "v"):
        theirs = theirs.transpose(1, 2)  # theirs is layer × pos × head
    same(ours, theirs)


def split_inputs(bridged):
    """The experiment where TransformerLens can give every head its own inputs: not on its native bridge."""
    if not hasattr(bridged[0].model.blocks[0].attn, "split_qkv_matrix"):
        pytest.skip("the native bridge has no separate inputs of q, k and v")
    return bridged


@pytest.mark.parametrize("letter", "qkv")
def test_paths_agree_with_direct_path_patching(bridged, letter):
    exp, clean, corrupted = split_inputs(bridged)
    metric = lambda x: logit_diff(x[:, -1], exp.right, exp.wrong).mean()  # noqa: E731
    with torch.no_grad():
        theirs = loops().get_act_patch_direct_path(
            exp.model, exp.corrupted.tokens, clean, corrupted, metric, 0, 1, letter, verbose=False
        )
    for layer in (1, 2):
        for head in range(3):
            ours = exp.path(Node("z", 0, 1), Node(letter, layer, head))
            same(ours.scores, theirs[layer, head])


def test_attribution_agrees_with_transformer_lens(bridged):
    tools = pytest.importorskip("transformer_lens.tools.analysis.attribution_patching")
    exp, _, _ = bridged
    metric = lambda x: (x[..., -1, 4] - x[..., -1, 9]).sum()  # noqa: E731
    given = (exp.model, exp.clean.tokens, exp.corrupted.tokens, metric)
    nodes = tools.attribution_patch(*given, tools.EdgeAttributionConfig(granularity="node")).node_scores
    z, mlp = (exp.attribution(kind).scores - exp.corrupted_score for kind in ("z", "mlp_out"))
    embed = (exp.attribution("resid_pre").scores - exp.corrupted_score)[0]
    for node, score in nodes.items():
        found = {"attn_head_out": lambda n: z[n.layer, n.head, n.position], "mlp_out": lambda n: mlp[n.layer, n.position],
                 "embed": lambda n: embed[n.position]}[node.kind](node)  # fmt: skip
        assert float(found) == pytest.approx(score, abs=1e-5), node


def test_edges_agree_with_transformer_lens(bridged):
    tools = pytest.importorskip("transformer_lens.tools.analysis.attribution_patching")
    exp, _, _ = split_inputs(bridged)
    metric = lambda x: (x[..., -1, 4] - x[..., -1, 9]).sum()  # noqa: E731
    given = (exp.model, exp.clean.tokens, exp.corrupted.tokens, metric)
    edges = tools.attribution_patch(*given, tools.EdgeAttributionConfig(granularity="edge")).edge_scores
    name = lambda n: {  # noqa: E731
        "embed": "embed", "logits": "logits", "attn_head_out": f"z {n.layer}.{n.head}", "mlp_out": f"mlp_out {n.layer}",
        "mlp_in": f"mlp_in {n.layer}",
    }.get(n.kind, f"{n.kind[0]} {n.layer}.{n.head}")  # fmt: skip
    theirs: dict = {}
    for (sender, receiver), score in edges.items():
        key = name(sender), name(receiver)
        theirs[key] = theirs.get(key, 0.0) + score
    result = exp.edge_attribution()
    ours = {
        (s, r): float(result.scores[i, j]) - exp.corrupted_score
        for i, s in enumerate(result.axes["sender"]) for j, r in enumerate(result.axes["receiver"])
    }  # fmt: skip
    assert set(theirs) <= set(ours)
    for key, value in ours.items():
        assert value == pytest.approx(theirs.get(key, 0.0), abs=1e-5), key
    assert len(theirs) == 6 * 10 + 3 * (1 + 4) + 31 or len(theirs) > 60


# -- circuits by hand ------------------------------------------------------------------------------


def gate(kind):
    """[a, b, ?]: heads A and B carry the bits a and b to the last position, and the MLP says a AND b, or a OR b."""
    model = blank(
        n_layers=1,
        n_heads=2,
        head_width=1,
        d_model=7,
        d_vocab=3,
        n_ctx=3,
        d_mlp=2,
        positions="learned",
        bias=True,
    )
    bit, here, A, B, out = 0, [1, 2, 3], 4, 5, 6
    model.W_E[1, bit] = 1
    for i in range(3):
        model.W_pos[i, here[i]] = 1
    attn, mlp = model.blocks[0].attn, model.blocks[0].mlp
    for head, write in ((0, A), (1, B)):
        attn.W_Q[head, here[2], 0] = 200  # the last position asks for position `head`
        attn.W_K[head, here[head], 0] = 1
        attn.W_V[head, bit, 0] = 1
        attn.W_O[head, 0, write] = 1
    mlp.W_in[[A, B]] = 1
    mlp.b_in[1] = -1  # neuron 0 is a + b, neuron 1 is relu(a + b − 1)
    mlp.W_out[:, out] = torch.tensor([0.0, 1.0] if kind == "and" else [1.0, -1.0])
    model.unembed.W_U[out, 1] = 1
    return Experiment(model, torch.tensor([[1, 1, 2]]), torch.tensor([[0, 0, 2]]), [1], [0])


@pytest.mark.parametrize(
    ("kind", "denoising", "noising"), [("and", [0, 0, 1], [1, 1, 1]), ("or", [1, 1, 1], [0, 0, 1])]
)
def test_gates_have_their_effect_matrix_exactly(kind, denoising, noising):
    exp = gate(kind)
    assert (exp.clean_score, exp.corrupted_score) == (1.0, 0.0)
    nodes = [Node("z", 0, 0), Node("z", 0, 1), Node("mlp_out", 0)]
    assert [float(exp.patch(node).effect) for node in nodes] == denoising
    assert [float(exp.patch(node, "noising").effect) for node in nodes] == noising
    assert float(exp.patch(nodes[:2]).effect) == 1.0


def test_last_heads_of_a_linear_model_have_their_closed_form():
    model = model_of(2, n_layers=2, positions="shortformer")
    clean, corrupted, right, wrong = prompts(model)
    exp = Experiment(model, clean, corrupted, right, wrong)
    ours = exp.sweep("z", positions="all")
    for layer in (0, 1):
        change = cache_of(model, clean)["z", layer][:, -1] - cache_of(model, corrupted)["z", layer][:, -1]
        axis = (model.W_U[:, right] - model.W_U[:, wrong]).T
        direct = torch.einsum("bhe,hem,bm->hb", change, model.W_O[layer], axis).detach()
        same(
            exp.path_sweep("logits").per_prompt[layer]
            - exp.sweep("z", source=exp.corrupted).per_prompt[0, 0, 0],
            direct,
        )
        if layer == 1:
            same(ours.per_prompt[1] - exp.sweep("z", source=exp.corrupted).per_prompt[0, 0, 0], direct)


def test_direct_and_mediated_effects_add_up_where_attention_is_frozen():
    model = model_of(4, n_layers=2, positions="learned")
    exp = Experiment(model, *prompts(model))
    base = exp.corrupted_score
    for head in (0, 1):
        sender = Node("z", 0, head)
        total = exp.patch(sender, freeze_patterns=True).scores - base
        direct = exp.path(sender, "logits").scores - base
        mediated = exp.path(sender, [Node("v", 1, 0), Node("v", 1, 1)], freeze_patterns=True).scores - base
        same(direct + mediated, total)
        assert abs(float(mediated)) > 1e-3 and abs(float(direct)) > 1e-3


# -- sets ------------------------------------------------------------------------------------------


def test_a_circuit_and_its_complement_are_everything(toy):
    circuit = [Node("z", 0, 1), Node("mlp_out", 1), Node("result", 1, 0)]
    rest = toy.complement(circuit)
    assert sorted(map(str, rest)) == ["mlp_out 0", "z 0.0", "z 1.1"]
    some = toy.complement([Node("z", 0, 1, pos=-1), Node("z", 0, 0)])
    assert (
        len(some) == 6 * (4 + 2) - 1 - 6
        and Node("z", 0, 1, pos=5) not in some
        and Node("z", 0, 1, pos=0) in some
    )
    embed = Node("resid_pre", 0)
    same(toy.logits([embed, *circuit, *rest]), toy.logits(embed))
    with pytest.raises(CourseError, match="neither"):
        toy.complement([Node("q", 0, 1)])


def test_random_circuits_have_the_same_make_up(toy):
    like = [Node("z", 0, 1), Node("z", 1, 1), Node("mlp_out", 1, pos=2), Node("neuron", 0, unit=3, pos=2)]
    circuits = toy.random_nodes(20, like=like, seed=1)
    assert circuits == toy.random_nodes(20, like=like, seed=1) != toy.random_nodes(20, like=like, seed=2)
    make_up = lambda nodes: sorted((n.kind, str(n.pos)) for n in nodes)  # noqa: E731
    assert all(make_up(c) == make_up(like) and len(set(c)) == 4 for c in circuits)
    assert {(n.layer, n.head) for c in circuits for n in c if n.kind == "z"} == {
        (i, h) for i in (0, 1) for h in (0, 1)
    }
    assert all(isinstance(float(toy.patch(c)), float) for c in circuits[:3])


# -- bad input -------------------------------------------------------------------------------------


def of(toy, **changed):
    given = {"clean": toy.clean, "corrupted": toy.corrupted, "right": toy.right, "wrong": toy.wrong} | changed
    return Experiment(toy.model, **given)


BAD_EXPERIMENTS = {
    r"clean is \[3, 6\] and corrupted \[3, 5\]": lambda toy: {"corrupted": toy.corrupted.tokens[:, :5]},
    "the same prompts": lambda toy: {"corrupted": toy.clean.tokens.clone()},
    "right holds text": lambda toy: {"right": ["Rome", "Paris", "Oslo"]},
    "right must be one token id for each of the 3": lambda toy: {
        "right": torch.zeros(3, 2, dtype=torch.long)
    },
    "wrong must be one token id": lambda toy: {"wrong": torch.tensor([1.0, 2.0, 3.0])},
    "right holds answers of unequal lengths": lambda toy: {"right": [[1, 2], [3], [4]]},
    r"wrong must be one token id for each of the 3 prompts, \[batch\], not \[2\]": lambda toy: {
        "wrong": [1, 2]
    },
    "right holds an id outside the vocabulary 0…10": lambda toy: {"right": [0, 1, 11]},
    "equals the wrong one": lambda toy: {"wrong": toy.right},
    "logit_diff needs wrong": lambda toy: {"wrong": None},
    "no metric 'logitdiff'.*logit_diff": lambda toy: {"metric": "logitdiff"},
    "There is no position 6": lambda toy: {"pos": 6},
    "There is no position -7": lambda toy: {"pos": [0, 1, -7]},
    "one position for each of the 3": lambda toy: {"pos": [0, 1]},
    "clean is a mean run": lambda toy: {"clean": toy.clean.mean()},
    "it must keep every axis": lambda toy: {"metric": lambda logits: logits.mean()},
}


@pytest.mark.parametrize("sentence", BAD_EXPERIMENTS)
def test_bad_experiments_are_refused_in_one_sentence(toy, sentence):
    with pytest.raises(CourseError, match=sentence):
        of(toy, **BAD_EXPERIMENTS[sentence](toy))


@pytest.mark.parametrize(("name", "value", "sentence"), [
    ("right", None, "right is a NoneType"), ("right", {1, 2, 3}, "right is a set"), ("wrong", iter([1, 2, 3]), "is a list_iterator"),
    ("wrong", torch.tensor([True, False, True]), "must be one token id"), ("pos", "last", "pos must be an int or one position"),
    ("pos", None, "pos must be"), ("pos", [[1], [2], [3]], "pos must be"), ("pos", [[1], [2, 3]], "pos must be"),
    ("pos", [1.5, 2.0, 3.0], "pos must be"), ("pos", True, "pos must be"), ("attention_mask", "left", "attention_mask must be 1"),
    ("attention_mask", [[1, 1], [1]], "attention_mask must be 1"),
])  # fmt: skip
def test_answers_positions_and_masks_of_other_kinds_are_refused(toy, name, value, sentence):
    with pytest.raises(CourseError, match=sentence):
        of(toy, clean=toy.clean.tokens, corrupted=toy.corrupted.tokens, **{name: value})


def test_a_position_may_be_a_number_of_numpy_or_torch(toy):
    for pos in (np.int64(3), torch.tensor(3), np.array([3, 3, 3]), (3, 3, 3)):
        assert of(toy, pos=pos).pos.tolist() == [3, 3, 3]


def test_plain_numbers_are_one_prompts_answers(toy):
    one = [run.tokens[:1] for run in (toy.clean, toy.corrupted)]
    right, wrong = int(toy.right[0]), int(toy.wrong[0])
    exp = Experiment(toy.model, *one, right, wrong)
    same(exp.sweep("z").per_prompt[..., 0], toy.sweep("z").per_prompt[..., 0])
    assert repr(exp).startswith("Experiment(1 prompts × 6 positions, logit_diff: clean") and "\n" not in repr(
        exp
    )
    with pytest.raises(CourseError, match="right must be one token id for each of the 3"):
        of(toy, right=right)


NARROW = SparseAutoencoder(SaeConfig(d_in=4, d_sae=5))
SAE = SparseAutoencoder(SaeConfig(d_in=8, d_sae=5)), "blocks.1.hook_resid_post"
BAD_PATCHES = {
    "no kind of node 'resid_per'.*resid_pre": lambda toy: toy.sweep("resid_per"),
    "no direction 'denoise'.*denoising": lambda toy: toy.sweep("z", "denoise"),
    "no choice of positions 'every'": lambda toy: toy.sweep("z", positions="every"),
    "no choice of positions 'pairs'": lambda toy: toy.sweep("z", positions="pairs"),
    "no position 9": lambda toy: toy.sweep("z", positions=[9]),
    "There is no layer 2": lambda toy: toy.sweep("z", layers=[2]),
    "no neuron 6": lambda toy: toy.sweep("neuron", units=[6]),
    "units= is for neurons": lambda toy: toy.sweep("z", units=[0]),
    "Features need sae=": lambda toy: toy.sweep("feature"),
    "no hook 'blocks.1.hook_resid_pots'.*resid_post": lambda toy: toy.sweep("feature", sae=(SAE[0], "blocks.1.hook_resid_pots")),
    "reads 4 numbers, and blocks.1.hook_resid_post has 8": lambda toy: toy.sweep("feature", sae=(NARROW, SAE[1])),
    "There is no layer 5": lambda toy: toy.patch(Node("z", 5, 0)),
    "kind z needs head": lambda toy: toy.patch(Node("z", 0)),
    "kind mlp_out has no head": lambda toy: toy.patch(Node("mlp_out", 0, head=1)),
    "kind neuron needs unit": lambda toy: toy.patch(Node("neuron", 0)),
    "There is no z 0.2: heads are 0…1": lambda toy: toy.patch(Node("z", 0, 2)),
    "no position -8": lambda toy: toy.patch(Node("z", 0, 1, pos=-8)),
    "feature 0.1 is not in layer 1": lambda toy: toy.patch(Node("feature", 0, unit=1), sae=SAE),
    "at least one": lambda toy: toy.patch([]),
    "The source has prompts": lambda toy: toy.sweep("z", source=record(toy.model, toy.clean.tokens[:2])),
    "q 0.1 cannot send": lambda toy: toy.path(Node("q", 0, 1), "logits"),
    "resid_pre 1 cannot send": lambda toy: toy.path(Node("resid_pre", 1), "logits"),
    "z 1.1 cannot receive": lambda toy: toy.path(Node("z", 0, 1), Node("z", 1, 1)),
    "pass nodes, or 'logits'": lambda toy: toy.path(Node("z", 0, 1), "logit"),
    "No sender stands below": lambda toy: toy.path(Node("z", 1, 1), Node("q", 1, 1)),
    "There is no q 1.3": lambda toy: toy.path(Node("z", 0, 1), Node("q", 1, 3)),
    "There is no layer 7": lambda toy: toy.path(Node("z", 0, 1), Node("mlp_in", 7)),
    "QK fix is for queries and keys": lambda toy: toy.attribution("v", qk_fix=True),
    r"layers= takes whole numbers, at least one, not \[\]": lambda toy: toy.sweep("z", layers=[]),
    r"positions= takes whole numbers, at least one, not \[\]": lambda toy: toy.attribution("z", positions=[]),
    r"units= takes whole numbers, at least one, not \[\]": lambda toy: toy.logits("neuron", units=[]),
    "n=0: draw one random circuit": lambda toy: toy.random_circuits(Node("z", 0, 1), 0),
    "n=-1: draw one random circuit": lambda toy: toy.random_nodes(-1, like=[Node("z", 0, 1)]),
    "steps=0": lambda toy: toy.attribution("z", steps=0),
}  # fmt: skip


@pytest.mark.parametrize("sentence", BAD_PATCHES)
def test_bad_patches_are_refused_in_one_sentence(toy, sentence):
    with pytest.raises(CourseError, match=sentence):
        BAD_PATCHES[sentence](toy)


@pytest.mark.parametrize("kind", WITH_MLP)
def test_attention_only_models_have_no_mlp_to_patch(kind):
    model = model_of(n_layers=1)
    with pytest.raises(CourseError, match=f"This model has no {kind}"):
        Experiment(model, *prompts(model)).sweep(kind)
