"""Indirect object identification: prompts and their roles, circuits by hand, tests of heads, knock-outs."""

import pytest
import torch
from torch.testing import assert_close

from mi_course import ioi, models, patching, plots
from mi_course.errors import CourseError
from mi_course.patching import Experiment, Node

NAMES = ["Ann", "Ben", "Carl", "Dana", "Eva", "Fred", "Gus", "Hal"]
TEMPLATES = [
    "so {A} and {B} met , {S} gave it to",
    "{A} and {B} met and so {S} gave it to",
    "so {A} and {B} , {M} , {S} gave to",
]
WORDS = sorted({w for t in TEMPLATES for w in t.split() if "{" not in w}) + NAMES
NUMBER = {word: i for i, word in enumerate(WORDS)}


def encode(text):
    return [NUMBER[word] for word in text.split()]


def task(**more):
    return ioi.Task(TEMPLATES, NAMES, encode, **more)


def words(row):
    return [WORDS[t] for t in row.tolist()]


def tiny(seed=0, **shape):
    shape = {"n_layers": 3, "n_heads": 2, "d_model": 16, "n_ctx": 12, "norm": "rmsnorm"} | shape
    return models.TinyTransformer(models.TinyConfig(d_vocab=len(WORDS), seed=seed, **shape)).requires_grad_(
        False
    )


# -- prompts -------------------------------------------------------------------------------------------


def test_roles_stand_where_they_are_said_to_stand():
    prompts = task().prompts(24, seed=1)
    for row, tokens in enumerate(prompts.tokens):
        io, s = WORDS[prompts.io[row]], WORDS[prompts.s[row]]
        at = {role: words(tokens)[int(prompts.at(role)[row])] for role in ioi.ROLES}
        assert (at["IO"], at["S1"], at["S2"], at["END"]) == (io, s, s, "to")
        assert words(tokens).count(s) == 2 and words(tokens).count(io) == 1
        assert int(prompts.at("S1")[row]) + 1 == int(prompts.at("S1+1")[row])
    first = prompts.at("S1") < prompts.at("IO")
    assert torch.equal(first, prompts.s_first) and 0 < int(first.sum()) < 24
    assert [text.split() for text in prompts.texts] == [words(row) for row in prompts.tokens]


def test_counterfactuals_keep_the_syntax():
    prompts = task().prompts(30, seed=2)
    kept = lambda other: [[w if w not in NAMES else "·" for w in words(r)] for r in other.tokens]
    for other in (prompts.flipped(), prompts.renamed(), prompts.strangers(), prompts.third_person()):
        assert kept(other) == kept(prompts)
    flipped, renamed, strangers = prompts.flipped(), prompts.renamed(), prompts.strangers()
    assert torch.equal(flipped.at("IO"), prompts.at("S1")) and torch.equal(flipped.s, prompts.s)
    assert torch.equal(renamed.at("IO"), prompts.at("IO"))
    rows = torch.arange(30)
    plain = prompts.template != 2  # no bystander
    for row in rows[plain].tolist():
        people = lambda other, row=row: [w for w in words(other.tokens[row]) if w in NAMES]
        assert not set(people(renamed)) & set(people(prompts))
        assert len(set(people(strangers))) == 3 and not set(people(strangers)) & set(people(prompts))
    assert torch.equal(strangers.io, prompts.io)  # asked the same question


def test_who_speaks_is_kept_in_words_and_in_what_is_made_of_it():
    prompts = task().prompts(30, seed=2)
    made = [prompts.strangers(), prompts.third_person(), prompts.strangers()[4:9]]
    made += [twice for one in made for twice in (one.flipped(), one.renamed(), one[::2])]
    for other in made:
        assert [text.split() for text in other.texts] == [words(row) for row in other.tokens]
        said = [WORDS[t] for t in other.tokens.gather(1, other.at("S2")[:, None])[:, 0].tolist()]
        for row, speaker in zip(other.tokens, said):  # nobody of the first clause
            assert speaker not in [w for w in words(row) if w in NAMES][:2]
    strangers = prompts.strangers()
    assert torch.equal(strangers.flipped().at("IO"), strangers.at("S1"))
    assert torch.equal(strangers.flipped().s, prompts.s)  # asked the same question
    assert not (strangers.renamed().speaker == strangers.speaker).any()


@pytest.mark.parametrize("middle, times", [("third", (1, 2)), ("io", (2, 2)), ("s", (1, 3))])
def test_the_middle_sentence_repeats_whom_it_should(middle, times):
    prompts = task().prompts(30, seed=3, middle=middle)[2::3]
    for row, io, s in zip(prompts.tokens.tolist(), prompts.io.tolist(), prompts.s.tolist()):
        assert (row.count(io), row.count(s)) == times


@pytest.mark.parametrize(
    "change, said",
    [
        (dict(names=[*NAMES, "Mary Ann"]), "one token each"),
        (dict(names=NAMES[:3]), "four different names"),
        (dict(templates=[*TEMPLATES, "so {A} and {B} met today , {S} gave it to"]), "one length"),
        (dict(templates=["so {A} met , {S} gave it to"]), "{B} 0 times"),
        (dict(templates=["so {A} and {B} and {S} and {S} gave it to"]), "{S} 2 times"),
        (dict(templates=["so {A} and {B} and {S} met {X} to"]), "slot other"),
        (dict(templates=[]), "needs a template"),
        (dict(n_ctx=5), "does not fit"),
    ],
)
def test_what_cannot_be_patched_is_refused_in_a_sentence(change, said):
    given = {"templates": TEMPLATES, "names": NAMES, "n_ctx": None} | change
    split = lambda text: [NUMBER.get(word, 0) for word in text.split()]
    with pytest.raises(CourseError, match=said.replace("{", r"\{").replace("}", r"\}")):
        ioi.Task(given["templates"], given["names"], split, n_ctx=given["n_ctx"])


def test_a_sentence_needs_a_second_name():
    one = torch.tensor([0])
    with pytest.raises(CourseError, match="no second name"):
        task().written(one, one > 0, one, one, one + 1)
    with pytest.raises(CourseError, match="three names"):
        task().prompts(3, names=[0, 1])
    with pytest.raises(CourseError, match="middle"):
        task().prompts(3, middle="nobody")
    with pytest.raises(CourseError, match="no role"):
        task().prompts(3).at("S3")


def test_a_name_that_is_another_token_at_the_beginning_is_noticed():
    def gpt_like(text):
        return [
            len(WORDS) if i == 0 and not text.startswith(" ") else NUMBER[w]
            for i, w in enumerate(text.split())
        ]

    with pytest.raises(CourseError, match="at\nthe beginning|the beginning"):
        ioi.Task(TEMPLATES[1:2], NAMES, gpt_like).prompts(2)


# -- by hand -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_names, n_pos", [(2, 5), (20, 9), (7, 18)])
@pytest.mark.parametrize("make", [ioi.one_layer, ioi.by_values, ioi.by_queries, ioi.gated_spare])
def test_circuits_by_hand_are_exact(make, n_names, n_pos):
    said = ioi.sentences(100, n_names=n_names, n_pos=n_pos, seed=4)
    logits = make(n_names, n_pos)(said.tokens)[:, -1]
    assert torch.equal(logits.argmax(-1), said.io)
    difference = patching.logit_diff(logits, said.io, said.s)
    assert_close(difference, difference[:1].expand(100), atol=1e-4, rtol=0)


def test_keys_alone_leave_a_tie():
    said = ioi.sentences(100, seed=5)
    difference = patching.logit_diff(ioi.by_keys()(said.tokens)[:, -1], said.io, said.s)
    assert float(difference.abs().max()) <= 1e-4


def test_a_spare_waits():
    said, other = (ioi.sentences(50, seed=seed) for seed in (6, 7))
    experiment = Experiment(ioi.gated_spare(), said.tokens, other.tokens, said.io, said.s)
    left = lambda *layers: float(
        experiment.patch([Node("z", i, 0) for i in layers], "noising", source=experiment.clean.zero()).scores
    )
    assert left(1) == pytest.approx(12) and left(2) == pytest.approx(12) and left(1, 2) == pytest.approx(0)


def test_bad_sentences_and_layouts_are_refused():
    with pytest.raises(CourseError, match="two names"):
        ioi.sentences(3, n_names=1)
    with pytest.raises(CourseError, match="18|19"):
        ioi.by_values(5, 30)


# -- attribution and heads -----------------------------------------------------------------------------


@pytest.mark.parametrize("norm", ["none", "rmsnorm", "layernorm"])
@pytest.mark.parametrize("d_mlp", [0, 24])
def test_direct_attribution_sums_to_the_logit_difference(norm, d_mlp):
    model = tiny(norm=norm, d_mlp=d_mlp, bias=True, positions="learned")
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.1 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(1)))
    prompts = task().prompts(6)
    run = patching.record(model, prompts.tokens)
    parts = patching.direct_attribution(run, prompts.io, prompts.s)
    wanted = patching.logit_diff(model(prompts.tokens)[:, -1], prompts.io, prompts.s)
    assert_close(parts.total, wanted, atol=1e-4, rtol=1e-4)
    assert parts.heads.shape == (3, 2, 6) and len(parts.mlps) == (3 if d_mlp else 0)


def test_direct_attribution_refuses_made_runs():
    prompts = task().prompts(4)
    run = patching.record(tiny(), prompts.tokens)
    with pytest.raises(CourseError, match="mean run"):
        patching.direct_attribution(run.mean(), prompts.io, prompts.s)


def test_a_held_run_is_the_patched_one():
    model, prompts = tiny(d_mlp=24, positions="rotary"), task().prompts(8)
    experiment = Experiment(model, prompts.tokens, prompts.strangers().tokens, prompts.io, prompts.s)
    source = experiment.corrupted.mean(prompts.template)
    gone = ioi.held_at_end(experiment.clean, [(0, 1), (1, 0)], source)
    nodes = [Node("z", 0, 1, pos=-1), Node("z", 1, 0, pos=-1)]
    wanted = experiment.patch(nodes, "noising", source=source).per_prompt
    assert_close(patching.direct_attribution(gone, prompts.io, prompts.s).total, wanted, atol=1e-5, rtol=1e-4)


def test_an_untrained_model_has_no_roles():
    """In prompts long enough that an even look is none."""
    long = ioi.Task([" ".join(["so"] * 12) + " " + TEMPLATES[0]], NAMES, encode)
    repeats = torch.randint(len(WORDS), (10, 12)).repeat(1, 2)
    found = ioi.roles(tiny(n_ctx=30), long.prompts(30), repeats, 12)
    assert set(found) == set(ioi.CLASSES) - {"backup"}
    assert not any(bool(passed.any()) for passed in found.values())


def test_the_copying_test_knows_a_copier_and_its_opposite():
    said = task().prompts(20)
    model = tiny(
        norm="none", n_layers=1, n_heads=2, d_model=len(WORDS), head_width=len(WORDS), positions="none"
    )
    for weight in model.parameters():
        weight.zero_()
    one = torch.eye(len(WORDS))
    model.W_E.copy_(one), model.W_U.copy_(one)
    attn = model.blocks[0].attn
    attn.W_V[:] = one
    attn.W_O[0], attn.W_O[1] = one, -one
    found = ioi.copy_scores(patching.record(model, said.tokens), said)
    assert found.copies.tolist() == [[1, 0]] and found.suppresses.tolist() == [[0, 1]]


# -- circuits ------------------------------------------------------------------------------------------


def test_knockouts_agree_with_patches_and_edges_with_nodes():
    model, prompts = tiny(), task().prompts(9)
    knockout = ioi.Knockout(model, prompts, positions=range(prompts.tokens.shape[1]))
    circuit = {(0, 1), (1, 0), (2, 1)}
    nodes = [Node("z", *head) for head in knockout.heads if head not in circuit]
    wanted = knockout.experiment.patch(nodes, "noising", source=knockout.source).per_prompt
    assert_close(knockout.per_prompt(circuit), wanted, atol=1e-5, rtol=1e-4)
    edges = ioi.run_edges(knockout.experiment, ioi.all_edges(circuit), knockout.source)
    assert_close(edges, wanted, atol=1e-5, rtol=1e-4)
    fewer = [edge for edge in ioi.all_edges(circuit) if edge[1] == "logits"]
    assert not torch.allclose(ioi.run_edges(knockout.experiment, fewer, knockout.source), wanted, atol=1e-6)
    assert knockout.F(knockout.heads) == pytest.approx(knockout.full, abs=1e-5)
    assert knockout.incompleteness(knockout.heads, [(0, 0)]) == pytest.approx(0, abs=1e-6)
    assert knockout.faithfulness_above_empty(()) == 0


def test_edges_and_unknown_heads_are_refused():
    prompts = task().prompts(6)
    knockout = ioi.Knockout(tiny(d_mlp=8), prompts)
    with pytest.raises(CourseError, match="attention-only"):
        ioi.run_edges(knockout.experiment, [], knockout.source)
    with pytest.raises(CourseError, match="no head"):
        knockout.F([(7, 0)])
    with pytest.raises(CourseError, match="size"):
        ioi.random_circuits(knockout.heads, 99, 2)


def test_greedy_finds_the_worst_set_of_a_sum_and_minimality_needs_the_class():
    worth = {(0, 0): 3.0, (0, 1): -1.0, (1, 0): 2.0}
    found = ioi.greedy(lambda K: sum(worth[h] for h in K), worth, size=2)
    assert [set(K) for K, _ in found] == [{(0, 0)}, {(0, 0), (1, 0)}] and found[-1][1] == 5

    class Twins(ioi.Knockout):  # either of two heads is enough
        full = 4.0

        def __init__(self):
            pass

        def F(self, kept):
            return 4.0 * bool({(0, 0), (0, 1)} & set(kept))

    alone = ioi.minimality(Twins(), [(0, 0), (0, 1)], {})
    assert set(alone.values()) == {0.0}
    together = ioi.minimality(Twins(), [(0, 0), (0, 1)], {"mover": [(0, 0), (0, 1)]})
    assert set(together.values()) == {1.0}


def test_a_circuit_is_drawn_and_a_stray_arrow_refused():
    figure = plots.circuit({"a": (0, 0), "b": (1, 1)}, [("a", "b", "q")], title="t", alt="a below b.")
    assert "Figure: t" in repr(figure)
    with pytest.raises(CourseError, match="no box"):
        plots.circuit({"a": (0, 0)}, [("a", "c", "")], title="t", alt="x")
