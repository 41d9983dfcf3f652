"""Classifiers with attention, and what is asked of it: does it say what the model used? Derived in notebook 13."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from mi_course.errors import CourseError

PAD, UNKNOWN = 0, 1  # word ids: nothing, and a word one does not know


class AttentionClassifier(nn.Module):
    """Words → bidirectional LSTM → additive attention → one logit (the model of Jain & Wallace 2019).

    h = BiLSTM(E[words]), α = softmax(v · tanh(W h)), logit = u · Σ α h + b. With `uniform` the weights are equal and
    not learnt. `attention=` puts other weights in place of the model's own. There are `d_vocab` words, and vectors of
    width `d`, an even number; `seed` draws the first weights.
    """

    def __init__(self, d_vocab: int, d: int = 32, *, uniform: bool = False, seed: int = 0):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.embed = nn.Embedding(d_vocab, d)
            self.lstm = nn.LSTM(d, d // 2, batch_first=True, bidirectional=True)
            self.W, self.v = nn.Linear(d, d), nn.Linear(d, 1, bias=False)
            self.u = nn.Linear(d, 1)
        self.uniform = uniform

    def encode(self, words: Int[Tensor, "batch pos"]) -> Float[Tensor, "batch pos d"]:
        """What the LSTM says at every word of `words`, token ids. It has read all the others."""
        return self.lstm(self.embed(with_words(words)))[0]

    def attend(
        self, h: Float[Tensor, "batch pos d"], words: Int[Tensor, "batch pos"]
    ) -> Float[Tensor, "batch pos"]:
        """The weight α of each of the `words`, given what the LSTM says of them (`h`); padding gets 0, and they add up to 1."""
        scores = self.v(self.W(h).tanh())[..., 0] * (not self.uniform)
        return scores.masked_fill(words == PAD, -math.inf).softmax(-1)

    def read(
        self, h: Float[Tensor, "batch pos d"], attention: Float[Tensor, "batch pos"]
    ) -> Float[Tensor, "batch"]:
        """The logit, given what the words say (`h`) and how much each is looked at (`attention`, which adds up to 1)."""
        return self.u((attention[..., None] * h).sum(1))[:, 0]

    def forward(
        self, words: Int[Tensor, "batch pos"], attention: Float[Tensor, "batch pos"] | None = None
    ) -> tuple[Float[Tensor, "batch"], Float[Tensor, "batch pos"]]:
        """(logits, attention) for `words`, token ids; `attention` puts other weights in place of the model's own."""
        h = self.encode(words)
        attention = self.attend(h, words) if attention is None else attention
        return self.read(h, attention), attention


def with_words(words: Int[Tensor, "batch pos"]) -> Int[Tensor, "batch pos"]:
    """The `words` themselves, if no row is padding alone: attention would have nothing to rest on."""
    if bool((empty := ~(words != PAD).any(1)).any()):
        raise CourseError(f"Row {int(empty.nonzero()[0])} has no word: leave it out.")
    return words


class GuidedWords(nn.Module):
    """The diagnostic of Wiegreffe & Pinter (2019): words read one by one, weighted by somebody else's attention.

    logit = u · Σ α tanh(W E[words]): it cannot see context, so what it knows of it must be in the weights α. There
    are `d_vocab` words, and vectors of width `d`; `seed` draws the first weights.
    """

    def __init__(self, d_vocab: int, d: int = 32, *, seed: int = 0):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.embed, self.W, self.u = nn.Embedding(d_vocab, d), nn.Linear(d, d), nn.Linear(d, 1)

    def forward(
        self, words: Int[Tensor, "batch pos"], attention: Float[Tensor, "batch pos"]
    ) -> tuple[Float[Tensor, "batch"], Float[Tensor, "batch pos"]]:
        """(logits, attention) for `words`, token ids, weighted by an `attention` that adds up to 1 in each row."""
        said = self.W(self.embed(words)).tanh()
        return self.u((attention[..., None] * said).sum(1))[:, 0], attention


def jensen_shannon(p: Float[Tensor, "*batch pos"], q: Float[Tensor, "*batch pos"]) -> Float[Tensor, "*batch"]:
    """Jensen–Shannon divergence in nats: 0 for equal weights, ln 2 ≈ 0.69 where nothing is shared.

    `p` and `q` are weights that add up to 1 along the last axis.
    """
    middle = (p + q) / 2
    relative = lambda a: torch.special.xlogy(a, a / middle.clamp_min(1e-30)).sum(-1)
    return (relative(p) + relative(q)) / 2


@torch.no_grad()
def leave_one_out(
    model: AttentionClassifier, words: Int[Tensor, "batch pos"], by: str = "unknown"
) -> Float[Tensor, "batch pos"]:
    """Change of the logit of `model` when each of the `words` alone is gone.

    By "unknown" a word is made unknown; `by="deleting"` takes it out, and later words move up: every row needs two.
    """
    if by not in ("unknown", "deleting"):
        raise CourseError(f"by={by!r} is not one of unknown and deleting.")
    if by == "deleting" and bool((lonely := (words != PAD).sum(1) < 2).any()):
        raise CourseError(
            f"Row {int(lonely.nonzero()[0])} has no word left without its only one: take by='unknown'."
        )
    whole, gone = model(words)[0], []
    for i in range(words.shape[1]):
        if by == "unknown":
            without = words.clone()
            without[:, i] = torch.where(words[:, i] == PAD, PAD, UNKNOWN)
        else:
            without = torch.cat([words[:, :i], words[:, i + 1 :]], dim=1)
        gone.append(whole - model(without)[0])
    return torch.stack(gone, dim=1)


def logit_gradients(
    model: AttentionClassifier, words: Int[Tensor, "batch pos"]
) -> Float[Tensor, "batch pos"]:
    """Gradient × input of the embedding of each of the `words`, for the logit of `model`."""
    with torch.enable_grad():
        x = model.embed(with_words(words)).detach().requires_grad_(True)
        h = model.lstm(x)[0]
        logit = model.read(h, model.attend(h, words))
        return (x * torch.autograd.grad(logit.sum(), x)[0]).sum(-1).detach()


@torch.no_grad()
def adversarial_attention(
    model: AttentionClassifier, words: Int[Tensor, "batch pos"]
) -> Float[Tensor, "batch pos"]:
    """Other weights for each of the `words` that give exactly the same logit, the farthest that rest on two words.

    The logit sees attention only through a mean, Σ α_i s_i, of what the words say alone. Any mean can be made of one
    word below it and one above: (1 − t) s_i + t s_j. Of all such pairs the one of largest JSD from α is taken.
    `model` has attention of its own, α.
    """
    n, (logit, own) = words.shape[1], model(words)
    alone = torch.stack([model(words, one.expand_as(words))[0] for one in torch.eye(n)], dim=1)  # batch pos
    low, high, mean = alone[:, :, None], alone[:, None, :], logit[:, None, None]
    t = ((mean - low) / (high - low).clamp_min(1e-9)).clamp(0, 1)  # batch pos pos
    there = words != PAD
    allowed = (low <= mean) & (mean <= high) & (high > low) & there[:, :, None] & there[:, None]
    first, second = torch.eye(n)[:, None], torch.eye(n)[None]  # pos pos n
    pairs = (1 - t[..., None]) * first + t[..., None] * second  # batch pos pos n
    far = jensen_shannon(pairs, own[:, None, None].expand_as(pairs))
    best = far.masked_fill(~allowed, -1.0).flatten(1)
    share = t.flatten(1).gather(1, best.argmax(1, keepdim=True))
    i, j = best.argmax(1) // n, best.argmax(1) % n
    other = (1 - share) * torch.eye(n)[i] + share * torch.eye(n)[j]
    return torch.where(best.max(1, keepdim=True).values >= 0, other, own)


class PooledReaders(nn.Module):
    """Several small attention networks at once, each to be trained on another function of binary features.

    Every feature is a token with an embedding for its value; one learnt query pools them, an MLP reads the pool.
    There are `n_networks` of `n_features` each; `d` is the width of an embedding, `d_mlp` the number of hidden
    neurons; `seed` draws the first weights.
    """

    def __init__(self, n_networks: int, n_features: int, d: int = 32, d_mlp: int = 64, *, seed: int = 0):
        super().__init__()
        draw = lambda *shape: nn.Parameter(torch.randn(n_networks, *shape) * shape[-2] ** -0.5)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.tokens = nn.Parameter(torch.randn(n_networks, n_features, 2, d))
            self.query, self.W_V = nn.Parameter(torch.zeros(n_networks, d)), draw(d, d)
            self.W_in, self.W_out = draw(d, d_mlp), draw(d_mlp, 1)
            self.b_in, self.b_out = (nn.Parameter(torch.zeros(n_networks, 1, k)) for k in (d_mlp, 1))

    def forward(
        self, bits: Float[Tensor, "network batch feature"]
    ) -> tuple[Float[Tensor, "network batch"], Float[Tensor, "network batch feature"]]:
        """(outputs, attention) for `bits`: features off (0) or on (1)."""
        off, on = self.tokens.unbind(2)  # network feature d
        x = torch.where(bits[..., None] > 0.5, on[:, None], off[:, None])
        attention = torch.einsum("nbfd,nd->nbf", x, self.query).softmax(-1)
        pooled = torch.einsum("nbf,nbfd->nbd", attention, x) @ self.W_V
        hidden = F.relu(bits.shape[-1] ** 0.5 * pooled @ self.W_in + self.b_in)
        return (hidden @ self.W_out + self.b_out)[..., 0], attention
