"""Dictionaries at scale: what a real model's stream is read with, laws of size, what a dictionary misses, clamping.

>>> from mi_course import sae, scaling
>>> world = scaling.families(n=3, each=2, d=8)
>>> x, truth = world.draw(100)
>>> dictionary = sae.SparseAutoencoder(sae.SaeConfig(8, 9, "nested", k=2, prefixes=(3,)))
>>> scaling.covered(dictionary.encode(x).detach(), truth).shape
torch.Size([9])
"""

from mi_course.scaling.clamping import (
    Rest,
    clamped,
    doses,
    first_order,
    mass,
    next_loss,
    replaced,
)
from mi_course.scaling.coverage import (
    FOUND,
    absorption,
    covered,
    f1,
    half_point,
    owners,
    same_topic_auc,
    splitting,
)
from mi_course.scaling.languages import Ciphers, Documents
from mi_course.scaling.laws import PowerLaw, frontier, interval, power_law
from mi_course.scaling.looking import Reader, overview, page, pages, recorded
from mi_course.scaling.planted import (
    STRENGTH,
    Rules,
    World,
    families,
    rules,
    topics,
    unit_rows,
    zipf,
    zipf_frequencies,
)
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
