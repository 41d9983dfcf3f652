"""The step with gradients written out equals autograd; bfloat16 stays near it."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from mi_course import sae
from mi_course.corpora.corpus import generator
from mi_course.sae import step as sae_step

NAMES = ("W_encT", "b_enc", "W_dec", "b_dec")


def weights(d_sae: int, d_in: int, seed: int = 0) -> list[torch.Tensor]:
    rng = generator(seed)
    shapes = ((d_sae, d_in), (d_sae,), (d_sae, d_in), (d_in,))
    return [(0.3 * torch.randn(*shape, generator=rng)).requires_grad_() for shape in shapes]


def dense(t, W_encT, b_enc, W_dec, b_dec, k=None, p=0.0):
    """The definition, for autograd."""
    f = ((t - b_dec) @ W_encT.T + b_enc).relu()
    if k is not None:
        f = sae.keep_top(f, k)
    error = t - (f @ W_dec + b_dec)
    return (error.square().sum(-1) + (p * f).sum(-1)).mean(), error, (f > 0).any(0)


def close(ours, theirs, tolerance=1e-5):
    """Equal up to a share of the largest entry."""
    return float((ours - theirs).detach().abs().max()) <= tolerance * max(
        1e-12, float(theirs.detach().abs().max())
    )


SHAPES = [(40, 12, 50, 3), (600, 8, 64, 1), (1030, 16, 256, 7), (33, 8, 32, 32)]  # batch d_in d_sae k


@pytest.mark.parametrize("batch, d_in, d_sae, k", SHAPES)
def test_topk_equals_autograd(batch, d_in, d_sae, k):
    t, W = torch.randn(batch, d_in, generator=generator(1)), weights(d_sae, d_in)
    loss, error, active = sae_step.TopK.apply(t, *W, k, sae_step.Work())
    expected, expected_error, expected_active = dense(t, *W, k=k)
    assert close(loss, expected) and close(error, expected_error) and torch.equal(active, expected_active)
    for name, ours, theirs in zip(
        NAMES, torch.autograd.grad(loss, W), torch.autograd.grad(expected, W), strict=True
    ):
        assert close(ours, theirs), name


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 70), st.integers(1, 1200), st.integers(1, 90), st.data(), st.integers(0, 10**6))
def test_topk_equals_autograd_at_any_shape(batch, d_in, d_sae, data, seed):
    """Odd widths, one input, all features; blocks of columns of both sizes (`CACHED` is made small)."""
    k = data.draw(st.integers(1, d_sae))
    cached = data.draw(st.sampled_from([sae_step.CACHED, 1, 64 * 20]))
    t, W = torch.randn(batch, d_in, generator=generator(seed)), weights(d_sae, d_in, seed + 1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sae_step, "CACHED", cached)
        loss, error, active = sae_step.TopK.apply(t, *W, k, sae_step.Work())
    expected, expected_error, expected_active = dense(t, *W, k=k)
    # Where one column fits one input the loss is the square of a difference of equals: its digits are those of the input.
    rounding = 1e-7 * float(t.square().mean())
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=rounding)
    assert close(error, expected_error, 3e-5) and torch.equal(active, expected_active)
    for name, ours, theirs in zip(
        NAMES, torch.autograd.grad(loss, W), torch.autograd.grad(expected, W), strict=True
    ):
        assert close(ours, theirs, 3e-5), name


WIDTHS = [(32, 576, 96, 8), (512, 576, 1024, 4), (64, 513, 2048, 3), (300, 1000, 64, 5), (2048, 512, 256, 2)]


@pytest.mark.parametrize("batch, d_in, d_sae, k", WIDTHS)
def test_topk_at_the_widths_of_real_models(batch, d_in, d_sae, k):
    t, W = torch.randn(batch, d_in, generator=generator(1)), weights(d_sae, d_in)
    loss, _, active = sae_step.TopK.apply(t, *W, k, sae_step.Work())
    expected, _, expected_active = dense(t, *W, k=k)
    assert close(loss, expected) and torch.equal(active, expected_active)
    for name, ours, theirs in zip(
        NAMES, torch.autograd.grad(loss, W), torch.autograd.grad(expected, W), strict=True
    ):
        assert close(ours, theirs), name


@pytest.mark.parametrize("batch, d_in, d_sae, k", SHAPES)
def test_relu_equals_autograd(batch, d_in, d_sae, k):
    t, W = torch.randn(batch, d_in, generator=generator(1)), weights(d_sae, d_in)
    p = torch.rand(d_sae, generator=generator(2)).requires_grad_()
    loss, active = sae_step.ReluL1.apply(t, *W, p, sae_step.Work())
    expected, _, expected_active = dense(t, *W, p=p)
    assert close(loss, expected) and torch.equal(active, expected_active)
    both = torch.autograd.grad(loss, [*W, p]), torch.autograd.grad(expected, [*W, p])
    for name, ours, theirs in zip((*NAMES, "p"), *both, strict=True):
        assert close(ours, theirs), name


KINDS = [{"kind": "relu", "l1": 0.7}, {"kind": "relu_norm", "l1": 0.7}, {"kind": "topk", "k": 4},
         {"kind": "relu", "l1": 0.7, "tied": True}, {"kind": "topk", "k": 4, "tied": True}]  # fmt: skip


@pytest.mark.parametrize("settings", KINDS, ids=str)
def test_the_loss_of_an_autoencoder(settings):
    """With a rising penalty, dead features and a scale."""
    one = sae.SparseAutoencoder(sae.SaeConfig(10, 48, **settings)).train()
    x = 3 * torch.randn(64, 10, generator=generator(1))
    one.start_from(x)
    dead = torch.arange(48) % 3 == 0
    with torch.no_grad():
        one.W_dec *= 1 + torch.rand(48, 1, generator=generator(2))
        one.b_enc += 0.1 * torch.randn(48, generator=generator(3))
    parameters = list(one.parameters())
    slow, f = sae.loss(one, x, 0.3, dead)
    quick, active = sae.fast_loss(one, x, 0.3, dead, sae_step.Work())
    assert close(quick, slow) and torch.equal(active, (f > 0).any(0))
    both = torch.autograd.grad(quick, parameters), torch.autograd.grad(slow, parameters)
    assert all(close(ours, theirs) for ours, theirs in zip(*both, strict=True))


@pytest.mark.parametrize("settings", KINDS[:3], ids=str)
def test_training_with_either_step_gives_the_same(settings):
    def sample(step):
        return torch.randn(32, 8, generator=generator(5, step))

    def trained(fast):
        one = sae.SparseAutoencoder(sae.SaeConfig(8, 24, **settings)).start_from(sample(0))
        return one, sae.train(one, sample, sae.SaeTraining(40, batch=32, dead_after=64), fast=fast)

    (quick, a), (slow, b) = trained(True), trained(False)
    torch.testing.assert_close(torch.tensor(a.loss), torch.tensor(b.loss), rtol=1e-4, atol=1e-4)
    for ours, theirs in zip(quick.parameters(), slow.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 300), st.data(), st.integers(0, 10**6), st.sampled_from([torch.float32, torch.bfloat16])
)
def test_the_k_largest_by_group_maxima(n, data, seed, dtype):
    k = data.draw(st.integers(1, n))
    z = torch.randn(5, n, generator=generator(seed)).to(dtype)
    bits, found = sae_step.largest(z.view(sae_step.ORDERED[dtype]), k)
    assert all(len(set(row)) == k for row in found.tolist())
    assert torch.equal(z.gather(1, found), bits.view(dtype)), "each value is that of its index"
    expected = z.topk(k).values.relu().sort().values  # below zero any will do: ReLU makes them equal
    assert torch.equal(bits.view(dtype).relu().sort().values, expected)


def test_the_k_largest_of_more_than_a_half_number_can_count():
    z = torch.randn(2, 2**19 + 8, generator=generator(0)).bfloat16()
    bits, found = sae_step.largest(z.view(torch.int16), 5)
    assert torch.equal(bits.view(z.dtype).sort().values, z.topk(5).values.sort().values)
    assert torch.equal(z.gather(1, found), bits.view(z.dtype))


def test_topk_never_holds_a_dense_batch_of_features():
    class Largest(TorchDispatchMode):
        numel = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            found = [
                o for o in (out if isinstance(out, tuple | list) else [out]) if isinstance(o, torch.Tensor)
            ]
            Largest.numel = max([Largest.numel, *(o.numel() for o in found if o.layout == torch.strided)])
            return out

    batch, d_sae = 2048, 256
    t, W = torch.randn(batch, 8), weights(d_sae, 8)
    with Largest():
        sae_step.TopK.apply(t, *W, 4, sae_step.Work())[0].backward()
    assert Largest.numel <= sae_step.ROWS * d_sae < batch * d_sae


def test_the_gradient_of_a_multiple():
    t, W = torch.randn(20, 6), weights(16, 6)
    for loss in (lambda: sae_step.TopK.apply(t, *W, 2, sae_step.Work())[0],
                 lambda: sae_step.ReluL1.apply(t, *W, torch.ones(16), sae_step.Work())[0]):  # fmt: skip
        once, thrice = torch.autograd.grad(loss(), W), torch.autograd.grad(3 * loss(), W)
        assert all(close(b, 3 * a) for a, b in zip(once, thrice, strict=True))


def test_buffers_are_used_again():
    work, W = sae_step.Work(), weights(32, 8)
    places = []
    for seed in (1, 2):
        sae_step.ReluL1.apply(torch.randn(40, 8, generator=generator(seed)), *W, torch.ones(32), work)
        places.append({name: buffer.data_ptr() for name, buffer in work.buffers.items()})
    assert places[0] == places[1] and {"f", "delta", "G"} <= set(places[0])


def test_bfloat16_stays_near():
    """Only near ties are chosen otherwise, and values, loss and gradients differ by rounding."""
    t, W = torch.randn(256, 32, generator=generator(1)), weights(128, 32)
    work = sae_step.Work(half=True)
    x_c = t - W[3]
    (near, chosen), (values, exact) = (
        sae_step.encode(x_c, W[0], W[1], 8, w) for w in (work, sae_step.Work())
    )
    assert (chosen[:, :, None] == exact[:, None]).any(-1).float().mean() > 0.97
    torch.testing.assert_close(near.sum(), values.sum(), rtol=0.01, atol=0)
    losses = {"topk": (sae_step.TopK.apply(t, *W, 8, work)[0], dense(t, *W, k=8)[0]),
              "relu": (sae_step.ReluL1.apply(t, *W, torch.ones(128), work)[0], dense(t, *W, p=1.0)[0])}  # fmt: skip
    for name, (half, full) in losses.items():
        torch.testing.assert_close(half, full, rtol=0.01, atol=0, msg=name)
        for ours, theirs in zip(torch.autograd.grad(half, W), torch.autograd.grad(full, W), strict=True):
            assert ours.dtype == torch.float32
            assert torch.cosine_similarity(ours.flatten(), theirs.flatten(), dim=0) > 0.99, name


def test_bfloat16_is_chosen_by_a_probe(monkeypatch):
    assert isinstance(sae_step.bfloat16_pays(), bool)
    for pays in (True, False):
        monkeypatch.setattr(sae_step, "bfloat16_pays", lambda pays=pays: pays)
        assert sae_step.Work.for_size(512 * 4096).half is pays
        assert sae_step.Work.for_size(32 * 64).half is False
