"""Steering on every make that a bridge boots: generated text, ablation, and the edit of weights, or one sentence why not."""

import pytest
import torch

from mi_course import pretrained, steering
from mi_course.errors import CourseError
from mi_course.steering import Ablate, Add, steered
from tests.patching_makes import MAKES, save

NORMED = {"gemma2", "gemma3", "bloom"}  # what they write is normed before it is added
PROMPTS = [torch.tensor(row) for row in ([5, 6, 7, 8, 9], [5, 6, 11], [5, 6, 20, 21, 22, 23, 4])]
TOKENS = torch.tensor([[5, 6, 7, 8, 9, 10], [11, 12, 13, 14, 15, 16]])
V = torch.randn(32, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module", params=MAKES)
def made(request, tmp_path_factory):
    """Name and bridge of one make."""
    return request.param, pretrained.load(save(request.param, tmp_path_factory.mktemp("make")))


@torch.no_grad()
def test_a_batch_of_unequal_prompts_is_continued_as_each_alone(made):
    _, model = made
    for row, written in zip(PROMPTS, steering.generate(model, PROMPTS, 5)):
        alone = row[None]
        for _ in range(5):
            alone = torch.cat([alone, model(alone)[:, -1:].argmax(-1)], dim=1)
        assert written.tolist() == alone[0, len(row) :].tolist()


@torch.no_grad()
def test_nothing_along_an_ablated_direction_is_left(made):
    _, model = made
    last = f"blocks.{model.cfg.n_layers - 1}.hook_out"
    with steered(model, [Ablate(V)], first=None):
        stream = model.run_with_cache(TOKENS)[1][last]
    assert (stream @ (V / V.norm())).abs().max() < 1e-5 * stream.norm(dim=-1).max()
    with steered(model, [Add(V, 1)]):
        added = model(TOKENS)
    plain = model(TOKENS)
    assert torch.equal(added[:, 0], plain[:, 0]) and not torch.allclose(added, plain)


@torch.no_grad()
def test_edited_weights_equal_ablation_or_are_refused(made):
    name, model = made
    before = model(TOKENS)
    if name in NORMED:
        with (
            pytest.raises(CourseError, match="norms what it writes.*use Ablate"),
            steering.orthogonalised(model, V),
        ):
            pass
        return
    with steered(model, [Ablate(V)], first=None):
        at_run_time = model(TOKENS)
    with steering.orthogonalised(model, V):
        edited = model(TOKENS)
    assert (edited - at_run_time).abs().max() < 1e-5 < (before - at_run_time).abs().max()
    assert torch.equal(model(TOKENS), before)  # and afterwards the weights are what they were
