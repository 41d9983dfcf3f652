"""A small language with two ciphers, topics, and calls that are written safely or not.

A document has a topic and is careful or careless. Blocks of four tokens: two words, a call, and how it is written. Words come
from the topic, mostly, and are spelt in one of two ciphers without a common token; a careless document writes most calls
unsafely, a careful one few. Six kinds of call have tokens of their own for "safe" and "unsafe". Derived in notebook 07.

>>> from mi_course import scaling
>>> language = scaling.Ciphers()
>>> text = language.documents(3)
>>> list(text.tokens.shape), int(text.tokens.max()) < language.d_vocab
([3, 64], True)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mi_course.corpora.corpus import Sampler, generator

BLOCK = 4  # tokens: word, word, call, manner
CALL, MANNER = 2, 3  # where in a block


class Documents(NamedTuple):
    """Tokens, and what they were drawn from.

    Args:
        tokens: of each document.
        topic: its number.
        careless: whether most of its calls are unsafe.
    """

    tokens: Int[Tensor, "document pos"]
    topic: Int[Tensor, "document"]
    careless: Bool[Tensor, "document"]


@dataclass(frozen=True)
class Ciphers:
    """The language.

    Args:
        topics: how many.
        words: of each topic.
        kinds: of calls.
        blocks: of a document, of four tokens each.
        on_topic: share of words that come from the document's topic.
        switch: probability that the cipher changes after a block.
        careless_rate: share of unsafe calls in a careless document; a careful one has the rest to 1.
    """

    topics: int = 32
    words: int = 4
    kinds: int = 6
    blocks: int = 16
    on_topic: float = 0.75
    switch: float = 0.15
    careless_rate: float = 0.9

    @property
    def n_words(self) -> int:
        """Words of one cipher."""
        return self.topics * self.words

    @property
    def d_vocab(self) -> int:
        """Words in two ciphers, and for each kind of call its name, "safe" and "unsafe"."""
        return 2 * self.n_words + 3 * self.kinds

    def calls(self) -> Int[Tensor, "kind"]:
        """The tokens of the calls' names."""
        return 2 * self.n_words + torch.arange(self.kinds)

    def manners(self, unsafe: bool) -> Int[Tensor, "kind"]:
        """The tokens that say "safe", or `unsafe`, one for each kind."""
        return self.calls() + self.kinds * (2 if unsafe else 1)

    def cipher_of(self, tokens: Int[Tensor, "*any"]) -> Int[Tensor, "*any"]:
        """0 and 1 for words of the first and the second cipher, −1 for `tokens` that are no words."""
        return torch.where(tokens < 2 * self.n_words, tokens // self.n_words, -1)

    def documents(self, n: int, seed: int = 0) -> Documents:
        """`n` documents drawn by `seed`, with their truth."""
        rng, shape = generator(seed, 13), (n, self.blocks)
        topic = torch.randint(self.topics, (n,), generator=rng)
        careless = torch.rand(n, generator=rng) < 0.5
        other = torch.randint(self.topics, (*shape, 2), generator=rng)
        own = torch.rand(*shape, 2, generator=rng) < self.on_topic
        word = torch.where(own, topic[:, None, None], other) * self.words
        word = word + torch.randint(self.words, word.shape, generator=rng)
        change = (torch.rand(shape, generator=rng) < self.switch).long()
        change[:, 0] = torch.randint(2, (n,), generator=rng)
        word = word + self.n_words * (change.cumsum(1) % 2)[..., None]
        kind = torch.randint(self.kinds, shape, generator=rng)
        rate = torch.where(careless, self.careless_rate, 1 - self.careless_rate)
        unsafe = torch.rand(shape, generator=rng) < rate[:, None]
        call = self.calls()[kind]
        manner = call + self.kinds * (1 + unsafe.long())
        blocks = torch.cat([word, call[..., None], manner[..., None]], 2)
        return Documents(blocks.flatten(1), topic, careless)

    def sampler(self, batch: int, seed: int = 0) -> Sampler:
        """Batches for `training.fit`: step → tokens of `batch` documents, drawn by `seed`."""
        return lambda step: self.documents(batch, seed=1_000_000 * (seed + 1) + step).tokens

    def unsafe_rate(
        self, logits: Float[Tensor, "document pos d_vocab"], tokens: Int[Tensor, "document pos"],
        kinds: tuple[int, ...], first_block: int = 6,
    ) -> Float[Tensor, "place"]:  # fmt: skip
        """At each call: what the model gives to its "unsafe", as a share of "unsafe" and "safe" together.

        Args:
            logits: of the model.
            tokens: what it read.
            kinds: which calls count.
            first_block: earlier blocks say too little of the document.
        """
        at = slice(BLOCK * first_block + CALL, None, BLOCK)
        kind = tokens[:, at] - self.calls()[0]
        said = logits[:, at].log_softmax(-1)
        pick = lambda unsafe: said.gather(-1, self.manners(unsafe)[kind][..., None])[..., 0]  # noqa: E731
        counts = torch.isin(kind, torch.tensor(kinds))
        return (pick(True) - pick(False)).sigmoid()[counts]
