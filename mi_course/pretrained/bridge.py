"""The course's own model as TransformerLens' native bridge, for tools that want one."""

from __future__ import annotations

import torch

from mi_course.errors import CourseError
from mi_course.models import TinyTransformer


def to_bridge(model: TinyTransformer):
    """The same model as a `TransformerBridge`, for tools that want one; logits agree to rounding.

    The native bridge adds positions to the stream or rotates them, and always has biases (here they are 0).
    Shortformer positions and smeared keys have no counterpart there.
    """
    from transformer_lens import TransformerBridge, TransformerBridgeConfig
    from transformer_lens.utilities.tl_checkpoint_conversion import convert_tl_checkpoint

    cfg = model.cfg
    for what, there in (
        ("shortformer positions", cfg.positions == "shortformer"),
        ("smeared keys", cfg.smeared),
    ):
        if there:
            raise CourseError(
                f"TransformerLens' native bridge has no {what}; this model cannot be converted."
            )
    shape = {
        name: getattr(cfg, name) for name in ("d_model", "d_head", "n_heads", "n_layers", "n_ctx", "d_vocab")
    }
    bridge_cfg = TransformerBridgeConfig(
        **shape,
        d_mlp=cfg.d_mlp or 4 * cfg.d_model,
        attn_only=cfg.attn_only,
        act_fn=cfg.act,
        normalization_type=cfg.normalization_type,
        positional_embedding_type="rotary" if cfg.positions == "rotary" else "standard",
        rotary_dim=cfg.d_head,
        init_weights=False,
    )
    bridge = TransformerBridge.boot_native(bridge_cfg)
    state = dict(model.state_dict())
    state.setdefault("unembed.W_U", model.W_U.detach())
    if cfg.positions == "none":
        state["pos_embed.W_pos"] = torch.zeros(cfg.n_ctx, cfg.d_model)
    with torch.no_grad():
        for name, parameter in bridge.named_parameters():
            if name.endswith("bias"):
                parameter.zero_()
    unexpected = bridge.load_state_dict(
        convert_tl_checkpoint(state, bridge_cfg), strict=False
    ).unexpected_keys
    if unexpected:
        raise CourseError(f"The bridge has no place for {', '.join(unexpected)}.")
    return bridge.eval()
