"""Explanations against their definitions, against planted networks, against the libraries that people use."""

import itertools
import math

import pytest
import torch

from mi_course import explanations
from mi_course.errors import CourseError
from mi_course.explanations import KINDS, Mechanism, PlantedNetwork, random_network


def draw(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).double()


def bent(rows):
    """Something with interactions of two and three features."""
    return rows[:, 0] * rows[:, 1] + (rows[:, :3].sum(1)).tanh() + rows[:, -1] ** 2


X, BACKGROUND = draw(5, seed=1), draw(20, 5, seed=2)


# -- Shapley values ------------------------------------------------------------------------------


def by_orders(model, x, background):
    """The definition, order by order."""
    n = len(x)
    credit = torch.zeros(n).double()
    for order in itertools.permutations(range(n)):
        rows = background.clone()
        for j in order:
            before = model(rows).mean()
            rows[:, j] = x[j]
            credit[j] += model(rows).mean() - before
    return credit / math.factorial(n)


def test_coalitions_are_binary_numbers():
    assert explanations.coalitions(2).int().tolist() == [[0, 0], [0, 1], [1, 0], [1, 1]]


def test_exact_values_are_the_mean_over_orders():
    found = explanations.exact_shapley(bent, X, BACKGROUND)
    torch.testing.assert_close(found, by_orders(bent, X, BACKGROUND))
    assert abs(found.sum() - bent(X[None])[0] + bent(BACKGROUND).mean()) < 1e-12


def test_many_instances_at_once_are_each_alone(monkeypatch):
    many = draw(7, 5, seed=3)
    alone = torch.stack([explanations.exact_shapley(bent, x, BACKGROUND) for x in many])
    torch.testing.assert_close(explanations.exact_shapley(bent, many, BACKGROUND), alone)
    monkeypatch.setattr(explanations.shapley, "ROWS", 50)  # now even the coalitions of one instance are split
    torch.testing.assert_close(explanations.exact_shapley(bent, many, BACKGROUND), alone)


def test_values_agree_with_shap():
    shap = pytest.importorskip("shap")
    asked = lambda rows: bent(torch.from_numpy(rows)).numpy()
    peer = shap.explainers.Exact(asked, shap.maskers.Independent(BACKGROUND.numpy(), max_samples=20))
    theirs = torch.from_numpy(peer(X[None].numpy(), silent=True).values[0])
    torch.testing.assert_close(explanations.exact_shapley(bent, X, BACKGROUND), theirs, atol=1e-6, rtol=0)


def test_sampled_orders_add_up_and_come_close():
    exact = explanations.exact_shapley(bent, X, BACKGROUND)
    found = explanations.sampled_shapley(bent, X, BACKGROUND, 400, seed=1)
    assert abs(found.values.sum() - exact.sum()) < 1e-10
    assert ((found.values - exact).abs() <= 4 * found.se + 1e-9).all() and (found.se > 0).any()


def test_conditional_values_by_brute_force():
    network = random_network(3)
    states, p = network.states()
    v = explanations.conditional_values(network, network.instance, states, p)
    every = explanations.coalitions(12)
    for c in (0, 1, 77, 1234, 4095):
        agrees = (states[:, every[c]] == network.instance[every[c]]).all(1)
        torch.testing.assert_close(v[c], (network(states) * p)[agrees].sum() / p[agrees].sum())


def test_conditional_equals_interventional_without_correlation():
    """Independent coins: knowing one says nothing of another."""
    coins = torch.tensor(list(itertools.product((0.0, 1.0), repeat=3))).double()
    f = lambda rows: rows[:, 0] * rows[:, 1] + rows[:, 2]
    ones = torch.ones(3).double()
    given = explanations.conditional_values(f, ones, coins)
    torch.testing.assert_close(given, explanations.coalition_values(f, ones, coins))


# -- LIME, permutation, gradients ----------------------------------------------------------------


def test_lime_of_a_line_is_the_line_at_any_width():
    line = lambda rows: 1 + rows @ torch.tensor([2.0, -1.0, 0.0, 0.5, 3.0]).double()
    for width in (1.0, 5.0):
        found = explanations.lime(line, X, BACKGROUND, width=width, step=0.5)
        wanted = torch.tensor([2.0, -1.0, 0.0, 0.5, 3.0]).double() * BACKGROUND.std(0)
        torch.testing.assert_close(found.coefficients, wanted, atol=1e-8, rtol=0)
        assert found.r_squared > 1 - 1e-9


def test_lime_is_the_gradient_where_the_kernel_is_narrow():
    found = explanations.lime(bent, X, BACKGROUND, width=0.02, step=0.01, draws=4000)
    slope = explanations.gradients.slopes(bent, X[None])[0] * BACKGROUND.std(0)
    torch.testing.assert_close(found.coefficients, slope, atol=0.02, rtol=0.02)


def test_lime_over_coalitions_with_shapleys_weights_is_near_the_shapley_values():
    network = random_network(1)
    rows = network.data(300, seed=1)
    fair = explanations.exact_shapley(network, network.instance, rows)
    near = explanations.lime(network, network.instance, rows, around="switch", draws=20_000)
    assert torch.corrcoef(torch.stack([fair, near.coefficients]))[0, 1] > 0.98


def test_a_constant_feature_gets_nothing_from_lime():
    background = BACKGROUND.clone()
    background[:, 2] = X[2]
    assert explanations.lime(bent, X, background).coefficients[2] == 0


def test_permutation_importance_of_an_additive_feature_is_twice_its_variance():
    table = draw(4000, 3, seed=4)
    f = lambda rows: 2 * rows[:, 0] - rows[:, 1]
    found = explanations.permutation_importance(f, table, f(table), repeats=5)
    torch.testing.assert_close(found.rise, torch.tensor([8.0, 2.0, 0.0]).double(), atol=0.5, rtol=0)
    assert found.rise[2] == 0 and found.se[2] == 0
    only = explanations.permutation_importance(f, table, f(table), columns=[1])
    assert only.rise.shape == (1,)


def test_its_standard_error_covers_a_useless_column():
    """Over many tables, a column of noise is within two standard errors of 0 nearly always."""
    inside = 0
    for seed in range(60):
        table, y = draw(120, 2, seed=seed), draw(120, seed=1000 + seed)
        f = lambda rows: 0.3 * rows[:, 0]  # believes in a column that says nothing of y
        found = explanations.permutation_importance(f, table, y, repeats=10, columns=[0], seed=seed)
        inside += bool(found.rise.abs() <= 2 * found.se)
    assert 48 <= inside <= 60


def test_integrated_gradients_are_complete_and_equal_to_captums():
    found = explanations.integrated_gradients(bent, X, BACKGROUND[:1], steps=64)
    assert abs(found.sum() - bent(X[None])[0] + bent(BACKGROUND[:1])[0]) < 1e-6
    captum = pytest.importorskip("captum.attr")
    theirs = captum.IntegratedGradients(bent).attribute(X[None], BACKGROUND[:1], n_steps=300)[0]
    torch.testing.assert_close(found, theirs, atol=1e-6, rtol=0)


def test_gradient_times_input_of_a_line():
    weights = torch.tensor([1.0, -2.0, 0.0, 4.0, 0.5]).double()
    torch.testing.assert_close(explanations.gradient_times_input(lambda rows: rows @ weights, X), weights * X)


# -- planted networks ----------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(8))
def test_a_planted_network_computes_its_mechanisms(seed):
    network = random_network(seed)
    states, p = network.states()
    on = (states == network.instance).double()
    total = sum(m.weight * m.g(on[:, list(m.features)]) for m in network.mechanisms)
    torch.testing.assert_close(network(states), total)
    assert abs(p.sum() - 1) < 1e-12 and [m.kind for m in network.mechanisms] == list(KINDS)
    mean = (network(states) * p).sum()
    torch.testing.assert_close(network.truth().sum(), network(network.instance[None])[0] - mean)
    variance = ((network(states) - mean) ** 2 * p).sum()
    torch.testing.assert_close(network.truth("variance").sum(), variance)


def test_data_follow_the_states_probabilities():
    network = random_network(2)
    rows = network.data(20_000, seed=1)
    first, second = network.of_kind("twins").features
    assert ((rows == network.instance)[:, first] == (rows == network.instance)[:, second]).all()
    source, follower = network.of_kind("additive").features[0], network.of_kind("copy").features[0]
    on = rows == network.instance
    assert abs((on[:, source] == on[:, follower]).double().mean() - 0.9) < 0.01
    assert (on.double().mean(0) - 0.5).abs().max() < 0.02


def test_gates():
    gate = lambda kind, n: Mechanism(kind, tuple(range(n)), 1.0).g(torch.eye(n).cumsum(0).tril()).tolist()
    assert gate("and", 3) == [0, 0, 1] and gate("or", 2) == [1, 1] and gate("xor", 2) == [1, 0]


def test_the_truth_is_right_and_what_is_off_is_not():
    network = random_network(5)
    deserved = network.truth()
    assert set(explanations.grades(network, deserved).values()) == {"right"}
    assert set(explanations.grades(network, deserved.abs(), shares=True).values()) == {"right"}
    assert set(explanations.grades(network, 1.3 * deserved).values()) == {
        "partly",
        "right",
    }  # unused stay right
    flipped = explanations.grades(network, -deserved)
    assert all(flipped[m.kind] == ("wrong" if m.weight else "right") for m in network.mechanisms)
    smeared = explanations.grades(network, torch.full_like(deserved, float(deserved.abs().mean())))
    assert smeared["unused"] == smeared["copy"] == "wrong"


def test_one_bad_input_spoils_its_mechanism():
    network = random_network(5)
    credit = network.truth()
    first, second = network.of_kind("twins").features
    credit[first], credit[second] = credit[first] + credit[second], 0.0  # one twin takes all
    assert explanations.grades(network, credit)["twins"] == "wrong"
    assert explanations.grades(network, credit)["or"] == "right"


@pytest.mark.parametrize("seed", range(6))
def test_two_directions_name_every_mechanism(seed):
    network = random_network(seed)
    states, p = network.states()
    rows = states[
        torch.multinomial(p, 20_000, replacement=True, generator=torch.Generator().manual_seed(seed))
    ]
    said = explanations.how(*explanations.patched_inputs(network, network.instance, rows))
    for m in network.mechanisms:
        assert {said[j] for j in m.features} == {explanations.HOW[m.kind]}


def test_patched_inputs_by_hand():
    f = lambda rows: rows[:, 0] * rows[:, 1]
    lost, gained = explanations.patched_inputs(f, torch.ones(2).double(), torch.zeros(1, 2).double())
    assert lost.tolist() == [1, 1] and gained.tolist() == [0, 0]


def test_wilson_against_a_table():
    """Newcombe 1998, 95%: 10 of 20 gives 0.299 … 0.701; 0 of 20 gives 0 … 0.161."""
    assert explanations.wilson(10, 20) == pytest.approx((0.299, 0.701), abs=1e-3)
    assert explanations.wilson(0, 20) == pytest.approx((0.0, 0.161), abs=1e-3)
    assert explanations.wilson(20, 20) == pytest.approx((0.839, 1.0), abs=1e-3)


# -- attention -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def reader():
    return explanations.AttentionClassifier(20, 8, seed=1).requires_grad_(False).eval()


WORDS = torch.randint(2, 20, (6, 7), generator=torch.Generator().manual_seed(0))
PADDED = torch.cat([WORDS[:, :5], torch.zeros(6, 2, dtype=torch.long)], dim=1)


def test_attention_sums_to_one_and_leaves_padding_out(reader):
    _, attention = reader(PADDED)
    torch.testing.assert_close(attention.sum(1), torch.ones(6))
    assert (attention[:, 5:] == 0).all()
    flat = explanations.AttentionClassifier(20, 8, uniform=True)(PADDED)[1]
    torch.testing.assert_close(flat[:, :5], torch.full((6, 5), 0.2))


def test_the_logit_is_a_mean_of_what_words_say(reader):
    logit, attention = reader(WORDS)
    alone = torch.stack([reader(WORDS, at.expand_as(WORDS))[0] for at in torch.eye(7)], dim=1)
    torch.testing.assert_close((attention * alone).sum(1), logit)


@pytest.mark.parametrize("words", [WORDS, PADDED], ids=["full", "padded"])
def test_other_attention_gives_the_same_logit(reader, words):
    other = explanations.adversarial_attention(reader, words)
    torch.testing.assert_close(reader(words, other)[0], reader(words)[0])
    torch.testing.assert_close(other.sum(1), torch.ones(6))
    assert ((other > 0).sum(1) <= 2).all() and (other[words == 0] == 0).all() and (other >= 0).all()
    assert (explanations.jensen_shannon(other, reader(words)[1]) > 0.2).all()


def test_leave_one_out_two_ways(reader):
    unknown, deleted = (explanations.leave_one_out(reader, WORDS, by) for by in ("unknown", "deleting"))
    without = WORDS.clone()
    without[:, 3] = explanations.attention.UNKNOWN
    torch.testing.assert_close(unknown[:, 3], reader(WORDS)[0] - reader(without)[0])
    shorter = torch.cat([WORDS[:, :3], WORDS[:, 4:]], dim=1)
    torch.testing.assert_close(deleted[:, 3], reader(WORDS)[0] - reader(shorter)[0])


def test_gradients_of_the_logit_are_those_of_a_small_step(reader):
    found = explanations.logit_gradients(reader, WORDS)
    with torch.no_grad():
        x = reader.embed(WORDS)
        nudged = x.clone()
        nudged[:, 2] *= 1 + 1e-3
        logit = lambda x: reader.read(h := reader.lstm(x)[0], reader.attend(h, WORDS))
        step = (logit(nudged) - logit(x)) / 1e-3
    torch.testing.assert_close(found[:, 2], step, atol=2e-3, rtol=2e-2)


def test_divergence_has_its_two_ends():
    p = torch.tensor([0.5, 0.5, 0.0, 0.0])
    assert explanations.jensen_shannon(p, p) == 0
    assert float(explanations.jensen_shannon(p, p.flip(0))) == pytest.approx(math.log(2))


def test_guided_words_see_no_context():
    guide = explanations.GuidedWords(20, 8)
    even = torch.full((6, 7), 1 / 7)
    torch.testing.assert_close(guide(WORDS, even)[0], guide(WORDS.flip(1), even)[0])


def test_pooled_readers_are_independent_networks():
    readers = explanations.PooledReaders(3, 4, 8, 8, seed=0)
    bits = torch.randint(2, (3, 5, 4), generator=torch.Generator().manual_seed(1)).float()
    outputs, attention = readers(bits)
    assert outputs.shape == (3, 5) and attention.shape == (3, 5, 4)
    changed = bits.clone()
    changed[1] = 1 - changed[1]
    again, _ = readers(changed)
    torch.testing.assert_close(again[[0, 2]], outputs[[0, 2]])
    assert not torch.allclose(again[1], outputs[1])


# -- bad input -----------------------------------------------------------------------------------

NAN = BACKGROUND.clone()


def left_out(words, by="deleting"):
    return explanations.leave_one_out(explanations.AttentionClassifier(20, 8), torch.tensor(words), by)


NAN[3, 1] = torch.nan
BAD = {
    "too many features": (
        lambda: explanations.exact_shapley(bent, draw(20), draw(9, 20)),
        "20 features have 1,048,576 coalitions",
    ),
    "NaN": (lambda: explanations.exact_shapley(bent, X, NAN), r"NaN or infinity \(first at \[3, 1\]\)"),
    "another width": (lambda: explanations.lime(bent, X[:4], BACKGROUND), "4 features, and the background 5"),
    "no such shape": (
        lambda: explanations.sampled_shapley(bent, X, BACKGROUND, 1),
        "an error needs at least two",
    ),
    "two outputs": (
        lambda: explanations.exact_shapley(lambda rows: rows[:, :2], X, BACKGROUND),
        "pick an output",
    ),
    "an output that is not a number": (
        lambda: explanations.exact_shapley(lambda rows: rows[:, 0].log(), X, BACKGROUND),
        "gave NaN or infinity",
    ),
    "three values": (lambda: explanations.shapley_of(torch.zeros(3)), "2, 4, 8"),
    "no row agrees": (
        lambda: explanations.conditional_values(bent, X, BACKGROUND),
        "need discrete features",
    ),
    "a width of 0": (lambda: explanations.lime(bent, X, BACKGROUND, width=0), "above zero"),
    "draws that are worth nothing": (
        lambda: explanations.lime(bent, X, BACKGROUND, width=0.01, draws=50),
        "too few for 6 numbers",
    ),
    "one background row": (lambda: explanations.lime(bent, X, BACKGROUND[:1]), "at least two rows"),
    "a constant model": (
        lambda: explanations.lime(lambda rows: 0 * rows[:, 0] + 2, X, BACKGROUND),
        "constant where LIME looks",
    ),
    "an unknown neighbourhood": (
        lambda: explanations.lime(bent, X, BACKGROUND, around="gausian"),
        "Did you mean 'gaussian'",
    ),
    "rows without targets": (
        lambda: explanations.permutation_importance(bent, BACKGROUND, draw(3)),
        "20 rows, and y 3",
    ),
    "a column that is not there": (
        lambda: explanations.permutation_importance(bent, BACKGROUND, draw(20), columns=[7]),
        "no column 7",
    ),
    "a forest's gradient": (
        lambda: explanations.gradient_times_input(lambda rows: rows.detach()[:, 0], X),
        "has no gradient",
    ),
    "an unknown mechanism": (lambda: Mechanism("nand", (0,), 1.0), "no mechanism 'nand'"),
    "a feature read twice": (
        lambda: PlantedNetwork((Mechanism("or", (0, 0), 1.0),), torch.ones(2).double()),
        "exactly one mechanism",
    ),
    "an unknown truth": (lambda: random_network(0).truth("variants"), "Did you mean 'variance'"),
    "an unknown way to leave out": (
        lambda: explanations.leave_one_out(explanations.AttentionClassifier(20, 8), WORDS, "mask"),
        "unknown and deleting",
    ),
    "a share of nothing": (lambda: explanations.wilson(0, 0), "n ≥ 1 and 0 to n successes, not 0 of 0"),
    "more successes than trials": (lambda: explanations.wilson(3, 2), "not 3 of 2"),
    "a network of 32 bits": (
        lambda: explanations.exact_shapley(torch.nn.Linear(5, 1), X, BACKGROUND),
        r"rows.float\(\)",
    ),
    "its output picked": (
        lambda: explanations.lime(lambda rows: torch.nn.Linear(5, 2)(rows)[:, 0], X, BACKGROUND),
        r"rows.float\(\)",
    ),
    "its gradient": (
        lambda: explanations.gradient_times_input(torch.nn.Linear(5, 1), X),
        r"rows.float\(\)",
    ),
    "the only word deleted": (lambda: left_out([[5, 6, 7], [5, 0, 0]]), "Row 1 has no word left"),
    "texts of one word": (lambda: left_out([[5], [6]]), "Row 0 has no word left"),
    "a text of none": (lambda: left_out([[5, 6], [0, 0]], "unknown"), "Row 1 has no word"),
    "no words at all": (
        lambda: explanations.logit_gradients(
            explanations.AttentionClassifier(20, 8), torch.zeros(2, 0).long()
        ),
        "Row 0 has no word",
    ),
}


@pytest.mark.parametrize("what", BAD)
def test_bad_input_gets_one_sentence(what):
    act, words = BAD[what]
    with pytest.raises(CourseError, match=words) as failed:
        act()
    assert "\n" not in str(failed.value)


def test_codes_given_as_numbers_are_noticed():
    coded = BACKGROUND.clone()
    coded[:, 3] = torch.arange(20) % 4
    with pytest.warns(UserWarning, match="Feature 3 holds 4 whole numbers only"):
        explanations.lime(bent, X, coded)


def test_words_are_not_numbers():
    with pytest.raises(CourseError, match="must be an array of numbers"):
        explanations.checked.numbers("x", ["red", "green"], 1)
