"""The shipped lenses of notebook 11 on SmolLM2, and the small models they are tried on first.

`python -m mi_course train smollm2-jacobian` fits the Jacobian lens anew, `… smollm2-tuned` the translators. Both read
Python's documentation and sources, and a run that is stopped goes on where it was.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mi_course import corpora, lenses, pretrained
from mi_course.files import read_checked, remove_checked, save_checked, with_suffix
from mi_course.models import TinyConfig, TinyTransformer, next_token_loss
from mi_course.recipes.recipe import Recipe, TinyRecipe, in_half
from mi_course.training import Checkpoint, TrainConfig, history_of

NAME = "smollm2-135m-instruct"
LAYERS = (5, 10, 15, 20, 25, 28)


@dataclass(frozen=True)
class JacobianRecipe(Recipe):
    """How the Jacobian lens is fitted."""

    layers: tuple[int, ...] = LAYERS
    prompts: int = 12
    length: int = 48  # tokens a prompt
    skip: int = 8  # positions at the start that are no source

    @property
    def megabytes(self) -> float:
        """Matrices in 16-bit floats."""
        return in_half(len(self.layers) * 576 * 576)

    def make(self, out: Path, device: str, progress: bool) -> Path:
        """Prompt by prompt; sums so far lie in a file beside."""
        model = pretrained.load(NAME)
        tokens = lenses.windows(model.tokenizer, self.prompts, self.length, seed=self.seed)
        partial = out / f"{self.stem}.partial"
        total, done, seconds = begun(partial)
        parts = lenses.jacobians(model, tokens[done:], self.layers, skip=self.skip, coarse=True)
        began, spent = time.perf_counter(), seconds
        for part in parts if done < self.prompts else ():
            total = {layer: J + total.get(layer, 0) for layer, J in part.items()}
            done, spent = done + 1, seconds + time.perf_counter() - began
            sums = {str(layer): J for layer, J in total.items()}
            save_checked(partial, sums, recipe=self.stem, done=done, seconds=spent)
            if progress:
                print(f"{self.stem}: {done} of {self.prompts} prompts, {spent:.0f} s", flush=True)
        lens = lenses.from_sums(model, total, done)
        path = lens.save(out / self.stem, **self.provenance(spent, device, "transformers"), model=NAME,
                         prompts=self.prompts, tokens=self.length, skip=self.skip, text="Python's library")  # fmt: skip
        remove_checked(partial)
        return path


@dataclass(frozen=True)
class TunedRecipe(Recipe):
    """How the tuned lens is trained: on KL, beginning with translators in closed form."""

    layers: tuple[int, ...] = LAYERS
    start_windows: int = 96  # for the closed form
    length: int = 64  # tokens a window
    batch: int = 2  # windows a step
    training: TrainConfig = TrainConfig(steps=60, lr=2e-4, warmup=5)  # noqa: RUF009 (it is frozen)

    @property
    def megabytes(self) -> float:
        """Matrices in 16-bit floats."""
        return in_half(len(self.layers) * 576 * 576)

    def make(self, out: Path, device: str, progress: bool) -> Path:
        """The closed form, then so many steps; what was reached lies in a file beside."""
        model, partial = pretrained.load(NAME), out / f"{self.stem}.partial"
        start_file = out / f"{self.stem}-start.partial"
        read = lambda n, seed: lenses.windows(model.tokenizer, n, self.length, seed=1000 * self.seed + seed)  # noqa: E731
        if not with_suffix(start_file, ".json").exists():
            lenses.ridge_translators(model, read(self.start_windows, 1), self.layers).save(start_file)
        start = lenses.load_lens(start_file)
        lens = lenses.train_translators(
            model, lambda step: read(self.batch, 100 + step), self.layers, self.training, start=start,
            checkpoint=Checkpoint(partial, every=10), progress=progress,
        )  # fmt: skip
        card = self.provenance(history_of(partial).seconds, device, "transformers")
        path = lens.save(out / self.stem, **card, model=NAME, steps=self.training.steps,
                         tokens=self.training.steps * self.batch * self.length, text="Python's library")  # fmt: skip
        partial.unlink()
        remove_checked(start_file)
        return path


def begun(partial: Path) -> tuple[dict, int, float]:
    """Sums, prompts and seconds of an earlier run that was stopped."""
    if not with_suffix(partial, ".json").exists():
        return {}, 0, 0.0
    tensors, card = read_checked(partial)
    return {int(layer): J for layer, J in tensors.items()}, card["done"], card["seconds"]


@dataclass(frozen=True)
class DeepRecipe(TinyRecipe):
    """A small language model with enough layers to follow a lens through them: six, on Python text."""

    @property
    def config(self) -> TinyConfig:
        """Its shape."""
        return TinyConfig(n_layers=6, n_heads=4, d_model=96, d_vocab=512, n_ctx=128, d_mlp=384, act="gelu",
                          norm="rmsnorm", positions="rotary", seed=self.seed)  # fmt: skip

    def sampler(self) -> corpora.Sampler:
        """Windows of Python's documentation."""
        return corpora.python_text(512).windows(128, self.batch, seed=self.seed)

    def final(self, model: TinyTransformer) -> dict[str, Any]:
        """Held-out loss of the `model`, in nats, and the text."""
        corpus = corpora.python_text(512)
        held = corpus.held_out_windows(64, 128, seed=17)
        loss = float(next_token_loss(model(held), held))
        return {
            "corpus": repr(corpus),
            "fingerprint": corpus.fingerprint,
            "final": {"held_out": round(loss, 4)},
        }


@dataclass(frozen=True)
class HiddenStepRecipe(TinyRecipe):
    """The small model of a planted language with a step that is never said (`lenses.HiddenStep`)."""

    @property
    def language(self) -> lenses.HiddenStep:
        """What it learns."""
        return lenses.HiddenStep(seed=self.seed)

    @property
    def config(self) -> TinyConfig:
        """Its shape."""
        return lenses.hidden_step_config(self.language.d_vocab, self.seed)

    def begin(self) -> TinyTransformer:
        """Narrowed, so that the step must pass where a lens can look."""
        return lenses.narrowed(TinyTransformer(self.config))

    def sampler(self) -> corpora.Sampler:
        """Sequences of the language."""
        return self.language.batches(self.batch, seed=self.seed)

    def final(self, model: TinyTransformer) -> dict[str, Any]:
        """The share of questions that the `model` answers right, of trained and of held-out pairs."""
        share = {}
        for name, trained in (("trained", True), ("held_out", False)):
            asked, _ = self.language.all_questions(trained)
            said = model(asked)[:, lenses.ASKED].argmax(-1)
            share[name] = round(float((said == asked[:, -1]).float().mean()), 4)
        return {"final": share}


RECIPES = {
    recipe.name: recipe
    for recipe in (
        DeepRecipe("deep-6l", "six layers with MLPs on Python text: what lenses are followed through",
                   TrainConfig(steps=400, lr=5e-3, optimizer="muon")),
        HiddenStepRecipe("hidden-step", "four layers on a planted language with a step that is never said",
                         TrainConfig(steps=800, lr=2e-3, weight_decay=0.1), batch=128),
        TunedRecipe("smollm2-tuned", "trained translators of SmolLM2 at six layers"),
        JacobianRecipe("smollm2-jacobian", "the Jacobian lens of SmolLM2 at six layers"),
    )
}  # fmt: skip
