"""Activation patching: put a part of one run into another, and see what becomes of the answer.

Denoising patches the clean run into the corrupted one (is this part enough?), noising the corrupted run into the clean
one (is it needed?). The run that is patched is the host, the run the patch comes from the source. Derived in notebook
06; Heimersheim & Nanda (2024), Zhang & Nanda (2024).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from jaxtyping import Float, Int
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
from mi_course.patching.nodes import SITES, Node, chosen
from mi_course.patching.parts import Parts, listed
from mi_course.patching.paths import carried, check_paths
from mi_course.patching.question import Question
from mi_course.patching.results import PatchResult
from mi_course.patching.runs import Run, readable, record, recorded_with

DIRECTIONS = ("denoising", "noising")
ROWS = 4096  # rows run together: more do not fit the processor's cache


class Experiment:
    """A clean and a corrupted run, the answers they should give, and every patch between them."""

    def __init__(
        self,
        model,
        clean: Int[Tensor, "batch pos"] | Run,
        corrupted: Int[Tensor, "batch pos"] | Run,
        right,
        wrong=None,
        *,
        metric: str | Callable = "logit_diff",
        pos=-1,
        max_bytes: int = 1 << 30,
        progress: bool = False,
    ):
        check_pair(clean, corrupted)
        self.model, self.max_bytes, self.progress = model, max_bytes, progress
        self.clean = clean if isinstance(clean, Run) else record(model, clean)
        self.engine = self.clean.engine
        if not isinstance(corrupted, Run):
            corrupted = recorded_with(self.engine, readable(model, corrupted))
        self.corrupted = corrupted
        if torch.equal(self.clean.acts["resid_pre", 0], self.corrupted.acts["resid_pre", 0]):
            raise CourseError("clean and corrupted are the same prompts: there is nothing to patch.")
        self.n_batch, self.n_pos = self.clean.tokens.shape
        self.parts = Parts(self.clean)
        self.question = Question(self.clean.tokens, model.cfg.d_vocab, right, wrong, pos, metric)
        self.right, self.wrong, self.pos = self.question.right, self.question.wrong, self.question.pos
        self.metric, self._columns, self._score = (
            self.question.metric,
            self.question.columns,
            self.question.score,
        )
        if metric == "kl":
            self.question.reference = self._logits_of(self.clean, None)
        self.clean_score, self.corrupted_score = (
            float(self._baseline(run).mean()) for run in (self.clean, self.corrupted)
        )

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

    def _baseline(self, run: Run) -> Float[Tensor, "batch"]:
        return self._score(self._logits_of(run, self._columns))

    def _sides(self, direction: str, source: Run | None) -> tuple[Run, Run]:
        """Host and source."""
        chosen("direction", direction, DIRECTIONS)
        host, other = (self.clean, self.corrupted) if direction == "noising" else (self.corrupted, self.clean)
        source = other if source is None else source
        if source.tokens.shape != host.tokens.shape:
            raise CourseError(
                f"The source has prompts {list(source.tokens.shape)}, the patched run {list(host.tokens.shape)}."
            )
        return host, source

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
        """
        host, source = self._sides(direction, source)
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
        """All these nodes patched together; `freeze_patterns` holds every attention pattern at the host's."""
        host, source = self._sides(direction, source)
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
        """Logits at the answer position under each patch of a `sweep(kind, …)` or under `patch(nodes, …)`."""
        host, source = self._sides(direction, source)
        if isinstance(what, str):
            axes, jobs = self.parts.swept(what, source, sae, **grid)
        else:
            axes, jobs = {}, [(self.parts.edits_of(listed(what), source, sae), 1)]
        logits = self._run(host, jobs, lambda logits: logits, None, freeze_patterns)
        return logits.view(*map(len, axes.values()), self.n_batch, -1)

    def _result(
        self, scores: Tensor, axes: dict, direction: str, what: str, approximate: bool = False
    ) -> PatchResult:
        per_prompt = scores.view(*map(len, axes.values()), self.n_batch)
        return PatchResult(
            per_prompt,
            axes,
            direction,
            self.metric,
            self.clean_score,
            self.corrupted_score,
            what,
            approximate,
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
        host, source = self._sides(direction, source)
        check_paths([node for cell in cells for node in cell], to)
        cells = [[replace(node, pos=self.parts.at(node)) for node in cell] for cell in cells]
        wanted = (
            set() if isinstance(to, str) else {(node.kind, self.parts.receiver(node).layer) for node in to}
        )
        step, done = self._cells_at_once(self._columns), []
        for low in range(0, len(cells), step):
            part = cells[low : low + step]
            values = carried(self.engine, host.acts, source.acts, part, wanted, freeze_mlps)
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
        """
        if qk_fix:
            self._rebuilt("The QK fix")
            if kind not in ("q", "k"):
                raise CourseError(
                    f"The QK fix is for queries and keys: kind {kind!r} passes no softmax of its own."
                )
        axes, _ = self.parts.grid(kind, positions, layers, units, sae)
        host, source = self._sides(direction, source)
        site = self.parts.sae_site(sae)[0] if kind == "feature" else SITES[kind]
        through = "pattern" if qk_fix else site
        layers = [self.parts.sae_site(sae)[1]] if kind == "feature" else axes["layer"]
        slopes = self._slopes(host, source, [(through, i) for i in layers], steps)[1]
        found = []
        for i in layers:
            if qk_fix:
                joint = positions == "all"
                effect = softmax_effects(
                    self.engine, host.acts, source.acts, i, kind, slopes[through, i], joint
                )
            else:
                effect = first_order(
                    kind, positions, host.acts[site, i], source.acts[site, i], slopes[site, i], sae
                )
            for name in ("unit", "pos"):  # effect is [batch unit? pos] or [batch head query key]
                if name in axes:
                    dim = 1 if name == "unit" else effect.ndim - 1
                    effect = effect.index_select(dim, torch.tensor(axes[name], device=effect.device))
            found.append((effect.sum(-1) if positions == "all" else effect).movedim(0, -1))
        scores = self._baseline(host) + torch.stack(found).detach()
        return self._result(scores, axes, direction, kind, approximate=True)

    def _slopes(
        self, host: Run, source: Run, wanted: list[tuple[str, int]], steps: int
    ) -> tuple[list[tuple], dict]:
        """The runs along the way to the source, each (activations, gradients), and the mean gradients."""
        if steps < 1:
            raise CourseError(f"steps={steps}: at least one gradient is taken.")
        starts = along(host.acts["resid_pre", 0], source.acts["resid_pre", 0], steps)
        runs = [
            gradients(self.engine, host, start, self.pos, self._columns, self._score, wanted)
            for start in starts
        ]
        return runs, {key: sum(slopes[key] for _, slopes in runs) / steps for key in wanted}

    def edge_attribution(
        self, direction: str = "denoising", *, steps: int = 1, source: Run | None = None
    ) -> PatchResult:
        """First-order effects of patching single edges (Syed et al. 2023): axes sender × receiver.

        Senders write into the stream (embed, every head z, every mlp_out); receivers read it (each head's q, k and v,
        each mlp_in, the logits). An edge that would run downwards has effect 0. `steps` as in `attribution`.
        """
        self._rebuilt("Edge attribution")
        host, source = self._sides(direction, source)
        engine, sent = self.engine, senders(self.engine, host.acts, source.acts)
        sites = ["q_raw", "k_raw", "q", "k", "v", "mlp_out", "resid_post"]
        wanted = [(site, i) for i in range(engine.n_layers) for site in sites if (site, i) in host.acts]
        effects, runs = 0.0, self._slopes(host, source, wanted, steps)[0]
        for acts, slopes in runs:
            read = receivers(engine, acts, slopes)
            effects = effects + edge_effects(sent, read) / steps
        axes = {"sender": list(sent), "receiver": list(read)}
        return self._result(
            self._baseline(host) + effects.detach(), axes, direction, "edges", approximate=True
        )

    # -- sets ------------------------------------------------------------------------------------

    def random_nodes(self, n: int, *, like: Sequence[Node], seed: int = 0) -> list[list[Node]]:
        """n random circuits of the make-up of `like`: as many nodes of each kind at the same positions, elsewhere.

        The control of a confirmed circuit. Nodes are drawn without regard to what `like` holds, each once.
        """
        return self.parts.random(n, listed(like), seed)

    def complement(self, nodes: Sequence[Node]) -> list[Node]:
        """Every head's z and every mlp_out that is not among the nodes; by position where the nodes have positions."""
        return self.parts.complement(listed(nodes))


def check_pair(clean: Tensor | Run, corrupted: Tensor | Run) -> None:
    """Refuse runs that cannot be put onto each other."""
    shapes = [list((run.tokens if isinstance(run, Run) else run).shape) for run in (clean, corrupted)]
    if shapes[0] != shapes[1]:
        raise CourseError(
            f"clean is {shapes[0]} and corrupted {shapes[1]}: patching puts position on position, so both need "
            "the same prompts in the same number of tokens."
        )
    for name, run in (("clean", clean), ("corrupted", corrupted)):
        if isinstance(run, Run) and run.made:
            raise CourseError(f"{name} is a {run.made} run, which no forward gave: pass it as source=.")
