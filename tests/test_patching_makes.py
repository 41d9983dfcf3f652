"""Every make that a bridge boots: scores are those of hooks on the Hugging Face model, and identities hold or a site says no."""

import pytest
import torch

from mi_course import pretrained
from mi_course.errors import CourseError
from mi_course.patching import Experiment, Node, Run, logit_diff, noised_embeddings, record
from mi_course.patching.forward import Forward
from mi_course.patching.hooked import Hooked
from mi_course.patching.reach import unreached
from mi_course.sae import SaeConfig, SparseAutoencoder
from tests.patching_makes import FAST, MAKES, Truth, V, save

RIGHT, WRONG = torch.tensor([3, 4, 5]), torch.tensor([6, 7, 8])
SITES = (
    "z",
    "q",
    "k",
    "v",
    "pattern",
    "neuron",
    "attn_out",
    "mlp_out",
    "resid_pre",
    "resid_mid",
    "resid_post",
)
PARALLEL = ("gpt-neox", "gpt-j", "phi")
HIDDEN = {"gpt-neo": {"pattern"}, "gpt-j": {"pattern"}}  # makes whose attention runs where no hook is


def prompts(n_pos=6, seed=5):
    return torch.randint(3, V, (2, 3, n_pos), generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module", params=MAKES)
def made(request, tmp_path_factory):
    """Name, folder and an experiment."""
    folder = save(request.param, tmp_path_factory.mktemp("make"))
    return request.param, folder, Experiment(pretrained.load(folder), *prompts(), RIGHT, WRONG)


def near(ours, theirs, atol=1e-5):
    torch.testing.assert_close(ours, theirs, atol=atol, rtol=1e-5)


def all_of(exp, kind, layer):
    """All nodes of a kind in a layer."""
    return [node for node in exp.parts.every(kind, None) if node.layer == layer]


def served(exp, kind):
    """Whether the model serves this kind; if not, it says so in one sentence."""
    try:
        exp.parts.check_kind(kind)
    except CourseError as error:
        assert str(error).startswith("This model") and str(error).count(".") <= 1
        return False
    return True


def test_scores_are_those_of_hooks_on_the_hugging_face_model(made):
    name, folder, exp = made
    assert isinstance(exp.engine, Forward if name in FAST else Hooked)
    truth, (clean, corrupted) = Truth(name, folder), prompts()
    given = truth.activations(clean)
    score = lambda patches: logit_diff(truth.logits(corrupted, patches)[:, -1], RIGHT, WRONG)  # noqa: E731
    near(torch.tensor(exp.clean_score), logit_diff(truth.logits(clean)[:, -1], RIGHT, WRONG).mean())
    heads, stream = exp.sweep("z", positions="all").per_prompt, exp.sweep("resid_pre").per_prompt
    for layer in (0, 1):
        for head in range(4):
            index = (slice(None), slice(None), slice(8 * head, 8 * head + 8))
            near(heads[layer, head], score([("z", layer, index, given["z", layer])]))
        for pos in range(6):
            near(
                stream[layer, pos],
                score([("resid_pre", layer, (slice(None), pos), given["resid_pre", layer])]),
            )


def test_identities_hold_or_the_site_refuses(made):
    name, _, exp = made
    refused = {kind for kind in SITES if not served(exp, kind)}
    assert refused == HIDDEN.get(name, set()) | ({"resid_mid"} if name in PARALLEL else set())

    def score(layer, *kinds):
        return exp.patch([node for kind in kinds for node in all_of(exp, kind, layer)]).per_prompt

    for layer in (0, 1):
        z = score(layer, "z")
        near(score(layer, "q", "k", "v"), z)
        near(score(layer, "attn_out"), z)
        near(score(layer, "neuron"), score(layer, "mlp_out"))
        if "pattern" not in refused:
            near(score(layer, "pattern", "v"), z)
        assert float((z - exp._corrupted_each).abs().max()) > 1e-2  # not that nothing happens
    for kind in {"resid_pre", "resid_mid", "resid_post"} - refused:
        near(exp.sweep(kind, positions="all").values, torch.ones(2))
    if "pattern" in refused:
        with pytest.raises(CourseError, match="hook of pattern"):
            exp.patch(Node("z", 0, 0), freeze_patterns=True)


def test_no_noise_is_the_clean_run(made):
    _, _, exp = made
    embed = noised_embeddings(exp.model, exp.clean.tokens, 0)
    near(
        record(exp.model, exp.clean.tokens, embed=embed).acts["resid_post", 1],
        exp.clean.acts["resid_post", 1],
    )


@pytest.mark.parametrize("positions", ["all", "each"])
def test_attribution_is_the_derivative_of_a_small_true_change(made, positions):
    """A thousandth of the way to the clean run: what is left over is second order, or a wrong gradient."""
    _, _, exp = made
    small = {key: host + 1e-3 * (exp.clean.acts[key] - host) for key, host in exp.corrupted.acts.items()}
    source = Run(exp.clean.tokens, small, exp.engine, made="near")
    for kind in filter(
        lambda kind: served(exp, kind), SITES if positions == "all" else ("z", "k", "resid_pre")
    ):
        change, guess = (
            f(kind, source=source, positions=positions).per_prompt - exp._corrupted_each
            for f in (exp.sweep, exp.attribution)
        )
        largest = float(change.abs().max())
        assert largest > 1e-5
        near(guess, change, atol=0.02 * largest + 2e-6)


def pad(tokens, by):
    """The first prompt shortened by some tokens at its beginning, which become padding."""
    tokens, mask = tokens.clone(), torch.ones_like(tokens)
    tokens[0, :by], mask[0, :by] = 2, 0
    return tokens, mask


def test_a_padded_prompt_scores_as_alone(made):
    _, _, exp = made
    (clean, mask), (corrupted, _) = (pad(tokens, 2) for tokens in prompts())
    told = Experiment(exp.model, clean, corrupted, RIGHT, WRONG, attention_mask=mask)
    found = Experiment(exp.model, clean, corrupted, RIGHT, WRONG)  # by the tokenizer's padding
    alone = Experiment(exp.model, clean[:1, 2:], corrupted[:1, 2:], 3, 6)
    rest = Experiment(exp.model, clean[1:], corrupted[1:], RIGHT[1:], WRONG[1:])
    assert type(told.engine) is type(exp.engine) and "some padded" in repr(told.clean)
    for kind in ("resid_pre", "z", "k", "mlp_out"):
        ours = told.sweep(kind, layers=[0]).per_prompt
        near(ours[..., 2:, :1], alone.sweep(kind, layers=[0]).per_prompt)
        near(ours[..., 1:], rest.sweep(kind, layers=[0]).per_prompt)
        near(
            ours[..., :2, 0], told._corrupted_each[0].expand_as(ours[..., :2, 0])
        )  # a patched pad does nothing
    near(found.sweep("z").per_prompt, told.sweep("z").per_prompt)
    z = told.attribution("z").per_prompt - told._corrupted_each
    near(z[:, :, 2:, :1], alone.attribution("z").per_prompt - alone._corrupted_each)


# -- the fast forward against hooks -----------------------------------------------------------------


def by_hooks(exp):
    """The same experiment through hooks."""
    engine = Hooked(exp.model)
    engine.refused = unreached(engine, exp.clean.tokens[-1:])
    runs = [
        Run(run.tokens, engine.record(run.tokens, run.layout), engine, mask=run.mask)
        for run in (exp.clean, exp.corrupted)
    ]
    return Experiment(exp.model, *runs, exp.right, exp.wrong)


def some_nodes(exp, seed):
    """Eight nodes of all kinds."""
    rng = torch.Generator().manual_seed(seed)
    kinds = [kind for kind in SITES if served(exp, kind)]
    pick = lambda options: options[int(torch.randint(len(options), (), generator=rng))]  # noqa: E731
    return list({(n.kind, n.layer, n.head, n.unit): n for n in (
        pick(exp.parts.every(pick(kinds), pick([None, 0, 2, -1]))) for _ in range(8)
    )}.values())  # fmt: skip


@pytest.mark.parametrize("padded", [False, True])
def test_the_rebuilt_forward_is_the_hooked_one(made, padded):
    name, _, exp = made
    if name not in FAST:
        pytest.skip("goes through hooks as it is")
    if padded:
        (clean, mask), (corrupted, _) = (pad(tokens, 2) for tokens in prompts())
        exp = Experiment(exp.model, clean, corrupted, RIGHT, WRONG, attention_mask=mask)
    slow = by_hooks(exp)
    for key, value in slow.clean.acts.items():
        real = [0, 1, 2] if not padded else [1, 2]
        near(exp.clean.acts[key][real], value[real], atol=2e-5)
    for seed in range(6):
        nodes = some_nodes(slow, seed)
        near(exp.logits(nodes), slow.logits(nodes), atol=3e-5)
        if (
            "pattern" not in slow.engine.refused
        ):  # the bridge of OPT hides its patterns, the rebuilt forward does not
            ours, theirs = (e.logits(nodes, "noising", freeze_patterns=True) for e in (exp, slow))
            near(ours, theirs, atol=3e-5)
    for kind in filter(lambda kind: served(slow, kind), ("resid_pre", "q", "k", "v", "pattern", "mlp_out")):
        near(
            exp.sweep(kind, positions=[2, -1]).per_prompt,
            slow.sweep(kind, positions=[2, -1]).per_prompt,
            atol=3e-5,
        )
    for kind in ("q", "z", "neuron"):
        near(exp.attribution(kind).per_prompt, slow.attribution(kind).per_prompt, atol=3e-5)


def test_paths_and_edges_of_other_makes(made):
    name, _, exp = made
    if name not in FAST:
        with pytest.raises(CourseError, match="only hooks can patch it"):
            exp.path(Node("z", 0, 0), "logits")
        return
    sender, clean, corrupted = Node("z", 0, 1), exp.clean, exp.corrupted

    def write(x, hook):
        return torch.cat([x[:, :, :1], clean.acts["z", 0][:, :, 1:2], x[:, :, 2:]], 2)

    held = [
        ("blocks.0.attn.hook_z", write),
        ("blocks.0.hook_mlp_out", lambda x, hook: corrupted.acts["mlp_out", 0]),
    ]
    for kind in "qkv":
        read = {}
        note = ("blocks.1.attn.hook_" + kind, lambda x, hook, read=read: read.setdefault("x", x) * 1)
        with torch.no_grad():
            Hooked(exp.model).run(corrupted.tokens, corrupted.layout, None, [*held, note])
        source = Run(clean.tokens, {**clean.acts, (kind, 1): read["x"]}, exp.engine, made="read")
        receiver = Node(kind, 1, 1)
        near(exp.path(sender, receiver).per_prompt, exp.patch(receiver, source=source).per_prompt)
    edges, z = exp.edge_attribution(), exp.attribution("z", positions="all")
    for i, sent in enumerate(edges.axes["sender"]):
        if sent.startswith("z"):
            layer, head = map(int, sent[2:].split("."))
            total = (edges.per_prompt[i] - exp._corrupted_each).sum(0)
            near(total, z.per_prompt[layer, head] - exp._corrupted_each, atol=2e-5)


def test_the_qk_fix_where_heads_share_keys(made):
    name, _, exp = made
    if name not in FAST:
        pytest.skip("needs the rebuilt forward")
    small = {key: host + 1e-3 * (exp.clean.acts[key] - host) for key, host in exp.corrupted.acts.items()}
    source = Run(exp.clean.tokens, small, exp.engine, made="near")
    if exp.engine.layers[0].norms is not None:
        pytest.skip("a norm of queries is not linear: the mixture of two runs is no run")
    for kind in "qk":
        for positions in ("each", "all"):
            change, guess = (
                f(kind, source=source, positions=positions, **fix).per_prompt - exp._corrupted_each
                for f, fix in ((exp.sweep, {}), (exp.attribution, {"qk_fix": True}))
            )
            near(guess, change, atol=0.02 * float(change.abs().max()) + 2e-6)


# -- what the self-check costs and says --------------------------------------------------------------


def test_the_check_can_be_switched_off(made):
    name, _, exp = made
    if name not in HIDDEN:
        pytest.skip("nothing is refused here")
    assert record(exp.model, exp.clean.tokens, check=False).engine.refused == {}
    with pytest.raises(CourseError, match="behind|other numbers than its hook of pattern"):
        exp.sweep("pattern")


@pytest.mark.parametrize("format_of", ["the model", "the autoencoder"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", ["llama", "gemma"])  # rebuilt, and through hooks
def test_features_are_computed_in_the_autoencoders_format(name, dtype, format_of, tmp_path):
    """Within the roundings of the coarser format, what both in 32 bits give."""
    folder, (clean, corrupted) = save(name, tmp_path), prompts()
    torch.manual_seed(0)
    encoder, found = SparseAutoencoder(SaeConfig(d_in=32, d_sae=5)), []
    for changed in (False, True):
        bridge = pretrained.load(
            folder, dtype=dtype if changed and format_of == "the model" else torch.float32
        )
        encoder = encoder.to(dtype) if changed and format_of == "the autoencoder" else encoder
        exp, sae = Experiment(bridge, clean, corrupted, RIGHT, WRONG), (encoder, "blocks.0.hook_resid_post")
        both = [exp.patch([Node("resid_pre", 0, pos=1), Node("feature", 0, unit=2)], sae=sae)]
        found.append([*both, exp.sweep("feature", sae=sae), exp.attribution("feature", sae=sae)])
    for plain, other in zip(*found):
        near(other.per_prompt.float(), plain.per_prompt, atol=1e-4 if dtype == torch.float64 else 0.2)


@pytest.mark.parametrize("check", [False, True])
def test_a_make_whose_forward_does_not_stand_hooks_is_refused_in_a_sentence(check, tmp_path):
    bridge = pretrained.load(save("opt", tmp_path, do_layer_norm_before=False))
    with pytest.raises(CourseError, match=r"breaks off where .* through hooks \(.*\), .*another make"):
        Experiment(bridge, *prompts(), RIGHT, WRONG, check=check)


def test_noised_embeddings_fit_where_they_are_narrower_than_the_stream(tmp_path):
    """OPT of 350 million reads embeddings of half the stream's width: without noise they are the run itself."""
    bridge = pretrained.load(save("opt", tmp_path, word_embed_proj_dim=16))
    clean, _ = prompts()
    embed = noised_embeddings(bridge, clean, 0)
    assert embed.shape == (*clean.shape, 16)
    run, own = record(bridge, clean, embed=embed), record(bridge, clean)
    near(run.acts["resid_post", 1], own.acts["resid_post", 1])
    noisy = record(bridge, clean, embed=noised_embeddings(bridge, clean, 3.0))
    exp = Experiment(bridge, clean, noisy, RIGHT, WRONG)
    near(exp.patch(Node("resid_pre", 0)).per_prompt, exp._clean_each)
    with pytest.raises(CourseError, match=r"embed is \[3, 6, 32\], not \[\*\[3, 6\], 16\]"):
        record(bridge, clean, embed=torch.zeros(3, 6, 32))


LONG = {
    "rope_type": "longrope",
    "short_factor": [1.0] * 4,
    "long_factor": [4.0, 3.0, 8.0, 2.0],
    "factor": 8.0,
}


@pytest.mark.parametrize(
    "rope", [LONG, {"rope_type": "dynamic", "factor": 4.0}, {"rope_type": "linear", "factor": 2.0}]
)
def test_angles_that_depend_on_the_length_of_a_run_are_the_models_own(rope, tmp_path):
    """A patch at one position and the same patch in a sweep; rows alone would turn by a short run's angles."""
    rope = rope if rope["rope_type"] == "linear" else {**rope, "original_max_position_embeddings": 4}
    folder = save("llama", tmp_path, rope_scaling=rope)
    (clean, corrupted), truth = prompts(), Truth("llama", folder)
    exp = Experiment(pretrained.load(folder), clean, corrupted, RIGHT, WRONG)
    assert isinstance(exp.engine, Hooked) == (rope["rope_type"] != "linear")
    entering = truth.activations(clean)["resid_pre", 1]
    for pos in range(clean.shape[1]):
        at = (slice(None), pos)
        theirs = truth.logits(corrupted, [("resid_pre", 1, at, entering)])[:, -1]
        near(exp.logits(Node("resid_pre", 1, pos=pos)), theirs)
        near(exp.logits("resid_pre", layers=[1])[0, pos], theirs)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", ["gpt2 scaled by layer", "gpt-neo", "llama"])
def test_16_bits_are_patched_through_hooks(name, dtype, tmp_path):
    """Rounding hides which forward it is: none is rebuilt, and scores come in 32 bits."""
    folder = save(name, tmp_path)
    bridge, (clean, corrupted) = pretrained.load(folder).to(dtype, print_details=False), prompts()
    exp = Experiment(bridge, clean, corrupted, RIGHT, WRONG)
    assert isinstance(exp.engine, Hooked)
    theirs = logit_diff(Truth(name, folder, dtype).logits(clean)[:, -1].float(), RIGHT, WRONG)
    ours = exp.sweep("z", positions="all")
    assert ours.per_prompt.dtype == torch.float32 and ours.ends.dtype == torch.float32
    torch.testing.assert_close(exp._clean_each, theirs, atol=16 * torch.finfo(dtype).eps, rtol=0.02)
    assert float(exp.sweep("resid_pre", positions="all").values[0]) == pytest.approx(1, abs=0.02)
