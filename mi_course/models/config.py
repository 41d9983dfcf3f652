"""The shape of a small transformer."""

from __future__ import annotations

from dataclasses import dataclass

from mi_course.errors import CourseError, nearest

CHOICES = {
    "act": ("relu", "gelu"),
    "norm": ("none", "layernorm", "rmsnorm"),
    "positions": ("none", "learned", "sinusoidal", "shortformer", "rotary"),
}


@dataclass(frozen=True)
class TinyConfig:
    """The shape of a `TinyTransformer`.

    Args:
        n_layers: 0 leaves W_E W_U, the bigram model.
        n_heads: heads a layer.
        d_model: width of the stream.
        d_vocab: tokens there are.
        n_ctx: longest sequence, in tokens.
        d_mlp: neurons a layer; 0 means attention only.
        act: `relu` or `gelu`.
        norm: `none`, `layernorm` or `rmsnorm`.
        positions: `none`, `learned`, `sinusoidal`, `shortformer` (a table added to what Q and K read, never
            to the stream) or `rotary`.
        position_layers: shortformer: only the first so many layers see positions; None: all.
        tied: W_U is the transpose of W_E.
        bias: of every linear map.
        smeared: keys take a learned share of the key before.
        head_width: d_head; None means d_model // n_heads.
        seed: of the starting weights.
    """

    n_layers: int  # 0 leaves W_E W_U, the bigram model
    n_heads: int = 4
    d_model: int = 128
    d_vocab: int = 512
    n_ctx: int = 256  # longest sequence, tokens
    d_mlp: int = 0  # 0 means attention only
    act: str = "relu"
    norm: str = "none"
    positions: str = "shortformer"  # a sinusoidal table added to what Q and K read, never to the stream
    position_layers: int | None = None  # shortformer: only the first so many layers see positions; None: all
    tied: bool = False  # W_U = W_E^T
    bias: bool = False
    smeared: bool = False  # k_j <- s k_j + (1 - s) k_{j-1}, one learned s = sigmoid(alpha) a head
    head_width: int | None = None  # None means d_model // n_heads
    seed: int = 0

    def __post_init__(self):
        for name, known in CHOICES.items():
            value = getattr(self, name)
            if value not in known:
                raise CourseError(
                    f"{name}={value!r} is not one of {', '.join(known)}.{nearest(str(value), known)}"
                )
        for name in ("n_heads", "d_model", "d_vocab", "n_ctx"):
            if getattr(self, name) < 1:
                raise CourseError(f"{name}={getattr(self, name)} must be at least 1.")
        if self.n_layers < 0 or self.d_mlp < 0:
            raise CourseError("n_layers and d_mlp cannot be negative.")
        if self.head_width is None and self.d_model % self.n_heads:
            raise CourseError(f"{self.n_heads} heads do not divide d_model={self.d_model}: set head_width.")
        if self.positions == "rotary" and self.d_head % 2:
            raise CourseError(f"Rotary positions turn pairs of numbers, and d_head={self.d_head} is odd.")

    @property
    def d_head(self) -> int:
        return self.head_width or self.d_model // self.n_heads

    @property
    def positions_in_stream(self) -> bool:
        """Whether a table of positions is added to the stream, and not to what Q and K read alone."""
        return self.positions in ("learned", "sinusoidal")

    # What TransformerLens' ActivationCache and tools ask of a configuration.
    attn_only = property(lambda self: self.d_mlp == 0)
    normalization_type = property(lambda self: {"none": None, "layernorm": "LN", "rmsnorm": "RMS"}[self.norm])
    positional_embedding_type = property(lambda self: self.positions)
    final_rms = property(lambda self: self.norm == "rmsnorm")
    act_fn = property(lambda self: self.act)
    d_vocab_out = property(lambda self: self.d_vocab)
    device = property(lambda self: "cpu")
    eps = property(lambda self: 1e-5)
    use_attn_result = property(lambda self: False)
