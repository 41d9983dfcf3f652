"""Activation patching: put a part of one run into another, and see what becomes of the answer.

Denoising patches the clean run into the corrupted one (is this part enough?), noising the corrupted run into the clean
one (is it needed?). The run that is patched is the host, the run the patch comes from the source. Derived in notebook
06; Heimersheim & Nanda (2024), Zhang & Nanda (2024).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm

from mi_course.errors import CourseError
from mi_course.patching.forward import Forward
from mi_course.patching.gradients import (
    along,
    edge_effects,
    first_order,
    gradients,
    receivers,
    senders,
    softmax_effects,
)  # fmt: skip
from mi_course.patching.nodes import SITES, Node
from mi_course.patching.pair import Pair
from mi_course.patching.parts import Parts, listed
from mi_course.patching.paths import carried, check_paths
from mi_course.patching.question import Question
from mi_course.patching.results import PatchResult
from mi_course.patching.runs import Run, checked_run

ROWS = 4096  # rows run together: more do not fit the processor's cache


class Experiment:
    """A clean and a corrupted run, the answers they should give, and every patch between them.

    `right` and `wrong` are one token id a prompt (a plain number where there is one prompt), read at `pos`. Prompts of
    unequal length are padded on the left: `attention_mask` is 1 at tokens, and is found from the tokenizer's padding
    where it is not given. `check` tries out at which sites a hook reaches the logits, where hooks do the patching: it
    costs six forwards of a few tokens, and without it a patch of a hidden site does nothing and does not say so.

    Args:
        model: a `TinyTransformer` or `TransformerBridge`.
        clean: prompts whose answer is right, ids [batch pos] (a tensor, an array or lists) or a `Run`.
        corrupted: the same number of prompts, of the same length, with another answer.
        right: one token id a prompt, [batch].
        wrong: the corrupted prompts' answers, for `logit_diff`.
        metric: `logit_diff`, `log_prob`, `prob`, `accuracy`, `rank`, `kl`, or a function of logits [… batch
            d_vocab] that gives [… batch].
        pos: where the answer is read: a position, or one a prompt; −1 is the last.
        attention_mask: [batch pos], 1 at tokens, for prompts padded on the left.
        check: try out which sites a hook reaches.
        max_bytes: memory that patches may take together.
        progress: show a bar.
    """

    def __init__(
        self,
        model,
        clean: Any,
        corrupted: Any,
        right,
        wrong=None,
        *,
        metric: str | Callable = "logit_diff",
        pos=-1,
        attention_mask=None,
        max_bytes: int = 1 << 30,
        progress: bool = False,
        check: bool = True,
    ):
        self.model, self.max_bytes, self.progress = model, max_bytes, progress
        self.pair = Pair(model, clean, corrupted, attention_mask, check)
        self.clean, self.engine = self.pair.clean, self.pair.engine
        self.n_batch, self.n_pos = self.clean.tokens.shape
        self.parts = Parts(self.clean)
        self.question = Question(self.clean, model.cfg.d_vocab, right, wrong, pos, metric)
        self.right, self.wrong, self.pos = self.question.right, self.question.wrong, self.question.pos
        self.metric, self._columns, self._score = (
            self.question.metric,
            self.question.columns,
            self.question.score,
        )
        if metric == "kl":
            self.question.reference = self._logits_of(self.clean, None)
        self._clean_each = self._score(self._logits_of(self.clean, self._columns))
        self.clean_score = float(self._clean_each.mean())

    @property
    def corrupted(self) -> Run:
        return self.pair.corrupted

    @cached_property
    def _corrupted_each(self) -> Float[Tensor, "batch"]:
        return self._score(self._logits_of(self.corrupted, self._columns))

    @property
    def corrupted_score(self) -> float:
        return float(self._corrupted_each.mean())

    def __repr__(self) -> str:
        how = "rebuilt forward" if isinstance(self.engine, Forward) else "hooks"
        return (
            f"Experiment({self.n_batch} prompts × {self.n_pos} positions, {self.metric}: "
            f"clean {self.clean_score:.3f}, corrupted {self.corrupted_score:.3f}, by {how})"
        )

    @torch.no_grad()
    def _logits_of(self, run: Run, columns) -> Tensor:
        """Logits of an unpatched run at the answers."""
        return self.engine.logits(run, [], 1, self.pos, columns)[0]

    def _baseline(self, host: Run) -> Float[Tensor, "batch"]:
        """Each prompt's score of the host as it is."""
        return self._clean_each if host is self.clean else self._corrupted_each

    # -- patches ---------------------------------------------------------------------------------

    def sweep(
        self,
        kind: str,
        direction: str = "denoising",
        *,
        positions: str | Sequence[int] = "each",
        layers: Sequence[int] | None = None,
        units: Sequence[int] | None = None,
        source: Run | None = None,
        sae=None,
    ) -> PatchResult:
        """Every node of a kind patched alone: axes layer × (head or unit) × pos.

        positions "each" patches one position at a time, "all" every position at once, a list the positions named;
        "pairs" (of patterns) single weights query × key. `sae` is (autoencoder, hook), for kind "feature".

        Args:
            kind: `resid_pre`, `resid_mid`, `resid_post`, `attn_out`, `mlp_out`, `z`, `result`, `q`, `k`,
                `v`, `pattern`, `neuron` or `feature`.
            direction: `denoising` patches the clean run into the corrupted one, `noising` the other way
                round.
            positions: `each`, `all`, a list, or `pairs`.
            layers: the layers to sweep (default: all).
            units: heads, neurons or features to sweep (default: all).
            source: another run to patch from: `Run.zero()`, `.mean()`, `.resampled(seed)`, or a recorded
                one.
            sae: (autoencoder, hook it reads), for kind `feature`.
        """
        host, source = self.pair.sides(direction, source)
        axes, jobs = self.parts.swept(kind, source, sae, positions, layers, units)
        return self._result(self._run(host, jobs, self._score, self._columns), axes, direction, kind)

    def patch(
        self,
        nodes: Node | Sequence[Node],
        direction: str = "denoising",
        *,
        source: Run | None = None,
        freeze_patterns: bool = False,
        sae=None,
    ) -> PatchResult:
        """All these nodes patched together; `freeze_patterns` holds every attention pattern at the host's.

        Args:
            nodes: a `Node` or several.
            direction: `denoising` patches the clean run into the corrupted one, `noising` the other way
                round.
            source: another run to patch from: `Run.zero()`, `.mean()`, `.resampled(seed)`, or a recorded
                one.
            freeze_patterns: hold every attention pattern at the host's.
            sae: (autoencoder, hook it reads), for kind `feature`.
        """
        host, source = self.pair.sides(direction, source)
        nodes = listed(nodes)
        jobs = [(self.parts.edits_of(nodes, source, sae), 1)]
        scores = self._run(host, jobs, self._score, self._columns, freeze_patterns)
        what = str(nodes[0]) if len(nodes) == 1 else f"{len(nodes)} nodes"
        return self._result(scores, {}, direction, what)

    def logits(
        self,
        what: str | Node | Sequence[Node],
        direction: str = "denoising",
        *,
        source: Run | None = None,
        freeze_patterns: bool = False,
        sae=None,
        **grid,
    ) -> Float[Tensor, "*axes batch d_vocab"]:
        """Logits at the answer position under each patch of a `sweep(kind, …)` or under `patch(nodes, …)`.

        Args:
            what: a kind, as for `sweep`, or nodes, as for `patch`.
            direction: `denoising` patches the clean run into the corrupted one, `noising` the other way
                round.
            source: another run to patch from: `Run.zero()`, `.mean()`, `.resampled(seed)`, or a recorded
                one.
            freeze_patterns: hold every attention pattern at the host's.
            sae: (autoencoder, hook it reads), for kind `feature`.
            grid: `positions`, `layers`, `units` of the sweep.
        """
        host, source = self.pair.sides(direction, source)
        if isinstance(what, str):
            axes, jobs = self.parts.swept(what, source, sae, **grid)
        else:
            axes, jobs = {}, [(self.parts.edits_of(listed(what), source, sae), 1)]
        logits = self._run(host, jobs, lambda logits: logits, None, freeze_patterns)
        return logits.view(*map(len, axes.values()), self.n_batch, -1)

    def _result(
        self, scores: Tensor, axes: dict, direction: str, what: str, approximate: bool = False
    ) -> PatchResult:
        per_prompt, run = scores.view(*map(len, axes.values()), self.n_batch), (direction, self.metric)
        ends = torch.stack([self._corrupted_each, self._clean_each]).to(per_prompt).detach()
        return PatchResult(
            per_prompt, axes, *run, self.clean_score, self.corrupted_score, what, approximate, ends
        )

    @torch.no_grad()
    def _run(self, host: Run, jobs: list, measure: Callable, columns, freeze: bool = False) -> Tensor:
        """What is measured of every cell of every job, [cell batch …], in parts that fit the memory."""
        step, done = self._cells_at_once(columns), []
        with tqdm(total=sum(n for _, n in jobs), disable=not self.progress, desc="patches") as bar:
            for edits, n in jobs:
                for low in range(0, n, step):
                    part = [edit.within(low, low + step) for edit in edits]
                    size = min(step, n - low)
                    done.append(measure(self.engine.logits(host, part, size, self.pos, columns, freeze)))
                    bar.update(size)
        return torch.cat(done)

    def _cells_at_once(self, columns) -> int:
        """How many patches run together: as many as fit into `max_bytes`, and no more than pays."""
        n_pos = int(self.pos.max()) + 1
        width = self.model.cfg.d_vocab if columns is None else columns.shape[1]
        need = self.engine.bytes_per_copy(n_pos, width) * self.n_batch
        if need > self.max_bytes:
            raise CourseError(
                f"One patch of {self.n_batch} prompts × {n_pos} positions takes about {need:,} bytes, more than "
                f"max_bytes={self.max_bytes:,}: allow that much, or take fewer prompts."
            )
        return max(1, min(self.max_bytes // need, ROWS // (self.n_batch * n_pos)))

    # -- paths -----------------------------------------------------------------------------------

    def path(
        self,
        senders: Node | Sequence[Node],
        receivers: Node | Sequence[Node] | str,
        direction: str = "denoising",
        *,
        freeze_mlps: bool = True,
        freeze_patterns: bool = False,
        source: Run | None = None,
    ) -> PatchResult:
        """The senders' change patched only along the paths to the receivers (Wang et al. 2022).

        Senders are heads (z), mlp_out, and resid_pre 0, the embedding; receivers a head's q, k or v, mlp_in, or
        "logits". Other heads are held at the host between them; MLPs too, unless `freeze_mlps` is False: then they
        pass the change on, as in the paper. `freeze_patterns` holds the patterns behind the receivers.

        Args:
            senders: nodes whose change is sent.
            receivers: nodes that may read it, or `logits`.
            direction: `denoising` patches the clean run into the corrupted one, `noising` the other way
                round.
            freeze_mlps: hold MLPs on the way at the host's.
            freeze_patterns: hold the patterns behind the receivers.
            source: another run to patch from: `Run.zero()`, `.mean()`, `.resampled(seed)`, or a recorded
                one.
        """
        senders = listed(senders)
        to = receivers if isinstance(receivers, str) else listed(receivers)
        for node in senders:
            self.parts.check(node)
        scores = self._paths([senders], to, direction, source, freeze_mlps, freeze_patterns)
        names = [" + ".join(map(str, part)) if not isinstance(part, str) else part for part in (senders, to)]
        return self._result(scores, {}, direction, f"path {names[0]} → {names[1]}")

    def path_sweep(
        self,
        receivers: Node | Sequence[Node] | str,
        direction: str = "denoising",
        *,
        freeze_mlps: bool = True,
        freeze_patterns: bool = False,
        source: Run | None = None,
    ) -> PatchResult:
        """The path from every head alone to the receivers: axes layer × head, the last column the layer's MLP.

        A sender that stands above all receivers has no path to them and no effect.

        Args:
            receivers: nodes that may read the change, or `logits`.
            direction: `denoising` patches the clean run into the corrupted one, `noising` the other way
                round.
            freeze_mlps: hold MLPs on the way at the host's.
            freeze_patterns: hold the patterns behind the receivers.
            source: another run to patch from: `Run.zero()`, `.mean()`, `.resampled(seed)`, or a recorded
                one.
        """
        to = receivers if isinstance(receivers, str) else listed(receivers)
        part = [*range(self.parts.size("z")), *(["mlp"] if self.parts.has("mlp_out") else [])]
        axes = {"layer": list(range(self.engine.n_layers)), "head": part}
        cells = [
            [Node("mlp_out", layer) if head == "mlp" else Node("z", layer, head)] for layer in axes["layer"] for head in part
        ]  # fmt: skip
        scores = self._paths(cells, to, direction, source, freeze_mlps, freeze_patterns)
        name = to if isinstance(to, str) else " + ".join(map(str, to))
        return self._result(scores, axes, direction, f"path to {name}, from")

    @torch.no_grad()
    def _paths(self, cells: list, to, direction: str, source, freeze_mlps: bool, freeze: bool) -> Tensor:
        """Scores [cell batch] of the two steps of path patching."""
        self._rebuilt("Path patching")
        host, source = self.pair.sides(direction, source)
        check_paths([node for cell in cells for node in cell], to, self.engine.parallel)
        cells = [[replace(node, pos=self.parts.at(node)) for node in cell] for cell in cells]
        wanted = (
            set() if isinstance(to, str) else {(node.kind, self.parts.receiver(node).layer) for node in to}
        )
        step, done = self._cells_at_once(self._columns), []
        for low in range(0, len(cells), step):
            part = cells[low : low + step]
            values = carried(
                self.engine, host.acts, source.acts, part, wanted, freeze_mlps, self.clean.layout.ids
            )
            if isinstance(to, str):
                final = values["logits", self.engine.n_layers][:, torch.arange(self.n_batch), self.pos]
                done.append(self._score(self.engine.readout(final, self._columns)))
            else:
                edits = [self.parts.arriving(node, values[node.kind, node.layer]) for node in to]
                done.append(self._run(host, [(edits, len(part))], self._score, self._columns, freeze))
        return torch.cat(done)

    def _rebuilt(self, what: str) -> None:
        """Refuse a model whose forward this course does not know."""
        if not isinstance(self.engine, Forward):
            raise CourseError(
                f"{what} needs a plain pre-norm transformer (GPT-2's kind); this model's forward is another one, "
                "and only hooks can patch it."
            )

    # -- estimates -------------------------------------------------------------------------------

    def attribution(
        self,
        kind: str,
        direction: str = "denoising",
        *,
        positions: str | Sequence[int] = "each",
        layers: Sequence[int] | None = None,
        units: Sequence[int] | None = None,
        source: Run | None = None,
        sae=None,
        qk_fix: bool = False,
        steps: int = 1,
    ) -> PatchResult:
        """What `sweep` would give, to first order: (a_source − a_host) · ∂metric/∂a at the host (Nanda 2023).

        `qk_fix` recomputes the softmax for queries and keys (AtP*, Kramár et al. 2024). `steps` > 1 averages the
        gradient along the line between the two runs' embeddings (EAP-IG, Hanna et al. 2024), at the midpoints of as
        many pieces.

        Args:
            kind: as for `sweep`.
            direction: `denoising` patches the clean run into the corrupted one, `noising` the other way
                round.
            positions: `each`, `all` or a list.
            layers: the layers to sweep (default: all).
            units: heads, neurons or features to sweep (default: all).
            source: another run to patch from: `Run.zero()`, `.mean()`, `.resampled(seed)`, or a recorded
                one.
            sae: (autoencoder, hook it reads), for kind `feature`.
            qk_fix: only for kinds `q` and `k`.
            steps: gradients to average.
        """
        if qk_fix:
            self._rebuilt("The QK fix")
            if kind not in ("q", "k"):
                raise CourseError(
                    f"The QK fix is for queries and keys: kind {kind!r} passes no softmax of its own."
                )
        axes, _ = self.parts.grid(kind, positions, layers, units, sae)
        site = self.parts.sae_site(sae)[0] if kind == "feature" else SITES[kind]
        through = "pattern" if qk_fix else site
        layers = [self.parts.sae_site(sae)[1]] if kind == "feature" else axes["layer"]
        host, source, runs = self._slopes(direction, source, [(through, i) for i in layers], steps)
        found = []
        for i in layers:
            slope = sum(slopes[through, i] for _, slopes in runs) / steps
            if qk_fix:
                hidden = host.layout.hidden(self.n_pos)
                effect = softmax_effects(
                    self.engine, host.acts, source.acts, i, kind, slope, hidden, positions == "all"
                )
            else:
                effect = first_order(kind, positions, host.acts[site, i], source.acts[site, i], slope, sae)
            for name in ("unit", "pos"):  # effect is [batch unit? pos] or [batch head query key]
                if name in axes:
                    dim = 1 if name == "unit" else effect.ndim - 1
                    effect = effect.index_select(dim, torch.tensor(axes[name], device=effect.device))
            found.append((effect.sum(-1) if positions == "all" else effect).movedim(0, -1))
        scores = self._baseline(host) + torch.stack(found).detach()
        return self._result(scores, axes, direction, kind, approximate=True)

    def _slopes(
        self, direction: str, source: Run | None, wanted: list[tuple[str, int]], steps: int
    ) -> tuple[Run, Run, list[tuple]]:
        """Host, source, and the runs along the way between them, each (activations, gradients)."""
        if steps < 1:
            raise CourseError(f"steps={steps}: at least one gradient is taken.")
        asked = self.pos, self._columns, self._score, wanted
        if (
            direction == "denoising"
            and steps == 1
            and self.pair.unrecorded
            and isinstance(self.engine, Forward)
        ):
            host = Run(self.pair.given, {}, self.engine, mask=self.clean.mask)
            acts, slopes = gradients(self.engine, host, self.engine.embed(host.tokens, host.layout), *asked)
            self.pair.corrupted = checked_run(
                replace(host, acts=acts)
            )  # recorded with its gradient, in one run
            return *self.pair.sides(direction, source), [(acts, slopes)]
        host, source = self.pair.sides(direction, source)
        starts = along(host.acts["resid_pre", 0], source.acts["resid_pre", 0], steps)
        return host, source, [gradients(self.engine, host, start, *asked) for start in starts]

    def edge_attribution(
        self, direction: str = "denoising", *, steps: int = 1, source: Run | None = None
    ) -> PatchResult:
        """First-order effects of patching single edges (Syed et al. 2023): axes sender × receiver.

        Senders write into the stream (embed, every head z, every mlp_out); receivers read it (each head's q, k and v,
        each mlp_in, the logits). An edge that would run downwards has effect 0. `steps` as in `attribution`.

        Args:
            direction: `denoising` patches the clean run into the corrupted one, `noising` the other way
                round.
            steps: gradients to average.
            source: another run to patch from: `Run.zero()`, `.mean()`, `.resampled(seed)`, or a recorded
                one.
        """
        self._rebuilt("Edge attribution")
        engine = self.engine
        sites = [*(("mlp_out",) if engine.has_mlp else ()), "resid_post"]
        wanted = [
            (site, i) for i in range(engine.n_layers) for site in [*(engine.read(i, x) for x in "qkv"), *sites]
        ]  # fmt: skip
        host, source, runs = self._slopes(direction, source, wanted, steps)
        sent, effects = senders(engine, host.acts, source.acts), 0.0
        for acts, slopes in runs:
            read = receivers(engine, acts, slopes, host.layout.ids)
            effects = effects + edge_effects(sent, read, engine.parallel) / steps
        axes = {"sender": list(sent), "receiver": list(read)}
        scores = self._baseline(host) + effects.detach()
        return self._result(scores, axes, direction, "edges", approximate=True)

    # -- sets ------------------------------------------------------------------------------------

    def random_nodes(self, n: int, *, like: Sequence[Node], seed: int = 0) -> list[list[Node]]:
        """n random circuits of the make-up of `like`: as many nodes of each kind at the same positions, elsewhere.

        The control of a confirmed circuit. Nodes are drawn without regard to what `like` holds, each once.

        Args:
            n: how many sets.
            like: the circuit whose make-up they share.
            seed: of the draw.
        """
        return self.parts.random(n, listed(like), seed)

    def random_circuits(
        self,
        nodes: Node | Sequence[Node],
        n: int = 100,
        direction: str = "denoising",
        *,
        source: Run | None = None,
        seed: int = 0,
    ) -> PatchResult:
        """n random circuits of the make-up of these nodes, each patched: the null of `PatchResult.p_value`.

        `direction` and `source` are those of `patch`; `seed` draws the circuits.
        """
        host, source = self.pair.sides(direction, source)
        circuits = self.random_nodes(n, like=listed(nodes), seed=seed)
        jobs = [(self.parts.edits_of(circuit, source), 1) for circuit in circuits]
        scores = self._run(host, jobs, self._score, self._columns)
        return self._result(scores, {"draw": list(range(n))}, direction, "random circuits")

    def complement(self, nodes: Sequence[Node]) -> list[Node]:
        """Every head's z and every mlp_out that is not among the nodes; by position where the nodes have positions."""
        return self.parts.complement(listed(nodes))
