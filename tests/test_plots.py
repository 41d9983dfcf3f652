"""Figures speak to every reader, leave nothing behind, and refuse what they cannot show honestly."""

import base64
import io
import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import torch
from matplotlib.colors import to_hex

from mi_course import plots
from mi_course.errors import CourseError
from mi_course.plots import figure as figures
from mi_course.plots import geometry, tables

WORDS = dict(title="Trained beats untrained", alt='Two curves; "a" < b & c')
AXES = dict(xlabel="step", ylabel="loss (nats)")
TOKENS = ["def", " f", "(", ")", ":\n"]
PATTERN = (torch.ones(5, 5).tril() / torch.arange(1, 6)[:, None]).repeat(
    2, 1, 1
)  # rows attend evenly to the past
CONTROL = {"trained": [1.0, 2.0, 3.0], "random init": [0.0, 0.0, 0.0]}


ANGLES = np.arange(5) * 2 * np.pi / 5
PENTAGON = np.stack([np.cos(ANGLES), np.sin(ANGLES)])
OCTAHEDRON = np.concatenate([np.eye(3), -np.eye(3)], axis=1)
PHASES = {0: "neither", 1: "only the first", 2: "both"}


def every_figure(**words):
    """One figure of each kind that carries a picture or coloured text."""
    return [
        plots.line([1, 2, 3], CONTROL, **AXES, control="random init", **words),
        plots.bars("abc", CONTROL, ylabel="score", control="random init", **words),
        plots.heatmap(torch.arange(12.0).reshape(3, 4) - 5, **words),
        plots.attention(PATTERN, TOKENS, **words),
        plots.scatter([1, 2, 3], [1, 4, 9], **AXES, labels=["a", "", "b"], groups="xxy", **words),
        plots.vectors({"trained": PENTAGON, "random W": np.eye(2)}, control="random W", hull=True, **words),
        plots.polytopes({"octahedron": OCTAHEDRON, "flat": np.ones((3, 4))}, **words),
        plots.stacks({"dense": np.eye(3), "sparse": [[1.0, -0.5], [0.0, 1.0]]}, **words),
        plots.regions([[0, 1], [2, 2]], PHASES, [0.1, 1], [0.01, 1], **AXES, **words),
        plots.tokens(TOKENS, [1, 2, 3, 4, 5], **words),
        plots.attention_view(PATTERN, TOKENS, **words),
        plots.tokens_view(TOKENS, [1, 2, 3, 4, -5], **words),
    ]


class Tags(HTMLParser):
    """Checks that tags nest, and keeps each tag's attributes."""

    def __init__(self, html):
        super().__init__()
        self.open, self.seen = [], []
        self.feed(html)
        assert not self.open, f"unclosed: {self.open}"

    def handle_starttag(self, tag, attributes):
        self.seen.append((tag, dict(attributes)))
        if tag not in ("img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, f"</{tag}> closes something else"

    def all(self, tag):
        return [attributes for name, attributes in self.seen if name == tag]


def sanitised(html: str) -> str:
    """As nbval reads tests/nbval_sanitize.cfg and applies it."""
    rules = (Path(__file__).parent / "nbval_sanitize.cfg").read_text(encoding="utf-8")
    for regex, replacement in re.findall(r"^regex: (.*)$\n^replace: (.*)$", rules, flags=re.MULTILINE):
        html = re.sub(regex, replacement, html)
    return html


def shown(figure):
    """What nbval compares of a figure."""
    return sanitised(figure._repr_html_()), repr(figure)


# ------------------------------------------------------------------ every figure


def test_every_figure_speaks():
    for figure in every_figure(**WORDS, caption="Look for the gap; refuted if <none>."):
        tags = Tags(figure._repr_html_())
        spoken = [a["alt"] for a in tags.all("img")] + [a.get("aria-label", "") for a in tags.all("div")]
        assert any(WORDS["alt"] in words for words in spoken), figure.body[:80]
        assert "refuted if &lt;none&gt;." in figure._repr_html_()
        assert repr(figure) == "Figure: Trained beats untrained"
        assert figure.alt == WORDS["alt"]


@pytest.mark.parametrize(
    "words, said",
    [({"title": "t"}, "alt=…"), ({"alt": "a"}, "title=…"), ({"title": "t", "alt": " "}, "alt=…")],
)
def test_title_and_alt_are_required(words, said):
    with pytest.raises(CourseError, match=said):
        plots.line([1, 2], {"a": [1, 2]}, **AXES, **words)
    with pytest.raises(CourseError, match=said):
        plots.tokens(["a"], [1], **words)


def test_a_misspelt_setting_gets_a_sentence():
    with pytest.raises(CourseError, match="Did you mean 'caption'"):
        plots.line([1, 2], {"a": [1, 2]}, **AXES, **WORDS, captoin="x")


def test_pictures_are_opaque_cards_readable_on_any_theme():
    from PIL import Image

    for figure in every_figure(**WORDS):
        for data in re.findall(r"base64,([^\"]+)", figure._repr_html_()):
            image = Image.open(io.BytesIO(base64.b64decode(data))).convert("RGBA")
            assert image.getpixel((0, 0)) == (255, 255, 255, 255)
            assert image.width <= 950 and min(image.getchannel("A").getextrema()) == 255


def test_nothing_is_left_behind_and_nothing_is_taken_over():
    code = """
import matplotlib, sys
matplotlib.rcParams["figure.facecolor"] = "black"
look = lambda: {name: str(matplotlib.rcParams[name]) for name in matplotlib.rcParams if name != "backend"}
before = look()
from mi_course import plots
words = dict(title="t", alt="a")
figures = [plots.line([1, 2], {"a": [1, 2]}, xlabel="x", ylabel="y", **words), plots.heatmap([[1, 2]], **words)]
assert all("iVBOR" in figure._repr_html_() for figure in figures)
assert look() == before, "style leaked"
assert "matplotlib.pyplot" not in sys.modules, "pyplot was imported"
from matplotlib import pyplot
assert pyplot.get_fignums() == [], "a figure is still open"
assert figures[0]._rendered("png")[:4] == b"\\x89PNG"
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_same_data_same_html_whatever_the_reader_has_set():
    first = [figure._repr_html_() for figure in every_figure(**WORDS)]
    with matplotlib.rc_context({"font.size": 30, "axes.facecolor": "black", "figure.dpi": 30}):
        again = [figure._repr_html_() for figure in every_figure(**WORDS)]
    assert first == again


@pytest.mark.filterwarnings("error")
def test_any_text_is_drawn_as_written():
    strange = ["$x$", "$\\frac", "", " ", "\n", "日本", "<script>", "&amp;"]
    plots.tokens_view(strange, range(8), **WORDS)._repr_html_()
    figure = plots.heatmap(np.eye(8), xlabels=strange, ylabels=strange, **WORDS)
    figure._repr_html_()
    ticks = [tick.get_text() for tick in figure.picture.axes[0].get_yticklabels()]
    assert ticks == ["$x$", "$\\frac", "", "·", "⏎", "日本", "<script>", "&amp;"]
    assert "<script>" not in plots.tokens(["<script>"], [1], **WORDS)._repr_html_()


def test_save(tmp_path):
    figure, table = plots.line([1, 2], {"a": [1, 2]}, **AXES, **WORDS), plots.measured(loss=1.0)
    for ending, start in {"png": b"\x89PNG", "svg": b"<?xml", "pdf": b"%PDF", "html": b"<!doctype"}.items():
        assert figure.save(tmp_path / f"x.{ending}").read_bytes().startswith(start)
    assert table.save(tmp_path / "t.html").exists()
    for wrong, name in ((figure, "x.docx"), (table, "t.png"), (figure, "x")):
        with pytest.raises(CourseError, match="must end in .html"):
            wrong.save(tmp_path / name)
    assert figure.save(tmp_path / "new" / "folder" / "x.svg").exists()


def test_a_full_disk_leaves_the_old_picture(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    table = plots.measured(loss=1.0)
    path = table.save(tmp_path / "t.html")
    before = path.read_bytes()
    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(CourseError, match="No space left on device"):
        plots.measured(loss=2.0).save(path)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


# ------------------------------------------------------------------ what is drawn


def test_the_control_is_grey_and_says_so():
    axes = plots.line([1, 2, 3], CONTROL, **AXES, control="random init", **WORDS).picture.axes[0]
    trained, control = axes.lines
    assert (control.get_color(), control.get_linestyle()) == (figures.GREY, "--")
    assert (trained.get_color(), trained.get_linestyle()) == (plots.COLOURS[0], "-")
    axes = plots.bars("abc", CONTROL, ylabel="y", control="random init", **WORDS).picture.axes[0]
    assert axes.containers[1][0].get_hatch() and not axes.containers[0][0].get_hatch()
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["trained", "random init (control)"]
    named = plots.bars(
        "abc", {"control: shuffled": [1, 2, 3]}, ylabel="y", control="control: shuffled", **WORDS
    )
    assert named.picture.axes[0].get_legend().get_texts()[0].get_text() == "control: shuffled"


def test_two_controls_can_be_told_apart():
    series = {"trained": [1, 2, 3], "one": [1, 1, 2], "other": [2, 1, 1]}
    lines = plots.line([1, 2, 3], series, **AXES, control=["one", "other"], **WORDS).picture.axes[0].lines
    assert len({line.get_linestyle() for line in lines}) == len({line.get_color() for line in lines}) == 3
    _, one, other = (
        plots.bars("abc", series, ylabel="y", control=["one", "other"], **WORDS).picture.axes[0].containers
    )
    assert one[0].get_hatch() != other[0].get_hatch()
    groups = ["trained", "one", "other"]
    points = plots.scatter([1, 2, 3], [1, 2, 3], groups=groups, **AXES, control=["one", "other"], **WORDS)
    edges = {tuple(dots.get_edgecolor()[0]) for dots in points.picture.axes[0].collections}
    assert len(edges) == 3


def test_what_a_colour_bar_says_is_no_longer_than_the_bar():
    unit = "share of the effect of the whole run restored"
    figure = plots.heatmap(np.eye(3), unit=unit, digits=1, **WORDS)
    figure.picture.draw_without_rendering()
    panel, bar = figure.picture.axes
    said = bar.yaxis.label
    assert said.get_text().replace("\n", " ") == unit
    assert said.get_window_extent().height <= figure.picture.bbox.height
    assert bar.get_tightbbox().y1 <= figure.picture.bbox.y1


def test_line_draws_the_numbers_it_is_given():
    figure = plots.line(
        torch.tensor([0, 1, 10, 100]),
        {"model": torch.tensor([4.0, 3, 2, 1], dtype=torch.bfloat16, requires_grad=True)},
        **AXES,
        **WORDS,
        log_x=True,
        vlines={"bump": 10, "end": torch.tensor(12.0)},
        hlines={"entropy": 1.5},
        bands={"window": (1, 10)},
        spread={"model": ([3, 2, 1, 0], [5, 4, 3, 2])},
        panels={"score": {"model": np.arange(4)}},
    )
    top, below = figure.picture.axes
    assert top.lines[0].get_xydata().tolist() == [[0, 4], [1, 3], [10, 2], [100, 1]]
    assert below.lines[0].get_ydata().tolist() == [0, 1, 2, 3]
    assert top.get_xscale() == "symlog"
    assert {text.get_text() for text in top.texts} == {"bump", "end"}
    assert [line.get_xdata()[0] for line in below.lines[1:]] == [10, 12]
    own = plots.line({"a": [1, 2], "b": [5]}, {"a": [1, 2], "b": [3]}, **AXES, **WORDS).picture.axes[0]
    assert own.lines[1].get_xydata().tolist() == [[5, 3]]


def test_a_short_logarithmic_axis_has_more_than_one_number():
    (axes,) = plots.line([200, 900, 6000], {"a": [1, 2, 3]}, **AXES, **WORDS, log_x=True).picture.axes
    axes.figure.draw_without_rendering()
    low, high = axes.get_xlim()
    shown = [
        tick.get_text() for tick, x in zip(axes.get_xticklabels(), axes.get_xticks()) if low <= x <= high
    ]
    assert shown == ["200", "500", "1,000", "2,000", "5,000"]


def test_event_names_do_not_cover_each_other():
    events = {f"a long name {i}": 50 + i for i in range(4)}
    top = plots.line(range(100), {"a": range(100)}, **AXES, **WORDS, vlines=events).picture.axes[0]
    boxes = [text.get_window_extent() for text in top.texts]
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])


def test_bars_draw_the_numbers_they_are_given():
    figure = plots.bars(
        ["0.0", "0.1"],
        {"a": [1, 2], "b": [3, 4]},
        ylabel="y",
        errors={"a": [0.1, 0.2]},
        points={"b": [[2, 4], [3, 5]]},
        hlines={"bound": 0.5},
        digits=1,
        **WORDS,
    )
    axes = figure.picture.axes[0]
    bars = [container for container in axes.containers if hasattr(container, "patches")]
    assert [[bar.get_height() for bar in bar_group] for bar_group in bars] == [[1, 2], [3, 4]]
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["0.0", "0.1"]
    assert {"1.0", "4.0"} <= {text.get_text() for text in axes.texts}
    assert axes.get_legend().get_texts()[-1].get_text() == "bound"


@pytest.mark.parametrize("matrix", [[[-1.0, 3.0]], [[-5.0, 0.1]]])
def test_zero_is_in_the_middle_of_signed_data(matrix):
    image = plots.heatmap(matrix, **WORDS).picture.axes[0].images[0]
    bound = np.abs(matrix).max()
    assert (image.norm.vmin, image.norm.vmax, image.cmap.name) == (-bound, bound, "RdBu_r")
    assert to_hex(image.cmap(image.norm(0.0))) == to_hex(image.cmap(0.5))


def test_amounts_are_not_signed_unless_told():
    of = lambda *a, **k: plots.heatmap(*a, **WORDS, **k).picture.axes[0].images[0]
    assert of([[1.0, 3.0]]).cmap.name == "viridis" and of([[1.0, 3.0]]).norm.vmin == 1
    assert of([[1.0, 3.0]], signed=True).norm.vmin == -3
    assert of([[0.0, 0.0]]).norm.vmax > 0
    assert of([[0.2, 0.3]], limits=(0, 1)).norm.vmax == 1


def test_several_heat_maps_share_one_scale_and_their_names():
    figure = plots.heatmap(
        {"trained": [[5.0, -1]], "control": [[0.1, 0]]}, xlabels="ab", ylabels=["r"], **WORDS
    )
    left, right = figure.picture.axes[:2]
    assert left.images[0].norm is right.images[0].norm
    assert [left.get_title(), right.get_title()] == ["trained", "control"]
    assert [text.get_text() for text in left.texts] == ["5.00", "-1.00"]


def test_attention_shows_each_head_over_the_tokens():
    figure = plots.attention(PATTERN, TOKENS, labels=["1.0", "1.1"], **WORDS)
    first, second = figure.picture.axes[:2]
    assert np.allclose(first.images[0].get_array(), PATTERN[0]), "queries are rows"
    assert [first.get_title(), second.get_title()] == ["1.0", "1.1"]
    assert [tick.get_text() for tick in first.get_yticklabels()] == ["def", "·f", "(", ")", ":⏎"]
    assert "key" in figure.picture.get_supxlabel() and "query" in figure.picture.get_supylabel()
    assert len(plots.attention(PATTERN[0], TOKENS, **WORDS).picture.axes[0].images) == 1


def test_long_tokens_are_thinned_not_crammed():
    figure = plots.heatmap(np.eye(200), xlabels=[f" tok{i}" for i in range(200)], **WORDS)
    figure._repr_html_()
    boxes = [tick.get_window_extent() for tick in figure.picture.axes[0].get_xticklabels()]
    assert len(boxes) < 60 and not any(a.overlaps(b) for a, b in zip(boxes, boxes[1:]))


def test_scatter_labels_stand_apart_and_inside():
    rng = np.random.default_rng(0)
    xs, ys = rng.random(30), rng.random(30)
    axes = plots.scatter(xs, ys, **AXES, labels=[f"1.{i}" for i in range(30)], **WORDS).picture.axes[0]
    boxes = [text.get_window_extent() for text in axes.texts if text.get_text()]
    assert len(boxes) == 30
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])
    assert all(axes.bbox.x0 <= box.x0 and box.x1 <= axes.bbox.x1 for box in boxes)


def test_scatter_groups_and_control():
    figure = plots.scatter([1, 2, 3], [1, 2, 3], **AXES, groups=["a", "a", "null"], control="null", **WORDS)
    axes = figure.picture.axes[0]
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["a", "null (control)"]
    assert axes.collections[0].get_offsets().tolist() == [[1, 1], [2, 2]]


# ------------------------------------------------------------------ features as directions


def arrows(axes):
    """Where the arrows of a panel end."""
    return [note.xy for note in axes.texts if getattr(note, "arrow_patch", None) is not None]


def test_vectors_point_where_the_columns_do():
    figure = plots.vectors(
        {"trained": torch.tensor(PENTAGON), "one is dead": [[2.0, 0.0], [0.0, 0.001]]},
        labels={"trained": "abcde", "one is dead": "xy"},
        colours={"trained": [1, 2, 3, 4, 5], "one is dead": [1, 5]},
        unit="D",
        **WORDS,
    )
    five, dead, bar = figure.picture.axes
    assert np.allclose(arrows(five), PENTAGON.T) and arrows(dead) == [(2, 0)]
    assert np.allclose(dead.collections[0].get_offsets(), [[0, 0.001]])
    assert five.get_xlim() == dead.get_xlim() and five.get_xlim()[1] > 2, "one scale for all"
    assert {"a", "b", "c", "d", "e"} <= {text.get_text() for text in five.texts}
    assert [text.get_text() for text in dead.texts if text.get_text()] == ["x"], "a dot needs no name"
    assert bar.get_ylabel() == "D"


def test_one_matrix_needs_no_panel_name_and_a_control_panel_says_so():
    (axes,) = plots.vectors(PENTAGON, **WORDS).picture.axes
    assert axes.get_title() == "" and len(arrows(axes)) == 5
    figure = plots.vectors({"a": PENTAGON, "b": PENTAGON}, control="b", columns=1, **WORDS)
    assert [panel.get_title() for panel in figure.picture.axes] == ["a", "b (control)"]


def corners(axes):
    """The edges of a panel as sets of their two ends."""
    edges = [line.get_xydata() for line in axes.lines if line.get_label() == "_hull"]
    return {frozenset(tuple(end) for end in edge.round(3).tolist()) for edge in edges}


def test_the_hull_goes_round_the_tips():
    square = [[1.0, -1, 0, 0, 0.2], [0.0, 0, 1, -1, 0.2]]
    (axes,) = plots.vectors(square, hull=True, **WORDS).picture.axes
    outline = [(1.0, 0.0), (0.0, 1.0), (-1.0, 0.0), (0.0, -1.0)]
    assert corners(axes) == {frozenset(pair) for pair in zip(outline, outline[1:] + outline[:1])}
    digon = [[1.0, -1, 0.5], [1.0, -1, 0.5]]
    (axes,) = plots.vectors(digon, hull=True, **WORDS).picture.axes
    assert corners(axes) == {frozenset([(1.0, 1.0), (-1.0, -1.0)])}


CUBE = np.array(np.meshgrid([-1, 1], [-1, 1], [-1, 1])).reshape(3, 8)


@pytest.mark.parametrize(
    "W, edges",
    [(OCTAHEDRON, 12), (CUBE, 12), (CUBE[:, :4], 4), (np.eye(3)[:, :1], 0), (np.eye(3)[:, :2], 1),
     (np.ones((3, 4)), 0), (np.c_[OCTAHEDRON, np.zeros((3, 2))], 12)],
)  # fmt: skip
def test_a_polytope_has_its_edges_and_no_diagonals(W, edges):
    assert len(geometry._checked_pairs(None, np.asarray(W, dtype=float))) == edges
    noisy = np.asarray(W) + np.random.default_rng(0).normal(size=np.shape(W)) * 1e-3
    if edges == 12 and np.shape(W)[1] != 4:
        assert len(geometry._checked_pairs(None, noisy)) == edges, "a trained polytope is never exact"


def test_polytopes_are_seen_from_two_sides():
    figure = plots.polytopes({"a": OCTAHEDRON, "b": CUBE}, edges={"b": [(0, 1)]}, labels=None, **WORDS)
    front, other, above, below = figure.picture.axes
    assert [front.get_ylabel(), above.get_ylabel()] == ["from the front", "from above"]
    assert [len(panel.lines) for panel in (front, other, above, below)] == [12, 1, 12, 1]
    points = front.collections[1].get_offsets()
    heights = OCTAHEDRON[2]
    assert points[heights.argmax(), 1] == points[:, 1].max(), "up is up"
    assert len({tuple(point) for point in points.round(2).tolist()}) == 6, "no corner hides another"


def test_stacks_pile_up_the_amounts():
    W = torch.tensor([[1.0, -0.5, 0.0], [0.0, 0.0, 2.0]])
    (axes,) = plots.stacks(W, labels="abc", **WORDS).picture.axes
    heights = np.array([[bar.get_height() for bar in group] for group in axes.containers])
    below = np.array([[bar.get_y() for bar in group] for group in axes.containers])
    assert np.allclose(heights, W.abs().T) and np.allclose(below, [[0, 0], [1, 0], [1.5, 0]])
    assert [text.get_text() for text in axes.texts] == ["a", "b", "c"]
    assert len({group[0].get_facecolor() for group in axes.containers}) == 3, "a feature has its own colour"
    figure = plots.stacks({"a": W, "b": W}, colours=[1, 2, 2], unit="importance", control="b", **WORDS)
    first, second, bar = figure.picture.axes
    assert (bar.get_ylabel(), second.get_title()) == ("importance", "b (control)")
    assert first.containers[1][0].get_facecolor() == second.containers[2][0].get_facecolor()


def test_neighbouring_colours_differ():
    colours = geometry._many_colours(40)
    assert len(set(colours[:21])) == 21 and all(a != b for a, b in zip(colours, colours[1:]))


def test_regions_lie_around_their_values():
    grid = {"trained": [[0, 1, 1], [2, 2, 2]], "linear": np.zeros((2, 3))}
    curve = {"p*(I)": ([0.1, 10], [0.05, 0.05])}
    figure = plots.regions(
        grid, PHASES, [0.1, 1, 10], [0.1, 0.01], **AXES, curves=curve, control="linear", **WORDS
    )
    first, second = figure.picture.axes
    cells = first.collections[0]
    assert np.allclose(cells.get_coordinates()[0, :, 0], 10.0 ** np.array([-1.5, -0.5, 0.5, 1.5]))
    assert np.allclose(cells.get_coordinates()[:, 0, 1], 10.0 ** np.array([-0.5, -1.5, -2.5]))
    assert len({to_hex(colour) for colour in cells.get_array().reshape(-1, 3)}) == 3
    assert second.get_title() == "linear (control)" and first.get_xscale() == "log"
    assert first.get_ylim()[0] < first.get_ylim()[1], "up is more, whichever way ys are sorted"
    legend = [text.get_text() for text in second.get_legend().get_texts()]
    assert legend == [*PHASES.values(), "p*(I)"]
    plain = plots.regions([[0, 1]], PHASES, [0, 1], [5], **AXES, log_x=False, log_y=False, **WORDS)
    assert plain.picture.axes[0].get_xlim() == (-0.5, 1.5)


# ------------------------------------------------------------------ text and tables


def test_tokens_are_readable_and_hold_their_values():
    figure = plots.tokens([" a", "b"], [-2.0, 1.0], **WORDS)
    colours = re.findall(r"background-color:(#\w+);color:(#\w+)", figure.body)
    assert len(colours) == 2
    for back, ink in colours:
        assert contrast(back, ink) > 4.5
    assert '<span class="mi-n">-2.00</span>' in figure.body and "·a" in figure.body
    assert "mi-n" not in plots.tokens(["a"] * 50, np.arange(50), **WORDS).body


def contrast(one: str, other: str) -> float:
    """Contrast ratio of the Web Content Accessibility Guidelines."""

    def luminance(colour):
        linear = [
            c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4
            for c in matplotlib.colors.to_rgb(colour)
        ]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("signed", [True, False])
def test_every_shade_carries_readable_text(signed):
    values = np.linspace(-1 if signed else 0, 1, 101)
    body = plots.tokens(["x"] * 101, values, **WORDS).body
    pairs = re.findall(r"background-color:(#\w+);color:(#\w+)", body)
    assert min(contrast(*pair) for pair in pairs) > 4.4


def test_table_forms_are_one_table():
    rows = {"trained": {"loss": 3.21987, "ok": True}, "control": {"loss": torch.tensor(6.5), "ok": False}}
    by_name = plots.table(rows, title="Losses")
    by_list = plots.table(
        {"trained": [3.21987, True], "control": [6.5, False]}, ["loss", "ok"], title="Losses"
    )
    lists = plots.table(
        [["trained", 3.21987, True], ["control", 6.5, False]], ["", "loss", "ok"], title="Losses"
    )
    dicts = plots.table([{"": label, **row} for label, row in rows.items()], title="Losses")
    assert by_name.body == by_list.body == lists.body == dicts.body
    tags = Tags(by_name._repr_html_())
    assert [a["scope"] for a in tags.all("th")] == ["col"] * 3 + ["row"] * 2
    assert tags.all("caption") and ">3.220</span>" in by_name.body and "<td>yes</td>" in by_name.body
    assert repr(by_name) == "Table: Losses\n  columns: loss | ok\n  rows: trained | control"


def test_table_of_single_values_and_chosen_columns():
    assert ">value</th>" in plots.table({"a": 1.0, "b": 2.0}, title="t").body
    chosen = plots.table([{"head": "1.0", "a": 1, "b": 2}], ["head", "b"], title="t")
    assert repr(chosen) == "Table: t\n  columns: b\n  rows: 1.0"


@pytest.mark.parametrize(
    "value, text",
    [
        (3, "3"),
        (0.0, "0.000"),
        (3e-7, "3.0e-07"),
        (0.001 - 1e-11, "0.001"),  # as 0.01 is in 32 bits
        (-0.5, "-0.500"),
        (1234.5, "1234.500"),
        (3e7, "3.0e+07"),
        (0.0012, "0.001"),
    ],
)
def test_numbers_are_rounded_without_being_hidden(value, text):
    assert tables._cell(value, 3) == f'<span class="mi-n">{text}</span>'


def test_words_in_tables_are_escaped_and_missing_is_a_dash():
    body = plots.table({"<a>": ["<b>", None]}, ["x", "y"], title="<t>").body
    assert (
        "&lt;a&gt;" in body and f"<td{plots.LEFT}>&lt;b&gt;</td><td>–</td>" in body and ">&lt;t&gt;<" in body
    )


def test_headers_stand_over_their_columns():
    table = plots.table([{"head": "1.0", "label": "induction", "score": 0.9}], title="t")
    assert [a.get("style") for a in Tags(table.body).all("th")[:3]] == [
        "text-align:left",
        "text-align:left",
        None,
    ]


def test_what_rounds_to_zero_has_no_sign():
    figure = plots.bars("ab", [-0.001, -0.1], ylabel="y", digits=1, **WORDS)
    assert [text.get_text() for text in figure.picture.axes[0].texts] == ["0.0", "-0.1"]
    figure = plots.heatmap([[-0.001, 1.0]], **WORDS)
    assert figure.picture.axes[0].texts[0].get_text() == "0.00"


def test_measured():
    figure = plots.measured(max_abs_diff=3e-7, exact=True)
    assert repr(figure) == "measured: max abs diff, exact"
    assert '<span class="mi-n">3.0e-07</span> · exact = yes' in figure.body


def test_grid_holds_all_figures():
    figures = every_figure(**WORDS)[:2]
    html = plots.grid(figures)._repr_html_()
    Tags(html)
    assert all(figure._repr_html_() in html for figure in figures)
    assert "<strong>Both &lt; one</strong>" in plots.grid(figures, title="Both < one")._repr_html_()


# ------------------------------------------------------------------ what nbval compares


def test_numbers_are_blanked():
    one, other = ({"loss": loss, "steps": steps} for loss, steps in ((3.2, 100), (0.00012, 7)))
    assert shown(plots.table({"trained": one}, title="t")) == shown(
        plots.table({"trained": other}, title="t")
    )
    assert shown(plots.measured(**one)) == shown(plots.measured(**other))
    assert shown(plots.tokens(["a", "b"], [1, 2], **WORDS)) == shown(
        plots.tokens(["a", "b"], [2, 0.5], **WORDS)
    )
    draw = lambda ys: plots.line([1, 2], {"a": ys}, **AXES, **WORDS)
    assert draw([1, 2])._repr_html_() != draw([1, 3])._repr_html_() and shown(draw([1, 2])) == shown(
        draw([1, 3])
    )
    views = [plots.tokens_view(["a", "b"], values, **WORDS) for values in ([1, 2], [2, 1])]
    assert views[0]._repr_html_() != views[1]._repr_html_() and shown(views[0]) == shown(views[1])
    heads = [plots.attention_view(pattern, TOKENS, **WORDS) for pattern in (PATTERN, PATTERN / 3)]
    assert heads[0].body != heads[1].body and shown(heads[0]) == shown(heads[1])


def test_words_are_compared():
    tables = [
        plots.table({"trained": {"loss": 1.0, "ok": True}}, title="t"),
        plots.table({"trained": {"loss": 1.0, "ok": True}}, title="other"),
        plots.table({"control": {"loss": 1.0, "ok": True}}, title="t"),
        plots.table({"trained": {"score": 1.0, "ok": True}}, title="t"),
        plots.table({"trained": {"loss": 1.0, "ok": False}}, title="t"),
        plots.table({"trained": {"loss": "1.0", "ok": True}}, title="t"),
        plots.table({"trained": {"loss": "2.0", "ok": True}}, title="t"),
    ]
    assert len({shown(table) for table in tables}) == len(tables)
    for draw in (
        lambda tokens, **words: plots.tokens(tokens, [1, 2], **words),
        lambda tokens, **words: plots.tokens_view(tokens, [1, 2], **words),
        lambda tokens, **words: plots.attention_view(np.eye(2), tokens, **words),
    ):
        figures = [draw("ab", title="t", alt="a"), draw("ac", title="t", alt="a"), draw("ab", title="u", alt="a"),
                   draw("ab", title="t", alt="b")]  # fmt: skip
        assert len({shown(figure) for figure in figures}) == 4


# ------------------------------------------------------------------ CircuitsVis


def payload(figure):
    return json.loads(re.search(r'<script type="application/json"[^>]*>(.*?)</script>', figure.body, re.S)[1])


def test_attention_view_carries_the_pattern():
    pattern = torch.rand(2, 5, 5)
    figure = plots.attention_view(pattern, TOKENS, labels=["1.0", "1.1"], **WORDS)
    data = payload(figure)
    assert data["tokens"] == ["def", "·f", "(", ")", ":⏎"] and data["attentionHeadNames"] == ["1.0", "1.1"]
    assert np.abs(np.array(data["attention"]) - pattern.numpy()).max() <= 5e-5 + 1e-9
    assert len(figure.body) < 4000
    assert figure.picture.axes[0].get_title() == "1.0", "the still twin is missing"
    assert 'role="img"' in figure.body and "run this cell in JupyterLab" in figure.body
    assert "def ·f" not in figure.body and "//" not in figure.body, (
        "no dump of tokens, nothing from a network"
    )


def test_a_page_is_given_the_library_and_the_output_stays_small(monkeypatch):
    """With a page in front of the kernel: sent once, taken back when the cell is done; without one: not at all."""
    import IPython
    from IPython.testing.globalipapp import start_ipython

    shell = start_ipython() or IPython.get_ipython()
    formatter = shell.display_formatter  # a terminal's shell shows plain text alone, a notebook's shows all
    monkeypatch.setattr(formatter, "active_types", list(formatter.format_types))
    sent, show = [], lambda **how: plots.tokens_view("ab", [1, 2], **WORDS)
    monkeypatch.setattr(shell.display_pub, "publish", lambda data, **how: sent.append((data, how)))
    monkeypatch.setattr(IPython, "get_ipython", lambda: shell)
    monkeypatch.delenv("JPY_SESSION_NAME", raising=False)
    show()
    assert sent == []
    monkeypatch.setenv("JPY_SESSION_NAME", "a session")
    show(), show()
    assert len(sent) == 1 and "DecompressionStream" in sent[0][0]["text/html"]
    assert len(sent[0][0]["text/html"]) < 700_000, "Jupyter drops what goes beyond a megabyte a second"
    shell.events.trigger("post_run_cell", None)
    shell.events.trigger("post_run_cell", None)
    assert len(sent) == 2 and sent[1][0]["text/html"] == "" and sent[1][1]["update"]


def test_tokens_view_carries_text_values_and_our_colours():
    figure = plots.tokens_view(["a</script>", "\n"], [1.23456, -2.0], **WORDS)
    data = payload(figure)
    assert (data["tokens"], data["values"]) == (["a</script>", "\n"], [1.2346, -2.0])
    assert (data["minValue"], data["maxValue"]) == (-2, 2)
    red, blue = (matplotlib.colors.to_rgb(data[f"{side}Color"]) for side in ("positive", "negative"))
    assert red[0] > red[2] and blue[2] > blue[0]
    assert len(figure.picture.axes[0].texts) == 2


def test_view_ids_are_stable_and_can_be_named():
    ids = lambda figure: re.findall(r'id="([^"]+)"', figure.body)
    one, same, other = (plots.tokens_view(s, [1, 2], **WORDS) for s in ("ab", "ab", "ac"))
    assert ids(one) == ids(same) != ids(other)
    assert ids(plots.tokens_view("ab", [1, 2], name="my view", **WORDS)) == ["mi-my-view"]


def test_the_library_is_one_script_that_does_not_end_early():
    script = plots.circuitsvis_script()
    assert script.startswith("<script>") and script.lower().count("</script") == 1 and len(script) > 1e6
    assert "globalThis.CircuitsVis = CircuitsVis" in script and "sourceMappingURL" not in script
    for component in ("AttentionHeads", "ColoredTokens"):
        assert component in script


# ------------------------------------------------------------------ bad input


NAN = float("nan")
BAD = {
    "NaN": lambda: plots.line([1, 2], {"a": [1, NAN]}, **AXES, **WORDS),
    "infinite": lambda: plots.heatmap([[1.0, float("inf")]], **WORDS),
    "empty": lambda: plots.line([], {"a": []}, **AXES, **WORDS),
    "at least one entry": lambda: plots.line([1], {}, **AXES, **WORDS),
    "has 3 entries, but its xs has 2": lambda: plots.line([1, 2], {"a": [1, 2, 3]}, **AXES, **WORDS),
    "1 axes, but has shape": lambda: plots.line([1], {"a": [[1]]}, **AXES, **WORDS),
    "array of numbers": lambda: plots.bars("ab", {"a": ["x", "y"]}, ylabel="y", **WORDS),
    "ragged": lambda: plots.heatmap([[1, 2], [3]], **WORDS),
    "no 'randm init' here. Did you mean 'random init'": lambda: plots.line(
        [1, 2, 3], CONTROL, **AXES, control="randm init", **WORDS
    ),
    "xs: there is no 'b'": lambda: plots.line({"a": [1]}, {"b": [1]}, **AXES, **WORDS),
    "spread: there is no": lambda: plots.line([1], {"a": [1]}, **AXES, spread={"b": ([1], [2])}, **WORDS),
    "log_x needs": lambda: plots.line([-1, 1], {"a": [1, 2]}, **AXES, log_x=True, **WORDS),
    "labels has 2": lambda: plots.bars("ab", {"a": [1, 2, 3]}, ylabel="y", **WORDS),
    "points: there is no": lambda: plots.bars("a", {"a": [1]}, ylabel="y", points={"b": [[1]]}, **WORDS),
    "2 axes": lambda: plots.heatmap(np.zeros((2, 2, 2)), **WORDS),
    "one shape": lambda: plots.heatmap({"a": np.eye(2), "b": np.eye(3)}, **WORDS),
    "xlabels has 3": lambda: plots.heatmap(np.eye(2), xlabels="abc", **WORDS),
    "with 3 tokens on both sides": lambda: plots.attention(np.eye(2), "abc", **WORDS),
    "each one once": lambda: plots.attention(PATTERN, TOKENS, labels=["1.0", "1.0"], **WORDS),
    "ys has 1": lambda: plots.scatter([1, 2], [1], **AXES, **WORDS),
    "groups has 1": lambda: plots.scatter([1, 2], [1, 2], **AXES, groups="a", **WORDS),
    "shape [2, feature]": lambda: plots.vectors(np.eye(3), **WORDS),
    "W['a'] must have shape [3, feature], but has (2, 5)": lambda: plots.polytopes({"a": PENTAGON}, **WORDS),
    "colours has 2 entries, but the feature axis of W has 5": lambda: plots.vectors(
        PENTAGON, colours=[1, 2], **WORDS
    ),
    "labels: there is no 'b'": lambda: plots.vectors({"b": PENTAGON}, labels={"a": "abcde"}, **WORDS),
    "pairs of columns of W, numbers from 0 to 5": lambda: plots.polytopes(
        {"a": OCTAHEDRON}, edges=[(0, 6)], **WORDS
    ),
    "W['a'] holds NaN": lambda: plots.stacks({"a": [[1, NAN]]}, **WORDS),
    "grid also holds 3": lambda: plots.regions([[0, 3]], PHASES, [1, 2], [1], **AXES, **WORDS),
    "A row of the grid has 2": lambda: plots.regions([[0, 1]], PHASES, [1], [1], **AXES, **WORDS),
    "xs must lie above zero": lambda: plots.regions([[0, 1]], PHASES, [0, 1], [1], **AXES, **WORDS),
    "ys must rise, or fall": lambda: plots.regions([[0], [1]], PHASES, [1], [1, 1], **AXES, **WORDS),
    "values has 1": lambda: plots.tokens("ab", [1], **WORDS),
    "values has 3": lambda: plots.tokens_view("ab", [1, 2, 3], **WORDS),
    "no rows": lambda: plots.table([], title="t"),
    "title=…": lambda: plots.table({"a": 1}),
    "pass columns": lambda: plots.table([[1, 2, 3]], title="t"),
    "its header has 2": lambda: plots.table([["a", 1], ["b", 1, 2]], ["x", "y"], title="t"),
    "there is no 'y'": lambda: plots.table({"a": {"x": 1, "y": 2}, "b": {"x": 1}}, title="t"),
    "pass None": lambda: plots.table({"a": NAN}, title="t"),
    "at least one named value": lambda: plots.measured(),
    "at least one figure": lambda: plots.grid([]),
}


@pytest.mark.parametrize("said", BAD)
def test_bad_input_gets_one_sentence(said):
    with pytest.raises(CourseError) as caught:
        BAD[said]()
    assert (said if said != "ragged" else "array of numbers") in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_varies_is_shown_and_marked_for_the_comparison():
    shown = plots.Varying("a < b\nc", plain=True)
    assert (
        shown._repr_html_() == plots.varying("<pre>a &lt; b\nc</pre>")
        and repr(shown) == "shown in the notebook"
    )
    assert plots.Varying("<b>x</b>")._repr_html_() == '<div class="mi-v"><b>x</b></div><!-- mi-v -->'
