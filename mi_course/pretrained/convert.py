"""From a package's file to a folder: a 4-bit GGUF becomes a Hugging Face folder, a state dict becomes safetensors."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path

import torch

from mi_course.errors import CourseError
from mi_course.pretrained.language import hushed

SENTENCE, NEXT = "The capital of France is", " Paris"  # a conversion gone wrong does not know that


def language(files: list[Path], made: Path, quiet: bool) -> None:
    """A GGUF file, dequantised, as a Hugging Face folder in float16 with tokenizer and chat template."""
    (gguf,) = files
    silent = contextlib.redirect_stderr(io.StringIO()) if quiet else contextlib.nullcontext()
    with hushed(bars=not quiet), silent:
        tokenizer, model = tokenizer_of(gguf), dequantised(gguf)
        check(model, tokenizer)
        model.half().save_pretrained(made)
        tokenizer.save_pretrained(made)


def dequantised(gguf: Path):
    """The model with every weight unpacked, in float32."""
    import transformers

    unpack = getattr(transformers, "GgufConfig", None)  # older ones know no packed weights
    model = transformers.AutoModelForCausalLM.from_pretrained(
        gguf.parent, gguf_file=gguf.name, dtype=torch.float32, local_files_only=True,
        **({"quantization_config": unpack(dequantize=True)} if unpack else {}),
    )  # fmt: skip
    model.config.__dict__.pop("quantization_config", None)  # it is no longer: `save_pretrained` would refuse
    model.hf_quantizer = None
    model.config.__dict__.pop("_model_name_or_path", None)
    model.config.rms_norm_eps = round(
        model.config.rms_norm_eps, 12
    )  # 9.999999747378752e-06 is 1e-05 in 32 bits
    return model.eval()


def tokenizer_of(gguf: Path):
    """The tokenizer, with the split into single digits that the file asks for and `transformers` leaves out.

    The file names its split "smollm": digits one by one, then GPT-2's words. Without the first, two blanks before a
    number would be two tokens instead of one.
    """
    import transformers
    from tokenizers import decoders, pre_tokenizers

    tokenizer = transformers.AutoTokenizer.from_pretrained(
        gguf.parent, gguf_file=gguf.name, local_files_only=True
    )
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.backend_tokenizer.decoder = decoders.ByteLevel()
    tokenizer.model_max_length = 8192
    for key in ("local_files_only", "is_local"):  # of this reading, not of the tokenizer
        tokenizer.init_kwargs.pop(key, None)
    return tokenizer


def check(model, tokenizer) -> None:
    """One question whose answer only sound weights know."""
    with torch.no_grad():
        logits = model(**tokenizer(SENTENCE, return_tensors="pt")).logits[0, -1]
    if (answer := tokenizer.decode(logits.argmax())) != NEXT:
        import transformers

        raise CourseError(
            f"transformers {transformers.__version__} reads this file wrongly: after {SENTENCE!r} the model says "
            f"{answer!r}, not {NEXT!r}. Nothing was kept; take the tested version of constraints.txt."
        )


def vision(files: list[Path], made: Path, quiet: bool) -> None:
    """A pickled state dict, read as tensors only, as safetensors under our names, with the classes' names.

    `files` are the pickle and the classes' names, `made` is the folder they go to; `quiet` is there for all of
    `convert`'s functions.
    """
    from safetensors.torch import save_file

    from mi_course.pretrained.efficientnet import EfficientNetLite, renamed

    pickled, names = files
    state = torch.load(pickled, map_location="cpu", weights_only=True)
    EfficientNetLite().load_state_dict(renamed(state))  # a missing or misshapen weight is said here
    save_file({name: w.contiguous() for name, w in renamed(state).items()}, made / "model.safetensors")
    labels = json.loads(names.read_text(encoding="utf-8"))
    config = {"model_type": "efficientnet-lite0", "labels": [labels[str(i)] for i in range(len(labels))]}
    (made / "config.json").write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")
