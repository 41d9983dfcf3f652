"""A dictionary in shards: each of N processes holds s/N of the s features, for dictionaries that fit into no process.

    z_r = x_c W_enc,r + b_enc,r            process r reads with its own features
    f_r = those of z_r that are active     of TopK: those among the k largest of all processes
    x̂   = Σ_r f_r W_dec,r + b_dec          partial reconstructions, summed

The loss is the same in every process, so a process has the whole gradient of what is its own. Only b_dec belongs to
all, and what reaches it through the encoder, −Σ_r W_enc,r ∂b_enc,r, is one more sum. With B inputs of width d, a step
therefore moves B d numbers in a sum (twice where an auxiliary or a further term is added), and for TopK k candidates
of each process and input; nothing of size d s ever travels. Weights, gradients and Adam's moments are cut N ways.

Plain collectives do it (`processes.Shards` says why not DTensor): on CPUs over gloo, on GPUs over NCCL, which no one
has tried yet. A step by hand (`sae.step`) and autograd both work, for every kind; BatchTopK chooses over the whole
batch, as one process does. Run under `torchrun`; in one process this is an ordinary autoencoder.

>>> from mi_course import processes, sae
>>> processes.join()
>>> part = sae.Shard(sae.SaeConfig(d_in=8, d_sae=32, kind="topk", k=4))
>>> part
Shard 0 of 1 of SparseAutoencoder(topk, 8 → 32 features, k = 4)
>>> list(part.W_dec.shape)
[32, 8]
"""

from __future__ import annotations

from collections import deque
from dataclasses import asdict
from pathlib import Path

import torch
from jaxtyping import Float
from safetensors import safe_open
from torch import Tensor

from mi_course import files, processes
from mi_course.corpora.corpus import generator
from mi_course.sae.dictionary import SaeConfig, SparseAutoencoder

ROWS = 1024  # are drawn at a time; a multiple of 16, in which torch draws normal numbers


class Shard(SparseAutoencoder):
    """This process's features of an autoencoder: the r-th s/N of them, r being the number of the process.

    It begins, trains, resumes and saves as an unsharded one does, in the same numbers up to the order of sums. `encode`
    gives this process's features [… s/N]; `decode` and the call itself give x̂, the same in all processes. All processes
    must call these, and `save` and `load`, together. Its file is whole, and `SparseAutoencoder.load` reads it.

    Args:
        cfg: of the whole dictionary, a `SaeConfig`; N must divide its d_sae. k may exceed a shard's size.
    """

    parts = processes.SHARDS

    def __init__(self, cfg: SaeConfig):
        processes.equal_parts(cfg.d_sae, processes.world())
        super().__init__(cfg)

    def _drawn(self) -> Float[Tensor, "part d_in"]:
        """This process's rows of the whole draw, which is never in memory as a whole."""
        cfg, rng = self.cfg, generator(self.cfg.seed)
        part = processes.equal_parts(cfg.d_sae, processes.world())
        first, kept, start = processes.rank() * part, [], 0
        while start < cfg.d_sae:
            left = cfg.d_sae - start
            n = ROWS if left >= 2 * ROWS else left  # the last come together: a short draw is another
            rows = torch.randn(n, cfg.d_in, generator=rng)
            kept.append(rows[max(0, first - start) : max(0, first + part - start)].clone())
            start += n
        return torch.cat(kept)

    def __repr__(self) -> str:
        """One line: which part of what."""
        return f"Shard {processes.rank()} of {processes.world()} of {super().__repr__()}"

    @property
    def cut(self) -> set[str]:
        """The parameters and buffers of which this process has a part: all but b_dec and single numbers."""
        return {name for name, value in self.state_dict().items() if value.ndim and name != "b_dec"}

    def save(self, path: str | Path, *, half: bool = False, **card) -> Path:
        """Write the whole dictionary to `path`.safetensors, and its card; `half` stores 16-bit floats.

        All processes call it: the first writes, as the others send, a piece at a time.
        """
        pieces = processes.whole_file(self._result(half), self.cut)
        if processes.rank() == 0:
            path = files.save_in_pieces(path, pieces, sae=asdict(self.cfg), **card)
        deque(pieces, maxlen=0)  # the others send theirs
        processes.wait()  # none goes on before the file is there
        return files.with_suffix(path, ".safetensors")

    @classmethod
    def _read(cls, path: Path) -> tuple[dict[str, Tensor], dict]:
        """This process's part of the tensors of a saved one, and its card."""
        weights, card = files.read_card(path, verify=True)
        with safe_open(weights, framework="pt") as file:
            names = list(file.keys())
            whole = lambda name: name == "b_dec" or not file.get_slice(name).get_shape()
            return {
                n: file.get_tensor(n) if whole(n) else processes.part_of(file, n, weights) for n in names
            }, card
