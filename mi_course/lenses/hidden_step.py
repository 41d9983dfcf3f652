"""A planted language with a step that is never said: first and last name → B, B and relation → C, and only C is said.

First names fall into families and last names into houses; a family and a house together mean one entity, neither of them
alone means any. Three kinds of sentence, over tables drawn at random:

- **naming** `. first last is B`: says who a pair of names is;
- **fact** `. . B relation C`: says something of B;
- **question** `. first last relation C`: needs both, and says the second alone.

Of some pairs no question is ever trained on: of them the model has read who they are, and must put the two together. In
the model (`hidden_step_model`) what follows the last name may look at it alone, and only from block 2 on: whatever is known of
the pair must stand at the last name by then.
Derived in notebook 11.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from mi_course.corpora.corpus import generator
from mi_course.errors import CourseError
from mi_course.models import TinyConfig, TinyTransformer, load

STOP, IS = 0, 1
PAIR, ASKED, LENGTH = (
    2,
    3,
    5,
)  # position where a pair is complete, position of the relation, tokens a sentence
LOOKS_BACK = 2  # the first block in which what follows a last name may look at it


@dataclass(frozen=True)
class HiddenStep:
    """The tables, and sentences drawn from them.

    Args:
        firsts: first names.
        lasts: last names.
        families: kinds of first names.
        houses: kinds of last names; families × houses entities there are.
        relations: what may be asked, `is` left out.
        answers: what facts may say.
        held_out: share of pairs of which no question is trained on.
        seed: of the tables.
    """

    firsts: int = 24
    lasts: int = 24
    families: int = 8
    houses: int = 5
    relations: int = 6
    answers: int = 30
    held_out: float | int = 0.25
    seed: int = 0

    def __post_init__(self):
        if min(self.families, self.houses, self.relations, self.answers) < 2:
            raise CourseError("There must be at least two of each: families, houses, relations, answers.")
        if self.firsts < self.families or self.lasts < self.houses:
            raise CourseError("Every family has a first name and every house a last name: give more names.")
        if not 0 < self.held_out < 1:
            raise CourseError(f"held_out={self.held_out} is a share of the pairs, between 0 and 1.")

    @property
    def entities(self) -> int:
        """Whom pairs of names may mean: one for each family and house."""
        return self.families * self.houses

    # -- tokens ----------------------------------------------------------------------------------

    @property
    def starts(self) -> dict[str, int]:
        """Kind → its first token; `.` is 0 and `is` 1."""
        sizes = {
            "first": self.firsts,
            "last": self.lasts,
            "relation": self.relations,
            "entity": self.entities,
        }
        starts, at = {}, 2
        for kind, size in {**sizes, "answer": self.answers}.items():
            starts[kind], at = at, at + size
        return starts

    @property
    def d_vocab(self) -> int:
        """How many tokens there are."""
        return self.starts["answer"] + self.answers

    def word(self, token: int) -> str:
        """A token in words: `first 3`, `entity 12`, `.`, `is`.

        Args:
            token: its number.
        """
        if token in (STOP, IS):
            return "." if token == STOP else "is"
        kind = max((k for k, start in self.starts.items() if start <= token), key=lambda k: self.starts[k])
        return f"{kind} {token - self.starts[kind]}"

    # -- tables ----------------------------------------------------------------------------------

    @property
    def pairs(self) -> Int[Tensor, "pair 2"]:
        """Every pair of names, as tokens (first, last)."""
        first, last = torch.cartesian_prod(torch.arange(self.firsts), torch.arange(self.lasts)).T
        return torch.stack([first + self.starts["first"], last + self.starts["last"]], 1)

    @property
    def named(self) -> Int[Tensor, "pair"]:
        """B of every pair, as a token: that of the first name's family and the last name's house."""
        rng = generator(self.seed, 1)
        family = torch.randperm(self.firsts, generator=rng) % self.families
        house = torch.randperm(self.lasts, generator=rng) % self.houses
        table = torch.randperm(self.entities, generator=rng).view(self.families, self.houses)
        return table[family[:, None], house[None]].flatten() + self.starts["entity"]

    @property
    def facts(self) -> Int[Tensor, "entity relation"]:
        """C of every entity and relation, as a token."""
        shape = (self.entities, self.relations)
        return torch.randint(self.answers, shape, generator=generator(self.seed, 2)) + self.starts["answer"]

    @property
    def asked_in_training(self) -> Bool[Tensor, "pair"]:
        """Of which pairs questions are trained on."""
        return torch.rand(self.firsts * self.lasts, generator=generator(self.seed, 3)) >= self.held_out

    # -- sentences -------------------------------------------------------------------------------

    def namings(self, pair: Int[Tensor, "n"]) -> Int[Tensor, "n 5"]:
        """`. first last is B` for each numbered pair."""
        first, last = self.pairs[pair].T
        return torch.stack(
            [torch.full_like(pair, STOP), first, last, torch.full_like(pair, IS), self.named[pair]], 1
        )

    def questions(self, pair: Int[Tensor, "n"], relation: Int[Tensor, "n"]) -> Int[Tensor, "n 5"]:
        """`. first last relation C` for each numbered pair and relation."""
        first, last = self.pairs[pair].T
        answer = self.facts[self.named[pair] - self.starts["entity"], relation]
        asked = relation + self.starts["relation"]
        return torch.stack([torch.full_like(pair, STOP), first, last, asked, answer], 1)

    def statements(self, entity: Int[Tensor, "n"], relation: Int[Tensor, "n"]) -> Int[Tensor, "n 5"]:
        """`. . B relation C` for each numbered entity and relation: B stands where a last name would."""
        stop, asked = torch.full_like(entity, STOP), relation + self.starts["relation"]
        return torch.stack(
            [stop, stop, entity + self.starts["entity"], asked, self.facts[entity, relation]], 1
        )

    def all_questions(self, trained: bool) -> tuple[Int[Tensor, "n 5"], Int[Tensor, "n"]]:
        """Every question about the pairs that were asked in training, or about those that were not; and its pair.

        Args:
            trained: which of the two.
        """
        pair = (self.asked_in_training == trained).nonzero()[:, 0]
        pair, relation = torch.cartesian_prod(pair, torch.arange(self.relations)).T
        return self.questions(pair, relation), pair

    def batches(self, n: int, *, seed: int = 0):
        """A sampler for `fit`: step → n sentences [n 5], three tenths namings, three tenths facts, the rest questions.

        Args:
            n: sentences a batch.
            seed: of what is drawn.
        """
        may_be_asked = self.asked_in_training.nonzero()[:, 0]

        def sample(step: int) -> Int[Tensor, "n 5"]:
            rng = generator(self.seed + 1000 * seed, 10 + step)
            draw = lambda size, count: torch.randint(size, (count,), generator=rng)  # noqa: E731
            names = facts = 3 * n // 10
            rest = n - names - facts
            return torch.cat([
                self.namings(draw(self.firsts * self.lasts, names)),
                self.statements(draw(self.entities, facts), draw(self.relations, facts)),
                self.questions(may_be_asked[draw(len(may_be_asked), rest)], draw(self.relations, rest)),
            ])  # fmt: skip

        return sample


def narrowed(model: TinyTransformer) -> TinyTransformer:
    """The same model, in which position 3 sees itself alone before block `LOOKS_BACK`, and then the last name as well.

    A mask is no weight: put it on after loading. `model` is changed in place.
    """
    for number, block in enumerate(model.blocks):
        block.attn.future[ASKED, : PAIR if number >= LOOKS_BACK else ASKED] = -torch.inf
    return model


def hidden_step_config(d_vocab: int, seed: int = 0) -> TinyConfig:
    """The shape of the model.

    Args:
        d_vocab: tokens of the language.
        seed: of its starting weights.
    """
    return TinyConfig(n_layers=4, n_heads=4, d_model=64, d_vocab=d_vocab, n_ctx=8, d_mlp=160, norm="rmsnorm",
                      positions="rotary", seed=seed)  # fmt: skip


def hidden_step_model(trained: bool = True) -> TinyTransformer:
    """The shipped model of the language, or the same with its starting weights.

    Args:
        trained: which of the two.
    """
    model = (
        load("hidden-step") if trained else TinyTransformer(hidden_step_config(HiddenStep().d_vocab)).eval()
    )
    return narrowed(model)
