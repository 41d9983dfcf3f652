"""The carried models themselves: what was converted, what it says, whether it is the model transformers reads."""

import pytest
import torch

from mi_course import pretrained
from mi_course.pretrained.registry import wanted

NAME = "smollm2-135m-instruct"
pytestmark = pytest.mark.skipif(not pretrained.here(NAME), reason=wanted(NAME))
TEXT = "The capital of France is a city with 2161000 people, who speak  3 languages."


@pytest.fixture(scope="module")
def model():
    return pretrained.load(NAME)


@pytest.fixture(scope="module")
def folder():
    return pretrained.place(NAME)


def test_it_is_the_model_the_registry_promises(model):
    cfg = model.cfg
    assert (cfg.n_layers, cfg.d_model, cfg.n_heads, cfg.d_head, cfg.d_vocab) == (30, 576, 9, 64, 49152)
    weights = {p.data_ptr(): p.numel() for p in model.parameters()}  # tied ones once
    assert sum(weights.values()) == 134_515_008
    assert {p.dtype for p in model.parameters()} == {torch.float32}


@pytest.mark.parametrize("attention, on_text, on_noise", [("eager", 0, 0), ("sdpa", 2e-4, 1e-2)])
def test_logits_are_those_of_transformers(model, folder, attention, on_text, on_noise):
    """As docs/models.md says; of 150 draws of random tokens, seed 31 is the one where the fused attention is furthest."""
    import transformers

    theirs = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation=attention, local_files_only=True
    ).eval()
    apart = lambda tokens: (model(tokens) - theirs(tokens).logits).abs().max()
    draw = lambda seed: torch.randint(49152, (1, 10), generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        assert apart(model.to_tokens(TEXT * 4)) <= on_text
        assert max(apart(draw(seed)) for seed in (0, 1, 31)) <= on_noise


def test_text_becomes_tokens_as_it_was_trained(model):
    """Digits one by one, runs of blanks whole, nothing put before the text; special tokens are one token each."""
    assert model.to_str_tokens("the year  1999.") == ["the", " year", "  ", "1", "9", "9", "9", "."]
    assert model.to_tokens("<|im_start|>user")[0].tolist() == [1, 4093]
    assert model.tokenizer.decode(model.to_tokens(TEXT)[0]) == TEXT


def test_the_bridges_tokenizer_begins_a_text_and_to_tokens_does_not(model, folder):
    """As `load` and docs/models.md say; notebooks 10 and 12 were measured so."""
    import transformers

    own = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)(TEXT).input_ids
    assert model.to_tokens(TEXT)[0].tolist() == own
    assert model.tokenizer(TEXT, add_special_tokens=False).input_ids == own
    assert model.tokenizer(TEXT).input_ids == [model.tokenizer.bos_token_id, *own]


def test_it_knows_the_capital_of_france(model):
    with torch.no_grad():
        logits = model(model.to_tokens("The capital of France is"))[0, -1]
    assert model.tokenizer.decode(logits.argmax()) == " Paris"


def test_it_answers_in_a_chat(model):
    tokens = pretrained.chat(model, "What is the capital of France?")
    said = model.generate(tokens, max_new_tokens=10, do_sample=False, verbose=False)
    assert "Paris" in model.tokenizer.decode(said[0, tokens.shape[1] :])
    assert model.tokenizer.decode(tokens[0]).startswith("<|im_start|>system\nYou are a helpful AI assistant")


def test_the_first_position_is_a_sink(model):
    """Its stream is more than a hundred times as long as the others', nearly all of it along dimension 507."""
    with torch.no_grad():
        _, cache = model.run_with_cache(model.to_tokens(TEXT), names_filter="blocks.15.hook_in")
    stream = cache["blocks.15.hook_in"][0]
    norms = stream.norm(dim=-1)
    assert norms[0] > 100 * norms[1:].median() and stream[0].abs().argmax() == 507
