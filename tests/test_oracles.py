"""Injection, low-rank updates, diaries, sentences: what they promise, and bad input in one sentence."""

import copy
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from mi_course import files, models, oracles, pretrained, recipes, training
from mi_course.corpora import generator
from mi_course.errors import CourseError
from mi_course.recipes import oracles as recipe_module
from mi_course.recipes.oracles import RealOracle

SHAPE = models.TinyConfig(n_layers=3, n_heads=2, d_model=16, d_vocab=40, n_ctx=12, d_mlp=24, norm="rmsnorm")
REAL = "smollm2-135m-instruct"
real_is_here = pytest.mark.skipif(not pretrained.here(REAL), reason=f"{REAL} is not fetched")


@pytest.fixture
def small():
    return models.TinyTransformer(SHAPE).eval()


@pytest.fixture
def asked():
    return oracles.prompts_of([[1, 39, 5, 6], [2, 3, 39, 7, 8, 9]], 39)


def rows(n, d=16, seed=0):
    return torch.randn(n, d, generator=generator(seed, 1))


# -- injection ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [1e-3, 1.0, 1e4])
def test_what_goes_in_is_as_long_as_the_stream(length):
    h, v = rows(50, seed=1) * 7, rows(50, seed=2) * length
    added = oracles.injected(h, v) - h
    assert torch.allclose(added.norm(dim=1), h.norm(dim=1), rtol=1e-5)
    assert torch.allclose(torch.cosine_similarity(added, v), torch.ones(50), atol=1e-5)


def test_zeros_change_nothing_and_make_no_nan():
    h = rows(4)
    assert torch.equal(oracles.injected(h, torch.zeros_like(h)), h)


def test_asking_is_a_run_with_a_changed_stream(small, asked):
    v = rows(2, seed=3)
    logits = oracles.ask(small, asked, v, 1)
    for row, (place, end) in enumerate([(1, 3), (2, 5)]):
        tokens = asked.tokens[row : row + 1, : end + 1]  # without the padding

        def put_in(stream, hook, row=row, place=place):
            stream = stream.clone()
            stream[:, place] += stream[:, place].norm() * v[row] / v[row].norm()
            return stream

        alone = small.run_with_hooks(tokens, fwd_hooks=[("blocks.1.hook_resid_pre", put_in)])[0, end]
        assert torch.allclose(logits[row], alone, atol=1e-5)
    assert torch.equal(oracles.answers(small, asked, v, 1, batch=1), logits.argmax(-1))


def test_zero_activation_is_the_plain_run(small, asked):
    plain = small(asked.tokens)[torch.arange(2), asked.end]
    assert torch.allclose(oracles.ask(small, asked, torch.zeros(2, 16), 2), plain, atol=1e-6)


@pytest.mark.parametrize(
    "vectors, said",
    [
        (None, "none was given"),
        (rows(2, 8), "another model"),
        (rows(3), "one each"),
        (rows(2)[0], "width 16"),
        (torch.full((2, 16), float("nan")), "NaN"),
        (torch.tensor([[0.0] * 16, [float("inf")] * 16]), "Vector 1"),
    ],
)
def test_vectors_that_cannot_go_in(small, asked, vectors, said):
    for ask in (oracles.ask, oracles.answers):
        with pytest.raises(CourseError, match=said):
            ask(small, asked, vectors, 1)


@pytest.mark.parametrize("layer", [3, -1, True])
def test_a_layer_that_is_not_there(small, asked, layer):
    with pytest.raises(CourseError, match="There is no layer"):
        oracles.ask(small, asked, rows(2), layer)


def test_a_prompt_longer_than_the_context(small):
    long = oracles.prompts_of([[39] + [1] * 12], 39)
    with pytest.raises(CourseError, match="n_ctx=12"):
        oracles.ask(small, long, rows(1), 1)


@pytest.mark.parametrize("ids, count", [([1, 2, 3], 0), ([39, 1, 39], 2)])
def test_a_question_has_one_placeholder(ids, count):
    with pytest.raises(CourseError, match=f"this one {count}"):
        oracles.prompts_of([ids], 39)


def test_a_model_without_chat_template():
    bare = SimpleNamespace(tokenizer=SimpleNamespace(chat_template=None), cfg=SHAPE)
    with pytest.raises(CourseError, match="no chat template"):
        oracles.written(bare, ["Is this about music?"])


def test_a_vocabulary_without_the_placeholder():
    cut = SimpleNamespace(tokenizer=SimpleNamespace(encode=lambda text, **how: [1, 2, 3]))
    with pytest.raises(CourseError, match="cuts it into 3"):
        oracles.placeholder(cut)


# -- low-rank updates --------------------------------------------------------------------------------


def test_an_update_begins_as_nothing_and_only_it_learns(small):
    tokens = torch.arange(8)[None]
    before = small(tokens)
    updates = training.low_rank(small, oracles.inside_blocks, rank=3)
    assert torch.equal(small(tokens), before)
    small(tokens, return_type="loss").backward()
    assert all(p.grad is not None for p in updates.parameters())
    learning = {id(p) for p in small.parameters() if p.requires_grad}
    assert learning == {id(p) for p in updates.parameters()}


def test_what_is_saved_is_what_was_trained(small):
    plain, tokens = copy.deepcopy(small), torch.arange(8)[None]
    updates = training.low_rank(small, oracles.inside_blocks, rank=3, seed=1)
    config = training.TrainConfig(steps=5, lr=0.01, warmup=0)
    training.fit(
        updates, lambda step: tokens, config, loss=lambda _, t: small(t, return_type="loss"), progress=False
    )
    saved, before = updates.tensors(torch.float32), plain(tokens)
    with training.updated(plain, saved):
        assert torch.allclose(plain(tokens), small(tokens), atol=1e-5)
        assert not torch.allclose(plain(tokens), before, atol=1e-3)
    assert torch.equal(plain(tokens), before)
    assert torch.allclose(training.add_update(plain, saved)(tokens), small(tokens), atol=1e-5)


def test_an_update_has_its_rank_also_with_heads_side_by_side(small):
    updates = training.low_rank(small, lambda name: name.endswith("W_Q"), rank=2)
    with torch.no_grad():
        for part in updates.parts:
            part.B.copy_(rows(2, 16, seed=5))
    W = small.blocks[0].attn.parametrizations.W_Q.original
    change = training.as_matrix(small.blocks[0].attn.W_Q - W)
    assert int(torch.linalg.matrix_rank(change)) == 2


def test_an_update_undone_even_after_an_error(small):
    update = training.low_rank(copy.deepcopy(small), oracles.inside_blocks, rank=2).tensors()
    update = {name: torch.ones_like(W) for name, W in update.items()}
    before = {name: W.clone() for name, W in small.state_dict().items()}
    with pytest.raises(KeyboardInterrupt), training.updated(small, update):
        assert not torch.equal(small.state_dict()["blocks.0.mlp.W_in"], before["blocks.0.mlp.W_in"])
        raise KeyboardInterrupt
    assert all(torch.equal(W, before[name]) for name, W in small.state_dict().items())


def test_updates_that_cannot_be(small):
    with pytest.raises(CourseError, match="rank 1 or more"):
        training.low_rank(small, oracles.inside_blocks, rank=0)
    with pytest.raises(CourseError, match="No weight was chosen"):
        training.low_rank(small, lambda name: False)
    with pytest.raises(CourseError, match="another model"):
        training.add_update(
            small, {"blocks.9.mlp.W_in.A": torch.ones(2, 1), "blocks.9.mlp.W_in.B": torch.ones(1, 2)}
        )
    with pytest.raises(CourseError, match="has shape"):
        training.add_update(
            small, {"blocks.0.mlp.W_in.A": torch.ones(2, 1), "blocks.0.mlp.W_in.B": torch.ones(1, 2)}
        )


def test_what_is_refused_changes_nothing(small):
    before = {name: W.clone() for name, W in small.state_dict().items()}
    learning = [p.requires_grad for p in small.parameters()]
    with pytest.raises(CourseError, match="No weight was chosen"):
        training.low_rank(small, lambda name: False)
    with pytest.raises(ZeroDivisionError):
        training.low_rank(small, lambda name: "W_K" not in name or 1 / 0)
    assert [p.requires_grad for p in small.parameters()] == learning and any(learning)
    update = training.low_rank(copy.deepcopy(small), oracles.inside_blocks, rank=2).tensors()
    update = {name: torch.ones_like(W) for name, W in update.items()} | {
        f"zz.{letter}": torch.ones(1, 1) for letter in "AB"
    }
    with pytest.raises(CourseError, match="no weight 'zz'"):
        training.add_update(small, update)
    assert small.state_dict().keys() == before.keys()
    assert all(torch.equal(W, before[name]) for name, W in small.state_dict().items())


def test_an_update_is_where_its_weights_are():
    """Shapes alone, on torch's device without memory, stand for a GPU's."""
    for layer in (nn.Linear(4, 4, device="meta"), nn.Embedding(6, 4, device="meta")):
        updates = training.low_rank(layer, lambda name: True, rank=1)
        assert {p.device.type for p in updates.parameters()} == {"meta"}
        ids = torch.zeros(3, dtype=torch.long, device="meta")
        out = layer(ids if isinstance(layer, nn.Embedding) else torch.ones(3, 4, device="meta"))
        assert out.shape == (3, 4) and out.device.type == "meta"
    plain = nn.Linear(4, 4, device="meta")
    update = {"weight.A": torch.ones(4, 1), "weight.B": torch.ones(1, 4)}
    assert training.add_update(plain, update) is plain


def test_a_linear_layer_learns_by_its_update():
    layer = nn.Linear(4, 4, bias=False)
    updates = training.low_rank(layer, lambda name: True, rank=1)
    layer(torch.eye(4)).sum().backward()
    assert updates.parts[0].B.grad.abs().sum() > 0 and layer.weight.grad is None
    with torch.no_grad():
        updates.parts[0].B.fill_(1.0)
    x, plain = rows(3, 4), copy.deepcopy(layer.weight)
    assert torch.allclose(layer(x), x @ (plain + updates.parts[0].A @ updates.parts[0].B).T, atol=1e-5)


# -- diaries -----------------------------------------------------------------------------------------

DIARY = oracles.Diary()


@pytest.fixture(scope="module")
def diaries():
    return DIARY.draw(300, generator(0, 5))


def test_a_diary_says_what_is_true_of_it_and_never_the_home(diaries):
    for row, last in zip(range(300), diaries.last.tolist()):
        text = diaries.text[row].tolist()
        assert last in text and diaries.who[row] in text and diaries.first[row] in text
        assert text.index(int(diaries.first[row])) < text.index(last)
        assert diaries.home[row] not in text
    assert (
        DIARY.homes == {DIARY.say(w): DIARY.say(h) for w, h in zip(diaries.who, diaries.home)} | DIARY.homes
    )


def test_every_town_has_two_homes_and_strangers_none():
    homes = list(DIARY.homes.values())
    assert all(homes.count(town) == 2 for town in oracles.TOWNS)
    strangers = DIARY.draw(50, generator(0, 6), strangers=1.0)
    assert bool((strangers.home == DIARY.ids["."]).all())
    assert set(strangers.who.tolist()) <= set(DIARY.numbers(oracles.STRANGERS).tolist())


def test_keywords_are_all_there_in_more_than_one_order(diaries):
    written = DIARY.keywords(diaries, generator(0, 7))[:, 17:22]
    labels = torch.stack([getattr(diaries, kind) for kind in oracles.KEYWORDS], 1)
    assert torch.equal(written.sort(1).values, labels.sort(1).values)
    assert (
        len({tuple((row[:, None] == label).long().argmax(0).tolist()) for row, label in zip(written, labels)})
        > 50
    )


def test_held_out_documents_share_no_pair_of_writer_and_topic():
    pairs = [
        set(zip(*(part.tolist() for part in (d.who, d.theme)), strict=True))
        for d in (DIARY.draw(3000, generator(0, 8), held=held) for held in (True, False))
    ]
    assert pairs[0] and not pairs[0] & pairs[1]


@pytest.mark.parametrize("kind", oracles.PARTS)
def test_held_out_wordings_are_new_combinations_of_known_words(kind):
    seen, held = (DIARY.wordings(kind, held) for held in (False, True))
    assert not {tuple(w) for w in seen.tolist()} & {tuple(w) for w in held.tolist()}
    assert set(held.flatten().tolist()) <= set(seen.flatten().tolist())


@pytest.mark.parametrize("kind", oracles.CHOICES)
def test_a_choice_gives_nothing_away(kind, diaries):
    asked = DIARY.ask(diaries, kind, generator(0, 9))
    first = asked.words[:, 1] == asked.answer
    assert bool((first ^ (asked.words[:, 3] == asked.answer)).all())
    assert 0.4 < float(first.float().mean()) < 0.6


def test_an_oracles_prompt_holds_no_word_of_the_diary(diaries):
    asked = DIARY.ask(diaries, "home", generator(0, 10))
    prompt = oracles.prompts(DIARY, asked)
    assert bool((prompt.tokens[torch.arange(300), prompt.at] == DIARY.ids["<act>"]).all())
    assert not torch.isin(prompt.tokens, DIARY.numbers(list(DIARY.homes))).any()


def test_words_and_kinds_that_are_not_there():
    with pytest.raises(CourseError, match="no word 'osla'.*oslo"):
        DIARY.numbers("osla")
    with pytest.raises(CourseError, match="no kind of question"):
        DIARY.wordings("hom")


def test_lessons_have_equal_shares_and_no_held_out_wording():
    target = models.TinyTransformer(oracles.diary_config(DIARY)).eval()
    vectors, prompts, wanted = oracles.lessons(target, DIARY, oracles.SOURCES, 120)
    assert len(vectors) == len(prompts.tokens) == len(wanted) == 120
    assert int(torch.isin(wanted, DIARY.numbers(oracles.TOWNS)).sum()) == 40
    held = {tuple(w) for w in DIARY.wordings("home", True).tolist()}
    assert not held & {tuple(w) for w in prompts.tokens[:, 3:7].tolist()}


# -- sentences ---------------------------------------------------------------------------------------


def nouns_of(text, topic):
    bank = (oracles.TOPICS | oracles.UNSEEN)[topic].split()
    words = text.replace(".", " ").replace(",", " ").replace(":", " ").split()
    return frozenset(word for word in words if word in bank)


def test_held_out_sentences_share_no_pair_of_nouns_and_no_frame_with_training():
    train, held = oracles.sentences(600), oracles.sentences(300, held_out=True)
    pairs = [{nouns_of(one.text, one.topic) for one in some} for some in (train, held)]
    assert all(len(pair) == 2 for pair in pairs[0] | pairs[1]) and not pairs[0] & pairs[1]
    assert not any(one.text.startswith("What ") for one in train)
    new = {noun for one in oracles.sentences(200, new_nouns=True) for noun in nouns_of(one.text, one.topic)}
    assert not new & {noun for pair in pairs[0] for noun in pair}


def test_the_right_answer_stands_first_as_often_as_second():
    texts = oracles.sentences(500, held_out=True, seed=3)
    for kind in ("topic", "mood", "time"):
        asked = oracles.test_questions(texts, (kind,))
        first = [q.asked.index(q.answer.lower()) < q.asked.index(q.other.lower()) for q in asked]
        assert 0.42 < sum(first) / len(first) < 0.58
    for held in (False, True):
        asked = oracles.test_questions(texts, held_out=held)
        assert len(asked) == 2000 and all(q.kind in ("topic", "mood", "time") for q in asked)


def test_the_right_answer_is_true_and_the_other_is_not():
    texts, called = oracles.sentences(200, seed=4), {"good": "Happy", "bad": "Sad"}
    for q in oracles.test_questions(texts):
        truth = getattr(texts[q.sentence], q.kind)
        assert q.answer == called.get(truth, truth.capitalize()) and q.other != q.answer


def test_training_never_asks_in_held_out_wordings_or_of_unseen_topics():
    asked = {q.asked for q in oracles.training_questions(oracles.sentences(50), 2000)}
    held = {q.asked for q in oracles.test_questions(oracles.sentences(200), held_out=True)}
    assert not asked & held
    assert not any(topic in question for question in asked for topic in oracles.UNSEEN)


def test_topics_are_seen_or_unseen():
    with pytest.raises(CourseError, match="seen or unseen"):
        oracles.sentences(3, topics="other")


# -- what is shipped ---------------------------------------------------------------------------------


def test_an_oracle_of_another_model_is_refused():
    target = models.load("diaries")
    assert oracles.load_update("oracle-mixed", target)[1]["sources"] == list(oracles.SOURCES)
    with torch.no_grad():
        target.W_E[3, 0] += 1
    with pytest.raises(CourseError, match="another model's activations"):
        oracles.load_update("oracle-mixed", target)


@pytest.mark.parametrize("name", ["diaries", "oracle-mixed", "oracle-fact-third", "smollm2-oracle"])
def test_recipes_say_the_size_of_what_they_ship(name):
    recipe = recipes.find(name)
    shipped = (files.checkpoints() / f"{name}.safetensors").stat().st_size / 1e6
    assert recipe.megabytes == pytest.approx(shipped, rel=0.2, abs=0.1)


def test_a_stopped_recipe_goes_on_where_it_was(tmp_path, monkeypatch, stopped):
    short = replace(
        recipes.find("oracle-fact"), questions=300, training=training.TrainConfig(steps=6, warmup=0)
    )
    whole = files.read_checked(short.train(out=tmp_path / "whole", progress=False))[0]
    fit = recipe_module.fit
    monkeypatch.setattr(recipe_module, "fit", lambda *given, **how: fit(*given, **how, stop_at=3))
    short.train(out=tmp_path / "cut", progress=False)  # half of it, as a file that says so
    monkeypatch.setattr(recipe_module, "fit", stopped(fit, 3))
    with pytest.raises(KeyboardInterrupt):
        short.train(out=tmp_path / "again", progress=False)
    monkeypatch.setattr(recipe_module, "fit", fit)
    again = files.read_checked(short.train(out=tmp_path / "again", progress=False))[0]
    half = files.read_checked(tmp_path / "cut" / "oracle-fact")[0]
    assert all(torch.equal(whole[name], again[name]) for name in whole)
    assert not all(torch.equal(whole[name], half[name]) for name in whole)


def test_only_attention_from_the_injection_on_is_updated():
    chosen = RealOracle("x", "y").chosen
    assert chosen("blocks.15.self_attn.q_proj.weight") and chosen("blocks.29.self_attn.o_proj.weight")
    assert not chosen("blocks.14.self_attn.q_proj.weight") and not chosen("blocks.20.mlp.up_proj.weight")


@real_is_here
def test_a_real_model_is_asked_from_its_own_streams():
    real = pretrained.load(REAL)
    asked = oracles.asked(
        real, ["Is this about music?", "Is this about war or peace?", "Is this about music?"], 15
    )
    assert len(asked.streams) == 2
    v = oracles.last_vectors(real, ["Anna heard a song.", "It rained.", "Tom will see a tank tomorrow."], 15)
    assert torch.allclose(v[1], oracles.last_vectors(real, ["It rained."], 15)[0], atol=1e-2)
    whole = oracles.ask(real, asked.prompts, v, 15)
    assert torch.allclose(asked.logits(real, v, torch.arange(3)), whole, atol=1e-3)
    assert torch.allclose(asked.all_logits(real, v, batch=2), whole, atol=1e-3)
    with pytest.raises(CourseError, match="empty"):
        oracles.last_vectors(real, ["a", ""], 15)
