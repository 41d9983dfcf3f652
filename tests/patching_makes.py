"""Tiny random models of every make that a bridge boots as a causal decoder, and where their parts are at Hugging Face."""

import torch

V = 40
SHAPE = {
    "vocab_size": V, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64,
    "max_position_embeddings": 32, "initializer_range": 0.2,
}  # fmt: skip
GROUPED = {**SHAPE, "num_key_value_heads": 2}
GPT2 = {"vocab_size": V, "n_positions": 32, "n_embd": 32, "n_layer": 2, "n_head": 4, "initializer_range": 0.2}
GEMMA = {**GROUPED, "head_dim": 8}
IN_GPT2, IN_LLAMA = ("transformer.h", "attn.c_proj"), ("model.layers", "self_attn.o_proj")
MAKES = {  # name: configuration class, its options, (the blocks, what projects z out)
    "gpt2": ("GPT2Config", GPT2, IN_GPT2),
    "gpt2 scaled by layer": ("GPT2Config", {**GPT2, "scale_attn_by_inverse_layer_idx": True}, IN_GPT2),
    "gpt2 without scale": ("GPT2Config", {**GPT2, "scale_attn_weights": False, "initializer_range": 0.1}, IN_GPT2),
    "gpt-neo": ("GPTNeoConfig", {
        "vocab_size": V, "max_position_embeddings": 32, "hidden_size": 32, "num_layers": 2, "num_heads": 4, "window_size": 3,
        "attention_types": [[["global", "local"], 1]], "intermediate_size": 64, "initializer_range": 0.2,
    }, ("transformer.h", "attn.attention.out_proj")),
    "gpt-neox": ("GPTNeoXConfig", SHAPE, ("gpt_neox.layers", "attention.dense")),
    "gpt-neox serial": ("GPTNeoXConfig", {**SHAPE, "use_parallel_residual": False}, ("gpt_neox.layers", "attention.dense")),
    "gpt-j": ("GPTJConfig", {**GPT2, "rotary_dim": 4, "n_inner": 64}, ("transformer.h", "attn.out_proj")),
    "opt": ("OPTConfig", {
        "vocab_size": V, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "ffn_dim": 64,
        "max_position_embeddings": 32, "word_embed_proj_dim": 32, "init_std": 0.2,
    }, ("model.decoder.layers", "self_attn.out_proj")),
    "llama": ("LlamaConfig", GROUPED, IN_LLAMA),
    "llama tied": ("LlamaConfig", {**GROUPED, "tie_word_embeddings": True, "attention_bias": True}, IN_LLAMA),
    "qwen2": ("Qwen2Config", GROUPED, IN_LLAMA),
    "qwen3": ("Qwen3Config", GEMMA, IN_LLAMA),
    "mistral": ("MistralConfig", {**GROUPED, "sliding_window": 3}, IN_LLAMA),
    "gemma": ("GemmaConfig", GEMMA, IN_LLAMA),
    "gemma2": ("Gemma2Config", GEMMA, IN_LLAMA),
    "gemma3": ("Gemma3TextConfig", GEMMA, IN_LLAMA),
    "bloom": ("BloomConfig", {
        "vocab_size": V, "hidden_size": 32, "n_layer": 2, "n_head": 4, "initializer_range": 0.2,
    }, ("transformer.h", "self_attention.dense")),
    "phi": ("PhiConfig", SHAPE, ("model.layers", "self_attn.dense")),
}  # fmt: skip
FAST = {"gpt2", "gpt2 scaled by layer", "gpt2 without scale", "gpt-neox", "gpt-neox serial", "opt", "llama", "llama tied",
        "qwen2", "qwen3", "phi"}  # fmt: skip


def save(name, folder, **changed):
    """The make's model, every weight random, with a tokenizer of 40 words that pads with a word of its own."""
    import transformers
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel

    words = {"<unk>": 0, "<eos>": 1, "<pad>": 2, **{f"w{i}": i for i in range(3, V)}}
    special = {"unk_token": "<unk>", "eos_token": "<eos>", "bos_token": "<eos>", "pad_token": "<pad>"}
    tokenizer = Tokenizer(WordLevel(words, unk_token="<unk>"))
    transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(folder)
    kind, options, _ = MAKES[name]
    options = {**options, **changed}
    ids = {"bos_token_id": 1, "eos_token_id": 1, "pad_token_id": 2}
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(getattr(transformers, kind)(**options, **ids))
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim == 1:  # norms and biases, which start at 1 and 0
                weight += 0.2 * torch.randn(weight.shape)
    model.save_pretrained(folder)
    return folder


class Truth:
    """The Hugging Face model itself with hooks of our own, nothing of a bridge and nothing of ours."""

    def __init__(self, name, folder, dtype=torch.float32):
        import transformers

        given = {"dtype": dtype, "attn_implementation": "eager"}
        self.model = transformers.AutoModelForCausalLM.from_pretrained(folder, **given).eval()
        blocks, out = MAKES[name][2]
        self.blocks = self.model.get_submodule(blocks)
        self.out = [block.get_submodule(out) for block in self.blocks]

    def place(self, site, layer):
        """The module whose input is this site."""
        return {"resid_pre": self.blocks, "z": self.out}[site][layer]

    @torch.no_grad()
    def logits(self, tokens, patches=(), **given):
        """Logits [batch pos V]; a patch is (site, layer, index, value), and index addresses [batch pos number]."""
        handles = []
        for site, layer, index, value in patches:

            def hook(module, args, kwargs, index=index, value=value):
                name = None if args else "hidden_states"
                x = (args[0] if args else kwargs[name]).clone()
                x[index] = value[index]
                return ((x, *args[1:]), kwargs) if args else (args, {**kwargs, name: x})

            handles.append(self.place(site, layer).register_forward_pre_hook(hook, with_kwargs=True))
        try:
            return self.model(tokens, **given).logits
        finally:
            for handle in handles:
                handle.remove()

    def activations(self, tokens):
        """(site, layer) → what enters there, [batch pos number]."""
        found = {}
        for site in ("resid_pre", "z"):
            for layer in range(len(self.out)):

                def hook(module, args, kwargs, key=(site, layer)):
                    found[key] = (args[0] if args else kwargs["hidden_states"]).detach().clone()

                self.place(site, layer).register_forward_pre_hook(hook, with_kwargs=True)
        self.logits(tokens)
        for module in [*self.blocks, *self.out]:
            module._forward_pre_hooks.clear()
        return found
