"""At which sites of a make a patch by hooks reaches the logits, tried out by identities that hold in any transformer.

Queries, keys and values together make z, so do patterns and values; z makes attn_out, neurons make mlp_out; what is
written adds up in the stream; and a stream makes everything above it. Each is tried with all layers at once, on a few
tokens: six short forwards. A site whose identity fails is refused when it is asked for.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable

import torch
from jaxtyping import Int
from torch import Tensor

from mi_course.patching.edits import Activations, Edit
from mi_course.patching.hooked import Hooked
from mi_course.patching.layout import Layout

TRIED = 6  # tokens
SENTENCE = "This model goes on with other numbers than its hook of {} shows: a patch there would not reach the logits."
MAKES = [  # what is patched, all layers at once: what it makes
    {("q", "k", "v"): "z", ("post",): "mlp_out"},
    {("pattern", "v"): "z"},
    {("z",): "attn_out", ("resid_mid",): "resid_post"},
    {("resid_pre",): "resid_post"},
]


@torch.no_grad()
def unreached(engine: Hooked, prompt: Int[Tensor, "1 pos"]) -> dict[str, str]:
    """Sites that cannot be patched, each with the sentence that says why."""
    host = prompt[:, :TRIED]
    source = engine.record((host + 1) % engine.cfg.d_vocab, Layout.of(host))
    bad: set[str] = set()
    good: set[str] = set()
    for group in MAKES:
        acts = patched_run(engine, host, source, {site for patched in group for site in patched})
        for patched, made in group.items():
            (good if same(engine, acts, source, made) else bad).update(patched)
    acts = patched_run(engine, host, source, {"attn_out", "mlp_out"})
    (good if adds_up(engine, acts, source) else bad).update({"attn_out", "mlp_out"})
    shown = {site for site, _ in source}
    return {site: SENTENCE.format(site) for site in (bad - good) & shown}  # one identity is enough


def patched_run(engine: Hooked, host: Tensor, source: Activations, sites: Iterable[str]) -> Activations:
    """What the host computes while everything at these sites is the source's."""
    acts: Activations = {}
    cell = torch.zeros(1, dtype=torch.long, device=host.device)
    edits = [
        Edit(site, i, cell, source[site, i].transpose(1, 2) if site == "pattern" else source[site, i])
        for site in sites for i in range(engine.n_layers) if (site, i) in source
    ]  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a bridge may say of a hook what is tried out here
        engine.run(host, Layout.of(host), None, engine.noting(acts) + engine.editing(edits))
    return acts


def same(engine: Hooked, acts: Activations, source: Activations, site: str) -> bool:
    """Whether a site came out as in the source, in every layer."""
    return all(
        near(acts[site, i], source[site, i], 1000) for i in range(engine.n_layers) if (site, i) in source
    )


def adds_up(engine: Hooked, acts: Activations, source: Activations) -> bool:
    """Whether the last stream is the first one and all that was written into it."""
    layers = range(engine.n_layers)
    total = acts["resid_pre", 0] + sum(source[key] for key in source if key[0] in ("attn_out", "mlp_out"))
    return near(acts["resid_post", layers[-1]], total, 1000)


def near(ours: Tensor, theirs: Tensor, roundings: int) -> bool:
    """Whether two computations of the same numbers differ by so many roundings at most."""
    bound = roundings * torch.finfo(ours.dtype).eps * (1 + theirs.abs().max())
    return ours.shape == theirs.shape and bool((ours - theirs).abs().max() <= bound)
