"""What a patch is: from nodes, or from the grid of a sweep, to the edits that put a source's values into a host."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from mi_course.corpora.corpus import generator
from mi_course.errors import CourseError
from mi_course.patching.edits import HOOKS, Edit
from mi_course.patching.nodes import HEADS, SITES, UNITS, Node, checked_pos, chosen, numbers
from mi_course.patching.runs import Run
from mi_course.sae import checked_autoencoder


def listed(given: Node | Sequence[Node]) -> list[Node]:
    """One node or several, as a list."""
    nodes = [given] if isinstance(given, Node) else list(given)
    if not nodes or not all(isinstance(node, Node) for node in nodes):
        raise CourseError("Pass a Node or a list of them, at least one.")
    return nodes


class Parts:
    """The parts of a model as one recorded run shows them, and the edits that replace them."""

    def __init__(self, run: Run):
        self.run, self.n_layers, self.n_pos = run, run.engine.n_layers, run.tokens.shape[1]

    # -- what there is ---------------------------------------------------------------------------

    def has(self, site: str) -> bool:
        return (site, 0) in self.run.acts

    def size(self, kind: str, sae=None) -> int:
        """How many heads, neurons or features a layer has of this kind."""
        if kind == "feature":
            return sae[0].cfg.d_sae
        value = self.run.acts[SITES[kind], 0]
        return value.shape[-1] if kind == "neuron" else value.shape[1 if kind == "pattern" else 2]

    def check_kind(self, kind: str, sae=None) -> None:
        chosen("kind of node", kind, SITES)
        if kind == "feature":
            self.sae_site(sae)
        elif not self.has(SITES[kind]):
            raise CourseError(f"This model has no {kind}: it is attention only, or keeps no such hook.")
        elif SITES[kind] in self.run.engine.refused:
            raise CourseError(self.run.engine.refused[SITES[kind]])

    def check_layer(self, layer: int) -> None:
        if not 0 <= layer < self.n_layers:
            raise CourseError(f"There is no layer {layer}: layers are 0…{self.n_layers - 1}.")

    def sae_site(self, sae) -> tuple[str, int]:
        """Site and layer that an autoencoder reads, after checks that it can."""
        if not isinstance(sae, tuple) or len(sae) != 2:
            raise CourseError(
                "Features need sae=(autoencoder, hook), as in (sae, 'blocks.0.hook_resid_post')."
            )
        names = {
            f"blocks.{i}.{HOOKS[site]}": (site, i)
            for site, i in self.run.acts if site in HOOKS and site != "pattern"
        }  # fmt: skip
        site, layer = names[chosen("hook", sae[1], names)]
        if site in self.run.engine.refused:
            raise CourseError(self.run.engine.refused[site])
        encoder = checked_autoencoder(sae[0])
        width = self.run.acts[site, layer].flatten(2).shape[-1]
        if encoder.cfg.d_in != width:
            raise CourseError(f"The autoencoder reads {encoder.cfg.d_in} numbers, and {sae[1]} has {width}.")
        return site, layer

    def check(self, node: Node, sae=None) -> None:
        """One sentence for a node that this model does not have."""
        self.check_kind(node.kind, sae)
        self.check_layer(node.layer)
        for name, kinds in (("head", HEADS), ("unit", UNITS)):
            number = getattr(node, name)
            if (number is not None) != (node.kind in kinds):
                wants = "needs" if node.kind in kinds else "has no"
                raise CourseError(f"A node of kind {node.kind} {wants} {name}: {node}.")
            if number is not None and not 0 <= number < self.size(node.kind, sae):
                raise CourseError(f"There is no {node}: {name}s are 0…{self.size(node.kind, sae) - 1}.")
        if node.kind == "feature" and node.layer != self.sae_site(sae)[1]:
            raise CourseError(f"{node} is not in layer {self.sae_site(sae)[1]}, where the autoencoder reads.")
        if node.pos is not None:
            checked_pos(node.pos, self.n_pos)

    def at(self, node: Node) -> int | None:
        """The node's position counted from the start; None is every position."""
        return None if node.pos is None else checked_pos(node.pos, self.n_pos)

    # -- sets ------------------------------------------------------------------------------------

    def every(self, kind: str, pos: int | None) -> list[Node]:
        """All nodes of a kind at one position (None: at all at once)."""
        layers = range(self.n_layers)
        if kind in HEADS:
            return [Node(kind, i, head=h, pos=pos) for i in layers for h in range(self.size(kind))]
        if kind in UNITS:
            return [Node(kind, i, unit=u, pos=pos) for i in layers for u in range(self.size(kind))]
        return [Node(kind, i, pos=pos) for i in layers]

    def random(self, n: int, like: list[Node], seed: int) -> list[list[Node]]:
        """n random circuits of the make-up of `like`: as many nodes of each kind at the same positions, elsewhere."""
        if n < 1:
            raise CourseError(f"n={n}: draw one random circuit at least.")
        rng = generator(seed)
        groups: dict[tuple, int] = {}
        for node in like:
            self.check_kind(node.kind)
            groups[node.kind, node.pos] = groups.get((node.kind, node.pos), 0) + 1
        circuits = []
        for _ in range(n):
            drawn = []
            for (kind, pos), count in groups.items():
                every = self.every(kind, pos)
                drawn += [every[i] for i in torch.randperm(len(every), generator=rng)[:count].tolist()]
            circuits.append(drawn)
        return circuits

    def complement(self, nodes: list[Node]) -> list[Node]:
        """Every head's z and every mlp_out that is not among the nodes; by position where the nodes have positions."""
        if other := [node for node in nodes if node.kind not in ("z", "result", "mlp_out")]:
            raise CourseError(f"A complement is made of heads (z) and mlp_out; {other[0]} is neither.")
        by_position = any(node.pos is not None for node in nodes)
        everywhere = range(self.n_pos) if by_position else [None]
        inside = set()
        for node in nodes:
            self.check(node)
            places = everywhere if node.pos is None else [self.at(node)]
            kind = "z" if node.kind == "result" else node.kind
            inside |= {replace(node, kind=kind, pos=pos) for pos in places}
        kinds = ["z", *(["mlp_out"] if self.has("mlp_out") else [])]
        return [
            node for kind in kinds for pos in everywhere for node in self.every(kind, pos) if node not in inside
        ]  # fmt: skip

    # -- edits -----------------------------------------------------------------------------------

    def edit(self, source: Run, kind: str, layer: int, cell, unit=None, pos=None, key=None, sae=None) -> Edit:
        """An edit whose values are the source's."""
        device = self.run.tokens.device
        cell, unit, pos, key = (
            None if x is None else torch.as_tensor(x, device=device) for x in (cell, unit, pos, key)
        )
        site, encoder = SITES[kind], None
        if kind == "feature":
            site, encoder = self.sae_site(sae)[0], sae[0]
        values = source.acts[site, layer]
        if encoder is not None:
            with torch.no_grad():
                values = encoder.encode(values.flatten(2))
        if site == "pattern":
            values = values.transpose(1, 2)
        return Edit(site, layer, cell, values, unit, pos, key, sae=encoder)

    def edits_of(self, nodes: list[Node], source: Run, sae=None) -> list[Edit]:
        """The edits of one cell in which all nodes are patched."""
        groups: dict[tuple, list[Node]] = {}
        for node in nodes:
            self.check(node, sae)
            groups.setdefault((node.kind, node.layer, node.pos is None), []).append(node)
        edits = []
        for (kind, layer, everywhere), members in groups.items():
            part = [node.head if kind in HEADS else node.unit for node in members]
            pos = None if everywhere else [self.at(node) for node in members]
            unit = part if kind in HEADS or kind in UNITS else None
            edits.append(self.edit(source, kind, layer, [0] * len(members), unit, pos, sae=sae))
        return edits

    def receiver(self, node: Node) -> Node:
        """A receiver of paths after the checks of the node it stands for."""
        self.check(replace(node, kind="mlp_out") if node.kind == "mlp_in" else node)
        return node

    def arriving(self, node: Node, values: torch.Tensor) -> Edit:
        """The edit that makes a receiver of paths compute, in each cell, what arrived there: [cell batch pos …]."""
        cell = torch.arange(len(values), device=values.device)
        numbers = (None if x is None else torch.full_like(cell, x) for x in (node.head, self.at(node)))
        site = "mlp_out" if node.kind == "mlp_in" else node.kind
        return Edit(site, node.layer, cell, values, *numbers, per_cell=True)

    # -- grids -----------------------------------------------------------------------------------

    def grid(self, kind: str, positions, layers, units, sae) -> tuple[dict, list]:
        """The axes of a sweep, and for each layer (the arguments of its edit, the number of cells)."""
        self.check_kind(kind, sae)
        layers = list(range(self.n_layers)) if layers is None else numbers("layers=", layers)
        if kind == "feature":
            layers = [self.sae_site(sae)[1]]
        inner = self.inner_axes(kind, positions, units, sae)
        for layer in layers:
            self.check_layer(layer)
        grid = torch.cartesian_prod(*map(torch.tensor, inner.values())) if inner else torch.zeros(1, 0)
        columns = dict(zip(inner, grid.view(len(grid), -1).T))
        unit = columns.get("head", columns.get("unit"))
        pos = columns.get("pos", columns.get("query"))
        cell = torch.arange(len(grid))
        axes = inner if kind == "feature" else {"layer": layers, **inner}
        return axes, [((kind, layer, cell, unit, pos, columns.get("key")), len(cell)) for layer in layers]

    def swept(
        self, kind: str, source: Run, sae, positions="each", layers=None, units=None
    ) -> tuple[dict, list]:
        """The axes of a sweep, and for each layer (its edits, the number of cells)."""
        axes, jobs = self.grid(kind, positions, layers, units, sae)
        return axes, [([self.edit(source, *entries, sae=sae)], n) for entries, n in jobs]

    def inner_axes(self, kind: str, positions, units, sae) -> dict[str, list[int]]:
        """The axes within a layer."""
        axes = {}
        if kind in HEADS:
            axes["head"] = list(range(self.size(kind)))
        if kind in UNITS:
            size = self.size(kind, sae)
            axes["unit"] = list(range(size)) if units is None else numbers("units=", units)
            if outside := [unit for unit in axes["unit"] if not 0 <= unit < size]:
                raise CourseError(f"There is no {kind} {outside[0]}: units are 0…{size - 1}.")
        elif units is not None:
            raise CourseError(f"units= is for neurons and features, not for {kind}.")
        every = list(range(self.n_pos))
        if not isinstance(positions, str):
            return axes | {"pos": [checked_pos(pos, self.n_pos) for pos in numbers("positions=", positions)]}
        chosen("choice of positions", positions, ("each", "all", *(["pairs"] if kind == "pattern" else [])))
        return axes | {"each": {"pos": every}, "all": {}, "pairs": {"query": every, "key": every}}[positions]
