"""The course on the command line: python -m mi_course --help."""

import sys

from mi_course.course.cli import main

if __name__ == "__main__":
    sys.exit(main())
