"""Toy models: generators, closed forms, exact terms, geometry, and one tensor program equal to many runs."""

import inspect
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from mi_course import superposition as toy
from mi_course.corpora.corpus import generator
from mi_course.errors import CourseError
from mi_course.training import TrainingDiverged


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def drawn(*shape, seed=0):
    return torch.randn(shape, generator=rng(seed))


def sampled(world, batch=40_000, seed=0):
    return world.sample(batch, rng(seed))


# -- features ------------------------------------------------------------------------------------------


def test_importances_fall_by_a_ratio():
    assert_close(toy.importances(4, 0.5), torch.tensor([1, 0.5, 0.25, 0.125]))
    assert toy.importances(3).tolist() == [1, 1, 1]


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("correlation, share", [("independent", 1), ("together", 1), ("apart", 1 / 3)])
def test_densities_and_values(correlation, share, signed):
    x = sampled(toy.Features(6, 0.3, correlation=correlation, set_size=3, signed=signed))
    active = x != 0
    assert x.shape == (40_000, 6)
    assert_close(active.float().mean(0), torch.full((6,), 0.3 * share), atol=0.012, rtol=0)
    values = (x[active].sort().values + 1) / 2 if signed else x[active].sort().values
    uniform = torch.linspace(0, 1, len(values))
    assert float((values - uniform).abs().max()) < 0.015  # Kolmogorov and Smirnov's distance
    assert float(values.min()) >= 0 and float(values.max()) <= 1


def test_independent_features_are_uncorrelated():
    active = (sampled(toy.Features(4, 0.3)) != 0).float()
    both = active.T @ active / len(active)
    assert_close(both, torch.where(torch.eye(4).bool(), 0.3, 0.09), atol=0.01, rtol=0)


def test_a_feature_s_value_does_not_depend_on_company():
    x = sampled(toy.Features(2, 0.5))
    for i in (0, 1):
        here = x[x[:, i] != 0]
        assert float(torch.corrcoef(here.T)[0, 1].abs()) < 0.02


def test_densities_of_each_feature_and_each_model():
    by_feature = sampled(toy.Features(3, torch.tensor([0.1, 0.5, 1.0])))
    assert_close((by_feature != 0).float().mean(0), torch.tensor([0.1, 0.5, 1.0]), atol=0.01, rtol=0)
    density = torch.tensor([0.05, 0.2, 0.8])[:, None]
    by_model = sampled(toy.Features(4, density))
    assert by_model.shape == (3, 40_000, 4)
    assert_close((by_model != 0).float().mean(1), density.expand(3, 4), atol=0.01, rtol=0)
    both = torch.tensor([[0.1, 0.9], [0.6, 0.3]])
    assert_close((sampled(toy.Features(2, both)) != 0).float().mean(1), both, atol=0.01, rtol=0)


def test_all_models_see_the_same_random_numbers():
    density = torch.tensor([0.1, 0.4])[:, None]
    sparse, dense = sampled(toy.Features(3, density), 1000)
    assert bool(((sparse != 0) <= (dense != 0)).all())
    assert_close(sparse, sampled(toy.Features(3, 0.1), 1000))
    assert_close(dense, sampled(toy.Features(3, 0.4), 1000))


def test_sampling_is_a_function_of_seed_and_step():
    sample = toy.Features(3, 0.5).sampler(8, seed=1)
    assert torch.equal(sample(4), sample(4))
    assert not torch.equal(sample(4), sample(5))
    assert not torch.equal(sample(4), toy.Features(3, 0.5).sampler(8, seed=2)(4))


def test_sets_come_together():
    x = sampled(toy.Features(6, 0.2, correlation="together", set_size=2)).view(-1, 3, 2)
    active = x != 0
    assert torch.equal(active[..., 0], active[..., 1])
    here = x[active.all(-1)]
    assert float(torch.corrcoef(here.T)[0, 1].abs()) < 0.02  # each member has a value of its own
    first, second = active[:, 0, 0].float(), active[:, 1, 0].float()
    assert float((first * second).mean()) == pytest.approx(0.04, abs=0.006)


def test_sets_come_apart():
    active = sampled(toy.Features(6, 0.6, correlation="apart", set_size=2)).view(-1, 3, 2) != 0
    assert int(active.sum(-1).max()) == 1
    assert float(active.any(-1).float().mean()) == pytest.approx(0.6, abs=0.01)
    assert float((active[:, 0].any(-1) & active[:, 1].any(-1)).float().mean()) == pytest.approx(
        0.36, abs=0.01
    )


@pytest.mark.parametrize("correlation", ["together", "apart"])
def test_sets_with_densities_of_their_own(correlation):
    density = torch.tensor([[0.1, 0.1, 0.5, 0.5], [0.9, 0.9, 0.3, 0.3]])
    world = toy.Features(4, density, correlation=correlation, set_size=2)
    active = sampled(world).view(2, -1, 2, 2) != 0
    assert_close(active.any(-1).float().mean(1), density[:, ::2], atol=0.012, rtol=0)


# -- models --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("hidden", ["linear", "relu"])
@pytest.mark.parametrize("output", ["linear", "relu"])
@pytest.mark.parametrize("tied", [True, False])
def test_forward_and_loss_are_those_of_the_definition(hidden, output, tied):
    models = toy.ToyModels(toy.ToyConfig(4, 3, hidden=hidden, output=output, tied=tied), seeds=[3, 1])
    with torch.no_grad():
        models.b.copy_(drawn(2, 4, seed=8) / 3)
    importance = torch.tensor([1.0, 0.5, 2.0, 0.0])
    world = toy.Features(4, torch.tensor([[0.9], [0.4]]), importance, signed=True)
    x = sampled(world, 6)
    out, loss = models(x), world.losses(models, x)
    for k in range(2):
        back = models.W[k].T if tied else models.W_out[k]
        total = 0.0
        for j in range(6):
            h = models.W[k] @ x[k, j]
            y = back @ (h.clamp_min(0) if hidden == "relu" else h) + models.b[k]
            y = y.clamp_min(0) if output == "relu" else y
            assert_close(out[k, j], y)
            total += (
                sum(float(importance[i] * (abs(float(x[k, j, i])) - y[i].item()) ** 2) for i in range(4)) / 6
            )
        assert loss[k].item() == pytest.approx(total, rel=1e-5)
    assert_close(models(x[0])[1], models(x)[1] * 0 + models(x[0].expand(2, 6, 4))[1])  # a batch shared by all


@pytest.mark.parametrize(
    "config", [{}, {"hidden": "relu"}, {"output": "linear"}, {"tied": False, "hidden": "relu"}]
)
def test_gradients_are_those_of_the_definition(config):
    models = toy.ToyModels(toy.ToyConfig(4, 3, **config), seeds=2)
    world = toy.Features(4, 0.7, torch.tensor([1.0, 0.5, 2.0, 0.1]), signed=True)
    x = sampled(world, 9)
    by_hand = ((models(x) - x.abs()).square().mean(1) * world.weight).sum()
    wanted = torch.autograd.grad(by_hand, list(models.parameters()))
    got = torch.autograd.grad(world.losses(models, x).sum(), list(models.parameters()))
    assert_close(got, wanted)


def test_a_model_is_what_its_seed_says():
    config = toy.ToyConfig(30, 20, tied=False)
    three, one = toy.ToyModels(config, [5, 6, 7]), toy.ToyModels(config, [6])
    assert torch.equal(three.W[1], one.W[0]) and torch.equal(three.W_out[1], one.W_out[0])
    assert not torch.equal(three.W[0], three.W[1])
    assert float(three.W.std()) == pytest.approx(math.sqrt(2 / 50), rel=0.05)  # Xavier
    assert float(three.W_out.std()) == pytest.approx(math.sqrt(2 / 50), rel=0.05)
    assert not three.b.any() and three.instances == 3
    assert torch.equal(toy.ToyModels(config, 2).W, toy.ToyModels(config, [0, 1]).W)


def test_pick_copies():
    models = toy.ToyModels(toy.ToyConfig(3, 2, tied=False), seeds=4)
    with torch.no_grad():
        models.b.copy_(drawn(4, 3))
    picked = models.pick(torch.tensor([2, 0]))
    assert picked.seeds == (2, 0) and torch.equal(picked.W, models.W[[2, 0]])
    assert torch.equal(picked.b, models.b[[2, 0]]) and torch.equal(picked.W_out, models.W_out[[2, 0]])
    with torch.no_grad():
        picked.W.zero_()
    assert models.W.all()


def test_weights_by_hand():
    W = drawn(2, 3)
    one = toy.with_weights(W, 0.5, output="linear")
    assert torch.equal(one.W[0], W) and one.b.tolist() == [[0.5] * 3]
    assert (one.cfg.n, one.cfg.m, one.cfg.output, one.instances) == (3, 2, "linear", 1)
    several = toy.with_weights(torch.stack([W, 2 * W]), torch.tensor([[0.0, 1, 2], [3, 4, 5]]))
    assert torch.equal(several.W[1], 2 * W) and several.b[1].tolist() == [3, 4, 5]
    assert_close(one(torch.eye(3))[0], W.T @ W + 0.5)


def test_restarts_follow_one_another():
    losses = torch.tensor([3.0, 1, 2, 9, 8, 7])
    assert toy.best_of(losses, 3).tolist() == [1, 5]
    assert toy.best_of(losses, 1).tolist() == list(range(6))
    assert toy.best_of(losses, 2).tolist() == [1, 2, 5]


# -- training ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "config", [{}, {"hidden": "relu"}, {"hidden": "relu", "tied": False}, {"output": "linear"}], ids=str
)
@pytest.mark.parametrize("l1", [0.0, torch.tensor([0.0, 0.1, 0.01])], ids=["", "l1"])
def test_together_is_one_by_one(config, l1):
    shape, seeds, density = toy.ToyConfig(6, 3, **config), [4, 9, 2], torch.tensor([0.9, 0.3, 0.05])
    importance = toy.importances(6, 0.8)
    together = toy.ToyModels(shape, seeds)
    toy.train(together, toy.Features(6, density[:, None], importance), steps=60, batch=64, seed=3, l1=l1)
    for i, seed in enumerate(seeds):
        alone = toy.ToyModels(shape, [seed])
        one_l1 = l1 if isinstance(l1, float) else l1[i : i + 1]
        toy.train(
            alone, toy.Features(6, float(density[i]), importance), steps=60, batch=64, seed=3, l1=one_l1
        )
        assert_close(alone.W[0], together.W[i], atol=1e-5, rtol=1e-5)
        assert_close(alone.b[0], together.b[i], atol=1e-5, rtol=1e-5)
        assert_close(alone.W_out[0], together.W_out[i], atol=1e-5, rtol=1e-5)


def test_importance_may_differ_between_models():
    weights = torch.tensor([[1.0, 0.1], [0.1, 1.0]])
    models = toy.ToyModels(toy.ToyConfig(2, 1), [3, 3])
    toy.train(models, toy.Features(2, 1.0, weights), steps=300, lr=2e-2, batch=64)
    assert toy.represented(models.W).tolist() == [[True, False], [False, True]]


def test_five_features_fit_two_dimensions_when_they_are_sparse():
    models = toy.ToyModels(toy.ToyConfig(5, 2), range(12))
    world = toy.Features(5, 0.05)
    history = toy.train(models, world, steps=800, lr=2e-2, batch=256)
    best = models.pick(toy.best_of(world.expected_losses(models, samples=2**14), 12))
    assert_close(toy.feature_dimensionality(best.W[0]), torch.full((5,), 0.4), atol=0.02, rtol=0)
    assert bool((best.b < 0).all()) and history.loss[-1] < history.loss[0]
    dense = toy.ToyModels(toy.ToyConfig(5, 2), 2)
    toy.train(dense, toy.Features(5, 1.0, toy.importances(5, 0.5)), steps=300, lr=2e-2)
    assert toy.represented(dense.W).tolist() == [[True, True, False, False, False]] * 2


def test_training_on_the_quadrature_finds_an_antipodal_pair():
    models = toy.ToyModels(toy.ToyConfig(2, 1), 6)
    exact = toy.Quadrature(toy.Features(2, 0.1), nodes=8)
    toy.train(models, exact, steps=300, lr=2e-2)
    best = toy.best_of(exact.expected_losses(models), 6)
    W = models.W[int(best)].detach()
    assert float(W.prod()) < -0.9
    assert float(exact.expected_losses(models).min()) < float(toy.antipodal_loss(0.1)) + 1e-4


def test_a_penalty_on_the_hidden_layer_shrinks_it():
    models = toy.ToyModels(toy.ToyConfig(4, 3, hidden="relu"), [1, 1])
    world = toy.Features(4, 0.5)
    toy.train(models, world, steps=300, lr=1e-2, batch=64, l1=torch.tensor([0.0, 0.3]))
    free, taxed = models.hidden(sampled(world, 2000)).abs().sum(-1).mean(1)
    assert float(taxed) < 0.7 * float(free)


@pytest.mark.parametrize("l1", [0.0, 0.2, torch.tensor([0.2, 0.0])], ids=str)
def test_training_is_adam_on_the_loss(l1):
    config, world = toy.ToyConfig(4, 3), toy.Features(4, 0.6, toy.importances(4, 0.7))
    models, by_hand, sample = toy.ToyModels(config, 2), toy.ToyModels(config, 2), world.sampler(16, seed=5)
    history = toy.train(models, world, steps=8, lr=1e-2, batch=16, seed=5, l1=l1)
    adam = torch.optim.Adam(by_hand.parameters(), lr=1e-2, betas=(0.9, 0.999))
    for step in range(8):
        x = sample(step)
        penalty = l1 * (x @ by_hand.W.mT).abs().sum(-1).mean(-1)
        loss = ((by_hand(x) - x).square().mean(1) * world.weight).sum() + (penalty * torch.ones(2)).sum()
        adam.param_groups[0]["lr"] = 1e-2 * (1 - step / 8)
        adam.zero_grad()
        loss.backward()
        adam.step()
        assert history.loss[step] == pytest.approx(loss.item(), rel=1e-4)
    assert_close(models.W, by_hand.W, atol=1e-5, rtol=1e-4)
    assert_close(models.b, by_hand.b, atol=1e-5, rtol=1e-4)


def test_options_reach_fit():
    models = toy.ToyModels(toy.ToyConfig(3, 2), 2)
    seen = toy.train(
        models, toy.Features(3, 0.5), steps=10, batch=8, decay_share=0.0, evaluate_at=(0, 5, 10),
        evaluate=lambda m: {"norms": toy.feature_norms(m.W).clone()},
    )  # fmt: skip
    steps, norms = seen.series("norms")
    assert steps == [0, 5, 10] and norms[0].shape == (2, 3)
    assert set(seen.lr) == {5e-3}
    falling = toy.train(models, toy.Features(3, 0.5), steps=10, batch=8).lr
    assert falling == sorted(falling, reverse=True) and falling[-1] == pytest.approx(5e-4)


# -- exact losses --------------------------------------------------------------------------------------


@pytest.mark.parametrize("p", [0.1, 0.4, 1.0])
@pytest.mark.parametrize("importance", [0.2, 1.0, 5.0])
def test_closed_forms_are_what_is_measured(p, importance):
    W = torch.tensor([[[1.0, 0.0]], [[0.0, 1.0]], [[1.0, -1.0]]])
    b = torch.tensor([[0.0, p / 2], [p / 2, 0.0], [0.0, 0.0]])
    models, world = toy.with_weights(W, b), toy.Features(2, p, torch.tensor([1.0, importance]))
    wanted = [toy.ignored_loss(p, importance), toy.ignored_loss(p), toy.antipodal_loss(p, importance)]
    exact = toy.Quadrature(world, nodes=40).expected_losses(models)
    assert_close(exact, torch.tensor(wanted), rtol=2e-3, atol=0)
    chance = world.expected_losses(models, samples=2**18, chunk=2**16)
    assert_close(chance, torch.tensor(wanted), rtol=0.05, atol=0)


@given(st.floats(0.02, 50))
def test_the_crossover_is_where_the_losses_meet(importance):
    p = toy.crossover(importance)
    rival = min(toy.ignored_loss(p, importance), toy.ignored_loss(p, 1.0))
    assert float(toy.antipodal_loss(p, importance)) == pytest.approx(float(rival), rel=1e-4)
    below = 0.9 * p
    assert toy.antipodal_loss(below, importance) < min(
        toy.ignored_loss(below, importance), toy.ignored_loss(below)
    )


def test_the_crossover_at_equal_importance():
    assert float(toy.crossover(1.0)) == pytest.approx(4 / 7)
    assert_close(toy.crossover(torch.tensor([0.5, 2.0])), torch.tensor([4 / 9, 4 / 9]))


@pytest.mark.parametrize(
    "density", [0.3, torch.tensor([0.1, 0.5, 0.9]), torch.tensor([[0.2], [0.7]])], ids=str
)
def test_quadrature_is_the_world_without_chance(density):
    world = toy.Features(3, density, torch.tensor([1.0, 0.5, 2.0]))
    models = toy.with_weights(drawn(2, 2, 3, seed=4) * 0.7, drawn(2, 3, seed=5) * 0.2)
    exact = toy.Quadrature(world, nodes=12)
    assert_close(exact.weights.sum(-1), torch.ones(exact.weights.shape[:-1]))
    chance = world.expected_losses(models, samples=2**18, chunk=2**16)
    assert_close(exact.expected_losses(models), chance, rtol=0.02, atol=0)
    assert_close(exact.losses(models, exact.points), exact.expected_losses(models))


def test_terms_by_the_number_of_active_features():
    world = toy.Features(4, 0.3, toy.importances(4, 0.8))
    models = toy.with_weights(drawn(2, 4, seed=2) * 0.6, 0.05)
    exact = toy.Quadrature(world, nodes=8)
    terms = exact.terms(models)
    assert terms.shape == (5, 1) and exact.k.unique().tolist() == [0, 1, 2, 3, 4]
    assert torch.equal((exact.points != 0).sum(1), exact.k)
    share = [float(exact.weights[exact.k == k].sum()) for k in range(5)]
    assert share == pytest.approx([math.comb(4, k) * 0.3**k * 0.7 ** (4 - k) for k in range(5)], rel=1e-5)
    assert_close(terms.sum(0), exact.expected_losses(models))
    x = sampled(world, 400_000)
    errors = (world.weight * models.squared_errors(x)[0]).sum(-1).detach()
    for k in range(5):
        here = torch.where((x != 0).sum(1) == k, errors, 0.0).mean()
        assert float(terms[k, 0]) == pytest.approx(float(here), rel=0.03)
    few = toy.Quadrature(world, nodes=8, max_k=1)
    assert_close(few.terms(models), terms[:2])


def test_an_antipodal_pair_is_free_on_one_sparse_inputs():
    exact = toy.Quadrature(toy.Features(2, 0.3))
    W = torch.tensor([[1.0, -1.0]])
    assert float(exact.terms(toy.with_weights(W))[1]) < 1e-6
    linear = float(exact.terms(toy.with_weights(W, output="linear"))[1])
    assert linear == pytest.approx(2 * 0.3 * 0.7 / 3, rel=1e-5)


def test_expected_losses_take_as_many_samples_as_there_are():
    world, models = toy.Features(3, 0.5), toy.ToyModels(toy.ToyConfig(3, 2), 2)
    few = world.expected_losses(models, samples=100)
    assert few.shape == (2,) and bool(few.isfinite().all()) and not few.requires_grad
    assert torch.equal(few, world.expected_losses(models, samples=100, chunk=100))
    parts = [world.losses(models, world.sample(50, generator(7, i))) for i in range(4)]
    assert_close(
        world.expected_losses(models, samples=200, seed=7, chunk=50), torch.stack(parts).mean(0).detach()
    )
    twice = [world.expected_losses(models, samples=64, chunk=64, seed=s) for s in (1, 2)]
    assert not torch.equal(*twice)


# -- geometry ------------------------------------------------------------------------------------------

EXACT = {
    "digon": [1 / 2] * 2, "triangle": [2 / 3] * 3, "square": [1 / 2] * 4, "pentagon": [2 / 5] * 5,
    "tetrahedron": [3 / 4] * 4, "triangular bipyramid": [2 / 3] * 3 + [1 / 2] * 2,
    "pentagonal bipyramid": [2 / 5] * 5 + [1 / 2] * 2, "octahedron": [1 / 2] * 6, "square antiprism": [3 / 8] * 8,
}  # fmt: skip


@pytest.mark.parametrize("name", EXACT)
def test_dimensionalities_of_polytopes(name):
    W = toy.polytope(name)
    assert_close(toy.feature_norms(W), torch.ones(W.shape[1], dtype=torch.double))
    D = toy.feature_dimensionality(W)
    assert_close(D, torch.tensor(EXACT[name], dtype=torch.double), atol=1e-6, rtol=0)
    assert float(D.sum()) == pytest.approx(len(W), abs=1e-6)
    assert_close(toy.feature_dimensionality(W.float()), D.float(), atol=1e-6, rtol=0)
    assert bool(toy.on_list(D, (0, 3 / 8, 2 / 5, 1 / 2, 2 / 3, 3 / 4, 1), 1e-6).all())


def test_polytopes_have_the_right_corners():
    assert_close(toy.cosines(toy.polytope("pentagon"))[0, 1], torch.tensor(math.cos(0.4 * math.pi)).double())
    tetrahedron = toy.cosines(toy.polytope("tetrahedron"))
    assert_close(tetrahedron[~torch.eye(4).bool()], torch.full((12,), -1 / 3, dtype=torch.double))
    antiprism = toy.polytope("square antiprism")
    assert_close(antiprism @ antiprism.T, torch.eye(3).double() * 8 / 3)
    assert int((toy.cosines(toy.polytope("octahedron")) < -0.99).sum()) == 6
    near = toy.cosines(antiprism)[:4, 4:]  # one square against the other, which is turned by 45°
    half = 2 / 3 * math.sqrt(0.5)
    wanted = torch.tensor([half - 1 / 3] * 8 + [-half - 1 / 3] * 8).double().sort().values
    assert_close(near.flatten().sort().values, wanted, atol=1e-6, rtol=0)


def test_dimensionality_by_the_formula():
    W = drawn(3, 6, seed=1).double()
    for i in range(6):
        own = W[:, i] / W[:, i].norm()
        wanted = W[:, i] @ W[:, i] / sum((own @ W[:, j]) ** 2 for j in range(6))
        assert float(toy.feature_dimensionality(W)[i]) == pytest.approx(float(wanted))
    assert toy.feature_dimensionality(torch.diag(torch.tensor([2.0, 0.1, 3.0]))).tolist() == pytest.approx(
        [1, 1, 1]
    )


def test_a_column_of_zeros_has_no_dimension():
    W = torch.tensor([[1.0, 0.0, 1.0], [0.0, 0.0, 1.0]], requires_grad=True)
    D = toy.feature_dimensionality(W)
    assert float(D[1]) == 0 and bool(D.isfinite().all())
    assert toy.cosines(W)[1].tolist() == [0, 0, 0]
    assert toy.feature_dimensionality(torch.zeros(2, 3)).tolist() == [0, 0, 0]
    assert toy.represented(W).tolist() == [True, False, True]


SIZES = st.integers(1, 6)


@settings(max_examples=80, deadline=None)
@given(m=SIZES, rank=SIZES, n=st.integers(1, 9), seed=st.integers(0, 10**6), scale=st.floats(0.01, 100))
def test_dimensionalities_add_up_to_at_most_the_rank(m, rank, n, seed, scale):
    W = (drawn(m, rank, seed=seed) @ drawn(rank, n, seed=seed + 1)).double() * scale
    W[:, seed % n] *= seed % 3  # sometimes a column of zeros
    D = toy.feature_dimensionality(W)
    assert float(D.sum()) <= int(torch.linalg.matrix_rank(W)) + 1e-6
    assert bool((D >= 0).all()) and bool((D <= 1 + 1e-9).all())
    turn = torch.linalg.qr(drawn(m, m, seed=seed + 2).double())[0]
    assert_close(toy.feature_dimensionality(3 * turn @ W), D, atol=1e-6, rtol=1e-6)


def test_batches_of_weights_are_done_one_by_one():
    W = drawn(4, 3, 5, seed=6)
    W[0, :, 2], W[1, 1] = 0, 0
    for f in (
        toy.feature_dimensionality, toy.feature_norms, toy.cosines, toy.represented, toy.features_per_dimension,
        toy.top_share, toy.features_per_neuron, toy.monosemantic,
    ):  # fmt: skip
        assert_close(f(W), torch.stack([f(w) for w in W]))


def test_norms_and_features_per_dimension():
    W = torch.tensor([[3.0, 0.0, 0.6], [4.0, 0.4, 0.0]])
    assert_close(toy.feature_norms(W), torch.tensor([5.0, 0.4, 0.6]))
    assert toy.represented(W).tolist() == [True, False, True]
    assert toy.represented(W, above=0.39).tolist() == [True, True, True]
    assert float(toy.features_per_dimension(W)) == pytest.approx((25 + 0.16 + 0.36) / 2)
    assert float(toy.features_per_dimension(toy.polytope("pentagon"))) == pytest.approx(2.5)


def test_cosines():
    W = torch.tensor([[2.0, 0.0, 3.0], [0.0, 5.0, -3.0]])
    half = math.sqrt(0.5)
    assert_close(toy.cosines(W), torch.tensor([[1, 0, half], [0, 1, -half], [half, -half, 1]]))


def test_components_are_what_does_not_interfere():
    W = toy.tegum(toy.regular_polygon(5), toy.polytope("digon"), torch.tensor([[0.3]], dtype=torch.double))
    assert W.shape == (4, 8)
    assert toy.components(W) == [[0, 1, 2, 3, 4], [5, 6]]  # the last one is not represented
    assert toy.components(W, of=torch.ones(8).bool()) == [[0, 1, 2, 3, 4], [5, 6], [7]]
    shuffled = W[:, [5, 0, 1, 6, 2, 3, 4, 7]]
    assert toy.components(shuffled) == [[0, 3], [1, 2, 4, 5, 6]]
    assert toy.components(torch.zeros(2, 3)) == []
    assert toy.components(toy.polytope("pentagon"), above=0.99) == [[i] for i in range(5)]


def test_overlap_across_parts():
    W = torch.tensor([[1.0, -1.0, 0.1], [0.0, 0.0, -2.0]])
    assert toy.cross_part_overlap(W, [[0, 1], [2]]) == pytest.approx(0.1)
    assert toy.cross_part_overlap(W, [[0], [1], [2]]) == pytest.approx(1.0)
    assert toy.cross_part_overlap(W, [[0, 1, 2]]) == 0
    bipyramid = toy.polytope("triangular bipyramid")
    assert toy.cross_part_overlap(bipyramid, toy.components(bipyramid)) < 1e-9


def test_on_a_list():
    D = torch.tensor([0.37, 0.42, 0.5, 0.6])
    assert toy.on_list(D, [0.4, 0.5], 0.025).tolist() == [False, True, True, False]


# -- neurons -------------------------------------------------------------------------------------------


def test_neurons():
    W = torch.tensor(
        [[2.0, 0, 0, 0], [1, -1, 0, 0], [1, 1, 1, -1], [0, 0, 0, 0], [3, 0, 0, -1], [5, 1, 0, 0]]
    )
    assert_close(toy.top_share(W), torch.tensor([1.0, 0.5, 0.25, 0.0, 0.9, 25 / 26]))
    assert_close(toy.features_per_neuron(W), torch.tensor([1.0, 2, 4, 0, 100 / 82, 26**2 / 626]))
    assert toy.monosemantic(W).tolist() == [True, False, False, False, False, True]
    assert toy.monosemantic(W, above=0.89).tolist() == [True, False, False, False, True, True]
    assert_close(toy.top_share(7 * W), toy.top_share(W))


# -- attacks -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("feature", [0, 3])
def test_no_search_finds_a_better_attack(feature):
    W, norm = drawn(2, 5, seed=7), 0.3
    attack = toy.optimal_attack(W, feature, norm)
    assert float(attack.norm()) == pytest.approx(norm)
    model = toy.with_weights(W, output="linear")
    moved = lambda delta: (model(delta) - model(torch.zeros_like(delta)))[0, :, feature].detach()
    best = moved(attack[None])
    tries = drawn(200_000, 5, seed=1)
    tries = norm * tries / tries.norm(dim=1, keepdim=True)
    reached = moved(tries)
    assert float(best) >= float(reached.max()) and float(reached.max()) > 0.98 * float(best)
    assert float(best) == pytest.approx(norm * float((W[:, feature] @ W).norm()), rel=1e-5)
    close = tries[reached.argmax()] / norm
    assert float(close @ attack / norm) > 0.98


def test_without_superposition_the_best_attack_is_honest():
    assert_close(toy.optimal_attack(torch.eye(3), 1, 0.5), torch.tensor([0.0, 0.5, 0.0]))


# -- dynamics ------------------------------------------------------------------------------------------


def test_largest_changes():
    series = torch.tensor([[0.0, 5.0], [1.0, 5.0], [4.0, 2.0], [4.0, 0.0]])
    assert toy.largest_changes(series, 1).tolist() == [[1, 0], [3, 3], [0, 2]]
    assert toy.largest_changes(series, 2).tolist() == [[4, 3], [3, 5]]


# -- bad input -----------------------------------------------------------------------------------------

NAN = float("nan")
W23 = torch.ones(2, 3)


def models(n=3, m=2, instances=2):
    return toy.ToyModels(toy.ToyConfig(n, m), instances)


def plain(function, *args, **kwargs):
    """The function without its shape checks, which only tests have."""
    return inspect.unwrap(function)(*args, **kwargs)


@pytest.mark.parametrize(
    "act, keyword",
    [
        (lambda: toy.Features(0, 0.5), "at least one feature"),
        (lambda: toy.Features(3, 0.0), "lies above 0"),
        (lambda: toy.Features(3, 1.2), "at most at 1"),
        (lambda: toy.Features(3, -0.1), "lies above 0"),
        (lambda: toy.Features(3, NAN), "lies above 0"),
        (lambda: toy.Features(3, torch.tensor([[0.1], [0.0]])), "lies above 0"),
        (lambda: toy.Features(3, torch.tensor([0.1, 0.2])), r"shape \[2\]"),
        (lambda: toy.Features(3, torch.full((2, 2, 3), 0.5)), "shape"),
        (lambda: toy.Features(3, 0.5, torch.tensor([1.0, -1, 1])), "importance"),
        (lambda: toy.Features(3, 0.5, torch.tensor([1.0, NAN, 1])), "importance"),
        (lambda: toy.Features(3, 0.5, torch.tensor([1.0, math.inf, 1])), "importance"),
        (lambda: toy.Features(3, 0.5, torch.ones(2)), "importance"),
        (lambda: toy.Features(3, 0.5, torch.tensor(1.0)), "importance"),
        (lambda: toy.Features(4, 0.5, correlation="togehter", set_size=2), "Did you mean"),
        (lambda: toy.Features(5, 0.5, correlation="together", set_size=2), "do not divide"),
        (lambda: toy.Features(4, 0.5, correlation="apart", set_size=0), "do not divide"),
        (lambda: toy.importances(0), "n ≥ 1"),
        (lambda: toy.importances(3, 0.0), "ratio"),
        (lambda: toy.importances(3, NAN), "ratio"),
        (lambda: toy.ToyConfig(0, 2), "n ≥ 1"),
        (lambda: toy.ToyConfig(2, 0), "m ≥ 1"),
        (lambda: toy.ToyConfig(2, 1, hidden="gelu"), "hidden"),
        (lambda: toy.ToyConfig(2, 1, output="none"), "output"),
        (lambda: toy.ToyModels(toy.ToyConfig(2, 1), 0), "at least one seed"),
        (lambda: models()(torch.ones(5, 4)), "3 features"),
        (lambda: models(instances=2)(torch.ones(3, 5, 3)), "3 models"),
        (lambda: toy.with_weights(torch.ones(2, 2, 2, 3)), r"\[m n\]"),
        (lambda: plain(toy.with_weights, torch.ones(3)), r"\[m n\]"),
        (lambda: toy.with_weights(torch.tensor([[1.0, NAN]])), "not finite"),
        (lambda: toy.with_weights(W23, NAN), "not finite"),
        (lambda: plain(toy.with_weights, W23, torch.ones(2)), "bias"),
        (lambda: toy.best_of(torch.ones(5), 2), "whole number"),
        (lambda: toy.best_of(torch.ones(4), 0), "whole number"),
        (lambda: toy.best_of(torch.tensor([1.0, NAN]), 2), "not a number"),
        (lambda: toy.crossover(0.0), "above 0"),
        (lambda: toy.crossover(NAN), "above 0"),
        (lambda: toy.feature_dimensionality(W23 * NAN), "not finite"),
        (lambda: toy.feature_dimensionality(W23 * math.inf), "not finite"),
        (lambda: toy.cosines(W23 * NAN), "not finite"),
        (lambda: toy.represented(W23 * NAN), "not finite"),
        (lambda: toy.components(W23 * NAN), "not finite"),
        (lambda: toy.top_share(W23 * NAN), "not finite"),
        (lambda: toy.monosemantic(W23 * NAN), "not finite"),
        (lambda: toy.features_per_neuron(W23 * NAN), "not finite"),
        (lambda: plain(toy.feature_norms, torch.ones(3)), r"\[m n\]"),
        (lambda: plain(toy.features_per_neuron, torch.ones(3)), r"\[m n\]"),
        (lambda: toy.optimal_attack(torch.tensor([[1.0, 0.0]]), 1, 0.1), "not represented"),
        (lambda: toy.optimal_attack(W23 * NAN, 1, 0.1), "not finite"),
        (lambda: toy.optimal_attack(W23, 3, 0.1), "no feature 3"),
        (lambda: toy.polytope("pentagram"), "Did you mean"),
        (lambda: toy.largest_changes(torch.ones(4), 4), "window"),
        (lambda: toy.largest_changes(torch.ones(4), 0), "window"),
        (lambda: toy.square_antiprism(1.5), "height"),
        (lambda: toy.regular_polygon(1), "corners"),
        (lambda: toy.Quadrature(toy.Features(4, 0.5, signed=True)), "between 0 and 1"),
        (lambda: toy.Quadrature(toy.Features(4, 0.5, correlation="apart", set_size=2)), "independent"),
        (lambda: toy.Quadrature(toy.Features(20, 0.5)), "too many"),
        (lambda: toy.Quadrature(toy.Features(2, 0.5), nodes=0), "node"),
        (lambda: toy.Quadrature(toy.Features(2, 0.5), max_k=-1), "max_k"),
        (lambda: toy.train(models(), toy.Features(4, 0.5), steps=1), "4 features, the models read 3"),
        (lambda: toy.train(models(), toy.Features(3, torch.full((3, 1), 0.5)), steps=1), "3 models"),
        (lambda: toy.train(models(), toy.Features(3, 0.5, torch.ones(3, 3)), steps=1), "3 models"),
        (lambda: toy.train(models(), toy.Features(3, 0.5), steps=0), "steps"),
        (lambda: toy.train(models(), toy.Features(3, 0.5), steps=1, batch=0), "batch"),
        (lambda: toy.train(models(), toy.Features(3, 0.5), steps=1, lr=0.0), "lr"),
        (lambda: toy.train(models(), toy.Features(3, 0.5), batch=10**9), "GiB"),
        (lambda: toy.train(models(), toy.Features(3, 0.5), steps=1, l1=torch.ones(3)), "l1"),
        (lambda: toy.Features(3, 0.5).expected_losses(models(), samples=2**30, chunk=2**30), "GiB"),
        (lambda: toy.Features(3, 0.5).expected_losses(models(), samples=0), "samples"),
    ],
)  # fmt: skip
def test_bad_input_gets_one_sentence(act, keyword):
    with pytest.raises(CourseError, match=keyword) as error:
        act()
    assert len(str(error.value)) < 260 and "\n" not in str(error.value)


def test_a_model_left_alone_by_a_refused_run():
    before = models(instances=3)
    after = models(instances=3)
    with pytest.raises(CourseError, match="parts"):
        toy.train(after, toy.Features(3, 0.5), batch=10**8)
    assert_close(after.state_dict(), before.state_dict())


def test_divergence_keeps_what_came_before():
    with pytest.raises(TrainingDiverged, match="learning rate") as error:
        toy.train(models(), toy.Features(3, 0.5), steps=50, lr=1e30, batch=8)
    assert len(error.value.history.loss) >= 1


@pytest.mark.parametrize("n, m", [(4, 3), (5, 3), (7, 3), (8, 3), (6, 6), (9, 2)])
def test_a_tight_frame_has_one_dimensionality_whatever_its_shape(n, m):
    W = toy.tight_frame(n, m, seed=3)
    assert_close(W.norm(dim=0), torch.ones(n).double(), atol=1e-9, rtol=0)
    assert_close(W @ W.T, torch.eye(m).double() * n / m, atol=1e-6, rtol=0)
    assert_close(toy.feature_dimensionality(W), torch.full((n,), m / n).double(), atol=1e-6, rtol=0)
    if n > m:
        assert not torch.allclose(toy.cosines(W), toy.cosines(toy.tight_frame(n, m, seed=4)), atol=0.01)
    with pytest.raises(CourseError, match="as many vectors as dimensions, not 2 in 3"):
        toy.tight_frame(2, 3)
