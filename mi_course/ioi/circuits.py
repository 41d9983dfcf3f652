"""What is left of a task when only a circuit runs: faithfulness, completeness, minimality, and edges.

Everything outside the circuit is replaced by what another run had there: a mean, another prompt, zeros. F(C) is the mean
logit difference with the heads C running, M all heads. Wang et al. (2022, §4); Miller et al. (2024) on how much the
choices weigh. Derived in notebook 08.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor

from mi_course.corpora.corpus import generator
from mi_course.errors import CourseError
from mi_course.ioi.prompts import Prompts
from mi_course.patching import Experiment, Run
from mi_course.patching.forward import Forward

Head = tuple[int, int]


class Knockout:
    """F(C): the logit difference with only some heads running, each other one held at `source`.

    Args:
        model: whose heads.
        prompts: clean prompts.
        source: what stands in for a head that is out; None: the mean over strangers' prompts of the same template.
        positions: where heads are held (default: everywhere but at the first position).
        strangers: prompts of which a source is made.
    """

    def __init__(
        self, model, prompts: Prompts, source: Run | None = None, *,
        positions: Sequence[int] | None = None, strangers: Prompts | None = None,
    ):  # fmt: skip
        self.prompts = prompts
        self.strangers = prompts.strangers() if strangers is None else strangers
        self.experiment = Experiment(model, prompts.tokens, self.strangers.tokens, prompts.io, prompts.s)
        self.forward = self.experiment.engine
        if not isinstance(self.forward, Forward) or self.forward.parallel:
            raise CourseError("Knocking out heads needs a plain serial pre-norm transformer (GPT-2's kind).")
        self.source = self.experiment.corrupted.mean(prompts.template) if source is None else source
        self.positions = list(range(1, prompts.tokens.shape[1]) if positions is None else positions)
        cfg = model.cfg
        self.heads = [(layer, head) for layer in range(cfg.n_layers) for head in range(cfg.n_heads)]
        self._known: dict[frozenset, Tensor] = {}

    @cached_property
    def full(self) -> float:
        """F(M): nothing is out."""
        return float(self.experiment.clean_score)

    def per_prompt(self, kept: Iterable[Head]) -> Float[Tensor, "batch"]:
        """Each prompt's logit difference with the heads `kept` running and no others."""
        kept = frozenset(kept)
        if strange := kept - set(self.heads):
            raise CourseError(
                f"There is no head {sorted(strange)[0]}: heads are (layer, head), counted from 0."
            )
        if kept not in self._known:
            self._known[kept] = self._run([head for head in self.heads if head not in kept])
        return self._known[kept]

    @torch.no_grad()
    def _run(self, out: list[Head]) -> Float[Tensor, "batch"]:
        """One forward with these heads held: every layer, as nearly every one has a head that is out."""
        forward, clean, place = self.forward, self.experiment.clean, torch.tensor(self.positions)
        ids, hidden, x = (
            clean.layout.ids,
            clean.layout.hidden(clean.tokens.shape[1]),
            clean.acts["resid_pre", 0],
        )
        for i in range(forward.n_layers):
            q, k, v = forward.project(i, x, ids)
            pattern = forward.scores(i, *forward.turned(i, q, k, ids), hidden).softmax(-1)
            z = forward.mix(pattern, v).contiguous()
            for head in (number for layer, number in out if layer == i):
                z[:, place, head] = self.source.acts["z", i][:, place, head]
            x = x + forward.write(i, z)
            if forward.has_mlp:
                x = x + forward.mlp_write(i, forward.neurons(i, x))
        question = self.experiment.question
        return question.score(forward.readout(x[torch.arange(len(x)), question.pos], question.columns))

    def F(self, kept: Iterable[Head]) -> float:
        """The mean of `per_prompt(kept)`."""
        return float(self.per_prompt(kept).mean())

    def without(self, out: Iterable[Head]) -> float:
        """F(M ∖ K): all heads but those in `out`."""
        return self.F(set(self.heads) - set(out))

    def faithfulness(self, circuit: Iterable[Head]) -> float:
        """F(C) / F(M), as in the paper: 1 where the circuit does as much as the model. It can exceed 1."""
        return self.F(circuit) / self.full

    def faithfulness_above_empty(self, circuit: Iterable[Head]) -> float:
        """(F(C) − F(∅)) / (F(M) − F(∅)) of a `circuit` C: 0 for no heads at all, 1 for the model."""
        empty = self.F(())
        return (self.F(circuit) - empty) / (self.full - empty)

    def incompleteness(self, circuit: Collection[Head], out: Iterable[Head]) -> float:
        """|F(C ∖ K) − F(M ∖ K)|: what the `circuit` C misses shows when K, the heads in `out`, is taken from both."""
        out = set(out)
        return abs(self.F(set(circuit) - out) - self.without(out))


def greedy(
    score: Callable[[frozenset], float], pool: Collection[Head], *, size: int
) -> list[tuple[frozenset, float]]:
    """Sets K of 1 … `size` heads from the `pool`, each the last one and the head that raises the `score` most.

    A search finds what a few chosen sets do not; its result is the largest of many, so compare it with the largest of as
    many random sets.
    """
    found: list[tuple[frozenset, float]] = []
    chosen: frozenset = frozenset()
    for _ in range(min(size, len(pool))):
        tried = {chosen | {head}: score(chosen | {head}) for head in sorted(set(pool) - chosen)}
        chosen = max(tried, key=tried.get)
        found.append((chosen, tried[chosen]))
    return found


def minimality(
    knockout: Knockout, circuit: Collection[Head], groups: dict[str, Collection[Head]]
) -> dict[Head, float]:
    """How much each head adds, as a share of F(M), once the rest of its class is out: |F(C ∖ (K ∪ v)) − F(C ∖ K)|.

    A head among others like it costs nothing alone; so K is its class without it (Wang et al. §4.2), or nothing where that
    shows more. `knockout` runs the heads, `circuit` is C, and `groups` are the classes by name.
    """
    shares = {}
    for head in sorted(circuit):
        mates = [set(group) - {head} for group in groups.values() if head in group]
        sets = [set(), *mates]
        gaps = [abs(knockout.F(set(circuit) - K - {head}) - knockout.F(set(circuit) - K)) for K in sets]
        shares[head] = max(gaps) / abs(knockout.full)
    return shares


def random_circuits(heads: Sequence[Head], size: int, n: int, *, seed: int = 0) -> list[set[Head]]:
    """n sets of `size` of the `heads`, drawn evenly with this `seed`."""
    if not 0 <= size <= len(heads):
        raise CourseError(f"size={size}: there are {len(heads)} heads.")
    draw = generator(seed)
    return [{heads[i] for i in torch.randperm(len(heads), generator=draw)[:size].tolist()} for _ in range(n)]
