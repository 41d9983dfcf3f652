"""What the units of an image network answer to, and pictures made to please them.

>>> from mi_course import vision
>>> vision.largest_gap([0, 90, 200])  # between neighbouring directions on the circle
160.0
"""

from mi_course.vision.by_hand import ByHand, arc_kernel, line_kernels
from mi_course.vision.factors import best_match, correlation, one_sided_nmf, spread, turned
from mi_course.vision.photos import inside, patches, photographs, views
from mi_course.vision.planted import shapes
from mi_course.vision.reading import (
    centre_of,
    checked_images,
    folded,
    in_the_middle,
    known_channels,
    maps,
    unit_hooks,
    visit,
)
from mi_course.vision.render import (
    LOGITS,
    Made,
    alike,
    answers,
    colour_matrix,
    from_coefficients,
    high_share,
    moved,
    one_over_f,
    spectrum,
    visualise,
)
from mi_course.vision.sets import CUES, DIRECTIONS, Stimuli, border_stimuli, curve_stimuli
from mi_course.vision.stimuli import (
    arc,
    border,
    coordinates,
    corner,
    disc,
    edge,
    grating,
    line,
    painted,
    ring,
    texture,
    towards,
)
from mi_course.vision.tuning import (
    BorderRule,
    BorderUnits,
    CurveRule,
    CurveUnits,
    apart,
    arc_curves,
    beyond,
    from_the_peak,
    largest_gap,
    opposite,
    peak_direction,
    width,
)
