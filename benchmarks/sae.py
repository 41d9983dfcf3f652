"""A training step of an autoencoder, 512 → 4096, against a plain dense PyTorch step and against other libraries.

`run()` is part of `make bench`. `make bench-sae` builds build/peers with sae-lens, dictionary-learning and
eai-sparsify and runs `python -m benchmarks.sae` with the interpreter found there: each library in a process of its
own, a few steps of each in turn (A B C … A B C …), the same planted activations, rate and batch for all, the library's
own training step as it ships.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from functools import partial
from itertools import cycle
from pathlib import Path
from statistics import median

import torch
from safetensors.torch import save_file

from benchmarks import HEAD, line, ratio
from mi_course import sae
from mi_course.corpora.corpus import generator
from mi_course.course.runner import cpu_model
from mi_course.training import Run, TrainConfig

D_IN, D_SAE, BATCH, K, L1 = 512, 4096, 4096, 32, 1.0
# Of 1e-3, 3e-3 and 5e-3 the best for ours and for sparsify after 200 steps (topk).
LR = {"topk": 5e-3, "relu": 3e-3}
TURN = 3  # steps in a turn: training goes on, and a first step finds what the others left in the caches
# Ours once more, begun as a peer begins: length of an encoder row at the start, length gradients are clipped to.
LIKE = {"topk": [("encoder rows as long as sparsify's at the start", 3**-0.5, None)],
        "relu": [("gradients clipped to length 1 as sae_lens does", None, 1.0)]}  # fmt: skip
HERE = Path(__file__).parent
# library, kind, bfloat16 autocast (sae-lens offers it; dictionary-learning under a wrapper of ours), the goal for us
PEERS = [("sparsify", "topk", False, 5.0), ("sae_lens", "topk", False, 5.0), ("sae_lens", "topk", True, None),
         ("dictionary_learning", "topk", False, 5.0), ("sae_lens", "relu", False, 4.0), ("sae_lens", "relu", True, 1.4),
         ("dictionary_learning", "relu", False, 4.0)]  # fmt: skip


def planted(batches: int, seed: int = 5) -> torch.Tensor:
    """Activations of 3072 sparse factors, about 24 at a time, scaled so that E‖x‖² = 512."""
    factors = torch.randn(3072, D_IN, generator=generator(1234567))  # no autoencoder starts from this draw
    rows = []
    for i in range(batches):
        rng = generator(seed, i)
        on = torch.rand(BATCH, 3072, generator=rng) < 24 / 3072
        rows.append((on * torch.rand(BATCH, 3072, generator=rng)) @ factors)
    x = torch.cat(rows)
    return x * (D_IN / x.square().sum(1).mean()).sqrt()


def started(kind: str) -> sae.SparseAutoencoder:
    """What both ours and the plain one begin with."""
    return sae.SparseAutoencoder(
        sae.SaeConfig(D_IN, D_SAE, kind, l1=L1 if kind == "relu" else 0.0, k=K, seed=3)
    )


class Course:
    """Our step as `sae.train` takes it: loss and gradients, projection, fused Adam, unit length, counts."""

    def __init__(
        self, kind: str, half: bool | None = None, length: float | None = None, clip: float | None = None
    ):
        self.sae = started(kind)
        if length is not None:
            self.sae.W_enc.data.mul_(length / self.sae.W_enc.data.norm(dim=0))
        self.clip = clip
        self.upkeep = sae.Upkeep(self.sae, sae.SaeTraining(10**6, batch=BATCH, penalty_warmup=0.0))
        if half is not None:
            self.upkeep.work.half = half
        self.run = Run(self.sae, TrainConfig(1, LR[kind], betas=(0.9, 0.999)), self.upkeep.loss)
        (self.optimizer,) = self.run.optimizers
        self.sae.train()

    def step(self, x: torch.Tensor) -> None:
        loss = self.upkeep.loss(self.sae, x)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if self.clip is not None:
            torch.nn.utils.clip_grad_norm_(self.sae.parameters(), self.clip)
        self.optimizer.step()
        self.upkeep.after(self.run, int(self.sae.step))

    @torch.no_grad()
    def fvu(self, x: torch.Tensor) -> float:
        return sae.fvu(x, self.sae(x))

    @torch.no_grad()
    def l0(self, x: torch.Tensor) -> float:
        return sae.l0(self.sae.encode(x))


class Plain:
    """The same as one would write it: autograd, dense features, Adam as PyTorch gives it."""

    def __init__(self, kind: str, autocast: bool):
        start = started(kind)
        self.W_enc, self.b_enc, self.W_dec, self.b_dec = self.parameters = [
            p.detach().clone().contiguous().requires_grad_()
            for p in (start.W_enc, start.b_enc, start.W_dec, start.b_dec)
        ]
        self.kind, self.autocast = kind, autocast
        self.optimizer = torch.optim.Adam(self.parameters, LR[kind])

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        f = ((x - self.b_dec) @ self.W_enc + self.b_enc).relu()
        if self.kind == "topk":
            top = f.topk(K, dim=-1, sorted=False)
            f = torch.zeros_like(f).scatter(-1, top.indices, top.values)
        return f, f @ self.W_dec + self.b_dec

    def step(self, x: torch.Tensor) -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=self.autocast):
            f, x_hat = self.forward(x)
            loss = (x - x_hat).square().sum(-1).mean() + (L1 * f.sum(-1).mean() if self.kind == "relu" else 0)
        self.optimizer.zero_grad()
        loss.backward()
        self.W_dec.grad = sae.projected(self.W_dec.grad, self.W_dec.detach())
        self.optimizer.step()
        with torch.no_grad():
            self.W_dec /= self.W_dec.norm(dim=1, keepdim=True)

    @torch.no_grad()
    def fvu(self, x: torch.Tensor) -> float:
        return sae.fvu(x, self.forward(x)[1])


def take(one: Course | Plain, batches) -> None:
    """One step on the next batch."""
    one.step(next(batches))


def clock() -> float:
    """Seconds: of the processor for one thread, which other work disturbs least, of the wall for several."""
    return time.process_time() if torch.get_num_threads() == 1 else time.perf_counter()


def peak_share(samples: float, kind: str, half: bool) -> str:
    """The large products a step really takes, as a share of what one such product reaches on this machine."""
    dtype = torch.bfloat16 if half else torch.float32
    a, b = torch.ones(BATCH, D_IN).to(dtype), torch.ones(D_IN, D_SAE).to(dtype)
    out, seconds = torch.empty(BATCH, D_SAE, dtype=dtype), []
    for _ in range(7):
        start = clock()
        torch.mm(a, b, out=out)
        seconds.append(clock() - start)
    peak = 2 * BATCH * D_IN * D_SAE / min(seconds)
    products = 5 if kind == "relu" else 1 + 5 * K / D_SAE  # topk: one dense, five on the support
    return (
        f"{products * 2 * D_IN * D_SAE * samples / peak:.0%} of the {peak / 1e9:.0f} GFLOP/s of one product"
    )


def row(
    name: str, peer: str, ours: float, theirs: float, ratios: list[float], goal, agree: str, more: str
) -> dict:
    ratios = sorted(ratios)
    return {
        "name": name, "peer": peer, "goal": goal, "agree": agree,
        "settings": f"{D_IN} → {D_SAE}, batch {BATCH}, {torch.get_num_threads()} thread(s); ours {more}",
        "ours": f"{BATCH / ours:,.0f}/s", "theirs": f"{BATCH / theirs:,.0f}/s", "ratio": median(ratios),
        "range": (ratios[len(ratios) // 10], ratios[-1 - len(ratios) // 10]),
    }  # fmt: skip


def run(rounds: int = 5) -> list[dict]:
    """Our step against the plain dense one, in float32 against float32 and as each does best."""
    x, held_out, rows = planted(4).split(BATCH), planted(1, seed=6), []
    for kind in ("topk", "relu"):
        for autocast in (False, True):
            half = None if autocast else False
            ours, theirs = Course(kind, half), Plain(kind, autocast)
            pair = [partial(take, one, cycle(x)) for one in (ours, theirs)]
            timing = ratio(*pair, rounds=rounds, calls=1)
            agree = f"FVU {ours.fvu(held_out):.3f} and {theirs.fvu(held_out):.3f} after {rounds + 1} steps"
            half = ours.upkeep.work.half
            more = f"in {'bfloat16' if half else 'float32'}, {peak_share(BATCH / timing['ours'], kind, half)}"
            rows.append(row(f"autoencoder step, {kind}", f"plain dense PyTorch{', bfloat16 autocast' * autocast}",
                            timing["ours"], timing["peer"], [timing["ratio"], *timing["range"]], None, agree, more))  # fmt: skip
            ours.upkeep.end()
    return rows


# -- other libraries, each in a process of its own ------------------------------------------------


class Peer:
    """A library's trainer in its own environment; see sae_peers.py."""

    def __init__(self, python: str, folder: str, library: str, kind: str, autocast: bool):
        self.library, self.kind, self.name = library, kind, library + " under bfloat16 autocast" * autocast
        command = [python, str(HERE / "sae_peers.py"), folder, library, kind, str(int(autocast)), str(LR[kind]),
                   str(torch.get_num_threads())]  # fmt: skip
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.version = self.process.stdout.readline().strip()
        if not self.version:
            raise RuntimeError(f"{library} did not start")

    def ask(self, question: str) -> float:
        """`step n`: seconds for n steps; `fvu`, `l0`: on held-out activations."""
        print(question, file=self.process.stdin, flush=True)
        return float(self.process.stdout.readline().split()[-1])


class Ours:
    """The course answers the same questions."""

    def __init__(self, x: tuple, held_out: torch.Tensor, course: Course, what: str = ""):
        self.course, self.n, self.x, self.held_out = course, 0, x, held_out
        self.name = f"ours {'bfloat16' if course.upkeep.work.half else 'float32'}" + f", {what}" * bool(what)

    def ask(self, question: str) -> float:
        if question in ("fvu", "l0"):
            return getattr(self.course, question)(self.held_out)
        start = clock()
        for _ in range(int(question.split()[1])):
            self.course.step(self.x[self.n % len(self.x)])
            self.n += 1
        return clock() - start


def against_peers(python: str, rounds: int = 9, steps: int = 200) -> tuple[list[dict], list[str]]:
    """All libraries and both of our precisions, timed in turn; then each goes on to `steps` steps on fresh inputs."""
    x, held_out = planted(steps).split(BATCH), planted(2, seed=6)
    rows, quality = [], []
    with tempfile.TemporaryDirectory() as folder:
        save_file({"x": torch.stack(x), "held_out": held_out}, Path(folder) / "data.safetensors")
        for kind in ("topk", "relu"):
            ours = [Ours(x, held_out, Course(kind, half)) for half in (None, False)]
            peers, goals = [], []
            for library, its_kind, autocast, goal in PEERS:
                if its_kind == kind:
                    try:
                        peers.append(Peer(python, folder, library, kind, autocast))
                        goals.append(goal)
                    except RuntimeError as error:
                        print(f"not measured: {error}", file=sys.stderr)
            everyone = [*ours, *peers]
            seconds = [[one.ask(f"step {TURN}") / TURN for one in everyone] for _ in range(rounds + 1)]
            seconds = seconds[1:]  # the first round warms all up
            for one in everyone:
                one.ask(f"step {steps - TURN * (rounds + 1)}")
            alike = [Ours(x, held_out, Course(kind, None, *start), what) for what, *start in LIKE[kind]]
            for one in alike:
                one.ask(f"step {steps}")
            results = [(one.ask("fvu"), one.ask("l0")) for one in (*everyone, *alike)]
            quality += [f"| {kind} | {one.name} | {fvu:.4f} | {l0:.1f} |"
                        for one, (fvu, l0) in zip((*everyone, *alike), results, strict=True)]  # fmt: skip
            for i, mine in enumerate(ours):
                for j, (peer, goal) in enumerate(zip(peers, goals, strict=True), len(ours)):
                    own, theirs = [median(r[c] for r in seconds) for c in (i, j)]
                    half = mine.course.upkeep.work.half
                    rows.append(row(f"autoencoder step, {kind}", f"{peer.name} {peer.version}", own, theirs,
                                    [r[j] / r[i] for r in seconds], goal if half else None,
                                    f"FVU {results[i][0]:.3f} and {results[j][0]:.3f} after {steps} steps",
                                    f"{mine.name[5:]}, {peak_share(BATCH / own, kind, half)}"))  # fmt: skip
            for peer in peers:
                peer.process.stdin.close()
                peer.process.wait()
    return rows, quality


def main(python: str, rounds: str = "9", steps: str = "200") -> None:
    """Print the tables and keep them in benchmarks/SAE.md."""
    rows, quality = against_peers(python, int(rounds), int(steps))
    lines = [
        "# Autoencoder training steps against other libraries", "",
        f"Samples a second of whole training steps, each library in its own process and as it ships, {TURN} steps of each in turn; "
        f"{rounds} rounds, the median ratio with its 10–90% range; rate {LR['topk']} (topk) and {LR['relu']} (relu), λ {L1}, k {K}; "
        f"glibc's allocator as it is. {'One thread each, processor seconds, which other work on the machine disturbs least' if torch.get_num_threads() == 1 else f'{torch.get_num_threads()} threads, wall seconds'}.",
        "", f"{cpu_model()}, torch {torch.__version__}.",
        "", *HEAD, *map(line, rows),
        "", "## What each has learned from the same inputs", "",
        f"After the same {int(steps)} steps ({int(steps) * BATCH:,} fresh inputs), on {2 * BATCH:,} held out. Starts are each library's own but where a row says otherwise.",
        "", "| kind | autoencoder | FVU | L0 |", "|---|---|---|---|", *quality,
    ]  # fmt: skip
    text = "\n".join(lines) + "\n"
    (HERE / "SAE.md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main(*sys.argv[1:])
