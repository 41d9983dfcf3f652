"""Toy languages whose truth is planted: repeats, bigram chains, skip-trigrams, ciphers and facts."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mi_course.corpora.corpus import Sampler, generator
from mi_course.errors import CourseError, nearest

# -- planted text --------------------------------------------------------------------------------


def random_repeats(
    d_vocab: int, n_ctx: int, batch: int, *, period: tuple[int, int], seed: int = 0, first: int = 0
) -> Sampler:
    """Uniform random tokens `first … d_vocab−1` that repeat with a period drawn anew for each row.

    With one fixed period a model learns to look a fixed distance back; a random one leaves only induction. Windows
    have `n_ctx` tokens, `batch` of them a step; `period` is its range, both ends included. Step and `seed` decide
    all.
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
    """`batch` rows of `period` uniform random tokens (never 0, the end of text), written `copies` times.

    Args:
        d_vocab: ids are below it.
        batch: rows.
        period: tokens before they repeat.
        copies: how often each row stands there.
        seed: of the draw.
        first: the lowest id drawn.
    """
    block = torch.randint(first, d_vocab, (batch, period), generator=generator(seed))
    return block.repeat(1, copies)


def mixed(sampler: Sampler, other: Sampler, share: float, *, seed: int = 0) -> Sampler:
    """Rows of `sampler`, each replaced with probability `share` by one of `other`; `seed` draws which."""

    def sample(step: int) -> Int[Tensor, "batch pos"]:
        rows = sampler(step)
        chosen = torch.rand(len(rows), 1, generator=generator(seed + 1, step)) < share
        return torch.where(chosen, other(step), rows)

    return sample


@dataclass(frozen=True)
class BigramChain:
    """A first-order Markov chain with known transition probabilities [token, next] and known entropy.

    `d_vocab` tokens; each row is drawn, by `seed`, from a Dirichlet distribution of this `concentration`: smaller is
    more predictable.
    """

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
        """Rows of `n_ctx` tokens, `batch` a step, that start from the stationary distribution; step and `seed` decide which."""
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
    """Noise with planted rules [source] … [destination] → [out]: if the source was seen in the same stretch, the
    destination is followed by `out`, and otherwise by noise. Each rule has tokens of its own; noise never uses them.
    Rows of several stretches may draw a rule again: then a source of an earlier stretch foretells nothing.

    There are `n_rules` of them in a vocabulary of `d_vocab`; `gap` is the range of the number of tokens between
    source and destination. `seed` draws the rules.
    """

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
        so the destination alone predicts nothing.

        Rows have `n_ctx` tokens, `batch` of them a step; step and `seed` decide which.
        """
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
    """Two languages of n = `n_words` words each: word a of the first is word a + n of the second (the cipher partner)."""

    n_words: int = 48

    def partner(self, tokens: Int[Tensor, "..."]) -> Int[Tensor, "..."]:
        """The same words in the other language, for `tokens` of any shape."""
        return (tokens + self.n_words) % (2 * self.n_words)

    def sampler(self, n_ctx: int, batch: int, *, period: tuple[int, int], seed: int = 0) -> Sampler:
        """Random words that repeat; each copy is written in a language drawn at random.

        Rows have `n_ctx` tokens, `batch` of them a step; `period` is the range of the repeats' length. Step and
        `seed` decide all.
        """
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

    Args:
        held_out: how many sentences are never trained on; each says a fact that the other template may say in
            training.
        seed: of the choice of these.
        relations: what is asked about a country.
        templates: the two ways to say it, with {relation} and {country}.
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
        `template` is 0 or 1, the way it is said.
        """
        countries, asked = list(self.table), self.relations
        across = dict(zip(countries, countries[12:] + countries[:12]))
        swaps = {
            "fact": [((c, r), (across[c], r)) for c in countries for r in asked],
            "relation": [((c, r), (c, s)) for c in countries for r in asked for s in asked if r != s],
        }
        if change not in swaps:
            raise CourseError(f"change={change!r} is 'fact' or 'relation'.{nearest(change, swaps)}")
        if template not in range(len(self.templates)):
            raise CourseError(
                f"template={template} is one of 0 … {len(self.templates) - 1}, the ways to say it."
            )
        rows = [[self.tokens(self.sentences[(template, *side)]) for side in swap] for swap in swaps[change]]
        clean, corrupted = (
            torch.stack([row for pair in rows for row in pair]).view(len(rows), 2, -1).unbind(1)
        )
        return Pairs(clean[:, :-1], corrupted[:, :-1], clean[:, -1], corrupted[:, -1])
