"""Recorded runs, and the sources that ablations are made of: zeros, means, other prompts, noised embeddings."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mi_course.activations import as_tokens
from mi_course.corpora.corpus import generator
from mi_course.errors import CourseError
from mi_course.models import checked_tokens
from mi_course.patching import engine as engines
from mi_course.patching.forward import Forward
from mi_course.patching.hooked import Hooked
from mi_course.patching.layout import Layout, layout_of
from mi_course.patching.nodes import checked_pos


@dataclass(frozen=True, eq=False)
class Run:
    """Every activation of one forward, `acts[site, layer]`; pattern is [batch head query key], others [batch pos …].

    `tokens` were read by `engine`, with `embed` in the place of their embeddings where it is given. `made` is zero,
    mean or resampled for a source that no forward gave; `mask` says where tokens are (None: everywhere).
    """

    tokens: Int[Tensor, "batch pos"]
    acts: dict
    engine: Forward | Hooked
    embed: Float[Tensor, "batch pos d_model"] | None = None  # stood in for the tokens' embeddings
    made: str = ""  # "zero", "mean", "resampled": a source that no forward gave
    mask: Bool[Tensor, "batch pos"] | None = None  # where tokens are; None: everywhere

    def __repr__(self) -> str:
        padded = "" if self.mask is None else ", some padded"
        return f"Run({self.made or 'recorded'}: {len(self.tokens)} prompts × {self.tokens.shape[1]} positions{padded})"

    @property
    def layout(self) -> Layout:
        return Layout.of(self.tokens, self.mask)

    def _made(self, name: str, change: Callable[[Tensor], Tensor]) -> Run:
        return replace(self, acts={key: change(value) for key, value in self.acts.items()}, made=name)

    def zero(self) -> Run:
        """All activations 0: the source of zero ablation. No layer ever saw such a stream."""
        return self._made("zero", torch.zeros_like)

    def mean(self, groups: Sequence | Tensor | None = None) -> Run:
        """Means over prompts, or over those with the same entry in `groups` (template): the source of mean ablation.

        Padding is left out: a position's mean is that of the prompts which have a token there.
        """
        member = same_group(groups, len(self.tokens), self.tokens.device)
        if self.mask is None:
            weight = member / member.sum(1, keepdim=True)
            return self._made("mean", lambda x: torch.einsum("ab,b...->a...", weight.to(x.dtype), x))
        weight = member[:, :, None] * self.mask
        weight = weight / weight.sum(1, keepdim=True).clamp(min=1)  # a b pos

        def mean(key: tuple, x: Tensor) -> Tensor:
            of = "abp,bhp...->ahp..." if key[0] == "pattern" else "abp,bp...->ap..."
            return torch.einsum(of, weight.to(x.dtype), x)

        return replace(self, acts={key: mean(key, x) for key, x in self.acts.items()}, made="mean")

    def resampled(self, seed: int, groups: Sequence | Tensor | None = None) -> Run:
        """Each prompt's activations from another prompt, drawn once by `seed`: resample ablation.

        A prompt keeps its own only where no other has the same entry in `groups` (default: all belong together).
        """
        member = same_group(groups, len(self.tokens), "cpu")
        other, rng = torch.empty(len(member), dtype=torch.long), generator(seed)
        if self.mask is not None and bool((self.mask[:, None] != self.mask)[member.bool()].any()):
            raise CourseError(
                "Prompts of unequal length cannot take each other's activations: name groups= of equal length."
            )
        for rows in {tuple(row.nonzero()[:, 0].tolist()) for row in member}:
            order = torch.tensor(rows)[torch.randperm(len(rows), generator=rng)]
            other[order] = order.roll(1)  # one cycle: no fixed point
        return self._made("resampled", lambda x: x[other.to(x.device)])


def same_group(groups: Sequence | Tensor | None, n: int, device) -> Float[Tensor, "prompt prompt"]:
    """1 where two of `n` prompts have the same entry in `groups`, on that `device`; without groups all belong together."""
    groups = [0] * n if groups is None else groups.tolist() if isinstance(groups, Tensor) else list(groups)
    if len(groups) != n:
        raise CourseError(f"groups names {len(groups)} prompts; the run has {n}.")
    known = {name: i for i, name in enumerate(dict.fromkeys(groups))}
    label = torch.tensor([known[name] for name in groups], device=device)
    return (label[:, None] == label).float()


def record(
    model,
    tokens: Any,
    *,
    embed: Float[Tensor, "batch pos d_model"] | None = None,
    attention_mask=None,
    check: bool = True,
) -> Run:
    """One forward of `model` with every activation kept; `embed` stands in for the tokens' embeddings (`hook_embed`).

    `tokens` are ids [batch pos], a tensor, an array or lists. `attention_mask` is 1 at tokens and 0 at padding; without it the tokenizer's padding is looked for. `check` tries
    out, on a few tokens, at which sites a hook reaches the logits, where hooks do the patching.
    """
    tokens = readable(model, tokens)
    width = model.W_E.shape[1]  # of hook_embed: some of OPT's makes bring it to d_model behind it
    if embed is not None and embed.shape != (*tokens.shape, width):
        raise CourseError(f"embed is {list(embed.shape)}, not [*{list(tokens.shape)}, {width}].")
    layout = layout_of(model, tokens, attention_mask)
    engine, acts = engines.engine(model, tokens, layout, embed, check)
    return checked_run(Run(tokens, acts, engine, embed, mask=layout.mask))


def record_some(model, tokens: Any, sites: Sequence[str], *, at_once: int = 30) -> Run:
    """`record` that keeps the activations of a few sites only, so many prompts at a time: for what does not fit in memory.

    What is left serves as a source of ablations, or wherever no more than these sites is asked for.

    Args:
        model: whose run it is.
        tokens: prompts of one length, without padding.
        sites: such as `z`, `pattern`, `resid_pre`; q and k are there under each name they have.
        at_once: prompts run together.
    """
    tokens = readable(model, tokens)
    if layout_of(model, tokens).mask is not None:
        raise CourseError("record_some takes prompts without padding.")
    parts = tokens.split(at_once)
    first = record(model, parts[0], check=False)
    wanted = lambda run: {key: x for key, x in run.acts.items() if key[0].split("_raw")[0] in sites}  # noqa: E731
    kept = [wanted(first)]
    kept += [wanted(recorded_with(first.engine, part, Layout.of(part))) for part in parts[1:]]
    acts = {
        key: torch.cat([acts.pop(key) for acts in kept]) for key in list(kept[0])
    }  # never twice in memory
    return replace(first, tokens=tokens, acts=acts)


def readable(model, tokens: Any) -> Int[Tensor, "batch pos"]:
    """The `tokens`, if the `model` can be patched and can read them, on its device."""
    if not all(hasattr(model, name) for name in ("blocks", "W_E", "cfg", "run_with_hooks")):
        raise CourseError(
            f"A model of type {type(model).__name__} cannot be patched: take a "
            "TinyTransformer or a decoder's TransformerBridge, as models.load and pretrained.load give them."
        )
    if not len(model.blocks):
        raise CourseError("A model of zero layers has nothing to patch.")
    tokens = tokens if isinstance(tokens, Tensor) else as_tokens(tokens)
    if not tokens.numel():
        raise CourseError(f"tokens must be [batch pos] with at least one of each, not {list(tokens.shape)}.")
    return checked_tokens(tokens.cpu(), model.cfg).to(model.W_E.device)


def recorded_with(engine: Forward | Hooked, tokens: Int[Tensor, "batch pos"], layout: Layout) -> Run:
    """`record` of `tokens` with an `engine` that is there already; `layout` says where padding is."""
    with torch.no_grad():
        return checked_run(Run(tokens, engine.record(tokens, layout), engine, mask=layout.mask))


def checked_run(run: Run) -> Run:
    """The run itself, if it ends in numbers."""
    if not bool(run.acts["resid_post", run.engine.n_layers - 1].isfinite().all()):
        raise CourseError("This run holds NaN or infinity: look at the model or the embeddings that made it.")
    return run


def noised_embeddings(
    model,
    tokens: Any,
    sd: float | int = 3.0,
    positions: Sequence[int] | None = None,
    seed: int = 0,
) -> Float[Tensor, "batch pos d_model"]:
    """The tokens' embeddings with Gaussian noise at some positions (Meng et al. 2022), for `record(…, embed=)`.

    `sd` is in units of the standard deviation of all entries of the embedding table; 3 is the papers' choice. Unlike
    another token's embedding, the result is nothing the model has ever read. `tokens` are those that `model` reads,
    `positions` where the noise is (default: everywhere); `seed` draws it.
    """
    tokens = readable(model, tokens)
    n_pos = tokens.shape[1]
    where = range(n_pos) if positions is None else [checked_pos(pos, n_pos) for pos in positions]
    embed, unit = entering(model, tokens)
    noise = torch.randn(embed.shape, generator=generator(seed)).to(embed) * float(sd) * unit
    embed[:, list(where)] += noise[:, list(where)]
    return embed


@torch.no_grad()
def entering(model, tokens: Int[Tensor, "batch pos"]) -> tuple[Float[Tensor, "batch pos d_model"], Tensor]:
    """The tokens' embeddings as the model has them, and the standard deviation of its table on that scale.

    Some makes multiply the table's rows on their way (Gemma: by √d_model), or norm them (Bloom).
    """
    rows, seen = model.W_E.detach()[tokens.to(model.W_E.device)], {}
    hook = lambda x, hook: seen.setdefault("embed", x.detach().clone())  # noqa: E731
    model.run_with_hooks(tokens.to(rows.device), fwd_hooks=[("hook_embed", hook)], stop_at_layer=0)
    embed, unit = seen["embed"], model.W_E.detach().std()
    return embed, unit if torch.equal(embed, rows) else unit * embed.std() / rows.std()
