"""Patching as it is defined: one run of the model with hooks for every patch. Slow, readable, exact.

The reference of the fast forward (`rerun`), and what serves every make that is not rebuilt. A hook is only worth
something where the model's own numbers pass through it; `reach` tries that out.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from mi_course.errors import CourseError
from mi_course.patching.edits import HOOKS, Activations, Edit, embedding
from mi_course.patching.layout import Layout


class Hooked:
    """The same answers from hooks on the model itself, one cell at a time."""

    def __init__(self, model):
        self.model, self.cfg, self.n_layers = model, model.cfg, model.cfg.n_layers
        self.refused: dict[str, str] = {}  # site → why it cannot be patched here
        self.always = corrections(model)
        names = {(site, i): f"blocks.{i}.{HOOKS[site]}" for site in HOOKS for i in range(self.n_layers)}
        there = model.hook_dict  # a bridge gathers it anew each time
        self.names = {key: name for key, name in names.items() if name in there}

    def run(self, tokens, layout: Layout, embed, hooks: list[tuple]) -> Tensor:
        """Logits [batch pos d_vocab] with hooks, in 32 bits at least."""
        hooks = [*self.always, *embedding(embed), *hooks]
        logits = self.model.run_with_hooks(tokens, fwd_hooks=hooks, **layout.given())
        return logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits

    def record(self, tokens, layout: Layout, embed=None) -> Activations:
        """Every activation of one run."""
        acts: Activations = {}
        self.run(tokens, layout, embed, self.noting(acts, lambda x: x.detach().clone()))
        return acts

    def noting(self, acts: Activations, kept=lambda x: x) -> list[tuple]:
        """Hooks that keep every activation, and hand it on: what is kept is what the model goes on with."""

        def note(x, hook, key):
            acts[key] = kept(x)
            return x

        return [(name, partial(note, key=key)) for key, name in self.names.items()]

    def bytes_per_copy(self, n_pos: int, columns: int) -> int:
        """One copy at a time takes what a run takes; there is nothing to bound."""
        return 1

    def logits(self, run, edits: list[Edit], n_cells: int, at, columns=None, freeze: bool = False):
        """Logits [cell batch d_vocab] (or columns) at positions `at`, each cell a run of the model with hooks."""
        every, prompts = [], torch.arange(len(at), device=at.device)
        frozen = self.frozen(run) if freeze else []
        for cell in range(n_cells):
            hooks = self.editing([edit.within(cell, cell + 1) for edit in edits])
            logits = self.run(run.tokens, run.layout, run.embed, frozen + hooks)[prompts, at]
            every.append(logits if columns is None else logits.gather(-1, columns))
        return torch.stack(every)

    def editing(self, edits: list[Edit]) -> list[tuple]:
        """Hooks that make the edits of one cell."""
        edits = [edit for edit in edits if len(edit.cell)]
        hooks = []
        for edit in sorted(edits, key=lambda edit: edit.site == "resid_mid"):  # behind those of attn_out
            if edit.site == "resid_mid":
                hooks += self.editing_mid(edit)
            else:
                hooks.append((self.names[edit.site, edit.layer], partial(apply_edit, edit=edit)))
        return hooks

    def editing_mid(self, edit: Edit) -> list[tuple]:
        """resid_mid = resid_pre + attn_out, and many makes show it only where the MLP reads it: attn_out is moved."""
        entered = {}

        def enter(x, hook):
            entered["resid_pre"] = x
            return x

        def move(x, hook):
            mid = entered["resid_pre"] + x
            return x + (apply_edit(mid, hook, edit) - mid)

        return [(self.names["resid_pre", edit.layer], enter), (self.names["attn_out", edit.layer], move)]

    def frozen(self, run) -> list[tuple]:
        if "pattern" in self.refused or ("pattern", 0) not in self.names:
            raise CourseError(
                self.refused.get("pattern", "This model shows no patterns: they cannot be held.")
            )
        return [
            (self.names["pattern", i], lambda x, hook, i=i: run.acts["pattern", i])
            for i in range(self.n_layers)
        ]


def apply_edit(x: Tensor, hook, edit: Edit) -> Tensor:
    """A hook that makes one cell's edit of the whole activation x."""
    flipped = x.transpose(1, 2) if edit.site == "pattern" else x  # batch pos …
    flipped = flipped.clone()
    given = edit.spread(flipped.shape[1])
    index = (given.batch, given.pos, *given.behind)
    if edit.sae is None:
        flipped[index] = given.value
    else:
        moved, directions = given.value - given.recorded(flipped), edit.sae.directions(given.behind[0])
        change = (moved[:, None] * directions.detach()).to(flipped.dtype)
        flipped.flatten(2).index_put_(index[:2], change, accumulate=True)
    return flipped.transpose(1, 2) if edit.site == "pattern" else flipped


def corrections(model) -> list[tuple]:
    """Hooks that put right what a bridge computes otherwise than the Hugging Face model it wraps.

    TransformerLens 4.3 divides GPT-2's scores by √d_head also where the configuration says not to.
    """
    config = getattr(getattr(model, "original_model", None), "config", None)
    if getattr(config, "model_type", "") != "gpt2" or config.scale_attn_weights:
        return []

    def unscaled(x: Tensor, hook) -> Tensor:
        """A pad, which sees nothing, keeps its finite scores: −∞ everywhere would be no pattern."""
        return (x * model.cfg.d_head**0.5).clamp(min=torch.finfo(x.dtype).min)

    return [(f"blocks.{i}.attn.hook_attn_scores", unscaled) for i in range(model.cfg.n_layers)]
