"""Features: measures with known answers, pages and galleries of a hand-made autoencoder."""

import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mi_course import files
from mi_course import sae as features
from mi_course.corpora import scripts
from mi_course.corpora.corpus import Corpus, generator
from mi_course.corpora.vocabulary import shipped_tokenizer
from mi_course.errors import CourseError
from mi_course.models import TinyConfig, TinyTransformer
from mi_course.sae.dictionary import SaeConfig, SparseAutoencoder

TEXT = "def item(self):\n    return self.count\n# ابة ابث اا\n# ACGTTGCAACGT\nname = 'value'\n" * 40


@pytest.fixture(scope="module")
def corpus():
    """A little text whose Arabic and DNA are known."""
    tokenizer = shipped_tokenizer("scripts-1024")
    encoding = tokenizer.encode(TEXT)
    stream = torch.tensor(encoding.ids)
    kinds = torch.full((len(stream),), -1, dtype=torch.int8)
    for i, (start, end) in enumerate(encoding.offsets):
        if any(c in scripts.ARABIC for c in TEXT[start:end]):
            kinds[i] = scripts.SCRIPTS.index("arabic")
    return scripts.ScriptCorpus("a little text", tokenizer, stream, stream, (1, 1), (1, 1), "0", kinds, kinds)


@pytest.fixture(scope="module")
def model():
    shape = TinyConfig(
        1,
        n_heads=2,
        d_model=16,
        d_vocab=1024,
        n_ctx=32,
        d_mlp=24,
        norm="rmsnorm",
        positions="rotary",
        bias=True,
    )
    return TinyTransformer(shape).eval().requires_grad_(False)


@pytest.fixture(scope="module")
def sae():
    made = SparseAutoencoder(SaeConfig(24, 12, "relu", l1=1.0))
    with torch.no_grad():
        made.W_enc.mul_(8)
        made.scale.fill_(2.0)
        made.b_enc[5] = -1e6  # a dead feature
    return made.eval().requires_grad_(False)


# -- measures ------------------------------------------------------------------------------------


def test_proxy_correlation_is_pearsons():
    f = torch.randn(500, 4, generator=generator(1)).relu()
    proxy = f[:, 2] + torch.randn(500, generator=generator(2)) > 0.8
    expected = torch.corrcoef(torch.cat([f, proxy[:, None].float()], 1).T)[:4, 4]
    torch.testing.assert_close(features.proxy_correlation(f, proxy), expected)
    torch.testing.assert_close(features.proxy_correlation(f.half(), proxy), expected, atol=1e-3, rtol=1e-2)


def test_what_never_changes_correlates_with_nothing():
    f = torch.stack([torch.zeros(50), torch.full((50,), 3.1), torch.arange(50.0)], 1)
    r = features.proxy_correlation(f, torch.arange(50) > 20)
    assert r[:2].tolist() == [0, 0] and r[2] > 0.8
    assert features.proxy_correlation(f, torch.ones(50, dtype=torch.bool)).tolist() == [0, 0, 0]
    with pytest.raises(CourseError, match="same two or more samples"):
        features.correlations(f, torch.ones(49, 1))


@given(st.integers(0, 2**31), st.integers(1, 40))
@settings(max_examples=20, deadline=None)
def test_correlations_do_not_depend_on_the_pieces(seed, chunk):
    a, b = torch.randn(60, 3, generator=generator(seed)), torch.randn(60, 2, generator=generator(seed, 1))
    torch.testing.assert_close(
        features.correlations(a, b, chunk), features.correlations(a, b), atol=1e-5, rtol=1e-4
    )
    torch.testing.assert_close(features.correlations(a, b), features.correlations(b, a).T)


def test_the_best_match_of_a_shuffled_dictionary_is_the_shuffle():
    f = torch.randn(400, 6, generator=generator(3)).relu()
    order = torch.randperm(6, generator=generator(4))
    r, index = features.best_match(f, 3.0 * f[:, order])
    assert torch.equal(index, order.argsort())
    torch.testing.assert_close(r, torch.ones(6))


def test_enrichment_of_a_perfect_feature_is_one_over_the_rate():
    proxy = torch.arange(200) < 10
    assert features.enrichment(proxy.float(), proxy) == pytest.approx(20)
    assert features.enrichment(torch.ones(200), proxy) == pytest.approx(1)
    assert features.enrichment(torch.zeros(200), proxy) == 0
    with pytest.raises(CourseError, match="does not occur"):
        features.enrichment(torch.ones(200), torch.zeros(200, dtype=torch.bool))


@given(st.integers(0, 2**31), st.integers(1, 7), st.integers(1, 4))
@settings(max_examples=30, deadline=None)
def test_intervals_hold_what_they_say(seed, n, each):
    f = torch.randn(80, generator=generator(seed)).relu()
    found = features.intervals(f, n, each, seed)
    assert len(found) == n
    for step, members in zip(range(n, 0, -1), found, strict=True):
        assert len(members) == len(set(members.tolist())) <= each
        share = f[members] / f.max() * n
        assert bool(((share > step - 1 - 1e-4) & (share <= step + 1e-4)).all())


def test_intervals_of_a_dead_feature_are_empty():
    assert [len(found) for found in features.intervals(torch.zeros(9), 3)] == [0, 0, 0]


def test_logit_weights_are_what_a_little_more_of_a_feature_adds(sae, model):
    """Without the final norm's division the path is linear: compare with a difference of logits."""
    layer = model.blocks[0].mlp
    weights = features.logit_weights(sae, model)
    assert weights.shape == (12, 1024)
    stream = torch.randn(16, generator=generator(5))
    added = (sae.decode(torch.eye(12)) - sae.decode(torch.zeros(1, 12))) @ layer.W_out
    by_hand = ((stream + added) - stream) * model.ln_final.w @ model.W_U
    torch.testing.assert_close(weights, by_hand, atol=1e-5, rtol=1e-4)
    lost = SparseAutoencoder(sae.cfg)
    lost.card = {"hook": "blocks.0.attn.hook_pattern"}
    with pytest.raises(CourseError, match="no direct path"):
        features.logit_weights(lost, model)


def test_ablation_takes_out_one_feature_and_nothing_else(sae, model):
    tokens = torch.randint(1024, (3, 20), generator=generator(6))
    rise = features.ablation_effect(sae, model, tokens, 3)
    x = model.run_with_cache(tokens)[1][features.HOOK]
    without = x - sae.encode(x)[..., 3, None] * sae.W_dec[3] / sae.scale
    loss = lambda hooks: model.run_with_hooks(
        tokens, fwd_hooks=hooks, return_type="loss", loss_per_token=True
    )
    torch.testing.assert_close(rise, loss([(features.HOOK, lambda x, hook: without)]) - loss([]))
    assert rise.abs().max() > 0
    silent = sae.encode(x)[:, :-1, 3] == 0
    assert rise[silent].abs().max() < 1e-5, "one layer: where the feature is silent nothing changes"
    assert features.ablation_effect(sae, model, tokens, 5).abs().max() == 0, "a dead feature"


# -- pages ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def recording(sae, model, corpus):
    return features.record(sae, model, corpus, windows=24)


def test_a_recording_is_what_the_model_and_the_autoencoder_do(recording, sae, model):
    x = model.run_with_cache(recording.tokens)[1][features.HOOK].flatten(0, 1)
    torch.testing.assert_close(recording.f, sae.encode(x))
    torch.testing.assert_close(recording.density, (recording.f > 0).float().mean(0))
    assert recording.script.shape == recording.tokens.shape and recording.proxies.shape == (12, 8)
    rows = {tuple(row) for row in recording.tokens.tolist()}
    assert "12 features" in repr(recording) and len(rows) > 1


def test_a_page_says_everything_in_words_too(recording, sae, model, corpus):
    page = features.feature_page(sae, model, corpus, 3, recording=recording, script="arabic", label="letters")
    html = page._repr_html_()
    for part in ("Examples", "Histogram", "taken out", "Logit weights", "neurons", "features"):
        assert part in html
    assert repr(page) == "Feature page: letters (an autoencoder of 12 features)"
    assert all("alt=" in image for image in re.findall(r"<img[^>]*>", html))
    assert 'aria-label="strongest here on' in html and 'class="mi-n"' in html
    assert "\ufffd" not in html and "http" not in html
    assert set(page.facts) >= {"active on", "largest activation", "r with the proxy", "enrichment"}
    assert len(page.tokens) == 5 and 3 not in page.neighbours


def test_what_depends_on_the_text_is_blanked_when_notebooks_are_compared(recording, sae, model, corpus):
    config = (files.data_dir().parent / "tests" / "nbval_sanitize.cfg").read_text(encoding="utf-8")
    html = features.feature_page(sae, model, corpus, 3, recording=recording)._repr_html_()
    for pattern, by in re.findall(r"regex: (.*)\nreplace: (.*)", config):
        html = re.sub(pattern, by, html)
    assert not re.search(r"\d\.\d", html.replace("0.2em", "").replace(".9em", "")), "a number is compared"
    assert "Examples" in html and "Logit weights" in html


def test_a_dead_feature_has_a_page(recording, sae, model, corpus):
    page = features.feature_page(sae, model, corpus, 5, recording=recording)
    assert "active on none" in page.body and page.facts["largest activation"] == 0


def test_a_page_without_scripts_or_recording(sae, model, corpus):
    plain = Corpus("plain", corpus.tokenizer, corpus.train, corpus.held_out, (1, 1), (1, 1), "0")
    page = features.feature_page(sae, model, plain, 3)
    assert page.label == "no script" and "enrichment" not in page.facts
    with pytest.raises(CourseError, match="no planted scripts"):
        features.feature_page(sae, model, plain, 3, script="arabic")


@pytest.mark.parametrize("bad", [-1, 12, "3", 2.0, None])
def test_a_bad_number_gets_a_sentence(sae, model, corpus, recording, bad):
    with pytest.raises(CourseError, match=r"There is no feature .*numbered 0…11"):
        features.feature_page(sae, model, corpus, bad, recording=recording)


def test_a_feature_that_was_not_recorded(sae, model, corpus):
    few = features.record(sae, model, corpus, [1, 4], windows=4)
    assert few.f.shape[1] == 2 and few.density.shape == (12,)
    with pytest.raises(CourseError, match="was not recorded"):
        features.feature_page(sae, model, corpus, 2, recording=few)
    with pytest.raises(CourseError, match="at least one window"):
        features.record(sae, model, corpus, [], windows=4)


def test_a_choice_from_rare_to_frequent_is_even_and_leaves_the_dead_out():
    density = torch.tensor([0.0, 0.5, 0.1, 0.0, 0.3, 0.2, 0.9])
    assert features.from_rare_to_frequent(density, 5) == [2, 5, 4, 1, 6]
    assert features.from_rare_to_frequent(density, 2) == [2, 4]
    assert features.from_rare_to_frequent(density, 2, least=0.3) == [4, 1]
    assert features.from_rare_to_frequent(density, 99) == [2, 5, 4, 1, 6]  # there are no more
    for n, least in ((0, 0), (3, 0.95)):
        with pytest.raises(CourseError, match="at least one of each"):
            features.from_rare_to_frequent(density, n, least)


# -- the gallery ---------------------------------------------------------------------------------


def test_a_gallery_leads_everywhere_and_asks_for_nothing(recording, sae, model, corpus, tmp_path):
    pages = [features.feature_page(sae, model, corpus, i, recording=recording) for i in (0, 3, 5)]
    index = features.gallery(pages, tmp_path / "features")
    text = index.read_text(encoding="utf-8")
    assert text.count("<tr data-text=") == 3 and 'type="search"' in text
    for file in index.parent.glob("*.html"):
        html = file.read_text(encoding="utf-8")
        assert not re.search(r'(?:src|href)="(?:https?:)?//', html)
        for link in re.findall(r'href="([^"#:]+\.html)"', html):
            assert (index.parent / link).exists(), f"{file.name} leads to {link}"
    with pytest.raises(CourseError, match="at least one"):
        features.gallery([], tmp_path)
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(CourseError, match="could not be written"):
        features.gallery(pages, tmp_path / "file")


# -- byte pieces ---------------------------------------------------------------------------------


def test_pieces_of_letters_are_shown_by_their_bytes(corpus):
    assert corpus.token_strings(corpus.encode("خ").tolist()) == ["\\xd8", "\\xae"]
    assert not any("\ufffd" in token for token in corpus.vocabulary)
    assert len(set(corpus.vocabulary)) == corpus.d_vocab
    every = b"".join(corpus.token_bytes(t) for t in corpus.encode("a = 'אب'\n").tolist())
    assert every.decode() == "a = 'אب'\n"


def test_pieces_of_letters_are_shown_by_the_letter_beside_their_neighbours(corpus):
    word = corpus.encode("x = 'خب'\n").tolist()
    assert corpus.spelt(word) == ["x", "·=", "·'", "خ¹", "خ²", "ب", "'", "⏎"]
    first, second = corpus.encode("خ").tolist()
    assert corpus.spelt([first]) == ["[ابة…]¹"], "the text's own letters, the most frequent first"
    assert corpus.spelt([second]) == ["[\\xae]²"], "no letter of the text goes on so"
    assert corpus.spelt([second, first, second])[1:] == ["خ¹", "خ²"]
    plain = corpus.encode("def f(x):\n    return 1\n")
    assert corpus.spelt(plain) == corpus.token_strings(plain)


def test_a_page_shows_letters_and_no_bytes(sae, model, corpus):
    rec = features.record(sae, model, corpus, [0])
    of_arabic = (rec.script == scripts.SCRIPTS.index("arabic")).flatten().float()
    places = [(w, 16) for w in range(len(rec.tokens))]
    html = features.context_lines(rec, of_arabic.view(rec.tokens.shape), places, 14, 5)
    html += features.logits_part(corpus, torch.arange(1024.0), 1024)
    assert "ب¹" in html and "ب²" in html and "[ابة…]¹" in html
    assert re.findall(r"\\x(?:d8|a7|a8|a9|ab)", html) == [], "the bytes of the text's letters"
