"""Tokenizers: trained here, shipped, or handed in, and how they read letters they do not know."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from typing import Any

import torch
from jaxtyping import Int
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from torch import Tensor

from mi_course.corpora.corpus import END_OF_TEXT
from mi_course.corpora.reading import Notes, count, shown, some
from mi_course.errors import CourseError, kind_of, nearest
from mi_course.files import data_dir

LARGEST = 2**20  # vocabulary to be trained: the trainer sets memory aside for all of it
UNKNOWN = "<|unknown|>"  # a letter that the vocabulary has not
ENDS = (END_OF_TEXT, "<|endoftext|>", "<|end_of_text|>", "</s>", "<eos>", "<|im_end|>", "<|eot_id|>", "[SEP]")


def train_tokenizer(texts: Iterable[str], vocab: int, keep: str = "") -> Tokenizer:
    """Byte-pair encoding of printable ASCII, newline and what is in `keep`; a tab becomes four spaces, the rest `?`.

    No initial byte alphabet is added: every token of the vocabulary was seen, so none has an untrained embedding.

    Args:
        texts: what it is trained on.
        vocab: tokens; at least one for each letter.
        keep: letters beyond printable ASCII to keep; others become `?`.
    """
    if not 1 <= vocab <= LARGEST:
        raise CourseError(f"A vocabulary trained here has 1 to {LARGEST:,} tokens, not {vocab:,}.")
    tokenizer = Tokenizer(models.BPE())
    beyond = "".join(
        letter for letter in keep if not "\x20" <= letter <= "\x7e"
    )  # nothing that means more in a [class]
    foreign = Regex(rf"[^\x20-\x7E\n{beyond}]")
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Replace("\t", "    "), normalizers.Replace(foreign, "?")]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab, special_tokens=[END_OF_TEXT], initial_alphabet=[], show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def shipped_tokenizer(name: str) -> Tokenizer:
    """A tokenizer of `data/tokenizers/` by name, e.g. `python-512`."""
    folder = data_dir() / "tokenizers"
    path = folder / f"{name}.json"
    if not path.is_file():
        known = sorted(p.stem for p in folder.glob("*.json"))
        raise CourseError(
            f"There is no tokenizer {name!r}; shipped are {', '.join(known)}.{nearest(name, known)}"
        )
    return Tokenizer.from_file(str(path))


def handed_in(given: Any, end: str | None = None) -> tuple[Tokenizer, int]:
    """A tokenizer of `tokenizers` or `transformers`, a copy that neither pads nor cuts, and its end-of-text id.

    `given` is such a tokenizer; `end` is the name of its end-of-text token, which is looked for if left out.
    """
    inner = getattr(given, "backend_tokenizer", given)
    if not isinstance(inner, Tokenizer):
        raise CourseError(
            f"A tokenizer comes from `tokenizers`, or as a fast one from `transformers`; this is {kind_of(given)}."
        )
    tokenizer = Tokenizer.from_str(inner.to_str())
    tokenizer.no_padding()
    tokenizer.no_truncation()
    names = [end] if end is not None else [getattr(given, "eos_token", None), *ENDS]
    found = (tokenizer.token_to_id(str(name)) for name in names if name is not None)
    number = next((i for i in found if i is not None), None)
    if number is None:
        what = f"has no token {end!r}" if end is not None else "has no end-of-text token by a usual name"
        raise CourseError(f"This tokenizer {what}: name the one that is to stand between files, end='…'.")
    return tokenizer, number


def with_unknown(tokenizer: Tokenizer, found: Counter) -> Tokenizer:
    """The same tokens and, where letters found in the texts would vanish, one more at the end that stands for them."""
    if all(letter == "\t" or read_as(tokenizer, letter) for letter in found):
        return tokenizer
    written = json.loads(tokenizer.to_str())
    number = tokenizer.get_vocab_size()
    written["model"] |= {"unk_token": UNKNOWN, "vocab": written["model"]["vocab"] | {UNKNOWN: number}}
    written["added_tokens"].append(written["added_tokens"][0] | {"id": number, "content": UNKNOWN})
    return Tokenizer.from_str(json.dumps(written))


def letters(texts: Iterable[str]) -> Counter:
    """How often each letter occurs."""
    total: Counter = Counter()
    for text in texts:
        total.update(text)
    return total


def read_as(tokenizer: Tokenizer, letter: str) -> str:
    """What is left of one letter after a way there and back."""
    ids = tokenizer.encode(letter, add_special_tokens=False).ids
    return tokenizer.decode(ids, skip_special_tokens=False)


def read_between(tokenizer: Tokenizer, blank: str, letter: str | None) -> str:
    """What is left of a blank between twice the same letter: alone, many tokenizers drop it. With no letter, the blank."""
    if letter is None:
        return blank
    back = read_as(tokenizer, letter + blank + letter).strip()
    whole = len(back) > 1 and back.startswith(letter) and back.endswith(letter)
    return back[len(letter) : -len(letter)] if whole else blank


def altered_letters(tokenizer: Tokenizer, found: Counter) -> Notes:
    """Which letters, blanks of any kind among them, come back as something else, and how often they occur."""
    turned: dict[str, Counter] = {}
    firm = next((x for x in found if x.isalnum() and read_as(tokenizer, x) == x), None)
    for letter, n in found.items():
        back = (
            read_between(tokenizer, letter, firm) if letter.isspace() else read_as(tokenizer, letter).strip()
        )
        if back != letter and not (len(back) > 1 and letter in back):
            turned.setdefault(back, Counter())[letter] = n
    return [
        f"{count(sum(these.values()), 'letter')} read as {reading(back)} ({some(shown(x) for x, _ in these.most_common())})"
        for back, these in turned.items()
    ]


def reading(back: str) -> str:
    """What letters came back as, in words where it is nothing or blank."""
    if back.strip(" "):
        return "".join(map(shown, back))
    return {0: "nothing", 1: "a blank"}.get(len(back), f"{len(back)} blanks")


def joined(tokenizer: Tokenizer, texts: list[str], end: int = 0) -> Int[Tensor, "tokens"]:
    """Token ids of the texts, one after the other, the end-of-text token behind each and nowhere else.

    `tokenizer` encodes the `texts`; `end` is the id of the end-of-text token.

    A special token's name inside a text is text: it is spelt out.
    """
    before, tokenizer.encode_special_tokens = tokenizer.encode_special_tokens, True
    try:
        encodings = tokenizer.encode_batch(texts, add_special_tokens=False)
    finally:
        tokenizer.encode_special_tokens = before
    return torch.cat([torch.tensor([*encoding.ids, end], dtype=torch.int32) for encoding in encodings]).long()
