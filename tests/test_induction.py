"""Known answers from hand-made patterns and weights, and identities on random ones."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from mi_course import induction
from mi_course.corpora.planted import repeated_tokens
from mi_course.errors import CourseError
from mi_course.models import TinyConfig, TinyTransformer

SEEDS = st.integers(0, 10**6)


def right(model, tokens, period):
    """Share of right guesses at the queries of the last copy that have a successor in the text."""
    guesses = model(tokens)[:, -period:-1].argmax(-1)
    return (guesses == tokens[:, -period + 1 :]).float().mean()


# -- scores --------------------------------------------------------------------------------------


def pattern_of(rows):
    """[batch 1, head 1, query, key] of one attended key a query."""
    return torch.eye(len(rows))[rows][None, None]


INDUCTION = pattern_of([0, 0, 0, 1, 2, 3])  # on A B C A B C: one past the copy, else the first token
PREVIOUS = pattern_of([0, 0, 1, 2, 3, 4])
SAME = pattern_of([0, 1, 2, 0, 1, 2])
BEFORE = pattern_of([0, 0, 0, 0, 0, 1])


def test_prefix_matching_of_hand_drawn_patterns():
    heads = torch.cat([INDUCTION, PREVIOUS, SAME, BEFORE], dim=1)
    #                                                           induction previous same before
    assert_close(induction.prefix_matching_scores(heads, 3), torch.tensor([1.0, 0.0, 0.0, 0.0]))
    assert_close(induction.prefix_matching_scores(heads, 3, 0), torch.tensor([0.0, 0.0, 1.0, 1 / 3]))
    assert_close(induction.prefix_matching_scores(heads, 3, -1), torch.tensor([0.0, 0.0, 0.0, 2 / 3]))


def test_prefix_matching_adds_all_earlier_successors():
    half = (pattern_of([0, 0, 0, 1, 2, 3, 4, 5, 6]) + pattern_of([0, 0, 0, 1, 2, 3, 1, 2, 3])) / 2
    assert_close(induction.prefix_matching_scores(half, 3), torch.tensor([1.0]))


def test_uniform_attention_scores_its_share():
    n = 8
    uniform = (torch.ones(n, n).tril() / torch.arange(1, n + 1)[:, None])[None, None]
    wanted = sum(1 / (q + 1) for q in range(4, 8)) / 4
    assert_close(induction.prefix_matching_scores(uniform, 4), torch.tensor([wanted]))


def test_prefix_matching_needs_two_copies():
    with pytest.raises(CourseError, match="two copies"):
        induction.prefix_matching_scores(INDUCTION, 4)


def test_previous_token_scores_of_hand_drawn_patterns():
    assert_close(induction.previous_token_scores(PREVIOUS), torch.tensor([1.0]))
    assert_close(induction.previous_token_scores(SAME), torch.tensor([0.0]))


# -- circuits by hand ----------------------------------------------------------------------------


def test_distinct_repeats_are_distinct_and_repeat():
    tokens = induction.distinct_repeats(51, 20, 40, copies=3, seed=4)
    assert tokens.shape == (20, 121) and (tokens[:, 0] == 0).all()
    assert (tokens[:, 1:41] == tokens[:, 41:81]).all() and (tokens[:, 1:41] == tokens[:, 81:]).all()
    assert all(row[1:41].unique().numel() == 40 for row in tokens) and tokens[:, 1:].min() >= 1
    assert (tokens == induction.distinct_repeats(51, 20, 40, copies=3, seed=4)).all()
    with pytest.raises(CourseError, match="cannot be drawn"):
        induction.distinct_repeats(10, 1, 10)


@pytest.mark.parametrize("circuit", [induction.k_composition_circuit, induction.q_composition_circuit])
@pytest.mark.parametrize("period, copies", [(5, 2), (40, 2), (13, 3), (10, 4)])
def test_circuits_say_what_came_next(circuit, period, copies):
    tokens = induction.distinct_repeats(51, 30, period, copies, seed=period)
    model = circuit(51, tokens.shape[1])
    assert right(model, tokens, period) == 1.0
    second = induction.patterns(model, tokens)[1][..., 1:, 1:]
    assert_close(induction.prefix_matching_scores(second, period), torch.ones(1), atol=1e-3, rtol=0)


def test_weights_of_the_k_circuit_are_four_diagonals():
    model = induction.k_composition_circuit(3, 4, sharpness=10.0)
    token, previous, position, guess = induction.stretches(3, 3, 4, 3)
    unit = 10.0 * model.cfg.d_head**0.5
    #                                 key: 0  1  2  3
    assert_close(model.W_QK[0, 0, position, position] / unit, torch.tensor([[0.0, 0, 0, 0],
                                                                            [1.0, 0, 0, 0],
                                                                            [0.0, 1, 0, 0],
                                                                            [0.0, 0, 1, 0]]))  # fmt: skip
    assert_close(model.W_OV[0, 0, token, previous], torch.eye(3))
    assert_close(model.W_QK[1, 0, token, previous] / unit, torch.eye(3))
    assert_close(model.W_QK[1, 0, token, token] / unit, torch.tensor([[0.25, 0, 0]] * 3))
    assert_close(model.W_OV[1, 0, token, guess], torch.tensor([[0.0, 0, 0], [0, 1, 0], [0, 0, 1]]))
    assert model.W_QK[0, 0].count_nonzero() == 3 and model.W_QK[1, 0].count_nonzero() == 6
    assert model.direct_path().abs().max() == 0


def test_weights_of_the_q_circuit_move_a_pointer():
    model = induction.q_composition_circuit(3, 4, sharpness=10.0)
    token, position, pointer, guess = induction.stretches(3, 4, 4, 3)
    unit = 10.0 * model.cfg.d_head**0.5
    assert_close(model.W_QK[0, 0, position, position] / unit, -torch.eye(4))
    assert_close(
        model.W_QK[0, 0, token, token] / unit, torch.tensor([[1.25, 0, 0], [0.25, 1, 0], [0.25, 0, 1]])
    )
    assert_close(model.W_OV[0, 0, position, pointer], torch.eye(4) * torch.tensor([0.0, 1, 1, 1]))
    assert_close(model.W_QK[1, 0, pointer, position] / unit, torch.tensor([[0.0, 1, 0, 0],
                                                                           [0.0, 0, 1, 0],
                                                                           [0.0, 0, 0, 1],
                                                                           [0.0, 0, 0, 0]]))  # fmt: skip


@pytest.mark.parametrize("circuit", [induction.k_composition_circuit, induction.q_composition_circuit])
def test_circuits_rest_on_the_start_where_nothing_matches(circuit):
    tokens = induction.distinct_repeats(21, 5, 10)
    model = circuit(21, 21)
    second = induction.patterns(model, tokens)[1]
    assert_close(second[:, 0, :11, 0], torch.ones(5, 11))
    assert model(tokens)[:, :11].abs().max() < 1e-6


def test_two_back_circuit_copies_from_two_back():
    model = induction.two_back_circuit()
    assert (model.cfg.d_model, model.cfg.d_head) == (16, 4)
    tokens = torch.randint(16, (50, 16))
    assert (model(tokens)[:, 2:].argmax(-1) == tokens[:, :-2]).all()
    first, second = (pattern[0, 0] for pattern in induction.patterns(model, tokens))
    assert_close((second @ first)[2:, :-2], torch.eye(14))


# -- who reads whom ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "circuit, dies", [(induction.k_composition_circuit, "K"), (induction.q_composition_circuit, "Q")]
)
def test_a_circuit_dies_with_its_own_path_alone(circuit, dies):
    tokens = induction.distinct_repeats(31, 20, 20)
    model = circuit(31, 41)
    for letter in "QKV":
        logits = induction.cut_composition(model, tokens, letter)
        share = (logits[:, 21:-1].argmax(-1) == tokens[:, 22:]).float().mean()
        assert share == (0.0 if letter == dies else 1.0)


@settings(max_examples=10, deadline=None)
@given(SEEDS)
def test_cutting_all_that_layer_one_wrote_is_cutting_every_path(seed):
    """Silencing layer 1 for layer 2 through Q, K and V at once = layer 1's write moved past layer 2."""
    model = TinyTransformer(TinyConfig(n_layers=2, n_heads=2, d_model=8, d_vocab=5, n_ctx=6, seed=seed))
    tokens = torch.randint(5, (2, 6))
    _, cache = model.run_with_cache(tokens)
    written = cache["attn_out", 0]
    hooks = []
    for letter in "QKV":
        through = torch.einsum("bpm,hmd->bphd", written, getattr(model.blocks[1].attn, f"W_{letter}"))
        cut_one = (f"blocks.1.attn.hook_{letter.lower()}", lambda x, hook, through=through: x - through)
        assert_close(
            model.run_with_hooks(tokens, fwd_hooks=[cut_one]),
            induction.cut_composition(model, tokens, letter),
        )
        hooks.append(cut_one)
    all_cut = model.run_with_hooks(tokens, fwd_hooks=hooks)
    blind = model.run_with_hooks(tokens, fwd_hooks=[("blocks.0.hook_attn_out", lambda x, hook: 0 * x)])
    assert_close(all_cut, blind + written @ model.W_U, atol=1e-4, rtol=1e-4)


def test_cut_composition_refuses_what_it_cannot_cut():
    model = induction.two_back_circuit()
    with pytest.raises(CourseError, match="no path 'k'"):
        induction.cut_composition(model, torch.zeros(1, 4, dtype=torch.long), "k")
    rotary = TinyTransformer(TinyConfig(n_layers=2, d_model=16, d_vocab=4, n_ctx=8, positions="rotary"))
    with pytest.raises(CourseError, match="rotary"):
        induction.cut_composition(rotary, torch.zeros(1, 4, dtype=torch.long), "K")


def reader(letter, direction):
    """Two layers of one head of width 1: the first writes dimension 1, the second reads `direction` by one letter."""
    model = induction.blank(
        n_layers=2, n_heads=1, head_width=1, d_model=6, d_vocab=2, n_ctx=2, positions="none"
    )
    e = torch.eye(6)
    early, late = (block.attn for block in model.blocks)
    early.W_V[0, :, 0], early.W_O[0, 0] = e[0], 3 * e[1]
    for other, W in (("Q", late.W_Q), ("K", late.W_K), ("V", late.W_V)):
        W[0, :, 0] = direction if other == letter else e[4]
    late.W_O[0, 0] = e[5]
    return model


@pytest.mark.parametrize("letter", ["Q", "K", "V"])
@pytest.mark.parametrize("direction, answer", [([0, 2, 0, 0, 0, 0], 1.0), ([0, 1, 1, 0, 0, 0], 0.5**0.5), ([0, 0, 1, 0, 0, 0], 0.0)])  # fmt: skip
def test_composition_scores_of_known_readers(letter, direction, answer):
    found = induction.composition_scores(reader(letter, torch.tensor(direction).float()), baseline=False)
    assert {name: round(float(score), 6) for name, score in found.items()} == {
        name: round(answer if name == letter else 0.0, 6) for name in "QKV"
    }


def test_the_transposed_product_misses_the_k_circuit():
    """The bug of the published figure: W_QK in place of its transpose."""
    model = induction.k_composition_circuit(11, 21)
    found = induction.composition_scores(model, baseline=False)
    assert_close(found["K"], torch.tensor([[(11 * (1 + 1 / 16)) ** -0.5]]))
    assert induction.overlap(model.W_OV[0, 0], model.W_QK[1, 0]) == 0 == found["Q"]


@settings(max_examples=20, deadline=None)
@given(SEEDS, st.floats(0.1, 10))
def test_composition_is_blind_to_size_and_to_the_basis_inside_a_head(seed, scale):
    model = TinyTransformer(TinyConfig(n_layers=2, n_heads=2, d_model=8, d_vocab=5, n_ctx=6, seed=seed))
    model.requires_grad_(False)
    before = induction.composition_scores(model)
    turn = torch.linalg.qr(torch.randn(4, 4)).Q
    for W in (model.blocks[1].attn.W_Q, model.blocks[1].attn.W_K):
        W.copy_(W @ turn)
    model.blocks[0].attn.W_V.mul_(scale)
    for letter, score in induction.composition_scores(model).items():
        assert_close(score, before[letter], atol=1e-4, rtol=1e-4)


def test_random_heads_score_one_over_root_d_model():
    for d_model in (32, 128):
        null = induction.random_composition_scores(TinyConfig(n_layers=2, d_model=d_model))
        assert abs(float(null.mean()) - d_model**-0.5) < 0.1 * d_model**-0.5
    untrained = TinyTransformer(TinyConfig(n_layers=2))
    sd = induction.random_composition_scores(untrained.cfg).std()
    scores = torch.stack(list(induction.composition_scores(untrained).values()))
    assert scores.abs().max() < 5 * sd


def test_composition_scores_need_layers_in_order():
    model = induction.two_back_circuit()
    with pytest.raises(CourseError, match="reads nothing"):
        induction.composition_scores(model, earlier=1, later=0)
    with pytest.raises(CourseError, match="No head 5.0"):
        induction.composition_scores(model, later=5)


@pytest.mark.parametrize("circuit", [induction.k_composition_circuit, induction.q_composition_circuit])
def test_copying_scores_of_gold(circuit):
    tokens = induction.distinct_repeats(51, 10, 25, copies=4)
    scores = induction.copying_scores(circuit(51, 101), tokens)
    assert_close(scores, torch.tensor([[-1.0], [1.0]]), atol=1e-3, rtol=0)


def test_copying_scores_of_one_head_by_arithmetic():
    """Uniform attention over two tokens, W_OV W_U sends token 1 to 1 and token 2 to 2: half of each raise is attended."""
    model = induction.blank(
        n_layers=1, n_heads=1, head_width=3, d_model=3, d_vocab=3, n_ctx=2, positions="none"
    )
    model.W_E.copy_(torch.eye(3))
    model.blocks[0].attn.W_V[0], model.blocks[0].attn.W_O[0] = torch.eye(3), torch.eye(3)
    model.unembed.W_U.copy_(torch.eye(3))
    # query 0 attends to token 1: raise 1 − 1/3 on it, all attended. Query 1: raises ½ − ⅓ on both, half attended each.
    attended, total = 2 / 3 + 2 * (1 / 6) / 2, 2 / 3 + 2 / 6
    wanted = torch.tensor([[2 * attended / total - 1]])
    assert_close(induction.copying_scores(model, torch.tensor([[1, 2]])), wanted)


def test_untrained_heads_neither_match_nor_copy():
    model = TinyTransformer(TinyConfig(n_layers=2))
    assert induction.copying_scores(model, repeated_tokens(512, 4, 25, 4)).max() < -0.8
    assert induction.head_scores(model)["prefix"].max() < 0.08


def test_sharpness_follows_the_softmax_formula():
    tokens = induction.distinct_repeats(51, 4, 40)
    first = induction.patterns(induction.k_composition_circuit(51, 81, sharpness=4.0), tokens)[0]
    n = torch.arange(2, 82)
    wanted = (1 / (1 + (n - 1) * math.exp(-4.0))).mean()
    assert_close(induction.previous_token_scores(first)[0], wanted)


def test_an_icl_score_is_negative_where_context_helps():
    """Loss with much context less loss with little, over the last `stretch` tokens alone, by hand."""
    long = torch.tensor([[9.0, 1.0, 2.0], [9.0, 4.0, 4.0]])
    short = torch.tensor([[7.0, 3.0, 4.0], [7.0, 1.0, 1.0]])
    assert induction.icl_scores(long, short, stretch=2).tolist() == [-2.0, 3.0]
