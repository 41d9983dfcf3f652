"""A run in which some heads are held at the last position, with everything that follows from it.

`Experiment.patch` gives the score of such a run; here all its activations are wanted: where later heads look then, and
who writes more than before. Derived in notebook 08.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

import torch

from mi_course.errors import CourseError
from mi_course.patching import Run
from mi_course.patching.forward import Forward

Head = tuple[int, int]


@torch.no_grad()
def held_at_end(run: Run, heads: Collection[Head], source: Run) -> Run:
    """The run with these heads' outputs at the last position taken from `source`; later heads see it and answer.

    Only the last position changes, since nobody stands behind it: one row a prompt is computed again.
    """
    forward, layout = run.engine, run.layout
    if not isinstance(forward, Forward) or forward.parallel:
        raise CourseError("Holding heads needs a plain serial pre-norm transformer.")
    if not heads:
        return run
    acts, end, first = dict(run.acts), slice(-1, None), min(layer for layer, _ in heads)
    ids, x = layout.ids[:, end], run.acts["resid_pre", first][:, end]
    hidden = layout.hidden(run.tokens.shape[1])[..., end, :]

    def note(site: str, layer: int, value):
        """The value, and the record with it in the last place."""
        if (site, layer) in run.acts:
            acts[site, layer] = torch.cat([run.acts[site, layer][:, :-1], value], 1)
        return value

    for i in range(first, forward.n_layers):
        note("resid_pre", i, x)
        q, k, v = forward.project(i, x, ids)
        q, k = forward.turned(i, q, k, ids)
        k = torch.cat([run.acts[forward.seen(i, "k"), i][:, :-1], k], 1)
        v = torch.cat([run.acts["v", i][:, :-1], v], 1)
        pattern = forward.scores(i, q, k, hidden).softmax(-1)
        acts["pattern", i] = torch.cat([run.acts["pattern", i][:, :, :-1], pattern], 2)
        z = forward.mix(pattern, v)
        for head in (number for layer, number in heads if layer == i):
            z[:, :, head] = source.acts["z", i][:, end, head]
        out = note("attn_out", i, forward.write(i, note("z", i, z)))
        x = x + out
        if forward.has_mlp:
            mid = note("resid_mid", i, x)
            x = mid + note("mlp_out", i, forward.mlp_write(i, note("post", i, forward.neurons(i, mid))))
        note("resid_post", i, x)
    return replace(run, acts=acts)
