"""The course as a whole: find, run, guard, store and hand out its notebooks."""
