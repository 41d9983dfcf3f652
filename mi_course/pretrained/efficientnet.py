"""EfficientNet-Lite0, the network alone: 16 inverted bottlenecks with ReLU6, and a hook at every step.

Tan & Le (2019), in the "lite" form: no squeeze-and-excitation, ReLU6 for swish, stem and head unscaled.
Each block widens the stream with a 1 × 1 convolution, looks around in every channel alone (depthwise), and
narrows it again. Those three steps have hooks before and after their ReLU6; `hook_out` is linear and has no
privileged basis.

Shapes: `batch`, `channel`, `row`, `column`; block i works at `column = size / stride so far`.
"""

from __future__ import annotations

import re

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from transformer_lens import HookedRootModule
from transformer_lens.hook_points import HookPoint

SIZE = 224  # pixels a side the weights were trained on; any other works
STEM, HEAD, CLASSES = 32, 1280, 1000
STAGES = (  # kernel, stride of the first block, widening, channels out, blocks
    (3, 1, 1, 16, 1),
    (3, 2, 6, 24, 2),
    (5, 2, 6, 40, 2),
    (3, 2, 6, 80, 3),
    (5, 1, 6, 112, 3),
    (5, 2, 6, 192, 4),
    (3, 1, 6, 320, 1),
)

Maps = Float[Tensor, "batch _channel _row _column"]  # sizes change from step to step


class ConvNorm(nn.Module):
    """A convolution without bias, then batch norm: y = γ (W ∗ x − μ) / √(σ² + ε) + β.

    Padding is TensorFlow's "same": the output has ⌈size / stride⌉ pixels, and an odd pixel of padding goes to the
    right and below. With stride 2 a unit's centre therefore sits half a step off where symmetric padding has it.
    """

    def __init__(self, d_in: int, d_out: int, kernel: int = 1, stride: int = 1, groups: int = 1):
        super().__init__()
        self.conv = nn.Conv2d(d_in, d_out, kernel, stride, groups=groups, bias=False)
        self.norm = nn.BatchNorm2d(d_out, eps=1e-3, momentum=0.01)

    def forward(self, x: Maps) -> Maps:
        (kernel, _), (stride, _) = self.conv.kernel_size, self.conv.stride
        pads = []
        for size in (x.shape[-1], x.shape[-2]):  # F.pad counts from the last axis
            lacking = max((-(-size // stride) - 1) * stride + kernel - size, 0)
            pads += [lacking // 2, lacking - lacking // 2]
        return self.norm(self.conv(F.pad(x, pads)))

    def folded(self) -> tuple[Float[Tensor, "out per_group row column"], Float[Tensor, "out"]]:
        """Kernel and bias of the one convolution that does both steps when the norm no longer learns."""
        gain = self.norm.weight / (self.norm.running_var + self.norm.eps).sqrt()
        return self.conv.weight * gain[:, None, None, None], self.norm.bias - gain * self.norm.running_mean


class Block(nn.Module):
    """Widen, look around, narrow; where shapes allow it the input is added back."""

    def __init__(self, d_in: int, d_out: int, kernel: int, stride: int, widening: int):
        super().__init__()
        wide = d_in * widening
        self.adds = stride == 1 and d_in == d_out
        self.expand = ConvNorm(d_in, wide) if widening > 1 else None
        self.depthwise = ConvNorm(wide, wide, kernel, stride, groups=wide)
        self.project = ConvNorm(wide, d_out)
        if self.expand:
            self.hook_expanded_pre, self.hook_expanded = HookPoint(), HookPoint()
        self.hook_depthwise_pre, self.hook_depthwise = HookPoint(), HookPoint()
        self.hook_project, self.hook_out = HookPoint(), HookPoint()  # what it adds, and the stream after it

    def forward(self, stream: Maps) -> Maps:
        x = stream
        if self.expand:
            x = self.hook_expanded(F.relu6(self.hook_expanded_pre(self.expand(x))))
        x = self.hook_depthwise(F.relu6(self.hook_depthwise_pre(self.depthwise(x))))
        x = self.hook_project(self.project(x))
        return self.hook_out(stream + x if self.adds else x)


class EfficientNetLite(HookedRootModule):
    """EfficientNet-Lite0: images to 1000 logits, with `hook_stem`, `blocks.7.hook_depthwise`, `hook_head`, …

    `labels` are the names of its 1000 classes, in order.
    """

    def __init__(self, labels: list[str] | None = None):
        super().__init__()
        self.labels = labels or [f"class {i}" for i in range(CLASSES)]
        self.stem = ConvNorm(3, STEM, 3, 2)
        blocks, d_in = [], STEM
        for kernel, stride, widening, d_out, count in STAGES:
            for i in range(count):
                blocks.append(Block(d_in, d_out, kernel, 1 if i else stride, widening))
                d_in = d_out
        self.blocks = nn.ModuleList(blocks)
        self.head = ConvNorm(d_in, HEAD)
        self.classify = nn.Linear(HEAD, CLASSES)
        self.hook_image = HookPoint()
        self.hook_stem_pre, self.hook_stem = HookPoint(), HookPoint()
        self.hook_head_pre, self.hook_head, self.hook_pooled = HookPoint(), HookPoint(), HookPoint()
        self.setup()

    def forward(self, images: Maps) -> Float[Tensor, "batch classes"]:
        """Logits for `images`, as `pixels` makes them: [batch, 3, side, side]."""
        x = self.hook_stem(F.relu6(self.hook_stem_pre(self.stem(self.hook_image(images)))))
        for block in self.blocks:
            x = block(x)
        x = self.hook_head(F.relu6(self.hook_head_pre(self.head(x))))
        return self.classify(self.hook_pooled(x.mean((-2, -1))))

    @torch.no_grad()
    def guesses(self, images: Maps, k: int = 5) -> list[list[tuple[str, float]]]:
        """For each of the `images` its `k` most probable classes, by name, with their probabilities."""
        top = self(images).softmax(-1).topk(k)
        return [
            [(self.labels[i], p) for p, i in zip(row, at)]
            for row, at in zip(top.values.tolist(), top.indices.tolist())
        ]


THEIRS = (  # names in the published state dict → ours
    (r"^_conv_stem", "stem.conv"),
    (r"^_bn0", "stem.norm"),
    (r"^_conv_head", "head.conv"),
    (r"^_bn1", "head.norm"),
    (r"^_fc", "classify"),
    (r"^_blocks", "blocks"),
    (r"\._expand_conv", ".expand.conv"),
    (r"\._bn0", ".expand.norm"),
    (r"\._depthwise_conv", ".depthwise.conv"),
    (r"\._bn1", ".depthwise.norm"),
    (r"\._project_conv", ".project.conv"),
    (r"\._bn2", ".project.norm"),
)


def our_name(name: str) -> str:
    """Where a weight of the published state dict belongs here."""
    for theirs, ours in THEIRS:
        name = re.sub(theirs, ours, name)
    return name


def renamed(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The published weights under our names."""
    return {our_name(name): weight for name, weight in state.items()}
