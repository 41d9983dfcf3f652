"""Stimuli show what they say, rules pass what they should and nothing else, pictures are made from slopes."""

import math

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from mi_course import plots, pretrained, vision
from mi_course.errors import CourseError
from mi_course.vision import photos, reading, render

MID = 15  # of 32


@pytest.fixture(scope="module")
def net():
    """EfficientNet-Lite0 with random weights, batch norms calibrated, ready to be read."""
    images = 0.5 * torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(0)).clamp(-2, 2)
    return vision.folded(pretrained.untrained_vision(images))


# -- stimuli ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("direction", [0, 45, 90, 200])
def test_an_arc_passes_the_middle_and_opens_to_its_centre(direction):
    mask = vision.arc(32, direction, 8)
    u, v = vision.towards(direction)
    x, y = vision.coordinates(32)
    assert mask[MID, MID] == 1
    ahead = (mask * (x * u + y * v)).sum() / mask.sum()  # the arc bends towards its centre
    assert 0 < float(ahead) < 8
    assert float((mask * (x * v - y * u)).sum() / mask.sum()) == pytest.approx(0, abs=0.3)
    centre = MID - round(8 * v), MID + round(8 * u)
    assert mask[centre] == 0 and vision.disc(32, direction, 8)[centre] == 1


def test_a_shift_moves_towards_the_direction():
    assert vision.arc(32, 0, 8, shift=4)[MID, MID + 4] == 1 and vision.arc(32, 0, 8, shift=4)[MID, MID] == 0
    assert vision.edge(32, 90)[MID - 4, MID] == 1 and vision.edge(32, 90)[MID + 4, MID] == 0
    assert vision.line(32, 0, shift=3)[MID - 3, MID] == 1  # to the left of a level line is up


def test_textures_have_the_wavelength_and_contrast_they_say():
    for wavelength in (4, 8, 16):
        wave = vision.grating(64, 0, wavelength)
        column = torch.fft.rfft(wave[:, 0]).abs()
        assert int(column.argmax()) == 64 // wavelength
        noise = vision.texture(64, wavelength, seed=1)
        assert float(noise.std()) == pytest.approx(0.49, abs=0.02) and float(noise.abs().max()) <= 1
        frequency, energy = vision.spectrum(noise[None, None].expand(1, 3, -1, -1), bins=32)
        peak = float(frequency[(energy[0] * frequency).argmax()])
        assert peak == pytest.approx(1 / wavelength, rel=0.35)
    with pytest.raises(CourseError, match="2 is the shortest"):
        vision.grating(32, 0, 1.5)
    with pytest.raises(CourseError, match="even number of pixels"):
        vision.arc(31, 0, 8)


def test_borders_have_no_edge_of_brightness():
    stimuli = vision.border_stimuli(96)
    both = stimuli.images[torch.from_numpy(stimuli.where(kind="fine–coarse"))][:, 0]
    left, right = both[..., :44].mean(), both[..., 52:].mean()
    assert abs(float(left - right)) < 0.05
    assert len(stimuli) >= 500 and len(vision.curve_stimuli()) >= 1000


def test_painting_takes_greys_and_colours():
    mask = torch.zeros(8, 8)
    mask[0] = 1
    grey, colour = vision.painted(mask), vision.painted(mask, (1.0, 0.0, -1.0), 0.5)
    assert grey.shape == (3, 8, 8) and float(grey[0, 0, 0]) == pytest.approx(0.9) and grey[1, 3, 3] == 0
    assert colour[:, 0, 0].tolist() == [1.0, 0.0, -1.0] and (colour[:, 5, 5] == 0.5).all()


# -- tuning curves and rules --------------------------------------------------------------------------


def test_a_cosine_has_its_known_width_peak_and_opposite():
    at = torch.arange(16) * (2 * math.pi / 16)
    curves = torch.stack([(at - math.radians(d)).cos().clamp(min=0) for d in (0, 90, 225)])
    assert vision.width(curves).tolist() == pytest.approx([120] * 3, abs=2.0)
    assert vision.peak_direction(curves).tolist() == pytest.approx([0, 90, 225], abs=1e-2)
    assert vision.opposite(curves).tolist() == [0, 0, 0]
    flat = torch.ones(1, 16)
    assert float(vision.width(flat)) == 360 and float(vision.opposite(flat)) == 1
    assert float(vision.opposite(torch.zeros(1, 16))) == 1, "what never fires has no direction"


def test_gaps_close_the_circle():
    assert vision.largest_gap([10, 350]) == 340 and vision.largest_gap([5]) == 360
    assert vision.largest_gap(torch.tensor([0.0, 120.0, 240.0])) == 120


def answers_to(stimuli, unit):
    """[stimulus 1]: what `unit`, from what a stimulus shows, says of each."""
    rows = [{name: column[i] for name, column in stimuli.shows.items()} for i in range(len(stimuli))]
    return torch.tensor([[float(unit(row))] for row in rows])


def curve_unit(
    row, line=0.0, opposite=0.0, cues=("bright stroke", "dark stroke", "bright disc", "dark disc")
):
    if row["kind"] == "arc" and row["cue"] in cues:
        near = math.cos(math.radians(row["direction"] - 90))
        return max(near, 0) ** 2 + opposite * max(-near, 0) ** 2
    return line if row["kind"] in ("line", "edge") else 0.0


@pytest.mark.parametrize(
    "unit, passes",
    [
        (curve_unit, True),
        (lambda row: curve_unit(row, line=0.7), False),
        (lambda row: curve_unit(row, opposite=0.5), False),
        (lambda row: curve_unit(row, cues=("bright stroke", "dark stroke")), False),
        (lambda row: curve_unit(row, cues=("bright stroke", "dark stroke", "dark disc")), True),
        (lambda row: 0.2 * curve_unit(row), False),
        (lambda row: float(row["kind"] == "arc"), False),
        (lambda row: 0.0, False),
    ],
)
def test_the_rule_for_curves_takes_curve_units_only(unit, passes):
    stimuli = vision.curve_stimuli(32, radii=(6, 10))
    units = vision.CurveRule().judge(stimuli, answers_to(stimuli, unit))
    assert bool(units.passes) == passes
    if passes:
        assert float(units.direction) == pytest.approx(90, abs=0.5) and 30 < float(units.width) < 120


def border_unit(row, brightness=0.0, uniform=0.0, looks=("noise", "grating")):
    if row["kind"] == "fine–coarse":
        return max(math.cos(math.radians(row["direction"])), 0) * (row["look"] in looks)
    return {"brightness": brightness, "uniform": uniform}.get(row["kind"], 0.0)


@pytest.mark.parametrize(
    "unit, passes",
    [
        (border_unit, True),
        (lambda row: border_unit(row, brightness=0.7), False),
        (lambda row: border_unit(row, uniform=0.7), False),
        (lambda row: border_unit(row, looks=("noise",)), False),
        (lambda row: float(row["kind"] == "fine–coarse"), False),
    ],
)
def test_the_rule_for_borders_takes_border_units_only(unit, passes):
    stimuli = vision.border_stimuli(32)
    scaled = lambda row: 4 * unit(row)
    assert bool(vision.BorderRule().judge(stimuli, answers_to(stimuli, scaled)).passes) == passes


def test_answers_that_do_not_fit_are_refused():
    stimuli = vision.curve_stimuli(32, radii=(6, 10))
    with pytest.raises(CourseError, match="one row for each"):
        vision.CurveRule().judge(stimuli, torch.zeros(5, 2))


# -- reading a network --------------------------------------------------------------------------------


def test_folding_norms_changes_no_answer():
    model = pretrained.untrained_vision(torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(1)))
    x = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        assert_close(vision.folded(model)(x), model(x), atol=1e-4, rtol=1e-4)
    assert any(isinstance(part, nn.BatchNorm2d) for part in model.modules()), "the original stays"


def test_the_middle_unit_looks_at_the_middle_of_a_picture(net):
    x = torch.zeros(1, 3, 96, 96, requires_grad=True)
    kept = []
    net.run_with_hooks(x, fwd_hooks=[("blocks.5.hook_depthwise_pre", lambda y, hook: kept.append(y))])
    k = (kept[0].shape[-1] - 1) // 2
    (slope,) = torch.autograd.grad(kept[0][0, :, k, k].sum(), x)
    columns = slope.abs().sum((0, 1, 2)).nonzero()[:, 0]
    middle = (int(columns[0]) + int(columns[-1])) / 2
    assert middle == vision.centre_of(96 // kept[0].shape[-1], k) == 47


def test_reading_runs_no_further_than_it_must(net):
    images = torch.zeros(3, 3, 64, 64)
    seen = vision.in_the_middle(net, images, ["blocks.1.hook_depthwise_pre", "blocks.3.hook_expanded_pre"])
    assert seen["blocks.3.hook_expanded_pre"].shape == (3, 144)
    _, cache = net.run_with_cache(images)
    x = cache["blocks.1.hook_depthwise_pre"]
    i = (x.shape[-1] - 1) // 2
    assert_close(seen["blocks.1.hook_depthwise_pre"], x[..., i, i].relu())
    ran = []
    net.head.register_forward_hook(lambda *_: ran.append(1))
    vision.in_the_middle(net, images, ["blocks.1.hook_depthwise_pre"])
    net.head._forward_hooks.clear()
    assert not ran


@pytest.mark.parametrize(
    "call, said",
    [
        (lambda n: vision.in_the_middle(n, torch.zeros(1, 3, 64, 64), ["blocks.77.hook_out"]), "has no 'blocks.77"),
        (lambda n: vision.in_the_middle(n, torch.zeros(1, 1, 64, 64), ["hook_stem"]), r"\[n, 3, side, side\]"),
        (lambda n: vision.in_the_middle(n, torch.zeros(1, 3, 64, 32), ["hook_stem"]), r"\[n, 3, side, side\]"),
        (lambda n: vision.in_the_middle(n, torch.zeros(1, 3, 16, 16), ["hook_stem"]), "too small"),
        (lambda n: vision.in_the_middle(n, 255 * torch.ones(1, 3, 64, 64), ["hook_stem"]), "reads −1 to 1"),
        (lambda n: vision.in_the_middle(n, torch.full((1, 3, 64, 64), math.nan), ["hook_stem"]), "reads −1 to 1"),
        (lambda n: vision.maps(n, torch.zeros(1, 3, 64, 64), "hook_stem", [32]), "no unit 32"),
        (lambda n: vision.visualise(n, "hook_stem_pre", [99], size=32), "no unit 99"),
        (lambda n: vision.visualise(n, "blocks.3.hook_depth", [0], size=32), "Did you mean"),
        (lambda n: vision.visualise(n, vision.LOGITS, [1000], size=32), "1000 classes"),
        (lambda n: vision.visualise(n, "hook_stem_pre", [0], size=31), "even number"),
        (lambda n: vision.in_the_middle(nn.Linear(2, 2), torch.zeros(1, 3, 64, 64), ["hook_stem"]), "has no 'hook_stem'"),
    ],
)  # fmt: skip
def test_bad_input_ends_in_one_sentence(net, call, said):
    with pytest.raises(CourseError, match=said) as told:
        call(net)
    assert "\n" not in str(told.value)


# -- by hand ------------------------------------------------------------------------------------------


def test_the_hand_set_stack_knows_directions_and_leaves_lines_alone():
    stack = vision.ByHand(8)
    arcs = torch.stack([vision.painted(vision.arc(32, 22.5 * i, 8)) for i in range(16)])
    answers = stack(arcs)[:, :, MID, MID].T
    apart = vision.apart(vision.peak_direction(answers), torch.arange(8) * 45.0)
    assert float(apart.max()) < 3 and float(vision.opposite(answers).max()) < 0.05
    lines = torch.stack([vision.painted(vision.line(32, 15 * i)) for i in range(12)])
    assert float((stack(lines)[:, :, MID, MID].amax(0) / answers.amax(1)).max()) < 0.2
    dark = stack(-arcs)[:, :, MID, MID].T
    assert_close(dark, answers, atol=1e-4, rtol=1e-4)  # whichever is brighter


def test_its_weights_turn_exactly_by_quarters():
    stack = vision.ByHand(8)
    for k in range(8):
        assert_close(vision.turned(stack.arcs[k], 90).roll(8, 0), stack.arcs[(k + 2) % 8], atol=1e-6, rtol=0)
    assert_close(stack.lines.sum((-1, -2)), torch.zeros(2, 16), atol=1e-5, rtol=0)


# -- factors ------------------------------------------------------------------------------------------


def test_one_sided_nmf_finds_planted_factors_with_their_signs():
    channels = torch.tensor([[1.0, 0.8, 0.0, 0.0, 0.1], [0.0, 0.0, 1.0, 0.5, 0.0]])
    places = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(3))
    W = torch.einsum("kc,krx->crx", channels, places)
    found, where = vision.one_sided_nmf(W, 2)
    assert (found >= 0).all()
    assert_close(torch.einsum("kc,krx->crx", found, where), W, atol=2e-2, rtol=0)
    cosines = found @ (channels / channels.norm(dim=1, keepdim=True)).T
    assert float(cosines.amax(1).min()) > 0.98
    with pytest.raises(CourseError, match="from 1 to 5"):
        vision.one_sided_nmf(W, 6)


def test_spread_turns_and_matches():
    assert (
        float(vision.spread(torch.tensor([3.0, 0.0, 0.0]))) == 1 and float(vision.spread(torch.ones(5))) == 5
    )
    kernel = torch.randn(2, 7, 7, generator=torch.Generator().manual_seed(4))
    assert_close(vision.turned(vision.turned(kernel, 90), 270), kernel)
    mask = vision.arc(32, 0, 8)
    assert float(vision.correlation(vision.turned(mask[:31, :31], 45), vision.arc(32, 45, 8)[:31, :31])) > 0.7
    moved = torch.zeros(1, 11, 11)
    moved[0, 2:9, 3:10] = kernel[0]
    still = torch.zeros(1, 11, 11)
    still[0, 2:9, 2:9] = kernel[0].rot90()
    assert float(vision.best_match(moved, still)) > 0.999
    other = torch.randn(4, 11, 11, generator=torch.Generator().manual_seed(5))
    assert float(vision.best_match(moved, other).max()) < 0.7


# -- pictures that are made ---------------------------------------------------------------------------


def test_coefficients_of_variance_one_give_a_picture_of_variance_one_that_falls_as_one_over_f():
    c = torch.randn(64, 3, 32, 17, 2, generator=torch.Generator().manual_seed(6))
    z = vision.from_coefficients(c, 32)
    assert float(z.std()) == pytest.approx(1, abs=0.05)
    assert float(z.mean((-1, -2)).abs().max()) < 1e-4
    frequency, energy = vision.spectrum(z, bins=16)
    inner = frequency < 0.4
    fall = torch.log(energy.mean(0)[inner].float() * frequency[inner] ** 2)
    assert float(fall[1:].std()) < 0.25  # energy ∝ 1/f²


def test_shares_of_high_frequencies():
    noise = torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(7))
    assert vision.high_share(noise).tolist() == pytest.approx([0.80] * 4, abs=0.02)
    smooth = vision.grating(64, 0, 16)[None, None].expand(1, 3, -1, -1)
    assert float(vision.high_share(smooth)) < 1e-6 and float(vision.high_share(smooth + 5)) < 1e-6


def test_moves_are_small_and_come_from_the_seed():
    picture = vision.painted(vision.disc(64, 0, 12, shift=-12))[None]
    one, again = (vision.moved(picture, torch.Generator().manual_seed(1)) for _ in range(2))
    assert_close(one, again)
    x, _ = vision.coordinates(64)
    assert 0 < abs(float((one[0, 0] * x).sum() / one[0, 0].sum())) < 8
    assert float((vision.moved(picture, torch.Generator().manual_seed(2)) - one).abs().max()) > 0.1


@torch.no_grad()  # as in a notebook that has switched gradients off
def test_a_made_picture_pleases_its_unit_and_comes_from_the_seed(net):
    hook = "blocks.1.hook_depthwise_pre"
    made = vision.visualise(net, hook, [0, 7], size=32, steps=12, transform=False)
    assert (made.activation > made.start_activation).all()
    again = vision.visualise(net, hook, [0, 7], size=32, steps=12, transform=False)
    assert_close(made.images, again.images)
    pixels = vision.visualise(net, hook, [0, 7], size=32, steps=12, fourier=False, transform=False)
    added = lambda m: vision.high_share(m.images - m.start)
    assert (added(pixels) > added(made)).all()


def test_diversity_makes_pictures_differ(net):
    hook = "blocks.2.hook_depthwise_pre"
    alike = lambda made: float(vision.alike(vision.maps(net, made.images, hook, range(144))))
    settings = dict(size=32, steps=20, transform=False)
    one, two = (vision.visualise(net, hook, [3] * 3, diversity=d, **settings) for d in (0.0, 20.0))
    assert alike(two) < alike(one)


class Gate(nn.Module):
    """A unit that is off unless pixels differ much: no slope near grey."""

    def __init__(self, above):
        super().__init__()
        self.above, self.labels = above, ["far from grey"]

    def forward(self, images):
        return (images.flatten(1).abs().amax(1, keepdim=True) - self.above).relu()


def test_a_start_without_slope_is_tried_again_with_more_contrast():
    made = vision.visualise(Gate(0.6), vision.LOGITS, [0], size=32, steps=2, start_sd=0.05, transform=False)
    assert float(made.start_sd) > 0.05 and not made.flat.any()


def test_a_unit_without_any_slope_says_so_or_stays_as_it_starts():
    with pytest.raises(CourseError, match="no slope at the start.*another start_sd"):
        vision.visualise(Gate(2.0), vision.LOGITS, [0], size=32, steps=2)
    made = vision.visualise(Gate(2.0), vision.LOGITS, [0], size=32, steps=2, strict=False, transform=False)
    assert made.flat.all() and torch.equal(made.images, made.start)


class Late(Gate):
    """A unit that has a slope from its n-th look on."""

    def __init__(self, n):
        super().__init__(0.0)
        self.left = n

    def forward(self, images):
        self.left -= 1
        return super().forward(images) * (self.left <= 0)


def test_the_last_start_that_is_tried_is_looked_at_as_well():
    made = vision.visualise(Late(17), vision.LOGITS, [0], size=32, steps=2, transform=False)
    assert (
        not made.flat.any() and float(made.start_activation) > 0 and not torch.equal(made.images, made.start)
    )
    made = vision.visualise(Late(99), vision.LOGITS, [0], size=32, steps=2, strict=False, transform=False)
    assert made.flat.all() and torch.equal(made.images, made.start)


def test_colours_that_go_together():
    colours = torch.randn(1, 3, 50, 50, generator=torch.Generator().manual_seed(8))
    mix = torch.tensor([[1.0, 0, 0], [0.9, 0.3, 0], [0.8, 0.2, 0.1]])
    C = vision.colour_matrix(torch.einsum("ij,njrc->nirc", mix, colours))
    assert_close(C @ C.T / (mix @ mix.T).norm() * (C @ C.T).norm() ** -1 * (mix @ mix.T).norm(),
                 (mix @ mix.T) / (mix @ mix.T).norm(), atol=0.05, rtol=0.1)  # fmt: skip


# -- photographs, small pictures, walls ---------------------------------------------------------------


def test_photographs_are_there_and_in_range():
    pictures = vision.photographs(64)
    assert {"palace", "flower"} <= set(pictures)
    for name, picture in pictures.items():
        assert picture.shape == (3, 64, 64) and picture.abs().max() <= 1.01, name
    views, names = vision.views(32)
    assert len(views) == len(names) == 5 * len(pictures)


def test_photographs_come_without_scikit_image(monkeypatch):
    monkeypatch.setattr(photos.importlib.util, "find_spec", lambda name: None)
    assert set(vision.photographs(32)) == {"palace", "flower"}


def test_a_patch_is_centred_where_its_unit_looks():
    image = torch.zeros(1, 3, 96, 96)
    image[0, :, vision.centre_of(16, 2), vision.centre_of(16, 4)] = 1
    (patch,) = vision.patches(image, [(0, 2, 4)], stride=16, side=32)
    assert patch.shape == (3, 32, 32) and patch[0].nonzero().tolist() == [[16, 16]]


def test_places_at_the_frame_are_left_out():
    kept = vision.inside(torch.ones(2, 14, 14), side=64)
    rows = kept[0].sum(1).nonzero()[:, 0].tolist()
    assert rows == list(range(1, 12)), (
        "centres from 31.5 to 191.5: a patch of 64 fits into 224 but for half a pixel"
    )
    image = torch.arange(224.0 * 224).reshape(1, 1, 224, 224).expand(1, 3, -1, -1) + 1
    places = [(0, int(r), int(c)) for r, c in kept[0].nonzero()]
    grey = (vision.patches(image, places, stride=16, side=64) == 0).float().mean((1, 2, 3))
    assert grey.max() <= 1 - (63 / 64) ** 2, "no more grey from outside than a row and a column"


def test_planted_shapes_come_from_the_seed_and_have_their_classes():
    one, labels, names = vision.shapes(64, seed=3)
    again, _, _ = vision.shapes(64, seed=3)
    assert torch.equal(one, again) and len(names) == 21 and int(labels.max()) < 21
    assert one.shape == (64, 3, 32, 32) and one.abs().max() <= 1


def test_walls_of_pictures_speak_and_refuse():
    rows = {"made": torch.zeros(3, 3, 16, 16), "random": torch.zeros(2, 3, 16, 16)}
    words = dict(title="Grey", alt="Five grey squares")
    figure = plots.pictures(rows, names=["a", "b", "c"], control="random", **words)
    assert repr(figure) == "Figure: Grey" and "data:image/png" in figure._repr_html_()
    plots.pictures({"kernels": torch.randn(4, 5, 5)}, signed=True, **words)
    for bad, said in (
        ({}, "at least one entry"),
        ({"a": torch.zeros(2, 4, 8, 8)}, r"\[n, 3, rows, columns\]"),
        ({"a": 255 * torch.ones(1, 3, 8, 8)}, "from −1 to 1"),
    ):
        with pytest.raises(CourseError, match=said):
            plots.pictures(bad, **words)
    with pytest.raises(CourseError, match="names has 1"):
        plots.pictures(rows, names=["a"], **words)


def test_render_and_reading_name_the_same_units(net):
    images = torch.zeros(2, 3, 64, 64)
    hook = "blocks.4.hook_depthwise_pre"
    mine = render.wanted_of(render.answers(net, images, hook), torch.tensor([5, 6])).relu()
    theirs = reading.middle(vision.visit(net, images, {hook: lambda x: x})[hook])[torch.arange(2), [5, 6]]
    assert_close(mine, theirs)
