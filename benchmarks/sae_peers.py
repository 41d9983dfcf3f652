"""One library's training step, driven from benchmarks/sae.py over standard input; runs in build/peers, without mi_course."""

from __future__ import annotations

import sys
import time
import warnings
from importlib.metadata import version
from pathlib import Path

import torch
from safetensors.torch import load_file

D_IN, D_SAE, BATCH, K, L1 = 512, 4096, 4096, 32, 1.0
PACKAGES = {"sparsify": "eai-sparsify", "sae_lens": "sae-lens", "dictionary_learning": "dictionary-learning"}


def sparsify(kind: str, autocast: bool, lr: float):
    """sparsify's SparseCoder, with the calls its Trainer makes in a step and Adam, one of its optimisers."""
    from sparsify import SparseCoder, SparseCoderConfig

    coder = SparseCoder(D_IN, SparseCoderConfig(num_latents=D_SAE, k=K))
    optimizer = torch.optim.Adam(coder.parameters(), lr)

    def step(x):
        coder.set_decoder_norm_to_unit_norm()
        out = coder(x)
        (out.fvu + out.auxk_loss / 32).backward()
        coder.remove_gradient_parallel_to_decoder_directions()
        optimizer.step()
        optimizer.zero_grad()

    return step, lambda x: coder(x).sae_out, lambda x: coder.encode(x).top_acts


def sae_lens(kind: str, autocast: bool, lr: float):
    """sae-lens' SAETrainer, one call of its own step."""
    import sae_lens as lens
    from sae_lens.config import SAETrainerConfig
    from sae_lens.training.sae_trainer import SAETrainer

    shape = {"d_in": D_IN, "d_sae": D_SAE, "device": "cpu", "dtype": "float32"}
    if kind == "topk":
        one = lens.TopKTrainingSAE(lens.TopKTrainingSAEConfig(k=K, **shape))
    else:
        one = lens.StandardTrainingSAE(lens.StandardTrainingSAEConfig(l1_coefficient=L1, **shape))
    config = SAETrainerConfig(10**9, BATCH, lr=lr, lr_end=lr, autocast=autocast)
    trainer = SAETrainer(config, one, iter(()))
    return lambda x: trainer._train_step(one, x), one.forward, one.encode


def dictionary_learning(kind: str, autocast: bool, lr: float):
    """dictionary-learning's trainers, one call of `update`."""
    from dictionary_learning.trainers.standard import StandardTrainer
    from dictionary_learning.trainers.top_k import TopKTrainer

    common = {"steps": 10**6, "activation_dim": D_IN, "dict_size": D_SAE, "lr": lr, "layer": 0, "lm_name": "none",
              "warmup_steps": 1, "device": "cpu", "seed": 0}  # fmt: skip
    if kind == "topk":
        trainer = TopKTrainer(k=K, **common)
    else:
        trainer = StandardTrainer(l1_penalty=L1, sparsity_warmup_steps=None, **common)
    count = iter(range(10**9))
    return lambda x: trainer.update(next(count), x), trainer.ae, trainer.ae.encode


def main(folder: str, library: str, kind: str, autocast: str, lr: str, threads: str) -> None:
    answers, sys.stdout = sys.stdout, sys.stderr  # what a library prints is no answer
    torch.set_num_threads(int(threads))
    torch.manual_seed(3)
    clock = time.process_time if int(threads) == 1 else time.perf_counter
    data = load_file(Path(folder) / "data.safetensors")
    batches, held_out, n = data["x"], data["held_out"], 0
    step, forward, encode = globals()[library](kind, autocast == "1", float(lr))
    print(version(PACKAGES[library]), file=answers, flush=True)
    for question in sys.stdin:
        if question.startswith("fvu"):
            with torch.no_grad():
                left = (held_out - forward(held_out)).square().sum()
            print(float(left / (held_out - held_out.mean(0)).square().sum()), file=answers, flush=True)
            continue
        if question.startswith("l0"):
            with torch.no_grad():
                print(float((encode(held_out) > 0).sum(1).float().mean()), file=answers, flush=True)
            continue
        start = clock()
        for _ in range(int(question.split()[1])):
            step(batches[n % len(batches)].clone())
            n += 1
        print(clock() - start, file=answers, flush=True)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main(*sys.argv[1:])
