"""The shipped autoencoders of notebook 07: of the middle stream of a small model, and of SmolLM2.

`python -m mi_course train sae-smollm2-4096` collects the activations, trains the dictionary, and writes it with its card.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mi_course import corpora, pretrained, sae, scaling
from mi_course.activations import activations, collect, from_the_second_on
from mi_course.corpora.corpus import generator
from mi_course.files import save_checked
from mi_course.models import TinyConfig, TinyTransformer, load, next_token_loss
from mi_course.recipes.autoencoders import of_seed, saved_in_half
from mi_course.recipes.lenses import NAME
from mi_course.recipes.recipe import Recipe, TinyRecipe, in_half
from mi_course.training import TrainConfig

LAYER = 15
LENGTH = 128  # tokens a window


@dataclass(frozen=True)
class StreamRecipe(Recipe):
    """A dictionary of a stream: what the two families have in common."""

    sae: sae.SaeConfig
    steps: int
    batch: int = 512
    lr: float = 1e-3
    shipped: bool = True

    @property
    def hook(self) -> str:
        """Which stream."""
        raise NotImplementedError

    @property
    def stem(self) -> str:
        return of_seed(self.name, self.seed)

    @property
    def training(self) -> sae.SaeTraining:
        """Its schedule."""
        return sae.SaeTraining(self.steps, batch=self.batch, lr=self.lr, seed=self.seed)

    @property
    def megabytes(self) -> float:
        """Matrices in 16-bit floats."""
        return in_half(2 * self.sae.d_in * self.sae.d_sae)

    def rows(self, progress: bool) -> tuple[Float[Tensor, "row d"], Float[Tensor, "held d"], dict]:
        """What it is trained on, what is held out, and what the card says of them; `progress` prints where it is."""
        raise NotImplementedError

    def make(self, out: Path, device: str, progress: bool) -> Path:
        """Weights in 16-bit floats; the card has FVU, L0 and dead share on held-out rows."""
        began = time.perf_counter()
        rows, held, told = self.rows(progress)
        encoder = sae.SparseAutoencoder(replace(self.sae, seed=self.sae.seed + self.seed))
        encoder.start_from(rows[torch.randperm(len(rows), generator=generator(self.seed, 1))[: 2**14]])

        def sample(step: int) -> Tensor:
            drawn = torch.randint(len(rows), (self.batch,), generator=generator(self.seed + 7, step))
            return rows[drawn].float()

        partial, before = out / f"{self.stem}.partial", time.perf_counter() - began
        history = sae.train(encoder, sample, self.training, progress=progress, checkpoint=partial)
        card = self.provenance(before + history.seconds, device) | {
            "hook": self.hook, "training": asdict(self.training), "rows": len(rows), **told,
        }  # fmt: skip
        path = saved_in_half(encoder, out / self.stem, card, lambda one: scores(one, held))
        partial.unlink()
        return path


@torch.no_grad()
def scores(encoder: sae.SparseAutoencoder, x: Float[Tensor, "row d"]) -> dict[str, float]:
    """FVU, L0 and dead share of `encoder` on rows `x`."""
    f = torch.cat([encoder.encode(part.float()) for part in x.split(4096)])
    x_hat = torch.cat([encoder.decode(part) for part in f.split(4096)])
    found = {"fvu": sae.unexplained(x.float(), x_hat), "l0": sae.l0(f), "dead": sae.dead_share(f)}
    return {key: round(value, 5) for key, value in found.items()}


@dataclass(frozen=True)
class SmolRecipe(StreamRecipe):
    """SmolLM2's stream before block 15, without first positions and huge rows."""

    windows: int = 2400  # of documentation and sources
    held_out: int = 120
    written: int = 48  # pages of prose, written by the model itself

    @property
    def hook(self) -> str:
        return f"blocks.{LAYER}.hook_resid_pre"

    def rows(self, progress: bool):
        """Half documentation, a third sources, the rest prose that the model writes when it is asked to."""
        say = print if progress else lambda *_: None
        model = pretrained.load(NAME, dtype=pretrained.quick_dtype())
        read = lambda texts, n: scaling.windows_of(model.tokenizer, texts, n, LENGTH, seed=self.seed)  # noqa: E731
        tokens = [
            read(scaling.documentation(False), self.windows * 2 // 3),
            read(scaling.sources(False), self.windows // 3),
        ]
        say(f"{self.stem}: text is read")
        tokens.append(prose_by(model, self.written, self.seed))
        say(f"{self.stem}: prose is written")
        held = self.stream(model, read(scaling.documentation(True), self.held_out))
        limit = scaling.limit_of(held)
        kept = lambda x: x[~scaling.huge(x.float(), limit)]  # noqa: E731
        rows = torch.cat([kept(self.stream(model, some)) for some in tokens])
        told = {"model": NAME, "limit": round(limit, 2), "tokens": sum(t.numel() for t in tokens),
                "text": f"docstrings of {', '.join(scaling.DOCUMENTED)}, Python's topics and sources, "
                        f"and {tokens[2].numel()} tokens of prose by the model itself"}  # fmt: skip
        say(f"{self.stem}: {len(rows):,} rows")
        return rows, kept(held), told

    def stream(self, model, tokens: Int[Tensor, "window pos"]) -> Float[Tensor, "row d"]:
        """The stream of `model` in 16 bits, first positions left out."""
        parts = [from_the_second_on(activations(model, self.hook, t), t) for t in tokens.split(8)]
        return torch.cat(parts)


@torch.no_grad()
def prose_by(model, pages: int, seed: int, length: int = LENGTH) -> Int[Tensor, "page pos"]:
    """What the chat `model` writes when it is asked for prose: `pages` of so many tokens of `length`, drawn by `seed`."""
    asked = [
        f"Write {form} about {subject}. Write plain text, no lists."
        for subject in scaling.SUBJECTS
        for form in scaling.FORMS
    ]
    tokenizer, folder = model.tokenizer, pretrained.folder(NAME)
    writer, found = pretrained.language.weighted(folder, next(model.parameters()).dtype), []
    tokenizer.padding_side = "left"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for start in range(0, pages, 48):
            said = [asked[i % len(asked)] for i in range(start, min(start + 48, pages))]
            prompts = [tokenizer.apply_chat_template([{"role": "user", "content": one}], tokenize=False,
                                                     add_generation_prompt=True) for one in said]  # fmt: skip
            read = tokenizer(prompts, return_tensors="pt", padding=True, add_special_tokens=False)
            out = writer.generate(**read, min_new_tokens=length, max_new_tokens=length, do_sample=True, temperature=0.9,
                                  pad_token_id=tokenizer.eos_token_id)  # fmt: skip
            found.append(out[:, -length:])
    tokenizer.padding_side = "right"
    return torch.cat(found)


@dataclass(frozen=True)
class SmallStreamRecipe(StreamRecipe):
    """The stream of deep-6l before block 3."""

    windows: int = 1600
    held_out: int = 800

    @property
    def hook(self) -> str:
        return "blocks.3.hook_resid_pre"

    def rows(self, progress: bool):
        """Windows of Python text."""
        model, corpus = load("deep-6l").requires_grad_(False), corpora.python_text(512)
        rows = collect(model, self.hook, corpus.windows(LENGTH, self.windows, seed=self.seed)(0))
        held = collect(model, self.hook, corpus.held_out_windows(self.held_out, LENGTH, seed=17))
        return rows, held, {"model": "deep-6l", "corpus": repr(corpus), "fingerprint": corpus.fingerprint}


def small(size: int) -> SmallStreamRecipe:
    """A dictionary of deep-6l with so many features, its `size`; one λ for all."""
    cfg = sae.SaeConfig(96, size, "relu_norm", l1=LAMBDA, seed=700)
    return SmallStreamRecipe(
        f"sae-deep-{size}",
        f"{size} features, decoder norms in the penalty, of deep-6l",
        cfg,
        steps=1200,
        lr=4e-3,
    )


LAMBDA = 3.0  # of the three sizes
LAMBDA_OF_LAWS = 1.5
SIZES, STEPS = (32, 96, 320, 1024), (50, 100, 200, 400, 800)


@dataclass(frozen=True)
class LawsRecipe(Recipe):
    """Losses of many small dictionaries of deep-6l: every size with every number of steps."""

    sizes: tuple[int, ...] = SIZES
    steps: tuple[int, ...] = STEPS
    batch: int = 256
    shipped: bool = True

    @property
    def megabytes(self) -> float:
        """A table of so many numbers."""
        return 0.001

    def make(self, out: Path, device: str, progress: bool) -> Path:
        """Two tables [size step] of held-out losses: of deep-6l's stream, and of planted concepts by Zipf."""
        began = time.perf_counter()
        text = SmallStreamRecipe("", "", sae.SaeConfig(96, 1), 1, windows=800, held_out=60, seed=self.seed)
        rows, held, told = text.rows(progress)
        world = scaling.zipf(seed=self.seed)
        of = {
            "deep": (rows, held.float()),
            "zipf": (world.rows(60_000, self.seed), world.draw(8192, self.seed + 99)[0]),
        }
        tables = {name: self.losses(*pair, progress) for name, pair in of.items()}
        card = self.provenance(time.perf_counter() - began, device) | told | {
            "sizes": self.sizes, "steps": self.steps, "batch": self.batch, "l1": LAMBDA_OF_LAWS,
        }  # fmt: skip
        return save_checked(out / self.stem, tables, **card)

    def losses(
        self, rows: Float[Tensor, "row d"], held: Float[Tensor, "held d"], progress: bool
    ) -> Float[Tensor, "size step"]:
        """The loss of SM-02 on `held` rows, each dictionary trained anew on `rows`; `progress` prints each."""
        found = []
        for size in self.sizes:
            for steps in self.steps:
                cfg = sae.SaeConfig(rows.shape[1], size, "relu_norm", l1=LAMBDA_OF_LAWS, seed=700 + self.seed)
                encoder = sae.SparseAutoencoder(cfg).start_from(rows[: 2**14])
                sample = lambda step: rows[
                    torch.randint(len(rows), (self.batch,), generator=generator(self.seed, step))
                ].float()  # noqa: E731
                sae.train(
                    encoder,
                    sample,
                    sae.SaeTraining(steps, batch=self.batch, warmup=steps // 10, seed=self.seed),
                )
                with torch.no_grad():
                    found.append(float(sae.loss(encoder, held)[0]))
                if progress:
                    print(f"{self.stem}: {size} features, {steps} steps: {found[-1]:.4f}", flush=True)
        return torch.tensor(found).view(len(self.sizes), len(self.steps))


@dataclass(frozen=True)
class CiphersRecipe(TinyRecipe):
    """The small model of a planted language with ciphers, topics and calls."""

    @property
    def config(self) -> TinyConfig:
        """Its shape: few neurons, many topics."""
        return TinyConfig(n_layers=2, n_heads=4, d_model=64, d_vocab=scaling.Ciphers().d_vocab, n_ctx=64, d_mlp=64,
                          act="relu", norm="rmsnorm", positions="rotary", seed=self.seed)  # fmt: skip

    def sampler(self) -> corpora.Sampler:
        """Documents of the language."""
        return scaling.Ciphers().sampler(self.batch, seed=self.seed)

    def final(self, model: TinyTransformer) -> dict[str, Any]:
        """The held-out loss of the `model`."""
        held = scaling.Ciphers().documents(200, seed=17).tokens
        return {"final": {"held_out": round(float(next_token_loss(model(held), held)), 4)}}


@dataclass(frozen=True)
class CiphersStreamRecipe(StreamRecipe):
    """The stream of `ciphers` before its second block."""

    documents: int = 2000

    @property
    def hook(self) -> str:
        return "blocks.1.hook_resid_pre"

    def rows(self, progress: bool):
        """Documents of the language."""
        model, language = load(of_seed("ciphers", self.seed)).requires_grad_(False), scaling.Ciphers()
        read = lambda n, seed: collect(model, self.hook, language.documents(n, seed=seed).tokens)  # noqa: E731
        return read(self.documents, self.seed + 100), read(400, 17), {"model": of_seed("ciphers", self.seed)}


RECIPES = {
    recipe.name: recipe
    for recipe in (
        *(small(size) for size in (256, 1024, 4096)),
        SmolRecipe("sae-smollm2-4096", "4096 features, the 32 largest, of SmolLM2 before block 15",
                   sae.SaeConfig(576, 4096, "topk", k=32, seed=700), steps=2000),
        SmolRecipe("sae-smollm2-16384", "16384 features, the 32 largest, of SmolLM2 before block 15",
                   sae.SaeConfig(576, 16384, "topk", k=32, seed=700), steps=5000, windows=7200, shipped=False),
        LawsRecipe("sae-deep-laws", "losses of 20 small dictionaries of deep-6l, sizes by steps"),
        CiphersRecipe("ciphers", "two layers on a planted language with ciphers, topics and calls",
                      training=TrainConfig(steps=600, lr=4e-3, optimizer="muon"), batch=32),
        CiphersStreamRecipe("sae-ciphers", "256 features, the 8 largest, of ciphers", sae.SaeConfig(64, 256, "topk", k=8, seed=700),
                            steps=1000, lr=3e-3),
    )
}  # fmt: skip
