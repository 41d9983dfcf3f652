"""Dictionaries at scale: what a real model's stream is read with, laws of size, what a dictionary misses, clamping."""

from mi_course.scaling.reading import (
    DOCUMENTED,
    FORMS,
    PROSE,
    SUBJECTS,
    docstrings,
    documentation,
    huge,
    limit_of,
    prose_windows,
    sources,
    windows_of,
)
