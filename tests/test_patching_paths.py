"""Path patching equals the two runs with hooks that Wang et al. describe."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mi_course.patching import DIRECTIONS, Experiment, Node, logit_diff
from mi_course.patching.paths import below
from tests.naive_patching import cache_of, model_of, patched, prompts, put

SENDERS = [Node("z", 0, 0), Node("z", 1, 1), Node("z", 0, 1, pos=1), Node("mlp_out", 0), Node("mlp_out", 1, pos=-1),
           Node("resid_pre", 0), Node("resid_pre", 0, pos=2)]  # fmt: skip
RECEIVERS = [Node("q", 2, 0), Node("k", 1, 1), Node("v", 2, 1, pos=2), Node("mlp_in", 2), Node("mlp_in", 1, pos=3),
             Node("q", 1, 0), Node("v", 1, 0)]  # fmt: skip


def by_hand(model, host_tokens, host, source, senders, receivers, freeze_mlps):
    """Step 1 with everything but the senders held, step 2 with what the receivers computed then."""
    read = {}

    def hold(x, hook):
        layer, kind = int(hook.name.split(".")[1]), "z" if hook.name.endswith("hook_z") else "mlp_out"
        read[hook.name] = x.clone()
        x = x.clone() if kind == "mlp_out" and not freeze_mlps else host[hook.name].clone()
        for node in senders:
            if (node.kind, node.layer) == (kind, layer):
                x = put(x, source[hook.name], kind, node.head, node.pos)
        return x

    def embed(x, hook):
        for node in senders:
            if node.kind == "resid_pre":
                x = put(x.clone(), source[hook.name], "resid_pre", None, node.pos)
        return x

    names = [f"blocks.{i}.{name}" for i in range(3) for name in ("attn.hook_z", "hook_mlp_out")]
    seen = [f"blocks.{i}.attn.hook_{letter}" for i in range(3) for letter in "qkv"]
    hooks = [(name, lambda x, hook: read.__setitem__(hook.name, x.clone())) for name in seen]
    hooks += [(name, hold) for name in names] + [("blocks.0.hook_resid_pre", embed)]
    with torch.no_grad():
        logits = model.run_with_hooks(host_tokens, fwd_hooks=hooks)[:, -1]
    if receivers == "logits":
        return logits
    patches = [("mlp_out" if n.kind == "mlp_in" else n.kind, n.layer, n.head, n.pos) for n in receivers]
    return patched(model, host_tokens, read, patches, -1)


@given(senders=st.lists(st.sampled_from(SENDERS), min_size=1, max_size=3, unique_by=lambda n: (n.kind, n.layer, n.head)),
       receivers=st.one_of(st.just("logits"), st.lists(st.sampled_from(RECEIVERS), min_size=1, max_size=3,
                                                       unique_by=lambda n: (n.kind, n.layer, n.head))),
       direction=st.sampled_from(DIRECTIONS), freeze_mlps=st.booleans(), seed=st.integers(0, 20),
       positions=st.sampled_from(["learned", "shortformer", "rotary"]))  # fmt: skip
@settings(max_examples=80, deadline=None)
def test_a_path_equals_two_runs_with_hooks(senders, receivers, direction, freeze_mlps, seed, positions):
    if receivers != "logits" and not any(below(s, r) for s in senders for r in receivers):
        receivers = "logits"
    model = model_of(
        seed, n_layers=3, d_mlp=6, norm="layernorm", positions=positions, smeared=positions == "rotary"
    )
    clean, corrupted, right, wrong = prompts(model, 2, 5, seed)
    exp = Experiment(model, clean, corrupted, right, wrong)
    ours = exp.path(senders, receivers, direction, freeze_mlps=freeze_mlps)
    host, source = (corrupted, clean) if direction == "denoising" else (clean, corrupted)
    caches = cache_of(model, host), cache_of(model, source)
    theirs = by_hand(model, host, *caches, senders, receivers, freeze_mlps)
    torch.testing.assert_close(ours.per_prompt, logit_diff(theirs, right, wrong), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("receivers", ["logits", [Node("q", 1, 0), Node("v", 2, 1)]])
def test_a_path_sweep_is_every_path(receivers):
    model = model_of(1, n_layers=3, d_mlp=6, norm="rmsnorm")
    exp = Experiment(model, *prompts(model))
    sweep = exp.path_sweep(receivers)
    assert sweep.axes == {"layer": [0, 1, 2], "head": [0, 1, "mlp"]}
    for layer in range(3):
        for head in (0, 1, "mlp"):
            sender = Node("mlp_out", layer) if head == "mlp" else Node("z", layer, head)
            try:
                alone = float(exp.path(sender, receivers).scores)
            except ValueError:  # it stands above all receivers
                alone = exp.corrupted_score
            assert float(sweep.at(layer=layer, head=head).scores) == pytest.approx(alone, abs=1e-5)
    attention_only = Experiment(model_of(1, n_layers=2), *prompts(model))
    assert attention_only.path_sweep("logits").axes["head"] == [0, 1]


def test_an_mlp_that_is_not_frozen_passes_the_change_on():
    model = model_of(1, n_layers=2, d_mlp=6)
    exp = Experiment(model, *prompts(model))
    sender = Node("z", 0, 0)
    frozen, free = (float(exp.path(sender, "logits", freeze_mlps=f).scores) for f in (True, False))
    assert abs(frozen - free) > 1e-4
    with_both = float(
        exp.path([sender, Node("mlp_out", 0), Node("mlp_out", 1)], "logits", freeze_mlps=False).scores
    )
    assert abs(with_both - free) > 1e-4


def test_who_reads_whom():
    assert below(Node("z", 0, 1), Node("q", 1, 0)) and not below(Node("z", 1, 1), Node("q", 1, 0))
    assert below(Node("z", 1, 1), Node("mlp_in", 1)) and not below(Node("mlp_out", 1), Node("mlp_in", 1))
    assert below(Node("resid_pre", 0), Node("q", 0, 0)) and below(Node("mlp_out", 0), Node("mlp_in", 1))
