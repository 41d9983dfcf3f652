"""Real text with other scripts planted in it, where every token knows which script it belongs to.

The text is the standard library's; between its lines stand comments and assignments that hold a string of 20 to
120 characters in one of seven scripts. A feature of a model that reads this can be scored against an exact proxy,
which no natural text offers (Bricken et al. 2023 had to estimate theirs). Everything depends on the seed and on the
name of the file it is planted in.
"""

from __future__ import annotations

import base64
import hashlib
import random
import sysconfig
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import torch
from jaxtyping import Bool, Int
from tokenizers import Tokenizer
from torch import Tensor

from mi_course.corpora.corpus import Corpus
from mi_course.corpora.library import fingerprint, held_out_of, standard_library
from mi_course.corpora.vocabulary import shipped_tokenizer
from mi_course.errors import CourseError, nearest

ARABIC = "".join(map(chr, [*range(0x0627, 0x063B), *range(0x0641, 0x064B)]))
HEBREW = "".join(map(chr, range(0x05D0, 0x05EB)))
WORDS = (
    "index value name count item user total order page list date path unit code test word line size".split()
)


def pseudo_words(rng: random.Random, letters: str, length: int) -> str:
    """Words of 2 to 7 letters; the `letters` follow Zipf's law, in their order, as those of real languages nearly do.

    `rng` draws them; the text has at most `length` characters.
    """
    weights = [1 / rank for rank in range(1, len(letters) + 1)]
    words = []
    while sum(map(len, words)) + len(words) < length:
        words.append("".join(rng.choices(letters, weights, k=rng.randint(2, 7))))
    return " ".join(words)[:length].strip()


def tags(rng: random.Random, length: int) -> str:
    """Table rows: <tr> <td> word </td> … </tr>, a cycle of four kinds of tags.

    `rng` draws the words; the text has `length` characters or a row more.
    """
    text = ""
    while len(text) < length:
        cells = "".join(f"<td>{rng.choice(WORDS)}</td>" for _ in range(rng.randint(1, 3)))
        text += f"<tr>{cells}</tr>"
    return text


def caps_names(rng: random.Random, length: int) -> str:
    """Names such as MAX_ITEM_COUNT, side by side.

    `rng` draws the words; the text has `length` characters or a name more.
    """
    text = ""
    while len(text) < length:
        text += "_".join(rng.choice(WORDS).upper() for _ in range(rng.randint(2, 4))) + " "
    return text.strip()


def base64_of_letters(rng: random.Random, length: int) -> str:
    """Base64 of lower-case words that `rng` draws, `length` characters at most."""
    raw = pseudo_words(rng, "etaoinshrdlucmfwypvbgkjqxz", length)
    return base64.b64encode(raw.encode())[:length].decode()


def base64_of_digits(rng: random.Random, length: int) -> str:
    """Base64 of `length` digits that `rng` draws: the same alphabet, other letters of it (MTIzNDU…)."""
    raw = "".join(rng.choices("0123456789", k=length))
    return base64.b64encode(raw.encode())[:length].decode()


MAKERS: dict[str, Callable[[random.Random, int], str]] = {
    "arabic": lambda rng, n: pseudo_words(rng, ARABIC, n),
    "hebrew": lambda rng, n: pseudo_words(rng, HEBREW, n),
    "base64 of letters": base64_of_letters,
    "base64 of digits": base64_of_digits,
    "dna": lambda rng, n: "".join(rng.choices("ACGT", k=n)),
    "hex": lambda rng, n: "".join(rng.choices("0123456789abcdef", k=n)),
    "tags": tags,
    "caps": caps_names,
}
SCRIPTS = tuple(MAKERS)
# How many strings a line of text: about 1% of all tokens each, half of it for the two kinds of base64, hex and caps.
RATES = {
    "arabic": 1.0, "hebrew": 1.0, "base64 of letters": 0.5, "base64 of digits": 0.5, "dna": 1.5, "hex": 0.5,
    "tags": 1.5, "caps": 0.5,
}  # fmt: skip
PER_LINE = 0.0021


@dataclass(frozen=True, eq=False, repr=False)
class ScriptCorpus(Corpus):
    """A corpus that knows the script of each token: −1 for the library's own text, else an index of SCRIPTS.

    `train_script` and `held_out_script` hold it for the two streams; the other arguments are those of `Corpus`:
    `name`, `tokenizer`, `train`, `held_out`, `n_files`, `n_bytes`, `fingerprint`, `end`, `notes`.
    """

    train_script: Int[Tensor, "train"] | None = None
    held_out_script: Int[Tensor, "held"] | None = None

    def script(self, split: str) -> Int[Tensor, "tokens"]:
        """The script of every token of a `split`, "train" or "held_out"."""
        self.stream(split)  # an unknown split gets its sentence
        return self.train_script if split == "train" else self.held_out_script

    def proxy(self, split: str, *names: str) -> Bool[Tensor, "tokens"]:
        """Which tokens of a `split` are in one of the scripts `names`; "base64" stands for both kinds."""
        return in_scripts(self.script(split), *names)


def in_scripts(script: Int[Tensor, "*shape"], *names: str) -> Bool[Tensor, "*shape"]:
    """Which entries of `script` are one of the scripts `names`; "base64" stands for both kinds of it."""
    wanted = [name for name in SCRIPTS for asked in names if name == asked or name.startswith(f"{asked} of")]
    for asked in names:
        if not any(name == asked or name.startswith(f"{asked} of") for name in SCRIPTS):
            raise CourseError(f"There is no script {asked!r}.{nearest(asked, [*SCRIPTS, 'base64'])}")
    return torch.isin(script, torch.tensor([SCRIPTS.index(name) for name in wanted], dtype=script.dtype))


def plant(name: str, text: str, seed: int = 0) -> tuple[str, list[tuple[int, int, int]]]:
    """The text with strings planted between its lines, and (start, end, script) of each, in characters.

    `name` is that of the file; with `seed` it decides what is planted where.
    """
    rng = random.Random(int.from_bytes(hashlib.sha256(f"{seed}/{name}".encode()).digest()[:8], "big"))
    pieces, spans, at = [], [], 0
    for line in text.splitlines(keepends=True):
        for kind, script in enumerate(SCRIPTS):
            if rng.random() < PER_LINE * RATES[script]:
                string = MAKERS[script](rng, rng.randint(20, 120))
                indent = " " * (len(line) - len(line.lstrip(" ")))
                frame = (
                    (f"{indent}# ", "\n")
                    if rng.random() < 0.5
                    else (f'{indent}{rng.choice(WORDS)} = "', '"\n')
                )
                pieces.append(frame[0] + string + frame[1])
                spans.append((at + len(frame[0]), at + len(frame[0]) + len(string), kind))
                at += len(pieces[-1])
        pieces.append(line)
        at += len(line)
    return "".join(pieces), spans


def labelled(encoding, spans: list[tuple[int, int, int]]) -> Int[Tensor, "tokens"]:
    """The script of each token: that of the string it overlaps, −1 outside.

    `encoding` is what a tokenizer makes of one text; `spans` are (start, end, script) of the planted strings, in
    characters.
    """
    ends = torch.tensor([end for _, end in encoding.offsets])
    starts = torch.tensor([start for start, _ in encoding.offsets])
    script = torch.full((len(starts),), -1, dtype=torch.int8)
    if spans and len(starts):
        span_start, span_end, kind = (torch.tensor(column) for column in zip(*spans, strict=True))
        near = torch.searchsorted(span_end, starts, right=True).clamp_max(
            len(spans) - 1
        )  # first to end after it
        inside = (starts < span_end[near]) & (ends > span_start[near])
        script[inside] = kind[near][inside].to(torch.int8)
    return script


@lru_cache(maxsize=2)
def script_text(vocab: int = 1024, seed: int = 0, shared: bool = False) -> ScriptCorpus:
    """The standard library with its planted scripts, in the shipped vocabulary of `vocab` = 1024 tokens; `seed` plants.

    `shared` takes only the files that all of Python 3.10 to 3.13 have; see `standard_library`.
    """
    texts = {name: plant(name, text, seed) for name, text in standard_library(shared).items() if text.strip()}
    return labelled_corpus(texts, shipped_tokenizer(f"scripts-{vocab}"))


def labelled_corpus(texts: dict[str, tuple[str, list]], tokenizer: Tokenizer) -> ScriptCorpus:
    """Both token streams with the script of every token; files are separated by token 0.

    `texts` are name → (text, spans), as `plant` gives them, two at least; `tokenizer` cuts them into tokens.
    """
    streams, labels, sizes, counts, unread = [], [], [], [], held_out_of(texts)
    for held in (False, True):
        part = [pair for name, pair in texts.items() if (name in unread) == held]
        encodings = tokenizer.encode_batch([text for text, _ in part])
        ids = [torch.tensor([*e.ids, 0]) for e in encodings]
        end = torch.tensor([-1], dtype=torch.int8)
        kinds = [torch.cat([labelled(e, spans), end]) for e, (_, spans) in zip(encodings, part, strict=True)]
        streams.append(torch.cat(ids))
        labels.append(torch.cat(kinds))
        sizes.append(sum(len(text.encode("utf-8", "replace")) for text, _ in part))
        counts.append(len(part))
    name = f"Python {sysconfig.get_python_version()} library with planted scripts"
    mark = fingerprint({key: text for key, (text, _) in texts.items()})
    return ScriptCorpus(name, tokenizer, *streams, tuple(counts), tuple(sizes), mark, *labels)
