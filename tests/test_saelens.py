"""Folders of SAELens in and out: offline against stored ones, and with the library itself after `make test-saelens`."""

import json
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from mi_course import sae
from mi_course.errors import CourseError

ROOT = Path(__file__).parents[1]
STORED = Path(__file__).parent / "saelens"  # written by `python tests/test_saelens.py`
THEIRS = ROOT / "build" / "peers" / "bin" / "python"  # its own environment: it wants transformer-lens < 4
READY = ROOT / "build" / "peers" / ".ready"
KINDS = ("relu", "relu_norm", "topk", "batchtopk", "jumprelu", "gated")


def made(kind: str) -> sae.SparseAutoencoder:
    """An autoencoder with random weights, a scale, biases, thresholds."""
    one = sae.SparseAutoencoder(sae.SaeConfig(8, 24, kind, k=5 if "topk" in kind else 0, seed=3))
    rng = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for p in one.parameters():
            p.add_(0.3 * torch.randn(p.shape, generator=rng))
        one.scale.fill_(1.7)
        if kind == "batchtopk":
            one.threshold.fill_(0.4)
    return one.eval()


def inputs() -> torch.Tensor:
    return torch.randn(40, 8, generator=torch.Generator().manual_seed(7))


def close(ours, theirs):
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


def reference(folder: Path, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """What SAELens 6 computes, in ten lines."""
    card, w = json.loads((folder / "cfg.json").read_text()), load_file(folder / "sae_weights.safetensors")
    centred = x - w["b_dec"] * card["apply_b_dec_to_input"]
    pre = centred @ w["W_enc"] + w.get("b_enc", w.get("b_gate"))
    f = pre.relu()
    if card["architecture"] == "topk":
        top = pre.topk(card["k"], dim=-1)
        f = torch.zeros_like(pre).scatter(-1, top.indices, top.values.relu())
    if card["architecture"] == "jumprelu":
        f = f * (pre > w["threshold"])
    if card["architecture"] == "gated":
        f = (pre > 0) * (centred @ (w["W_enc"] * w["r_mag"].exp()) + w["b_mag"]).relu()
    return f, f @ w["W_dec"] + w["b_dec"]


# --- offline ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_round_trip(kind, tmp_path):
    one, x = made(kind), inputs()
    again = sae.from_saelens(sae.to_saelens(one, tmp_path / "out", hook_name="blocks.0.mlp.hook_post"))
    f, x_hat = reference(tmp_path / "out", x)
    for encoder in (one, again):
        close(encoder.encode(x), f)
        close(encoder(x), x_hat)
    assert 0 < sae.l0(f) < 24 and again.card["saelens"]["metadata"]["hook_name"] == "blocks.0.mlp.hook_post"


def test_a_tied_encoder_goes_out_as_a_matrix(tmp_path):
    one = sae.SparseAutoencoder(sae.SaeConfig(8, 24, tied=True))
    close(sae.from_saelens(sae.to_saelens(one, tmp_path)).encode(inputs()), one.encode(inputs()))


@pytest.mark.parametrize("kind", KINDS)
def test_stored_folders_read_as_the_library_reads_them(kind):
    expected = load_file(STORED / "expected.safetensors")
    one = sae.from_saelens(STORED / kind)
    close(one.encode(expected["x"]), expected[f"{kind}.f"])
    close(one(expected["x"]), expected[f"{kind}.x_hat"])


@pytest.mark.parametrize("kind", ["relu", "gated"])
def test_input_bias_left_out(kind, tmp_path):
    folder = sae.to_saelens(made(kind), tmp_path)
    change(folder, apply_b_dec_to_input=False)
    f, x_hat = reference(folder, inputs())
    close(sae.from_saelens(folder).encode(inputs()), f)
    close(sae.from_saelens(folder)(inputs()), x_hat)


def test_topk_that_counts_decoder_norms(tmp_path):
    folder, x = sae.to_saelens(made("topk"), tmp_path), inputs()
    change(folder, rescale_acts_by_decoder_norm=True)
    w = load_file(folder / "sae_weights.safetensors")
    norm = w["W_dec"].norm(dim=1)
    f = sae.keep_top((((x - w["b_dec"]) @ w["W_enc"] + w["b_enc"]) * norm).relu(), 5)
    close(sae.from_saelens(folder).encode(x), f)
    close(sae.from_saelens(folder)(x), (f / norm) @ w["W_dec"] + w["b_dec"])


def test_cards_from_before_release_6(tmp_path):
    folder = sae.to_saelens(made("topk"), tmp_path)
    card = {
        "d_in": 8,
        "d_sae": 24,
        "activation_fn_str": "topk",
        "activation_fn_kwargs": {"k": 5},
        "dtype": "torch.float32",
    }
    (folder / "cfg.json").write_text(json.dumps(card))
    close(sae.from_saelens(folder).encode(inputs()), made("topk").encode(inputs()))


def change(folder: Path, **entries) -> None:
    card = json.loads((folder / "cfg.json").read_text()) | entries
    (folder / "cfg.json").write_text(json.dumps(card))


@pytest.mark.parametrize(
    ("entries", "words"),
    [
        ({"architecture": "temporal"}, "kind this course has not"),
        ({"activation_fn": "tanh-relu"}, "tanh-relu"),
        ({"normalize_activations": "layer_norm"}, "layer_norm"),
        ({"architecture": "jumprelu"}, "lacks threshold"),
        ({"d_sae": 23}, "disagree"),
        ({"d_in": "eight"}, "no d_in"),
    ],
)
def test_foreign_folders_get_a_sentence(entries, words, tmp_path):
    folder = sae.to_saelens(made("relu"), tmp_path)
    change(folder, **entries)
    with pytest.raises(CourseError, match=words):
        sae.from_saelens(folder)


def test_truncated_and_missing_files(tmp_path):
    folder = sae.to_saelens(made("relu"), tmp_path / "one")
    weights = folder / "sae_weights.safetensors"
    blob = weights.read_bytes()
    weights.write_bytes(blob[:300])
    with pytest.raises(CourseError, match="truncated"):
        sae.from_saelens(folder)
    save_file({"scaling_factor": torch.full((24,), 2.0)}, weights)
    with pytest.raises(CourseError, match="scaling_factor"):
        sae.from_saelens(folder)
    weights.unlink()
    with pytest.raises(CourseError, match="no sae_weights.safetensors"):
        sae.from_saelens(folder)
    (folder / "cfg.json").write_text("{")
    weights.write_bytes(blob)
    with pytest.raises(CourseError, match="cannot be read"):
        sae.from_saelens(folder)


# --- with the library ------------------------------------------------------------------------------

READ = """
import sys
from pathlib import Path
import torch
from sae_lens import SAE
from safetensors.torch import load_file, save_file
x, found = load_file(sys.argv[1])["x"], {}
for folder in map(Path, sys.argv[3:]):
    sae = SAE.load_from_disk(folder)
    f = sae.encode(x)
    found |= {f"{folder.name}.f": f.detach(), f"{folder.name}.x_hat": sae.decode(f).detach()}
    sae.save_model(folder.parent / "theirs" / folder.name)
save_file({name: value.contiguous() for name, value in found.items()}, sys.argv[2])
"""


def read_by_saelens(folder: Path, x: torch.Tensor) -> dict[str, torch.Tensor]:
    """Features and reconstructions of every kind in the folder, by the library; it also saves each again."""
    save_file({"x": x}, folder / "x.safetensors")
    files = [folder / "x.safetensors", folder / "found.safetensors", *(folder / kind for kind in KINDS)]
    ran = subprocess.run([THEIRS, "-c", READ, *map(str, files)], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr[-2000:]
    return load_file(folder / "found.safetensors")


@pytest.mark.skipif(not READY.exists(), reason="SAELens is not installed here: make test-saelens")
def test_saelens_reads_ours_and_we_read_theirs(tmp_path):
    x = inputs()
    for kind in KINDS:
        sae.to_saelens(made(kind), tmp_path / kind)
    found = read_by_saelens(tmp_path, x)
    for kind in KINDS:
        for one in (made(kind), sae.from_saelens(tmp_path / "theirs" / kind)):
            close(one.encode(x), found[f"{kind}.f"])
            close(one(x), found[f"{kind}.x_hat"])


def store() -> None:
    """Write the stored folders; what is expected comes from the library."""
    for kind in KINDS:
        sae.to_saelens(made(kind), STORED / kind)
    with tempfile.TemporaryDirectory() as beside:
        shutil.copytree(STORED, beside, dirs_exist_ok=True)
        found = read_by_saelens(Path(beside), inputs())
    save_file(found | {"x": inputs()}, STORED / "expected.safetensors")


if __name__ == "__main__":
    store()
