"""EfficientNet-Lite0: our network against the published one, its hooks, its folded weights, and real pictures."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from sklearn.datasets import load_sample_image

from mi_course import pretrained
from mi_course.errors import CourseError
from mi_course.pretrained import efficientnet
from mi_course.pretrained.registry import wanted

ROOT = Path(__file__).parents[1]
PUBLISHED = ROOT / "build" / "published"  # efficientnet-lite-pytorch, by `make test-efficientnet`
real = pytest.mark.skipif(not pretrained.here("efficientnet-lite0"), reason=wanted("efficientnet-lite0"))
WIDTHS = [16, 24, 24, 40, 40, 80, 80, 80, 112, 112, 112, 192, 192, 192, 192, 320]
SIDES = [112, 56, 56, 28, 28, 14, 14, 14, 14, 14, 14, 7, 7, 7, 7, 7]


def images(count=2, size=64, seed=0):
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def random():
    return pretrained.untrained_vision(images(8))


@pytest.fixture(scope="module")
def model():
    return pretrained.vision("efficientnet-lite0")


def test_it_has_the_shape_of_the_paper(random):
    assert sum(p.numel() for p in random.parameters()) == 4_652_008 and len(random.blocks) == 16
    with torch.no_grad():
        _, cache = random.run_with_cache(images(1, 224))
    for i, (width, side) in enumerate(zip(WIDTHS, SIDES)):
        assert cache[f"blocks.{i}.hook_out"].shape == (1, width, side, side)
        assert cache[f"blocks.{i}.hook_depthwise"].shape[-1] == side
    assert cache["hook_stem"].shape == (1, 32, 112, 112) and cache["hook_pooled"].shape == (1, 1280)
    assert "blocks.0.hook_expanded" not in cache and "blocks.1.hook_expanded" in cache


def test_every_hook_reads_and_edits(random):
    x = images(1)
    with torch.no_grad():
        logits, cache = random.run_with_cache(x)
        assert set(cache) == set(random.hook_dict)
        for name in random.hook_dict:
            twice = random.run_with_hooks(x, fwd_hooks=[(name, lambda value, hook: 2 * value + 0.1)])
            same = random.run_with_hooks(x, fwd_hooks=[(name, lambda value, hook: cache[hook.name])])
            assert torch.equal(same, logits) and not torch.allclose(twice, logits), name


def test_a_block_is_what_its_hooks_say(random):
    with torch.no_grad():
        _, cache = random.run_with_cache(images())
    for i, block in enumerate(random.blocks):
        at = lambda name: cache[f"blocks.{i}.hook_{name}"]  # noqa: B023
        assert torch.equal(at("depthwise"), at("depthwise_pre").clamp(0, 6))
        before = cache[f"blocks.{i - 1}.hook_out"] if i else cache["hook_stem"]
        assert torch.equal(at("out"), before + at("project") if block.adds else at("project"))
    assert [i for i, block in enumerate(random.blocks) if block.adds] == [2, 4, 6, 7, 9, 10, 12, 13, 14]


@pytest.mark.parametrize("size", [7, 8, 15, 16])
@pytest.mark.parametrize("kernel, stride", [(1, 1), (3, 1), (3, 2), (5, 1), (5, 2)])
def test_padding_is_tensorflows(kernel, stride, size):
    """⌈size / stride⌉ outputs, the odd pixel of padding right and below: against a loop over windows."""
    step = efficientnet.ConvNorm(2, 3, kernel, stride).eval()
    x = images(1, size)[:, :2]
    out = -(-size // stride)
    before = max((out - 1) * stride + kernel - size, 0) // 2
    wide = F.pad(x, (before, 2 * kernel, before, 2 * kernel))
    with torch.no_grad():
        y = step(x)
        assert y.shape[-2:] == (out, out)
        for i in range(out):
            window = wide[..., i * stride : i * stride + kernel, :kernel]
            here = F.conv2d(window, step.conv.weight)[..., 0, 0] / (1 + 1e-3) ** 0.5
            torch.testing.assert_close(y[..., i, 0], here, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("block, stride", [(0, 2), (1, 4), (2, 4), (3, 8), (5, 16)])
def test_the_centre_of_a_unit_is_where_the_page_says(block, stride):
    """Whatever reaches unit i lies around pixel stride·(i + 1) − 1: all weights positive, nothing saturated."""
    model = efficientnet.EfficientNetLite().eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.fill_(1 / weight[0].numel()) if weight.ndim == 4 else None
    x, i = torch.full((1, 3, 224, 224), 0.1, requires_grad=True), 112 // stride
    seen = {}
    model.run_with_hooks(
        x, fwd_hooks=[(f"blocks.{block}.hook_depthwise_pre", lambda y, hook: seen.update(y=y))]
    )
    (reach,) = torch.autograd.grad(seen["y"][0, 0, i, i], x)
    rows = reach[0].abs().sum((0, 2)).nonzero().flatten()
    assert (rows.min() + rows.max()) / 2 == stride * (i + 1) - 1


def test_folded_weights_do_both_steps(random):
    x = images(2, 32)
    kernel, bias = random.stem.folded()
    with torch.no_grad():
        there = F.conv2d(F.pad(x, (0, 1, 0, 1)), kernel, bias, stride=2)
        torch.testing.assert_close(random.stem(x), there, atol=1e-4, rtol=1e-4)


def test_the_untrained_control_is_alive_and_seeded():
    one, again, other = (pretrained.untrained_vision(images(8), seed) for seed in (0, 0, 1))
    with torch.no_grad():
        assert torch.equal(one(images()), again(images())) and not torch.equal(one(images()), other(images()))
        _, cache = one.run_with_cache(images(8))
    for name in cache:
        if name.endswith(("stem_pre", "expanded_pre", "depthwise_pre")):  # calibrated: mean 0, variance 1
            assert cache[name].mean().abs() < 0.1 and 0.5 < cache[name].var() < 1.5, name


def test_pixels_are_cut_scaled_and_shifted(tmp_path):
    grey = np.full((300, 400, 3), 127, dtype=np.uint8)
    assert pretrained.pixels(grey).abs().max() == 0 and pretrained.pixels(grey).shape == (1, 3, 224, 224)
    grey[:, :60] = 0  # outside the middle square of 262 pixels
    assert pretrained.pixels(grey).abs().max() == 0
    Image.fromarray(grey).convert("L").save(tmp_path / "grey.png")
    assert pretrained.pixels(tmp_path / "grey.png", size=64).shape == (1, 3, 64, 64)


def test_what_is_no_picture_is_one_sentence(tmp_path):
    (tmp_path / "words.png").write_text("no picture")
    Image.fromarray(np.zeros((90, 90, 3), dtype=np.uint8)).save(tmp_path / "whole.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "whole.png").read_bytes()[:80])
    for image, said in (
        (tmp_path / "nowhere.png", "nowhere.png cannot be read as a picture: No such file"),
        (tmp_path, "cannot be read as a picture"),
        (tmp_path / "words.png", "in no known format"),
        (tmp_path / "cut.png", "cut short"),
        (np.zeros((30, 40, 3)), "of bytes .*not .30, 40, 3. of float64"),
        (np.zeros((3, 30, 40), dtype=np.uint8), "array .row column channel. of bytes"),
        (np.zeros(30, dtype=np.uint8), "array .row column channel. of bytes"),
    ):
        with pytest.raises(CourseError, match=said):
            pretrained.pixels(image)


def test_a_picture_of_more_than_8_bits_is_not_cut_off(tmp_path):
    deep = np.arange(900, dtype=np.uint16).reshape(30, 30) * 72
    Image.fromarray(deep).save(tmp_path / "deep.png")
    floats, ints = Image.fromarray(deep.astype(np.float32)), Image.fromarray(deep.astype(np.int32))
    for image in (tmp_path / "deep.png", Image.fromarray(deep), floats, ints):
        with pytest.raises(CourseError, match="8 bits a channel, .* mode '[IF].*': scale it to 0 … 255"):
            pretrained.pixels(image, size=32)
    scaled = Image.fromarray(
        (np.asarray(Image.open(tmp_path / "deep.png")) // 257).astype(np.uint8)
    )  # as it says
    assert len(pretrained.pixels(scaled, size=32).unique()) > 100


def test_language_models_are_loaded_elsewhere():
    with pytest.raises(CourseError, match=r"is a language model: pretrained.load\('smollm2-135m-instruct'\)"):
        pretrained.vision("smollm2-135m-instruct")
    with pytest.raises(CourseError, match="Did you mean 'efficientnet-lite0'"):
        pretrained.vision("efficientnet-lite")


# -- the real weights ------------------------------------------------------------------------------


@real
@pytest.mark.parametrize("name, label", [("china.jpg", "palace"), ("flower.jpg", "daisy")])
def test_it_names_what_is_in_a_picture(model, name, label):
    ((best, second, *_),) = model.guesses(pretrained.pixels(load_sample_image(name)))
    assert best[0] == label and best[1] > 0.25 and second[1] < best[1] / 2 + 0.01
    assert len(set(model.labels)) > 990 and model.labels[985] == "daisy"


@real
@pytest.mark.skipif(
    not PUBLISHED.exists(), reason="the published package is not here: make test-efficientnet"
)
def test_logits_are_those_of_the_published_package(model, tmp_path):
    """Its own code, in a process of its own, on our weights under its names."""
    x = torch.cat([images(2, 224), pretrained.pixels(load_sample_image("china.jpg"))])
    names = {efficientnet.our_name(theirs): theirs for theirs in theirs_names()}
    torch.save(
        {"x": x, "state": {names[name]: w for name, w in model.state_dict().items()}}, tmp_path / "in.pt"
    )
    code = f"""
import torch
from efficientnet_lite_pytorch import EfficientNet
given = torch.load({str(tmp_path / "in.pt")!r})
model = EfficientNet.from_name("efficientnet-lite0")
model.load_state_dict(given["state"])
with torch.no_grad():
    torch.save(model.eval()(given["x"]), {str(tmp_path / "out.pt")!r})
"""
    ran = subprocess.run([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": str(PUBLISHED)},
                         capture_output=True, text=True)  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    with torch.no_grad():
        torch.testing.assert_close(model(x), torch.load(tmp_path / "out.pt"), atol=1e-5, rtol=1e-5)


def theirs_names() -> list[str]:
    """The names in the published state dict, written out from its structure."""
    norm = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    steps = [
        "_conv_stem.weight",
        *(f"_bn0.{n}" for n in norm),
        "_conv_head.weight",
        *(f"_bn1.{n}" for n in norm),
    ]
    for i in range(16):
        parts = [("expand", "_bn0"), ("depthwise", "_bn1"), ("project", "_bn2")][0 if i else 1 :]
        for part, bn in parts:
            steps += [f"_blocks.{i}._{part}_conv.weight", *(f"_blocks.{i}.{bn}.{n}" for n in norm)]
    return [*steps, "_fc.weight", "_fc.bias"]


def test_every_published_name_has_its_place(random):
    assert sorted(map(efficientnet.our_name, theirs_names())) == sorted(random.state_dict())
