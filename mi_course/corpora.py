"""Text that is on every machine, and toy languages that carry their own truth.

`python_text()` reads the running interpreter's standard library: its sources and its documentation. Nothing
is copied into the course, and a hash of each file's name decides whether it is trained on or held out.
Your own text comes in through `from_folder` or `from_huggingface`.
Planted corpora (`SkipTrigrams`, `BigramChain`, `random_repeats`, …) know what a perfect reader would find.
"""

from __future__ import annotations

import hashlib
import sysconfig
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from torch import Tensor

from mi_course.claims import data_dir
from mi_course.errors import CourseError, nearest

Sampler = Callable[[int], Int[Tensor, "batch pos"]]  # step -> tokens, the same for the same (seed, step)

END_OF_TEXT = "<|end|>"  # token 0, between files
HELD_OUT = 0.07  # share of files
SKIP_FOLDERS = {
    "test",
    "tests",
    "idle_test",
    "encodings",
    "pydoc_data",
    "site-packages",
    "dist-packages",
    "lib2to3",
}
SKIP_FOLDERS |= {"__pycache__", "_bundled", "ensurepip", "lib-dynload", "__phello__"}
SKIP_FILES = {"html/entities.py", "keyword.py", "token.py", "LICENSE.txt", "this.py", "antigravity.py"}
RAISED = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")

# Byte-level vocabularies write each byte as one printable character: those that are printable as they are, the
# others, in order, as the characters from 256 on.
PRINTABLE = [*range(33, 127), *range(161, 173), *range(174, 256)]
BYTE_OF = {chr(byte): byte for byte in PRINTABLE}
BYTE_OF |= {chr(256 + i): byte for i, byte in enumerate(b for b in range(256) if b not in PRINTABLE)}


def visible(text: str) -> str:
    """A token as a word to look at: ⏎ for a new line, ⇥ for a tab, · for a blank at either end, ·⁷ for seven."""
    text = text.replace("\n", "⏎").replace("\t", "⇥")
    left, right = len(text) - len(text.lstrip(" ")), len(text) - len(text.rstrip(" "))
    dots = lambda n: "·" * n if n < 5 else "·" + str(n).translate(RAISED)
    return dots(left) + text.strip(" ") + dots(right if text.strip(" ") else 0)


@dataclass(frozen=True, eq=False)
class Corpus:
    """Text as two token streams, training and held-out files; files are separated by token 0."""

    name: str
    tokenizer: Tokenizer = field(repr=False)
    train: Int[Tensor, "train"]
    held_out: Int[Tensor, "held"]
    n_files: tuple[int, int]
    n_bytes: tuple[int, int]
    fingerprint: str  # sha256 over names and contents, 12 digits

    @property
    def d_vocab(self) -> int:
        return self.tokenizer.get_vocab_size()

    def __repr__(self) -> str:
        per_token = sum(self.n_bytes) / max(1, len(self.train) + len(self.held_out))
        return (
            f"{self.name}: {self.n_files[0]} files to train on ({self.n_bytes[0] / 1e6:.1f} MB, "
            f"{len(self.train):,} tokens), {self.n_files[1]} held out ({len(self.held_out):,} tokens), "
            f"{per_token:.2f} bytes per token, vocabulary {self.d_vocab}, fingerprint {self.fingerprint}"
        )

    def encode(self, text: str) -> Int[Tensor, "pos"]:
        """Token ids of a text."""
        return torch.tensor(self.tokenizer.encode(text).ids, dtype=torch.long)

    def decode(self, tokens: Int[Tensor, "pos"] | Iterable[int]) -> str:
        """The text of token ids."""
        return self.tokenizer.decode([int(t) for t in tokens], skip_special_tokens=False)

    def token_strings(self, tokens: Int[Tensor, "pos"] | Iterable[int]) -> list[str]:
        """One printable string a token: ⏎ for a new line, · for a space, ·⁷ for seven of them; see `visible`."""
        return [self.vocabulary[int(t)] for t in tokens]

    @cached_property
    def vocabulary(self) -> list[str]:
        """Every token as a printable string, in the order of the ids; different tokens look different."""
        return [visible(self._text(t)) for t in range(self.d_vocab)]

    def token_bytes(self, token: int) -> bytes:
        """The bytes of one token of a byte-level vocabulary: a token may be a piece of a letter."""
        return bytes(BYTE_OF[letter] for letter in self.tokenizer.id_to_token(token))

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
        if split not in ("train", "held_out"):
            raise CourseError(f"There is no split {split!r}.{nearest(split, ['train', 'held_out'])}")
        return getattr(self, split)

    def windows(self, n_ctx: int, batch: int, *, seed: int = 0, split: str = "train") -> Sampler:
        """A sampler of random windows; windows(…)(step) is the same whenever and wherever it is asked."""
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
        """n fixed windows of held-out text."""
        return self.windows(n_ctx, n, seed=seed, split="held_out")(0)


def generator(seed: int, step: int = 0) -> torch.Generator:
    """A generator that depends on (seed, step) alone, so that a resumed run draws what the first one would have."""
    digest = hashlib.sha256(f"{seed}/{step}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "little"))


# -- real text -----------------------------------------------------------------------------------


def standard_library() -> dict[str, str]:
    """Name → text of the running interpreter's library sources and documentation topics.

    Left out: tests, tables (encodings, HTML entities), generated modules and licence texts.
    """
    root = Path(sysconfig.get_path("stdlib"))
    texts = {}
    for path in sorted(root.rglob("*.py")):
        name = path.relative_to(root).as_posix()
        generated = path.name.startswith("_sysconfigdata")
        if generated or SKIP_FOLDERS & set(path.relative_to(root).parts[:-1]) or name in SKIP_FILES:
            continue
        texts[name] = path.read_text(encoding="utf-8", errors="replace")
    from pydoc_data.topics import topics

    return texts | {f"topics/{name}": text for name, text in sorted(topics.items())}


def files_below(folder: str | Path, suffixes: Iterable[str] | None = None) -> dict[str, str]:
    """Name → text of every readable text file below a folder; files with a NUL byte are binary and left out."""
    root = Path(folder)
    if not root.is_dir():
        raise CourseError(f"{root} is not a folder that can be read.")
    texts = {}
    for path in sorted(p for p in root.rglob("*") if p.is_file()):
        if suffixes is not None and path.suffix not in set(suffixes):
            continue
        try:
            blob = path.read_bytes()
        except OSError as error:
            raise CourseError(f"{path} could not be read ({error.strerror}).") from error
        if b"\0" not in blob:
            texts[path.relative_to(root).as_posix()] = blob.decode("utf-8", errors="replace")
    return texts


def is_held_out(name: str) -> bool:
    """Decided by the file's name alone, so the split is the same in every Python version."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big") < HELD_OUT * 2**32


def train_tokenizer(texts: Iterable[str], vocab: int, keep: str = "") -> Tokenizer:
    """Byte-pair encoding of printable ASCII, newline and what is in `keep`; a tab becomes four spaces, the rest `?`.

    No initial byte alphabet is added: every token of the vocabulary was seen, so none has an untrained embedding.
    """
    tokenizer = Tokenizer(models.BPE())
    foreign = Regex(rf"[^\x20-\x7E\n{keep}]")
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


def from_texts(name: str, texts: dict[str, str], tokenizer: Tokenizer | int) -> Corpus:
    """A corpus of name → text; the tokenizer is given, or trained here with so many tokens."""
    texts = {key: text for key, text in texts.items() if text.strip()}
    if not texts:
        raise CourseError(f"{name} holds no text.")
    held = {key for key in texts if is_held_out(key)} or {max(texts)}
    if len(texts) == 1:
        texts = halves(texts)
        held = {max(texts)}
    parts = [[texts[k] for k in texts if k not in held], [texts[k] for k in texts if k in held]]
    if isinstance(tokenizer, int):
        tokenizer = train_tokenizer(parts[0], tokenizer)
    streams = [joined(tokenizer, part) for part in parts]
    sizes = tuple(sum(len(text.encode("utf-8", "replace")) for text in part) for part in parts)
    return Corpus(name, tokenizer, *streams, (len(parts[0]), len(parts[1])), sizes, fingerprint(texts))


def fingerprint(texts: dict[str, str]) -> str:
    """Twelve digits that change with any name or character."""
    written = "".join(f"{k}\0{texts[k]}\0" for k in sorted(texts)).encode("utf-8", "replace")
    return hashlib.sha256(written).hexdigest()[:12]


def halves(texts: dict[str, str]) -> dict[str, str]:
    """One file alone is cut at a line end into nine tenths to train on and a tenth held out."""
    ((name, text),) = texts.items()
    lines = text.splitlines(keepends=True)
    cut = len(lines) * 9 // 10
    if cut == 0:
        raise CourseError(f"{name} is the only file and has one line: nothing would be left to hold out.")
    return {f"{name}#1": "".join(lines[:cut]), f"{name}#2": "".join(lines[cut:])}


def joined(tokenizer: Tokenizer, texts: list[str]) -> Int[Tensor, "tokens"]:
    """Token ids of the texts, one after the other, token 0 behind each."""
    stream = [
        torch.tensor([*encoding.ids, 0], dtype=torch.int32) for encoding in tokenizer.encode_batch(texts)
    ]
    return torch.cat(stream).long()


@lru_cache(maxsize=2)
def python_text(vocab: int = 512) -> Corpus:
    """The standard library of the interpreter that runs this, in the shipped vocabulary of 512, 1024 or 2048."""
    name = f"Python {sysconfig.get_python_version()} library"
    return from_texts(name, standard_library(), shipped_tokenizer(f"python-{vocab}"))


def from_folder(
    folder: str | Path,
    *,
    vocab: int = 512,
    suffixes: Iterable[str] | None = None,
    tokenizer: Tokenizer | None = None,
) -> Corpus:
    """Your own text: every text file below a folder, with a tokenizer of its own unless one is given."""
    return from_texts(Path(folder).name, files_below(folder, suffixes), tokenizer or vocab)


def from_huggingface(
    name: str, *, column: str = "text", split: str = "train", rows: int = 10_000, vocab: int = 512
) -> Corpus:
    """The first rows of a Hugging Face data set (needs the `datasets` package and, the first time, a network)."""
    try:
        import datasets
    except ImportError as error:
        raise CourseError("Hugging Face data sets need `pip install datasets`.") from error
    try:
        data = datasets.load_dataset(name, split=split, streaming=True)
        texts = {f"{i:08}": row[column] for i, row in zip(range(rows), data, strict=False)}
    except Exception as error:  # whatever the hub's client raises, a learner needs one sentence
        raise CourseError(
            f"The data set {name!r} could not be read ({type(error).__name__}: {error}). "
            "Without a network, save it as text files and use from_folder."
        ) from error
    return from_texts(name, texts, vocab)


# -- planted text --------------------------------------------------------------------------------


def random_repeats(
    d_vocab: int, n_ctx: int, batch: int, *, period: tuple[int, int], seed: int = 0, first: int = 0
) -> Sampler:
    """Uniform random tokens `first … d_vocab−1` that repeat with a period drawn anew for each row.

    With one fixed period a model learns to look a fixed distance back; a random one leaves only induction.
    """
    low, high = period
    if not 1 <= low <= high:
        raise CourseError(f"period=({low}, {high}) must be a range 1 ≤ low ≤ high.")

    def sample(step: int) -> Int[Tensor, "batch pos"]:
        draw = generator(seed, step)
        tokens = torch.randint(first, d_vocab, (batch, high), generator=draw)
        periods = torch.randint(low, high + 1, (batch, 1), generator=draw)
        return tokens.gather(1, torch.arange(n_ctx)[None] % periods)

    return sample


def repeated_tokens(
    d_vocab: int, batch: int, period: int, copies: int = 2, *, seed: int = 0, first: int = 1
) -> Int[Tensor, "batch pos"]:
    """`batch` rows of `period` uniform random tokens (never 0, the end of text), written `copies` times."""
    block = torch.randint(first, d_vocab, (batch, period), generator=generator(seed))
    return block.repeat(1, copies)


def mixed(sampler: Sampler, other: Sampler, share: float, *, seed: int = 0) -> Sampler:
    """Rows of `sampler`, each replaced with probability `share` by one of `other`."""

    def sample(step: int) -> Int[Tensor, "batch pos"]:
        rows = sampler(step)
        chosen = torch.rand(len(rows), 1, generator=generator(seed + 1, step)) < share
        return torch.where(chosen, other(step), rows)

    return sample


@dataclass(frozen=True)
class BigramChain:
    """A first-order Markov chain with known transition probabilities [token, next] and known entropy."""

    d_vocab: int = 64
    concentration: float = 0.1  # of the Dirichlet each row is drawn from: smaller is more predictable
    seed: int = 0

    def __post_init__(self):
        if self.d_vocab < 2 or self.concentration <= 0:
            raise CourseError("A bigram chain needs d_vocab ≥ 2 and concentration > 0.")

    @cached_property
    def transition(self) -> Float[Tensor, "token next"]:
        """p(next | token); rows sum to 1."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            gamma = torch._standard_gamma(torch.full((self.d_vocab, self.d_vocab), self.concentration))
        gamma = gamma + 1e-6
        return gamma / gamma.sum(-1, keepdim=True)

    @cached_property
    def stationary(self) -> Float[Tensor, "token"]:
        """The share of time the chain spends on each token."""
        return torch.linalg.matrix_power(self.transition.double(), 4096)[0].float()

    @property
    def entropy(self) -> float:
        """Nats per token a perfect reader still pays: Σ π_a H(p(· | a))."""
        row = -(self.transition * self.transition.log()).sum(-1)
        return float((self.stationary * row).sum())

    def sampler(self, n_ctx: int, batch: int, *, seed: int = 0) -> Sampler:
        """Rows that start from the stationary distribution."""
        cumulative = self.transition.cumsum(-1)

        def sample(step: int) -> Int[Tensor, "batch pos"]:
            draw = generator(seed, step)
            tokens = torch.multinomial(self.stationary, batch, replacement=True, generator=draw)[:, None]
            for u in torch.rand(n_ctx - 1, batch, 1, generator=draw):
                new = torch.searchsorted(cumulative[tokens[:, -1]], u).clamp_max(self.d_vocab - 1)
                tokens = torch.cat([tokens, new], dim=1)
            return tokens

        return sample


@dataclass(frozen=True)
class SkipTrigrams:
    """Noise with planted rules [source] … [destination] → [out]: if the source was seen, the destination is
    followed by `out`, and otherwise by noise. Each rule has tokens of its own; noise never uses them."""

    n_rules: int = 20
    d_vocab: int = 96
    gap: tuple[int, int] = (1, 12)  # tokens between source and destination
    seed: int = 0

    def __post_init__(self):
        if self.n_rules < 1 or 3 * self.n_rules + 2 > self.d_vocab:
            raise CourseError(
                f"{self.n_rules} rules need {3 * self.n_rules} tokens and noise: enlarge d_vocab."
            )

    @cached_property
    def rules(self) -> list[tuple[int, int, int]]:
        """(source, destination, out), a token each."""
        order = torch.randperm(self.d_vocab, generator=generator(self.seed))[: 3 * self.n_rules]
        return [tuple(row) for row in order.view(-1, 3).tolist()]

    @cached_property
    def noise(self) -> Int[Tensor, "noise"]:
        """Tokens that belong to no rule."""
        used = {token for rule in self.rules for token in rule}
        return torch.tensor([t for t in range(self.d_vocab) if t not in used])

    def sampler(self, n_ctx: int, batch: int, *, seed: int = 0, decoys: float = 0.5) -> Sampler:
        """Rows of noise with one rule placed per stretch; in a share `decoys` of them the source is missing,
        so the destination alone predicts nothing."""
        stretch = self.gap[1] + 4
        if n_ctx < stretch:
            raise CourseError(f"One rule needs {stretch} positions; n_ctx is {n_ctx}.")
        rules = torch.tensor(self.rules)

        def sample(step: int) -> Int[Tensor, "batch pos"]:
            draw = generator(seed, step)
            tokens = self.noise[torch.randint(len(self.noise), (batch, n_ctx), generator=draw)]
            row = torch.arange(batch)
            for start in range(0, n_ctx - stretch + 1, stretch):
                source, dest, out = rules[torch.randint(len(rules), (batch,), generator=draw)].T
                gap = torch.randint(self.gap[0], self.gap[1] + 1, (batch,), generator=draw)
                real = torch.rand(batch, generator=draw) >= decoys
                tokens[row, start] = torch.where(real, source, tokens[row, start])
                tokens[row, start + gap + 1] = dest
                tokens[row, start + gap + 2] = torch.where(real, out, tokens[row, start + gap + 2])
            return tokens

        return sample


@dataclass(frozen=True)
class Cipher:
    """Two languages of n words each: word a of the first is word a + n of the second (the cipher partner)."""

    n_words: int = 48

    def partner(self, tokens: Int[Tensor, "..."]) -> Int[Tensor, "..."]:
        """The same word in the other language."""
        return (tokens + self.n_words) % (2 * self.n_words)

    def sampler(self, n_ctx: int, batch: int, *, period: tuple[int, int], seed: int = 0) -> Sampler:
        """Random words that repeat; each copy is written in a language drawn at random."""
        low, high = period

        def sample(step: int) -> Int[Tensor, "batch pos"]:
            draw = generator(seed, step)
            words = torch.randint(0, self.n_words, (batch, high), generator=draw)
            periods = torch.randint(low, high + 1, (batch, 1), generator=draw)
            pos = torch.arange(n_ctx)[None]
            language = torch.randint(0, 2, (batch, n_ctx), generator=draw).gather(1, pos // periods)
            return words.gather(1, pos % periods) + self.n_words * language

        return sample


COUNTRIES = """
Japan Tokyo Japanese yen · Russia Moscow Russian rouble · Poland Warsaw Polish zloty · Hungary Budapest Hungarian forint
Turkey Ankara Turkish lira · China Beijing Mandarin yuan · India Delhi Hindi rupee · Indonesia Jakarta Indonesian rupiah
Thailand Bangkok Thai baht · Vietnam Hanoi Vietnamese dong · Sweden Stockholm Swedish krona · Czechia Prague Czech koruna
Denmark Copenhagen Danish krone · Iran Tehran Persian rial · Ukraine Kyiv Ukrainian hryvnia · Georgia Tbilisi Georgian lari
Armenia Yerevan Armenian dram · Romania Bucharest Romanian leu · Albania Tirana Albanian lek · Mongolia Ulaanbaatar Mongolian tugrik
Brazil Brasília Portuguese real · Britain London English pound · Cambodia Phnom-Penh Khmer riel · Bangladesh Dhaka Bengali taka
"""


class Pairs(NamedTuple):
    """Prompts to patch between: the right answer is the clean prompt's, the wrong one the corrupted prompt's."""

    clean: Int[Tensor, "pair pos"]
    corrupted: Int[Tensor, "pair pos"]
    right: Int[Tensor, "pair"]
    wrong: Int[Tensor, "pair"]


@dataclass(frozen=True)
class Facts:
    """What 24 countries have as capital, language and currency: 72 facts, each said in two ways with seven words.

    A sentence is six words of prompt and the answer, so that the two ways, and all prompts, have the same length.
    """

    held_out: int = (
        24  # sentences never trained on; each says a fact that the other template may say in training
    )
    seed: int = 0  # of the choice of these
    relations: tuple[str, ...] = ("capital", "language", "currency")
    templates: tuple[str, ...] = ("| the {relation} of {country} is", "| in {country} the {relation} is")

    def __post_init__(self):
        if not 0 <= self.held_out <= len(self.sentences) // 2:
            raise CourseError(
                f"{self.held_out} facts cannot be held out: there are {len(self.sentences) // 2}."
            )

    @property
    def table(self) -> dict[str, dict[str, str]]:
        """Country → relation → answer."""
        rows = [entry.split() for entry in COUNTRIES.strip().replace("\n", " · ").split(" · ")]
        return {country: dict(zip(self.relations, answers)) for country, *answers in rows}

    @cached_property
    def words(self) -> list[str]:
        """The vocabulary; a token is an index into it."""
        return sorted({word for text in self.sentences.values() for word in text.split()})

    @cached_property
    def sentences(self) -> dict[tuple[int, str, str], str]:
        """(template, country, relation) → the sentence with its answer."""
        return {
            (number, country, relation): f"{template.format(relation=relation, country=country)} {answer}"
            for number, template in enumerate(self.templates)
            for country, answers in self.table.items()
            for relation, answer in answers.items()
        }

    def tokens(self, text: str) -> Int[Tensor, "pos"]:
        """The words of a text, parted by spaces, as tokens."""
        if unknown := [word for word in text.split() if word not in self.words]:
            raise CourseError(f"{unknown[0]!r} is not in the vocabulary.{nearest(unknown[0], self.words)}")
        return torch.tensor([self.words.index(word) for word in text.split()])

    @cached_property
    def halves(self) -> tuple[Int[Tensor, "train pos"], Int[Tensor, "held_out pos"]]:
        """Sentences to train on, and one of the two sentences of each held-out fact, drawn at random."""
        rows = torch.stack([self.tokens(text) for text in self.sentences.values()])
        n, draw = len(rows) // 2, generator(self.seed)  # the first n sentences are in the first template
        facts = torch.randperm(n, generator=draw)[: self.held_out]
        held = torch.zeros(2 * n, dtype=torch.bool)
        held[facts + n * torch.randint(2, (len(facts),), generator=draw)] = True
        return rows[~held], rows[held]

    def pairs(self, change: str, template: int = 0) -> Pairs:
        """Prompts that differ in one word; every pair stands there both ways round.

        change "fact": another country, the same relation. change "relation": the same country, another relation.
        """
        countries, asked = list(self.table), self.relations
        across = dict(zip(countries, countries[12:] + countries[:12]))
        swaps = {
            "fact": [((c, r), (across[c], r)) for c in countries for r in asked],
            "relation": [((c, r), (c, s)) for c in countries for r in asked for s in asked if r != s],
        }
        if change not in swaps:
            raise CourseError(f"change={change!r} is 'fact' or 'relation'.{nearest(change, swaps)}")
        rows = [[self.tokens(self.sentences[(template, *side)]) for side in swap] for swap in swaps[change]]
        clean, corrupted = (
            torch.stack([row for pair in rows for row in pair]).view(len(rows), 2, -1).unbind(1)
        )
        return Pairs(clean[:, :-1], corrupted[:, :-1], clean[:, -1], corrupted[:, -1])
