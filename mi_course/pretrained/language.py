"""Real language models as a `TransformerBridge`: carried ones by name, any Hugging Face folder by path.

On a CPU everything is computed in float32 unless `dtype=` says otherwise, whatever the weights are stored in; logits
are those of `transformers` to rounding, with its eager attention closest (docs/models.md has the numbers). Weights stay as trained: no norm is folded and nothing is centred until
`enable_compatibility_mode()` is called.
"""

from __future__ import annotations

import contextlib
import json
import traceback
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from jaxtyping import Int
from torch import Tensor

from mi_course.errors import CourseError, first_line, nearest
from mi_course.pretrained import devices, registry

WEIGHTS = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model", "tekken.json")
BESIDE = (
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "merges.txt",
    "chat_template.jinja",
    "generation_config.json",
)
LFS = b"version https://git-lfs"


def load(name_or_folder: str | Path, dtype: torch.dtype | None = None, device: str | torch.device = "cpu"):
    """A pretrained model as a `TransformerBridge`, with its tokenizer.

    A carried model by its name (`CARRIED`), a Hugging Face folder by its path (both without a network), or with a
    network a name on the hub. `dtype` is float32 on a CPU and for a name on the hub, and else what the folder's config.json says.

    `to_tokens` of a carried model puts nothing before the text, as its own tokenizer; other bridges have
    TransformerLens' habit of a beginning-of-text token (`model.cfg.default_prepend_bos`). `model.tokenizer(text)` itself
    begins with that token wherever the tokenizer has one, for TransformerLens opens it with `add_bos_token=True`; with
    `add_special_tokens=False` it reads as the folder's does.

    Args:
        name_or_folder: what to open.
        dtype: to compute in.
        device: `cpu`, `cuda`, …, or a `torch.device`.
    """
    device = devices.present(device)
    folder = found(name_or_folder)
    if folder is None:
        return from_hub(str(name_or_folder), dtype, device)
    stored = checked(folder)
    if dtype is None:
        dtype = torch.float32 if device.type == "cpu" else stored
        if dtype != stored and str(name_or_folder) not in registry.CARRIED:
            print(
                f"{folder.name}: stored in {short(stored)}, computed in {short(dtype)} (dtype= changes that)."
            )
    if slow := slowness(dtype, device):
        print(slow)
    return bridged(folder, weighted(folder, dtype), dtype, device)


def untrained(
    name_or_folder: str | Path,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device = "cpu",
):
    """The same architecture and tokenizer with fresh random weights: the control for what training did.

    `name_or_folder` is that of the trained model; `seed` draws the weights, in `dtype`, and `device` is where they
    go.
    """
    import transformers

    device = devices.present(device)
    folder = found(name_or_folder)
    if folder is None:
        raise CourseError(
            f"{str(name_or_folder)!r} is no folder here, and only a folder's architecture can be copied."
        )
    checked(folder)
    with torch.random.fork_rng(devices=[]), in_a_sentence(f"{folder}/config.json describes no model"):
        config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True)
        torch.manual_seed(seed)
        model = transformers.AutoModelForCausalLM.from_config(config, dtype=dtype).eval()
    return bridged(folder, model, dtype, device)


def chat(model, said: str | list, system: str | None = None) -> Int[Tensor, "1 pos"]:
    """What a chat model reads when a user says that, up to where its answer begins.

    `said` is the user's words, or a whole conversation as a list of {"role": …, "content": …}. Without `system` the
    model's template puts its own system prompt, if it has one.
    """
    tokenizer = model.tokenizer
    if not getattr(tokenizer, "chat_template", None):
        raise CourseError(
            "This model's tokenizer has no chat template, so nobody can say how a conversation is written for it: "
            "it may be a base model. Give it plain text, or set model.tokenizer.chat_template."
        )
    turns = turns_of(said)
    if system is not None:
        turns = [{"role": "system", "content": system}, *turns]
    with in_a_sentence("The chat template of this model refuses this conversation"):
        written = tokenizer.apply_chat_template(
            turns, add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
    return written["input_ids"].to(model.cfg.device)


def turns_of(said: str | list) -> list[dict]:
    """A conversation turn by turn, as `chat` reads it."""
    turns = [{"role": "user", "content": said}] if isinstance(said, str) else said
    sound = lambda turn: isinstance(turn, dict) and {"role", "content"} <= turn.keys()  # noqa: E731
    if not isinstance(turns, list | tuple) or not turns or not all(map(sound, turns)):
        raise CourseError(
            'A conversation is the user\'s words, or a list of turns, one at least, each {"role": "user", "content": "…"}.'
        )
    return list(turns)


# -- a folder, looked at before it is read ---------------------------------------------------------


def found(name_or_folder: str | Path) -> Path | None:
    """The folder that is meant: a carried model's, or one that is here; None for a name on the hub."""
    name = str(name_or_folder)
    if name in registry.CARRIED:
        if registry.carried(name).kind != "language":
            raise CourseError(f"{name} is an image network: pretrained.vision({name!r}) loads it.")
        return registry.folder(name)
    folder = Path(name_or_folder).expanduser()
    if folder.is_dir():
        return folder
    if folder.exists():
        raise CourseError(f"{folder} is a file: give the folder it lies in.")
    return None


def checked(folder: Path) -> torch.dtype:
    """What the weights are stored in, once config, architecture, weights and tokenizer were found sound."""
    config = json_object(
        folder / "config.json", f"{folder} is not a Hugging Face folder: it has no config.json."
    )
    known_architecture(config, folder)
    weights = [name for name in WEIGHTS if (folder / name).is_file()]
    if not weights:
        raise CourseError(f"{folder} has no weights: none of {', '.join(WEIGHTS)} is there.")
    tokenizers = [name for name in TOKENIZERS if (folder / name).is_file()]
    beside = [name for name in BESIDE if (folder / name).is_file()]
    for file in (*shards(folder / weights[0]), *(folder / name for name in (*tokenizers, *beside))):
        if not file.is_file():
            raise CourseError(f"{folder} is incomplete: {file.name}, which its index names, is missing.")
        whole(file)
    if not tokenizers:
        raise CourseError(
            f"{folder} has no tokenizer: save it there with "
            "`AutoTokenizer.from_pretrained(…).save_pretrained(folder)`, or copy tokenizer.json beside the weights."
        )
    return stored_dtype(config)


def whole(file: Path) -> None:
    """One sentence for a file that Git LFS has not fetched."""
    with open(file, "rb") as opened:
        if opened.read(len(LFS)) == LFS:
            raise CourseError(
                f"{file} is a Git LFS pointer, not the file itself: run `git lfs pull` in {file.parent}."
            )


def json_object(path: Path, absent: str = "") -> dict:
    """What a JSON file holds; one sentence where it is absent (that one), a pointer of Git LFS, or no object."""
    if not path.is_file():
        raise CourseError(absent)
    whole(path)
    try:
        held = json.loads(path.read_text(encoding="utf-8"))
        assert isinstance(held, dict)
        return held
    except (ValueError, AssertionError):
        raise CourseError(f"{path} cannot be read: it is not a JSON object.") from None


def known_architecture(config: dict, folder: Path) -> None:
    """Whether TransformerLens has a bridge for it, and transformers knows the type."""
    from transformer_lens.factories.architecture_adapter_factory import SUPPORTED_ARCHITECTURES
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    causal = {
        kind: [names] if isinstance(names, str) else list(names)
        for kind, names in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.items()
    }
    works = sorted(set(SUPPORTED_ARCHITECTURES) & {name for names in causal.values() for name in names})
    kind, stated = config.get("model_type"), config.get("architectures") or []
    for name in stated if isinstance(stated, list) else [stated]:
        if name not in works:
            own = [name for name in causal.get(str(kind), []) if name in works]
            hint = f" Did you mean {' or '.join(map(repr, own))}?" if own else nearest(name, works)
            raise CourseError(f"{folder} holds a {name}, which has no bridge as a language model.{hint}")
    if not isinstance(kind, str) or kind not in causal:
        raise CourseError(
            f"{folder}/config.json has the model_type {kind!r}, which is no language model that transformers knows."
            f"{nearest(str(kind), causal)}"
        )


def shards(weights: Path) -> list[Path]:
    """The files with numbers: of one file itself, of an index those it names."""
    if weights.suffix != ".json":
        return [weights]
    names = json_object(weights).get("weight_map")
    if not isinstance(names, dict) or not all(isinstance(name, str) for name in names.values()):
        raise CourseError(
            f"{weights} is no index of weights: it has no weight_map, the file of each weight; fetch it again."
        )
    return [weights.parent / name for name in sorted(set(names.values()))]


def stored_dtype(config: dict) -> torch.dtype:
    """As config.json says, and float32 where it says nothing."""
    named = config.get("dtype") or config.get("torch_dtype")
    if isinstance(named, str) and isinstance(getattr(torch, named.removeprefix("torch."), None), torch.dtype):
        return getattr(torch, named.removeprefix("torch."))
    return torch.float32


def short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


FAST = {torch.bfloat16: ("avx512_bf16", "amx_bf16"), torch.float16: ("avx512_fp16", "amx_fp16")}


def capabilities() -> Mapping:
    """What PyTorch knows of this processor; nothing where it cannot say."""
    return torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}


def is_fast(dtype: torch.dtype) -> bool:
    """Whether this processor is known to be fast at numbers of 16 bits, of the kind `dtype`."""
    able = capabilities()
    return any(able.get(name) for name in FAST[dtype])


def quick_dtype(device: str | torch.device = "cpu") -> torch.dtype:
    """bfloat16 where this machine is fast at it, else float32: for sweeps in which two decimals are enough.

    A graphics processor counts as fast; a CPU counts where PyTorch knows that it is (`FAST`). bfloat16 keeps eight bits of
    a number, so a logit of 20 is good to 0.1: what is exact needs float32.

    Args:
        device: `cpu`, `cuda`, …, or a `torch.device`.
    """
    return torch.bfloat16 if devices.named(device).type != "cpu" or is_fast(torch.bfloat16) else torch.float32


def slowness(dtype: torch.dtype, device: torch.device) -> str:
    """A sentence where this processor says it has no fast arithmetic of that width, else nothing."""
    if device.type != "cpu" or dtype not in FAST or capabilities().get("architecture") != "x86_64":
        return ""  # where nobody can say, nothing is said
    if is_fast(dtype):
        return ""
    return f"This processor has no fast {short(dtype)} arithmetic: float32, the default, is likely quicker and exact."


# -- reading it ------------------------------------------------------------------------------------


@contextlib.contextmanager
def hushed(bars: bool = False) -> Iterator[None]:
    """transformers without its warnings, and without its progress bars unless `bars`; afterwards as it was."""
    from transformers.utils import logging

    level, was_on = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.enable_progress_bar() if bars else logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        logging.enable_progress_bar() if was_on else logging.disable_progress_bar()


@contextlib.contextmanager
def in_a_sentence(beginning: str) -> Iterator[None]:
    """Whatever is raised inside, after this beginning: safetensors, pickle, transformers raise kinds of their own."""
    try:
        yield
    except CourseError:
        raise
    except Exception as error:
        where = "" if str(error) else f" at `{traceback.extract_tb(error.__traceback__)[-1].line}`"
        raise CourseError(f"{beginning}: {first_line(error)}{where}") from error


def weighted(folder: Path, dtype: torch.dtype):
    """The model as transformers reads it, with every weight out of the files."""
    import transformers

    with hushed(), in_a_sentence(f"The weights in {folder} cannot be read"):
        model, told = transformers.AutoModelForCausalLM.from_pretrained(
            folder, dtype=dtype, local_files_only=True, output_loading_info=True, ignore_mismatched_sizes=True
        )
    for name, stored, meant in sorted(told["mismatched_keys"]):
        raise CourseError(
            f"{folder}/config.json is of another model than its weights: {name} is {list(stored)} in the file and "
            f"{list(meant)} by the config."
        )
    if missing := sorted(told["missing_keys"]):
        raise CourseError(
            f"{folder} lacks {len(missing)} of the model's weights, {missing[0]} for one; random numbers would stand "
            "in for them."
        )
    return model.eval()


def bridged(folder: Path, model, dtype: torch.dtype, device: torch.device):
    """The bridge around a `transformers` model, with the folder's tokenizer."""
    import transformers
    from transformer_lens import TransformerBridge

    with in_a_sentence(f"The tokenizer in {folder} cannot be read"):
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
    with in_a_sentence(f"TransformerLens cannot bridge this {type(model).__name__} ({folder})"):
        bridge = TransformerBridge.boot_transformers(
            str(folder), hf_model=model.to(device), tokenizer=tokenizer, dtype=dtype, device=str(device)
        ).eval()
    bridge.cfg.default_prepend_bos &= not (folder / registry.CARD).is_file()
    return bridge


def from_hub(name: str, dtype: torch.dtype | None, device: torch.device):
    """With a network: a model of the hub by its name."""
    from transformer_lens import TransformerBridge

    try:
        return TransformerBridge.boot_transformers(
            name, dtype=dtype or torch.float32, device=str(device)
        ).eval()
    except Exception as error:  # whatever the hub's client raises, a learner needs one sentence
        hint = nearest(name, registry.CARRIED)
        raise CourseError(
            f"{name!r} is no folder here and could not be fetched from the model hub ({type(error).__name__}). "
            f"Without a network, pass a folder in Hugging Face format or the name of a carried model.{hint}"
        ) from error
