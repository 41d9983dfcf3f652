"""Any model through its hooks: slow, readable, exact; the reference of the fast forward."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from mi_course.errors import CourseError
from mi_course.patching.edits import HOOKS, Edit, embedding


class Hooked:
    """The same answers from hooks on the model, one cell at a time: for architectures `Forward` does not know."""

    def __init__(self, model):
        self.model, self.cfg, self.n_layers = model, model.cfg, model.cfg.n_layers

    def hook_name(self, site: str, layer: int) -> str:
        name = f"blocks.{layer}.{HOOKS[site]}"
        if name not in self.model.hook_dict:
            raise CourseError(f"This model has no {name}: {site} cannot be patched in it.")
        return name

    def bytes_per_copy(self, n_pos: int, columns: int) -> int:
        """One copy at a time takes what a run takes; there is nothing to bound."""
        return 1

    def logits(self, run, edits: list[Edit], n_cells: int, at, columns=None, freeze: bool = False):
        """Logits [cell batch d_vocab] (or columns) at positions `at`, each cell a run of the model with hooks."""
        every, prompts = [], torch.arange(len(at), device=at.device)
        for cell in range(n_cells):
            hooks = embedding(run.embed) + (self.frozen(run) if freeze else [])
            for edit in (edit.within(cell, cell + 1) for edit in edits):
                if len(edit.cell):
                    hooks.append((self.hook_name(edit.site, edit.layer), partial(apply_edit, edit=edit)))
            logits = self.model.run_with_hooks(run.tokens, fwd_hooks=hooks)[prompts, at]
            every.append(logits if columns is None else logits.gather(-1, columns))
        return torch.stack(every)

    def frozen(self, run) -> list[tuple]:
        return [
            (self.hook_name("pattern", i), lambda x, hook, i=i: run.acts["pattern", i])
            for i in range(self.n_layers)
        ]


def apply_edit(x: Tensor, hook, edit: Edit) -> Tensor:
    """A hook that makes one cell's edit of the whole activation x."""
    flipped = x.transpose(1, 2) if edit.site == "pattern" else x  # batch pos …
    flipped = flipped.clone()
    _, batch, pos, behind, value = edit.spread(x.shape[-1] if edit.site == "pattern" else x.shape[1])
    if edit.sae is None:
        flipped[(batch, pos, *behind)] = value
    else:
        there = edit.sae.encode(flipped.flatten(2))[(batch, pos, *behind)]
        change = (value - there)[:, None] * edit.sae.W_dec.detach()[behind[0]] / edit.sae.scale
        flipped.flatten(2).index_put_((batch, pos), change, accumulate=True)
    return flipped.transpose(1, 2) if edit.site == "pattern" else flipped
