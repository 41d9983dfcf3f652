"""What is made from stored notebooks, made anew when one is stored."""

from collections.abc import Iterable

from mi_course.claims import nulls
from mi_course.course import badges, classroom, places


def renewed(names: Iterable[str]) -> None:
    """Write anew README's table, copies for students of the notebooks with these `names`, and the page of nulls."""
    root = places.root()
    if (root / "README.md").exists():
        badges.badges()
    classroom.student(names)
    if (page := root / "docs" / "nulls.md").exists():
        nulls.main(places.find(), page)
