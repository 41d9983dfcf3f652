"""Zero layers: counts by hand, a planted chain whose entropy is known, and identities that always hold."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from mi_course import bigrams
from mi_course.corpora.planted import BigramChain
from mi_course.errors import CourseError
from mi_course.models import TinyConfig, TinyTransformer

ABBA = torch.tensor([0, 1, 1, 0, 1])  # pairs: 01 11 10 01
#                              next: a  b
ABBA_COUNTS = torch.tensor([[0, 2],  # after a
                            [1, 1]])  # after b  # fmt: skip


def table_of(seed: int, d_vocab: int = 5) -> torch.Tensor:
    return torch.randn(d_vocab, d_vocab, generator=torch.Generator().manual_seed(seed), dtype=torch.double)


def stream_of(seed: int, n: int = 60, d_vocab: int = 5) -> torch.Tensor:
    return torch.randint(d_vocab, (n,), generator=torch.Generator().manual_seed(seed))


def test_counts_by_hand():
    assert_close(bigrams.count_matrix(ABBA, 2), ABBA_COUNTS)


def test_pairs_do_not_reach_across_rows():
    rows = torch.tensor([[0, 1], [2, 3]])
    counts = bigrams.count_matrix(rows, 4)
    assert counts[0, 1] == counts[2, 3] == 1 and counts.sum() == 2 and counts[1, 2] == 0


def test_entropy_by_hand():
    # After a always b: 0 nats. After b a coin: ln 2, and half of the four pairs start with b.
    assert bigrams.conditional_entropy(ABBA_COUNTS) == pytest.approx(math.log(2) / 2)
    assert bigrams.conditional_entropy(torch.eye(3).long()) == 0
    assert bigrams.conditional_entropy(torch.ones(3, 3).long()) == pytest.approx(math.log(3))


def test_entropy_of_a_planted_chain():
    chain = BigramChain(d_vocab=12, concentration=0.3)
    counts = bigrams.count_matrix(chain.sampler(2000, 50)(0), 12)
    assert bigrams.conditional_entropy(counts) == pytest.approx(chain.entropy, abs=0.02)


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 10_000))
def test_count_loss_is_the_token_loss_with_the_same_gradient(seed):
    table, tokens = table_of(seed).requires_grad_(), stream_of(seed)
    by_token = torch.nn.functional.cross_entropy(table[tokens[:-1]], tokens[1:])
    by_count = bigrams.count_loss(table, bigrams.count_matrix(tokens, 5))
    assert_close(by_count, by_token)
    (g_token,), (g_count,) = torch.autograd.grad(by_token, table), torch.autograd.grad(by_count, table)
    assert_close(g_count, g_token)


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 10_000))
def test_no_table_goes_below_the_entropy_and_log_bigram_attains_it(seed):
    counts = bigrams.count_matrix(stream_of(seed), 5)
    floor = bigrams.conditional_entropy(counts)
    assert float(bigrams.count_loss(table_of(seed), counts)) >= floor
    best = bigrams.log_bigram(counts).clamp_min(-60)
    assert float(bigrams.count_loss(best, counts)) == pytest.approx(floor, abs=1e-9)


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 10_000), st.floats(-50, 50))
def test_centring_forgets_what_softmax_cannot_see(seed, constant):
    table = table_of(seed)
    shifted = table + constant * torch.arange(5.0)[:, None]
    assert_close(bigrams.row_centred(shifted), bigrams.row_centred(table), atol=1e-9, rtol=1e-9)
    assert_close(shifted.softmax(-1), table.softmax(-1))


def test_centring_over_chosen_entries_only():
    table = torch.tensor([[1.0, 3.0, 100.0], [5.0, 5.0, 5.0]])
    where = torch.tensor([[True, True, False], [False, False, False]])
    assert_close(bigrams.row_centred(table, where), torch.tensor([[-1.0, 1.0, 0.0], [0.0, 0.0, 0.0]]))


def test_correlation_is_one_for_the_log_bigram_plus_row_constants_and_small_when_shuffled():
    chain = BigramChain(d_vocab=40, concentration=0.5)
    counts = bigrams.count_matrix(chain.sampler(4000, 50)(0), 40)
    table = bigrams.log_bigram(counts).clamp_min(-30) + torch.randn(40, 1)
    assert bigrams.log_bigram_correlation(table, counts) == pytest.approx(1)
    assert bigrams.log_bigram_correlation(-table, counts) == pytest.approx(-1)
    assert abs(bigrams.log_bigram_correlation(table, counts, shuffle=0)) < 0.3
    assert bigrams.log_bigram_correlation(table.T.contiguous(), counts) < 0.5


def test_unseen_pairs_have_no_log_and_no_say():
    log = bigrams.log_bigram(torch.tensor([[0, 4], [0, 0]]))
    assert_close(log, torch.tensor([[-math.inf, 0.0], [-math.inf, -math.inf]], dtype=torch.double))


def test_training_on_counts_reaches_the_floor_and_the_table_is_the_forward_pass():
    chain = BigramChain(d_vocab=16, concentration=0.3)
    counts = bigrams.count_matrix(chain.sampler(1000, 20)(0), 16)
    model, history = bigrams.train_on_counts(counts, 16, steps=150)
    floor = bigrams.conditional_entropy(counts)
    assert history.loss[0] > floor + 0.9 and min(history.loss) >= floor - 1e-3
    assert history.loss[-1] - floor < 0.02
    assert bigrams.log_bigram_correlation(model.direct_path(), counts) > 0.99
    assert_close(model(torch.arange(16)[None])[0], model.direct_path())
    narrow, _ = bigrams.train_on_counts(counts, 2, steps=150)
    assert float(bigrams.count_loss(narrow.direct_path().detach(), counts)) > floor + 0.1


def test_a_seed_gives_the_same_model_twice():
    first, again, other = (bigrams.train_on_counts(ABBA_COUNTS, 4, steps=3, seed=s)[0] for s in (0, 0, 1))
    assert torch.equal(first.W_E, again.W_E) and not torch.equal(first.W_E, other.W_E)


def test_smoothing_by_hand():
    # p(b) = (3 + 1) / (4 + 2): after a, (2 + 3 · 4/6) / (2 + 3).
    smoothed = bigrams.smoothed_bigram(ABBA_COUNTS, strength=3.0)
    assert float(smoothed[0, 1]) == pytest.approx(0.8)
    assert_close(smoothed.sum(-1), torch.ones(2, dtype=torch.double))


def test_trigram_losses_by_hand():
    text = torch.tensor([0, 1, 1])
    bigram = bigrams.smoothed_bigram(ABBA_COUNTS, 100.0)[1, 1]
    # "a b" came twice, followed once by b (the second time the text was over): counted with its successor, n_ab = 1.
    by_hand = -math.log((1 + 20 * bigram) / (1 + 20))
    assert_close(bigrams.smoothed_trigram_losses(ABBA, text, 2), torch.tensor([by_hand], dtype=torch.double))


def test_trigram_probabilities_sum_to_one():
    train = stream_of(3)
    for a, b in ((0, 1), (4, 4)):
        losses = [bigrams.smoothed_trigram_losses(train, torch.tensor([a, b, c]), 5) for c in range(5)]
        assert float(torch.stack(losses).neg().exp().sum()) == pytest.approx(1)


def test_a_trigram_model_knows_what_a_bigram_cannot():
    # 0 0 1 1 0 0 1 1 …: after one token a coin, after two tokens certain.
    text = torch.tensor([0, 0, 1, 1]).repeat(500)
    assert bigrams.conditional_entropy(bigrams.count_matrix(text, 2)) == pytest.approx(math.log(2), abs=1e-3)
    assert float(bigrams.smoothed_trigram_losses(text, text, 2).mean()) < 0.05


def test_nothing_crosses_positions_without_attention_and_something_does_with_it():
    tokens = torch.tensor([[3, 1, 4, 1, 5, 9, 2, 6]])
    permuted = torch.cat([tokens[:, :-1].flip(1), tokens[:, -1:]], dim=1)
    change = []
    for n_layers in (0, 1):
        cfg = TinyConfig(n_layers, n_heads=2, d_model=8, d_vocab=10, n_ctx=8, positions="sinusoidal")
        model = TinyTransformer(cfg)
        with torch.no_grad():
            change.append(float((model(tokens) - model(permuted))[:, -1].abs().max()))
    assert change[0] == 0 and change[1] > 1e-4


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda: bigrams.count_matrix(torch.tensor([3]), 5), "at least two tokens"),
        (lambda: bigrams.count_matrix(torch.tensor([3, 5]), 5), "leave the vocabulary 0…4"),
        (lambda: bigrams.count_matrix(torch.tensor([-1, 2]), 5), "leave the vocabulary"),
        (lambda: bigrams.count_loss(torch.zeros(3, 3), ABBA_COUNTS), "cannot be judged"),
        (lambda: bigrams.conditional_entropy(torch.zeros(2, 2).long()), "empty"),
        (lambda: bigrams.log_bigram(torch.tensor([[-1, 3], [1, 1]])), "negative"),
        (lambda: bigrams.log_bigram_correlation(torch.zeros(2, 2), ABBA_COUNTS), "Fewer than three pairs"),
        (lambda: bigrams.smoothed_bigram(ABBA_COUNTS, 0.0), "above 0"),
        (lambda: bigrams.smoothed_trigram_losses(ABBA, ABBA[:2], 2), "three"),
    ],
)
def test_bad_input_is_one_sentence(call, words):
    with pytest.raises(CourseError, match=words):
        call()
