"""The course on the command line: python -m mi_course --help."""

import argparse
import sys

from mi_course import __version__
from mi_course.errors import CourseError

EXAMPLES = """\
examples:
  python -m mi_course run                    all notebooks, then the claims and the site
  python -m mi_course run 03 --jobs 1        one notebook
  python -m mi_course train --list           the shipped checkpoints and what they cost to rebuild
  python -m mi_course seeds 04               the claims of notebook 04 on three seeds
  python -m mi_course student 01 --out class a copy of notebook 01 without its solutions
  python -m mi_course doctor                 is this machine sound?

exit code: 0 when all is well, 1 when something failed, 2 when the command was not understood, 130 after Ctrl-C."""


def parser() -> argparse.ArgumentParser:
    raw = argparse.RawDescriptionHelpFormatter
    top = argparse.ArgumentParser("mi_course", description=__doc__, epilog=EXAMPLES, formatter_class=raw)
    top.add_argument("--version", action="version", version=f"mi_course {__version__}")
    commands = top.add_subparsers(dest="command", required=True, metavar="command")

    run = commands.add_parser("run", help="execute notebooks, show the claims, build the site")
    run.add_argument("notebooks", nargs="*", metavar="NN", help="numbers or names; all for none")
    run.add_argument(
        "--jobs", type=_positive, help="notebooks at a time (default: one per core, four at most)"
    )
    run.add_argument(
        "--timeout", type=_positive, default=900, metavar="S", help="seconds a cell may take (900)"
    )
    run.add_argument("--store", action="store_true", help="for authors: put the outputs into notebooks/")
    run.add_argument(
        "--measure", action="store_true", help="with --store: write seconds and memory into the opening"
    )

    train = commands.add_parser("train", help="rebuild a shipped checkpoint")
    train.add_argument("name", nargs="?", help="the recipe")
    train.add_argument("--list", action="store_true", help="what there is, and what it costs")
    train.add_argument("--seed", type=int, help="another seed than the recipe's first")
    train.add_argument("--out", metavar="DIR", help="where to (default: where the course finds it)")
    train.add_argument(
        "--device", default="cpu", help="cpu, or cuda for toy models where there is a GPU (cpu)"
    )

    seeds = commands.add_parser(
        "seeds", help="run notebooks on other seeds and table what the claims measured"
    )
    seeds.add_argument("notebooks", nargs="+", metavar="NN", help="numbers or names")
    seeds.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], metavar="N", help="which (0 1 2)")

    student = commands.add_parser("student", help="copies without solutions and outputs")
    student.add_argument("notebooks", nargs="*", metavar="NN", help="numbers or names; all for none")
    student.add_argument("--out", default="build/student", metavar="DIR", help="folder (build/student)")

    badges = commands.add_parser(
        "badges", help="rewrite badges, setup cells and README's table; tidy notebooks edited by hand"
    )
    badges.add_argument("--check", action="store_true", help="only say what is out of date")

    commands.add_parser("site", help="build the site from the notebooks as they are")
    commands.add_parser("doctor", help="check Python, packages, devices, checkpoints, disk")
    return top


def _positive(text: str) -> int:
    if not text.isdigit() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above zero")
    return int(text)


def dispatch(args: argparse.Namespace) -> int:
    """Do what was asked; imports happen here, so that --help answers at once."""
    if args.command == "run":
        from mi_course import course

        return course.run(args.notebooks, args.jobs, args.timeout, args.store, args.measure)
    if args.command == "train":
        return train(args)
    if args.command == "seeds":
        from mi_course import seeds

        return seeds.main(args.notebooks, args.seeds)
    if args.command == "student":
        from mi_course import classroom

        return classroom.student(args.notebooks, args.out)
    if args.command == "badges":
        from mi_course import classroom

        return classroom.badges(check=args.check)
    if args.command == "site":
        from mi_course import site

        print(site.build())
        return 0
    from mi_course import doctor

    return doctor.main()


def train(args: argparse.Namespace) -> int:
    from mi_course import processes, recipes

    if args.list or not args.name:
        for recipe in recipes.everything().values():
            cost = f"{recipe.minutes:g} min on {recipe.device}, {recipe.megabytes:g} MB"
            print(f"{recipe.name:24} {cost:28} {recipe.what}")
        return 0 if args.list else 2
    try:
        processes.join(args.name)
        path = recipes.train(args.name, seed=args.seed, out=args.out, device=args.device)
        if processes.rank() > 0:
            return 0  # the first process wrote the file
    finally:
        processes.leave()
    if args.name.startswith("toy-"):
        from mi_course import toy_recipes

        print(toy_recipes.say(path))
    print(path)
    return 0


def main(arguments: list[str] | None = None) -> int:
    args = parser().parse_args(arguments)
    try:
        return dispatch(args)
    except CourseError as error:
        print(f"mi_course: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nmi_course: stopped.", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
