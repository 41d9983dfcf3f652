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

from mi_course.corpora.corpus import generator
from mi_course.errors import CourseError
from mi_course.patching.edits import HOOKS, Edit
from mi_course.patching.forward import Forward
from mi_course.patching.gradients import along, edge_effects, gradients, receivers, senders, softmax_effects
from mi_course.patching.paths import carried, check_paths
from mi_course.patching.results import METRICS, Node, PatchResult, kl
from mi_course.patching.runs import (
    Run,
    checked_pos,
    chosen,
    readable,
    record,
    recorded_with,
)

SITES = {  # node kind → site
    "resid_pre": "resid_pre", "resid_mid": "resid_mid", "resid_post": "resid_post", "attn_out": "attn_out",
    "mlp_out": "mlp_out", "z": "z", "result": "z", "q": "q", "k": "k", "v": "v", "pattern": "pattern",
    "neuron": "post", "feature": "feature",
}  # fmt: skip
HEADS = ("z", "result", "q", "k", "v", "pattern")  # kinds that belong to a head
UNITS = ("neuron", "feature")
DIRECTIONS = ("denoising", "noising")
ROWS = 4096  # rows run together: more do not fit the processor's cache


# -- the experiment ------------------------------------------------------------------------------


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
        shapes = [list((run.tokens if isinstance(run, Run) else run).shape) for run in (clean, corrupted)]
        if shapes[0] != shapes[1]:
            raise CourseError(
                f"clean is {shapes[0]} and corrupted {shapes[1]}: patching puts position on position, so both need "
                "the same prompts in the same number of tokens."
            )
        self.model, self.max_bytes, self.progress = model, max_bytes, progress
        self.clean = clean if isinstance(clean, Run) else record(model, clean)
        self.engine = self.clean.engine
        if not isinstance(corrupted, Run):
            corrupted = recorded_with(self.engine, readable(model, corrupted))
        self.corrupted = corrupted
        self._check_runs()
        self.n_batch, self.n_pos = self.clean.tokens.shape
        self.right, self.wrong = self._answers("right", right), self._answers("wrong", wrong)
        if self.wrong is not None and bool((self.right == self.wrong).any()):
            raise CourseError("A right answer equals the wrong one: their difference says nothing.")
        self.pos = self._answer_positions(pos)
        self.metric = metric if isinstance(metric, str) else getattr(metric, "__name__", "metric")
        self._columns, self._measure = self._metric(metric)
        self.clean_score, self.corrupted_score = (
            float(self._baseline(run).mean()) for run in (self.clean, self.corrupted)
        )

    # -- what was given --------------------------------------------------------------------------

    def _check_runs(self) -> None:
        for name, run in (("clean", self.clean), ("corrupted", self.corrupted)):
            if run.made:
                raise CourseError(f"{name} is a {run.made} run, which no forward gave: pass it as source=.")
        first = ("resid_pre", 0)
        if torch.equal(self.clean.acts[first], self.corrupted.acts[first]):
            raise CourseError("clean and corrupted are the same prompts: there is nothing to patch.")

    def _answers(self, name: str, given) -> Tensor | None:
        if given is None and name == "wrong":
            return None
        if isinstance(given, str) or (isinstance(given, Sequence) and any(isinstance(t, str) for t in given)):
            raise CourseError(
                f"{name} holds text: pass one token id a prompt, of answers that are a single token."
            )
        tokens = torch.as_tensor(given, device=self.clean.tokens.device)
        if tokens.shape != (self.n_batch,) or tokens.is_floating_point():
            raise CourseError(
                f"{name} must be one token id for each of the {self.n_batch} prompts, [batch], not "
                f"{list(tokens.shape)} {tokens.dtype}: answers of several tokens need a metric of their own."
            )
        if int(tokens.min()) < 0 or int(tokens.max()) >= self.model.cfg.d_vocab:
            raise CourseError(f"{name} holds an id outside the vocabulary 0…{self.model.cfg.d_vocab - 1}.")
        return tokens

    def _answer_positions(self, pos) -> Int[Tensor, "batch"]:
        given = [pos] * self.n_batch if isinstance(pos, int) else torch.as_tensor(pos).tolist()
        if not isinstance(given, list) or len(given) != self.n_batch:
            raise CourseError(f"pos must be an int or one position for each of the {self.n_batch} prompts.")
        return torch.tensor([checked_pos(p, self.n_pos) for p in given], device=self.clean.tokens.device)

    def _metric(self, metric) -> tuple[Tensor | None, Callable]:
        """The columns of the logits that the metric reads (None: all), and the metric as a function of them."""
        if callable(metric):
            return None, metric
        function, right = METRICS[chosen("metric", metric, METRICS)], self.right
        if metric == "logit_diff":
            if self.wrong is None:
                raise CourseError("logit_diff needs wrong=: one token id a prompt.")
            return torch.stack([right, self.wrong], 1), lambda two: two[..., 0] - two[..., 1]
        if metric == "kl":
            with torch.no_grad():
                reference = self.engine.logits(self.clean, [], 1, self.pos)[0]
            return None, lambda logits: kl(logits, reference)
        return None, lambda logits: function(logits, right)

    def _score(self, logits: Tensor) -> Float[Tensor, "*cell batch"]:
        score = self._measure(logits)
        if score.shape != logits.shape[:-1]:
            raise CourseError(
                f"The metric made {list(score.shape)} of logits {list(logits.shape)}: it must keep every axis "
                "but the last, one number a prompt."
            )
        return score

    @torch.no_grad()
    def _baseline(self, run: Run) -> Float[Tensor, "batch"]:
        return self._score(self.engine.logits(run, [], 1, self.pos, self._columns))[0]

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
        axes, jobs = self._swept(kind, source, sae, positions, layers, units)
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
        nodes = self.nodes(nodes)
        jobs = [(self._edits_of(nodes, source, sae), 1)]
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
            axes, jobs = self._swept(what, source, sae, **grid)
        else:
            axes, jobs = {}, [(self._edits_of(self.nodes(what), source, sae), 1)]
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
        senders = self.nodes(senders)
        to = receivers if isinstance(receivers, str) else self.nodes(receivers)
        for node in senders:
            self._checked_node(node, None)
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
        to = receivers if isinstance(receivers, str) else self.nodes(receivers)
        part = [*range(self._size("z")), *(["mlp"] if ("mlp_out", 0) in self.clean.acts else [])]
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
        cells = [[replace(node, pos=self._at(node)) for node in cell] for cell in cells]
        wanted = set() if isinstance(to, str) else {(node.kind, self._receiver(node).layer) for node in to}
        step, done = self._cells_at_once(self._columns), []
        for low in range(0, len(cells), step):
            part = cells[low : low + step]
            values = carried(self.engine, host.acts, source.acts, part, wanted, freeze_mlps)
            if isinstance(to, str):
                final = values["logits", self.engine.n_layers][:, torch.arange(self.n_batch), self.pos]
                done.append(self._score(self.engine.readout(final, self._columns)))
            else:
                edits = [self._arriving(node, values[node.kind, node.layer]) for node in to]
                done.append(self._run(host, [(edits, len(part))], self._score, self._columns, freeze))
        return torch.cat(done)

    def _receiver(self, node: Node) -> Node:
        """A receiver after the checks of the node it stands for."""
        self._checked_node(replace(node, kind="mlp_out") if node.kind == "mlp_in" else node, None)
        return node

    def _arriving(self, node: Node, values: Tensor) -> Edit:
        """The edit that makes a receiver compute, in each cell, what arrived there."""
        cell = torch.arange(len(values), device=values.device)
        numbers = (None if x is None else torch.full_like(cell, x) for x in (node.head, self._at(node)))
        site = "mlp_out" if node.kind == "mlp_in" else node.kind
        return Edit(site, node.layer, cell, values, *numbers, per_cell=True)

    def _at(self, node: Node) -> int | None:
        return None if node.pos is None else checked_pos(node.pos, self.n_pos)

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
        axes, _ = self._grid(kind, positions, layers, units, sae)
        host, source = self._sides(direction, source)
        site = self._sae_site(sae)[0] if kind == "feature" else SITES[kind]
        through = "pattern" if qk_fix else site
        layers = [self._sae_site(sae)[1]] if kind == "feature" else axes["layer"]
        slopes = self._slopes(host, source, [(through, i) for i in layers], steps)[1]
        found = []
        for i in layers:
            if qk_fix:
                joint = positions == "all"
                effect = softmax_effects(
                    self.engine, host.acts, source.acts, i, kind, slopes[through, i], joint
                )
            else:
                effect = self._first_order(
                    kind, positions, host.acts[site, i], source.acts[site, i], slopes[site, i], sae
                )
            for name in ("unit", "pos"):  # effect is [batch unit? pos] or [batch head query key]
                if name in axes:
                    dim = 1 if name == "unit" else effect.ndim - 1
                    effect = effect.index_select(dim, torch.tensor(axes[name], device=effect.device))
            found.append((effect.sum(-1) if positions == "all" else effect).movedim(0, -1))
        scores = self._baseline(host) + torch.stack(found).detach()
        return self._result(scores, axes, direction, kind, approximate=True)

    def _first_order(self, kind: str, positions, host: Tensor, source: Tensor, slope: Tensor, sae) -> Tensor:
        """The effects of one layer's nodes, [batch unit? pos]; of single weights [batch head query key]."""
        if kind == "feature":
            encoder, W_dec = sae[0], sae[0].W_dec.detach()
            with torch.no_grad():
                change = encoder.encode(source.flatten(2)) - encoder.encode(host.flatten(2))
            return (change * (slope.flatten(2) @ W_dec.T) / encoder.scale).mT
        effect = (source - host) * slope
        if kind == "neuron":
            return effect.mT
        if kind == "pattern":
            return effect if positions == "pairs" else effect.sum(-1)
        effect = effect.sum(-1)
        return effect.mT if kind in HEADS else effect

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
        like, rng = self.nodes(like), generator(seed)
        groups: dict[tuple, int] = {}
        for node in like:
            self._checked_kind(node.kind, None)
            groups[node.kind, node.pos] = groups.get((node.kind, node.pos), 0) + 1
        circuits = []
        for _ in range(n):
            drawn = []
            for (kind, pos), count in groups.items():
                every = self._every(kind, pos)
                drawn += [every[i] for i in torch.randperm(len(every), generator=rng)[:count].tolist()]
            circuits.append(drawn)
        return circuits

    def _every(self, kind: str, pos: int | None) -> list[Node]:
        """All nodes of a kind at one position (None: at all at once)."""
        layers = range(self.engine.n_layers)
        if kind in HEADS:
            return [Node(kind, i, head=h, pos=pos) for i in layers for h in range(self._size(kind))]
        if kind in UNITS:
            return [Node(kind, i, unit=u, pos=pos) for i in layers for u in range(self._size(kind))]
        return [Node(kind, i, pos=pos) for i in layers]

    def complement(self, nodes: Sequence[Node]) -> list[Node]:
        """Every head's z and every mlp_out that is not among the nodes; by position where the nodes have positions."""
        nodes = self.nodes(nodes)
        if other := [node for node in nodes if node.kind not in ("z", "result", "mlp_out")]:
            raise CourseError(f"A complement is made of heads (z) and mlp_out; {other[0]} is neither.")
        by_position = any(node.pos is not None for node in nodes)
        inside = set()
        for node in nodes:
            self._checked_node(node, None)
            places = (
                [None] if not by_position else range(self.n_pos) if node.pos is None else [self._at(node)]
            )
            kind = "z" if node.kind == "result" else node.kind
            inside |= {replace(node, kind=kind, pos=pos) for pos in places}
        kinds = ["z", *(["mlp_out"] if ("mlp_out", 0) in self.clean.acts else [])]
        places = range(self.n_pos) if by_position else [None]
        return [
            node for kind in kinds for pos in places for node in self._every(kind, pos) if node not in inside
        ]

    # -- from nodes to edits ---------------------------------------------------------------------

    def _size(self, kind: str, sae=None) -> int:
        """How many heads, neurons or features a layer has of this kind."""
        if kind == "feature":
            return sae[0].cfg.d_sae
        if kind == "neuron":
            return self.clean.acts["post", 0].shape[-1]
        value = self.clean.acts[SITES[kind], 0]
        return value.shape[1 if kind == "pattern" else 2]

    def _checked_kind(self, kind: str, sae) -> None:
        chosen("kind of node", kind, SITES)
        if kind != "feature" and (SITES[kind], 0) not in self.clean.acts:
            raise CourseError(f"This model has no {kind}: it is attention only, or keeps no such hook.")
        if kind == "feature":
            self._sae_site(sae)

    def _sae_site(self, sae) -> tuple[str, int]:
        """Site and layer that an autoencoder reads, after checks that it can."""
        if not isinstance(sae, tuple) or len(sae) != 2:
            raise CourseError(
                "Features need sae=(autoencoder, hook), as in (sae, 'blocks.0.hook_resid_post')."
            )
        names = {
            f"blocks.{i}.{HOOKS[site]}": (site, i)
            for site, i in self.clean.acts if site in HOOKS and site != "pattern"
        }  # fmt: skip
        site, layer = names[chosen("hook", sae[1], names)]
        width = self.clean.acts[site, layer].flatten(2).shape[-1]
        if sae[0].cfg.d_in != width:
            raise CourseError(f"The autoencoder reads {sae[0].cfg.d_in} numbers, and {sae[1]} has {width}.")
        return site, layer

    def nodes(self, given: Node | Sequence[Node]) -> list[Node]:
        """The nodes after a check that this model has them."""
        nodes = [given] if isinstance(given, Node) else list(given)
        if not nodes or not all(isinstance(node, Node) for node in nodes):
            raise CourseError("Pass a Node or a list of them, at least one.")
        return nodes

    def _checked_node(self, node: Node, sae) -> None:
        self._checked_kind(node.kind, sae)
        if not 0 <= node.layer < self.engine.n_layers:
            raise CourseError(f"There is no layer {node.layer}: layers are 0…{self.engine.n_layers - 1}.")
        for name, kinds in (("head", HEADS), ("unit", UNITS)):
            number = getattr(node, name)
            if (number is not None) != (node.kind in kinds):
                wants = "needs" if node.kind in kinds else "has no"
                raise CourseError(f"A node of kind {node.kind} {wants} {name}: {node}.")
            if number is not None and not 0 <= number < self._size(node.kind, sae):
                raise CourseError(f"There is no {node}: {name}s are 0…{self._size(node.kind, sae) - 1}.")
        if node.kind == "feature" and node.layer != self._sae_site(sae)[1]:
            raise CourseError(
                f"{node} is not in layer {self._sae_site(sae)[1]}, where the autoencoder reads."
            )
        if node.pos is not None:
            checked_pos(node.pos, self.n_pos)

    def _edit(
        self, source: Run, kind: str, layer: int, cell, unit=None, pos=None, key=None, sae=None
    ) -> Edit:
        """An edit whose values are the source's."""
        numbers = (
            None if x is None else torch.as_tensor(x, device=self.pos.device) for x in (cell, unit, pos, key)
        )
        cell, unit, pos, key = numbers
        site, encoder = SITES[kind], None
        if kind == "feature":
            site, encoder = self._sae_site(sae)[0], sae[0]
        values = source.acts[site, layer]
        if encoder is not None:
            with torch.no_grad():
                values = encoder.encode(values.flatten(2))
        if site == "pattern":
            values = values.transpose(1, 2)
        return Edit(site, layer, cell, values, unit, pos, key, sae=encoder)

    def _edits_of(self, nodes: list[Node], source: Run, sae=None) -> list[Edit]:
        """The edits of one cell in which all nodes are patched."""
        groups: dict[tuple, list[Node]] = {}
        for node in nodes:
            self._checked_node(node, sae)
            groups.setdefault((node.kind, node.layer, node.pos is None), []).append(node)
        edits = []
        for (kind, layer, everywhere), members in groups.items():
            part = [node.head if kind in HEADS else node.unit for node in members]
            pos = None if everywhere else [self._at(node) for node in members]
            unit = part if kind in HEADS or kind in UNITS else None
            edits.append(self._edit(source, kind, layer, [0] * len(members), unit, pos, sae=sae))
        return edits

    def _grid(self, kind: str, positions, layers, units, sae) -> tuple[dict, list]:
        """The axes of a sweep, and for each layer (the entries of its edits, the number of cells)."""
        self._checked_kind(kind, sae)
        layers = list(range(self.engine.n_layers) if layers is None else layers)
        if kind == "feature":
            layers = [self._sae_site(sae)[1]]
        inner = self._inner_axes(kind, positions, units, sae)
        for layer in layers:
            if not 0 <= layer < self.engine.n_layers:
                raise CourseError(f"There is no layer {layer}: layers are 0…{self.engine.n_layers - 1}.")
        grid = torch.cartesian_prod(*map(torch.tensor, inner.values())) if inner else torch.zeros(1, 0)
        columns = dict(zip(inner, grid.view(len(grid), -1).T))
        unit = columns.get("head", columns.get("unit"))
        pos = columns.get("pos", columns.get("query"))
        cell = torch.arange(len(grid))
        axes = inner if kind == "feature" else {"layer": layers, **inner}
        jobs = [([(kind, layer, cell, unit, pos, columns.get("key"))], len(cell)) for layer in layers]
        return axes, jobs

    def _swept(
        self, kind: str, source: Run, sae, positions="each", layers=None, units=None
    ) -> tuple[dict, list]:
        """The axes of a sweep, and for each layer (its edits, the number of cells)."""
        axes, jobs = self._grid(kind, positions, layers, units, sae)
        return axes, [([self._edit(source, *entry, sae=sae) for entry in entries], n) for entries, n in jobs]

    def _inner_axes(self, kind: str, positions, units, sae) -> dict[str, list[int]]:
        """The axes within a layer."""
        axes = {}
        if kind in HEADS:
            axes["head"] = list(range(self._size(kind)))
        if kind in UNITS:
            size = self._size(kind, sae)
            axes["unit"] = list(range(size) if units is None else units)
            if outside := [unit for unit in axes["unit"] if not 0 <= unit < size]:
                raise CourseError(f"There is no {kind} {outside[0]}: units are 0…{size - 1}.")
        elif units is not None:
            raise CourseError(f"units= is for neurons and features, not for {kind}.")
        every = list(range(self.n_pos))
        if isinstance(positions, str):
            known = ("each", "all", "pairs") if kind == "pattern" else ("each", "all")
            chosen("choice of positions", positions, known)
            return (
                axes | {"each": {"pos": every}, "all": {}, "pairs": {"query": every, "key": every}}[positions]
            )
        return axes | {"pos": [checked_pos(pos, self.n_pos) for pos in positions]}
