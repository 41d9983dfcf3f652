"""Pages of a real model's features: the strongest contexts, some from every strength, and what a feature writes.

>>> from mi_course import scaling
>>> scaling.Reader("letters", None)
Reader(name='letters', tokenizer=None)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import torch
from jaxtyping import Int
from torch import Tensor

from mi_course import plots, sae
from mi_course.corpora.corpus import generator
from mi_course.errors import CourseError
from mi_course.plots import Varying
from mi_course.sae import FeaturePage, Recording, SparseAutoencoder
from mi_course.scaling.clamping import Rest
from mi_course.scaling.reading import huge


@dataclass(frozen=True)
class Reader:
    """A tokenizer as pages ask for one: a name, and tokens as text.

    Args:
        name: of what was read.
        tokenizer: of a Hugging Face model.
    """

    name: str
    tokenizer: object

    def spelt(self, tokens: Int[Tensor, "pos"] | Sequence[int]) -> list[str]:
        """Each of `tokens` by itself."""
        return [self.tokenizer.decode([int(token)]) for token in tokens]


@torch.no_grad()
def recorded(
    dictionary: SparseAutoencoder,
    rest: Rest,
    tokenizer,
    tokens: Int[Tensor, "window pos"],
    limit: float | int,
) -> Recording:
    """Every feature of a dictionary on windows of text, 0 at the huge positions.

    Args:
        dictionary: of the stream that enters `rest`.
        rest: the model from that layer on.
        tokenizer: of the model.
        tokens: the windows.
        limit: rows longer than this are left out.
    """
    x = rest.stream(tokens)
    f = torch.where(huge(x, limit)[..., None], 0.0, dictionary.encode(x)).flatten(0, 1)
    everything = tuple(range(dictionary.cfg.d_sae))
    reader = Reader("documentation", tokenizer)
    return Recording(
        dictionary,
        rest.model,
        reader,
        tokens,
        None,
        everything,
        f,
        (f > 0).float().mean(0),
        torch.zeros(dictionary.cfg.d_sae, 0),
        None,
    )


@torch.no_grad()
def page(recording: Recording, model, feature: int, label: str) -> FeaturePage:
    """The page of one feature: examples of every strength, histogram, logit weights, neighbours.

    Args:
        recording: what `recorded` gave.
        model: with `ln_final.w` or `.weight` and `W_U`.
        feature: its number.
        label: what stands beside it.
    """
    dictionary = sae.checked_autoencoder(recording.sae)
    f = recording.f[:, sae.checked_feature(dictionary, feature)]
    gain = getattr(model.ln_final, "w", None)
    gain = model.ln_final.weight if gain is None else gain
    weights = (dictionary.directions(feature) * gain) @ model.W_U
    facts = {"active on": float((f > 0).float().mean()), "largest activation": float(f.max())}
    near = sae.nearest_features(dictionary, feature)
    parts = [sae.header(feature, None, facts)]
    if facts["largest activation"] > 0:
        parts += [sae.examples_part(recording, f), sae.histogram_part(f, None, None)]
    close = " · ".join(f"{i} (cosine {v:.2f})" for v, i in zip(near.values.tolist(), near.indices.tolist()))
    parts += [
        plots.varying(sae.logits_part(recording.corpus, weights)),
        plots.varying(f"<p>nearest features: {close}</p>"),
    ]
    tokens = recording.corpus.spelt(weights.topk(5).indices)
    name = dictionary.card.get("recipe", f"{dictionary.cfg.d_sae} features")
    return FeaturePage(
        feature, label, name, facts, tuple(tokens), tuple(near.indices.tolist()), "".join(parts)
    )


def pages(
    recording: Recording, model, by_rule: int = 20, at_random: int = 5, seed: int = 0
) -> list[FeaturePage]:
    """Pages of features that nobody picked: some evenly spaced from rare to frequent, some at random beside them.

    A feature counts as living when it is active on ten tokens of the recording or more.

    Args:
        recording: what `recorded` gave.
        model: as `page` takes it.
        by_rule: how many by `sae.from_rare_to_frequent`.
        at_random: how many of the living, drawn by `seed`.
        seed: of the draw.
    """
    least = 9.5 / recording.tokens.numel()  # ten tokens, however the share was rounded
    ranked = sae.from_rare_to_frequent(recording.density, recording.sae.cfg.d_sae, least)
    drawn = torch.randperm(len(ranked), generator=generator(seed, 11))[:at_random].tolist()
    spread = sae.from_rare_to_frequent(recording.density, by_rule, least)
    labelled = [*((i, "by rule") for i in spread), *((ranked[at], "at random") for at in drawn)]
    return [page(recording, model, i, label) for i, label in labelled]


def overview(pages: Sequence[FeaturePage]) -> Varying:
    """A table of pages: number, how it was chosen, how often it is active, what it raises.

    `pages` are feature pages.
    """
    if not pages:
        raise CourseError("An overview needs at least one page.")
    head = "".join(f"<th scope='col'>{name}</th>" for name in ("feature", "chosen", "active on", "raises"))
    rows = "".join(
        f"<tr><th scope='row'>{page.feature}</th><td>{escape(page.label)}</td>"
        f"<td>{100 * page.facts['active on']:.2f}%</td>"
        f"<td>{' '.join(f'<code>{escape(repr(token)[1:-1])}</code>' for token in page.tokens)}</td></tr>"
        for page in pages
    )
    return Varying(f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>")
