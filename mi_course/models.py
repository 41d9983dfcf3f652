"""Small transformers one can see into: TransformerLens names, nothing hidden.

`TinyTransformer` is a `HookedRootModule` of TransformerLens 4 with TransformerLens' weight names
(`W_E W_pos W_Q W_K W_V W_O W_in W_out W_U`) and hook names (`blocks.0.attn.hook_pattern`, …).
Vectors are rows and weights multiply from the right, `x @ W`; the papers write columns, `W x`.
This is the only module that imports `transformer_lens`.

Shapes: `batch`, `pos` (also `query`, `key`), `head`, `d_model`, `d_head`, `d_mlp`, `d_vocab`.

>>> import torch
>>> from mi_course import models
>>> model = models.TinyTransformer(models.TinyConfig(n_layers=2, n_heads=4, d_vocab=24))
>>> logits, cache = model.run_with_cache(torch.randint(24, (1, 10)))
>>> list(logits.shape), list(cache["pattern", 1].shape)
([1, 10, 24], [1, 4, 10, 10])
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformer_lens import ActivationCache, HookedRootModule
from transformer_lens.hook_points import HookPoint

from mi_course.errors import CourseError, nearest
from mi_course.files import checkpoint_names, read_checked, save_checked, shipped_path  # noqa: F401  (models.checkpoint_names: what load knows)

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


def sinusoids(n_ctx: int, d_model: int) -> Float[Tensor, "pos d_model"]:
    """The sine and cosine table of Vaswani et al. (2017), wavelengths 2π … 10,000·2π positions."""
    pos = torch.arange(n_ctx)[:, None]
    rate = torch.exp(-math.log(10_000) * torch.arange(0, d_model, 2) / d_model)
    table = torch.zeros(n_ctx, d_model)
    table[:, 0::2] = torch.sin(pos * rate)
    table[:, 1::2] = torch.cos(pos * rate[: d_model // 2])
    return table


CACHING = {"device", "incl_bwd", "reset_hooks_end", "clear_contexts", "pos_slice"}  # left to TransformerLens


class Embed(nn.Module):
    def __init__(self, cfg: TinyConfig):
        super().__init__()
        self.W_E = nn.Parameter(0.5 * torch.randn(cfg.d_vocab, cfg.d_model))

    def forward(self, tokens):
        return F.embedding(tokens, self.W_E)


class PosEmbed(nn.Module):
    """Learned positions are trained; sinusoidal and shortformer tables stay as they are."""

    def __init__(self, cfg: TinyConfig):
        super().__init__()
        if cfg.positions == "learned":
            self.W_pos = nn.Parameter(0.1 * torch.randn(cfg.n_ctx, cfg.d_model))
        else:
            scale = 2.0 if cfg.positions == "shortformer" else 1.0
            self.W_pos = nn.Parameter(scale * sinusoids(cfg.n_ctx, cfg.d_model), requires_grad=False)


class Norm(nn.Module):
    """LayerNorm or RMSNorm with TransformerLens' `w`, `b`, `hook_scale` and `hook_normalized`."""

    def __init__(self, cfg: TinyConfig):
        super().__init__()
        self.centre = cfg.norm == "layernorm"
        self.w = nn.Parameter(torch.ones(cfg.d_model))
        if self.centre:
            self.b = nn.Parameter(torch.zeros(cfg.d_model))
        self.hook_scale, self.hook_normalized = HookPoint(), HookPoint()

    def forward(self, x):
        if self.centre:
            x = x - x.mean(-1, keepdim=True)
        scale = self.hook_scale((x.square().mean(-1, keepdim=True) + 1e-5).sqrt())
        x = self.hook_normalized(x / scale) * self.w
        return x + self.b if self.centre else x


def rotate(x: Float[Tensor, "batch pos head d_head"]) -> Float[Tensor, "batch pos head d_head"]:
    """Rotary positions (Su et al. 2021): the pair (2i, 2i + 1) turns by the angle pos · 10,000^(−2i/d_head)."""
    rate = 10_000.0 ** (-torch.arange(0, x.shape[-1], 2, device=x.device) / x.shape[-1])
    angle = torch.arange(x.shape[1], device=x.device)[:, None] * rate
    cos, sin = angle.cos()[:, None], angle.sin()[:, None]  # pos 1 pair
    even, odd = x[..., 0::2], x[..., 1::2]
    return torch.stack([even * cos - odd * sin, odd * cos + even * sin], dim=-1).flatten(-2)


class Attention(nn.Module):
    """Causal self-attention; every head writes `z @ W_O[head]` into the stream, and the writes add."""

    def __init__(self, cfg: TinyConfig):
        super().__init__()
        self.cfg = cfg
        shape = (cfg.n_heads, cfg.d_model, cfg.d_head)
        self.W_Q = nn.Parameter(torch.randn(shape) * cfg.d_model**-0.5)
        self.W_K = nn.Parameter(torch.randn(shape) * cfg.d_model**-0.5)
        self.W_V = nn.Parameter(torch.randn(shape) * cfg.d_model**-0.5)
        self.W_O = nn.Parameter(0.5 * torch.randn(cfg.n_heads, cfg.d_head, cfg.d_model) * cfg.d_model**-0.5)
        if cfg.bias:
            for name in ("b_Q", "b_K", "b_V"):
                setattr(self, name, nn.Parameter(torch.zeros(cfg.n_heads, cfg.d_head)))
            self.b_O = nn.Parameter(torch.zeros(cfg.d_model))
        if cfg.smeared:
            self.smear = nn.Parameter(torch.zeros(cfg.n_heads))
        future = torch.full((cfg.n_ctx, cfg.n_ctx), -torch.inf).triu(1)  # −∞ above the diagonal, 0 elsewhere
        self.register_buffer("future", future, persistent=False)
        self.hook_q, self.hook_k, self.hook_v, self.hook_z = (HookPoint() for _ in range(4))
        self.hook_attn_scores, self.hook_pattern, self.hook_result = (HookPoint() for _ in range(3))
        self.use_attn_result = False

    def heads_of(self, x, letter: str):
        """x @ W for every head at once: batch pos head d_head."""
        W = getattr(self, f"W_{letter}").transpose(0, 1).flatten(1)
        out = (x @ W).view(*x.shape[:2], self.cfg.n_heads, self.cfg.d_head)
        return out + getattr(self, f"b_{letter}") if self.cfg.bias else out

    def masked_scores(self, q, k):
        """q · k / √d_head with −∞ at what lies ahead, in one product: batch head query key."""
        batch, n_pos, heads, d_head = q.shape
        q, k = (a.transpose(1, 2).reshape(batch * heads, n_pos, d_head) for a in (q, k))
        scores = torch.baddbmm(self.future[:n_pos, :n_pos], q, k.mT, alpha=d_head**-0.5)
        return scores.view(batch, heads, n_pos, n_pos)

    def forward(self, x, qk_input):
        q, k, v = self.heads_of(qk_input, "Q"), self.heads_of(qk_input, "K"), self.heads_of(x, "V")
        if self.cfg.smeared:
            share = self.smear.sigmoid()[:, None]
            k = share * k + (1 - share) * torch.cat([k[:, :1], k[:, :-1]], dim=1)
        if self.cfg.positions == "rotary":
            q, k = rotate(q), rotate(k)
        q, k, v = self.hook_q(q), self.hook_k(k), self.hook_v(v)
        scores = self.hook_attn_scores(self.masked_scores(q, k))
        pattern = self.hook_pattern(scores.softmax(-1))
        z = self.hook_z((pattern @ v.transpose(1, 2)).transpose(1, 2))  # batch pos head d_head
        if self.use_attn_result:
            out = self.hook_result(torch.einsum("bphd,hdm->bphm", z, self.W_O)).sum(2)
        else:
            out = z.flatten(2) @ self.W_O.flatten(0, 1)
        return out + self.b_O if self.cfg.bias else out


class MLP(nn.Module):
    def __init__(self, cfg: TinyConfig):
        super().__init__()
        self.act = F.relu if cfg.act == "relu" else F.gelu
        self.W_in = nn.Parameter(torch.randn(cfg.d_model, cfg.d_mlp) * cfg.d_model**-0.5)
        self.W_out = nn.Parameter(0.5 * torch.randn(cfg.d_mlp, cfg.d_model) * cfg.d_mlp**-0.5)
        self.bias = cfg.bias
        if cfg.bias:
            self.b_in = nn.Parameter(torch.zeros(cfg.d_mlp))
            self.b_out = nn.Parameter(torch.zeros(cfg.d_model))
        self.hook_pre, self.hook_post = HookPoint(), HookPoint()

    def forward(self, x):
        pre = x @ self.W_in
        post = self.hook_post(self.act(self.hook_pre(pre + self.b_in if self.bias else pre)))
        out = post @ self.W_out
        return out + self.b_out if self.bias else out


class Block(nn.Module):
    def __init__(self, cfg: TinyConfig):
        super().__init__()
        self.cfg = cfg
        self.attn = Attention(cfg)
        self.ln1 = Norm(cfg) if cfg.norm != "none" else nn.Identity()
        self.hook_resid_pre, self.hook_attn_out, self.hook_resid_post = HookPoint(), HookPoint(), HookPoint()
        if cfg.d_mlp:
            self.mlp = MLP(cfg)
            self.ln2 = Norm(cfg) if cfg.norm != "none" else nn.Identity()
            self.hook_resid_mid, self.hook_mlp_out = HookPoint(), HookPoint()

    def forward(self, resid, pos=None):
        resid = self.hook_resid_pre(resid)
        x = self.ln1(resid)
        resid = resid + self.hook_attn_out(self.attn(x, x if pos is None else x + pos))
        if self.cfg.d_mlp:
            resid = self.hook_resid_mid(resid)
            resid = resid + self.hook_mlp_out(self.mlp(self.ln2(resid)))
        return self.hook_resid_post(resid)


class Unembed(nn.Module):
    def __init__(self, cfg: TinyConfig):
        super().__init__()
        self.W_U = nn.Parameter(0.02 * torch.randn(cfg.d_model, cfg.d_vocab))


class TinyTransformer(HookedRootModule):
    """A decoder-only transformer in about a hundred lines, open at every hook.

    `model(tokens)` gives logits [batch pos d_vocab]: `logits[:, i]` predicts token i + 1.
    Zero layers leave `W_E W_U` (notebook 01); with `norm="none"` and no MLP the logits are a sum over paths
    (Elhage et al. 2021; notebook 02).

    Args:
        cfg: its shape, a `TinyConfig`.
    """

    def __init__(self, cfg: TinyConfig):
        super().__init__()
        self.cfg = cfg
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(cfg.seed)
            self.embed = Embed(cfg)
            if cfg.positions not in ("none", "rotary"):
                self.pos_embed = PosEmbed(cfg)
            self.blocks = nn.ModuleList(Block(cfg) for _ in range(cfg.n_layers))
            if cfg.norm != "none":
                self.ln_final = Norm(cfg)
            if not cfg.tied:
                self.unembed = Unembed(cfg)
        self.hook_embed, self.hook_pos_embed = HookPoint(), HookPoint()
        self.card: dict = {}  # what a loaded checkpoint says of itself
        self.setup()

    # -- forward ---------------------------------------------------------------------------------

    def forward(
        self,
        tokens: Int[Tensor, "batch pos"],
        return_type: str | None = "logits",
        loss_per_token: bool = False,
        stop_at_layer: int | None = None,
    ):
        """Logits [batch pos d_vocab], the next-token loss in nats, `both`, or nothing (None, for caching).

        With `loss_per_token` the loss is [batch pos−1]. `stop_at_layer=k` gives the stream that enters
        block k, [batch pos d_model]; k = n_layers gives the stream after the last block.
        """
        if return_type not in ("logits", "loss", "both", None):
            raise CourseError(f"return_type={return_type!r} is not one of logits, loss, both or None.")
        resid = self.stream(checked_tokens(tokens, self.cfg), stop_at_layer)
        if stop_at_layer is not None:
            return resid
        if return_type is None:
            return None
        logits = self.unembed_stream(resid)
        if return_type == "logits":
            return logits
        loss = next_token_loss(logits, tokens, per_token=loss_per_token)
        return loss if return_type == "loss" else (logits, loss)

    def stream(self, tokens, stop_at_layer: int | None = None):
        """The residual stream [batch pos d_model] after the blocks, or before block `stop_at_layer`."""
        resid, pos = self.hook_embed(self.embed(tokens)), None
        if hasattr(self, "pos_embed"):
            pos = self.hook_pos_embed(self.pos_embed.W_pos[: tokens.shape[1]])
            if self.cfg.positions != "shortformer":
                resid, pos = resid + pos, None
        seeing = self.cfg.n_layers if self.cfg.position_layers is None else self.cfg.position_layers
        for i, block in enumerate(self.blocks[:stop_at_layer]):
            resid = block(resid, pos if i < seeing else None)
        return resid

    def unembed_stream(self, resid):
        """Logits of a residual stream: the final norm, if there is one, then W_U."""
        return (self.ln_final(resid) if hasattr(self, "ln_final") else resid) @ self.W_U

    # -- hooks -----------------------------------------------------------------------------------

    def run_with_cache(
        self,
        *args,
        names_filter=None,
        return_cache_object: bool = True,
        remove_batch_dim: bool = False,
        **kwargs,
    ):
        """Output and every activation, as TransformerLens' `ActivationCache` (or a plain dict)."""
        if names_filter is None:
            names_filter = lambda name: self.use_attn_result or not name.endswith("hook_result")  # noqa: E731
        if not callable(names_filter) or remove_batch_dim or kwargs.keys() & CACHING:
            output, cache = super().run_with_cache(
                *args, names_filter=names_filter, remove_batch_dim=remove_batch_dim, **kwargs
            )
        else:
            output, cache = self._run_and_save(names_filter, args, kwargs)
        if return_cache_object:
            cache = ActivationCache(cache, self, has_batch_dim=not remove_batch_dim)
        return output, cache

    def _run_and_save(self, keep, args: tuple, kwargs: dict) -> tuple:
        """The usual cached run with PyTorch's own hooks: what TransformerLens' would save, at half their cost."""
        cache: dict[str, Tensor] = {}

        def save(point, _, value):
            cache[point.name] = value.detach()

        points = [point for name, point in self.hook_dict.items() if keep(name)]
        handles = [point.register_forward_hook(save) for point in points]
        try:
            return self(*args, **kwargs), cache
        finally:
            for handle in handles:
                handle.remove()

    def run_with_hooks(self, *args, fwd_hooks=(), bwd_hooks=(), **kwargs):
        """One run with hooks that are gone afterwards, also after an error."""
        with self.hooks(fwd_hooks, bwd_hooks):
            return self(*args, **kwargs)

    def hooks(self, fwd_hooks=(), bwd_hooks=(), **kwargs):
        """`with model.hooks([(name, fn)]):` where fn(activation, hook) returns a new activation or None."""
        for name, _ in [*fwd_hooks, *bwd_hooks]:
            if isinstance(name, str) and name not in self.hook_dict:
                raise CourseError(f"This model has no hook {name!r}.{nearest(name, self.hook_dict)}")
            if isinstance(name, str) and name.endswith("hook_result") and not self.use_attn_result:
                raise CourseError(f"{name} is only computed after `model.use_attn_result = True`.")
        return super().hooks(list(fwd_hooks), list(bwd_hooks), **kwargs)

    @property
    def use_attn_result(self) -> bool:
        """Whether every head's own write, hook_result [batch pos head d_model], is computed (it costs memory)."""
        return any(block.attn.use_attn_result for block in self.blocks)

    @use_attn_result.setter
    def use_attn_result(self, on: bool):
        for block in self.blocks:
            block.attn.use_attn_result = on

    # -- weights ---------------------------------------------------------------------------------

    W_E = property(lambda self: self.embed.W_E)
    W_U = property(lambda self: self.embed.W_E.T if self.cfg.tied else self.unembed.W_U)
    W_pos = property(lambda self: self.pos_embed.W_pos)
    W_Q = property(lambda self: self._stack("W_Q"))
    W_K = property(lambda self: self._stack("W_K"))
    W_V = property(lambda self: self._stack("W_V"))
    W_O = property(lambda self: self._stack("W_O"))

    def _stack(self, name: str) -> Tensor:
        if not len(self.blocks):
            raise CourseError(f"A model of zero layers has no {name}.")
        return torch.stack([getattr(block.attn, name) for block in self.blocks])

    @property
    def W_QK(self) -> Float[Tensor, "layer head d_model d_model"]:
        """W_Q W_K^T: the score of (query, key) is q_row @ W_QK @ k_row / √d_head. Rank at most d_head."""
        return self.W_Q @ self.W_K.transpose(-1, -2)

    @property
    def W_OV(self) -> Float[Tensor, "layer head d_model d_model"]:
        """W_V W_O: what a head writes where it attends is row @ W_OV. Rank at most d_head."""
        return self.W_V @ self.W_O

    def head(self, layer: int, head: int) -> tuple[int, int]:
        """The pair itself, after a check that there is such a head."""
        n_layers, n_heads = self.cfg.n_layers, self.cfg.n_heads
        if not (0 <= layer < n_layers and 0 <= head < n_heads):
            raise CourseError(f"No head {layer}.{head}: layers are 0…{n_layers - 1}, heads 0…{n_heads - 1}.")
        return layer, head

    def full_QK(self, layer: int, head: int) -> Float[Tensor, "query key"]:
        """Score of every query token for every key token, positions left out, before the division by √d_head."""
        return self.W_E @ self.W_QK[self.head(layer, head)] @ self.W_E.T

    def full_OV(self, layer: int, head: int) -> Float[Tensor, "source out"]:
        """Logit change of every out token when the head attends fully to each source token."""
        return self.W_E @ self.W_OV[self.head(layer, head)] @ self.W_U

    def direct_path(self) -> Float[Tensor, "token out"]:
        """W_E W_U: what a token says of the next one with no attention at all."""
        return self.W_E @ self.W_U

    # -- use -------------------------------------------------------------------------------------

    @torch.no_grad()
    def generate(
        self,
        tokens: Int[Tensor, "batch pos"],
        n: int,
        *,
        seed: int = 0,
        temperature: float | int = 1.0,
        top_k: int | None = None,
        stop: int | None = None,
    ) -> Int[Tensor, "batch longer"]:
        """Append up to n sampled tokens. Temperature 0 takes the likeliest; ends once every row drew `stop`."""
        if n < 0 or temperature < 0 or (top_k is not None and not 1 <= top_k <= self.cfg.d_vocab):
            raise CourseError("generate needs n ≥ 0, temperature ≥ 0 and 1 ≤ top_k ≤ d_vocab.")
        draw = torch.Generator(device=tokens.device).manual_seed(seed)
        done = torch.zeros(len(tokens), dtype=torch.bool, device=tokens.device)
        for _ in range(n):
            logits = self(tokens[:, -self.cfg.n_ctx :])[:, -1]
            if top_k is not None:
                logits = logits.masked_fill(logits < logits.topk(top_k).values[:, -1:], -torch.inf)
            if temperature == 0:
                new = logits.argmax(-1, keepdim=True)
            else:
                new = torch.multinomial((logits / temperature).softmax(-1), 1, generator=draw)
            if stop is not None:
                new[done] = stop
                done |= new[:, 0] == stop
            tokens = torch.cat([tokens, new], dim=1)
            if stop is not None and done.all():
                break
        return tokens

    def save(self, path: str | Path, *, half: bool = False, **card) -> Path:
        """Write `path`.safetensors and its card `path`.json; a crash or a full disk spoils no earlier pair.

        The card holds the configuration, the weights' sha256 and whatever is given (seed, corpus, minutes,
        metrics). `half` stores 16-bit floats. Weights that do not match their card do not load.
        """
        dtype = torch.float16 if half else torch.float32
        state = {name: weight.detach().cpu().to(dtype) for name, weight in self.state_dict().items()}
        return save_checked(path, state, config=asdict(self.cfg), **card)

    @classmethod
    def load(cls, name_or_path: str | Path) -> TinyTransformer:
        """`models.load`, as TransformerLens users look for it."""
        return load(name_or_path)


def next_token_loss(
    logits: Float[Tensor, "batch pos d_vocab"], tokens: Int[Tensor, "batch pos"], per_token: bool = False
) -> Float[Tensor, "..."]:
    """Mean −log p(next token) in nats; with `per_token`, [batch pos−1]."""
    reduction = "none" if per_token else "mean"
    flat = F.cross_entropy(logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten(), reduction=reduction)
    return flat.view(len(tokens), -1) if per_token else flat


def checked_tokens(tokens: Int[Tensor, "..."], cfg) -> Int[Tensor, "batch pos"]:
    """The tokens, if a model of that configuration can read them; ids on a GPU are not waited for."""
    if tokens.ndim != 2:
        raise CourseError(
            f"tokens must be [batch pos], not {list(tokens.shape)}: use tokens[None] for one row."
        )
    if tokens.shape[1] > cfg.n_ctx:
        raise CourseError(f"{tokens.shape[1]} tokens do not fit: this model reads n_ctx={cfg.n_ctx}.")
    if tokens.device.type == "cpu" and tokens.numel():
        low, high = int(tokens.min()), int(tokens.max())
        if low < 0 or high >= cfg.d_vocab:
            raise CourseError(f"Token ids {low}…{high} leave the vocabulary 0…{cfg.d_vocab - 1}.")
    return tokens


def load(name_or_path: str | Path) -> TinyTransformer:
    """A shipped model by name, or any saved one by path, in evaluation mode on the CPU.

    Args:
        name_or_path: a shipped name (`files.checkpoint_names()`), or the path that `save` was given.
    """
    path = shipped_path(name_or_path)
    tensors, card = read_checked(path)
    try:
        model = TinyTransformer(TinyConfig(**card["config"]))
        model.load_state_dict({name: tensor.float() for name, tensor in tensors.items()})
    except (RuntimeError, KeyError, TypeError) as error:
        raise CourseError(
            f"Card and weights of {path} disagree: {str(error).splitlines()[-1].strip()}"
        ) from error
    model.card = card
    return model.eval()
