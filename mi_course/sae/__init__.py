"""Sparse autoencoders: dictionaries, their losses and steps, training, measures, SAELens' format, pages of features.

>>> import torch
>>> from mi_course import sae
>>> dictionary = sae.SparseAutoencoder(sae.SaeConfig(d_in=8, d_sae=32, kind="topk", k=4))
>>> x = torch.randn(100, 8)
>>> f = dictionary.encode(x)
>>> list(f.shape), sae.l0(f) <= 4, 0 < sae.fvu(x, dictionary.decode(f))
([100, 32], True, True)
"""

from mi_course.sae.dictionary import (
    WHILE_TRAINING,
    Dictionary,
    SaeConfig,
    SparseAutoencoder,
    as_rows,
    check_activations,
    checked_autoencoder,
    geometric_median,
    unit_scale,
)
from mi_course.sae.kinds import KINDS, Jump, Step, auxiliary_loss, keep_top
from mi_course.sae.losses import fast_loss, loss, projected
from mi_course.sae.measures import dead_share, density, fvu, l0, loss_recovered, splice, unexplained
from mi_course.sae.pages import (
    FeaturePage,
    context_lines,
    examples_part,
    feature_page,
    file_name,
    gallery,
    header,
    histogram_part,
    logits_part,
    nearest_features,
)
from mi_course.sae.responses import (
    HOOK,
    Recording,
    ablation_effect,
    best_match,
    checked_feature,
    correlations,
    enrichment,
    from_rare_to_frequent,
    hook_of,
    intervals,
    logit_weights,
    mean_and_spread,
    proxy_correlation,
    record,
)
from mi_course.sae.saelens import ARCHITECTURES, SAELENS, from_saelens, read_saelens, to_saelens
from mi_course.sae.shards import Shard
from mi_course.sae.training import ALL_DEAD, SaeTraining, Upkeep, resample_, train
from mi_course.sae.transcoder import Transcoder, TranscoderConfig
