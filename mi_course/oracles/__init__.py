"""Activation oracles: a model that answers questions about another model's activations, and what it must be compared with.

>>> import torch
>>> from mi_course import oracles
>>> h, v = torch.tensor([3.0, 4.0]), torch.tensor([0.0, 0.2])
>>> oracles.injected(h, v).tolist()
[3.0, 9.0]
"""

from mi_course.oracles.diaries import (
    CHOICES,
    KEYWORDS,
    PARTS,
    SOURCES,
    STRANGERS,
    TEXT,
    TOPIC_WORDS,
    TOWNS,
    Asking,
    Diaries,
    Diary,
)
from mi_course.oracles.injection import (
    Prompts,
    answers,
    ask,
    entering,
    injected,
    injection,
    prompts_of,
)
from mi_course.oracles.real import (
    Asked,
    answer_ids,
    asked,
    identity,
    last_vectors,
    load_update,
    placeholder,
    written,
)
from mi_course.oracles.sentences import (
    TOPICS,
    UNSEEN,
    Question,
    Sentence,
    sentences,
    test_questions,
    training_questions,
)
from mi_course.oracles.small import (
    BEFORE,
    READ,
    colon_vectors,
    diary_config,
    from_text,
    inside_blocks,
    lessons,
    prompts,
    right,
    right_from_text,
)
