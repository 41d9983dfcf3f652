"""Small transformers one can see into: TransformerLens names, nothing hidden.

`TinyTransformer` is a `HookedRootModule` of TransformerLens 4 with TransformerLens' weight names
(`W_E W_pos W_Q W_K W_V W_O W_in W_out W_U`) and hook names (`blocks.0.attn.hook_pattern`, …).
Vectors are rows and weights multiply from the right, `x @ W`; the papers write columns, `W x`.
Besides `pretrained`, this is the only part that imports `transformer_lens`.

Shapes: `batch`, `pos` (also `query`, `key`), `head`, `d_model`, `d_head`, `d_mlp`, `d_vocab`.

>>> import torch
>>> from mi_course import models
>>> model = models.TinyTransformer(models.TinyConfig(n_layers=2, n_heads=4, d_vocab=24))
>>> logits, cache = model.run_with_cache(torch.randint(24, (1, 10)))
>>> list(logits.shape), list(cache["pattern", 1].shape)
([1, 10, 24], [1, 4, 10, 10])
"""

from mi_course.files import checkpoint_names
from mi_course.models.config import CHOICES, TinyConfig
from mi_course.models.layers import MLP, Attention, Block, Embed, Norm, PosEmbed, Unembed, rotate, sinusoids
from mi_course.models.tokens import checked_tokens, next_token_loss
from mi_course.models.transformer import TinyTransformer, load
