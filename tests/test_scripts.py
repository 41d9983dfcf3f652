"""Planted scripts: every token knows which one it belongs to."""

import random

import pytest
import torch

from mi_course import corpora
from mi_course.corpora import scripts
from mi_course.corpora.vocabulary import shipped_tokenizer, train_tokenizer
from mi_course.errors import CourseError

TEXT = "\n".join(f"    line_{i} = value + {i}" for i in range(4000)) + "\n"


@pytest.fixture(scope="module")
def corpus():
    return scripts.labelled_corpus(
        {f"file{i}.py": scripts.plant(f"file{i}.py", TEXT) for i in range(30)},
        shipped_tokenizer("scripts-1024"),
    )


def test_planting_keeps_every_line_and_knows_where_it_planted():
    text, spans = scripts.plant("a.py", TEXT)
    inserted = set(text.splitlines()) - set(TEXT.splitlines())
    assert len(spans) == len(inserted) > 20 and set(TEXT.splitlines()) <= set(text.splitlines())
    for start, end, kind in spans:
        assert 1 <= end - start <= 190 and text[start:end] in "\n".join(inserted)
        letters = {
            "arabic": scripts.ARABIC + " ",
            "hebrew": scripts.HEBREW + " ",
            "dna": "ACGT",
            "hex": "0123456789abcdef",
        }
        if scripts.SCRIPTS[kind] in letters:
            assert set(text[start:end]) <= set(letters[scripts.SCRIPTS[kind]])


def test_the_shared_text_is_planted_alike_on_every_python():
    shared, texts = scripts.script_text(shared=True), corpora.standard_library(shared=True)
    assert sum(shared.n_files) == len(texts)
    assert len(texts) < len(corpora.shared_marks()) or shared.fingerprint == "d672bead3e60"


def test_name_and_seed_decide_what_is_planted():
    assert scripts.plant("a.py", TEXT) == scripts.plant("a.py", TEXT)
    assert scripts.plant("a.py", TEXT) != scripts.plant("b.py", TEXT)
    assert scripts.plant("a.py", TEXT) != scripts.plant("a.py", TEXT, seed=1)


@pytest.mark.parametrize("name", scripts.SCRIPTS)
def test_every_maker_gives_about_the_length_it_was_asked_for(name):
    for length in (20, 120):
        assert 0.6 * length <= len(scripts.MAKERS[name](random.Random(0), length)) <= length + 60


def test_labels_are_exact(corpus):
    """A token is labelled if and only if it overlaps a planted string; the letters prove it for Arabic and Hebrew."""
    for split in ("train", "held_out"):
        stream, label = corpus.stream(split), corpus.script(split)
        assert stream.shape == label.shape
        arabic = corpus.decode(stream[label == scripts.SCRIPTS.index("arabic")])
        assert arabic and set(arabic) <= set(scripts.ARABIC + ' "#\n�')
        rest = corpus.decode(stream[label == -1])
        assert not set(rest) & set(scripts.ARABIC + scripts.HEBREW)


def test_each_script_has_its_share(corpus):
    for name, rate in scripts.RATES.items():
        assert 0.2 * rate < 100 * float(corpus.proxy("train", name).float().mean()) < 8 * rate


def test_base64_stands_for_both_kinds(corpus):
    both = corpus.proxy("train", "base64")
    kinds = [corpus.proxy("train", f"base64 of {kind}") for kind in ("letters", "digits")]
    assert torch.equal(both, kinds[0] | kinds[1]) and not bool((kinds[0] & kinds[1]).any())


def test_an_unknown_script_or_split_is_one_sentence(corpus):
    with pytest.raises(CourseError, match="hebrew"):
        corpus.proxy("train", "hebrow")
    with pytest.raises(CourseError, match="held_out"):
        corpus.script("heldout")


@pytest.mark.parametrize("held", [True, False])
def test_texts_that_are_all_held_out_or_none_are_parted_all_the_same(held):
    names = [name for name in map(str, range(200)) if corpora.is_held_out(name) == held][:2]
    tokenizer = shipped_tokenizer("scripts-1024")
    texts = {name: scripts.plant(name, TEXT) for name in names}
    parted = scripts.labelled_corpus(texts, tokenizer)
    assert parted.n_files == (1, 1) and len(parted.train_script) == len(parted.train)
    for few in ({}, {names[0]: texts[names[0]]}):
        with pytest.raises(CourseError, match=f"{len(few)} texts? cannot be parted"):
            scripts.labelled_corpus(few, tokenizer)


def test_the_tokenizer_keeps_the_letters():
    text = f'x = "{scripts.ARABIC[:5]} {scripts.HEBREW[:5]}"\tñ'
    tokenizer = shipped_tokenizer("scripts-1024")
    assert tokenizer.decode(tokenizer.encode(text).ids) == text.replace("\t", "    ").replace("ñ", "?")


def test_a_trained_tokenizer_says_the_same_again():
    texts = [scripts.plant(f"{i}", TEXT)[0] for i in range(3)]
    one, two = (
        train_tokenizer(texts, 300, keep=scripts.ARABIC + scripts.HEBREW).get_vocab() for _ in range(2)
    )
    assert one == two and len(one) <= 300
