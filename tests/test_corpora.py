"""Text is what it says it is; planted truths hold in what is sampled."""

import sysconfig

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mi_course import corpora
from mi_course.errors import CourseError


@pytest.fixture(scope="module")
def python():
    return corpora.python_text(512)


def test_python_text_is_the_running_library(python):
    texts = corpora.standard_library()
    assert "argparse.py" in texts and "topics/if" in texts
    assert not any(name.startswith(("test/", "encodings/", "site-packages/")) for name in texts)
    assert sum(python.n_files) == sum(bool(text.strip()) for text in texts.values())
    assert python.name == f"Python {sysconfig.get_python_version()} library"
    assert f"{len(python.train):,} tokens" in repr(python) and "bytes per token" in repr(python)


def test_pythons_share_a_text():
    texts, marks = corpora.standard_library(shared=True), corpora.shared_marks()
    common = corpora.python_text(512, shared=True)
    assert (
        common.name == "shared Python library"
        and len(common.held_out) < len(corpora.python_text(512).held_out) / 5
    )
    assert texts.keys() <= marks.keys() and 100 < len(marks) < 605
    # Another patch release, or a distribution that mends the library, may have changed a file or two.
    assert len(texts) >= 0.9 * len(marks)
    assert all(corpora.text_mark(text) == marks[name] for name, text in texts.items())
    assert texts.items() <= corpora.standard_library().items()


def test_split_is_by_file_name_alone(python):
    assert corpora.is_held_out("heapq.py") == corpora.is_held_out("heapq.py")
    names = [f"{i}.py" for i in range(4000)]
    assert 0.05 < sum(map(corpora.is_held_out, names)) / 4000 < 0.09
    held = sum(python.n_bytes[1:]) / sum(python.n_bytes)
    assert 0.02 < held < 0.15


@pytest.mark.parametrize("vocab", [512, 1024, 2048])
def test_shipped_tokenizers(vocab):
    tokenizer = corpora.shipped_tokenizer(f"python-{vocab}")
    assert tokenizer.get_vocab_size() == vocab
    text = "".join(map(chr, range(32, 127))) + "\ndef f(self):\n    return 'x'"
    assert tokenizer.decode(tokenizer.encode(text).ids) == text, "printable ASCII and newline survive"
    assert tokenizer.decode(tokenizer.encode("a\té✓").ids) == "a    ??"


def test_encode_decode_and_printable_tokens(python):
    text = "import os\n\nclass A:\n    pass\n"
    tokens = python.encode(text)
    assert tokens.dtype == torch.long and python.decode(tokens) == text
    shown = python.token_strings(tokens)
    assert "⏎" in "".join(shown) and not any("\n" in s or " " in s for s in shown)
    assert len(python.vocabulary) == python.d_vocab == 512
    assert python.token_strings([python.token("self")]) == ["self"]
    assert python.token_strings([python.token("\n       ")]) == ["⏎·⁷"]
    with pytest.raises(CourseError, match="tokens in this vocabulary, not one"):
        python.token("supercalifragilistic")


@pytest.mark.parametrize("wrong", [-1, 512, 2**40])
@pytest.mark.parametrize("read", ["decode", "token_strings", "spelt"])
def test_ids_of_no_token_are_not_left_out(python, read, wrong):
    with pytest.raises(CourseError, match=f"There is no token {wrong}: .* are 0…511"):
        getattr(python, read)([72, wrong, 31])


@pytest.mark.parametrize("vocab", [512, 1024, 2048])
def test_different_tokens_look_different(vocab):
    tokenizer = corpora.shipped_tokenizer(f"python-{vocab}")
    texts = [tokenizer.decode([t], skip_special_tokens=False) for t in range(vocab)]
    assert len(set(map(corpora.visible, texts))) == vocab


def test_blanks_are_visible():
    texts = (" a", "a ", "   ", "a b", "\t\n", "\n    ", "\n" + " " * 12, " " * 5)
    assert [corpora.visible(t) for t in texts] == ["·a", "a·", "···", "a b", "⇥⏎", "⏎····", "⏎·¹²", "·⁵"]


def test_every_token_was_seen_in_training():
    """No untrained embeddings: the reason why the tokeniser has no initial byte alphabet."""
    counts = torch.bincount(corpora.python_text(512).train, minlength=512)
    assert int((counts[1:] == 0).sum()) <= 5  # another Python version may miss a few


def test_windows_depend_on_seed_and_step_alone(python):
    one, two = python.windows(32, 4, seed=1), python.windows(32, 4, seed=1)
    assert torch.equal(one(5), two(5)) and not torch.equal(one(5), one(6))
    assert not torch.equal(one(5), python.windows(32, 4, seed=2)(5))
    state = torch.get_rng_state()
    rows = one(7)
    assert torch.equal(state, torch.get_rng_state()) and rows.shape == (4, 32)
    stream = python.train.unfold(0, 32, 1)
    assert all((stream == row).all(1).any() for row in rows), "a window is a stretch of the text"
    held = python.held_out_windows(3, 64)
    assert torch.equal(held, python.held_out_windows(3, 64)) and held.shape == (3, 64)


def test_no_split_of_that_name(python):
    with pytest.raises(CourseError, match="held_out"):
        python.windows(8, 2, split="heldout")


# -- your own text -------------------------------------------------------------------------------


def test_from_folder(tmp_path):
    for i in range(30):
        (tmp_path / f"{i}.txt").write_text("the cat sat on the mat\n" * (20 + i))
    (tmp_path / "picture.png").write_bytes(b"\x89PNG\0\0")
    corpus = corpora.from_folder(tmp_path, vocab=60)
    assert sum(corpus.n_files) == 30 and corpus.d_vocab <= 60 and len(corpus.held_out) > 0
    again = corpora.from_folder(tmp_path, tokenizer=corpus.tokenizer)
    assert torch.equal(again.train, corpus.train) and again.fingerprint == corpus.fingerprint
    (tmp_path / "0.txt").write_text("the dog\n" * 20)
    assert corpora.from_folder(tmp_path, vocab=60).fingerprint != corpus.fingerprint
    only = corpora.from_folder(tmp_path, vocab=60, suffixes=[".md", ".txt"])
    assert sum(only.n_files) == 30


def test_one_file_is_cut_in_two(tmp_path):
    (tmp_path / "diary.txt").write_text("".join(f"day {i}\n" for i in range(100)))
    corpus = corpora.from_folder(tmp_path, vocab=40)
    assert corpus.n_files == (1, 1)
    assert "day 99" in corpus.decode(corpus.held_out) and "day 99" not in corpus.decode(corpus.train)


def test_texts_that_cannot_be_used(tmp_path):
    with pytest.raises(CourseError, match="is not a folder"):
        corpora.from_folder(tmp_path / "nowhere")
    with pytest.raises(CourseError, match="holds no text"):
        corpora.from_folder(tmp_path)
    (tmp_path / "x.bin").write_bytes(b"\0\1\2")
    with pytest.raises(CourseError, match="holds no text"):
        corpora.from_folder(tmp_path)
    (tmp_path / "one.txt").write_text("a single line without an end")
    with pytest.raises(CourseError, match="has one line"):
        corpora.from_folder(tmp_path)
    (tmp_path / "one.txt").write_text("short\n" * 12)
    tiny = corpora.from_folder(tmp_path, vocab=20)
    with pytest.raises(CourseError, match="fewer than one window of 500"):
        tiny.windows(500, 1)


def test_huggingface_without_network_or_package():
    with pytest.raises(CourseError, match="pip install datasets|from_folder"):
        corpora.from_huggingface("no-such/data-set")


def test_unknown_tokenizer():
    with pytest.raises(CourseError, match="python-512"):
        corpora.python_text(500)


# -- planted text --------------------------------------------------------------------------------


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 9), st.integers(0, 5))
def test_random_repeats_repeat_with_their_own_period(step, low, extra):
    rows = corpora.random_repeats(50, 40, 8, period=(low, low + extra), seed=3)(step)
    for row in rows:
        assert any(torch.equal(row[p:], row[:-p]) for p in range(low, low + extra + 1))


def test_random_repeats_use_every_period():
    rows = corpora.random_repeats(1000, 40, 400, period=(5, 8), seed=0)(0)
    periods = [next(p for p in range(1, 40) if torch.equal(row[p:], row[:-p])) for row in rows]
    assert {5, 6, 7, 8} == set(periods) and min(periods.count(p) for p in (5, 6, 7, 8)) > 60
    with pytest.raises(CourseError, match="1 ≤ low ≤ high"):
        corpora.random_repeats(10, 10, 1, period=(4, 3))


def test_repeated_tokens():
    tokens = corpora.repeated_tokens(20, 5, 7, 3)
    assert tokens.shape == (5, 21) and torch.equal(tokens[:, :7], tokens[:, 14:]) and int(tokens.min()) >= 1


def test_mixed_share():
    zeros, ones = (lambda step, v=v: torch.full((1000, 3), v) for v in (0, 1))
    rows = corpora.mixed(zeros, ones, 0.2)(0)
    assert (rows == rows[:, :1]).all() and 0.15 < float(rows.float().mean()) < 0.25
    assert corpora.mixed(zeros, ones, 0.0)(0).sum() == 0


def test_bigram_chain_is_what_it_says():
    chain = corpora.BigramChain(d_vocab=6, concentration=0.5, seed=1)
    assert torch.allclose(chain.transition.sum(-1), torch.ones(6), atol=1e-5)
    assert torch.allclose(chain.stationary @ chain.transition, chain.stationary, atol=1e-5)
    tokens = chain.sampler(200, 300, seed=2)(0)
    counts = torch.zeros(6, 6).index_put_(
        (tokens[:, :-1].flatten(), tokens[:, 1:].flatten()), torch.tensor(1.0), accumulate=True
    )
    assert (counts / counts.sum(-1, keepdim=True) - chain.transition).abs().max() < 0.02
    seen = -(counts / counts.sum() * chain.transition.log()).sum()
    assert abs(float(seen) - chain.entropy) < 0.02


def test_skip_trigram_rules_hold_and_destinations_alone_tell_nothing():
    language = corpora.SkipTrigrams(n_rules=4, d_vocab=30, seed=0)
    rows = language.sampler(48, 500, seed=1)(0)
    assert len(set(sum(language.rules, ()))) == 12
    for source, dest, out in language.rules:
        at = (rows[:, :-1] == dest).nonzero()
        followed = rows[at[:, 0], at[:, 1] + 1] == out
        seen = torch.tensor([bool((rows[b, max(0, i - 13) : i] == source).any()) for b, i in at.tolist()])
        assert followed[seen].all(), "source … destination → out, always"
        assert not followed[~seen].any(), "and never without the source"
        assert 0.3 < float(seen.float().mean()) < 0.7
    with pytest.raises(CourseError, match="enlarge d_vocab"):
        corpora.SkipTrigrams(n_rules=20, d_vocab=30)
    with pytest.raises(CourseError, match="n_ctx is 5"):
        language.sampler(5, 1)


def test_cipher_copies_say_the_same_words():
    cipher = corpora.Cipher(n_words=9)
    assert torch.equal(cipher.partner(cipher.partner(torch.arange(18))), torch.arange(18))
    rows = cipher.sampler(30, 200, period=(5, 5), seed=0)(0)
    words, language = rows % 9, rows // 9
    assert torch.equal(words[:, :25], words[:, 5:])
    assert torch.equal(language[:, :1].expand(-1, 5), language[:, :5]), "one language a copy"
    assert 0.35 < float((language[:, 0] != language[:, 5]).float().mean()) < 0.65


# --- facts ----------------------------------------------------------------------------------------


def test_facts_are_said_in_two_templates_of_seven_words():
    facts = corpora.Facts()
    assert len(facts.sentences) == 2 * 24 * 3 and len(set(facts.sentences.values())) == 144
    assert facts.sentences[0, "Japan", "capital"] == "| the capital of Japan is Tokyo"
    assert facts.sentences[1, "Brazil", "currency"] == "| in Brazil the currency is real"
    train, held = facts.halves
    assert train.shape == (120, 7) and held.shape == (24, 7)
    together = {tuple(row) for row in [*train.tolist(), *held.tolist()]}
    assert len(together) == 144
    assert set(held[:, -1].tolist()) <= set(train[:, -1].tolist()), "a fact was never told"


def test_every_answer_belongs_to_one_country_and_relation():
    answers = [answer for row in corpora.Facts().table.values() for answer in row.values()]
    assert len(set(answers)) == len(answers) == 72


def test_other_seeds_hold_out_other_facts():
    assert not torch.equal(corpora.Facts(seed=0).halves[1], corpora.Facts(seed=1).halves[1])


@pytest.mark.parametrize(("change", "n", "differs_at"), [("fact", 72, 4), ("relation", 144, 2)])
def test_pairs_differ_in_one_word_and_stand_both_ways_round(change, n, differs_at):
    facts = corpora.Facts()
    clean, corrupted, right, wrong = facts.pairs(change)
    assert clean.shape == (n, 6)
    assert (clean != corrupted).sum(0).tolist() == [n if i == differs_at else 0 for i in range(6)]
    said = {facts.tokens(text)[:6].__repr__(): facts.tokens(text)[6] for text in facts.sentences.values()}
    assert all(said[repr(row)] == answer for row, answer in zip(clean, right))
    assert all(said[repr(row)] == answer for row, answer in zip(corrupted, wrong))
    there = {(tuple(a), tuple(b)) for a, b in zip(clean.tolist(), corrupted.tolist())}
    assert len(there) == n and there == {(b, a) for a, b in there}


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        (lambda: corpora.Facts(held_out=73), "73 facts cannot be held out: there are 72"),
        (lambda: corpora.Facts().tokens("the capital of Japn"), "'Japn' is not in the vocabulary. Did you mean 'Japan'"),
        (lambda: corpora.Facts().pairs("facts"), "is 'fact' or 'relation'"),
        (lambda: corpora.Facts().pairs("fact", template=2), "template=2 is one of 0 … 1"),
        (lambda: corpora.Facts().pairs("fact", template=-1), "template=-1 is one of 0 … 1"),
    ],
)  # fmt: skip
def test_facts_refuse_with_a_sentence(wrong, sentence):
    with pytest.raises(CourseError, match=sentence):
        wrong()
