"""Text and toy languages: what models read.

>>> from mi_course import corpora
>>> tokens = corpora.repeated_tokens(24, batch=2, period=3, copies=2)
>>> list(tokens.shape), bool((tokens[:, :3] == tokens[:, 3:]).all())
([2, 6], True)
"""

from mi_course.corpora.corpus import (
    BYTE_OF,
    END_OF_TEXT,
    HELD_OUT,
    PRINTABLE,
    RAISED,
    Corpus,
    Sampler,
    generator,
    visible,
)
from mi_course.corpora.library import (
    SKIP_FILES,
    SKIP_FOLDERS,
    files_below,
    fingerprint,
    from_folder,
    from_huggingface,
    from_texts,
    halves,
    is_held_out,
    python_text,
    shared_marks,
    standard_library,
    text_mark,
)
from mi_course.corpora.planted import (
    COUNTRIES,
    BigramChain,
    Cipher,
    Facts,
    Pairs,
    SkipTrigrams,
    mixed,
    random_repeats,
    repeated_tokens,
)
from mi_course.corpora.reading import read_folder
from mi_course.corpora.scripts import (
    ARABIC,
    HEBREW,
    MAKERS,
    PER_LINE,
    RATES,
    SCRIPTS,
    WORDS,
    ScriptCorpus,
    base64_of_digits,
    base64_of_letters,
    caps_names,
    in_scripts,
    labelled,
    labelled_corpus,
    plant,
    pseudo_words,
    script_text,
    tags,
)
from mi_course.corpora.vocabulary import UNKNOWN, handed_in, joined, shipped_tokenizer, train_tokenizer
