"""Indirect object identification: sentences with two names, one of which is said twice.

"When Mary and John went to the store, John gave a drink to" is followed by Mary, the indirect object (IO), and not by
the subject (S). Every template has {A}, {B} and {S} once each, and may have {M}, a name in a sentence between. Where S
is the second name of the first clause the order is ABBA, else BABA. Wang et al. (2022, §2); derived in notebook 08.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Int
from torch import Tensor

from mi_course.corpora.corpus import generator
from mi_course.errors import CourseError

ROLES = ("IO", "S1", "S1+1", "S2", "END")
SLOTS = ("A", "B", "S")
MIDDLE = ("third", "io", "s")
ROWS = ("tokens", "io", "s", "template", "s_first", "speaker")  # of `Prompts`: an entry each


class Task:
    """Templates, names that are one token each, and how text becomes tokens.

    All templates must come out in one length, as patching puts position on position.

    Args:
        templates: sentences with {A}, {B}, {S} and perhaps {M}, ending where the answer is due.
        names: at least four, to have strangers.
        encode: text → token ids.
        n_ctx: longest prompt that the model reads.
    """

    def __init__(
        self,
        templates: Sequence[str],
        names: Sequence[str],
        encode: Callable[[str], Sequence[int]],
        n_ctx: int | None = None,
    ):
        self.templates, self.names, self.n_ctx = list(templates), list(names), n_ctx
        self.encode = lambda text: [int(t) for t in encode(text)]
        check_templates(self.templates)
        if len(set(self.names)) < 4:
            raise CourseError("A task needs four different names: two to tell apart, and two strangers.")
        self.ids = self._one_token_each()
        lengths = {t: len(self._tokens(t, dict.fromkeys("ABSM", 0))) for t in range(len(self.templates))}
        self._check_lengths(lengths)

    def _one_token_each(self) -> Int[Tensor, "name"]:
        found = {name: self.encode(f" {name}") for name in self.names}
        if split := [f"{name} ({len(tokens)})" for name, tokens in found.items() if len(tokens) != 1]:
            raise CourseError(
                f"Names must be one token each, with a blank before them: {', '.join(split)} {'is' if len(split) == 1 else 'are'} not."
            )
        ids = torch.tensor([tokens[0] for tokens in found.values()])
        if len(ids.unique()) < len(ids):
            raise CourseError("Two names are the same token: leave one out.")
        return ids

    def _check_lengths(self, lengths: dict[int, int]) -> None:
        if len(set(lengths.values())) > 1:
            told = ", ".join(f"{length} ({self.templates[t][:24]!r}…)" for t, length in lengths.items())
            raise CourseError(f"Templates must have one length in tokens; these have {told}.")
        if self.n_ctx is not None and lengths[0] > self.n_ctx:
            raise CourseError(f"A prompt of {lengths[0]} tokens does not fit: the model reads {self.n_ctx}.")

    def text(self, template: int, slots: dict[str, int]) -> str:
        """A prompt in words, of the `template` with this number; `slots` has the number of the name in each slot."""
        return self.templates[template].format(**{slot: self.names[i] for slot, i in slots.items()})

    def _tokens(self, template: int, slots: dict[str, int]) -> list[int]:
        return self.encode(self.text(template, slots))

    def prompts(
        self, n: int, *, seed: int = 0, names: Sequence[int] | None = None, middle: str = "third"
    ) -> Prompts:
        """n prompts: every template as often as every other, both orders in turn, names drawn anew for each.

        Args:
            n: how many.
            seed: of the draw.
            names: numbers of the names to draw from (default: all).
            middle: who stands at {M}: a `third` name, `io` or `s`.
        """
        pool = torch.arange(len(self.names)) if names is None else torch.as_tensor(names)
        if n < 1 or len(pool) < 3:
            raise CourseError("prompts() needs n ≥ 1 and three names to draw from.")
        rank = torch.arange(n)
        template, s_first = rank % len(self.templates), rank // len(self.templates) % 2 == 1
        drawn = pool[torch.rand(n, len(pool), generator=generator(seed)).argsort(-1)[:, :3]]
        return self.written(template, s_first, *drawn.T, middle=middle)

    def written(self, template: Tensor, s_first: Tensor, io: Tensor, s: Tensor, third: Tensor, *,
                middle: str = "third", speaker: Tensor | None = None) -> Prompts:  # fmt: skip
        """Prompts with these names, each argument one value a prompt.

        Args:
            template: its number.
            s_first: whether S is the first name (BABA), else IO (ABBA).
            io: number of the indirect object's name.
            s: number of the subject's name.
            third: number of a third name.
            middle: who stands at {M}: `third`, `io` or `s`.
            speaker: number of the name that stands in the place of S2 instead of S.
        """
        if middle not in MIDDLE:
            raise CourseError(f"middle={middle!r}: choose from {', '.join(MIDDLE)}.")
        if bool((io == s).any()):
            raise CourseError("IO and S are the same name in a prompt: there is no second name.")
        speaker = s if speaker is None else speaker
        drawn, rows, places = torch.stack([io, s, third]), [], []
        for t, slots in zip(template.tolist(), in_slots(s_first, drawn, speaker, middle)):
            rows.append(self._tokens(t, slots))
            places.append(self._places(rows[-1], t, slots))
        tokens = torch.tensor(rows)
        a, b, s2 = torch.tensor(places).T
        at_io, s1 = torch.where(s_first, b, a), torch.where(s_first, a, b)
        where = dict(zip(ROLES, (at_io, s1, s1 + 1, s2, torch.full_like(s2, tokens.shape[1] - 1))))
        named = {"io": self.ids[io], "s": self.ids[s]}
        return Prompts(tokens, **named, where=where, template=template, s_first=s_first,
                       drawn=drawn, speaker=speaker, middle=middle, task=self)  # fmt: skip

    def _places(self, row: list[int], template: int, slots: dict[str, int]) -> list[int]:
        """Positions of A, B and S, found by their order in the template."""
        order = re.findall(r"\{(\w)\}", self.templates[template])
        known = {int(i) for i in self.ids}
        found = [pos for pos, token in enumerate(row) if token in known]
        if len(found) != len(order):
            raise CourseError(
                f"{self.text(template, slots)!r} has {len(found)} names where its template has {len(order)}: a name at "
                "the beginning or behind a bracket is often another token."
            )
        return [found[order.index(slot)] for slot in SLOTS]


def in_slots(s_first: Tensor, drawn: Tensor, speaker: Tensor, middle: str) -> list[dict[str, int]]:
    """Which name stands in which slot of each prompt, by number; the arguments are those of `Prompts`."""
    io, s, third = drawn
    between = {"third": third, "io": io, "s": s}[middle]
    rows = zip(*(x.tolist() for x in (s_first, io, s, speaker, between)))
    return [
        {"A": b if first else a, "B": a if first else b, "S": said, "M": m} for first, a, b, said, m in rows
    ]


def check_templates(templates: Sequence[str]) -> None:
    """One sentence for a template that is none."""
    if not templates:
        raise CourseError("A task needs a template.")
    for template in templates:
        slots = re.findall(r"\{(\w*)\}", template)
        if missing := [slot for slot in SLOTS if slots.count(slot) != 1]:
            raise CourseError(
                f"{template!r} has {{{missing[0]}}} {slots.count(missing[0])} times: {{A}} and {{B}} are the two names "
                "of the first clause, {S} the one said again, each once."
            )
        if set(slots) - {*SLOTS, "M"}:
            raise CourseError(f"{template!r} has a slot other than A, B, S and M.")


@dataclass(frozen=True, eq=False, repr=False)
class Prompts:
    """Prompts with their answers and with who stands where.

    Args:
        tokens: up to the place where the answer is due.
        io: the right answer's token id.
        s: the wrong one's.
        where: role → its position in each prompt: IO, S1, S1+1, S2, END.
        template: which one.
        s_first: BABA, else ABBA.
        drawn: numbers of the names: io, s, third.
        speaker: number of the name in the place of S2: that of s, unless somebody else speaks.
        middle: who stands in the middle sentence.
        task: what they were made from.
    """

    tokens: Int[Tensor, "batch pos"]
    io: Int[Tensor, "batch"]
    s: Int[Tensor, "batch"]
    where: dict[str, Tensor]
    template: Int[Tensor, "batch"]
    s_first: Tensor
    drawn: Int[Tensor, "three batch"]
    speaker: Int[Tensor, "batch"]
    middle: str
    task: Task

    def __len__(self) -> int:
        return len(self.tokens)

    def __repr__(self) -> str:
        n, orders = len(self.template.unique()), "ABBA and BABA" if bool(self.s_first.any()) else "ABBA"
        return f"Prompts({len(self)} of {n} templates, {self.tokens.shape[1]} tokens, {orders})"

    @property
    def texts(self) -> list[str]:
        """The prompts in words."""
        slots = in_slots(self.s_first, self.drawn, self.speaker, self.middle)
        return [self.task.text(*row) for row in zip(self.template.tolist(), slots)]

    def __getitem__(self, rows) -> Prompts:
        """Some of the prompts."""
        where = {role: at[rows] for role, at in self.where.items()}
        parts = {name: getattr(self, name)[rows] for name in ROWS}
        return replace(self, where=where, drawn=self.drawn[:, rows], **parts)

    def _again(self, io: Tensor, s: Tensor, third: Tensor, s_first: Tensor, speaker: Tensor) -> Prompts:
        return self.task.written(self.template, s_first, io, s, third, middle=self.middle, speaker=speaker)

    def flipped(self) -> Prompts:
        """The same names with the first two exchanged: where S stood is another place, who S is stays."""
        made = self._again(*self.drawn, ~self.s_first, self.speaker)
        return replace(made, io=self.io, s=self.s)

    def renamed(self, seed: int = 1) -> Prompts:
        """Other names, drawn with `seed`, in the same places: who S is changes, where S stood stays."""
        _, s, third = self.drawn
        stranger = (self.speaker != s) & (self.speaker != third)
        new = self._others(4 if bool(stranger.any()) else 3, seed)
        speaker = torch.where(self.speaker == s, new[1], torch.where(stranger, new[-1], new[2]))
        return self._again(*new[:3], self.s_first, speaker)

    def strangers(self, seed: int = 1) -> Prompts:
        """Three names that are all different, none of them the prompt's: the syntax stays, and nobody is said twice.

        `io` and `s` are those of the prompt itself, so both runs can be asked the same question. `seed` is of the draw.
        """
        io, s, speaker = self._others(3, seed)
        made = self._again(io, s, self.drawn[2], self.s_first, speaker)
        return replace(made, io=self.io, s=self.s)

    def third_person(self) -> Prompts:
        """The prompt's own two names first, and a third person in the second clause: nothing says who."""
        made = self._again(*self.drawn, self.s_first, self.drawn[2])
        return replace(made, io=self.io, s=self.s)

    def _others(self, n: int, seed: int) -> Int[Tensor, "n batch"]:
        """n names for each prompt that are not its own two (nor the third, where enough are left)."""
        names, own = len(self.task.names), 3 if len(self.task.names) >= 3 + n else 2
        if names < own + n:
            raise CourseError(f"{names} names are too few for {n} strangers beside the prompt's own.")
        rank = torch.rand(len(self), names, generator=generator(seed))
        rank.scatter_(1, self.drawn[:own].T, 2.0)
        return rank.argsort(-1)[:, :n].T

    def at(self, role: str) -> Int[Tensor, "batch"]:
        """The role's position in each prompt."""
        if role not in self.where:
            raise CourseError(f"There is no role {role!r}: choose from {', '.join(ROLES)}.")
        return self.where[role]
