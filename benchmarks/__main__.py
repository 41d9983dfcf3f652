"""`make bench`: every benchmark, printed as a table and stored in benchmarks/RESULTS.md, a section each.

`make bench ONLY=autoencoders` measures one section again and leaves the others as they are, with the machine that
measured them.
"""

from __future__ import annotations

import platform
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path
from statistics import median

import torch
from rich.console import Console
from rich.table import Table

from benchmarks import (
    HEAD,
    activations,
    erasure,
    explanations,
    grokking,
    lenses,
    line,
    patching,
    real_models,
    sae,
    shown,
    small_transformers,
    steering,
    sweeps,
    toy_models,
    vision,
    zero_layer,
)
from mi_course.course.runner import cpu_model

HERE = Path(__file__).parent
RESULTS = HERE / "RESULTS.md"
PARTS = {"transformers": small_transformers.run, "zero layers": zero_layer.run, "toy models": toy_models.run,
         "autoencoders": sae.run, "activations": activations.run, "patching": patching.run, "explanations": explanations.run,
         "erasure": erasure.run, "grokking": grokking.run, "lenses": lenses.run, "real models": real_models.run,
         "steering": steering.run, "sweeps": sweeps.run, "vision": vision.run}  # fmt: skip
HEADER = """# Measured

Each pair ran in one process, rounds interleaved (A B A B …); the ratio is the median over rounds, with its 10–90% range.
Absolute times are those of one machine and mean little; ratios above 1 favour the course. Against other libraries'
autoencoders: [SAE.md](SAE.md). What each notebook takes stands in the README.
"""


def import_seconds(statement: str, rounds: int = 7) -> float:
    """Median wall time of a statement in a fresh interpreter, less that of an empty one."""

    def once(code: str) -> float:
        start = time.perf_counter()
        subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)
        return time.perf_counter() - start

    return median(once(statement) - once("pass") for _ in range(rounds))


def machine() -> str:
    return (
        f"{cpu_model()}, {torch.get_num_threads()} thread(s), Python {platform.python_version()}, "
        f"torch {version('torch')}, transformer-lens {version('transformer-lens')}"
    )


def stored() -> dict[str, str]:
    """Title → section of the file as it is."""
    text = RESULTS.read_text(encoding="utf-8") if RESULTS.exists() else ""
    return {part.split("\n", 1)[0]: part.split("\n", 1)[1].strip() for part in text.split("\n## ")[1:]}


def main(*chosen: str) -> None:
    if unknown := set(chosen) - set(PARTS):
        sys.exit(f"There is no benchmark {min(unknown)!r}: choose from {', '.join(PARTS)}.")
    table = Table("what", "peer", "ours", "theirs", "ratio (10–90%)", "goal", "same result?")
    sections = stored()
    for name in chosen or PARTS:
        rows = PARTS[name]()
        lines = [machine(), "", *HEAD]
        for row in rows:
            ratio, goal = shown(row)
            table.add_row(row["name"], row["peer"], row["ours"], row["theirs"], ratio, goal, row["agree"])
            lines.append(line(row))
        sections[name] = "\n".join(lines)
    if not chosen:
        seconds = import_seconds("import mi_course")
        helps = import_seconds("from mi_course.__main__ import main; main(['--help'])")
        sections["import"] = (
            f"{machine()}\n\n`import mi_course`: {seconds:.3f} s (goal ≤ 0.2 s). "
            f"`python -m mi_course --help`: {helps:.2f} s more than an empty interpreter (goal ≤ 0.5 s)."
        )
    Console(width=160).print(table)
    text = HEADER + "".join(f"\n## {name}\n\n{sections[name]}\n" for name in (*PARTS, "import")
                            if name in sections)  # fmt: skip
    RESULTS.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
