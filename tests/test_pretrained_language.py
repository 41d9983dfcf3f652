"""Hugging Face folders as bridges: tiny random models of many makes, and every way a folder can be incomplete."""

import json
import shutil

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers

from mi_course import pretrained
from mi_course.errors import CourseError
from mi_course.pretrained import language

WORDS = ["<|end|>", "a", "b", "c", "d", "the", "cat", "sat"]
SMALL = {
    "vocab_size": 40,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}
MAKES = {
    "GPT2": lambda: transformers.GPT2Config(vocab_size=40, n_positions=32, n_embd=32, n_layer=2, n_head=4),
    "Llama": lambda: transformers.LlamaConfig(**SMALL, num_key_value_heads=2),
    "tied": lambda: transformers.LlamaConfig(**SMALL, num_key_value_heads=1, tie_word_embeddings=True),
    "Qwen2": lambda: transformers.Qwen2Config(**SMALL, num_key_value_heads=2),
    "NeoX": lambda: transformers.GPTNeoXConfig(**SMALL),
}  # fmt: skip


def save(folder, config, dtype=torch.float32, seed=0):
    torch.manual_seed(seed)
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<|end|>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|end|>").save_pretrained(
        folder
    )
    model = transformers.AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for weight in model.parameters():  # large enough that 16 bits would show
            weight.mul_(5) if weight.ndim > 1 else None
    model.to(dtype).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    return save(tmp_path_factory.mktemp("sound") / "tiny", MAKES["Llama"]())


@pytest.fixture
def folder(sound, tmp_path):
    """A copy to spoil."""
    return shutil.copytree(sound, tmp_path / "tiny")


def tokens():
    return torch.randint(1, 40, (3, 12), generator=torch.Generator().manual_seed(1))


# -- logits ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=language.short)
@pytest.mark.parametrize("make", MAKES)
def test_logits_are_those_of_transformers_in_float32(make, dtype, tmp_path):
    folder = save(tmp_path / make, MAKES[make](), dtype)
    read = transformers.AutoModelForCausalLM.from_pretrained
    theirs = read(folder, dtype=torch.float32, attn_implementation="eager").eval()
    bridge = pretrained.load(folder)
    assert {p.dtype for p in bridge.parameters()} == {torch.float32} and not bridge.training
    with torch.no_grad():
        torch.testing.assert_close(bridge(tokens()), theirs(tokens()).logits, atol=1e-5, rtol=0)


def test_computing_in_16_bits_would_be_seen_here(tmp_path):
    folder = save(tmp_path / "half", MAKES["Llama"](), torch.float16)
    with torch.no_grad():
        exact, half = (
            pretrained.load(folder)(tokens()),
            pretrained.load(folder, dtype=torch.float16)(tokens()),
        )
    assert (exact - half).abs().max() > 1e-3


def test_it_says_so_when_it_computes_in_another_width(tmp_path, capsys):
    save(tmp_path / "half", MAKES["Llama"](), torch.float16)
    pretrained.load(tmp_path / "half")
    assert capsys.readouterr().out == "half: stored in float16, computed in float32 (dtype= changes that).\n"
    pretrained.load(tmp_path / "half", dtype=torch.float32)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=language.short)
def test_16_bits_on_a_processor_without_them(sound, monkeypatch, capsys, dtype, fast):
    able = {"architecture": "x86_64", **{name: fast for names in language.FAST.values() for name in names}}
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: able, raising=False)
    bridge = pretrained.load(sound, dtype=dtype)
    assert {p.dtype for p in bridge.parameters()} == {dtype} and bridge(tokens()).dtype == dtype
    said = capsys.readouterr().out
    assert said == ("" if fast else f"This processor has no fast {language.short(dtype)} arithmetic: "
                    "float32, the default, is likely quicker and exact.\n")  # fmt: skip


@pytest.mark.parametrize("fast", [True, False])
def test_the_quick_width_is_16_bits_where_they_are_fast(sound, monkeypatch, capsys, fast):
    able = {"architecture": "x86_64", "avx512_bf16": fast}
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: able, raising=False)
    assert pretrained.quick_dtype() == (torch.bfloat16 if fast else torch.float32)
    assert pretrained.quick_dtype("cuda") == torch.bfloat16
    pretrained.load(sound, dtype=pretrained.quick_dtype())
    assert "no fast" not in capsys.readouterr().out
    monkeypatch.delattr(torch.cpu, "get_capabilities")
    assert pretrained.quick_dtype() == torch.float32


def test_nothing_is_said_of_a_processor_that_cannot_be_asked(monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"architecture": "aarch64"}, raising=False)
    assert language.slowness(torch.float16, torch.device("cpu")) == ""
    monkeypatch.delattr(torch.cpu, "get_capabilities")
    assert language.slowness(torch.float16, torch.device("cpu")) == ""


@pytest.mark.parametrize("device", ["cpu", "cpu:0", torch.device("cpu"), torch.device("cpu", 0)], ids=repr)
def test_a_cpu_is_a_cpu_however_it_is_written(device, tmp_path, monkeypatch, capsys):
    able = {"architecture": "x86_64", "avx512_fp16": False, "avx512_bf16": False}
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: able, raising=False)
    folder = save(tmp_path / "half", MAKES["Llama"](), torch.float16)
    assert {p.dtype for p in pretrained.load(folder, device=device).parameters()} == {torch.float32}
    assert "stored in float16, computed in float32" in capsys.readouterr().out
    pretrained.load(folder, dtype=torch.float16, device=device)
    assert "no fast float16 arithmetic" in capsys.readouterr().out
    pretrained.untrained(folder, device=device)
    assert pretrained.quick_dtype(device) == torch.float32


def test_a_device_that_is_not_here_is_a_sentence(sound):
    asks = (pretrained.load, pretrained.untrained, lambda _, device: pretrained.vision("no matter", device))
    for ask in (*asks, lambda _, device: pretrained.quick_dtype(device)):
        with pytest.raises(CourseError, match="torch knows no device 'gpu': pass 'cpu', 'cuda' or 'mps'"):
            ask(sound, device="gpu")
    for ask in () if torch.cuda.is_available() else asks:
        with pytest.raises(CourseError, match="has no device 'cuda:3' .*: pass device='cpu'.$"):
            ask(sound, device=torch.device("cuda:3"))


def test_loading_leaves_transformers_as_it_was(sound):
    logging = transformers.utils.logging
    before = logging.get_verbosity(), logging.is_progress_bar_enabled()
    pretrained.load(sound)
    assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == before


@pytest.mark.parametrize("make, options, why", [
    ("Phi", {"qk_layernorm": True}, "PhiForCausalLM .*: .*HF module has 'q_layernorm' but adapter"),
    ("GPTNeoX", {"attention_bias": False}, "GPTNeoXForCausalLM .*: AssertionError at `assert isinstance.qkv_bias"),
])  # fmt: skip
def test_what_transformer_lens_cannot_bridge(make, options, why, tmp_path):
    folder = save(tmp_path / make, getattr(transformers, f"{make}Config")(**SMALL, **options))
    for ask in (pretrained.load, pretrained.untrained):
        with pytest.raises(CourseError, match=f"TransformerLens cannot bridge this {why}") as caught:
            ask(folder)
        assert "\n" not in str(caught.value)


# -- the control -----------------------------------------------------------------------------------


def test_untrained_twins_have_the_shape_and_not_the_weights(sound):
    trained, twin, again, other = pretrained.load(sound), *(pretrained.untrained(sound, s) for s in (0, 0, 1))
    shapes = [[(name, p.shape) for name, p in m.named_parameters()] for m in (trained, twin)]
    assert shapes[0] == shapes[1]
    with torch.no_grad():
        assert torch.equal(twin(tokens()), again(tokens()))
        assert not torch.equal(twin(tokens()), other(tokens()))
        assert not torch.equal(twin(tokens()), trained(tokens()))


def test_untrained_leaves_the_generator_alone(sound):
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    pretrained.untrained(sound)
    assert torch.equal(torch.rand(1), expected)


def test_untrained_wants_a_folder():
    with pytest.raises(CourseError, match="only a folder's architecture can be copied"):
        pretrained.untrained("gpt2")


@pytest.mark.parametrize(
    "wrong", [{"num_attention_heads": 0}, {"vocab_size": "many"}, {"hidden_act": "swishy"}], ids=str
)
def test_a_config_of_no_model(folder, wrong):
    change(folder, **wrong)
    with pytest.raises(CourseError, match="config.json describes no model: ."):
        pretrained.untrained(folder)
    with pytest.raises(CourseError, match="cannot be read: ."):
        pretrained.load(folder)


# -- chat ------------------------------------------------------------------------------------------


def test_a_conversation_is_written_as_the_template_says(sound):
    bridge = pretrained.load(sound)
    with pytest.raises(CourseError, match="no chat template"):
        pretrained.chat(bridge, "the cat")
    bridge.tokenizer.chat_template = (
        "{% for m in messages %}{{ m.content }} {% endfor %}{% if add_generation_prompt %}a{% endif %}"
    )
    said = lambda *given, **more: bridge.tokenizer.decode(pretrained.chat(bridge, *given, **more)[0])  # noqa: E731
    assert said("the cat") == "the cat a"
    assert said("the cat", system="sat") == "sat the cat a"
    assert said([{"role": "user", "content": "b"}, {"role": "assistant", "content": "c"}]) == "b c a"


@pytest.mark.parametrize("said", [[], ["the cat"], [{"role": "user"}], [{"content": "b"}], [None]], ids=str)
@pytest.mark.parametrize("system", [None, "sat"])
def test_what_is_no_conversation(sound, said, system):
    bridge = pretrained.load(sound)
    bridge.tokenizer.chat_template = "{% for m in messages %}{{ m.content }} {% endfor %}"
    with pytest.raises(
        CourseError, match="^A conversation is the user's words, or a list of turns, one at least"
    ):
        pretrained.chat(bridge, said, system)


def test_what_a_template_refuses(sound):
    bridge = pretrained.load(sound)
    bridge.tokenizer.chat_template = (
        "{% for m in messages %}{% if m.role != 'user' %}{{ raise_exception('Only users speak') }}{% endif %}"
        "{{ m.content + ' ' }}{% endfor %}"
    )
    for turn, why in (("role", "Only users speak"), ("content", ".")):
        with pytest.raises(CourseError, match=f"template of this model refuses this conversation: {why}"):
            pretrained.chat(bridge, [{"role": "user", "content": "b", turn: 5}])


# -- bad folders, each in one sentence -------------------------------------------------------------


def refuses(given, match):
    with pytest.raises(CourseError, match=match) as caught:
        pretrained.load(given)
    assert "\n" not in str(caught.value)


def test_no_config(folder):
    (folder / "config.json").unlink()
    refuses(folder, "is not a Hugging Face folder: it has no config.json")


@pytest.mark.parametrize("text", ["{", "[]", ""])
def test_a_config_that_cannot_be_read(folder, text):
    (folder / "config.json").write_text(text)
    refuses(folder, "config.json cannot be read")


def change(folder, **new):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **new}))


def test_unknown_architectures_get_the_nearest_that_works(folder):
    change(folder, architectures=["LLaMAForCausalLM"])
    refuses(
        folder, "a LLaMAForCausalLM, which has no bridge as a language model. Did you mean 'LlamaForCausalLM'"
    )
    for other in ("LlamaModel", "LlamaForSequenceClassification", "BertForSequenceClassification"):
        change(folder, architectures=[other])  # the causal one of its model_type
        refuses(
            folder, f"{other}, which has no bridge as a language model. Did you mean 'LlamaForCausalLM'.$"
        )
    change(folder, architectures="LlamaModel")
    refuses(folder, "a LlamaModel, which has no bridge")
    change(folder, architectures=["GPT2Modell"], model_type="of a stranger")
    refuses(folder, "Did you mean 'GPT2LMHeadModel'")
    change(folder, architectures=["LlamaForCausalLM"], model_type="lama")
    refuses(folder, "model_type 'lama', which is no language model .* Did you mean 'llama'")
    change(folder, architectures=None, model_type=None)
    refuses(folder, "model_type None")
    change(folder, model_type=["llama"])
    refuses(folder, "model_type .'llama'., which is no language model")


def test_a_config_without_architectures_goes_by_its_type(folder):
    change(folder, architectures=None)
    assert pretrained.load(folder).cfg.n_layers == 2


def test_no_weights(folder):
    (folder / "model.safetensors").unlink()
    refuses(folder, "has no weights: none of model.safetensors")


INDEX = "model.safetensors.index.json"


@pytest.mark.parametrize(
    "name", ["model.safetensors", INDEX, "config.json", "tokenizer.json", "tokenizer_config.json"]
)
def test_a_git_lfs_pointer(folder, name):
    if name == INDEX:
        (folder / "model.safetensors").unlink()
    (folder / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:12\nsize 269060280\n")
    refuses(folder, f"{name} is a Git LFS pointer, not the file itself: run `git lfs pull`")


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"weight_map": []}', '{"weight_map": {"a": 1}}'])
def test_an_index_that_is_none(folder, text):
    (folder / "model.safetensors").unlink()
    (folder / INDEX).write_text(text)
    refuses(folder, f"{INDEX} (cannot be read: it is not a JSON object|is no index of weights)")


def test_weights_cut_short(folder):
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    refuses(folder, "The weights in .* cannot be read")


def test_a_missing_shard(folder):
    (folder / "model.safetensors").unlink()
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    refuses(folder, "incomplete: model-00001-of-00002.safetensors, which its index names, is missing")


def test_missing_weights_are_not_made_up(folder):
    weights = load_file(folder / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    refuses(folder, r"lacks 1 of the model's weights, \S*layers.1.mlp.up_proj.weight for one; random numbers")


def test_weights_of_another_shape(folder):
    change(folder, intermediate_size=65)
    refuses(
        folder,
        r"another model than its weights: \S*layers.0.mlp.down_proj.weight is \[32, 64\] in the file and \[32, 65\]",
    )


def test_no_tokenizer(folder):
    (folder / "tokenizer.json").unlink()
    refuses(folder, "has no tokenizer: save it there with")


def test_a_spoilt_tokenizer(folder):
    (folder / "tokenizer.json").write_text("{}")
    refuses(folder, "The tokenizer in .* cannot be read")


def test_a_file_and_a_stranger(folder, tmp_path):
    refuses(folder / "config.json", "is a file: give the folder it lies in")
    refuses(tmp_path / "nowhere", "is no folder here and could not be fetched from the model hub")
    refuses("smollm2-135m", "could not be fetched .* Did you mean 'smollm2-135m-instruct'")


def test_images_are_loaded_elsewhere():
    refuses("efficientnet-lite0", r"is an image network: pretrained.vision\('efficientnet-lite0'\) loads it")
