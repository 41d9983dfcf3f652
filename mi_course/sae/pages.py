"""Features of a sparse autoencoder, looked at: what they answer to, what they write, what is lost without them.

`feature_page` puts on one page what the cases of Bricken et al. (2023) put into their figures; `gallery` makes a
browsable folder of such pages. The functions above them are those that notebook 05 derives by hand.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from mi_course import files, plots
from mi_course.corpora import scripts
from mi_course.corpora.corpus import Corpus
from mi_course.errors import CourseError
from mi_course.models import TinyTransformer
from mi_course.sae.dictionary import SparseAutoencoder
from mi_course.sae.responses import (
    Recording,
    Spelling,
    ablation_effect,
    checked_feature,
    enrichment,
    intervals,
    logit_weights,
    proxy_correlation,
    record,
)

# -- a page --------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False, repr=False)
class FeaturePage:
    """Everything about one feature as static HTML; Jupyter shows it, `gallery` writes it.

    Args:
        feature: its number.
        label: a script, or what the reader calls it.
        of: the autoencoder's name.
        facts: name → number, such as the share of tokens it is active on.
        tokens: those of the largest logit weights.
        neighbours: features with a similar decoder row.
        body: the page as HTML.
    """

    feature: int
    label: str  # a script, or what the reader calls it
    of: str  # the autoencoder
    facts: dict[str, float]
    tokens: tuple[str, ...]  # the largest logit weights
    neighbours: tuple[int, ...]  # features with a similar decoder row
    body: str = field(default="")

    def __repr__(self) -> str:
        return f"Feature page: {self.label} ({self.of})"

    def _repr_html_(self) -> str:
        return f'<section class="mi-feature" aria-label="{escape(repr(self))}">{self.body}</section>'


def feature_page(
    sae: SparseAutoencoder,
    model: TinyTransformer,
    corpus: Corpus,
    feature: object,
    *,
    recording: Recording | None = None,
    label: str | None = None,
    script: str | None = None,
) -> FeaturePage:
    """The page of one feature: examples, histogram, logit weights, neighbours, ablation.

    `feature` is a number of `sae`, which was trained on activations of `model`; `corpus` is the text that is looked
    at. `label` is what the reader calls the feature (default: its script), `recording` what `record` returned.

    `script` names the proxy; without it, the script that follows the feature best, if one does (r ≥ 0.3). Pass one
    `record(…)` for several pages.
    """
    feature = checked_feature(sae, feature)
    rec = record(sae, model, corpus, [feature]) if recording is None else recording
    column = rec.column(feature)
    proxy, script = proxy_of(rec, column, script)
    f = rec.f[:, column]
    weights = logit_weights(sae, model)[feature]
    facts = facts_of(rec, column, proxy)
    parts = [header(feature, script, facts)]
    if facts["largest activation"] > 0:
        parts += [
            examples_part(rec, f),
            histogram_part(f, proxy, script),
            ablation_part(rec, feature, f, facts),
        ]
    parts += [logits_part(corpus, weights), neighbours_part(rec, feature, column)]
    top = alone(corpus, weights.topk(5).indices.tolist())
    near = nearest_features(sae, feature).indices.tolist()
    label = label or script or "no script"
    name = sae.card.get("recipe", f"an autoencoder of {sae.cfg.d_sae} features")
    return FeaturePage(feature, label, name, facts, tuple(top), tuple(near), "".join(parts))


def proxy_of(rec: Recording, column: int, script: str | None) -> tuple[Tensor | None, str | None]:
    """The proxy a feature is held against, and its name.

    `column` is the feature's place in the recording `rec`; `script` asks for that proxy, and None for the one that it
    follows best, if r ≥ 0.3.
    """
    if rec.script is None:
        if script is not None:
            raise CourseError(
                f"{rec.corpus.name} has no planted scripts, so there is no proxy for {script!r}."
            )
        return None, None
    if script is None:
        best = rec.proxies[column].max(0)
        if best.values < 0.3:
            return None, None
        script = scripts.SCRIPTS[int(best.indices)]
    return scripts.in_scripts(rec.script.flatten(), script), script


def facts_of(rec: Recording, column: int, proxy: Tensor | None) -> dict[str, float]:
    """What stands at the top of a page, name → number: how often and how strongly a feature is active, what it follows.

    `column` is the feature's place in the recording `rec`, `proxy` the concept it is held against, if there is one.
    """
    f = rec.f[:, column]
    facts = {"active on": float((f > 0).float().mean()), "largest activation": float(f.max())}
    if proxy is not None:
        facts["r with the proxy"] = float(proxy_correlation(f[:, None], proxy)[0])
        facts["enrichment"] = enrichment(f, proxy) if bool(proxy.any()) else 0.0
    facts["largest |r| of a neuron with it"] = float(rec.neurons[column].abs().max())
    return facts


# Parts of a page. What depends on the text of this machine's corpus stands between two marks, which the test of
# stored notebooks blanks.
SMALL = "margin:.9em 0 .2em;font-weight:600"


def number(value: float | int, digits: int = 3) -> str:
    """`value` with so many `digits`, marked as a number that differs between machines."""
    return f'<span class="mi-n">{plots.rounded(value, digits)}</span>'


def header(feature: int, script: str | None, facts: dict[str, float]) -> str:
    """The heading of the page of one `feature` with its `script` and its `facts`."""
    what = f"Feature {feature}" + (f" · {script}" if script else "")
    show = {
        "active on": lambda v: f"{number(100 * v, 2)}% of tokens",
        "enrichment": lambda v: f"{number(v, 1)} ×",
    }
    said = " · ".join(f"{name} {show.get(name, number)(value)}" for name, value in facts.items())
    silent = "" if facts["largest activation"] > 0 else "<p>It is active on none of the tokens looked at.</p>"
    return plots.varying(
        f'<h3 style="margin:.3em 0">{escape(what)}</h3><p style="margin:.2em 0">{said}</p>{silent}'
    )


def examples_part(rec: Recording, f: Tensor, before: int = 14, after: int = 5) -> str:
    """The strongest tokens of different windows, then random ones from each interval of activation.

    `f` are the feature's activations in the recording `rec`; each token stands among `before` tokens to its left and
    `after` to its right.
    """
    by_window = f.view(rec.tokens.shape)
    strongest = by_window.max(dim=1)
    rows = strongest.values.topk(min(6, len(by_window))).indices
    top = [(int(w), int(strongest.indices[w])) for w in rows if strongest.values[w] > 0]
    html = f'<div style="{SMALL}">The strongest</div>' + context_lines(rec, by_window, top, before, after)
    for i, found in enumerate(intervals(f)):
        places = [divmod(int(at), rec.tokens.shape[1]) for at in found]
        share = f"{100 - 20 * i}–{80 - 20 * i}% of the largest activation"
        html += f'<div style="{SMALL}">At {share}</div>' + context_lines(
            rec, by_window, places, before, after
        )
    return f'<details open><summary style="{SMALL}">Examples</summary>{plots.varying(html)}</details>'


def context_lines(rec: Recording, by_window: Tensor, places: list, before: int, after: int) -> str:
    """One line of coloured tokens for each (window, position), all on the feature's own scale.

    `by_window` are the feature's activations in the recording `rec`, [window pos], and `places` the (window,
    position) pairs; `before` and `after` say how many tokens stand around.
    """
    limits, lines = (0.0, float(by_window.max())), []
    for window, pos in places:
        part = slice(max(0, pos - before), pos + after + 1)
        strings = rec.corpus.spelt(rec.tokens[window])[part]
        values = by_window[window, part]
        spans = plots.token_spans(strings, values, limits=limits, signed=False)
        peak = strings[pos - part.start]
        said = escape(f"strongest here on {peak!r}: {float(by_window[window, pos]):.2f}. {' '.join(strings)}")
        value = number(float(by_window[window, pos]), 2)
        lines.append(
            f'<div role="group" aria-label="{said}" style="white-space:nowrap;overflow-x:auto;margin:2px 0">'
            f'<span style="display:inline-block;width:4em">{value}</span>{spans}</div>'
        )
    return "".join(lines) or "<p>none</p>"


def histogram_part(f: Tensor, proxy: Tensor | None, script: str | None, bins: int = 12) -> str:
    """How often each strength occurs, in the script and elsewhere.

    `f` are the feature's activations; `proxy` says which tokens are in the `script`, None that there is none. There
    are so many `bins`.
    """
    edges = torch.linspace(0, float(f.max()), bins + 1)
    count = lambda which: torch.histc(f[(f > 0) & which], bins, 0, float(f.max())).add(1).log10()
    series = {"all tokens": count(f > 0)} if proxy is None else {
        f"{script}": count(proxy), "elsewhere": count(~proxy)
    }  # fmt: skip
    figure = plots.bars(
        [f"{edge:.1f}" for edge in edges[1:]], series, xlabel="activation, up to", digits=None,
        ylabel="log₁₀ (tokens + 1)", control=None if proxy is None else "elsewhere",
        title="How often each strength occurs",
        alt="Bars over activation, on a log scale" + (f": tokens of {script}, and all others in grey." if script else "."),
    )  # fmt: skip
    return f'<details open><summary style="{SMALL}">Histogram</summary>{figure._repr_html_()}</details>'


def ablation_part(rec: Recording, feature: int, f: Tensor, facts: dict[str, float]) -> str:
    """What the model loses without the feature, on the windows where it is strongest.

    `f` are the activations of `feature` in the recording `rec`; `facts` are those of `facts_of`.
    """
    by_window = f.view(rec.tokens.shape)
    rows = by_window.max(dim=1).values.topk(min(32, len(by_window))).indices
    rise = ablation_effect(rec.sae, rec.model, rec.tokens[rows], feature)
    active, targets = by_window[rows, :-1], rec.tokens[rows, 1:]
    groups = {
        "where it is strong (top half)": active > by_window.max() / 2,
        "where it is weak": (active > 0) & (active <= by_window.max() / 2),
        "where it is silent": active == 0,
    }
    facts["rise where strong"] = float(rise[groups["where it is strong (top half)"]].mean())
    said = "".join(
        f"<li>{name}: {number(float(rise[which].mean()))} nats a token</li>"
        for name, which in groups.items() if bool(which.any())
    )  # fmt: skip
    worst = rise.flatten().topk(min(10, rise.numel()))
    tokens = alone(rec.corpus, targets.flatten()[worst.indices].tolist())
    spans = plots.token_spans(tokens, worst.values, signed=True, show_values=True)
    html = (
        f"<ul style='margin:.2em 0'>{said}</ul><p style='margin:.2em 0'>next tokens it hurts most</p>{spans}"
    )
    title = "Rise of the loss when it is taken out"
    return f'<details open><summary style="{SMALL}">{title}</summary>{plots.varying(html)}</details>'


def logits_part(corpus: Spelling, weights: Float[Tensor, "d_vocab"], k: int = 15) -> str:
    """The tokens a feature makes likelier and less likely, by the direct path.

    `weights` are the feature's logit weights; the `k` largest and smallest are shown as tokens of `corpus`.
    """
    html = ""
    for name, top in (
        ("raises", weights.topk(min(k, len(weights)))),
        ("lowers", weights.topk(min(k, len(weights)), largest=False)),
    ):
        strings = alone(corpus, top.indices.tolist())
        limits = (float(weights.min()), float(weights.max()))
        spans = plots.token_spans(strings, top.values, signed=True, show_values=True, limits=limits)
        html += f'<div role="group" aria-label="{name}: {escape(" ".join(strings))}" style="margin:2px 0">{name} {spans}</div>'
    return f'<details open><summary style="{SMALL}">Logit weights (direct path)</summary>{plots.varying(html)}</details>'


def alone(corpus: Spelling, tokens: list[int]) -> list[str]:
    """Each of `tokens` of `corpus` as it reads without its neighbours."""
    return [corpus.spelt([token])[0] for token in tokens]


def nearest_features(sae: SparseAutoencoder, feature: int, k: int = 5):
    """The `k` features of `sae` whose decoder rows have the largest cosine with that of `feature`."""
    unit = torch.nn.functional.normalize(sae.W_dec.detach(), dim=1)
    cosine = unit @ unit[feature]
    cosine[feature] = -torch.inf
    return cosine.topk(min(k, len(cosine) - 1))


def neighbours_part(rec: Recording, feature: int, column: int, k: int = 5) -> str:
    """The neurons it writes to most, with their correlation, and the features that point the same way.

    `feature` is a number, `column` its place in the recording `rec`; `k` of each are shown.
    """
    row, r = rec.sae.W_dec[feature].detach(), rec.neurons[column]
    write = row.abs().topk(min(k, len(row))).indices.tolist()
    neurons = " · ".join(
        f"{i} (coefficient {number(float(row[i]), 2)}, r with the feature {number(float(r[i]), 2)})"
        for i in write
    )
    many = int((row.abs() >= 0.1).sum())
    near = nearest_features(rec.sae, feature, k)
    features = " · ".join(
        f'<span class="mi-f" data-f="{i}">{i}</span> (cosine {number(v, 2)})'
        for v, i in zip(near.values.tolist(), near.indices.tolist(), strict=True)
    )
    html = (
        f"<p style='margin:.2em 0'>neurons: {neurons}; {number(many)} have a coefficient of 0.1 or more</p>"
        f"<p style='margin:.2em 0'>features: {features}</p>"
    )
    title = "Most similar neurons and features"
    return f'<details open><summary style="{SMALL}">{title}</summary>{plots.varying(html)}</details>'


# -- a gallery -----------------------------------------------------------------------------------

BARE = """<!doctype html><html lang="en-GB"><head><meta charset="utf-8"><title>{title}</title>
<meta name="viewport" content="width=device-width, initial-scale=1"><link rel="icon" href="data:,">
<style>:root {{ color-scheme: light dark; }} body {{ font: 16px/1.5 system-ui, sans-serif; margin: 1rem auto;
max-width: 60rem; padding: 0 1rem; }} th, td {{ text-align: left; padding: .2em .7em; vertical-align: top; }}
img {{ max-width: 100%; }}</style></head><body><nav>{nav}</nav><main>{body}</main></body></html>
"""

SEARCH = """<p><label>Search <input id="q" type="search" placeholder="arabic, hex, a token …" autocomplete="off"></label>
<span id="n" role="status"></span></p>"""
FIND = """<script>
const rows = [...document.querySelectorAll("tbody tr")], q = document.getElementById("q");
const find = () => { const words = q.value.toLowerCase().split(/\\s+/).filter(Boolean); let n = 0;
  for (const row of rows) { row.hidden = !words.every(word => row.dataset.text.includes(word)); n += !row.hidden; }
  document.getElementById("n").textContent = n + " of " + rows.length; };
q.addEventListener("input", find); find();
</script>"""


def bare_page(title: str, nav: str, body: str) -> str:
    """A page that stands alone, light or dark as the reader's system is.

    `title` is text, `nav` and `body` are HTML.
    """
    return BARE.format(title=escape(title), nav=nav, body=body)


def gallery(
    pages: Sequence[FeaturePage],
    folder: str | Path,
    *,
    wrap: Callable[[str, str, str], str] = bare_page,
    home: str = "",
) -> Path:
    """Write an HTML file for each page and `index.html`, which searches them; returns the index.

    `wrap(title, nav, body)` makes a whole page; `home` is a link to what the gallery belongs to. `pages` are
    `FeaturePage`s, and `folder` is made where it is missing.
    """
    if not pages:
        raise CourseError("A gallery needs at least one feature page.")
    folder = Path(folder)
    names = {(page.of, page.feature): file_name(page) for page in pages}
    for at, page in enumerate(pages):
        around = [pages[at - 1] if at else None, pages[at + 1] if at + 1 < len(pages) else None]
        links = [
            f'<a href="{file_name(p)}">{a} {escape(p.label)} {p.feature}</a>'
            for p, a in zip(around, "←→")
            if p
        ]
        nav = " · ".join([home, '<a href="index.html">all features</a>', *links]).removeprefix(" · ")
        body = page._repr_html_()
        for near in page.neighbours:
            if (page.of, near) in names:
                plain = f'data-f="{near}">{near}<'
                body = body.replace(plain, f'data-f="{near}"><a href="{names[page.of, near]}">{near}</a><')
        title = f"{page.label}: feature {page.feature} of {page.of}"
        text = wrap(title, nav, f"<h1>{escape(title)}</h1>{body}")
        files.write(folder / file_name(page), text)
    return files.write(folder / "index.html", wrap("Features", home, index_of(pages)))


def file_name(page: FeaturePage) -> str:
    """The name of a `page`'s file in its gallery, such as sae-512-l3-7.html."""
    return "".join(c if c.isalnum() else "-" for c in page.of) + f"-{page.feature}.html"


def index_of(pages: Sequence[FeaturePage]) -> str:
    """The table of all pages, with its search."""
    rows = ""
    for page in pages:
        text = " ".join([page.label, page.of, str(page.feature), *page.tokens]).lower()
        r = page.facts.get("r with the proxy")
        rows += (
            f'<tr data-text="{escape(text)}"><th scope="row"><a href="{file_name(page)}">{page.feature}</a></th>'
            f"<td>{escape(page.label)}</td><td>{'–' if r is None else number(r, 2)}</td>"
            f"<td>{number(100 * page.facts['active on'], 2)}%</td>"
            f"<td>{' '.join(f'<code dir=ltr>{escape(token)}</code>' for token in page.tokens)}</td><td>{escape(page.of)}</td></tr>"
        )
    names = ("feature", "chosen", "r with its proxy", "active on", "raises", "autoencoder")
    head = "".join(f'<th scope="col">{name}</th>' for name in names)
    words = (
        "<h1>Features</h1><p>Each row is a direction that a sparse autoencoder found. Those chosen by a script, or from rare "
        "to frequent, are in the 512 neurons of a one-layer transformer (notebook 05); those “by rule” and “at random” are in "
        "the middle stream of a real chat model (notebook 07). Coloured tokens are held-out text.</p>"
    )
    table = f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>'
    return words + SEARCH + table + FIND
