"""What a process of several holds, moves and computes in a step of a TopK autoencoder: `README.md`, several processes.

    export OMP_NUM_THREADS=1 MALLOC_MMAP_THRESHOLD_=1048576  # what is freed goes back, whatever its size
    torchrun --nproc-per-node 2 -m benchmarks.shards shards --d-sae 16384
    torchrun --nproc-per-node 2 -m benchmarks.shards copies --d-sae 16384

Memory is what the process grew by since before it had a dictionary, at most, between steps. Bytes are counted in calls
of torch.distributed: of n bytes, a process of N sends 2 n (N − 1) / N in a sum over all (as a ring does), and n (N − 1)
where each tells its own to all. Seconds are the processor's, so that a busy machine does not count.
"""

import argparse
import json
import os
import time

import torch
import torch.distributed as dist

from mi_course import processes, sae
from mi_course.corpora.corpus import generator
from mi_course.training import Callback

STEPS = 12


def resident() -> int:
    """Bytes of this process in memory."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


class Watched(Callback):
    """Memory, traffic and seconds of the processor after each step."""

    def __init__(self):
        self.moved, self.at_start, self.most, self.rows = 0, resident(), 0, []

    def after(self, run, step):
        self.most = max(self.most, resident() - self.at_start)
        kept = [t for opt in run.optimizers for slots in opt.state.values() for t in slots.values()]
        params = list(run.model.parameters())
        self.held = sum(t.nbytes for t in (*params, *(p.grad for p in params), *kept))
        self.rows.append((self.moved, time.process_time()))

    def count(self, call, share):
        """The collective `call`, whose bytes count `share` times."""

        def counted(*given, **named):
            tensor = given[-1] if isinstance(given[0], list) else given[0]
            self.moved += share * tensor.nbytes
            return call(*given, **named)

        return counted


def main() -> None:
    ask = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    ask.add_argument("what", choices=["shards", "copies"])
    for name, value in (("d-in", 512), ("d-sae", 4096), ("k", 32), ("batch", 512)):
        ask.add_argument(f"--{name}", type=int, default=value)
    asked = ask.parse_args()
    torch.set_num_threads(1)
    processes.join()
    sample = lambda step: torch.randn(asked.batch, asked.d_in, generator=generator(0, step))
    sample(0), torch.optim.AdamW([torch.nn.Parameter(torch.ones(1))])  # imports what it needs
    watched, n = Watched(), processes.world()
    dist.all_reduce = watched.count(dist.all_reduce, 2 * (n - 1) / n)
    dist.all_gather = watched.count(dist.all_gather, n - 1)
    kind = sae.Shard if asked.what == "shards" else sae.SparseAutoencoder
    one = kind(sae.SaeConfig(asked.d_in, asked.d_sae, "topk", k=asked.k)).start_from(sample(99))
    sae.train(one, sample, sae.SaeTraining(STEPS, batch=asked.batch), callbacks=[watched])
    (moved, began), (end, ended) = watched.rows[1], watched.rows[-1]  # the first steps fill buffers
    if processes.rank() == 0:
        print(json.dumps(vars(asked) | {
            "processes": n, "held_MB": round(watched.held / 1e6, 1), "grown_MB": round(watched.most / 1e6, 1),
            "moved_MB": round((end - moved) / (STEPS - 2) / 1e6, 2),
            "cpu_ms": round(1e3 * (ended - began) / (STEPS - 2), 1),
        }))  # fmt: skip
    processes.leave()


if __name__ == "__main__":
    main()
