"""Patching as one would write it by hand: one run of the model, with one hook, for every patch."""

import torch

from mi_course.models import TinyConfig, TinyTransformer

SITES = {
    "resid_pre": "hook_resid_pre", "resid_mid": "hook_resid_mid", "resid_post": "hook_resid_post",
    "attn_out": "hook_attn_out", "mlp_out": "hook_mlp_out", "z": "attn.hook_z", "result": "attn.hook_result",
    "q": "attn.hook_q", "k": "attn.hook_k", "v": "attn.hook_v", "pattern": "attn.hook_pattern",
    "neuron": "mlp.hook_post",
}  # fmt: skip
HEADS = ("z", "result", "q", "k", "v", "pattern")


def model_of(seed=0, **shape) -> TinyTransformer:
    """A random model in which no weight is 0 or 1."""
    model = TinyTransformer(
        TinyConfig(**{"n_heads": 2, "d_model": 8, "d_vocab": 11, "n_ctx": 8, "seed": seed} | shape)
    )
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.requires_grad:
                weight += 0.3 * torch.randn(weight.shape, generator=generator)
    return model.eval()


def prompts(model, batch=3, n_pos=6, seed=0):
    """Clean and corrupted tokens, right and wrong answers."""
    generator = torch.Generator().manual_seed(seed)
    clean, corrupted = torch.randint(model.cfg.d_vocab, (2, batch, n_pos), generator=generator)
    corrupted[0, 0] = (clean[0, 0] + 1) % model.cfg.d_vocab
    right = torch.randint(model.cfg.d_vocab, (batch,), generator=generator)
    return clean, corrupted, right, (right + 1) % model.cfg.d_vocab


def cache_of(model, tokens):
    with torch.no_grad():
        return model.run_with_cache(tokens)[1]


def put(x, value, kind, part, pos, key=None):
    """Overwrite a part of x with the same part of another run's activation."""
    pos = slice(None) if pos is None else pos
    if kind == "pattern":
        index = (slice(None), part, pos) if key is None else (slice(None), part, pos, key)
    else:
        index = (slice(None), pos) if part is None else (slice(None), pos, part)
        if kind == "neuron":
            index = (slice(None), pos, part)
    x[index] = value[index]
    return x


def patched(model, tokens, source, patches, at):
    """Logits [batch d_vocab] at `at` with every (kind, layer, part, pos, key) of `patches` taken from the cache."""
    hooks = []
    for kind, layer, part, pos, *key in patches:
        name = f"blocks.{layer}.{SITES[kind]}"
        hooks.append((
            name,
            lambda x, hook, kind=kind, part=part, pos=pos, key=key: put(
                x.clone(), source[hook.name], kind, part, pos, *key
            ),
        ))  # fmt: skip
    with torch.no_grad():
        return model.run_with_hooks(tokens, fwd_hooks=hooks)[torch.arange(len(tokens)), at]


def swept(model, tokens, source, axes, kind, at):
    """`patched` for every cell of a sweep with these axes: [*axes batch d_vocab]."""
    names, logits = list(axes), []
    for cell in torch.cartesian_prod(*(torch.tensor(axes[n]) for n in names)).view(-1, len(names)).tolist():
        where = dict(zip(names, cell))
        part, pos = where.get("head", where.get("unit")), where.get("pos", where.get("query"))
        key = [where["key"]] if "key" in where else []
        logits.append(patched(model, tokens, source, [(kind, where["layer"], part, pos, *key)], at))
    return torch.stack(logits).view(*map(len, axes.values()), len(tokens), -1)
