"""Dictionaries at scale: planted worlds, coverage, laws, clamping, the nested kind, what is read, pages."""

import pytest
import torch
from torch.testing import assert_close

from mi_course import models, pretrained, sae, scaling
from mi_course.errors import CourseError
from tests.patching_makes import FAST, MAKES, save


def tiny_model(**more):
    shape = {
        "n_layers": 3,
        "n_heads": 2,
        "d_model": 16,
        "d_vocab": 20,
        "n_ctx": 12,
        "d_mlp": 32,
        "act": "gelu",
    }
    return models.TinyTransformer(models.TinyConfig(**shape | more)).eval().requires_grad_(False)


def dictionary(d=16, n=40, **more):
    return sae.SparseAutoencoder(sae.SaeConfig(d, n, **more)).requires_grad_(False)


# -- planted worlds --------------------------------------------------------------------------------


def test_zipf_frequencies_fall_by_the_law_and_add_up():
    p = scaling.zipf_frequencies(100, 2.0, exponent=1.0)
    assert_close(p[0] / p[9], torch.tensor(10.0), rtol=1e-4, atol=1e-4)
    assert abs(float(p.sum()) - 2) < 1e-3
    assert float(scaling.zipf_frequencies(3, 3.0).max()) == 0.5  # at most one half


def test_a_world_is_the_sum_of_what_is_there():
    world = scaling.zipf(n=30, d=8, active=4, seed=1)
    x, truth = world.draw(500, seed=3)
    assert_close(x, truth @ world.directions)
    low, high = scaling.STRENGTH
    there = truth[truth > 0]
    assert float(there.min()) >= low and float(there.max()) <= high
    assert_close(world.draw(500, seed=3)[0], x)
    assert not torch.equal(world.draw(500, seed=4)[0], x)
    assert world.rows(130, chunk=50).shape == (130, 8)
    with pytest.raises(CourseError, match="at least one sample"):
        world.draw(0)


def test_topics_share_a_direction_and_a_sample_has_one_concept_of_each():
    world = scaling.topics(n=6, each=5, d=256, shared=0.4, per_sample=2)
    cosine = world.directions @ world.directions.T
    same = world.parent[:, None] == world.parent
    off = ~torch.eye(30, dtype=torch.bool)
    assert abs(float(cosine[same & off].mean()) - 0.4) < 0.06 and abs(float(cosine[~same].mean())) < 0.05
    _, truth = world.draw(200)
    assert ((truth > 0).sum(1) == 2).all()


def test_a_rule_writes_where_all_that_it_needs_is_there():
    of = scaling.rules(single=3, often=3, pairs=2, d=16, seed=1)
    x, y, strength = of.draw(500, seed=2)
    assert of.needs.shape == (5, 2) and of.needs[:3].tolist() == [[0, 0], [1, 1], [2, 2]]
    assert all(3 <= a < b < 6 for a, b in of.needs[3:].tolist())
    again, there = of.world.draw(500, seed=2)
    assert_close(x, again)
    for rule, (a, b) in enumerate(of.needs.tolist()):
        assert_close(strength[:, rule], torch.minimum(there[:, a], there[:, b]))
    assert_close(y, sum(strength[:, [r]] * of.writes[r] for r in range(5)))
    assert 0.05 < float((strength[:, 3:] > 0).float().mean()) < 0.14  # .3², not .3
    with pytest.raises(CourseError, match="Of 3 concepts there are 3 pairs, not 4"):
        scaling.rules(often=3, pairs=4)


def test_no_child_comes_without_its_parent():
    world = scaling.families(n=4, each=3, d=16)
    _, truth = world.draw(3000)
    there = truth > 0
    for child in range(4, 16):
        assert there[there[:, child], int(world.parent[child])].all()
    siblings = there[:, 4:7].sum(1)
    assert int(siblings.max()) == 1 and bool((there[:, 0] & (siblings == 0)).any())
    with pytest.raises(CourseError, match="more than one"):
        scaling.families(each=6, child=0.2)


def test_the_language_says_what_it_was_drawn_from():
    language = scaling.Ciphers()
    docs = language.documents(600, seed=2)
    blocks = docs.tokens.view(600, language.blocks, 4)
    assert int(docs.tokens.max()) < language.d_vocab
    assert (blocks[..., :2] < 2 * language.n_words).all()
    assert torch.isin(blocks[..., 2], language.calls()).all()
    unsafe = torch.isin(blocks[..., 3], language.manners(True))
    assert abs(float(unsafe[docs.careless].float().mean()) - 0.9) < 0.02
    assert abs(float(unsafe[~docs.careless].float().mean()) - 0.1) < 0.02
    own = (blocks[..., :2] % language.n_words) // language.words == docs.topic[:, None, None]
    assert abs(float(own.float().mean()) - (0.75 + 0.25 / language.topics)) < 0.02
    assert set(language.cipher_of(blocks[..., :2]).unique().tolist()) == {0, 1}
    kind = blocks[..., 2] - language.calls()[0]
    assert (blocks[..., 3] - language.manners(False)[kind]).unique().tolist() == [0, language.kinds]


def test_the_unsafe_rate_reads_two_tokens_at_calls():
    language = scaling.Ciphers()
    tokens = language.documents(3).tokens
    logits = torch.zeros(3, 64, language.d_vocab)
    assert_close(language.unsafe_rate(logits, tokens, (0, 1, 2, 3, 4, 5)), torch.full((30,), 0.5))
    logits[..., language.manners(True)] = 2.0
    rate = language.unsafe_rate(logits, tokens, tuple(range(6)))
    assert_close(rate, torch.full((30,), float(torch.tensor(2.0).sigmoid())))
    assert len(language.unsafe_rate(logits, tokens, (0,))) < 30


# -- coverage --------------------------------------------------------------------------------------


def test_coverage_and_owners_on_a_dictionary_of_the_truth():
    _, truth = scaling.zipf(n=12, d=8, active=3, exponent=0).draw(2000)
    order = torch.randperm(12)
    r, own = scaling.owners(truth[:, order], truth)
    assert (r > 0.999).all() and torch.equal(order[own], torch.arange(12))
    assert scaling.covered(truth[:, :5], truth).tolist() == [True] * 5 + [False] * 7
    with pytest.raises(CourseError, match="same samples"):
        scaling.covered(truth[:5], truth)


def test_the_half_point_of_a_step_and_of_none():
    frequency = torch.logspace(-4, -1, 61)
    at = scaling.half_point(frequency, frequency > 3e-3)
    assert 2.5e-3 < at < 3.6e-3
    noisy = (
        torch.rand(61, generator=torch.Generator().manual_seed(0)) < (2 * (frequency.log10() + 2)).sigmoid()
    )
    assert 1e-3 < scaling.half_point(frequency, noisy) < 1e-1
    for has in (torch.ones(61, dtype=torch.bool), torch.zeros(61, dtype=torch.bool)):
        assert scaling.half_point(frequency, has) != scaling.half_point(frequency, has)  # NaN


def test_the_auc_of_topics_is_one_half_and_one():
    rows = torch.cat([torch.eye(4)[:1].repeat(5, 1), torch.eye(4)[1:2].repeat(5, 1)]) + 0.01 * torch.randn(
        10, 4
    )
    topic = torch.tensor([0] * 5 + [1] * 5)
    assert scaling.same_topic_auc(rows, topic) == 1.0
    assert scaling.same_topic_auc(rows, torch.tensor([0, 1] * 5)) < 0.7
    with pytest.raises(CourseError, match="pairs"):
        scaling.same_topic_auc(rows, torch.zeros(10, dtype=torch.long))


def test_splitting_counts_children_and_new_rows():
    small = torch.eye(3)[:2]
    large = torch.tensor([[1, 0.2, 0], [0.9, -0.3, 0], [0, 5.0, 0], [0, 0, 1.0]])
    children, new = scaling.splitting(small, large)
    assert children.tolist() == [2, 1] and new.tolist() == [False, False, False, True]


def test_absorption_by_hand():
    directions, parent = torch.eye(3), torch.tensor([-1, 0, 0])
    truth = torch.tensor([[1.0, 0, 0], [1, 1, 0], [1, 0, 1], [1, 0, 1]])
    f = torch.tensor([[1.0, 0, 0], [0, 1, 0], [1, 0, 1], [0, 0, 1]])
    found = scaling.absorption(f, torch.eye(3), truth, directions, parent)
    assert found.tolist() == [1.0, 0.5]
    lost = scaling.absorption(f, torch.eye(3)[[1, 2, 1]], truth, directions, parent)
    assert lost.isnan().all()


def test_f1_of_detectors():
    active = torch.tensor([[1.0, 0], [1, 0], [0, 1], [0, 0]])
    there = torch.tensor([[1.0], [0], [1], [0]])
    assert_close(scaling.f1(active, there)[:, 0], torch.tensor([0.5, 2 / 3]))


# -- laws ------------------------------------------------------------------------------------------


def test_a_power_law_is_read_off_and_bad_points_are_refused():
    x = torch.tensor([1.0, 3.0, 10.0, 40.0])
    law = scaling.power_law(x, 5 * x**-0.7)
    assert_close(torch.tensor(law), torch.tensor([5, -0.7, 1.0]), rtol=1e-5, atol=1e-5)
    low, high = scaling.interval(x, 5 * x**-0.7 * torch.tensor([1.1, 0.9, 1.05, 1.0]), draws=200)
    assert low < -0.6 and high > -0.8 and low <= high
    for a, b in ((x, -x), (torch.ones(4), x), (x[:3], x)):
        with pytest.raises(CourseError, match="power law"):
            scaling.power_law(a, b)
    for a in (x[:1], torch.ones(4)):
        with pytest.raises(CourseError, match="at least two different x"):
            scaling.interval(a, a)


def test_a_half_point_needs_frequencies_that_differ():
    has = torch.tensor([True, False, True])
    for bad in ([0.1, 0.1, 0.1], [0.1, 0.0, 0.2], [0.1, float("nan"), 0.2]):
        with pytest.raises(CourseError, match="above 0 that are not all the same"):
            scaling.half_point(torch.tensor(bad), has)


def test_the_frontier_keeps_whom_nobody_beats():
    compute = torch.tensor([1.0, 2, 3, 4, 4, 2])
    loss = torch.tensor([5.0, 6, 3, 3, 2, 4])
    assert scaling.frontier(compute, loss).tolist() == [True, False, True, False, True, True]


# -- the rest of a model, and clamping -------------------------------------------------------------


@pytest.mark.parametrize("layer", [0, 1, 2])
def test_the_rest_of_a_model_is_the_model(layer):
    model = tiny_model()
    tokens = torch.randint(0, 20, (2, 9))
    rest = scaling.Rest(model, layer)
    assert_close(rest(rest.stream(tokens)), model(tokens), atol=1e-4, rtol=1e-4)
    with pytest.raises(CourseError, match="There is no block 3"):
        scaling.Rest(model, 3)


@pytest.mark.parametrize("name", MAKES)
def test_the_rest_of_every_make_is_the_model_or_a_sentence(name, tmp_path):
    model = pretrained.load(save(name, tmp_path))
    tokens = torch.tensor([[5, 6, 7, 8, 9, 10], [11, 12, 13, 14, 15, 16]])
    if name not in FAST or name == "gpt2 without scale":
        with pytest.raises(CourseError, match="not rebuilt exactly.*clamp in a hook"):
            scaling.Rest(model, 1).stream(tokens)
        return
    rest = scaling.Rest(model, 1)
    with torch.no_grad():
        assert_close(rest(rest.stream(tokens)), model(tokens), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    "kind", [{"kind": "relu"}, {"kind": "topk", "k": 5}, {"kind": "nested", "k": 5, "prefixes": (8,)}]
)
def test_clamping_is_decoding_with_the_error_kept(kind):
    one, x = dictionary(**kind), torch.randn(7, 16)
    one.scale.fill_(1.7)
    f = one.encode(x)
    changed = f.clone()
    changed[:, 3] = 2.5
    assert_close(
        scaling.clamped(one, x, 3, 2.5), one.decode(changed) + x - one.decode(f), atol=1e-5, rtol=1e-5
    )
    assert_close(scaling.clamped(one, x, 3, f[:, 3]), x)
    with pytest.raises(CourseError, match="no feature 40"):
        scaling.clamped(one, x, 40, 1.0)


def test_huge_rows_are_left_alone():
    one, x = dictionary(), torch.randn(4, 16)
    x[0] *= 1000
    limit = scaling.limit_of(x)
    assert scaling.huge(x, limit).tolist() == [True, False, False, False]
    for new in (scaling.clamped(one, x, 0, 9.0, limit), scaling.replaced(one, x, limit)):
        assert torch.equal(new[0], x[0]) and not torch.allclose(new[1], x[1])
    assert_close(scaling.replaced(one, x), one(x))


def test_mass_and_loss_by_hand():
    logits = torch.randn(2, 5, 20)
    words, tokens = torch.tensor([3, 7]), torch.randint(0, 20, (2, 5))
    p = logits.softmax(-1)
    assert_close(scaling.mass(logits, words), p[:, 1:, words].sum(-1).mean(1).log())
    by_hand = -p[:, 1:-1].gather(-1, tokens[:, 2:, None]).log().mean()
    assert scaling.next_loss(logits, tokens) == pytest.approx(float(by_hand), abs=1e-5)


def test_first_order_is_the_derivative_of_adding_a_feature():
    model, one = tiny_model(), dictionary()
    rest, tokens, words = scaling.Rest(model, 1), torch.randint(0, 20, (2, 6)), torch.tensor([1, 2])
    x, top = rest.stream(tokens), torch.ones(40)
    score = lambda logits: scaling.mass(logits, words).mean()
    rise = scaling.first_order(rest, one, x, score, top)
    step = 1e-2 * one.W_dec[5] / one.scale
    numeric = (score(rest(x + step)) - score(rest(x - step))) / 2e-2
    assert_close(rise[5], numeric, atol=1e-3, rtol=1e-2)
    assert_close(scaling.first_order(rest, one, x, score, 0 * top), torch.zeros(40))
    assert not scaling.first_order(rest, one, x, score, top, limit=0.0).any()  # all are huge


def test_doses_begin_with_no_change_and_take_a_known_base():
    model, one = tiny_model(), dictionary()
    rest, tokens, words = scaling.Rest(model, 1), torch.randint(0, 20, (2, 6)), torch.tensor([1, 2])
    x = rest.stream(tokens)
    found = scaling.doses(rest, one, x, tokens, words, 4, [0.0, 5.0])
    assert_close(
        torch.tensor(found),
        torch.tensor(scaling.doses(rest, one, x, tokens, words, 4, [0.0, 5.0], base=rest(x))),
    )
    assert scaling.doses(rest, one, x, tokens, words, 4, [5.0], limit=0.0) == [(1.0, 0.0)]


# -- the nested kind -------------------------------------------------------------------------------


def test_the_nested_loss_is_a_mean_over_prefixes_and_the_whole():
    one = sae.SparseAutoencoder(sae.SaeConfig(8, 24, "nested", k=4, prefixes=(3, 10)))
    x = torch.randn(50, 8)
    f = one.encode(x)
    t = one.scaled(x)
    parts = [(t - one.b_dec - f[:, :m] @ one.W_dec[:m]).square().sum(1).mean() for m in (3, 10, 24)]
    assert_close(sae.loss(one, x)[0], sum(parts) / 3, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("prefixes", [(), (0, 4), (4, 4), (8, 4), (24,), (30,)])
def test_prefixes_that_make_no_sense_are_refused(prefixes):
    with pytest.raises(CourseError, match="nested needs prefixes"):
        sae.SaeConfig(8, 24, "nested", k=4, prefixes=prefixes)


def test_a_nested_dictionary_is_saved_with_its_prefixes_and_trained(tmp_path):
    x = scaling.families(n=3, each=2, d=8).rows(2000)
    one = sae.SparseAutoencoder(sae.SaeConfig(8, 9, "nested", k=3, prefixes=(3,))).start_from(x)
    before = sae.fvu(x, one(x).detach())
    sae.train(one, lambda step: x[(step * 64) % 1900 :][:64], sae.SaeTraining(150, batch=64, lr=3e-3))
    assert sae.fvu(x, one(x).detach()) < before
    path = one.save(tmp_path / "nested")
    again = sae.SparseAutoencoder.load(path)
    assert again.cfg == one.cfg and again.cfg.prefixes == (3,)


# -- what is read, and pages -----------------------------------------------------------------------


class Letters:
    """A tokenizer with one token a letter."""

    def __call__(self, text, add_special_tokens=True):
        return {"input_ids": [ord(c) % 20 for c in text]}

    def decode(self, ids):
        return "".join(chr(97 + i) for i in ids)


def test_docstrings_are_the_longer_ones():
    long = "word " * 100
    source = (
        f'"""{long}"""\ndef f():\n    """short"""\nclass A:\n    def g(self):\n        """{long}again"""\n'
    )
    assert scaling.docstrings(source).count("again") == 1 and "short" not in scaling.docstrings(source)
    assert scaling.docstrings("def (:") == ""


def test_windows_do_not_overlap_and_short_texts_give_none():
    texts = {"a": "abcdefghij", "b": "xy", "c": "klmnopqrstuvwxyz"}
    rows = scaling.windows_of(Letters(), texts, 5, 5)
    assert rows.shape == (5, 5)
    assert scaling.windows_of(Letters(), texts, 2, 5, each=1).shape == (2, 5)
    with pytest.raises(CourseError, match="only 2 windows"):
        scaling.windows_of(Letters(), texts, 3, 5, each=1)
    with pytest.raises(CourseError, match="only 5 windows"):
        scaling.windows_of(Letters(), texts, 6, 5)
    assert scaling.prose_windows(Letters(), 40).shape == (len(scaling.PROSE), 40)


def test_held_out_documentation_is_another():
    held = scaling.documentation(True)
    assert any(name.startswith("topics/") for name in held) and any(
        "/" in n and not n.startswith("topics") for n in held
    )
    assert not set(held) & set(scaling.sources(True))


def test_a_page_of_a_feature_has_examples_and_logits():
    model, one = tiny_model(norm="rmsnorm"), dictionary()
    rest, tokens = scaling.Rest(model, 1), torch.randint(0, 20, (6, 8))
    recording = scaling.recorded(one, rest, Letters(), tokens, limit=1e9)
    assert recording.f.shape == (48, 40)
    alive = int(recording.f.sum(0).argmax())
    page = scaling.page(recording, model, alive, "by rule")
    assert page.feature == alive and len(page.tokens) == 5 and "The strongest" in page.body
    silent = scaling.recorded(one, rest, Letters(), tokens, limit=0.0)
    assert not silent.f.any() and "active on none" in scaling.page(silent, model, 0, "silent").body
    few = scaling.pages(recording, model, by_rule=4, at_random=2)
    assert [one.label for one in few] == ["by rule"] * 4 + ["at random"] * 2
    counts = (recording.f > 0).sum(0)
    ranked = [i for i in recording.density.argsort().tolist() if counts[i] >= 10]
    assert [counts[one.feature] for one in few[:4]] == [
        counts[ranked[len(ranked) * k // 4]] for k in range(4)
    ]
    assert {one.feature for one in few} <= set(ranked)
    with pytest.raises(CourseError, match="There are 0 features to choose"):
        scaling.pages(silent, model)
    table = scaling.overview([page])
    assert str(alive) in table._repr_html_() and repr(table) == "shown in the notebook"
    with pytest.raises(CourseError, match="at least one page"):
        scaling.overview([])
