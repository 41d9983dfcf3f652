"""Making a picture of 128 × 128 that pleases a unit, against `torch-lucent` with the same unit, steps and network."""

from __future__ import annotations

import sys
import types
import warnings
from pathlib import Path

import torch

from benchmarks import ratio
from mi_course import pretrained, vision

PUBLISHED = Path(__file__).parents[1] / "build" / "lucent"  # torch-lucent, by `make fetch-lucent`
HOOK, UNIT, STEPS = "blocks.9.hook_depthwise_pre", 438, 128
SETTINGS = f"EfficientNet-Lite0, 128 × 128, {STEPS} steps of Adam, Fourier, decorrelated colours, transformations, one thread"


def ours(model: torch.nn.Module, hook: str, unit: int, colours: torch.Tensor):
    return lambda: vision.visualise(model, hook, [unit], steps=STEPS, colours=colours)


def theirs(model: torch.nn.Module):
    """The same unit through lucent, whose transformations are its own; its torchvision is needed for a name only."""
    sys.path.append(str(PUBLISHED))
    try:
        import torchvision.transforms  # noqa: F401
    except Exception:
        sys.modules["torchvision"] = types.ModuleType("torchvision")
        sys.modules["torchvision.transforms"] = types.ModuleType("torchvision.transforms")
        sys.modules["torchvision.transforms"].Normalize = None
    from lucent.optvis import objectives, param, render, transform

    layer = HOOK.replace(".", "_")

    @objectives.wrap_objective()
    def middle(name, channel):
        return lambda of: -of(name)[0, channel, (of(name).shape[-1] - 1) // 2, (of(name).shape[-1] - 1) // 2]

    bytes_of = lambda x: (255 * x - 127) / 128
    moves = [*transform.standard_transforms, bytes_of]

    def run():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return render.render_vis(
                model, middle(layer, UNIT), lambda: param.image(128), transforms=moves, thresholds=(STEPS,),
                preprocess=False, progress=False, show_image=False, fixed_image_size=128,
            )  # fmt: skip

    return run, bytes_of


def run() -> list[dict]:
    """Seconds a picture for a unit and for a class; the ratio where torch-lucent is here."""
    torch.set_num_threads(1)
    model = vision.folded(pretrained.vision("efficientnet-lite0"))
    colours = vision.colour_matrix(torch.stack(list(vision.photographs(64).values())))
    unit, logit = ours(model, HOOK, UNIT, colours), ours(model, vision.LOGITS, 281, colours)
    blank = dict(settings=SETTINGS, peer="–", theirs="–", ratio=None, range=None, agree="–")
    rows = []
    for name, make in (("a picture for a unit of block 9", unit), ("a picture for a class", logit)):
        timing = ratio(make, lambda: None, rounds=3, calls=1)
        met = "✔" if timing["ours"] <= 5 else "✘"
        rows.append({**blank, "name": name, "ours": f"{timing['ours']:.1f} s", "goal": f"≤ 5 s {met}"})
    if not PUBLISHED.exists():
        print("torch-lucent is not here: make fetch-lucent fetches it.")
        return rows
    run_theirs, bytes_of = theirs(model)
    timing = ratio(unit, run_theirs, rounds=3, calls=1)
    theirs_image = bytes_of(torch.from_numpy(run_theirs()[0]).permute(0, 3, 1, 2))
    with torch.no_grad():
        said = [
            float(vision.in_the_middle(model, x, [HOOK])[HOOK][0, UNIT])
            for x in (unit().images, theirs_image)
        ]
    rows.append({
        "name": "a picture for the same unit", "peer": "torch-lucent", "settings": SETTINGS,
        "ours": f"{timing['ours']:.1f} s", "theirs": f"{timing['peer']:.1f} s", "ratio": timing["ratio"],
        "range": timing["range"], "goal": None, "agree": f"activation {said[0]:.1f} against {said[1]:.1f}",
    })  # fmt: skip
    return rows
