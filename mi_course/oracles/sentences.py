"""Templated sentences and questions for SmolLM2 as its own oracle: what is asked, what is held out. Derived in notebook 15.

A sentence has a topic (by its noun), a mood and a time. Held out are nouns, frames, wordings of questions, and topics.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from mi_course.corpora.corpus import generator
from mi_course.errors import CourseError

TOPICS = {
    "music": "violin song drum concert choir melody orchestra piano trumpet guitar symphony flute",
    "weather": "storm rain wind snow thunder fog frost drizzle hail sunshine blizzard breeze",
    "money": "loan bank debt price salary coin budget wallet invoice mortgage cash savings",
    "animals": "horse tiger rabbit elephant monkey fox bear goat lion deer zebra wolf",
    "school": "teacher lesson homework classroom exam pupil textbook timetable diploma blackboard student course",
    "war": "battle soldier army tank bomb general rifle invasion siege missile weapon grenade",
    "space": "rocket planet galaxy comet astronaut star satellite asteroid telescope moon spaceship orbit",
    "medicine": "doctor pill surgery vaccine nurse hospital fever bandage injection disease clinic patient",
}
UNSEEN = {
    "law": "judge trial court lawyer verdict crime witness lawsuit jury prison sentence attorney",
    "cooking": "soup oven recipe kitchen sauce bread stew cake pan spice dinner salad",
    "sport": "football goal tennis marathon stadium athlete match coach swimmer referee league racket",
    "religion": "church prayer priest bible temple monk hymn sermon mosque angel bishop saint",
}
FOR_TEST = 4  # nouns of each topic that no training sentence has
NAMES = "Anna Peter Maria Tom Julia David Sara Paul Emma Jack".split()
WHEN = {
    "past": ("yesterday", "last week", "last summer", "two days ago"),
    "future": ("tomorrow", "next week", "next summer", "in two days"),
}
DOES = {
    "past": ("saw", "talked about", "thought about", "read about", "asked about"),
    "future": ("will see", "will talk about", "will think about", "will read about", "will ask about"),
}
BE = {"past": "was", "future": "will be"}
MAKE = {"past": "made", "future": "will make"}
MOODS = {
    "good": ("happy", "delighted", "glad", "cheerful", "pleased"),
    "bad": ("sad", "upset", "gloomy", "miserable", "unhappy"),
}
FRAMES = (  # the last two are held out
    "{When}, {name} {be} {mood} because of the {noun} and the {other}.",
    "{name} {be} {mood} {when} about the {noun} and the {other}.",
    "{When}, {mood} {name} {does} the {noun} and the {other}.",
    "It {make} {name} {mood} {when}: the {noun} and the {other}.",
    "{name}, {mood} {when}, {does} the {noun} and the {other}.",
    "What {make} {name} {mood} {when} {be} the {noun} and the {other}.",
)
HELD_FRAMES = 2
WORDINGS = {  # kind → (in training, held out)
    "topic": (
        ("Is this about {a} or {b}?", "Does the text mention {a} or {b}?", "Which is the topic, {a} or {b}?",
         "Does the writer speak of {a} or {b}?"),
        ("Would you say the subject is {a} or {b}?", "Is it a sentence on {a} or {b}?"),
    ),
    "mood": (("Is the person {a} or {b}?", "Does somebody feel {a} or {b}?"), ("Is the mood {a} or {b}?",)),
    "time": (
        ("Is this in the {a} or the {b}?", "Does it happen in the {a} or the {b}?"),
        ("Does it belong to the {a} or the {b}?",),
    ),
    "open": (("What is this about? Answer in one word.", "Name the topic in one word."), ("In a word, what is the subject?",)),
}  # fmt: skip
SAID = {"good": "happy", "bad": "sad", "past": "past", "future": "future"}  # what a question calls it
SHARES = {"topic": 0.5, "mood": 0.15, "time": 0.15, "open": 0.2}  # of the training questions


class Sentence(NamedTuple):
    """A text and what is true of it.

    Args:
        text: one sentence.
        topic: of its nouns.
        mood: good or bad.
        time: past or future.
    """

    text: str
    topic: str
    mood: str  # good or bad
    time: str  # past or future


class Question(NamedTuple):
    """What is asked of which sentence, and the right answer.

    Args:
        sentence: its number.
        kind: topic, mood, time or open.
        asked: in words.
        answer: the right word, with a capital.
        other: the wrong one that is offered; nothing where none is.
    """

    sentence: int  # its number
    kind: str  # topic, mood, time or open
    asked: str
    answer: str  # the right word, with a capital
    other: str  # the wrong one that is offered; nothing where none is


def draw(options, rng: torch.Generator):
    """One of `options`, uniformly, by `rng`."""
    return options[int(torch.randint(len(options), (1,), generator=rng))]


def pair(nouns: list[str], held_out: bool, rng: torch.Generator) -> tuple[str, str]:
    """Two different nouns; those whose numbers differ by 3 are never together in a training sentence.

    Args:
        nouns: of one topic.
        held_out: such a pair, or any other.
        rng: what draws.
    """
    n = len(nouns)
    first = int(torch.randint(n, (1,), generator=rng))
    apart = [3] if held_out else [k for k in range(1, n) if k not in (3, n - 3)]
    return nouns[first], nouns[(first + draw(apart, rng)) % n]


def sentences(
    n: int, *, held_out: bool = False, new_nouns: bool = False, topics: str = "seen", seed: int = 0
) -> list[Sentence]:
    """Sentences drawn at random: topic, two nouns, frame, name, mood, time.

    Args:
        n: how many.
        held_out: frames and pairs of nouns that training does not have.
        new_nouns: nouns that training does not have, either.
        topics: `seen` in training or `unseen`.
        seed: of the draw.
    """
    if topics not in ("seen", "unseen"):
        raise CourseError(f"topics={topics!r} is seen or unseen.")
    bank, rng, found = TOPICS if topics == "seen" else UNSEEN, generator(seed, 50), []
    frames = FRAMES[-HELD_FRAMES:] if held_out else FRAMES[:-HELD_FRAMES]
    for _ in range(n):
        topic, time, mood = draw(list(bank), rng), draw(list(WHEN), rng), draw(list(MOODS), rng)
        nouns = bank[topic].split()
        noun, other = pair(
            nouns[-FOR_TEST:] if new_nouns else nouns[:-FOR_TEST], held_out and not new_nouns, rng
        )
        when = draw(WHEN[time], rng)
        text = draw(frames, rng).format(
            When=when[0].upper() + when[1:], when=when, name=draw(NAMES, rng), noun=noun, other=other,
            mood=draw(MOODS[mood], rng),
            does=draw(DOES[time], rng), be=BE[time], make=MAKE[time],
        )  # fmt: skip
        found.append(Sentence(text, topic, mood, time))
    return found


def question(
    number: int, sentence: Sentence, kind: str, held_out: bool, topics: list[str], rng: torch.Generator
) -> Question:
    """One question of a kind about a sentence: which of two, either of them first as often, or an open one.

    Args:
        number: of the sentence.
        sentence: what is asked about.
        kind: topic, mood, time or open.
        held_out: a wording that training does not have.
        topics: those that may be offered.
        rng: what draws.
    """
    wording = draw(WORDINGS[kind][held_out], rng)
    if kind == "open":
        return Question(number, kind, wording, sentence.topic.capitalize(), "")
    if kind == "topic":
        right = sentence.topic
        wrong = draw([topic for topic in topics if topic != right], rng)
    else:
        truth, sides = getattr(sentence, kind), list(MOODS if kind == "mood" else WHEN)
        right, wrong = SAID[truth], SAID[sides[1 - sides.index(truth)]]
    a, b = (right, wrong) if bool(torch.rand((), generator=rng) < 0.5) else (wrong, right)
    return Question(number, kind, wording.format(a=a, b=b), right.capitalize(), wrong.capitalize())


def training_questions(of: list[Sentence], n: int, *, seed: int = 0) -> list[Question]:
    """Questions in the shares of `SHARES`, each about a sentence drawn at random, in the wordings of training.

    Args:
        of: sentences.
        n: how many questions.
        seed: of the draw.
    """
    rng, found = generator(seed, 51), []
    kinds = list(SHARES)
    drawn = torch.multinomial(torch.tensor(list(SHARES.values())), n, replacement=True, generator=rng)
    for kind in drawn.tolist():
        number = int(torch.randint(len(of), (1,), generator=rng))
        found.append(question(number, of[number], kinds[kind], False, list(TOPICS), rng))
    return found


def test_questions(
    of: list[Sentence], kinds=("topic", "topic", "mood", "time"), *, held_out: bool = False, seed: int = 0
) -> list[Question]:
    """For every sentence one question of each of `kinds`.

    Args:
        of: sentences.
        kinds: topic, mood, time or open; one that stands twice is asked twice.
        held_out: wordings that training does not have.
        seed: of the draw.
    """
    rng, seen = generator(seed, 52), {sentence.topic for sentence in of} <= set(TOPICS)
    topics = list(TOPICS if seen else UNSEEN)
    return [question(i, one, kind, held_out, topics, rng) for i, one in enumerate(of) for kind in kinds]
