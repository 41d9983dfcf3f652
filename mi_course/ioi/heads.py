"""What a head is found out to be: where it looks, what it copies, and which tests it passes.

A head has a role only if it passes the role's test on prompts; the tests are those of Wang et al. (2022), with bounds in
`BOUNDS`. Derived in notebook 08. Shapes: scores are [layer head].
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mi_course.errors import CourseError
from mi_course.induction import prefix_matching_scores, previous_token_scores
from mi_course.ioi.prompts import Prompts
from mi_course.patching import Run, direct_attribution, record
from mi_course.patching.direct import frozen_reader
from mi_course.patching.forward import Forward

Scores = Float[Tensor, "layer head"]
CLASSES = (
    "duplicate-token",
    "previous-token",
    "induction",
    "S-inhibition",
    "name mover",
    "negative",
    "backup",
)
BOUNDS = {"attention": 0.3, "copying": 0.5, "direct": 0.05, "change": 0.1}


def attention(run: Run, prompts: Prompts, query: str, key: str) -> Float[Tensor, "layer head batch"]:
    """Attention of the `run` on these `prompts`, from the position of one role, `query`, to another's, `key`."""
    rows, at, to = torch.arange(len(prompts)), prompts.at(query), prompts.at(key)
    layers = range(run.engine.n_layers)
    return torch.stack([run.acts["pattern", i][rows, :, at, to].T for i in layers])


def writes_along(run: Run, tokens: Int[Tensor, "batch"], pos: int = -1) -> Float[Tensor, "layer head batch"]:
    """The logit that each head's write at `pos` of the `run` adds to one token a prompt, `tokens`, the final norm held."""
    forward = rebuilt(run)
    final = run.acts["resid_post", forward.n_layers - 1][:, pos]
    reader = frozen_reader(forward, final, forward.W_U.T[tokens])
    heads = [forward.head_writes(i, run.acts["z", i][:, pos][:, None])[:, 0] for i in range(forward.n_layers)]
    return torch.stack([torch.einsum("bhd,bd->hb", x, reader) for x in heads])


def attention_write_correlation(run: Run, prompts: Prompts) -> Scores:
    """Pearson r of a head's attention to a name with what it writes along it; each prompt gives two points, IO and S1.

    A name mover writes the more the more it looks (Wang et al., figure 3c); a negative one has r near −1. The `run` is
    that of the `prompts`.
    """
    look = torch.cat([attention(run, prompts, "END", role) for role in ("IO", "S1")], -1)
    wrote = torch.cat([writes_along(run, tokens) for tokens in (prompts.io, prompts.s)], -1)
    look, wrote = (x - x.mean(-1, keepdim=True) for x in (look, wrote))
    size = (look.square().sum(-1) * wrote.square().sum(-1)).sqrt()
    return (look * wrote).sum(-1) / size.clamp(min=1e-12)


class Copying(NamedTuple):
    """Shares of names that a head, looking at them in full, raises among the largest logits (`copies`), or lowers among
    the smallest (`suppresses`).
    """

    copies: Scores
    suppresses: Scores


@torch.no_grad()
def copy_scores(run: Run, prompts: Prompts, *, k: int = 5, most: int = 24) -> Copying:
    """How often a name that a head looks at, in full, is among the k largest logits of what it then writes.

    The stream at IO after block 0 goes through the head's norm, W_V, W_O, the final norm and the unembedding (Wang et al.,
    §3.1); for heads of block 0 it is the embedding. Among the k *smallest* is the negative copying of heads that suppress
    what they see. Chance is k / d_vocab. One prompt a name will do, and no more than `most` names are tried. The `run` is that of the `prompts`.
    """
    forward, known = rebuilt(run), prompts.io.tolist()
    rows = torch.tensor([known.index(name) for name in dict.fromkeys(known)][:most])
    at, tokens, found = prompts.at("IO")[rows], prompts.io[rows], []
    for i in range(forward.n_layers):
        read = run.acts["resid_pre", min(i, 1)][rows, at][:, None]  # name 1 d_model
        (v,) = forward.project(i, read, at[:, None], "v")
        wrote = forward.head_writes(i, forward.shared(v))[:, 0]  # name head d_model
        logits = forward.readout(wrote.transpose(0, 1))  # head name d_vocab
        own = logits.gather(-1, tokens.expand(logits.shape[:-1])[..., None])
        above, below = ((logits > own).sum(-1), (logits < own).sum(-1))
        found.append(torch.stack([(n < k).float().mean(-1) for n in (above, below)]))
    return Copying(*torch.stack(found, 1))


def rebuilt(run: Run) -> Forward:
    if not isinstance(run.engine, Forward):
        raise CourseError("These tests need a plain pre-norm transformer (GPT-2's kind).")
    return run.engine


def roles(
    model, prompts: Prompts, repeats: Int[Tensor, "batch pos"], period: int, *, run: Run | None = None
) -> dict[str, Bool[Tensor, "layer head"]]:
    """Which heads pass the test of each class but "backup", which only a knock-out shows.

    Attention is a mean over prompts, ≥ .3: duplicate-token S2 → S1; S-inhibition END → S2, without itself copying
    (what it writes must not be the name); name mover END → IO, with copying ≥ .5 and a direct attribution of ≥ 5% of the
    logit difference; negative: attends to a name from END, negative copying ≥ .5 and a direct attribution of ≥ 5% in size, of
    either sign. Previous-token and induction heads are tested on `repeats`, random tokens said again after `period`: mean
    attention ≥ .3 to the token before, and to what followed last time. `run` is the recorded run of the `model` on the
    `prompts`, if there is one.
    """
    run = run or record(model, prompts.tokens)
    look = lambda q, k: attention(run, prompts, q, k).mean(-1)  # noqa: E731
    direct = direct_attribution(run, prompts.io, prompts.s)
    share = direct.heads.mean(-1) / direct.total.mean().abs().clamp(min=1e-6)
    on_repeats = record(model, repeats).acts
    of = lambda score: torch.stack([score(on_repeats["pattern", i]) for i in range(run.engine.n_layers)])  # noqa: E731
    high, copying, least = BOUNDS["attention"], BOUNDS["copying"], BOUNDS["direct"]
    copies, suppresses = copy_scores(run, prompts)
    to_name = torch.stack([look("END", role) for role in ("IO", "S1", "S2")]).amax(0)
    return {
        "duplicate-token": look("S2", "S1") >= high,
        "previous-token": of(previous_token_scores) >= high,
        "induction": of(lambda pattern: prefix_matching_scores(pattern, period)) >= high,
        "S-inhibition": (look("END", "S2") >= high) & (copies < copying),
        "name mover": (look("END", "IO") >= high) & (copies >= copying) & (share >= least),
        "negative": (to_name >= high) & (suppresses >= copying) & (share.abs() >= least),
    }
