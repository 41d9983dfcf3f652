"""The small transformer itself: forward pass, hooks, weights as the papers name them, sampling, saving, loading."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformer_lens import ActivationCache, HookedRootModule
from transformer_lens.hook_points import HookPoint

from mi_course.errors import CourseError, nearest
from mi_course.files import read_checked, save_checked, shipped_path
from mi_course.models.config import TinyConfig
from mi_course.models.layers import Block, Embed, Norm, PosEmbed, Unembed
from mi_course.models.tokens import check_rows, checked_tokens, next_token_loss

CACHING = {"device", "incl_bwd", "reset_hooks_end", "clear_contexts", "pos_slice"}  # left to TransformerLens


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

        With `loss_per_token` the loss is [batch pos−1]. `stop_at_layer=k` gives the stream that enters block k,
        [batch pos d_model]; k = n_layers gives the stream after the last block. `tokens` are ids; `return_type` is
        logits, loss, both or None.
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
        """The residual stream [batch pos d_model] of `tokens` after the blocks, or before block `stop_at_layer`."""
        resid, qk_positions = self.hook_embed(self.embed(tokens)), None
        if hasattr(self, "pos_embed"):
            positions = self.hook_pos_embed(self.pos_embed.W_pos[: tokens.shape[1]])
            if self.cfg.positions_in_stream:
                resid = resid + positions
            else:
                qk_positions = positions
        seeing = self.cfg.n_layers if self.cfg.position_layers is None else self.cfg.position_layers
        for i, block in enumerate(self.blocks[:stop_at_layer]):
            resid = block(resid, qk_positions if i < seeing else None)
        return resid

    def unembed_stream(self, resid):
        """Logits of a residual stream `resid` [batch pos d_model]: the final norm, if there is one, then W_U."""
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
        """Output and every activation, as TransformerLens' `ActivationCache` (or a plain dict).

        `names_filter` is a hook's name, a list of them, or a function name → bool; left out, everything is kept.
        `return_cache_object=False` gives the dict, and `remove_batch_dim` drops the first axis of a batch of one.
        `args` and `kwargs` go to the model, so tokens come first.
        """
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
        """One run with hooks that are gone afterwards, also after an error.

        `fwd_hooks` are (name, function) pairs, see `hooks`; `bwd_hooks` the same for gradients. `args` and `kwargs`
        go to the model, so tokens come first.
        """
        with self.hooks(fwd_hooks, bwd_hooks):
            return self(*args, **kwargs)

    def hooks(self, fwd_hooks=(), bwd_hooks=(), **kwargs):
        """`with model.hooks([(name, fn)]):` where fn(activation, hook) returns a new activation or None.

        That list is `fwd_hooks`; `bwd_hooks` are the same for gradients, and `kwargs` go to TransformerLens' `hooks`.
        """
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
        """The pair (`layer`, `head`) itself, after a check that there is such a head."""
        n_layers, n_heads = self.cfg.n_layers, self.cfg.n_heads
        if not (0 <= layer < n_layers and 0 <= head < n_heads):
            raise CourseError(f"No head {layer}.{head}: layers are 0…{n_layers - 1}, heads 0…{n_heads - 1}.")
        return layer, head

    def full_QK(self, layer: int, head: int) -> Float[Tensor, "query key"]:
        """Score of every query token for every key token, positions left out, before the division by √d_head.

        `layer` and `head` say whose.
        """
        return self.W_E @ self.W_QK[self.head(layer, head)] @ self.W_E.T

    def full_OV(self, layer: int, head: int) -> Float[Tensor, "source out"]:
        """Logit change of every out token when the head attends fully to each source token.

        `layer` and `head` say which.
        """
        return self.W_E @ self.W_OV[self.head(layer, head)] @ self.W_U

    def direct_path(self) -> Float[Tensor, "token out"]:
        """W_E W_U: what a token says of the next one with no attention at all."""
        return self.W_E @ self.W_U

    # -- use -------------------------------------------------------------------------------------

    @torch.no_grad()
    def generate(
        self,
        tokens: Int[Tensor, "..."],
        n: int,
        *,
        seed: int = 0,
        temperature: float | int = 1.0,
        top_k: int | None = None,
        stop: int | None = None,
    ) -> Int[Tensor, "batch longer"]:
        """Append up to n sampled tokens. Temperature 0 takes the likeliest; ends once every row drew `stop`.

        `tokens` [batch pos], at least one a row, are continued, each drawn by `seed` from the softmax of logits / `temperature`, among the `top_k`
        likeliest only (default: all).
        """
        if n < 0 or temperature < 0 or (top_k is not None and not 1 <= top_k <= self.cfg.d_vocab):
            raise CourseError("generate needs n ≥ 0, temperature ≥ 0 and 1 ≤ top_k ≤ d_vocab.")
        check_rows(tokens)
        if not tokens.shape[1]:
            raise CourseError("generate needs at least one token a row to go on from.")
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
        """`models.load(name_or_path)`, as TransformerLens users look for it."""
        return load(name_or_path)


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
