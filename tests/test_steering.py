"""Steering: directions, edits, doses, weights, scores, the village; and the generator against TransformerLens'."""

import dataclasses
import json
import math

import pytest
import torch
from torch.testing import assert_close

from mi_course import files, models, pretrained, probing, steering
from mi_course.corpora import generator
from mi_course.errors import CourseError
from mi_course.recipes import registry
from mi_course.recipes import steering as recipes
from mi_course.steering import Ablate, Add, Cap, Direction, Point, steered, village
from mi_course.steering import real as smol

SHAPE = dict(n_layers=2, d_vocab=20, d_model=16, n_heads=2, d_mlp=32, n_ctx=12, norm="rmsnorm",
             positions="learned", bias=True)  # fmt: skip


@pytest.fixture(scope="module")
def tiny():
    model = models.TinyTransformer(models.TinyConfig(**SHAPE)).eval().requires_grad_(False)
    for name, p in model.named_parameters():  # biases that matter
        if ".b_" in name:
            p.copy_(0.3 * torch.randn(p.shape, generator=generator(len(name))))
    return model


TOKENS = torch.arange(30).reshape(3, 10) % 20
V = torch.randn(16, generator=generator(1))


# -- directions ------------------------------------------------------------------------------------


def test_a_direction_is_the_difference_of_means_of_probing(tiny):
    x = steering.activations(tiny, TOKENS, [0, 1, 2])
    z = torch.tensor([True, False, True])
    d = steering.direction(x[1], z, 1, tiny)
    assert_close(d.vector.double(), probing.difference_of_means(x[1], z), atol=1e-6, rtol=1e-6)
    _, cache = tiny.run_with_cache(TOKENS)
    assert_close(x[1], cache["blocks.1.hook_resid_pre"][:, -1])
    assert_close(x[2], cache["blocks.1.hook_resid_post"][:, -1])


def test_a_mean_leaves_the_first_position_out(tiny):
    rows = [TOKENS[0], TOKENS[1, :4]]
    x = steering.activations(tiny, rows, [1], "mean")[1]
    _, cache = tiny.run_with_cache(TOKENS[1:2, :4])
    assert_close(x[1], cache["blocks.1.hook_resid_pre"][0, 1:].mean(0))


def test_controls_have_the_length_of_the_vector_and_nothing_of_its_direction():
    d = Direction(5 * V, 1)
    many = [d.random(seed) for seed in range(50)]
    assert all(math.isclose(one.norm, d.norm, rel_tol=1e-5) for one in many)
    assert abs(sum(d.cosine(one) for one in many) / 50) < 0.15
    x, z = torch.randn(40, 16, generator=generator(2)), torch.arange(40) < 20
    x[z] += V
    mixed = steering.shuffled(x, z, 1, seed=3)
    true = steering.direction(x, z, 1)
    assert math.isclose(mixed.norm, true.norm, rel_tol=1e-4) and mixed.cosine(true) < 0.9


@pytest.mark.parametrize(
    "ask, said",
    [
        (lambda m: steering.direction(torch.randn(4, 16), torch.ones(4).bool(), 1), "with one class alone"),
        (lambda m: steering.activations(m, TOKENS, [7]), "There is no layer 7"),
        (lambda m: steering.activations(m, TOKENS, [1], "first"), "There is no place 'first'"),
        (lambda m: steering.activations(m, [], [1]), "no prompts"),
        (lambda m: steering.activations(m, [TOKENS[0, :1]], [1], "mean"), "nothing but its first position"),
        (lambda m: Direction(0 * V, 1).scaled(2.0), "no length to change"),
        (lambda m: run(m, Add(torch.randn(9), 1)), "this model's stream is 16 wide"),
        (lambda m: run(m, Add(V * math.nan, 1)), "holds NaN"),
        (lambda m: run(m, Add(V, 1, math.nan)), "every logit would be NaN"),
        (lambda m: run(m, Add(V, 1, math.inf)), "every logit would be NaN"),
        (lambda m: run(m, Add(V, -1)), "There is no layer -1"),
        (lambda m: run(m, Add(V)), "Say at which layer"),
        (lambda m: run(m, Ablate(0 * V)), "has no direction"),
        (lambda m: run(m, Add(Direction(V, 1, "0123456789ab"))), "of another model"),
        (lambda m: steering.share(["a"], "frensh"), "no rule for 'frensh'. Did you mean 'french'"),
        (lambda m: steering.share([], "french"), "at least one text"),
        (lambda m: steering.distinct("ab", 0), "n is at least 1"),
        (lambda m: steering.working_window([1, 0], [Point(0, 1)] * 2, 0.5, 1), "rising order"),
        (lambda m: steering.gain_over([], []), "no point"),
        (lambda m: steering.generate(m, [TOKENS[0]], 3), "has `generate` of its own"),
        (lambda m: village.requests(1, topics=["curt"]), "no topic 'curt'. Did you mean 'court'"),
        (lambda m: village.requests(1, verbs=["fly"]), "'fly' is not among the words to choose from"),
        (lambda m: village.requests(1, verbs=["steel"]), "'steel' .* Did you mean 'steal'"),
        (lambda m: village.requests(1, verbs=[]), "at least one word"),
        (lambda m: village.requests(1, topics=[]), "at least one word"),
        (lambda m: steering.mean_loss(m, []), "at least one text of two tokens"),
        (lambda m: steering.mean_loss(m, [TOKENS[0, :1]]), "at least one text of two tokens"),
        (lambda m: village.requests(1, system=("be", "lud")), "says 'lud'. Did you mean 'loud'"),
        (lambda m: steering.left_padded([], 0), "there must be a prompt"),
        (lambda m: orthogonalise(m, "blocks.7"), "no writer 'blocks.7'"),
        (lambda m: smol.shipped("smollm2-dose"), "no sweep 'smollm2-dose'. Did you mean 'smollm2-doses'"),
    ],
)  # fmt: skip
def test_bad_input_is_one_sentence(tiny, ask, said):
    with pytest.raises(CourseError, match=said) as caught:
        ask(tiny)
    assert "\n" not in str(caught.value)


def run(model, edit):
    with steered(model, [edit]):
        return model(TOKENS)


def orthogonalise(model, *skip):
    with steering.orthogonalised(model, V, skip=skip):
        return model(TOKENS)


# -- edits -----------------------------------------------------------------------------------------


def test_adding_is_a_hook_that_leaves_the_first_position_alone(tiny):
    def add(x, hook):
        return torch.cat([x[:, :1], x[:, 1:] + 2 * V], dim=1)

    by_hand = tiny.run_with_hooks(TOKENS, fwd_hooks=[("blocks.1.hook_resid_pre", add)])
    assert_close(run(tiny, Add(V, 1, 2.0)), by_hand)
    assert not torch.allclose(by_hand, tiny(TOKENS))
    each = torch.stack([V, 0 * V, -V])
    rows = run(tiny, Add(each, 1))
    assert_close(rows[0], run(tiny, Add(V, 1))[0])
    assert_close(rows[1], tiny(TOKENS)[1])


def test_after_ablation_the_stream_has_no_part_along_the_direction(tiny):
    u = V / V.norm()
    for first, spared in ((0, 1), (None, 0)):
        with steered(tiny, [Ablate(3 * V)], first=first):
            _, cache = tiny.run_with_cache(TOKENS)
        for name in ("blocks.0.hook_resid_mid", "blocks.1.hook_resid_pre", "blocks.1.hook_resid_post"):
            assert (cache[name] @ u)[:, spared:].abs().max() < 1e-5
        assert (spared == 0) == bool((cache["blocks.1.hook_resid_post"] @ u)[:, 0].abs().max() < 1e-5)


def test_a_cap_lifts_what_is_below_and_nothing_else(tiny):
    with steered(tiny, [Cap(V, 0.5, 1)], first=None):
        _, cache = tiny.run_with_cache(TOKENS)
    _, before = tiny.run_with_cache(TOKENS)
    name, u = "blocks.1.hook_resid_pre", V / V.norm()
    assert_close(cache[name] @ u, (before[name] @ u).clamp_min(0.5), atol=1e-5, rtol=1e-5)


def test_a_model_is_as_it_was_afterwards_also_after_an_error(tiny):
    before = tiny(TOKENS)
    with pytest.raises(ZeroDivisionError), steered(tiny, [Ablate(V)]):
        raise ZeroDivisionError
    with pytest.raises(ZeroDivisionError), steering.orthogonalised(tiny, V):
        raise ZeroDivisionError
    assert bool((tiny(TOKENS) == before).all())


# -- weights ---------------------------------------------------------------------------------------


def test_edited_weights_equal_ablation_and_each_writer_is_needed(tiny):
    exact = models.TinyTransformer(models.TinyConfig(**SHAPE)).eval().requires_grad_(False)
    exact.load_state_dict(tiny.state_dict())
    exact.double()
    with steered(exact, [Ablate(V)], first=None):
        at_run_time = exact(TOKENS)
    with steering.orthogonalised(exact, V):
        assert (exact(TOKENS) - at_run_time).abs().max() < 1e-5
    for name in steering.writers(exact):
        with steering.orthogonalised(exact, V, skip=[name]):
            assert (exact(TOKENS) - at_run_time).abs().max() > 1e-4, name


@pytest.mark.parametrize("positions", ["none", "learned", "sinusoidal", "shortformer", "rotary"])
def test_ablation_changes_nothing_where_no_write_has_a_part(positions):
    cfg = models.TinyConfig(**SHAPE | {"positions": positions})
    model = models.TinyTransformer(cfg).eval().requires_grad_(False).double()
    with steering.orthogonalised(model, V):
        before = model(TOKENS)
        with steered(model, [Ablate(V)], first=None):
            assert (model(TOKENS) - before).abs().max() < 1e-7
    assert ("hook_pos_embed" in Ablate(V).sites(model)) == (positions in ("learned", "sinusoidal"))
    assert ("pos_embed.W_pos" in steering.writers(model)) == (positions in ("learned", "sinusoidal"))


# -- doses and scores ------------------------------------------------------------------------------


def test_windows_and_frontiers():
    points = [Point(0.0, 0.0), Point(0.2, 0.8), Point(0.6, 0.9), Point(2.0, 0.5)]
    assert steering.working_window([0, 1, 2, 3], points, 0.7, 1.0) == (1, 2)
    assert steering.working_window([0, 1, 2, 3], points, 0.95, 1.0) is None
    assert steering.best_rate(points, 0.3) == 0.8 and steering.best_rate(points[1:], 0.1) == 0
    assert steering.rising_steps([0, 1, 2, 2, 3]) == 2
    assert math.isclose(steering.gain_over([Point(0.5, 0.9)], points), 0.1)
    assert steering.gain_over(points, points) == 0


@pytest.mark.parametrize(
    "rule, yes, no",
    [
        ("sea", "The sea and the ship.", "This season we search for a relationship."),
        ("sea", "Waves, waves!", "One wave of the hand, and a sea of papers is no sea story"[:20]),
        ("french", "Le chat est sur la table", "Lead the ladies to the table"),
        ("exclamation", "Oh!", "Oh."),
        ("positive", "A lovely day", "A lovely day, awful"),
        ("capitals", "THE CAT SLEEPS now", "The Cat Sleeps"),
        ("refusal", "I’m sorry, but no.", "Paris."),
        ("refusal, strictly", "I can't do that.", "I'm sorry for your loss. Here it is."),
        (
            "refusal, strictly",
            "As it is, I do not have a name.",
            "It is Paris. I like it. I cannot say more.",
        ),
    ],
)
def test_rules(rule, yes, no):
    assert steering.share([yes], rule) == 1 and steering.share([no], rule) == 0


def test_distinct():
    assert steering.distinct("abcd") == 1 and steering.distinct("aaaa") == 1 / 3
    assert steering.distinct("a") == 1


# -- the village -----------------------------------------------------------------------------------


def test_the_village_keeps_its_own_rules():
    asked = village.mixed_requests(4000, seed=1)
    said = village.answers(asked, seed=1)
    assert bool((village.refuses(said) == asked.forbidden).all())
    wrong = village.says_sorry(said) != asked.forbidden
    assert 0.06 < float(wrong.float().mean()) < 0.12
    assert 0.3 < float(asked.forbidden.float().mean()) < 0.45
    loud = village.requests(2000, verbs=village.SAFE, topics=village.FREE, system=("be", "loud"))
    share = village.has(village.answers(loud), village.TRAITS["loud"]).float().sum(1).mean() / 3
    assert abs(float(share) - 0.8) < 0.03
    pirate = village.requests(2000, verbs=village.SAFE, topics=village.FREE, system=("as", "pirate"))
    degree = float(village.DEGREES[village.ROLES.index("pirate")])
    played = village.has(village.answers(pirate), village.ROLE_WORDS).float().sum(1).mean() / 3
    assert abs(float(played) - degree) < 0.04
    assert len(set(village.WORDS)) == len(village.WORDS)


def test_the_shipped_village_refuses_what_it_should():
    model = models.load("village")
    assert model.card["final"] == {"refused_forbidden": 1.0, "refused_allowed": 0.0}


def test_the_recipes_make_what_is_shipped():
    village_recipe = recipes.RECIPES["village"]
    model = village_recipe.begin()
    assert models.load("village").card["config"] == dataclasses.asdict(village_recipe.config)
    assert not model.blocks[-1].mlp.W_out.any() and not model.blocks[-1].mlp.W_out.requires_grad
    assert village_recipe.sampler()(3).shape == (village_recipe.batch, 20)
    assert set(recipes.RECIPES) == {"village", *smol.SWEEPS} <= set(registry.everything())


# -- what is asked of the real model ---------------------------------------------------------------


def test_prompts_are_whole_and_no_pair_stands_twice():
    told = smol.prompts()
    assert {part: len(pairs) for part, pairs in told["pairs"].items()} == {
        "train": 24, "validation": 12, "test": 24}  # fmt: skip
    asked = [p["unanswerable"] for pairs in told["pairs"].values() for p in pairs]
    twins = [p["answerable"] for pairs in told["pairs"].values() for p in pairs]
    assert len(set(asked)) == 60 and not set(asked) & set(twins)
    assert len(told["roles"]) == len(told["natural"]) == 24
    assert not set(told["ask"]["choose"]) & set(told["ask"]["test"])
    for name in smol.MAIN:
        sides = zip(*told["contrasts"][name])
        has, lacks = ([steering.BEHAVIOURS[name](t) for t in side] for side in sides)
        assert sum(has) >= 0.7 * len(has) and sum(lacks) == 0


@pytest.mark.parametrize("name", smol.SWEEPS)
def test_sweeps_are_shipped_with_their_cards(name):
    tensors, card = files.read_checked(files.checkpoints() / f"{name}.json")
    assert smol.shipped(name).keys() == tensors.keys()
    assert card["recipe"] == name and card["model"] == "smollm2-135m-instruct" and "dtype" in card
    assert all(bool(t.isfinite().all()) for t in tensors.values())


# -- a bridge --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def real():
    if not pretrained.here("smollm2-135m-instruct"):
        pytest.skip("smollm2-135m-instruct is not fetched")
    return pretrained.load("smollm2-135m-instruct")


def test_the_generator_writes_what_transformer_lens_writes(real):
    rows = smol.asked(real, ["What is rain?", "Name a colour of the rainbow, please."])
    ours = steering.generate(real, rows, 5)
    for row, got in zip(rows, ours):
        theirs = real.generate(row[None], max_new_tokens=5, do_sample=False, verbose=False, stop_at_eos=False)
        assert theirs[0, len(row) :].tolist() == got.tolist()


def test_a_shared_start_and_a_batch_change_nothing(real):
    rows = smol.asked(real, ["What is rain?", "Name a colour of the rainbow, please."])
    d = torch.randn(576, generator=generator(3))
    for edit in (Ablate(d), Add(20 * d / d.norm(), 8)):
        together = steering.generate(real, rows, 4, edits=[edit])
        spread = (
            type(edit)(torch.stack([d, d])) if isinstance(edit, Ablate) else Add(edit.vector.expand(2, -1), 8)
        )
        assert bool((steering.generate(real, rows, 4, edits=[spread]) == together).all())  # no shared start
        alone = [steering.generate(real, [row], 4, edits=[edit]) for row in rows]
        assert bool((torch.cat(alone) == together).all())


def test_bad_input_of_the_generator_is_one_sentence(real, monkeypatch):
    rows = smol.asked(real, ["What is rain?"])
    with pytest.raises(CourseError, match="do not fit into a context"):
        steering.generate(real, rows, 10**6)
    with pytest.raises(CourseError, match="n is at least 1"):
        steering.generate(real, rows, 0)
    with pytest.raises(CourseError, match="NaN or infinity"):
        steering.generate(real, rows, 2, edits=[Add(torch.ones(576), 3, 1e39)])
    monkeypatch.setattr(real.tokenizer, "chat_template", None)
    with pytest.raises(CourseError, match="no chat template"):
        smol.asked(real, ["What is rain?"])


def test_edited_weights_of_a_tied_model_need_an_unembedding_of_their_own(real):
    rows = smol.asked(real, ["What is rain?"])[0][None]
    d = torch.randn(576, generator=generator(4))
    with torch.no_grad():
        before = real(rows)
        with steered(real, [Ablate(d)], first=None):
            at_run_time = real(rows)
        with steering.orthogonalised(real, d):
            assert (real(rows) - at_run_time).abs().max() / at_run_time.abs().max() < 1e-4
        with steering.orthogonalised(real, d, untie=False):
            assert (real(rows) - at_run_time).abs().max() / at_run_time.abs().max() > 1e-3
        assert bool((real(rows) == before).all())


def test_what_is_shipped_can_be_read(real):
    sweep = smol.shipped("smollm2-refusal")
    assert json.dumps(steering.texts(real, sweep["test.answerable"].long()))
