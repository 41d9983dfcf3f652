"""Prompts of unequal length: masks are checked, or found from the tokenizer's padding; one sentence for the rest."""

from types import SimpleNamespace

import pytest
import torch

from mi_course.errors import CourseError
from mi_course.patching import Experiment, record, record_some
from mi_course.patching.forward import Forward
from mi_course.patching.layout import Layout, checked_mask, found_mask
from tests.naive_patching import model_of, prompts

CLOSE = {"atol": 1e-5, "rtol": 1e-5}


def says(tokens, pad=2, bos=None, eos=None):
    """The mask that a tokenizer's special tokens imply, as a list."""
    tokenizer = SimpleNamespace(pad_token_id=pad, bos_token_id=bos, eos_token_id=eos)
    mask = found_mask(SimpleNamespace(tokenizer=tokenizer), torch.tensor(tokens))
    return None if mask is None else mask.int().tolist()


def test_leading_pads_are_padding():
    assert says([[2, 2, 5], [4, 5, 6]]) == [[0, 0, 1], [1, 1, 1]]
    assert says([[4, 2, 5], [4, 5, 6]]) is None  # a pad inside is whatever the author meant
    assert says([[3, 4], [5, 6]]) is None and says([[2, 4], [5, 6]], pad=None) is None
    assert found_mask(SimpleNamespace(), torch.tensor([[2, 3]])) is None


def test_where_the_pad_begins_a_text_too_one_of_them_is_the_beginning():
    assert says([[2, 4, 5], [2, 5, 6]], bos=2) is None
    assert says([[2, 2, 5], [2, 5, 6]], bos=2) == [[0, 1, 1], [1, 1, 1]]
    assert says([[2, 2, 5], [4, 5, 6]], bos=2) == [[0, 0, 1], [1, 1, 1]]
    with pytest.raises(CourseError, match="Every prompt begins with several pad tokens"):
        says([[2, 2, 5], [2, 2, 6]], bos=2)


def test_padding_that_cannot_be_served_is_refused():
    with pytest.raises(CourseError, match="ends in padding, where the answer would be read"):
        says([[4, 5, 2], [4, 5, 6]])
    assert says([[4, 5, 2], [4, 6, 2]], eos=2) is None  # an end of text may be meant
    with pytest.raises(CourseError, match="consists of padding alone"):
        says([[2, 2], [4, 5]])


@pytest.mark.parametrize("special", [{"eos": 2}, {"bos": 2}, {"bos": 2, "eos": 2}])
def test_right_padding_is_told_from_an_end_of_text_by_unequal_ends(special):
    """SmolLM2 pads with the token that ends a text, GPT-2 with the one that begins and ends it."""
    for tokens in ([[4, 5, 2], [4, 5, 6]], [[2, 5, 2], [2, 5, 6]], [[4, 2, 2], [4, 5, 2]]):
        with pytest.raises(CourseError, match="ends in padding.*attention_mask="):
            says(tokens, **special)
    assert says([[4, 2, 2], [5, 2, 2]], **special) is None and says([[4, 5, 2]], **special) is None


def test_right_padding_between_clean_and_corrupted_or_in_a_later_part_is_seen():
    model = model_of(2, n_layers=1)
    model.tokenizer = SimpleNamespace(pad_token_id=2, bos_token_id=1, eos_token_id=2)
    short, long = torch.tensor([[4, 5, 2]]), torch.tensor([[4, 5, 6]])
    with pytest.raises(CourseError, match="ends in padding.*attention_mask="):
        Experiment(model, long, short, 3, 7)
    assert Experiment(model, long, short, 3, 7, attention_mask=torch.ones(1, 3)).clean.mask is None
    with pytest.raises(CourseError, match="ends in padding"):
        record_some(model, torch.cat([long, long, short]), ["z"], at_once=2)
    with pytest.raises(CourseError, match="without padding"):
        record_some(model, torch.cat([long, long, short.flip(1)]), ["z"], at_once=2)


def test_masks_are_checked():
    tokens = torch.tensor([[3, 4, 5], [5, 6, 7]])
    assert checked_mask(torch.ones(2, 3), tokens) is None
    assert checked_mask([[0, 1, 1], [1, 1, 1]], tokens).tolist() == [[False, True, True], [True] * 3]
    for mask in (torch.ones(2, 2), torch.ones(3), 2 * torch.ones(2, 3)):
        with pytest.raises(
            CourseError, match=r"attention_mask must be 1 at tokens and 0 at padding, \[2, 3\]"
        ):
            checked_mask(mask, tokens)
    for mask in ("left", [[1, 1], [1]], [["a"] * 3] * 2, {1, 0}):
        with pytest.raises(CourseError, match="attention_mask must be 1 at tokens .* all rows of one length"):
            checked_mask(mask, tokens)
    with pytest.raises(CourseError, match="hides a whole prompt"):
        checked_mask([[0, 0, 0], [1, 1, 1]], tokens)


def test_positions_count_from_the_first_token_and_pads_are_seen_by_themselves_alone():
    layout = Layout((1, 4), torch.device("cpu"), torch.tensor([[False, False, True, True]]))
    assert layout.ids.tolist() == [[0, 0, 0, 1]]
    assert (~layout.hidden(4)[0, 0]).int().tolist() == [
        [1, 0, 0, 0],
        [0, 1, 0, 0],
        [0, 0, 1, 0],
        [0, 0, 1, 1],
    ]


POSITIONS = ["none", "learned", "sinusoidal", "shortformer", "rotary"]


@pytest.mark.parametrize("positions", POSITIONS)
def test_our_own_models_read_a_padded_prompt_as_they_read_it_alone(positions):
    model = model_of(2, n_layers=2, d_mlp=6, norm="layernorm", positions=positions)
    clean, corrupted, right, wrong = prompts(model, 3, 6)
    mask = torch.ones_like(clean)
    mask[1, :2] = 0
    exp = Experiment(model, clean, corrupted, right, wrong, attention_mask=mask)
    assert isinstance(exp.engine, Forward)
    alone = Experiment(model, clean[1:2, 2:], corrupted[1:2, 2:], right[1:2], wrong[1:2])
    for kind in ("resid_pre", "q", "k", "v", "z", "neuron"):
        ours = exp.sweep(kind).per_prompt[..., 2:, 1:2]
        torch.testing.assert_close(ours, alone.sweep(kind).per_prompt, **CLOSE)
    ours = exp.attribution("k", qk_fix=True).per_prompt[..., 2:, 1:2]
    torch.testing.assert_close(ours, alone.attribution("k", qk_fix=True).per_prompt, **CLOSE)
    path, lone = (e.path_sweep("logits").per_prompt for e in (exp, alone))
    torch.testing.assert_close(path[..., 1:2], lone, **CLOSE)


def test_means_leave_padding_out_and_unequal_prompts_do_not_swap():
    model = model_of(2, n_layers=1, positions="learned")
    tokens = prompts(model, 3, 5)[0]
    mask = torch.ones_like(tokens)
    mask[1, :2] = 0
    run = record(model, tokens, attention_mask=mask)
    mean = run.mean().acts["z", 0]
    torch.testing.assert_close(mean[0, 1], run.acts["z", 0][[0, 2], 1].mean(0))
    torch.testing.assert_close(mean[0, 3], run.acts["z", 0][:, 3].mean(0))
    with pytest.raises(CourseError, match="cannot take each other's activations"):
        run.resampled(0)
    assert run.resampled(0, groups=["a", "b", "a"]).made == "resampled"


def test_runs_that_do_not_match_are_refused():
    model = model_of(2, n_layers=1, positions="learned")
    clean, corrupted, right, wrong = prompts(model, 2, 5)
    mask = torch.tensor([[0, 1, 1, 1, 1], [1, 1, 1, 1, 1]])
    run = record(model, clean, attention_mask=mask)
    with pytest.raises(CourseError, match="padded differently"):
        Experiment(model, run, corrupted, right, wrong)
    with pytest.raises(CourseError, match="A recorded run knows its padding"):
        Experiment(model, run, corrupted, right, wrong, attention_mask=mask)
    with pytest.raises(CourseError, match="An answer is read at padding"):
        Experiment(model, clean, corrupted, right, wrong, attention_mask=mask.flip(1))
    behind = Experiment(model, clean, corrupted, right, wrong, attention_mask=mask.flip(1), pos=[3, 4])
    alone = Experiment(model, clean[:1, :4], corrupted[:1, :4], int(right[0]), int(wrong[0]))
    assert behind.sweep("z").per_prompt[0, 0, 3, 0] == pytest.approx(
        float(alone.sweep("z").per_prompt[0, 0, 3, 0]), abs=1e-5
    )
