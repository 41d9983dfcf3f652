"""Text of one's own: whatever line ends, encodings, folders and tokenizers it comes with, and what is said of it."""

import builtins
import os
import re
import sys
import sysconfig
import types
import zipfile

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

from mi_course import corpora
from mi_course.corpora.corpus import END_OF_TEXT
from mi_course.corpora.library import check_texts
from mi_course.errors import CourseError

LINES = "the cat sat on the mat\nand the dog met a cat?\n"


def folder_of(root, **files: bytes):
    for i in range(30):
        (root / f"{i:02}.txt").write_bytes((LINES * (20 + i)).encode())
    for name, blob in files.items():
        path = root / name.replace("__", "/").replace("_dot_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(blob)
    return root


def whole(corpus) -> str:
    return corpus.decode(corpus.train) + corpus.decode(corpus.held_out)


def test_plain_text_is_changed_in_nothing(tmp_path):
    corpus = corpora.from_folder(folder_of(tmp_path), vocab=60)
    assert corpus.notes == () and "; changed" not in repr(corpus) and corpus.end == 0


# --- line ends, marks and encodings ----------------------------------------------------------------

BLOBS = {
    "CRLF": (lambda t: t.replace("\n", "\r\n").encode(), "line ends normalised"),
    "CR": (lambda t: t.replace("\n", "\r").encode(), "line ends normalised"),
    "UTF-8 with a mark": (lambda t: t.encode("utf-8-sig"), None),
    "UTF-16": (lambda t: t.encode("utf-16"), "z.txt: utf-16"),
    "UTF-16 big end first": (lambda t: b"\xfe\xff" + t.encode("utf-16-be"), "z.txt: utf-16"),
    "UTF-32": (lambda t: t.encode("utf-32"), "z.txt: utf-32"),
    "Windows": (lambda t: t.encode("cp1252"), "1 file in another encoding (z.txt: cp1252, a guess)"),
}


@pytest.mark.parametrize("how", BLOBS)
def test_line_ends_and_encodings(tmp_path, how):
    text = LINES * 7 + "a café in Genève\n"
    blob, said = BLOBS[how]
    corpus = corpora.from_folder(folder_of(tmp_path, z_dot_txt=blob(text)), vocab=80, keep="éè")
    assert text in whole(corpus) and "\r" not in whole(corpus) and "\ufeff" not in whole(corpus)
    assert (said is None and not corpus.notes) or any(said in note for note in corpus.notes), corpus.notes
    assert ("changed: " in repr(corpus)) == bool(corpus.notes)


def test_texts_handed_in_get_the_same_care():
    texts = {f"{i}": LINES.replace("\n", "\r\n") * (i + 1) for i in range(9)} | {
        "mark": "\ufeff" + LINES * 20
    }
    corpus = corpora.from_texts("mine", texts, 60)
    assert "\r" not in whole(corpus) and "\ufeff" not in whole(corpus)
    assert corpus.notes == ("90 line ends normalised", "1 byte-order mark removed")


def names(held, n):
    """So many file names that are all held out, or none of them."""
    found = (f"{i}.txt" for i in range(1000) if corpora.is_held_out(f"{i}.txt") == held)
    return [next(found) for _ in range(n)]


@pytest.mark.parametrize("held", [True, False])
@pytest.mark.parametrize("n", [1, 2, 3])
def test_texts_that_are_all_held_out_or_none_are_parted_all_the_same(held, n):
    texts = {name: f"{LINES * 9}{name}\n" for name in names(held, n)}
    corpus = corpora.from_texts("mine", texts, 60)
    assert min(corpus.n_files) == 1 and sum(corpus.n_files) == max(2, n)
    assert len(corpus.train) and len(corpus.held_out)


@pytest.mark.parametrize("vocab", [-1, 0, 2**40])
def test_a_vocabulary_of_no_size(vocab):
    with pytest.raises(CourseError, match="A vocabulary trained here has 1 to"):
        corpora.from_texts("mine", {"a": LINES * 9}, vocab)


@pytest.mark.parametrize("text", [None, 3, b"bytes"])
def test_what_is_no_text(text):
    with pytest.raises(CourseError, match="b of mine is an? .*, no text"):
        corpora.from_texts("mine", {"a": LINES * 9, "b": text}, 60)


@pytest.mark.parametrize(
    ("texts", "sentence"),
    [
        ([LINES, LINES], "a dictionary, name → text, not a list"),
        ({1: LINES, 2: LINES}, "named 1: a name is a str"),
    ],
)
def test_what_is_no_dictionary_of_texts(texts, sentence):
    with pytest.raises(CourseError, match=sentence):
        check_texts("mine", texts)


@pytest.mark.parametrize("where", ["trained", "shipped"])
def test_half_letters_are_replaced_and_counted(where):
    texts = {f"{i}": LINES * (i + 5) + "a \udcff b \ud83d\n" for i in range(9)}
    tokenizer = 60 if where == "trained" else corpora.shipped_tokenizer("python-512")
    corpus = corpora.from_texts("mine", texts, tokenizer)
    assert corpus.notes[0] == r"18 half letters read as \ufffd" and "a ? b ?" in whole(corpus)
    with pytest.raises(CourseError, match=r"'\\udcff' is half a letter"):
        corpus.encode("a\udcff")


def test_rows_without_a_text_are_left_out(monkeypatch):
    rows = [{"text": LINES * (9 + i)} for i in range(4)] + [{"text": None}]
    fake = types.SimpleNamespace(load_dataset=lambda *_, **__: rows)
    monkeypatch.setitem(sys.modules, "datasets", fake)
    corpus = corpora.from_huggingface("any", vocab=60)
    assert sum(corpus.n_files) == 4 and corpus.notes == ("1 row without a text left out",)


def test_a_column_that_the_rows_have_not(monkeypatch):
    fake = types.SimpleNamespace(load_dataset=lambda *_, **__: [{"texts": LINES, "id": 3}] * 4)
    monkeypatch.setitem(sys.modules, "datasets", fake)
    with pytest.raises(CourseError, match="any has no column 'text'; it has texts, id. Did you mean"):
        corpora.from_huggingface("any", vocab=60)


# --- letters and the separator ---------------------------------------------------------------------


def test_letters_that_vanish_become_a_visible_token():
    texts = {f"{i}": "the cat sat on the mat\n" * (i + 5) for i in range(40)}
    seen = corpora.from_texts("mine", texts, 40)
    held = next(name for name in texts if corpora.is_held_out(name))
    new = corpora.from_texts("mine", texts | {held: texts[held] + "ZOO\n"}, 40)
    assert new.d_vocab == seen.d_vocab + 1 and new.vocabulary[-1] == corpora.UNKNOWN
    assert new.vocabulary[:-1] == seen.vocabulary, "all other tokens keep their numbers"
    assert f"3 letters read as {corpora.UNKNOWN} (O, Z)" in new.notes
    assert int((new.held_out == new.d_vocab - 1).sum()) == 3
    with pytest.raises(CourseError, match="No letter of 'ZOO'"):
        seen.encode("ZOO")


ASKED = {  # text → what comes back, and the letters that the warning names
    "Hello World": ("ello orld", "H, W"),
    "héllo wörld": ("hllo wrld", "é, ö"),
    "1+1=2 & 50%": ("112  50", "+, =, &, %"),
    "a\x0cb\xa0c\nd": ("abc\nd", r"\x0c, \xa0"),
}


@pytest.mark.parametrize("asked", ASKED)
def test_letters_that_an_encoded_text_loses_are_named(asked):
    every_letter = "the quick brown fox jumps over a lazy dog 0123456789\n"
    corpus = corpora.from_texts("mine", {f"{i}": every_letter * (i + 5) for i in range(9)}, 60)
    back, lost = ASKED[asked]
    with pytest.warns(UserWarning, match=re.escape(f"left out of the tokens: {lost}.")) as told:
        assert corpus.decode(corpus.encode(asked)) == back
    assert len(told) == 1


def test_half_a_letter_is_no_letter():
    corpus = corpora.from_texts(
        "mine", {f"{i}": "un café, un thé\n" * (i + 5) for i in range(9)}, 60, keep="éè"
    )
    with pytest.warns(UserWarning, match="left out of the tokens: è"):
        corpus.encode("thè")


@pytest.mark.filterwarnings("error")
def test_texts_that_lose_nothing_are_encoded_without_a_word(tmp_path):
    for corpus in (corpora.python_text(512), corpora.from_folder(folder_of(tmp_path), vocab=60)):
        for text in (
            "the cat sat\n on\ta mat?",
            "",
            f"a{END_OF_TEXT}",
            " é" if corpus.d_vocab == 512 else " ",
        ):
            corpus.encode(text)


def test_letters_beyond_ascii_are_counted_or_kept(tmp_path):
    root = folder_of(tmp_path, z_dot_txt="ein größerer Bär?\n".encode() * 50)
    assert "150 letters read as ? (ö, ß, ä)" in corpora.from_folder(root, vocab=80).notes
    kept = corpora.from_folder(root, vocab=120, keep="öäß")
    assert kept.notes == () and "größerer" in whole(kept)


@pytest.mark.parametrize("keep", ["]é", "[é", "\\é", "^é", "é-ü", "é&&[a]"])
def test_signs_among_the_letters_to_keep_are_letters(keep):
    texts = {f"{i}": "é ô [x] ^ \\d\n" * (i + 5) for i in range(9)}
    corpus = corpora.from_texts("mine", texts, 60, keep=keep)
    assert corpus.notes == ("81 letters read as ? (ô)",) and "é ? [x] ^ \\d\n" in whole(corpus)


BLANKS = ["\x0b", "\x0c", "\x1c", "\x85", "\xa0", "\u2028", "\u202f", "\u3000"]


@pytest.mark.parametrize("where", ["trained", "shipped"])
@pytest.mark.parametrize("blank", BLANKS)
def test_blanks_of_other_kinds_are_counted_or_kept(where, blank):
    texts = {f"{i}": f"10{blank}000{blank}a\tb\n" * (i + 5) for i in range(9)}
    tokenizer = 40 if where == "trained" else corpora.shipped_tokenizer("python-512")
    corpus = corpora.from_texts("mine", texts, tokenizer)
    assert corpus.notes == (
        f"162 letters read as ? ({ascii(blank)[1:-1]})", r"81 letters read as 4 blanks (\t)"
    ) and "10?000?a    b" in whole(corpus)  # fmt: skip
    if where == "trained":
        kept = corpora.from_texts("mine", texts, 40, keep=blank)
        assert len(kept.notes) == 1 and f"10{blank}000{blank}a" in whole(kept)


def test_blanks_that_words_stand_between():
    words = Tokenizer(models.WordLevel({"a": 0, "b": 1, "</s>": 2}, unk_token="</s>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    corpus = corpora.from_texts("mine", {f"{i}": "a b\n" * (i + 5) for i in range(9)}, words)
    assert corpus.notes == (r"81 letters read as a blank (\n)",)


@pytest.mark.parametrize("where", ["trained", "shipped"])
def test_the_separator_inside_a_text_is_text(where):
    texts = {f"{i}": LINES * (i + 5) for i in range(20)} | {
        "0": f"a file ends with {END_OF_TEXT}, they say\n" * 9
    }
    tokenizer = 90 if where == "trained" else corpora.shipped_tokenizer("python-512")
    corpus = corpora.from_texts("mine", texts, tokenizer)
    ends = int((corpus.train == 0).sum() + (corpus.held_out == 0).sum())
    assert ends == 20 == sum(corpus.n_files), "one behind each file"
    assert f"{END_OF_TEXT} spelt out where it is text (9 times)" in corpus.notes
    assert f"ends with {END_OF_TEXT}, they" in whole(corpus)
    assert corpus.encode(END_OF_TEXT).tolist() == [0], "asked for by name it is the separator"


# --- which files -----------------------------------------------------------------------------------


def test_hidden_folders_and_duplicates_are_left_out_and_named(tmp_path):
    root = folder_of(
        tmp_path, _dot_git__HEAD=b"ref: refs/heads/main\n", sub___dot_ipynb_checkpoints__a_dot_txt=b"old\n",
        sub__copy_dot_txt=(LINES * 20).encode(), sub__windows_dot_txt=(LINES * 21).replace("\n", "\r\n").encode(),
    )  # fmt: skip
    corpus = corpora.from_folder(root, vocab=60)
    assert sum(corpus.n_files) == 30
    assert "hidden folders left out (.git, .ipynb_checkpoints)" in corpus.notes
    assert "2 duplicates left out (sub/copy.txt = 00.txt, sub/windows.txt = 01.txt)" in corpus.notes
    assert not set(corpora.files_below(root)) & {".git/HEAD", "sub/.ipynb_checkpoints/a.txt"}


def test_what_is_left_out_is_named(tmp_path):
    text = LINES * 9 + "a café\n"
    root = folder_of(
        tmp_path, a_dot_txt=text.encode("utf-16-le"), b_dot_txt=text.encode("utf-16-be"), c_dot_png=b"\x89PNG\0",
        empty_dot_txt=b"", blank_dot_txt=b" \r\n",
    )  # fmt: skip
    corpus = corpora.from_folder(root, vocab=60)
    assert sum(corpus.n_files) == 30 and corpus.notes == (
        "3 files left out (binary, or UTF-16 without a mark: a.txt, b.txt, c.png)",
        "1 line end normalised",
        "2 texts left out (empty: blank.txt, empty.txt)",
    )
    asked = corpora.from_folder(root, vocab=60, suffixes=[".txt"])
    assert "1 file left out (another ending: c.png)" in asked.notes
    assert asked.notes == corpora.from_folder(root, vocab=60, suffixes=".txt").notes
    with pytest.raises(CourseError, match=r"holds no text: 1 file left out \(binary.*c\.png\)"):
        corpora.from_folder(root, vocab=60, suffixes=[".png"])


@pytest.mark.skipif(sys.platform == "win32", reason="links need a right of their own on Windows")
def test_links_to_folders_are_named_and_not_entered(tmp_path):
    for name, to in (("nowhere", "nothing"), ("round", ".")):
        (tmp_path / name).symlink_to(tmp_path / to, target_is_directory=True)
    corpus = corpora.from_folder(folder_of(tmp_path), vocab=60)
    assert sum(corpus.n_files) == 30 and corpus.notes == ("2 links left out (to no file: nowhere, round)",)


def test_a_folder_that_cannot_be_read(tmp_path, monkeypatch):
    (folder_of(tmp_path) / "locked").mkdir()
    real = os.scandir

    def locked(folder):
        if str(folder).endswith("locked"):
            raise PermissionError(13, "Permission denied", str(folder))
        return real(folder)

    monkeypatch.setattr(os, "scandir", locked)
    with pytest.raises(CourseError, match="locked could not be read .Permission denied"):
        corpora.from_folder(tmp_path, vocab=60)


def test_a_hidden_folder_itself_may_be_read(tmp_path):
    (tmp_path / ".mine").mkdir()
    assert sum(corpora.from_folder(folder_of(tmp_path / ".mine"), vocab=60).n_files) == 30


@pytest.mark.skipif(sys.platform != "linux", reason="names are bytes on Linux alone")
def test_a_name_that_is_not_utf8(tmp_path):
    folder_of(tmp_path)
    with open(os.fsencode(tmp_path) + b"/caf\xe9.txt", "w") as file:
        file.write(LINES * 99)
    corpus = corpora.from_folder(tmp_path, vocab=60)
    assert sum(corpus.n_files) == 31 and r"caf\xe9.txt" in corpora.files_below(tmp_path)
    assert corpora.is_held_out("caf\udce9") in (True, False)


def test_the_folder_one_stands_in_has_a_name(tmp_path, monkeypatch):
    monkeypatch.chdir(folder_of(tmp_path))
    assert corpora.from_folder(".", vocab=60).name == tmp_path.name


# --- tokenizers handed in --------------------------------------------------------------------------


def gpt2_like(end: str | None = "<|endoftext|>") -> Tokenizer:
    """Bytes as tokens, `!` first, an end of text in the last place, and a post-processor that puts <s> in front."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {letter: i for i, letter in enumerate(alphabet)} | {"<s>": 256}
    assert vocab["!"] == 0
    tokenizer = Tokenizer(models.BPE(vocab, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<s>"] + ([end] if end else []))
    tokenizer.post_processor = processors.TemplateProcessing("<s> $A", special_tokens=[("<s>", 256)])
    tokenizer.enable_padding(length=500)
    tokenizer.enable_truncation(6)
    return tokenizer


def as_transformers() -> object:
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(
        tokenizer_object=gpt2_like("<|stop|>"), eos_token="<|stop|>", bos_token="<s>"
    )


GIVEN = {"tokenizers": gpt2_like, "transformers": as_transformers}


@pytest.mark.parametrize("source", GIVEN)
def test_a_tokenizer_handed_in(source):
    given = GIVEN[source]()
    texts = {f"{i}": LINES.replace("\n", "!\n") * (i + 1) for i in range(20)}
    corpus = corpora.from_texts("mine", texts, given)
    assert corpus.end == 257 and int((corpus.train == 257).sum()) == corpus.n_files[0]
    assert int((corpus.train == 256).sum()) == 0, "no <s> in the text"
    assert int((corpus.train == 0).sum()) > 19, "and every ! is one"
    assert corpus.decode(corpus.encode("so!")) == "so!" and len(corpus.encode("so it goes on")) == 13
    assert corpus.encode("so!", special=True).tolist()[0] == 256
    inner = getattr(given, "backend_tokenizer", given)
    assert inner.truncation is not None, "the one handed in is left as it was"
    assert len(corpus.vocabulary) >= 258


def test_tokenizers_that_cannot_be_used():
    texts = {f"{i}": LINES * (i + 1) for i in range(20)}
    with pytest.raises(CourseError, match="no end-of-text token by a usual name: .*end='…'"):
        corpora.from_texts("mine", texts, gpt2_like(None))
    assert corpora.from_texts("mine", texts, gpt2_like(None), end="<s>").end == 256
    with pytest.raises(CourseError, match="no token '<nope>'"):
        corpora.from_texts("mine", texts, gpt2_like(), end="<nope>")
    for wrong in ("gpt2", str.split, None):
        with pytest.raises(CourseError, match="comes from `tokenizers`"):
            corpora.from_texts("mine", texts, wrong)


def test_arguments_that_would_change_nothing():
    texts = {f"{i}": LINES * (i + 1) for i in range(20)}
    with pytest.raises(CourseError, match="keep is for a vocabulary trained here"):
        corpora.from_texts("mine", texts, gpt2_like(), keep="é")
    with pytest.raises(CourseError, match="end names a token of a tokenizer handed in"):
        corpora.from_texts("mine", texts, 60, end="</s>")


def test_bytes_of_tokens_of_any_vocabulary():
    tokenizer = Tokenizer(models.WordLevel({"<0xE2>": 0, "▁cat": 1, "</s>": 2}, unk_token="▁cat"))
    texts = {f"{i}": LINES * (i + 1) for i in range(20)}
    corpus = corpora.from_texts("mine", texts, tokenizer)
    assert corpus.token_bytes(0) == b"\xe2" and corpus.token_bytes(1) == "▁cat".encode()


# --- interpreters that lack something --------------------------------------------------------------


def test_no_documentation_topics(monkeypatch):
    real = builtins.__import__

    def without(name, *given, **how):
        if name.startswith("pydoc_data"):
            raise ImportError(name)
        return real(name, *given, **how)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.warns(UserWarning, match="without pydoc_data"):
        texts = corpora.standard_library()
    assert "argparse.py" in texts and not any(name.startswith("topics/") for name in texts)


def test_a_library_in_a_zip_file(tmp_path, monkeypatch):
    archive = tmp_path / "python.zip"
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("heapq.py", "import a\r\nimport b\r\n")
        file.writestr("test/x.py", "left out")
        file.writestr("json/__init__.py", "import c\n")
        file.writestr("os.pyc", b"\0")
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path / "nowhere"))
    monkeypatch.setattr(sys, "path", [str(archive), *sys.path])
    texts = corpora.standard_library()
    assert texts["heapq.py"] == "import a\nimport b\n" and "json/__init__.py" in texts
    assert [name for name in texts if not name.startswith("topics/")] == ["heapq.py", "json/__init__.py"]


def test_no_sources_at_all(tmp_path, monkeypatch):
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path))
    monkeypatch.setattr(sys, "path", [name for name in sys.path if not name.endswith(".zip")])
    with pytest.raises(CourseError, match="without the sources of its library.*from_folder"):
        corpora.standard_library()


def test_tokens_are_long():
    texts = {f"{i}": LINES * (i + 1) for i in range(20)}
    assert corpora.from_texts("mine", texts, 40).train.dtype == torch.long
