"""A corpus: tokens, windows and what is held out, the same for the same seed and step."""

from __future__ import annotations

import hashlib
import re
import warnings
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate

import torch
from jaxtyping import Int
from tokenizers import Tokenizer
from torch import Tensor

from mi_course.corpora.reading import HALVES, shown, some
from mi_course.errors import CourseError, kind_of, nearest

Sampler = Callable[[int], Int[Tensor, "batch pos"]]  # step -> tokens, the same for the same (seed, step)

END_OF_TEXT = "<|end|>"  # token 0 of the course's own vocabularies, between files
HELD_OUT = 0.07  # share of files
RAISED = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")

# Byte-level vocabularies write each byte as one printable character: those that are printable as they are, the
# others, in order, as the characters from 256 on.
PRINTABLE = [*range(33, 127), *range(161, 173), *range(174, 256)]
BYTE_OF = {chr(byte): byte for byte in PRINTABLE}
BYTE_OF |= {chr(256 + i): byte for i, byte in enumerate(b for b in range(256) if b not in PRINTABLE)}


def visible(text: str) -> str:
    """The `text` of a token as a word to look at: ⏎ for a new line, ⇥ for a tab, · for a blank at either end, ·⁷ for seven."""
    text = text.replace("\n", "⏎").replace("\t", "⇥")
    left, right = len(text) - len(text.lstrip(" ")), len(text) - len(text.rstrip(" "))
    dots = lambda n: "·" * n if n < 5 else "·" + str(n).translate(RAISED)
    return dots(left) + text.strip(" ") + dots(right if text.strip(" ") else 0)


def next_letter(text: bytes, at: int) -> tuple[int, str]:
    """Where the letter that begins at a byte of UTF-8 ends, and the letter; empty where it is cut off."""
    size = next((n for n, least in ((4, 0xF0), (3, 0xE0), (2, 0xC0)) if text[at] >= least), 1)
    try:
        return at + size, text[at : at + size].decode()
    except UnicodeDecodeError:
        end = at + 1
        while end < min(len(text), at + 4) and text[end] & 0xC0 == 0x80:
            end += 1
        return end, ""


def piece_number(part: bytes) -> int:
    """1 for bytes that begin a letter, 2 for those that go on with it."""
    return 1 if part[0] >= 0xC0 else 2


@dataclass(frozen=True, eq=False)
class Corpus:
    """Text as two token streams, training and held-out files; files are separated by the token `end`.

    Args:
        name: what a card calls it.
        tokenizer: text to ids and back.
        train: token ids of the training files, one after the other.
        held_out: the same of the files that no training sees.
        n_files: how many files, in training and held out.
        n_bytes: how many bytes of text, in training and held out.
        fingerprint: sha256 over names and contents, 12 digits.
        end: the token between files.
        notes: what was changed on the way from files to tokens.
    """

    name: str
    tokenizer: Tokenizer = field(repr=False)
    train: Int[Tensor, "train"]
    held_out: Int[Tensor, "held"]
    n_files: tuple[int, int]
    n_bytes: tuple[int, int]
    fingerprint: str  # sha256 over names and contents, 12 digits
    end: int = field(default=0, kw_only=True)  # the token between files
    notes: tuple[str, ...] = field(
        default=(), kw_only=True
    )  # what was changed on the way from files to tokens

    @property
    def d_vocab(self) -> int:
        return self.tokenizer.get_vocab_size()

    def __repr__(self) -> str:
        per_token = sum(self.n_bytes) / max(1, len(self.train) + len(self.held_out))
        return (
            f"{self.name}: {self.n_files[0]} files to train on ({self.n_bytes[0] / 1e6:.1f} MB, "
            f"{len(self.train):,} tokens), {self.n_files[1]} held out ({len(self.held_out):,} tokens), "
            f"{per_token:.2f} bytes per token, vocabulary {self.d_vocab}, fingerprint {self.fingerprint}"
            + (f"; changed: {', '.join(self.notes)}" if self.notes else "")
        )

    def encode(self, text: str, special: bool = False) -> Int[Tensor, "pos"]:
        """Token ids of a text; `special` adds what the tokenizer puts around one, a `<s>` in front, say.

        A letter that the vocabulary has not is read as `?` or as the unknown token where there is one; where there is
        none it is left out, and a warning names it.
        """
        if not isinstance(text, str):
            raise CourseError(f"What is encoded is a text, a str, not {kind_of(text)}.")
        if half := HALVES.search(text):
            raise CourseError(
                f"{half[0]!a} is half a letter, which no vocabulary has: take it out of the text."
            )
        ids = self.tokenizer.encode(text, add_special_tokens=special).ids
        if not ids and text.strip():
            raise CourseError(f"No letter of {text!r} is in this vocabulary.")
        if lost := self._left_out(text, ids):
            warnings.warn(
                f"This vocabulary has not these letters, and they were left out of the tokens: {some(lost, 10)}.",
                stacklevel=2,
            )
        return torch.tensor(ids, dtype=torch.long)

    def _left_out(self, text: str, ids: list[int]) -> list[str]:
        """The letters of a text, as one sees them, that are missing in its tokens and are no token, or half of one."""
        if (back := self.decode(ids)) == text:
            return []
        alone = lambda letter: self.decode(self.tokenizer.encode(letter, add_special_tokens=False).ids)
        missing = Counter(text) - Counter(back)
        return [shown(letter) for letter in missing if not alone(letter).strip("\ufffd")]

    def decode(self, tokens: Int[Tensor, "pos"] | Iterable[int]) -> str:
        """The text of token ids; `tokens` is a tensor or any sequence of them."""
        return self.tokenizer.decode(self._ids(tokens), skip_special_tokens=False)

    def _ids(self, tokens: Int[Tensor, "pos"] | Iterable[int]) -> list[int]:
        """Token ids as numbers, all of this vocabulary: a tokenizer would leave the others out."""
        ids, n = [int(t) for t in tokens], self.d_vocab
        for t in ids:
            if not 0 <= t < n and not (n <= t < 2**31 and self.tokenizer.id_to_token(t) is not None):
                raise CourseError(f"There is no token {t}: the ids of this vocabulary are 0…{n - 1}.")
        return ids

    def token_strings(self, tokens: Int[Tensor, "pos"] | Iterable[int]) -> list[str]:
        """One printable string for each of `tokens`: ⏎ for a new line, · for a space, ·⁷ for seven of them; see `visible`."""
        return [self.vocabulary[t] for t in self._ids(tokens)]

    def spelt(self, tokens: Int[Tensor, "pos"] | Iterable[int]) -> list[str]:
        """As `token_strings`, but pieces of letters are shown by the letter: خ¹ and خ² are two tokens of one خ.

        `tokens` follow one another. Where a letter is cut off, or for a piece alone, [ابة…]¹ says which letters of the
        text begin (or, ²³⁴, go on) so, the most frequent first.
        """
        ids = self._ids(tokens)
        if not self._pieces & set(ids):
            return self.token_strings(ids)
        pieces = [self.token_bytes(t) for t in ids]
        starts = [0, *accumulate(map(len, pieces))]
        shown, whole, at = [""] * len(ids), b"".join(pieces), 0
        while at < len(whole):
            end, letter = next_letter(whole, at)
            first, last = (bisect_right(starts, place) - 1 for place in (at, end - 1))
            for i in range(first, last + 1):
                part = whole[max(at, starts[i]) : min(end, starts[i + 1])]
                number = str(i - first + 1) if letter else str(piece_number(part))
                name = letter or f"[{self._letters_with(part)}]"
                shown[i] += name + ("" if letter and first == last else number.translate(RAISED))
            at = end
        return [visible(shown[i]) if t in self._pieces else self.vocabulary[t] for i, t in enumerate(ids)]

    @cached_property
    def _pieces(self) -> set[int]:
        """Tokens that hold a piece of a letter."""
        return {t for t in range(self.d_vocab) if "\ufffd" in self.decode([t])}

    @cached_property
    def _letters(self) -> list[str]:
        """Letters of the held-out text that are no ASCII, the most frequent first."""
        return [letter for letter, _ in Counter(self.decode(self.held_out)).most_common() if letter > "\x7f"]

    def _letters_with(self, part: bytes) -> str:
        """Up to three letters that this piece of bytes may belong to."""
        where = slice(0, 1) if part[0] >= 0xC0 else slice(1, None)
        found = [c for c in self._letters if part in c.encode() and c.encode().find(part) in range(4)[where]]
        return "".join(found[:3]) + "…" * (len(found) > 3) or part.decode(errors="backslashreplace")

    @cached_property
    def vocabulary(self) -> list[str]:
        """Every token as a printable string, in the order of the ids; different tokens look different."""
        return [visible(self._text(t)) for t in range(self.d_vocab)]

    def token_bytes(self, token: int) -> bytes:
        """The bytes of one token: it may be a piece of a letter, in byte-level vocabularies and as in <0xE2>."""
        word = self.tokenizer.id_to_token(token)
        if byte := re.fullmatch("<0x([0-9A-F]{2})>", word):
            return bytes([int(byte[1], 16)])
        return bytes(BYTE_OF[c] for c in word) if all(c in BYTE_OF for c in word) else word.encode()

    def _text(self, token: int) -> str:
        """The text of one token; a piece of a letter is shown by its bytes, as in \\xd8."""
        text = self.decode([token])
        return self.token_bytes(token).decode(errors="backslashreplace") if "\ufffd" in text else text

    def token(self, text: str) -> int:
        """The id of a text that is exactly one token."""
        ids = self.encode(text).tolist()
        if len(ids) != 1:
            raise CourseError(
                f"{text!r} is {len(ids)} tokens in this vocabulary, not one: {self.token_strings(ids)}"
            )
        return ids[0]

    def stream(self, split: str) -> Int[Tensor, "tokens"]:
        """The token ids of one `split`, "train" or "held_out"."""
        if split not in ("train", "held_out"):
            raise CourseError(f"There is no split {split!r}.{nearest(split, ['train', 'held_out'])}")
        return getattr(self, split)

    def windows(self, n_ctx: int, batch: int, *, seed: int = 0, split: str = "train") -> Sampler:
        """A sampler of random windows; windows(…)(step) is the same whenever and wherever it is asked.

        `n_ctx` is the length of a window, `batch` how many a step has, `split` where they come from, "train" or
        "held_out"; step and `seed` decide which ones.
        """
        stream = self.stream(split)
        if len(stream) < n_ctx:
            raise CourseError(
                f"{self.name} has {len(stream)} {split} tokens, fewer than one window of {n_ctx}."
            )

        def sample(step: int) -> Int[Tensor, "batch pos"]:
            start = torch.randint(len(stream) - n_ctx + 1, (batch, 1), generator=generator(seed, step))
            return stream[start + torch.arange(n_ctx)].long()

        return sample

    def held_out_windows(self, n: int, n_ctx: int, *, seed: int = 0) -> Int[Tensor, "n pos"]:
        """n fixed windows of held-out text, `n_ctx` tokens each, drawn by `seed`."""
        return self.windows(n_ctx, n, seed=seed, split="held_out")(0)


def generator(seed: int, step: int = 0) -> torch.Generator:
    """A generator that depends on (seed, step) alone, so that a resumed run draws what the first one would have."""
    digest = hashlib.sha256(f"{seed}/{step}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "little"))
