"""Shipped transformers as recipes: how each was trained, and what its log keeps."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from mi_course import corpora, induction
from mi_course.corpora import scripts
from mi_course.files import save_checked
from mi_course.models import TinyConfig, TinyTransformer
from mi_course.recipes.recipe import Recipe
from mi_course.training import Copies, History, TrainConfig, fit


@dataclass(frozen=True)
class TransformerRecipe(Recipe):
    """How one family of transformers is made."""

    vocab: int  # of the shipped tokeniser, python-<vocab>
    model: dict  # fields of TinyConfig
    training: TrainConfig
    batch: int  # windows a step
    random_repeats: float = 0.0  # share of windows replaced by uniformly random repeats; 0 is text alone
    seeds: tuple[int, ...] = (0, 1, 2)  # that are shipped
    until: int | None = None  # stop at this step of the schedule
    snapshots: tuple[int, ...] = ()  # steps whose weights are kept, of seed 0
    text: str = "python"  # or "scripts": with planted scripts

    @property
    def config(self) -> TinyConfig:
        return TinyConfig(d_vocab=self.vocab, **self.model, seed=self.seed)

    @property
    def megabytes(self) -> float:
        """Size of one seed's weights."""
        return round(sum(p.numel() for p in TinyTransformer(self.config).parameters()) * 4 / 1e6, 1)

    def corpus(self) -> corpora.Corpus:
        """The text it reads."""
        return corpora.python_text(self.vocab) if self.text == "python" else scripts.script_text(self.vocab)

    def sampler(self, corpus: corpora.Corpus) -> corpora.Sampler:
        """Windows of the training text, and random repeats where the recipe says so."""
        n_ctx, n = self.config.n_ctx, self.batch
        text = corpus.windows(n_ctx, n, seed=self.seed)
        if not self.random_repeats:
            return text
        noise = corpora.random_repeats(
            corpus.d_vocab, n_ctx, n, period=(10, n_ctx // 2), seed=self.seed + 1000, first=1
        )
        return corpora.mixed(text, noise, self.random_repeats, seed=self.seed)

    def make(self, out: Path, device: str, progress: bool) -> Path:
        """Weights and card, a log of the run, and snapshots of seed 0 where the recipe has them."""
        model, corpus = TinyTransformer(self.config), self.corpus()
        watch, partial = Watch(corpus, self.config), out / f"{self.stem}.partial"
        copies = Copies(TinyTransformer.state_dict, self.snapshots if self.seed == 0 else ())
        every = range(0, self.training.steps + 1, max(1, self.training.steps // 100))
        history = fit(
            model, self.sampler(corpus), self.training,
            evaluate=watch, evaluate_at=every, stop_at=self.until, callbacks=[copies], checkpoint=partial, progress=progress,
        )  # fmt: skip
        path = model.save(out / self.stem, **self.card(corpus, history, watch))
        save_log(out / f"{self.stem}-log", history, watch)
        if copies.found:
            save_snapshots(out / f"{self.stem}-snapshots", copies.found, recipe=self.name, seed=self.seed)
        partial.unlink()
        return path

    def card(self, corpus: corpora.Corpus, history: History, watch: Watch) -> dict:
        """What the card says of its run."""
        last = {k: v for k, v in history.evaluations[-1].items() if k not in ("token_losses", "step")}
        return self.provenance(history.seconds, "cpu", "transformer-lens") | {
            "train": asdict(self.training), "steps": len(history.loss), "batch": self.batch,
            "random_repeats": self.random_repeats, "tokens": history.tokens, "corpus": repr(corpus),
            "fingerprint": corpus.fingerprint, "tokenizer": f"{self.text}-{self.vocab}", "icl": watch.what_icl_is(), "final": last,
        }  # fmt: skip


LONG = TrainConfig(steps=6000, lr=5e-3, optimizer="muon", muon_lr=0.02, warmup=50, decay_share=0.3)
PHASE_CHANGE = (0, 200, 400, 600, 800, 1000, 1200, 1400, 1600, 2000, 3000, 6000)
TWO_LAYERS = {"n_layers": 2, "position_layers": 1}

RECIPES = {
    recipe.name: recipe
    for recipe in (
        TransformerRecipe("induction-2l", "two attention-only layers on Python text: induction heads", 512, TWO_LAYERS,
               LONG, batch=8, snapshots=PHASE_CHANGE),
        TransformerRecipe("induction-1l", "the one-layer control: the same text, no induction heads", 512, {"n_layers": 1},
               LONG, batch=8),
        TransformerRecipe("induction-1l-smeared", "one layer with smeared keys: induction after all", 512,
               {"n_layers": 1, "smeared": True}, LONG, batch=8),
        TransformerRecipe("induction-2l-smeared", "two layers with smeared keys, stopped after the phase change", 512,
               TWO_LAYERS | {"smeared": True}, LONG, batch=8, until=2400),
        TransformerRecipe("induction-2l-repeats", "two layers with 5% of windows replaced by uniformly random repeats", 512,
               TWO_LAYERS, TrainConfig(steps=2400, lr=5e-3, optimizer="muon"), batch=8, random_repeats=0.05, seeds=(0,)),
        TransformerRecipe("skip-trigrams-1l", "one attention-only layer, vocabulary 2048, on Python text", 2048,
               {"n_layers": 1, "n_heads": 8, "n_ctx": 128},
               TrainConfig(steps=3000, lr=5e-3, optimizer="muon"), batch=16),
        TransformerRecipe("mlp-1l", "one layer with 512 ReLU neurons, on Python text with planted scripts", 1024,
               {"n_layers": 1, "n_heads": 8, "n_ctx": 128, "d_mlp": 512, "norm": "rmsnorm", "positions": "rotary",
                "bias": True},
               TrainConfig(steps=3400, lr=0.02, optimizer="muon", betas=(0.9, 0.95), rates=(("mlp.W_out", 0.5),)),
               batch=32, seeds=(0, 1), text="scripts"),
    )
}  # fmt: skip


class Watch:
    """What is measured at every hundredth of training, on fixed held-out windows and fixed random repeats."""

    def __init__(self, corpus: corpora.Corpus, config: TinyConfig, windows: int = 192, tokens: int = 1000):
        late, early = config.n_ctx, 60 * config.n_ctx // 256
        self.windows = induction.icl_windows(corpus.held_out, windows, late=late, early=early)
        picked = torch.randperm(windows * (config.n_ctx - 1), generator=corpora.generator(1))[:tokens]
        self.picked = picked.sort().values  # index into the flattened [window, pos−1] losses

    def __call__(self, model) -> dict:
        long, short = (induction.losses_by_position(model, rows) for rows in self.windows)
        heads = induction.head_scores(model) if model.cfg.n_layers else {}
        scores = {key: [[round(x, 4) for x in row] for row in value.tolist()] for key, value in heads.items()}
        picked = [round(x, 3) for x in long.flatten()[self.picked].tolist()]
        icl = float(induction.icl_scores(long, short).mean())
        return {
            "held_out": round(float(long.mean()), 4),
            "icl": round(icl, 4),
            "token_losses": picked,
            **scores,
        }

    def what_icl_is(self) -> str:
        """The in-context learning score in words, for the card."""
        long, short = self.windows
        return (
            f"last 20 tokens of {len(long)} held-out windows of "
            f"{long.shape[1]} tokens, less the same tokens in windows of {short.shape[1]}"
        )


def save_log(path: Path, history: History, watch: Watch) -> None:
    """Everything measured along the way, as tensors: step, loss, icl, held_out, head scores, token losses."""
    names = [name for name in history.evaluations[-1]]
    tensors = {name: torch.tensor([row[name] for row in history.evaluations]) for name in names}
    tensors["token_losses"] = tensors["token_losses"].half()
    tensors |= {"loss": torch.tensor(history.loss), "picked": watch.picked}
    save_checked(
        path, tensors, what="log of the run; `step` numbers the evaluations, `loss` has one entry a step"
    )


def save_snapshots(path: Path, snapshots: dict[int, dict], **card) -> None:
    """Weights along the way in 16-bit floats, one leading snapshot axis, and their `step`."""
    steps = sorted(snapshots)
    names = [name for name in snapshots[steps[0]] if name != "pos_embed.W_pos"]  # the table never changes
    tensors = {name: torch.stack([snapshots[step][name] for step in steps]).half() for name in names}
    save_checked(path, tensors | {"step": torch.tensor(steps)}, what="weights along the way", **card)
