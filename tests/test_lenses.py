"""Lenses: one interface, Jacobians by three ways, translators, exits, the planted step, and what is refused in a sentence."""

import pytest
import torch
import transformers
from tokenizers import Tokenizer, pre_tokenizers
from tokenizers import models as kinds

from mi_course import files, lenses, models, patching, pretrained
from mi_course.errors import CourseError
from mi_course.lenses import backward
from mi_course.lenses.jacobian import of_batch
from mi_course.training import TrainConfig


@pytest.fixture(scope="module")
def small():
    cfg = models.TinyConfig(n_layers=3, n_heads=2, d_model=16, d_vocab=30, n_ctx=24, d_mlp=24, norm="rmsnorm")
    return models.TinyTransformer(cfg).eval().requires_grad_(False)


@pytest.fixture(scope="module")
def tokens():
    return torch.randint(30, (4, 20), generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    """A small model of Llama's kind with random weights, as a bridge, and prompts for it."""
    folder = tmp_path_factory.mktemp("llama")
    vocabulary = {"<unk>": 0, "<eos>": 1} | {f"w{i}": i + 2 for i in range(38)}
    words = Tokenizer(kinds.WordLevel(vocabulary, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    reads = transformers.PreTrainedTokenizerFast(
        tokenizer_object=words, unk_token="<unk>", eos_token="<eos>", bos_token="<eos>"
    )
    reads.save_pretrained(folder)
    config = transformers.LlamaConfig(
        vocab_size=40, hidden_size=24, intermediate_size=48, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=64,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        transformers.LlamaForCausalLM(config).save_pretrained(folder)
    draws = torch.randint(38, (3, 26), generator=torch.Generator().manual_seed(1)).tolist()
    return folder, [" ".join(f"w{i}" for i in row) for row in draws]


# --- streams and the interface ----------------------------------------------------------------------


def test_the_last_layer_is_the_model_and_every_layer_is_norm_and_unembedding(small, tokens):
    read = lenses.logit_lens().read(small, tokens)
    assert list(read) == [0, 1, 2, 3]
    assert torch.allclose(read[3], small(tokens), atol=1e-6)
    _, cache = small.run_with_cache(tokens)
    h = cache["resid_pre", 1]
    by_hand = h / (h.square().mean(-1, keepdim=True) + 1e-5).sqrt() * small.ln_final.w @ small.W_U
    assert torch.allclose(read[1], by_hand, atol=1e-5)


def test_a_bridge_is_read_as_well(llama):
    bridge = pretrained.load(llama[0])
    ids = bridge.to_tokens(llama[1][0])
    assert torch.allclose(lenses.logit_lens().read(bridge, ids, [3])[3], bridge(ids), atol=1e-5)


def test_a_lens_is_an_affine_map_and_is_saved_whole(small, tokens, tmp_path):
    W, b = torch.randn(16, 16), torch.randn(16)
    lens = lenses.Lens("mine", {1: W.half().float()}, {1: b}, lenses.fingerprint(small))
    h = lenses.streams(small, tokens, [1])[1]
    assert torch.allclose(
        lens.logits(small, h, 1), lenses.unembed(small, h @ W.half().float() + b), atol=1e-4
    )
    again = lenses.load_lens(lens.save(tmp_path / "mine", made="here"))
    assert again.layers == [1] and again.card["made"] == "here" and repr(again) == "Lens(mine: layers 1)"
    assert torch.equal(again.weights[1], lens.weights[1]) and torch.equal(again.shifts[1], b)


def test_vectors_of_a_lens_are_its_gradients_up_to_the_norm(small, tokens):
    lens = lenses.jacobian_lens(small, tokens, [1], skip=4)
    reads = small.ln_final.w[:, None] * small.W_U
    assert torch.allclose(lens.vectors(small, 1), (lens.weights[1] @ reads).T, atol=1e-5)
    assert torch.allclose(lenses.logit_lens().vectors(small, 1), reads.T)


def test_a_random_imitation_has_the_same_singular_values_and_other_directions(small, tokens):
    lens = lenses.jacobian_lens(small, tokens, [1], skip=4)
    other = lenses.random_like(lens, 3)
    same = torch.linalg.svdvals(other.weights[1]), torch.linalg.svdvals(lens.weights[1])
    assert torch.allclose(*same, atol=1e-4) and float((other.weights[1] - lens.weights[1]).norm()) > 1


# --- Jacobians --------------------------------------------------------------------------------------


def test_jacobians_are_what_a_loop_over_autograd_gives(small, tokens):
    final = lambda h: small.ln_final is None or h  # noqa: E731

    def last(h):
        found = {}
        hooks = [("blocks.1.hook_resid_pre", lambda x, hook: h[None]),
                 ("blocks.2.hook_resid_post", lambda x, hook: found.setdefault("end", x))]  # fmt: skip
        small.run_with_hooks(tokens[:1], fwd_hooks=hooks)
        return final(found["end"][0, 5:-1].sum(0))

    h = lenses.streams(small, tokens[:1], [1])[1][0]
    with torch.enable_grad():
        whole = torch.autograd.functional.jacobian(last, h)  # out pos in
    lens = lenses.jacobian_lens(small, tokens[:1], [1], skip=5)
    assert torch.allclose(lens.weights[1].T, whole[:, 5:-1].mean(1), atol=1e-5)


def test_batches_and_splits_change_nothing(small, tokens):
    one, four = (lenses.jacobian_lens(small, tokens, skip=4, batch=n) for n in (1, 4))
    assert all(torch.allclose(one.weights[k], four.weights[k], atol=1e-5) for k in one.layers)
    assert torch.allclose(one.weights[3], torch.eye(16), atol=1e-6)


def test_weights_keep_their_gradients_switched_as_they_were(tokens):
    model = models.TinyTransformer(
        models.TinyConfig(n_layers=1, d_model=8, n_heads=2, d_vocab=30, n_ctx=24)
    ).eval()
    model.unembed.W_U.requires_grad_(False)
    lenses.jacobian_lens(model, tokens, skip=4)
    assert (
        not model.unembed.W_U.requires_grad and model.embed.W_E.requires_grad and model.embed.W_E.grad is None
    )


def test_by_hand_by_autograd_and_transformer_lens_agree(llama):
    bridge = pretrained.load(llama[0])
    ids = torch.cat([bridge.to_tokens(text) for text in llama[1]])
    theirs = pretrained.peer_jacobians(bridge, llama[1], skip=4)
    ours = lenses.jacobian_lens(bridge, ids, skip=4)
    assert backward.rebuilt(bridge) is not None
    n = ids.shape[1]
    slow = of_batch(bridge, ids, [1, 2], list(range(4, n - 1)), list(range(4, n - 1)), False)
    for layer, J in theirs.items():
        assert torch.allclose(ours.weights[layer].T, J, atol=1e-4)
        assert torch.allclose(slow[layer] / len(ids), J, atol=1e-4)


def test_coarse_products_are_near(llama):
    bridge = pretrained.load(llama[0])
    ids = torch.cat([bridge.to_tokens(text) for text in llama[1]])
    exact, coarse = (lenses.jacobian_lens(bridge, ids, skip=4, coarse=c) for c in (False, True))
    n = ids.shape[1]
    graph = of_batch(bridge, ids, [1], list(range(4, n - 1)), list(range(4, n - 1)), True)[1].T / len(ids)
    for found in (coarse.weights[1], graph):
        error = float((found - exact.weights[1]).norm() / exact.weights[1].norm())
        assert 0 < error < 0.01


def test_models_of_64_bits_are_read_as_those_of_32(llama):
    """Rotary tables, slopes and weights are of the model's own format; a lens is of 32 bits."""
    bridges = [pretrained.load(llama[0], dtype=dtype) for dtype in (torch.float32, torch.float64)]
    ids = torch.cat([bridges[0].to_tokens(text) for text in llama[1]])
    assert backward.rebuilt(bridges[1]) is not None
    for coarse, near in ((False, 1e-5), (True, 0.02)):
        single, double = (lenses.jacobian_lens(b, ids, skip=4, coarse=coarse).weights for b in bridges)
        for layer, W in single.items():
            torch.testing.assert_close(double[layer], W, atol=near, rtol=near)


# --- translators and exits ---------------------------------------------------------------------------


def test_a_ridge_translator_is_least_squares_and_shrinks_to_the_identity(small, tokens):
    free = lenses.ridge_translators(small, tokens, [1], ridge=0, first=0)
    found = lenses.streams(small, tokens, [1, 3])
    X = torch.cat([found[1].flatten(0, 1), torch.ones(80, 1)], 1).double()
    best = torch.linalg.lstsq(X, found[3].flatten(0, 1).double()).solution
    assert torch.allclose(free.weights[1].double(), best[:-1], atol=1e-2)
    stiff = lenses.ridge_translators(small, tokens, [1], ridge=1e6, first=0)
    assert torch.allclose(stiff.weights[1], torch.eye(16), atol=1e-3)


def test_training_a_translator_lowers_its_divergence(small, tokens, tmp_path):
    tuned = lenses.train_translators(
        small, lambda step: tokens, [0], TrainConfig(steps=30, lr=1e-2, warmup=1), first=0,
        checkpoint=tmp_path / "t.partial",
    )  # fmt: skip
    final = small(tokens).flatten(0, 1)
    far = lambda lens: float(patching.kl(lens.read(small, tokens, [0])[0].flatten(0, 1), final).mean())  # noqa: E731
    assert far(tuned) < 0.9 * far(lenses.logit_lens())


def test_exits_and_thresholds():
    choices = torch.tensor([[1, 2, 3], [1, 5, 3], [1, 5, 4]])
    sure = torch.tensor([[0.9, 0.6, 0.1], [0.9, 0.9, 0.1], [0.9, 0.9, 0.2]])
    final = torch.tensor([1, 5, 4])
    out = lenses.early_exits(choices, sure, 0.9, final)
    assert out.layer.tolist() == [0, 1, 3] and out.agreement == 1.0
    assert out.saved == pytest.approx((3 + 2 + 0) / 9)
    assert lenses.settled_at(torch.cat([choices, final[None]])).tolist() == [0, 1, 2]
    assert 0.6 < lenses.threshold_for(choices, sure, final, 1.0) <= 0.9
    assert lenses.threshold_for(choices, sure * 0 + 1, torch.tensor([9, 9, 9]), 1.0) == float("inf")


# --- the planted language --------------------------------------------------------------------------


def test_the_planted_language_says_what_it_promises():
    language = lenses.HiddenStep()
    question = language.questions(torch.tensor([30]), torch.tensor([2]))[0]
    assert int(question[-1]) == int(language.facts[language.named[30] - language.starts["entity"], 2])
    asked, pair = language.all_questions(False)
    assert not language.asked_in_training[pair].any() and int(asked.max()) < language.d_vocab
    batch = language.batches(40)(3)
    assert batch.shape == (40, lenses.hidden_step.LENGTH) and torch.equal(batch, language.batches(40)(3))
    assert [language.word(t) for t in (0, 1, 2)] == [".", "is", "first 0"]
    assert language.named.unique().numel() == language.entities


def test_what_follows_a_name_sees_it_alone_and_late():
    model = lenses.hidden_step_model(trained=False)
    tokens = lenses.HiddenStep().questions(torch.tensor([5]), torch.tensor([1]))
    _, cache = model.run_with_cache(tokens)
    for block in range(4):
        seen = cache["pattern", block][0, :, lenses.ASKED, :4].mean(0) > 0
        assert seen.tolist() == [False, False, block >= 2, True]


def test_the_shipped_model_answers_questions_it_never_read():
    asked, _ = lenses.HiddenStep().all_questions(False)
    with torch.no_grad():
        said = lenses.hidden_step_model()(asked)[:, lenses.ASKED].argmax(-1)
    assert float((said == asked[:, -1]).float().mean()) > 0.9


def test_what_is_shipped_is_small_and_names_its_recipe():
    names = ("deep-6l", "hidden-step", "smollm2-jacobian", "smollm2-tuned")
    sizes = [(files.checkpoints() / f"{name}.safetensors").stat().st_size for name in names]
    assert sum(sizes) <= 12e6
    for name in names[2:]:
        lens = lenses.load_lens(name)
        assert len(lens.layers) >= 6 and lens.card["recipe"] == name


def test_windows_come_from_the_side_that_is_asked_for():
    from mi_course.corpora import shipped_tokenizer

    tokenizer = shipped_tokenizer("python-512")
    ours = [lenses.windows(tokenizer, 4, 32, held_out=held, seed=1) for held in (True, False)]
    assert all(rows.shape == (4, 32) for rows in ours) and not torch.equal(*ours)
    assert torch.equal(ours[0], lenses.windows(tokenizer, 4, 32, held_out=True, seed=1))


# --- bad input -----------------------------------------------------------------------------------------


def test_a_lens_of_another_model_is_refused(small, tokens):
    lens = lenses.jacobian_lens(small, tokens, [1], skip=4)
    cfg = models.TinyConfig(**{**vars(small.cfg), "seed": 1})
    other = models.TinyTransformer(cfg).eval()
    with pytest.raises(CourseError, match="fitted on a model of another configuration"):
        lens.read(other, tokens)


@pytest.mark.parametrize("layers", [[4], [-1], [True], []])
def test_a_layer_that_is_not_there_is_refused(small, tokens, layers):
    with pytest.raises(CourseError, match="There is no layer|at least one layer"):
        lenses.streams(small, tokens, layers)


def test_a_layer_without_a_map_is_refused(small, tokens):
    lens = lenses.jacobian_lens(small, tokens, [1], skip=4)
    with pytest.raises(CourseError, match="no map for layer 2: it has 1"):
        lens.read(small, tokens, [2])


def test_a_folded_bridge_is_refused(llama):
    bridge = pretrained.load(llama[0])
    bridge.enable_compatibility_mode()
    with pytest.raises(CourseError, match="folded or centred"):
        lenses.logit_lens().read(bridge, bridge.to_tokens(llama[1][0]))


def test_prompts_that_do_not_fit_are_refused(small):
    with pytest.raises(CourseError, match="context|n_ctx|positions"):
        lenses.streams(small, torch.zeros(1, 25, dtype=torch.long))
    with pytest.raises(CourseError, match="no such sources"):
        lenses.jacobian_lens(small, torch.zeros(1, 10, dtype=torch.long))


def test_other_bad_input_is_one_sentence(small, tokens):
    with pytest.raises(CourseError, match="training mode"):
        lenses.streams(models.TinyTransformer(small.cfg), tokens)
    with pytest.raises(CourseError, match="layers and hooks"):
        lenses.streams(torch.nn.Linear(2, 2), tokens)
    with pytest.raises(CourseError, match="no lens 'smollm2-jacobean'. Did you mean"):
        lenses.load_lens("smollm2-jacobean")
    with pytest.raises(CourseError, match="ridge"):
        lenses.ridge_translators(small, tokens, ridge=-1)
    with pytest.raises(CourseError, match="agreement"):
        lenses.threshold_for(tokens[:2], torch.rand(2, 20), tokens[0], 1.5)
    with pytest.raises(CourseError, match="families"):
        lenses.HiddenStep(families=1)
    with pytest.raises(CourseError, match="only 1|only \\d+ texts"):
        from mi_course.corpora import shipped_tokenizer

        lenses.windows(shipped_tokenizer("python-512"), 10_000, 3000, held_out=True)
