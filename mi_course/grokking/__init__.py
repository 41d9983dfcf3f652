"""Grokking."""

from mi_course.grokking.fourier import *  # noqa
from mi_course.grokking.network import *  # noqa
from mi_course.grokking.progress import *  # noqa
from mi_course.grokking.runs import *  # noqa
from mi_course.grokking.task import OPERATIONS, Task
