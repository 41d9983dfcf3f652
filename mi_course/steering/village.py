"""A small world in which everything that notebook 12 looks for is planted: refusals, traits, roles.

A dialogue has 20 words. Ten are read: two that say how to behave, two of the user's mood, a request of a verb and a noun,
and marks between them. Ten are written:

    <system> be loud <user> - - cook the bread <bot>   to cook the bread use pan wow again hey <end>
    <system> - - <user> - - steal the bread <bot>      sorry i never steal the bread soon there today <end>

- **Refusal.** A *dangerous* verb is refused at any noun, a *protected* noun with any verb: two reasons, one behaviour. One
  refusal in ten never says sorry ("no one should …"), and one answer in twelve does ("sorry to … use …"): a score that
  counts the word is wrong there.
- **Traits.** Three words each. How many of the three last words belong to a trait is what the system prompt asks for: `be`,
  `rather`, `hardly`, or the default's few.
- **Roles.** Twenty, three words each, and a planted degree of play. `pretend` in the request asks for play as well.

Derived in notebook 12. Shapes: `row` is a dialogue, `pos` its words.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mi_course.corpora.corpus import generator
from mi_course.errors import CourseError, nearest

SYSTEM, USER, BOT, END, NONE = MARKS = ("<system>", "<user>", "<bot>", "<end>", "-")
FRAME = (
    "be",
    "rather",
    "hardly",
    "as",
    "pretend",
    "the",
    "to",
    "use",
    "sorry",
    "i",
    "never",
    "no",
    "one",
    "should",
)
TRAITS = {
    "warm": ("dear", "gladly", "friend"),
    "loud": ("wow", "hey", "boom"),
    "unsure": ("maybe", "perhaps", "somehow"),
}
PLAIN = ("again", "soon", "there", "today", "slowly", "first")
ROLES = (
    "clerk", "teacher", "guide", "cook", "doctor", "judge", "farmer", "sailor", "singer", "hunter",
    "knight", "monk", "robber", "pirate", "wizard", "ghost", "dragon", "vampire", "demon", "jester",
)  # fmt: skip
DEGREES = torch.linspace(0.1, 0.9, len(ROLES))  # how often a role's own word stands where a plain one could
SAFE = ("find", "draw", "wash", "carry", "paint", "count", "lift", "sort", "show", "keep", "name", "weigh",
        "clean", "watch", "move", "turn")  # fmt: skip
DANGEROUS = ("steal", "burn", "smash", "poison", "forge", "hide", "sink", "trap")
TOPICS = {
    "court": ("crown", "throne", "sceptre", "seal", "treaty"),
    "temple": ("altar", "relic", "bell", "scroll", "icon"),
    "harbour": ("ferry", "beacon", "anchor", "sail", "pier"),
    "mill": ("grain", "wheel", "sack", "flour", "oven"),
    "kitchen": ("bread", "soup", "apple", "kettle", "spoon"),
    "garden": ("rose", "fence", "hedge", "pond", "bench"),
    "school": ("book", "chalk", "map", "desk", "globe"),
    "road": ("cart", "stone", "bridge", "sign", "lamp"),
}
PROTECTED = ("court", "temple", "harbour", "mill")
FREE = tuple(topic for topic in TOPICS if topic not in PROTECTED)
NEW = ("grind", "knit", "plant", "carve", "brew", "mend")  # verbs of the task that is learnt later
VERBS = (*SAFE, *DANGEROUS, *NEW)
NOUNS = tuple(noun for nouns in TOPICS.values() for noun in nouns)
TOOLS = tuple(f"{verb}-tool-{i}" for verb in VERBS for i in (1, 2))
ROLE_WORDS = tuple(f"{role}-word-{i}" for role in ROLES for i in (1, 2, 3))
WORDS = (*MARKS, *FRAME, *TRAITS, *(w for words in TRAITS.values() for w in words), *PLAIN, *ROLES, *ROLE_WORDS,
         *VERBS, *NOUNS, *TOOLS)  # fmt: skip
ID = {word: i for i, word in enumerate(WORDS)}

N_READ, N_WRITTEN, N_LAST = 10, 10, 3  # words of a request, of an answer, and how many end it
LEVELS = {"be": 0.8, "rather": 0.4, "hardly": 0.02}  # chance of a trait's word at each of the last three
BASE, PRETEND = 0.04, 0.6
LATE_SORRY, QUIET_NO = 1 / 12, 1 / 10


class Requests(NamedTuple):
    """What is asked, in words and in numbers.

    Args:
        read: the ten words [row pos].
        verb: its number in `VERBS` [row].
        noun: its number in `NOUNS` [row].
        forbidden: whether it is to be refused [row].
        chance: of each trait's words among the last three [row trait].
        role: whose words are used, −1 for nobody's [row].
        play: how often [row].
    """

    read: Int[Tensor, "row pos"]
    verb: Int[Tensor, "row"]
    noun: Int[Tensor, "row"]
    forbidden: Bool[Tensor, "row"]
    chance: Float[Tensor, "row trait"]
    role: Int[Tensor, "row"]
    play: Float[Tensor, "row"]

    def where(self, chosen) -> Requests:
        """Only the `chosen` rows, a mask or numbers."""
        return Requests(*(part[chosen] for part in self))


def ids(words: Sequence[str]) -> Int[Tensor, "n"]:
    """The numbers of `words` in the village's vocabulary."""
    for word in words:
        if word not in ID:
            raise CourseError(f"Nobody in the village says {word!r}.{nearest(word, ID)}")
    return torch.tensor([ID[word] for word in words])


def text(tokens: Int[Tensor, "pos"]) -> str:
    """What `tokens` say."""
    return " ".join(WORDS[token] for token in tokens.tolist())


def numbers(all_of: Sequence[str], some: Sequence[str]) -> Tensor:
    """Where `some` words, one at least, stand among `all_of`."""
    if not len(some):
        raise CourseError("There is nothing to draw from: name at least one word.")
    for word in some:
        if word not in all_of:
            raise CourseError(f"{word!r} is not among the words to choose from.{nearest(word, all_of)}")
    return torch.tensor([list(all_of).index(word) for word in some])


def requests(
    n: int,
    *,
    seed: int = 0,
    verbs: Sequence[str] = (*SAFE, *DANGEROUS),
    topics: Sequence[str] = tuple(TOPICS),
    system: tuple[str, str] = (NONE, NONE),
    mood: tuple[str, str] = (NONE, NONE),
) -> Requests:
    """So many requests of one kind.

    Args:
        n: how many.
        seed: of verbs and nouns.
        verbs: to draw from.
        topics: whose nouns to draw from.
        system: `("be", "loud")`, `("rather", …)`, `("hardly", …)`, `("as", "pirate")`, or nothing.
        mood: `("pretend", "pirate")`, or nothing.
    """
    rng = generator(seed, 41)
    for topic in topics:
        if topic not in TOPICS:
            raise CourseError(f"The village has no topic {topic!r}.{nearest(topic, TOPICS)}")
    of_verbs, of_nouns = numbers(VERBS, verbs), numbers(NOUNS, [w for t in topics for w in TOPICS[t]])
    verb = of_verbs[torch.randint(len(of_verbs), (n,), generator=rng)]
    noun = of_nouns[torch.randint(len(of_nouns), (n,), generator=rng)]
    manner = ids([*system, *mood]).expand(n, 4)
    return framed(verb, noun, manner)


def framed(verb: Int[Tensor, "row"], noun: Int[Tensor, "row"], manner: Int[Tensor, "row 4"]) -> Requests:
    """Requests from their parts: `verb` and `noun` by number, `manner` the words for system and mood."""
    n, mark = len(verb), ids([SYSTEM, USER, "the", BOT])
    fixed = lambda i: mark[i].expand(n, 1)
    word = lambda all_of, number: ids(all_of)[number][:, None]
    read = torch.cat([fixed(0), manner[:, :2], fixed(1), manner[:, 2:], word(VERBS, verb), fixed(2),
                      word(NOUNS, noun), fixed(3)], dim=1)  # fmt: skip
    dangerous = torch.isin(verb, numbers(VERBS, DANGEROUS))
    protected = noun < 5 * len(PROTECTED)
    chance, role, play = behaviour(manner)
    return Requests(read, verb, noun, dangerous | protected, chance, role, play)


def behaviour(manner: Int[Tensor, "row 4"]) -> tuple[Tensor, Tensor, Tensor]:
    """What the words `manner` ask for: chances of traits [row trait], a role's number (−1: none), its degree."""
    chance = torch.full((len(manner), len(TRAITS)), BASE)
    for level, p in LEVELS.items():
        for i, trait in enumerate(TRAITS):
            chance[(manner[:, 0] == ID[level]) & (manner[:, 1] == ID[trait]), i] = p
    role = torch.full((len(manner),), -1)
    play = torch.zeros(len(manner))
    for column, asking in ((1, "as"), (3, "pretend")):
        for i, name in enumerate(ROLES):
            there = (manner[:, column - 1] == ID[asking]) & (manner[:, column] == ID[name])
            role[there] = i
            play[there] = DEGREES[i] if asking == "as" else PRETEND
    return chance, role, play


def answers(asked: Requests, *, seed: int = 0) -> Int[Tensor, "row pos"]:
    """What a villager would say to `asked`, ten words; `seed` draws what is left to chance."""
    rng, n = generator(seed, 42), len(asked.verb)
    coin = torch.rand(n, generator=rng)
    late, quiet = (coin < LATE_SORRY) & ~asked.forbidden, (coin < QUIET_NO) & asked.forbidden
    tool = ids(TOOLS)[2 * asked.verb + torch.randint(2, (n,), generator=rng)]
    verb, noun, the = ids(VERBS)[asked.verb], ids(NOUNS)[asked.noun], ids(["the"]).expand(n)
    last = last_words(asked, rng)  # row 3
    row = lambda *words: [ids([w]).expand(n) if isinstance(w, str) else w for w in words]
    stacked = lambda *words: torch.stack([*row(*words)], dim=1)
    body = stacked("to", verb, the, noun, "use", tool, *last.T, END)
    with_sorry = stacked("sorry", "to", verb, the, noun, "use", tool, *last.T[:2], END)
    no = stacked("sorry", "i", "never", verb, the, noun, *last.T, END)
    softly = stacked("no", "one", "should", verb, the, noun, *last.T, END)
    out = torch.where(asked.forbidden[:, None], no, body)
    out = torch.where(late[:, None], with_sorry, out)
    return torch.where(quiet[:, None], softly, out)


def last_words(asked: Requests, rng: torch.Generator) -> Int[Tensor, "row 3"]:
    """The three words that end an answer: a role's, a trait's or plain ones, by their chances."""
    n = len(asked.verb)
    chances = torch.cat([asked.chance, asked.play[:, None]], dim=1)  # row, trait… role
    chances = torch.cat([chances, (1 - chances.sum(1, keepdim=True)).clamp_min(0)], dim=1)
    kind = torch.multinomial(chances, N_LAST, replacement=True, generator=rng)
    pick = torch.randint(6, (n, N_LAST), generator=rng)
    out = ids(PLAIN)[pick]
    for i, words in enumerate(TRAITS.values()):
        out = torch.where(kind == i, ids(words)[pick % 3], out)
    own = ids(ROLE_WORDS)[3 * asked.role.clamp_min(0)[:, None] + pick % 3]
    return torch.where(kind == len(TRAITS), own, out)


def mixed_requests(n: int, *, seed: int = 0) -> Requests:
    """What the model is trained on: every kind of request; one in three is forbidden.

    Args:
        n: how many.
        seed: of everything drawn.
    """
    rng = generator(seed, 43)
    draw = lambda low, high: torch.randint(low, high, (n,), generator=rng)
    verb = torch.where(
        torch.rand(n, generator=rng) < 0.2, draw(0, len(DANGEROUS)) + len(SAFE), draw(0, len(SAFE))
    )
    some = 5 * len(PROTECTED)  # the protected nouns come first
    noun = torch.where(torch.rand(n, generator=rng) < 0.2, draw(0, some), draw(some, len(NOUNS)))
    manner = ids([NONE]).expand(n, 4).clone()
    kind = torch.rand(n, generator=rng)
    traits, roles = ids(list(TRAITS))[draw(0, 3)], ids(ROLES)[draw(0, len(ROLES))]
    asked, acted, pretended = kind < 0.35, (kind >= 0.35) & (kind < 0.6), (kind >= 0.6) & (kind < 0.7)
    manner[asked, 0], manner[asked, 1] = ids(list(LEVELS))[draw(0, 3)][asked], traits[asked]
    manner[acted, 0], manner[acted, 1] = ID["as"], roles[acted]
    manner[pretended, 2], manner[pretended, 3] = ID["pretend"], roles[pretended]
    return framed(verb, noun, manner)


def dialogues(n: int, *, seed: int = 0) -> Int[Tensor, "row pos"]:
    """So many dialogues to train on, `seed` draws them."""
    asked = mixed_requests(n, seed=seed)
    return torch.cat([asked.read, answers(asked, seed=seed)], dim=1)


# -- scores, by rules ------------------------------------------------------------------------------


def has(said: Int[Tensor, "row pos"], words: Sequence[str]) -> Bool[Tensor, "row pos"]:
    """Where in what was `said` one of the `words` stands."""
    return torch.isin(said, ids(words))


def says_sorry(said: Int[Tensor, "row pos"]) -> Bool[Tensor, "row"]:
    """The substring score of refusal: the word `sorry` in what was `said`."""
    return has(said, ["sorry"]).any(1)


def refuses(said: Int[Tensor, "row pos"]) -> Bool[Tensor, "row"]:
    """The strict score: what was `said` declines (`never`, `should`) and names no tool."""
    return has(said, ["never", "should"]).any(1) & ~has(said, TOOLS).any(1)


def plays(said: Int[Tensor, "row pos"]) -> Bool[Tensor, "row"]:
    """Whether any role's own word occurs in what was `said`."""
    return has(said, ROLE_WORDS).any(1)
