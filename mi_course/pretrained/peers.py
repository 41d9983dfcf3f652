"""TransformerLens' own tools on a bridge, to compare ours with."""

from __future__ import annotations

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor


def peer_jacobians(
    bridge, texts: Sequence[str], layers: Sequence[int] | None = None, *, skip: int = 16, together: int = 8
) -> dict[int, Float[Tensor, "d_model d_model"]]:
    """The matrices of TransformerLens' `JacobianLens` [out in], by the layer whose block reads the stream.

    Their layer l is the output of block l, which enters block l + 1: here it is l + 1.

    Args:
        bridge: a raw `TransformerBridge`.
        texts: the prompts.
        layers: 1 … n_layers − 1, all by default.
        skip: positions at the start that are left out.
        together: outputs of one backward pass.
    """
    from transformer_lens.tools.analysis import JacobianLens

    theirs = None if layers is None else [layer - 1 for layer in layers]
    lens = JacobianLens.fit(
        bridge, list(texts), corpus="given here", source_layers=theirs, dim_batch=together, skip_first_positions=skip,
        show_progress=False,
    )  # fmt: skip
    return {layer + 1: J for layer, J in lens.jacobians.items()}
