"""Grokking: the short cut is the model, the Fourier analysis finds what was planted, runs say what became of them."""

import math

import pytest
import torch
from torch.testing import assert_close

from mi_course import grokking
from mi_course.errors import CourseError
from mi_course.grokking import Task
from mi_course.recipes import arithmetic

# -- tasks ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("operation", grokking.OPERATIONS)
def test_answers_are_those_of_arithmetic(operation):
    task = Task(13, 0.4, operation)
    by_hand = {
        "a + b": lambda a, b: a + b,
        "a - b": lambda a, b: a - b,
        "a² + b²": lambda a, b: a * a + b * b,
    }
    for (a, b), answer in zip(task.pairs.tolist(), task.answers.tolist(), strict=True):
        assert answer == by_hand[operation](a, b) % 13
    assert task.tokens[:, 2].unique().tolist() == [13] and task.tokens[:, :2].equal(task.pairs)


def test_the_split_depends_on_the_seed_alone_and_has_its_size():
    task = Task(113, 0.3)
    assert int(task.train.sum()) == 3830, "the paper's number of pairs"
    assert task.train.equal(Task(113, 0.3).train) and not task.train.equal(Task(113, 0.3, seed=1).train)
    a, b = task.pairs.T
    table = task.train.view(113, 113)
    assert task.mirrored.equal(table[b, a]) and task.mirrored.sum() == task.train.sum()
    assert task.guessing == pytest.approx(math.log(113))


def test_shuffled_answers_are_the_same_ones_without_the_rule():
    plain, shuffled = Task(31), Task(31, shuffled=True)
    assert shuffled.answers.sort().values.equal(plain.answers.sort().values)
    assert (shuffled.answers == plain.answers).double().mean() < 0.1


@pytest.mark.parametrize(
    "given, said",
    [
        ({"p": 111}, "not prime"), ({"p": 1}, "not prime"), ({"p": -7}, "not prime"), ({"p": 7}, "too small"),
        ({"fraction": 0.0}, "between 0 and 1"), ({"fraction": 1.0}, "between 0 and 1"), ({"fraction": -0.3}, "between 0 and 1"),
        ({"fraction": math.nan}, "between 0 and 1"), ({"p": 11, "fraction": 0.001}, "nothing to train on"),
        ({"operation": "a * b"}, "no operation"),
    ],
)  # fmt: skip
def test_bad_tasks_are_told_in_a_sentence(given, said):
    with pytest.raises(CourseError, match=said):
        Task(**given)


# -- the network and its short cut ----------------------------------------------------------------


@pytest.mark.parametrize(
    "p, shape", [(11, {"d_model": 16, "n_heads": 2, "d_mlp": 24}), (23, {}), (13, {"n_heads": 1})]
)
def test_the_short_cut_is_the_model(p, shape):
    task, model = Task(p), grokking.network(p, seed=3, **shape)
    with torch.no_grad():
        wanted = model(task.tokens)[:, -1, :p]
        assert_close(grokking.logits_of(grokking.weights_of(model), task.pairs), wanted, atol=1e-5, rtol=0)
        _, cache = model.run_with_cache(task.tokens)
        mid, post = grokking.neurons(grokking.weights_of(model), task.pairs)
    assert_close(mid, cache["blocks.0.hook_resid_mid"][:, -1], atol=1e-5, rtol=0)
    assert_close(post, cache["blocks.0.mlp.hook_post"][:, -1], atol=1e-5, rtol=0)


def test_its_gradients_are_the_models():
    task, model = Task(11), grokking.network(11, d_model=16, n_heads=2, d_mlp=24).double()
    grads = []
    for logits in (
        lambda: model(task.tokens)[:, -1, :11],
        lambda: grokking.logits_of(grokking.weights_of(model), task.pairs),
    ):
        model.zero_grad()
        grokking.nll(logits(), task.answers)[task.train].mean().backward()
        grads.append([W.grad.clone() for W in model.parameters()])
    for theirs, ours in zip(*grads, strict=True):
        assert_close(ours, theirs, atol=1e-12, rtol=1e-9)


def test_many_networks_at_once_are_each_what_it_is_alone():
    models = [grokking.network(11, seed, d_model=16, n_heads=2, d_mlp=24) for seed in range(3)]
    alone = [grokking.weights_of(model) for model in models]
    together = grokking.Weights(*map(torch.stack, zip(*alone, strict=True)))
    pairs = Task(11).pairs
    logits = grokking.logits_of(together, pairs)
    for i, weights in enumerate(alone):
        assert_close(logits[i], grokking.logits_of(weights, pairs), atol=1e-5, rtol=0)
        assert_close(together.norm[i], weights.norm)
        assert_close(together.of(i).W_L, weights.W_L)
    assert_close(alone[0].norm, sum(W.square().sum() for W in models[0].parameters()).detach())


def test_a_model_can_be_made_of_weights():
    weights = grokking.weights_of(grokking.network(11, 5, d_model=16, n_heads=2, d_mlp=24))
    again = grokking.weights_of(grokking.model_of(weights))
    assert all(torch.equal(ours, given) for ours, given in zip(again, weights, strict=True))


def test_the_softmax_in_64_bits_sees_what_32_do_not():
    logits, answers = torch.tensor([[25.0, 0.0]]), torch.tensor([0])
    assert -logits.log_softmax(1)[0, 0] == 0
    assert float(grokking.nll(logits, answers)) == pytest.approx(math.exp(-25), rel=1e-6)


# -- by hand --------------------------------------------------------------------------------------


@pytest.mark.parametrize("p, keys, margin", [(113, [14, 35, 41, 42, 52], 2.41), (59, [5, 13, 22], 0.96)])
def test_trigonometry_solves_the_task(p, keys, margin):
    logits, task = grokking.trigonometric_logits(p, keys), Task(p)
    assert (logits.argmax(1) == task.answers).all()
    assert grokking.margin(logits, task.answers) == pytest.approx(margin, abs=0.005)
    assert grokking.margin(logits, (task.answers + 1) % p) < 0


def test_frequencies_that_do_not_exist():
    for call in (lambda k: grokking.trigonometric_logits(11, [k]), lambda k: grokking.directions(11, [k])):
        for k in (0, 6, -1):
            with pytest.raises(CourseError, match="go from 1 to 5"):
                call(k)


# -- Fourier --------------------------------------------------------------------------------------


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).double()


def test_the_basis_is_orthonormal_and_norms_are_those_of_the_fft():
    F = grokking.fourier_basis(13)
    assert_close(F @ F.T, torch.eye(13).double())
    M = random(4, 13)
    assert_close(
        grokking.frequency_norms(M), (2 / 13) ** 0.5 * torch.fft.rfft(M)[:, 1:].abs().square().sum(0).sqrt()
    )
    assert grokking.frequency_norms(torch.ones(3, 13)).abs().max() < 1e-6, "the constant is no frequency"


def test_key_frequencies_are_those_above_the_threshold():
    norms = torch.tensor([0.1, 4.0, 1.0, 0.99, 2.0])
    assert grokking.key_frequencies(norms) == [2, 3, 5] and grokking.key_frequencies(norms, 1.0) == [2]
    assert grokking.power_in(norms, 1) == pytest.approx(16 / float(norms.square().sum()))
    for share in (0, -1, 1.5):
        with pytest.raises(CourseError, match="must lie above 0"):
            grokking.key_frequencies(norms, share)


def test_gini_at_both_ends():
    assert grokking.gini(torch.ones(10)) == pytest.approx(0)
    assert grokking.gini(torch.tensor([0.0] * 9 + [1.0])) == pytest.approx(0.9)


@pytest.mark.parametrize("parts, count", [("sums", 2), ("products", 4), ("blocks", 8)])
def test_directions_are_orthonormal_nested_and_free_of_the_constant(parts, count):
    D = grokking.directions(13, [2, 5], parts)
    assert D.shape == (2 * count, 169)
    assert_close(D @ D.T, torch.eye(2 * count).double())
    assert D.sum(1).abs().max() < 1e-9
    wider = grokking.directions(13, [2, 5], {"sums": "products"}.get(parts, "blocks"))
    assert_close(wider.T @ (wider @ D.T), D.T)
    assert grokking.directions(13, [], parts).shape == (0, 169)


def test_the_sum_directions_hold_the_trigonometric_logits_and_nothing_of_differences():
    logits = grokking.trigonometric_logits(13, [2, 5])
    assert_close(grokking.component(logits, [2, 5]), logits)
    assert grokking.component(logits, [1, 3]).abs().max() < 1e-9
    task = Task(13, operation="a - b")
    difference = torch.stack([(2 * torch.pi * 2 / 13 * task.answers.double()).cos()], 1)
    assert grokking.component(difference, [2], "sums").abs().max() < 1e-9
    assert_close(grokking.component(difference, [2], "products"), difference)


def test_unknown_parts_and_missing_pairs():
    with pytest.raises(CourseError, match="no parts 'sum'.*sums"):
        grokking.directions(13, [1], "sum")
    with pytest.raises(CourseError, match="not all p²"):
        grokking.component(random(12, 3), [1])


def test_least_squares_finds_planted_cosines():
    logits = 3 * grokking.trigonometric_logits(13, [2]) - 0.5 * grokking.trigonometric_logits(13, [6])
    alpha, share = grokking.cosine_fit(
        logits + random(169, 1)
    )  # what all candidates have in common goes unseen
    assert_close(alpha, torch.tensor([0, 3, 0, 0, 0, -0.5]).double())
    assert_close(share.sum(), torch.tensor(1.0).double())
    assert float(grokking.cosine_fit(random(169, 13))[1].sum()) < 0.2


def test_neurons_of_one_frequency_of_two_and_of_none():
    n = torch.arange(13).double()
    wave = lambda k: (2 * torch.pi * k / 13 * n).cos()
    grid = lambda f: f.expand(13, 13).flatten()
    one = grid(3 + wave(2)[:, None] * wave(2) + 2 * wave(2))
    two = grid(wave(2)[:, None] + wave(4))
    mixed = grid(wave(2)[:, None] * wave(4))
    share, frequency = grokking.neuron_shares(torch.stack([one, two, mixed, torch.ones(169)], dim=1))
    assert_close(share, torch.tensor([1, 0.5, 0, 0]).double())
    assert frequency[0] == 2


# -- progress measures ----------------------------------------------------------------------------


def test_restricted_and_excluded_loss_of_a_rule_beside_a_memory():
    task, keys = Task(31, 0.3), [3, 7, 12]
    rule = 4 * grokking.trigonometric_logits(31, keys)
    memory = torch.zeros(31**2, 31).double()
    memory[task.train, task.answers[task.train]] = 20.0
    both = rule + memory
    assert grokking.restricted_loss(both, task, keys) < 0.1 < math.log(31) / 2
    assert grokking.excluded_loss(memory, task, keys) < 1e-3, "by heart it needs no frequency"
    assert grokking.excluded_loss(rule, task, keys) == pytest.approx(math.log(31)), (
        "without the rule nothing is left"
    )
    others = grokking.other_frequencies(31, keys)
    assert all(not set(draw) & set(keys) and len(draw) == 3 == len(set(draw)) for draw in others)
    assert min(grokking.restricted_loss(both, task, draw) for draw in others) > 2
    alone = [grokking.restricted_loss(memory, task, ks) for ks in (keys, *others)]
    assert max(alone) - min(alone) < 0.2, "to a memory of right answers no frequency is special"
    assert max(grokking.excluded_loss(rule, task, draw) for draw in others) < 0.1


def test_too_few_frequencies_are_left_for_a_control():
    with pytest.raises(CourseError, match="too few are left"):
        grokking.other_frequencies(11, [1, 2, 3])


# -- runs -----------------------------------------------------------------------------------------


def drawn(**curves):
    """A run whose curves are typed in, a look every ten steps."""
    n = len(next(iter(curves.values())))
    return grokking.Run(
        Task(11), torch.arange(n) * 10, {k: torch.tensor(v).double() for k, v in curves.items()}
    )


TEXTBOOK = {
    "train_accuracy": [0.1, 0.9, 1, 1, 1, 1, 1, 1, 1],
    "test_accuracy": [0.0, 0.1, 0.2, 0.2, 0.3, 0.5, 0.7, 0.99, 1],
    "test_loss": [4.7, 9, 12, 12, 11, 8, 5, 0.1, 0.0],
    "restricted": [4.7, 4.7, 4.6, 3, 2, 1, 0.2, 0.1, 0.0],
    "excluded": [4.7, 1, 0.1, 0.2, 1, 4, 8, 9, 12],
    "norm": [10, 30, 40, 39, 37, 34, 20, 15, 14],
}


def test_a_textbook_run_told_in_numbers():
    run = drawn(**TEXTBOOK)
    assert (run.fitted_at, run.generalised_at, run.jump, run.delay) == (20, 70, 60, 3.5) and run.grokked
    assert grokking.halved(run, "test_loss") == 60 and grokking.halved(run, "restricted") == 40
    assert grokking.lead(run) == pytest.approx(20 / 70) and grokking.rise(run) == pytest.approx(90)
    phases = grokking.phases(run)
    assert phases == grokking.Phases(20, 40, 60, 55, 70, True)
    assert [phases.at(s) for s in (0, 20, 60, 70)] == [
        "memorisation",
        "circuit formation",
        "clean-up",
        "done",
    ]
    assert run.verdict() == "grokked: training fitted at step 20, test at step 70"


def test_a_rule_that_comes_with_the_jump_is_out_of_order_and_so_are_growing_weights():
    late = drawn(**TEXTBOOK | {"restricted": [4.7, 4.7, 4.6, 4.6, 4.6, 4.6, 0.2, 0.1, 0.0]})
    growing = drawn(**TEXTBOOK | {"norm": [10, 30, 40, 41, 42, 43, 44, 45, 46]})
    assert not grokking.phases(late).in_order and not grokking.phases(growing).in_order


def test_a_run_that_did_not_grok_is_named_and_kept():
    run = drawn(**TEXTBOOK | {"test_accuracy": [0.0, 0.1, 0.2, 0.2, 0.2, 0.2, 0.2, 0.2, 0.2]})
    assert not run.grokked and run.delay == 4 and run.verdict() == "This run did not grok"
    for ask in (
        lambda: run.generalised_at,
        lambda: run.jump,
        lambda: grokking.phases(run),
        lambda: grokking.lead(run),
    ):
        with pytest.raises(
            grokking.DidNotGrok, match="did not grok: test accuracy 20.0% after 80 steps"
        ) as told:
            ask()
        assert told.value.run is run, "it is kept"
    dull = drawn(train_accuracy=[0.1, 0.2], test_accuracy=[0.0, 0.1])
    with pytest.raises(grokking.DidNotGrok, match="did not even fit"):
        dull.fitted_at  # noqa: B018
    assert dull.verdict() == "This run did not even fit its training pairs"


def test_what_a_run_does_not_have():
    run = drawn(**TEXTBOOK)
    with pytest.raises(CourseError, match="Nothing called 'gin'"):
        run["gin"]
    with pytest.raises(CourseError, match="not kept. Kept: none"):
        run.at(20)


SMALL = {"d_model": 16, "n_heads": 2, "d_mlp": 24}


def test_training_is_full_batch_adamw_on_the_models_own_loss():
    task, config = Task(11, 0.5), grokking.setting(5, 1e-2, 2.0, warmup=1)
    run = grokking.train(grokking.network(11, **SMALL), task, config, every=1, progress=False)
    model = grokking.network(11, **SMALL)
    adamw = torch.optim.AdamW(model.parameters(), 1e-2, betas=(0.9, 0.98), weight_decay=2.0)
    for step in range(5):
        loss = torch.nn.functional.cross_entropy(
            model(task.tokens[task.train])[:, -1, :11].double(), task.answers[task.train]
        )
        assert float(run["train_loss"][step]) == pytest.approx(float(loss.detach()), abs=1e-5)
        adamw.zero_grad()
        loss.backward()
        adamw.step()
    for ours, theirs in zip(run.end, grokking.weights_of(model), strict=True):
        assert_close(ours, theirs.detach(), atol=2e-4, rtol=0)


def test_looks_at_given_steps_and_another_p():
    config = grokking.setting(4)
    run = grokking.train(grokking.network(11, **SMALL), Task(11), config, every=(0, 3), progress=False)
    assert run.kept == (0, 3) and run.steps.tolist() == [0, 3]
    with pytest.raises(CourseError, match="modulo 11, and the task modulo 13"):
        grokking.train(grokking.network(11, **SMALL), Task(13), config, progress=False)


def test_looks_before_and_after_a_stop_are_those_of_one_run(tmp_path):
    def trained(every=2, **options):
        config = grokking.setting(9, 1e-2, warmup=1)
        return grokking.train(
            grokking.network(11, **SMALL), Task(11), config, every, progress=False, **options
        )

    whole = trained()
    half = trained(checkpoint=tmp_path / "s", stop_at=5)
    assert half.kept == (0, 2, 4) and torch.equal(half["test_loss"], whole["test_loss"][:3])
    resumed = trained(checkpoint=tmp_path / "s")
    assert resumed.kept == whole.kept == (0, 2, 4, 6, 8)
    for name, curve in whole.curves.items():
        assert torch.equal(resumed[name], curve), name
    assert trained((8, 2, 99)).kept == (2, 8), "in the order of the run, and only what it came by"
    for every, sentence in ((0, "not every 0"), ((10, 20), "steps from 0 to 9"), ((), "needs a look")):
        with pytest.raises(CourseError, match=sentence):
            trained(every)
    with pytest.raises(CourseError, match="steps from 0 to 3"):
        trained((5, 9), stop_at=3)


@torch.no_grad()  # as in a notebook that has switched gradients off
def test_a_sweep_trains_each_run_as_if_it_were_alone():
    small = grokking.Small(16, 24, 2, steps=6)
    tasks = [Task(11, 0.3), Task(11, 0.6, "a - b"), Task(11, 0.6, shuffled=True)]
    swept = grokking.sweep(tasks, [0, 1, 5], small, progress=False)
    for i, (task, decay) in enumerate(zip(tasks, (0.0, 1.0, 5.0), strict=True)):
        config = grokking.setting(6, small.lr, decay, warmup=1)
        run = grokking.train(grokking.network(11, **SMALL), task, config, every=6, progress=False)
        for ours, alone in zip(swept.weights.of(i), run.end, strict=True):
            assert_close(ours, alone, atol=2e-3, rtol=0)
        assert float(swept.test_accuracy[i]) == pytest.approx(float(run["test_accuracy"][-1]), abs=0.03)


def test_phases_of_a_sweep():
    n, none = torch.tensor, torch.zeros(4)
    swept = grokking.Sweep((), (), n([0, 10, 10, 10]), n([0, 0, 500, 15]), none)
    assert swept.phase.tolist() == [0, 1, 2, 3] and swept.delay[1:].tolist() == [math.inf, 50, 1.5]


def test_a_sweep_of_unequal_tasks():
    for tasks, decays in (([Task(11), Task(13)], [1, 1]), ([Task(11)], [1, 2]), ([], [])):
        with pytest.raises(CourseError, match="one weight decay for each task"):
            grokking.sweep(tasks, decays)


# -- what is shipped ------------------------------------------------------------------------------

SHIPPED = ["grokking", "grokking-seed1", "grokking-seed2"]


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_curves_are_those_of_shipped_weights(name):
    run = grokking.shipped(name)
    key = run["key"].tolist()
    assert key == grokking.key_frequencies(grokking.frequency_norms(run.end.W_L))
    others = grokking.other_frequencies(113, key)
    for step in run.kept[1:-1]:
        found = grokking.look(run.at(step), run.task) | grokking.measures(run.at(step), run.task, key, others)
        for curve, value in found.items():
            stored = float(run[curve][run.index(step)])
            assert value == pytest.approx(stored, rel=0.05, abs=0.02), (curve, step)
    fresh = grokking.weights_of(grokking.network(113, run.task.seed))
    assert float(fresh.norm) == pytest.approx(float(run["norm"][0]), rel=1e-5), (
        "the start is that of its seed"
    )


def test_shipped_controls_and_their_recipes():
    assert (
        not grokking.shipped("grokking-no-decay").grokked
        and not grokking.shipped("grokking-shuffled").grokked
    )
    assert grokking.shipped("grokking-shuffled").task.shuffled
    swept, recipe = grokking.shipped_sweep(), arithmetic.RECIPES["grokking-sweep"]
    assert len(swept.tasks) == len(recipe.decays) * len(recipe.fractions) == len(swept.phase)
    with pytest.raises(CourseError, match="There is no run 'grokkin'.*grokking"):
        grokking.shipped("grokkin")


def test_a_recipe_ships_curves_measures_and_a_few_weights(tmp_path):
    small = {"p": 23, "fraction": 0.8}
    recipe = arithmetic.GrokkingRecipe(
        "tiny", "tiny", grokking.setting(200, 1e-2, 4.0), task=small, kept=(100, 200)
    )
    path = recipe.train(out=tmp_path, progress=False)
    run = grokking.shipped(path)
    assert run.kept == (100, 200) and run.task == Task(**small) and run.end.W_E.shape == (24, 128)
    assert run["spectrum_E"].shape == (len(run.steps), 11)
    assert run.verdict() in recipe.report(path)
    if run.grokked:
        assert run["restricted"].shape == run.steps.shape == run["random_excluded"].shape


def test_a_sweep_recipe_ships_what_became_of_each(tmp_path):
    small = grokking.Small(16, 24, 2, steps=3)
    recipe = arithmetic.SweepRecipe("tiny", "tiny", small, 11, (0.0, 1.0), (0.4, 0.7))
    swept = grokking.shipped_sweep(recipe.train(out=tmp_path, progress=False))
    assert swept.decays == (0.0, 0.0, 1.0, 1.0) and [t.fraction for t in swept.tasks] == [0.4, 0.7, 0.4, 0.7]
