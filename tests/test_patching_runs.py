"""Runs and the sources made of them."""

import pytest
import torch
from torch import Tensor
from transformers import BatchEncoding

from mi_course.errors import CourseError
from mi_course.models import TinyConfig, TinyTransformer, checked_tokens
from mi_course.patching import Experiment, Node, checked_pos, chosen, record_some
from mi_course.patching.pair import checked_source
from mi_course.patching.runs import noised_embeddings, record, same_group
from tests.naive_patching import model_of, prompts


@pytest.fixture
def run():
    model = model_of(1, n_layers=2, d_mlp=6)
    return record(model, prompts(model, 5)[0])


def test_zero_and_mean(run):
    assert all(bool((value == 0).all()) for value in run.zero().acts.values())
    mean, grouped = run.mean(), run.mean(["a", "b", "a", "a", "b"])
    for key, value in run.acts.items():
        torch.testing.assert_close(mean.acts[key], value.mean(0, keepdim=True).expand_as(value))
        torch.testing.assert_close(
            grouped.acts[key][[0, 2, 3]], value[[0, 2, 3]].mean(0).expand(3, *value.shape[1:])
        )
        torch.testing.assert_close(grouped.acts[key][4], value[[1, 4]].mean(0))
    assert (run.made, mean.made, run.zero().made, run.resampled(0).made) == ("", "mean", "zero", "resampled")
    assert repr(mean) == "Run(mean: 5 prompts × 6 positions)" and "recorded" in repr(run)


def origin(run, other):
    """From which prompt each row of `other` comes."""
    first = run.acts["z", 1]
    return [next(i for i in range(5) if torch.equal(first[i], row)) for row in other.acts["z", 1]]


def test_resampling_gives_every_prompt_anothers_activations(run):
    for seed in range(6):
        came = origin(run, run.resampled(seed))
        assert sorted(came) == list(range(5)) and all(a != b for a, b in enumerate(came))
    orders = {tuple(origin(run, run.resampled(seed))) for seed in range(6)}
    assert len(orders) > 1 and origin(run, run.resampled(3)) == origin(run, run.resampled(3))
    grouped = origin(run, run.resampled(0, groups=torch.tensor([0, 1, 0, 2, 1])))
    assert grouped == [2, 4, 0, 3, 1]  # prompt 3 is alone


def test_a_source_that_does_not_fit_is_refused_wherever_it_is_given():
    model = model_of(1, n_layers=2, d_mlp=6)
    clean, corrupted, right, wrong = prompts(model, 2, 5)
    exp = Experiment(model, clean, corrupted, right, wrong)
    mask = torch.tensor([[0, 1, 1, 1, 1], [1, 1, 1, 1, 1]])
    others = [
        model_of(1, n_layers=3, d_mlp=6),
        model_of(1, n_layers=2, d_mlp=6, n_heads=4),
        model_of(1, n_layers=2, d_model=4),
    ]
    others += [model_of(1, n_layers=2, d_mlp=6).double()]
    sources = {
        "padded differently": [
            record(model, clean, attention_mask=mask),
            record(model, clean, attention_mask=mask).mean(),
        ],
        "of another size or number format": [record(other, clean) for other in others],
        "holds no .* of layer [01]": [record_some(model, clean, ["mlp_out"])],
    }
    heads = [Node("z", 0, 0), Node("z", 1, 1)]
    asked = [
        lambda source: exp.sweep("z", source=source),
        lambda source: exp.patch(heads, "noising", source=source),
        lambda source: exp.logits("resid_pre", source=source),
        lambda source: exp.attribution("z", source=source),
        lambda source: exp.edge_attribution(source=source),
        lambda source: exp.path_sweep("logits", source=source),
        lambda source: exp.random_circuits(heads, 2, source=source),
    ]
    for sentence, refused in sources.items():
        for source in refused:
            for ask in asked:
                with pytest.raises(CourseError, match=sentence):
                    ask(source)
    assert exp.sweep("mlp_out", source=record_some(model, clean, ["mlp_out"])).values.shape == (2, 5)
    with pytest.raises(CourseError, match="must be a run.*not a str"):
        checked_source("mean", exp.clean)
    with pytest.raises(CourseError, match="corrupted is a run of a model of another size"):
        Experiment(model, clean, record(others[1], corrupted), right, wrong)


def test_groups_name_every_prompt(run):
    with pytest.raises(CourseError, match="groups names 2 prompts; the run has 5"):
        run.mean([0, 1])
    assert same_group(["x", "y", "x"], 3, "cpu").tolist() == [[1, 0, 1], [0, 1, 0], [1, 0, 1]]


def test_noise_is_measured_in_standard_deviations_of_the_table():
    model = TinyTransformer(TinyConfig(n_layers=1, d_model=64, d_vocab=50, n_ctx=8)).requires_grad_(False)
    tokens = torch.randint(50, (200, 8))
    noise = noised_embeddings(model, tokens, sd=3, seed=1) - model.W_E[tokens]
    assert float(noise.std() / model.W_E.std()) == pytest.approx(3, rel=0.02)
    assert torch.equal(noised_embeddings(model, tokens, seed=1), noised_embeddings(model, tokens, seed=1))
    assert not torch.equal(noised_embeddings(model, tokens, seed=1), noised_embeddings(model, tokens, seed=2))
    with pytest.raises(CourseError, match="no position 8"):
        noised_embeddings(model, tokens, positions=[8])


def test_runs_of_nonsense_are_refused():
    model = model_of(1, n_layers=1)
    with pytest.raises(CourseError, match="must be \\[batch pos\\]"):
        record(model, torch.zeros(0, 3, dtype=torch.long))
    with pytest.raises(CourseError, match="9 tokens do not fit: this model reads n_ctx=8"):
        record(model, torch.zeros(1, 9, dtype=torch.long))
    with pytest.raises(CourseError, match="Token ids 0…11 leave the vocabulary 0…10"):
        record(model, torch.tensor([[0, 11]]))
    with pytest.raises(CourseError, match="zero layers"):
        record(model_of(1, n_layers=0), torch.tensor([[0, 1]]))
    with pytest.raises(CourseError, match="embed is \\[1, 2, 3\\], not"):
        record(model, torch.tensor([[0, 1]]), embed=torch.zeros(1, 2, 3))
    model.blocks[0].attn.W_V.data[0, 0, 0] = torch.nan
    with pytest.raises(CourseError, match="NaN or infinity"):
        record(model, torch.tensor([[0, 1]]))


class Decoder(torch.nn.Module):
    """A module of Hugging Face's kind, or a bridge of encoder and decoder: with layers, but no `blocks`."""

    def __init__(self):
        super().__init__()
        self.decoder_blocks, self.cfg = torch.nn.ModuleList([torch.nn.Linear(2, 2)]), None


@pytest.mark.parametrize("model", [Decoder(), None, "smollm2-135m-instruct"])
def test_what_is_no_model_to_patch_is_refused(model):
    tokens = torch.tensor([[0, 1]])
    for ask in (
        lambda: record(model, tokens),
        lambda: record_some(model, tokens, ["z"]),
        lambda: Experiment(model, tokens, tokens.flip(1), 0, 1),
        lambda: noised_embeddings(model, tokens),
    ):
        with pytest.raises(CourseError, match=f"type {type(model).__name__} cannot be patched: take a Tiny"):
            ask()


def test_tokens_come_as_tensors_arrays_or_lists():
    model = model_of(1, n_layers=1)
    clean, corrupted, right, wrong = prompts(model, 3, 5)
    theirs = Experiment(model, clean, corrupted, right, wrong)
    for form in (Tensor.numpy, Tensor.tolist, Tensor.int, lambda x: x.numpy().astype("uint16")):
        ours = Experiment(model, form(clean), form(corrupted), right, wrong)
        assert torch.equal(ours.clean.tokens, clean) and repr(ours) == repr(theirs)
        assert torch.equal(record_some(model, form(clean), ["z"]).tokens, clean)
        assert torch.equal(noised_embeddings(model, form(clean)), noised_embeddings(model, clean))


@pytest.mark.parametrize(("tokens", "sentence"), [
    ("w3 w4", "not a str: encode text first"), (["w3 w4", "w5"], "not a list: encode text first"),
    ([[1, 2], [3]], "all of one length, not a list"), ([1, 2], "not \\[2\\]"), (None, "not a NoneType"), ({1, 2}, "not a set"),
    (BatchEncoding({"input_ids": [[1, 2]]}), "not a BatchEncoding.*input_ids"), ([[0.5, 1.0]], "whole numbers, not .*float"),
    (torch.tensor([[0.5, 1.0]]), "whole numbers, not float32: pass tokens.long"), (torch.tensor([[True, False]]), "not bool"),
    (torch.tensor([[0, 1]], dtype=torch.uint8), "not uint8"),
])  # fmt: skip
def test_tokens_of_other_kinds_are_refused(tokens, sentence):
    model = model_of(1, n_layers=1)
    right = torch.tensor([[1, 2]])
    for ask in (
        lambda: record(model, tokens),
        lambda: record_some(model, tokens, ["z"]),
        lambda: noised_embeddings(model, tokens),
        lambda: Experiment(model, tokens, right, 0, 1),
        lambda: Experiment(model, right, tokens, 0, 1),
    ):
        with pytest.raises(CourseError, match=sentence):
            ask()
    if isinstance(tokens, Tensor):
        with pytest.raises(CourseError, match=sentence):
            checked_tokens(tokens, model.cfg)


def test_choices_and_positions():
    assert checked_pos(-1, 4) == 3 and checked_pos(0, 4) == 0
    assert chosen("x", "a", ("a", "b")) == "a"
    assert checked_pos(torch.tensor(2), 4) == 2
    for pos in ("last", 1.5, None, [1]):
        with pytest.raises(CourseError, match="pos= takes whole numbers"):
            checked_pos(pos, 4)
    with pytest.raises(CourseError, match="no colour 'gren': choose from green, red.*green"):
        chosen("colour", "gren", ("green", "red"))
