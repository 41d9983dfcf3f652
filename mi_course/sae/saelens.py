"""In and out of SAELens' folders."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors
from safetensors.torch import save as save_safetensors
from torch import Tensor

from mi_course.errors import CourseError, nearest
from mi_course.files import write_atomically
from mi_course.sae.dictionary import Dictionary, SaeConfig, SparseAutoencoder

# -- the folder format of SAELens ----------------------------------------------------------------

SAELENS = "6.54.12"  # the release whose loader was read
ARCHITECTURES = {
    "relu": "standard", "relu_norm": "standard", "topk": "topk", "batchtopk": "jumprelu", "jumprelu": "jumprelu",
    "gated": "gated", "nested": "topk",
}  # fmt: skip
READ = {
    "gated": ("b_gate", "r_mag", "b_mag"),
    "jumprelu": ("b_enc", "threshold"),
}  # beside W_enc, W_dec, b_dec
WRITTEN = {
    **dict.fromkeys(("relu", "relu_norm", "topk", "nested"), lambda sae: {"b_enc": sae.b_enc}),
    "batchtopk": lambda sae: {"b_enc": sae.b_enc, "threshold": sae.threshold.expand_as(sae.b_enc)},
    "jumprelu": lambda sae: {"b_enc": sae.b_enc, "threshold": sae.log_threshold.exp()},
    "gated": lambda sae: {"b_gate": sae.b_enc, "r_mag": sae.r_mag, "b_mag": sae.b_mag},
}


def to_saelens(sae: Dictionary, folder: str | Path, **metadata) -> Path:
    """Write cfg.json and sae_weights.safetensors, which `SAE.load_from_disk` of SAELens reads.

    There is no `scale` there. (x·s − b) W = (x − b/s) (s W), so it goes into the weights and raw activations go in. As
    in SAELens itself, batchtopk becomes jumprelu with its one threshold, and the decoder norms of relu_norm stay; nested is
    topk once it is trained.

    Args:
        sae: what is written.
        folder: where.
        metadata: for cfg.json, by name: `hook_name`, `model_name`, …
    """
    if not isinstance(sae, SparseAutoencoder):
        raise CourseError(f"{sae!r} is no autoencoder: keep it with its own save() and load().")
    cfg, s = sae.cfg, sae.scale
    tensors = {
        "W_enc": sae.W_enc * s,
        "W_dec": sae.W_dec / s,
        "b_dec": sae.b_dec / s,
        **WRITTEN[cfg.kind](sae),
    }
    card = {
        "architecture": ARCHITECTURES[cfg.kind], "d_in": cfg.d_in, "d_sae": cfg.d_sae, "dtype": "float32", "device": "cpu",
        "apply_b_dec_to_input": True, "normalize_activations": "none", "reshape_activations": "none",
        "metadata": {"sae_lens_version": SAELENS, "sae_lens_training_version": None, **metadata},
    }  # fmt: skip
    if ARCHITECTURES[cfg.kind] == "topk":
        card |= {"k": cfg.k, "rescale_acts_by_decoder_norm": False}
    folder = Path(folder)
    blob = save_safetensors(
        {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
    )
    text = json.dumps(card, indent=1) + "\n"
    write_atomically({folder / "cfg.json": text.encode(), folder / "sae_weights.safetensors": blob})
    return folder


def from_saelens(folder: str | Path) -> SparseAutoencoder:
    """Read a folder of SAELens (6, or the older flat cfg.json): standard, topk, jumprelu, gated."""
    folder = Path(folder)
    card, tensors = read_saelens(folder)
    kind = {"standard": "relu"}.get(card["architecture"], card["architecture"])
    if missing := sorted({"W_enc", "W_dec", "b_dec", *READ.get(kind, ("b_enc",))} - tensors.keys()):
        raise CourseError(
            f"{folder} lacks {', '.join(missing)}: it is not a {card['architecture']} autoencoder."
        )
    sae = SparseAutoencoder(SaeConfig(card["d_in"], card["d_sae"], kind, k=int(card.get("k", 0))))
    try:
        sae.load_state_dict(our_weights(card, tensors))
    except RuntimeError as error:
        raise CourseError(
            f"cfg.json and weights of {folder} disagree: {str(error).splitlines()[-1].strip()}"
        ) from error
    sae.card = {"saelens": card}
    return sae.eval()


def our_weights(card: dict, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """SAELens' tensors under our names and with our conventions; RuntimeError where shapes do not fit."""
    W_enc, W_dec, b_dec = tensors["W_enc"], tensors["W_dec"], tensors["b_dec"]
    state = {"W_dec": W_dec, "_W_enc_rows": W_enc.T, "b_dec": b_dec, "scale": torch.tensor(1.0)}
    if gated := card["architecture"] == "gated":
        state |= {"b_enc": tensors["b_gate"], "r_mag": tensors["r_mag"], "b_mag": tensors["b_mag"]}
    else:
        state["b_enc"] = tensors["b_enc"]
    if card["architecture"] == "jumprelu":
        state["log_threshold"] = tensors["threshold"].clamp_min(1e-30).log()  # ReLU comes before: ≤ 0 is 0
    if not card.get(
        "apply_b_dec_to_input", True
    ):  # ours subtracts b_dec first: add back what that takes away
        shift = b_dec @ W_enc
        state["b_enc"] = state["b_enc"] + shift
        if gated:
            state["b_mag"] = state["b_mag"] + shift * state["r_mag"].exp()
    if card.get("rescale_acts_by_decoder_norm"):  # topk of f‖d‖: the norm moves into the encoder
        norm = W_dec.norm(dim=1, keepdim=True)
        state |= {"W_dec": W_dec / norm, "_W_enc_rows": W_enc.T * norm, "b_enc": state["b_enc"] * norm[:, 0]}
    return state


def read_saelens(folder: Path) -> tuple[dict, dict[str, Tensor]]:
    """From `folder`: cfg.json in the shape of SAELens 6, and the tensors as 32-bit floats; one sentence for anything else."""
    for name in ("cfg.json", "sae_weights.safetensors"):
        if not (folder / name).is_file():
            raise CourseError(f"{folder} is not an autoencoder folder of SAELens: it has no {name}.")
    try:
        card = json.loads((folder / "cfg.json").read_text(encoding="utf-8"))
        tensors = load_safetensors((folder / "sae_weights.safetensors").read_bytes())
    except (ValueError, SafetensorError) as error:
        raise CourseError(f"{folder} cannot be read, truncated or of another format: {error}.") from error
    if not isinstance(card, dict) or not all(isinstance(card.get(key), int) for key in ("d_in", "d_sae")):
        raise CourseError(f"cfg.json of {folder} is not one of SAELens: it has no d_in and d_sae.")
    card.setdefault("architecture", "standard")  # before release 6
    old = card.get("activation_fn_str", card.get("activation_fn", "relu"))
    if old == "topk":
        card |= {"architecture": "topk", "k": card.get("activation_fn_kwargs", {}).get("k", card.get("k", 0))}
    known = sorted(set(ARCHITECTURES.values()))
    if card["architecture"] not in known or old not in ("relu", "topk"):
        what = card["architecture"] if card["architecture"] not in known else f"an activation {old}"
        raise CourseError(f"{folder} is of a kind this course has not: {what}.{nearest(what, known)}")
    if card.get("normalize_activations") not in (None, False, "none"):
        raise CourseError(
            f"{folder} expects activations normalised by {card['normalize_activations']!r}; fold that into its weights first."
        )
    if not bool(tensors.get("scaling_factor", torch.ones(1)).eq(1).all()):
        raise CourseError(f"{folder} carries a finetuned scaling_factor, which this course has not.")
    return card, {name: tensor.float() for name, tensor in tensors.items()}
