"""The shipped autoencoders of notebook 05 as recipes: `python -m mi_course train sae-2048-l3`.

All read the 512 ReLU neurons of a `mlp-1l` model. A name says size, penalty and the seed of the model:
sae-512-l2-seed1 has 512 features, λ = 2, and reads mlp-1l-seed1.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import torch
from jaxtyping import Int
from torch import Tensor

from mi_course import processes, sae
from mi_course.activations import collect
from mi_course.corpora import scripts
from mi_course.corpora.corpus import generator
from mi_course.files import add_to_card
from mi_course.models import TinyTransformer, load, next_token_loss
from mi_course.recipes.recipe import Recipe

HOOK = "blocks.0.mlp.hook_post"


@dataclass(frozen=True)
class SaeRecipe(Recipe):
    """How one autoencoder is made."""

    sae: sae.SaeConfig
    inputs: int  # activation vectors it is trained on
    shuffled: bool = False  # of a model whose weights were shuffled: the control of TM-18
    lr: float = 1e-3
    shipped: bool = True
    sharded: bool = field(default=False, kw_only=True)  # each process has a part of the features
    shares_batches: bool = field(default=True, kw_only=True)

    @property
    def model(self) -> str:
        """The transformer whose neurons it reads."""
        return of_seed("mlp-1l", self.seed)

    @property
    def stem(self) -> str:
        return self.name  # which holds the seed

    @property
    def training(self) -> sae.SaeTraining:
        return sae.SaeTraining(self.inputs // 512, lr=self.lr, seed=self.sae.seed)

    @property
    def megabytes(self) -> float:
        """Size of the file, matrices in 16-bit floats."""
        return round(self.sae.d_in * self.sae.d_sae * 2 * 2 / 1e6, 1)

    def seeded(self, seed: int) -> SaeRecipe:
        """The same for another seed's model, drawn with another seed itself, under another name."""
        rename = lambda text, base: text.replace(of_seed(base, self.seed), of_seed(base, seed))
        base = self.name.removesuffix("-shuffled").removesuffix(f"-seed{self.seed}")
        return replace(
            self, name=rename(self.name, base), what=rename(self.what, "mlp-1l"), seed=seed,
            sae=replace(self.sae, seed=self.sae.seed - self.seed + seed), shipped=False,
        )  # fmt: skip

    def in_shards(self) -> SaeRecipe:
        """The same, its features cut among the processes of torchrun."""
        processes.equal_parts(self.sae.d_sae, processes.started())
        return replace(self, sharded=True)

    def read_model(self) -> TinyTransformer:
        """The model whose neurons it reads, its weights shuffled where the recipe says so."""
        model = load(self.model).requires_grad_(False)
        return shuffled_weights(model) if self.shuffled else model

    def make(self, out: Path, device: str, progress: bool) -> Path:
        """Weights in 16-bit floats, and a card that says what they cost."""
        model, corpus, training = self.read_model(), scripts.script_text(), self.training
        n_ctx = model.cfg.n_ctx
        rows = collect(model, HOOK, corpus.windows(n_ctx, self.inputs // n_ctx, seed=self.sae.seed)(0))
        kind = sae.Shard if self.sharded else sae.SparseAutoencoder
        encoder = kind(self.sae).start_from(rows[: 2**14].float())

        def sample(step: int) -> Tensor:
            drawn = torch.randint(len(rows), (training.batch,), generator=generator(training.seed, step))
            return rows[drawn].float()

        partial = out / f"{self.stem}.partial"
        history = sae.train(encoder, sample, training, progress=progress, checkpoint=partial)
        if processes.rank() > 0 and not self.sharded:
            return out / f"{self.stem}.safetensors"  # the first process measures and writes
        card = self.provenance(history.seconds, device) | {
            "model": self.model, "shuffled": self.shuffled, "hook": HOOK, "training": asdict(training),
            "inputs": len(history.loss) * training.batch, "corpus": repr(corpus), "fingerprint": corpus.fingerprint,
        }  # fmt: skip
        if self.sharded:
            card["shards"] = processes.world()
        path = saved_in_half(encoder, out / self.stem, card, lambda one: measure(one, model, corpus))
        if processes.rank() == 0:
            partial.unlink()
        return path


def saved_in_half(encoder: sae.SparseAutoencoder, path: Path, card: dict, measured: Callable) -> Path:
    """The file in 16-bit floats; its card says what was measured before, and how much the rounding changed."""
    full = measured(encoder)
    path = encoder.save(path, half=True, **card, final=full)
    half = measured(type(encoder).load(path))
    if processes.rank() == 0:
        add_to_card(path, change_by_16_bit_floats={key: round(half[key] - full[key], 6) for key in full})
    return path


def of_seed(name: str, seed: int) -> str:
    """The name of a family's member: that of seed 0 is the family's."""
    return f"{name}-seed{seed}" if seed else name


def l1_recipe(
    size: int, penalty: int, seed: int = 0, shuffled: bool = False, shipped: bool = True
) -> SaeRecipe:
    """ReLU and L1 on one of the two models."""
    name = of_seed(f"sae-{size}-l{penalty}", seed) + ("-shuffled" if shuffled else "")
    of = ("the weight-shuffled " if shuffled else "") + of_seed("mlp-1l", seed)
    return SaeRecipe(
        name, f"{size} features, λ = {penalty}, of {of}",
        sae.SaeConfig(512, size, "relu", l1=float(penalty), seed=1000 + seed, start_length=0.25),
        inputs=1_000_000, shuffled=shuffled, shipped=shipped, seed=seed,
    )  # fmt: skip


RECIPES = {
    recipe.name: recipe
    for recipe in (
        *(l1_recipe(512, penalty, seed) for seed in (0, 1) for penalty in (2, 3, 5)),
        *(l1_recipe(2048, penalty) for penalty in (2, 3)),
        l1_recipe(2048, 3, seed=1),
        *(l1_recipe(4096, penalty) for penalty in (2, 3)),
        l1_recipe(512, 3, shuffled=True),
        SaeRecipe("sae-1024-top16", "1024 features, the 16 largest, of mlp-1l",
                  sae.SaeConfig(512, 1024, "topk", k=16, seed=1000), inputs=1_000_000, lr=3e-3),
        l1_recipe(2048, 5, shipped=False), l1_recipe(2048, 2, seed=1, shipped=False),
        l1_recipe(2048, 5, seed=1, shipped=False), l1_recipe(4096, 5, shipped=False),
        *(l1_recipe(4096, penalty, seed=1, shipped=False) for penalty in (2, 3, 5)),
        *(l1_recipe(8192, penalty, shipped=False) for penalty in (2, 3)),
    )
}  # fmt: skip


def shuffled_weights(model: TinyTransformer, seed: int = 0) -> TinyTransformer:
    """The same model with the entries of every weight array in another order: its sizes, without what it learned."""
    twin = TinyTransformer(model.cfg)
    with torch.no_grad():
        for i, (name, value) in enumerate(model.state_dict().items()):
            order = torch.randperm(value.numel(), generator=generator(seed, i))
            twin.state_dict()[name].copy_(value.flatten()[order].view_as(value))
    return twin.eval().requires_grad_(False)


@torch.no_grad()
def measure(
    encoder: sae.SparseAutoencoder, model: TinyTransformer, corpus, windows: int = 400
) -> dict[str, float]:
    """FVU, L0, dead share and the three scores of loss recovered on held-out windows."""
    tokens = corpus.held_out_windows(windows, model.cfg.n_ctx, seed=17)
    x = collect(model, HOOK, tokens).float()
    f = torch.cat([encoder.encode(part) for part in x.split(4096)])
    result = {
        "fvu": sae.fvu(x, encoder.decode(f)), "l0": encoder.parts.total(sae.l0(f)),
        "dead": float(encoder.parts.mean(torch.tensor([sae.dead_share(f)]))),
        "above_1_percent": float(encoder.parts.mean((sae.density(f) > 0.01).float())),
    }  # fmt: skip
    mean = collect(model, HOOK, corpus.windows(model.cfg.n_ctx, 200, seed=18)(0)).float().mean(0)
    other = x[torch.randperm(len(x), generator=generator(19))].view(*tokens.shape, -1)
    start = {"zero": lambda a, hook: a * 0, "mean": lambda a, hook: a * 0 + mean,
             "resample": lambda a, hook: other[: len(a)], "spliced": sae.splice(encoder)}  # fmt: skip
    losses = {"loss": loss_with(model, tokens, None)} | {
        k: loss_with(model, tokens, h) for k, h in start.items()
    }
    result |= losses
    for baseline in ("zero", "mean", "resample"):
        result[f"recovered_{baseline}"] = sae.loss_recovered(
            losses["loss"], losses["spliced"], losses[baseline]
        )
    return {key: round(value, 5) for key, value in result.items()}


@torch.no_grad()
def loss_with(model: TinyTransformer, tokens: Int[Tensor, "window pos"], hook) -> float:
    """Next-token loss in nats with a hook in the place of the neurons."""
    hooks = [] if hook is None else [(HOOK, hook)]
    logits = model.run_with_hooks(tokens, fwd_hooks=hooks)
    return float(next_token_loss(logits, tokens))
