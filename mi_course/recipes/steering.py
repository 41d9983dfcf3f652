"""Notebook 12's small model, and its sweeps on SmolLM2: `python -m mi_course train village`, `… smollm2-refusal`."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mi_course import corpora, pretrained
from mi_course.files import save_checked
from mi_course.models import TinyConfig, TinyTransformer
from mi_course.recipes.lenses import NAME
from mi_course.recipes.recipe import Recipe, TinyRecipe
from mi_course.steering import real, village
from mi_course.training import TrainConfig


@dataclass(frozen=True)
class VillageRecipe(TinyRecipe):
    """How the model that answers, refuses and plays roles is made."""

    @property
    def config(self) -> TinyConfig:
        """Two layers with biases everywhere: more writers to make orthogonal."""
        return TinyConfig(
            n_layers=2, n_heads=4, d_model=64, d_vocab=len(village.WORDS), n_ctx=village.N_READ + village.N_WRITTEN,
            d_mlp=128, norm="rmsnorm", positions="learned", bias=True, seed=self.seed,
        )  # fmt: skip

    def begin(self) -> TinyTransformer:
        """The last block's MLP writes nothing and learns nothing: what is decided has to be decided before it."""
        model = super().begin()
        last = model.blocks[-1].mlp
        for weight in (last.W_out, last.b_out):
            weight.data.zero_()
            weight.requires_grad_(False)
        return model

    def sampler(self) -> corpora.Sampler:
        """Fresh dialogues at every step."""
        return lambda step: village.dialogues(self.batch, seed=1_000_003 * (self.seed + 1) + step)

    def final(self, model: TinyTransformer) -> dict[str, Any]:
        """How often the `model` refuses what is forbidden and what is not, most likely word after most likely word."""
        said = {}
        for name, verbs in (("forbidden", village.DANGEROUS), ("allowed", village.SAFE)):
            asked = village.requests(200, seed=1, verbs=verbs, topics=village.FREE)
            out = model.generate(asked.read, village.N_WRITTEN, temperature=0)[:, village.N_READ :]
            said[f"refused_{name}"] = round(float(village.refuses(out).float().mean()), 3)
        return {"final": said}


@dataclass(frozen=True)
class SweepOfSmolLM2(Recipe):
    """What SmolLM2 writes under many edits, as tokens, with the vectors and losses that belong to it."""

    @property
    def megabytes(self) -> float:
        """A few thousand answers of a few tokens."""
        return 0.3

    def make(self, out: Path, device: str, progress: bool) -> Path:
        """One file for the sweep. A stopped run starts anew: it takes minutes."""
        began, tensors = time.perf_counter(), {}
        model = pretrained.load(NAME, dtype=pretrained.quick_dtype())
        for name, tensor in real.SWEEPS[self.name](model):
            tensors[name] = tensor.contiguous()
            if progress:
                print(f"{name} {time.perf_counter() - began:.0f} s", flush=True)
        card = self.provenance(time.perf_counter() - began, device, "transformers")
        return save_checked(out / self.stem, tensors, model=NAME, dtype=str(model.cfg.dtype), **card)


RECIPES = {
    recipe.name: recipe
    for recipe in (
        VillageRecipe("village", "answers, refuses, has traits and plays roles: everything planted (notebook 12)",
                      training=TrainConfig(steps=1500, lr=4e-3, weight_decay=0.1), batch=96),
        SweepOfSmolLM2("smollm2-doses", "SmolLM2 under vectors of five behaviours at five doses (notebook 12)"),
        SweepOfSmolLM2("smollm2-refusal", "SmolLM2 with and without its direction of refusal (notebook 12)"),
        SweepOfSmolLM2("smollm2-roles", "SmolLM2 in twenty-four roles, moved along the assistant axis (notebook 12)"),
    )
}  # fmt: skip
