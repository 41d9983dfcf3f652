"""Figures with a title that states the finding, alt text and controls.

>>> from mi_course import plots
>>> scores = {"trained": [0.1, 0.9], "untrained": [0.1, 0.1]}
>>> plots.bars(["0.0", "0.1"], scores, control="untrained", xlabel="head", ylabel="score",
...            title="Head 0.1 looks one back", alt="One tall bar beside three low ones.")
Figure: Head 0.1 looks one back
"""

from mi_course.plots.charts import bars, heatmap, line, scatter
from mi_course.plots.diagrams import circuit
from mi_course.plots.figure import COLOURS, CONTROLS, STYLE, Array, Figure, Marks, Names, Series
from mi_course.plots.geometry import polytopes, regions, stacks, vectors
from mi_course.plots.patterns import attention, attention_view
from mi_course.plots.tables import LEFT, grid, measured, rounded, table
from mi_course.plots.text import Varying, token_spans, tokens, tokens_view, varying
from mi_course.plots.views import circuitsvis_script
from mi_course.plots.vision import pictures
