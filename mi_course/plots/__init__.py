"""Figures with a title that states the finding, alt text and controls."""

from mi_course.plots.charts import bars, heatmap, line, scatter
from mi_course.plots.figure import COLOURS, CONTROLS, STYLE, Array, Figure, Marks, Names, Series
from mi_course.plots.geometry import polytopes, regions, stacks, vectors
from mi_course.plots.patterns import attention, attention_view
from mi_course.plots.tables import LEFT, grid, measured, rounded, table
from mi_course.plots.text import token_spans, tokens, tokens_view
from mi_course.plots.views import circuitsvis_script
