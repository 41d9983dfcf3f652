"""Recorded runs, and the sources that ablations are made of: zeros, means, other prompts, noised embeddings."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mi_course.corpora.corpus import generator
from mi_course.errors import CourseError
from mi_course.models import checked_tokens
from mi_course.patching import engine as engines
from mi_course.patching.forward import Forward
from mi_course.patching.hooked import Hooked
from mi_course.patching.nodes import checked_pos


@dataclass(frozen=True, eq=False)
class Run:
    """Every activation of one forward, `acts[site, layer]`; pattern is [batch head query key], others [batch pos …]."""

    tokens: Int[Tensor, "batch pos"]
    acts: dict
    engine: Forward | Hooked
    embed: Float[Tensor, "batch pos d_model"] | None = None  # stood in for the tokens' embeddings
    made: str = ""  # "zero", "mean", "resampled": a source that no forward gave

    def __repr__(self) -> str:
        return (
            f"Run({self.made or 'recorded'}: {len(self.tokens)} prompts × {self.tokens.shape[1]} positions)"
        )

    def _made(self, name: str, change: Callable[[Tensor], Tensor]) -> Run:
        return replace(self, acts={key: change(value) for key, value in self.acts.items()}, made=name)

    def zero(self) -> Run:
        """All activations 0: the source of zero ablation. No layer ever saw such a stream."""
        return self._made("zero", torch.zeros_like)

    def mean(self, groups: Sequence | Tensor | None = None) -> Run:
        """Means over prompts, or over the prompts of the same group (template): the source of mean ablation."""
        member = same_group(groups, len(self.tokens), self.tokens.device)
        weight = member / member.sum(1, keepdim=True)
        return self._made("mean", lambda x: torch.einsum("ab,b...->a...", weight.to(x.dtype), x))

    def resampled(self, seed: int, groups: Sequence | Tensor | None = None) -> Run:
        """Each prompt's activations from another prompt (of its group), drawn once: resample ablation.

        A prompt keeps its own only where its group has no other.
        """
        member = same_group(groups, len(self.tokens), "cpu")
        other, rng = torch.empty(len(member), dtype=torch.long), generator(seed)
        for rows in {tuple(row.nonzero()[:, 0].tolist()) for row in member}:
            order = torch.tensor(rows)[torch.randperm(len(rows), generator=rng)]
            other[order] = order.roll(1)  # one cycle: no fixed point
        return self._made("resampled", lambda x: x[other.to(x.device)])


def same_group(groups: Sequence | Tensor | None, n: int, device) -> Float[Tensor, "prompt prompt"]:
    """1 where two prompts belong together; without groups all do."""
    groups = [0] * n if groups is None else groups.tolist() if isinstance(groups, Tensor) else list(groups)
    if len(groups) != n:
        raise CourseError(f"groups names {len(groups)} prompts; the run has {n}.")
    known = {name: i for i, name in enumerate(dict.fromkeys(groups))}
    label = torch.tensor([known[name] for name in groups], device=device)
    return (label[:, None] == label).float()


def record(
    model, tokens: Int[Tensor, "batch pos"], *, embed: Float[Tensor, "batch pos d_model"] | None = None
) -> Run:
    """One forward with every activation kept; `embed` stands in for the tokens' embeddings (`hook_embed`)."""
    tokens = readable(model, tokens)
    if embed is not None and embed.shape != (*tokens.shape, model.cfg.d_model):
        raise CourseError(
            f"embed is {list(embed.shape)}, not [*{list(tokens.shape)}, d_model={model.cfg.d_model}]."
        )
    engine, acts = engines.engine(model, tokens, embed)
    return checked_run(Run(tokens, acts, engine, embed))


def readable(model, tokens: Int[Tensor, "..."]) -> Int[Tensor, "batch pos"]:
    """Tokens the model can read, on its device."""
    if not len(model.blocks):
        raise CourseError("A model of zero layers has nothing to patch.")
    if not tokens.numel():
        raise CourseError(f"tokens must be [batch pos] with at least one of each, not {list(tokens.shape)}.")
    return checked_tokens(tokens.cpu(), model.cfg).to(model.W_E.device)


def recorded_with(engine: Forward | Hooked, tokens: Int[Tensor, "batch pos"]) -> Run:
    """`record` with an engine that is there already."""
    return checked_run(Run(tokens, engines.record(engine, tokens), engine))


def checked_run(run: Run) -> Run:
    """The run itself, if it ends in numbers."""
    if not bool(run.acts["resid_post", run.engine.n_layers - 1].isfinite().all()):
        raise CourseError("This run holds NaN or infinity: look at the model or the embeddings that made it.")
    return run


def noised_embeddings(
    model,
    tokens: Int[Tensor, "batch pos"],
    sd: float | int = 3.0,
    positions: Sequence[int] | None = None,
    seed: int = 0,
) -> Float[Tensor, "batch pos d_model"]:
    """The tokens' embeddings with Gaussian noise at some positions (Meng et al. 2022), for `record(…, embed=)`.

    `sd` is in units of the standard deviation of all entries of the embedding table; 3 is the papers' choice. Unlike
    another token's embedding, the result is nothing the model has ever read.
    """
    table = model.W_E.detach()
    n_pos = tokens.shape[1]
    where = range(n_pos) if positions is None else [checked_pos(pos, n_pos) for pos in positions]
    embed = table[tokens.to(table.device)].clone()
    noise = torch.randn(embed.shape, generator=generator(seed)).to(embed) * float(sd) * table.std()
    embed[:, list(where)] += noise[:, list(where)]
    return embed
