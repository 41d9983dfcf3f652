"""Conversion, on files written here: a tiny Llama in Q4_1, and a state dict under the published names."""

import json
import pickle

import gguf
import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file
from tokenizers.pre_tokenizers import ByteLevel

from mi_course import pretrained
from mi_course.errors import CourseError
from mi_course.pretrained import convert, efficientnet, fetching, registry

D, D_MLP, HEADS, KV = 64, 96, 4, 2
MERGES = ["Ġ Ġ", "a b", "Ġ a"]
TOKENS = [
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    *sorted(ByteLevel.alphabet()),
    *(m.replace(" ", "") for m in MERGES),
]
SIZES = {"attn_q": (D, D), "attn_k": (D // 2, D), "attn_v": (D // 2, D), "attn_output": (D, D),
         "ffn_gate": (D_MLP, D), "ffn_up": (D_MLP, D), "ffn_down": (D, D_MLP)}  # fmt: skip
THEIRS = {"attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj",
          "attn_output": "self_attn.o_proj", "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj",
          "ffn_down": "mlp.down_proj"}  # fmt: skip


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A GGUF file of two layers, and the weights that are in it after rounding, in float32."""
    path, rng, inside = tmp_path_factory.mktemp("gguf") / "tiny.gguf", np.random.default_rng(0), {}
    out = gguf.GGUFWriter(path, "llama")
    out.add_block_count(2)
    out.add_context_length(64)
    out.add_embedding_length(D)
    out.add_feed_forward_length(D_MLP)
    out.add_head_count(HEADS)
    out.add_head_count_kv(KV)
    out.add_rope_freq_base(100_000.0)
    out.add_rope_dimension_count(D // HEADS)
    out.add_layer_norm_rms_eps(1e-5)
    out.add_vocab_size(len(TOKENS))
    out.add_tokenizer_model("gpt2")
    out.add_tokenizer_pre("smollm")
    out.add_token_list(TOKENS)
    out.add_token_types([gguf.TokenType.CONTROL] * 3 + [gguf.TokenType.NORMAL] * (len(TOKENS) - 3))
    out.add_token_merges(MERGES)
    out.add_bos_token_id(1)
    out.add_eos_token_id(2)
    out.add_pad_token_id(2)
    out.add_unk_token_id(0)
    out.add_add_bos_token(False)
    out.add_chat_template("{% for m in messages %}{{ m.content }}{% endfor %}")

    def add(name, shape, kind):
        plain = rng.normal(0, 0.3, shape).astype(np.float32)
        rounded = gguf.quantize(plain, kind)
        out.add_tensor(name, rounded, raw_dtype=kind)
        inside[name] = torch.from_numpy(gguf.dequantize(rounded, kind))

    add("token_embd.weight", (len(TOKENS), D), gguf.GGMLQuantizationType.Q8_0)
    for layer in range(2):
        for name, shape in SIZES.items():
            add(f"blk.{layer}.{name}.weight", shape, gguf.GGMLQuantizationType.Q4_1)
    for name in [
        "output_norm",
        *(f"blk.{layer}.{norm}" for layer in range(2) for norm in ("attn_norm", "ffn_norm")),
    ]:
        inside[f"{name}.weight"] = torch.from_numpy(1 + rng.normal(0, 0.1, D).astype(np.float32))
        out.add_tensor(f"{name}.weight", inside[f"{name}.weight"].numpy())
    out.write_header_to_file()
    out.write_kv_data_to_file()
    out.write_tensors_to_file()
    out.close()
    return path, inside


def unturned(weight: torch.Tensor, heads: int) -> torch.Tensor:
    """llama.cpp turns neighbouring pairs of numbers, transformers turns halves: rows of Q and K change places."""
    return weight.view(heads, -1, 2, weight.shape[1]).transpose(1, 2).reshape(weight.shape)


def reference(inside) -> transformers.LlamaForCausalLM:
    """The same model, put together by hand."""
    config = transformers.LlamaConfig(
        vocab_size=len(TOKENS), hidden_size=D, intermediate_size=D_MLP, num_hidden_layers=2, num_attention_heads=HEADS,
        num_key_value_heads=KV, max_position_embeddings=64, rms_norm_eps=1e-5, tie_word_embeddings=True,
        rope_parameters={"rope_theta": 100_000.0, "rope_type": "default"},
    )  # fmt: skip
    state = {
        "model.embed_tokens.weight": inside["token_embd.weight"],
        "model.norm.weight": inside["output_norm.weight"],
    }
    for layer in range(2):
        for name, theirs in THEIRS.items():
            weight = inside[f"blk.{layer}.{name}.weight"]
            heads = {"attn_q": HEADS, "attn_k": KV}.get(name)
            state[f"model.layers.{layer}.{theirs}.weight"] = unturned(weight, heads) if heads else weight
        state[f"model.layers.{layer}.input_layernorm.weight"] = inside[f"blk.{layer}.attn_norm.weight"]
        state[f"model.layers.{layer}.post_attention_layernorm.weight"] = inside[
            f"blk.{layer}.ffn_norm.weight"
        ]
    model = transformers.LlamaForCausalLM(config)
    told = model.load_state_dict(state, strict=False)
    assert told.missing_keys == ["lm_head.weight"] and not told.unexpected_keys
    return model.eval()


@pytest.fixture(scope="module")
def made(tiny, tmp_path_factory):
    folder = tmp_path_factory.mktemp("made") / "tiny"
    folder.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(convert, "check", lambda model, tokenizer: None)
        convert.language([tiny[0]], folder, True)
    return folder


def test_every_weight_is_the_one_in_the_file(tiny, made):
    """In float16, which rounds once more by at most 1 in 2,048."""
    ours, theirs = load_file(made / "model.safetensors"), reference(tiny[1]).state_dict()
    assert all(weight.dtype == torch.float16 for weight in ours.values())
    for name, weight in ours.items():
        torch.testing.assert_close(weight.float(), theirs[name], atol=1e-6, rtol=2**-11)


def test_the_folder_computes_what_the_file_says(tiny, made):
    tokens = torch.randint(3, len(TOKENS), (2, 20), generator=torch.Generator().manual_seed(0))
    there = reference(tiny[1])
    with torch.no_grad():
        for weight in there.parameters():  # in float16, as the folder's
            weight.copy_(weight.half())
        ours, theirs = pretrained.load(made, dtype=torch.float32)(tokens), there(tokens).logits
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=0)
    assert theirs.std() > 1


def test_the_folder_is_clean(made):
    config = json.loads((made / "config.json").read_text())
    assert "quantization_config" not in config and "_model_name_or_path" not in config
    assert config["rms_norm_eps"] == 1e-5 and config["tie_word_embeddings"] and config["dtype"] == "float16"
    assert "local_files_only" not in (made / "tokenizer_config.json").read_text()


def test_the_tokenizer_splits_digits_and_keeps_blanks(made):
    tokenizer = transformers.AutoTokenizer.from_pretrained(made)
    shown = lambda text: tokenizer.convert_ids_to_tokens(tokenizer(text).input_ids)  # noqa: E731
    assert shown("ab  12") == ["ab", "ĠĠ", "1", "2"]
    assert shown("<|im_start|> a") == ["<|im_start|>", "Ġa"]
    assert tokenizer.decode(tokenizer("ab  12 ü").input_ids) == "ab  12 ü"
    assert tokenizer.apply_chat_template([{"role": "user", "content": "ab"}], tokenize=False) == "ab"


def test_a_model_that_was_read_wrongly_is_refused(tiny, tmp_path):
    with pytest.raises(
        CourseError, match=r"transformers \S+ reads this file wrongly: after 'The capital of France is'"
    ):
        convert.language([tiny[0]], tmp_path, True)
    assert list(tmp_path.iterdir()) == []


# -- images ----------------------------------------------------------------------------------------


def published(tmp_path):
    """A state dict under the published names, pickled as the package does, and names for the classes."""
    model = pretrained.untrained_vision(torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(0)))
    back = [(ours, theirs.strip("^").replace("\\", "")) for theirs, ours in reversed(efficientnet.THEIRS)]
    state = {}
    for name, weight in model.state_dict().items():
        for ours, theirs in back if name.startswith("blocks") else back[-5:]:
            name = name.replace(ours, theirs, 1) if (name.startswith(ours) or ours[0] == ".") else name
        state[name] = weight.to(memory_format=torch.channels_last) if weight.ndim == 4 else weight
    torch.save(state, tmp_path / "net.pth")
    (tmp_path / "names.json").write_text(json.dumps({str(i): f"thing {i}" for i in range(1000)}))
    return model, [tmp_path / "net.pth", tmp_path / "names.json"]


def test_a_state_dict_becomes_safetensors_under_our_names(tmp_path, monkeypatch):
    model, files = published(tmp_path)
    made = tmp_path / "cache" / "efficientnet-lite0"
    made.mkdir(parents=True)
    convert.vision(files, made, True)
    monkeypatch.setenv("MI_COURSE_CACHE", str(made.parent))
    monkeypatch.setattr(registry, "here", lambda name: True)
    loaded, x = pretrained.vision("efficientnet-lite0"), torch.randn(1, 3, 64, 64)
    assert not loaded.training and loaded.labels[3] == "thing 3"
    with torch.no_grad():
        assert torch.equal(loaded(x), model(x))


class Malicious:
    def __reduce__(self):
        return print, ("this must never run",)


@pytest.mark.parametrize("content", ["pickle", "missing", "shape"])
def test_a_state_dict_that_is_something_else_is_refused(tmp_path, capsys, content):
    _, files = published(tmp_path)
    if content == "pickle":
        files[0].write_bytes(pickle.dumps(Malicious()))
    else:
        state = torch.load(files[0])
        state["_fc.bias"] = torch.zeros(3)
        if content == "missing":
            del state["_fc.bias"]
        torch.save(state, files[0])
    (tmp_path / "made").mkdir()
    with pytest.raises(
        CourseError, match="efficientnet-lite0 could not be converted .*; nothing was kept"
    ) as caught:
        fetching.converted(registry.carried("efficientnet-lite0"), files, tmp_path / "made", True)
    assert "\n" not in str(caught.value) and "this must never run" not in capsys.readouterr().out
    assert list((tmp_path / "made").iterdir()) == []
