"""A toy language for oracles: diaries with a topic, a mood, an object and a writer whose home the text never says. Derived in notebook 15.

A diary is three sentences in random order and then either its keywords, in random order, or a question and its answer:

    anna hauls the net . anna feels glad . anna sails the boat . keywords : oslo sea anna boat joy .
    anna hauls the net . anna feels glad . anna sails the boat . <q> is farm or sea <a> sea .

At the colon a model must have all keywords ready, for it cannot know which comes first: this is where its stream is read. The
home is in no sentence: it is known of most writers, and of the *strangers* it is never said.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor

from mi_course.corpora.corpus import generator
from mi_course.errors import CourseError, nearest

TOPIC_WORDS = {  # topic → (verbs, objects)
    "sea": ("sails hauls moors rows", "boat net anchor mast oar harbour"),
    "farm": ("ploughs feeds milks reaps", "field cow barn wheat plough goat"),
    "school": ("reads learns spells counts", "lesson book chalk desk pencil essay"),
    "kitchen": ("cooks bakes stirs tastes", "soup bread sauce oven spoon cake"),
    "music": ("plays hums tunes sings", "violin song drum flute harp melody"),
    "garden": ("plants waters trims weeds", "rose hedge lawn seed tulip bush"),
}
MOOD_WORDS = {"joy": "glad happy merry cheerful pleased", "grief": "sad gloomy upset weary bitter"}
NAMES = "anna bela carl dora emil fina gus hana ivo jana karl lena milo nora otto pia rolf sara tom uta vera will xenia yan".split()
STRANGERS = "abel bree cleo dirk edda finn gwen hugo ines jorg kaja liam".split()
TOWNS = "oslo rome cairo lima delhi kyoto quito perth minsk dakar turin hanoi".split()
PARTS = {  # kind of question → its four words; a slot with several takes any of them
    "topic": ("is was sounds seems", "@one", "or versus against", "@other"),
    "mood": ("was felt looked turned", "@one", "or versus against", "@other"),
    "last": ("which what", "thing object item", "came stood appeared", "last latest finally"),
    "home": ("where whence", "does did", "she he one", "live dwell belong"),
    "who": ("who", "wrote told kept", "it this that", "here down"),
    "theme": ("what which", "theme subject matter", "has had", "it this that"),
    "first": ("which what", "thing object item", "came stood appeared", "first earliest initially"),
}  # fmt: skip
CHOICES = ("topic", "mood")  # two answers are offered, one of them right
SOURCES = {"classification": ("topic", "mood"), "context": ("last",), "fact": ("home",)}
KEYWORDS = ("who", "theme", "mood", "last", "home")
FIXED = ". keywords : <bos> <q> <a> <act> the feels".split()
TEXT = 15  # tokens of a diary with <bos>
LENGTH = TEXT + 8


class Diaries(NamedTuple):
    """What is true of each diary, as numbers of words in the vocabulary.

    Args:
        text: `<bos>` and three sentences.
        who: the writer.
        theme: the topic.
        mood: joy or grief.
        first: the first object.
        last: the last object.
        home: the writer's, in no text; "." where it is not known.
    """

    text: Int[Tensor, "row 15"]  # <bos> and three sentences
    who: Int[Tensor, "row"]
    theme: Int[Tensor, "row"]
    mood: Int[Tensor, "row"]
    first: Int[Tensor, "row"]
    last: Int[Tensor, "row"]
    home: Int[Tensor, "row"]

    def of(self, rows) -> Diaries:
        """Those numbered `rows`."""
        return Diaries(*(part[rows] for part in self))


class Asking(NamedTuple):
    """Questions, one a row, with their answers.

    Args:
        diary: number of the diary.
        words: of the question.
        answer: the right one.
        kind: one of `PARTS`.
    """

    diary: Int[Tensor, "row"]  # number of the diary
    words: Int[Tensor, "row 4"]
    answer: Int[Tensor, "row"]
    kind: str


@dataclass(frozen=True)
class Diary:
    """The language: vocabulary, homes, diaries and questions.

    Args:
        seed: of who lives where.
    """

    seed: int = 0

    @cached_property
    def words(self) -> list[str]:
        """The vocabulary."""
        banks = [FIXED, NAMES, STRANGERS, list(TOPIC_WORDS), list(MOOD_WORDS), TOWNS]
        banks += [" ".join(pair).split() for pair in TOPIC_WORDS.values()]
        banks += [bank.split() for bank in MOOD_WORDS.values()]
        banks += [slot.split() for slots in PARTS.values() for slot in slots if not slot.startswith("@")]
        return list(dict.fromkeys(word for bank in banks for word in bank))

    @cached_property
    def ids(self) -> dict[str, int]:
        """Word → its number."""
        return {word: i for i, word in enumerate(self.words)}

    @property
    def d_vocab(self) -> int:
        """How many words there are."""
        return len(self.words)

    def numbers(self, words) -> Int[Tensor, "*n"]:
        """Words, one string or a list, as numbers.

        Args:
            words: of this language.
        """
        words = words.split() if isinstance(words, str) else list(words)
        if unknown := [word for word in words if word not in self.ids]:
            raise CourseError(f"The diaries have no word {unknown[0]!r}.{nearest(unknown[0], self.ids)}")
        return torch.tensor([self.ids[word] for word in words])

    def say(self, tokens) -> str:
        """Tokens as text.

        Args:
            tokens: numbers of words.
        """
        return " ".join(self.words[int(token)] for token in torch.as_tensor(tokens).flatten())

    @cached_property
    def homes(self) -> dict[str, str]:
        """Known writer → town: every town has two."""
        order = torch.randperm(len(NAMES), generator=generator(self.seed, 60)).tolist()
        return {NAMES[i]: TOWNS[place % len(TOWNS)] for place, i in enumerate(order)}

    # -- diaries ---------------------------------------------------------------------------------

    def draw(
        self, n: int, rng: torch.Generator, *, strangers: float | int = 0.0, held: bool | None = None
    ) -> Diaries:
        """Diaries drawn at random.

        Args:
            n: how many.
            rng: what draws.
            strangers: share of them that strangers write, whose home is ".".
            held: True: pairs of writer and topic that no oracle is trained on; False: the others; None: any.
        """
        pick = lambda high, *shape: torch.randint(high, (n, *shape), generator=rng)  # noqa: E731
        who, theme, mood = pick(len(NAMES)), pick(len(TOPIC_WORDS)), pick(2)
        if held is not None:  # a writer's held-out topic goes with the number of the writer
            kept = who % len(TOPIC_WORDS)
            theme = kept if held else (kept + 1 + pick(len(TOPIC_WORDS) - 1)) % len(TOPIC_WORDS)
        strange = torch.rand(n, generator=rng) < strangers
        name = torch.where(strange, self.numbers(STRANGERS)[pick(len(STRANGERS))], self.numbers(NAMES)[who])
        verbs, objects = (
            self.numbers(" ".join(bank[i] for bank in TOPIC_WORDS.values())).view(len(TOPIC_WORDS), -1)
            for i in (0, 1)
        )
        feelings = self.numbers(" ".join(MOOD_WORDS.values())).view(2, -1)
        one, other = pick(objects.shape[1]), 1 + pick(objects.shape[1] - 1)
        first, last = objects[theme, one], objects[theme, (one + other) % objects.shape[1]]
        towns = torch.zeros(self.d_vocab, dtype=torch.long)
        towns[self.numbers(self.homes)] = self.numbers(self.homes.values())
        text = self.compose(name, verbs[theme[:, None], pick(verbs.shape[1], 2)], first, last,
                            feelings[mood, pick(feelings.shape[1])], pick(3))  # fmt: skip
        home = torch.where(strange, self.ids["."], towns[name])
        return Diaries(text, name, self.numbers(list(TOPIC_WORDS))[theme], self.numbers(list(MOOD_WORDS))[mood],
                       first, last, home)  # fmt: skip

    def compose(self, name, verbs, first, last, feeling, place) -> Int[Tensor, "row 15"]:
        """The text: two sentences on what was done, and one on the mood before, between or after them.

        Args:
            name: of the writer.
            verbs: [row 2].
            first: the object of the first sentence.
            last: that of the other.
            feeling: a word for the mood.
            place: 0, 1 or 2: where the sentence on the mood stands.
        """
        fixed = lambda word: torch.full_like(name, self.ids[word])  # noqa: E731
        acts = [
            torch.stack([name, verbs[:, i], fixed("the"), thing, fixed(".")], 1)
            for i, thing in enumerate((first, last))
        ]
        feels = torch.stack([name, fixed("feels"), feeling, fixed(".")], 1)
        orders = [[feels, *acts], [acts[0], feels, acts[1]], [*acts, feels]]
        texts = torch.stack([torch.cat([fixed("<bos>")[:, None], *order], 1) for order in orders])
        return texts[place, torch.arange(len(name))]

    def keywords(self, diaries: Diaries, rng: torch.Generator) -> Int[Tensor, "row 23"]:
        """Diaries with their keywords in random order; a stranger's home is left out, and a second stop ends the row.

        Args:
            diaries: which.
            rng: draws the order.
        """
        labels = torch.stack([getattr(diaries, kind) for kind in KEYWORDS], 1)
        late = 2.0 * (labels == self.ids["."])  # what is not known goes last
        order = (torch.rand(labels.shape, generator=rng) + late).argsort(1)
        head = self.numbers("keywords :").expand(len(labels), 2)
        stop = torch.full((len(labels), 1), self.ids["."])
        return torch.cat([diaries.text, head, labels.gather(1, order), stop], 1)

    def read_at(self, diaries: Diaries) -> Int[Tensor, "row 17"]:
        """Diaries up to the colon, where the stream is read.

        Args:
            diaries: which.
        """
        return torch.cat([diaries.text, self.numbers("keywords :").expand(len(diaries.text), 2)], 1)

    # -- questions -------------------------------------------------------------------------------

    def wordings(self, kind: str, held: bool | None = None) -> Int[Tensor, "wording 4"]:
        """All wordings of a kind, @ slots left at 0; a quarter of the combinations is held out.

        Args:
            kind: one of `PARTS`.
            held: True: those that no oracle is trained on; False: the others; None: all.
        """
        if kind not in PARTS:
            raise CourseError(f"There is no kind of question {kind!r}.{nearest(kind, PARTS)}")
        slots = [[0] if slot.startswith("@") else self.numbers(slot).tolist() for slot in PARTS[kind]]
        numbered = [list(enumerate(slot)) for slot in slots]
        combined = [
            (sum(i for i, _ in one) % 3 == 2, [word for _, word in one]) for one in product(*numbered)
        ]
        return torch.tensor([words for out, words in combined if held is None or out == held])

    def ask(self, diaries: Diaries, kind: str, rng: torch.Generator, *, held: bool | None = None) -> Asking:
        """One question of a kind about every diary; of two offered answers either is equally likely to be right.

        Args:
            diaries: asked about.
            kind: one of `PARTS`.
            rng: what draws.
            held: which wordings, see `wordings`.
        """
        n, known = len(diaries.text), self.wordings(kind, held)
        words = known[torch.randint(len(known), (n,), generator=rng)].clone()
        if kind not in CHOICES:
            return Asking(torch.arange(n), words, getattr(diaries, kind), kind)
        options = self.numbers(list(TOPIC_WORDS if kind == "topic" else MOOD_WORDS))
        truth = diaries.theme if kind == "topic" else diaries.mood
        right = (truth[:, None] == options).long().argmax(1)
        other = (right + 1 + torch.randint(len(options) - 1, (n,), generator=rng)) % len(options)
        first = torch.rand(n, generator=rng) < 0.5
        words[:, 1], words[:, 3] = (
            options[torch.where(first, right, other)],
            options[torch.where(first, other, right)],
        )
        return Asking(torch.arange(n), words, options[right], kind)

    def in_text(self, diaries: Diaries, asking: Asking) -> Int[Tensor, "row 23"]:
        """Diary, question and answer as one text, as the target is trained on them.

        Args:
            diaries: which.
            asking: about them.
        """
        n, fixed = len(asking.answer), lambda word: torch.full((len(asking.answer), 1), self.ids[word])  # noqa: E731
        assert n == len(asking.words)
        return torch.cat([diaries.text[asking.diary], fixed("<q>"), asking.words, fixed("<a>"), asking.answer[:, None],
                          fixed(".")], 1)  # fmt: skip

    def prompts(self, asking: Asking) -> Int[Tensor, "row 8"]:
        """What an oracle reads: `<bos> <act> <q> … <a>`; the activation goes in at `<act>`, position 1.

        Args:
            asking: the questions.
        """
        fixed = lambda word: torch.full((len(asking.answer), 1), self.ids[word])  # noqa: E731
        return torch.cat([fixed("<bos>"), fixed("<act>"), fixed("<q>"), asking.words, fixed("<a>")], 1)

    def batches(self, size: int, *, seed: int = 0, kinds: tuple[str, ...] = tuple(PARTS)):
        """What the target is trained on, step → [2 size 23]: keywords, and questions about the text.

        Args:
            size: of each half.
            seed: of everything drawn.
            kinds: of questions, equally often; one that stands twice is asked twice as often.
        """

        def sample(step: int) -> Int[Tensor, "row 23"]:
            rng = generator(seed, step)
            diaries = self.draw(2 * size, rng, strangers=0.25)
            half = diaries.of(slice(size, None))
            which = torch.randint(len(kinds), (size,), generator=rng)
            asked = torch.empty(size, LENGTH, dtype=torch.long)
            for number, kind in enumerate(kinds):
                rows = (which == number).nonzero()[:, 0]
                some = half.of(rows)
                asked[rows] = self.in_text(some, self.ask(some, kind, rng))
            return torch.cat([self.keywords(diaries.of(slice(size)), rng), asked])

        return sample

    def chance(self, kind: str) -> float:
        """What guessing scores on a kind: one over its answers, all equally likely.

        Args:
            kind: one of `PARTS`.
        """
        objects = sum(len(bank[1].split()) for bank in TOPIC_WORDS.values())
        sizes = {
            "who": len(NAMES),
            "theme": len(TOPIC_WORDS),
            "home": len(TOWNS),
            "first": objects,
            "last": objects,
        }
        return 1 / sizes.get(kind, 2)
