"""The course on the command line: python -m mi_course --help."""

import argparse
import contextlib
import io
import os
import sys
from pathlib import Path

from mi_course import __version__, files
from mi_course.errors import CourseError

EXIT_CODES = """\
exit code: 0 when all is well, 1 when something failed, 2 when the command was not understood, 130 after Ctrl-C."""
EXAMPLES = f"""\
examples:
  python -m mi_course run                     all notebooks, then the claims and the site
  python -m mi_course run 03 --jobs 1         one notebook
  python -m mi_course train --list            the shipped checkpoints and what they cost to rebuild
  python -m mi_course seeds 04                the claims of notebook 04 on three seeds
  python -m mi_course student 01 --out class  a copy of notebook 01 without its solutions
  python -m mi_course doctor                  is this machine sound?

{EXIT_CODES}
Ctrl-C is safe at any time: files are written whole or not at all."""


def parser() -> argparse.ArgumentParser:
    raw = argparse.RawDescriptionHelpFormatter
    top = argparse.ArgumentParser("mi_course", description=__doc__, epilog=EXAMPLES, formatter_class=raw)
    top.add_argument("--version", action="version", version=f"mi_course {__version__}")
    commands = top.add_subparsers(dest="command", required=True, metavar="command")

    def command(name: str, what: str, *examples: str) -> argparse.ArgumentParser:
        """A subcommand with its help, and examples after it: "arguments | what they do"."""
        rows = [f"python -m mi_course {name} {example}".split(" | ") for example in examples]
        width = max(len(typed.rstrip()) for typed, _ in rows) + 2
        shown = "\n".join(f"  {typed.rstrip():{width}}{told}" for typed, told in rows)
        epilog = f"examples:\n{shown}\n\n{EXIT_CODES}"
        added = commands.add_parser(name, help=what, description=what, epilog=epilog, formatter_class=raw)
        added.add_argument("--quiet", action="store_true", help="say nothing unless something fails")
        return added

    run = command(
        "run", "execute notebooks, show the claims, build the site",
        " | all of them", "03 --jobs 1 | one", "00 01 02 | some, side by side",
        "05 --store --measure | for authors: put outputs, seconds and memory into notebooks/",
    )  # fmt: skip
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

    train = command(
        "train", "rebuild a shipped checkpoint; a run that was stopped goes on when it is given again",
        "--list | what there is, and what it costs", "induction-2l | weights and card, to where the course finds them",
        "induction-2l --seed 3 --out mine | another seed, another place",
    )  # fmt: skip
    train.add_argument("name", nargs="?", help="the recipe")
    train.add_argument("--list", action="store_true", help="what there is, and what it costs")
    train.add_argument("--seed", type=int, help="another seed than the recipe's first")
    train.add_argument("--out", metavar="DIR", help="where to (default: where the course finds it)")
    train.add_argument(
        "--device", default="cpu", help="cpu, or cuda for toy models where there is a GPU (cpu)"
    )

    seeds = command(
        "seeds", "run notebooks on other seeds and table what the claims measured",
        "04 | on seeds 0, 1 and 2", "03 --seeds 7 8 | on others",
    )  # fmt: skip
    seeds.add_argument("notebooks", nargs="+", metavar="NN", help="numbers or names")
    seeds.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], metavar="N", help="which (0 1 2)")

    student = command(
        "student", "copies without solutions and outputs",
        " | renew notebooks/student/", "01 02 --out handout | two copies for a class",
        "03 --seed 7 | a variant of notebook 03", "01 --for nbgrader --out course | nbgrader's source folder",
    )  # fmt: skip
    student.add_argument("notebooks", nargs="*", metavar="NN", help="numbers or names; all for none")
    student.add_argument(
        "--out", metavar="DIR", help="folder (notebooks/student; with --seed or --for, one in build/)"
    )
    student.add_argument(
        "--seed", type=int, metavar="N",
        help="a variant: the line SEED = 0 of a notebook gets this number, so that data, weights and measured numbers "
        "differ; exercises and checks stay. A notebook without that line stays as it is, and is named",
    )  # fmt: skip
    student.add_argument(
        "--for", dest="made_for", choices=["nbgrader"],
        help="nbgrader: solutions stay, answers and checks carry its metadata and points, in source/NAME/NAME.ipynb",
    )  # fmt: skip

    badges = command(
        "badges", "rewrite badges, setup cells and README's table; tidy notebooks edited by hand",
        " | to the address in pyproject.toml", "--repo you/your_fork | to another one, which pyproject.toml keeps",
        "--check | only say what is out of date",
    )  # fmt: skip
    badges.add_argument("--check", action="store_true", help="only say what is out of date")
    badges.add_argument(
        "--repo", metavar="OWNER/NAME", help="where the course lives (default: as pyproject.toml says)"
    )
    badges.add_argument("--branch", metavar="B", help="the branch that badges open (default: likewise)")

    site = command(
        "site", "build the site from the notebooks as they are",
        " | then open build/site/index.html", "--out public | in a folder of your own",
    )  # fmt: skip
    site.add_argument("--out", metavar="DIR", help="folder (build/site)")
    command(
        "doctor", "check Python, packages, devices, checkpoints, disk", " | and what to do about each problem"
    )
    return top


def _positive(text: str) -> int:
    if not text.isdigit() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above zero")
    return int(text)


def dispatch(args: argparse.Namespace) -> int:
    """Do what was asked; imports happen here, so that --help answers at once."""
    if args.command == "run":
        from mi_course.course import runner

        return runner.run(args.notebooks, args.jobs, args.timeout, args.store, args.measure)
    if args.command == "train":
        return train(args)
    if args.command == "seeds":
        from mi_course.course import seeds

        return seeds.main(args.notebooks, args.seeds)
    if args.command == "student":
        from mi_course.course import classroom

        return classroom.student(args.notebooks, args.out, args.seed, args.made_for == "nbgrader")
    if args.command == "badges":
        from mi_course.course import badges

        return badges.badges(args.check, args.repo, args.branch)
    if args.command == "site":
        from mi_course.course import site

        print(site.build(args.out))
        return 0
    from mi_course.course import doctor

    return doctor.main()


def train(args: argparse.Namespace) -> int:
    from mi_course import processes, recipes

    if args.list or not args.name:
        for recipe in recipes.everything().values():
            minutes = (
                f"{recipe.minutes:g}" if recipe.minutes > 0 else "?"
            )  # NaN: never trained here, not shipped
            cost = f"{minutes} min on {recipe.device}, {recipe.megabytes:g} MB"
            print(f"{recipe.name:24} {cost:28} {recipe.what}")
        return 0 if args.list else 2
    writable(args.out or files.data_dir() / "checkpoints")
    try:
        processes.join(args.name)
        path = recipes.train(args.name, seed=args.seed, out=args.out, device=args.device)
        if processes.rank() > 0:
            return 0  # the first process wrote the file
    finally:
        processes.leave()
    if args.name.startswith("toy-"):
        from mi_course.recipes import toys as toy_recipes

        print(toy_recipes.say(path))
    print(path)
    return 0


def writable(folder: str | Path) -> None:
    """Better said now than after an hour of training."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    if not os.access(folder, os.W_OK):
        raise PermissionError(13, "Permission denied", str(folder))


def quietly(args: argparse.Namespace) -> int:
    """Do it without a word; if it fails, say everything on stderr."""
    os.environ["TQDM_DISABLE"] = "1"
    code, said = 1, io.StringIO()
    try:
        with contextlib.redirect_stdout(said):
            code = dispatch(args)
    finally:
        if code:
            print(said.getvalue(), file=sys.stderr, end="")
    return code


def main(arguments: list[str] | None = None) -> int:
    args = parser().parse_args(arguments)
    try:
        code = quietly(args) if args.quiet else dispatch(args)
        sys.stdout.flush()
        return code
    except CourseError as error:
        print(f"mi_course: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:  # of `… | head`: nobody reads on, and that is no failure
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:  # no permission, a full disk, a file where a folder should be
        place = Path(error.filename) if error.filename else None
        if place and place.suffix == ".tmp":  # of a file that is written beside its place
            place = place.parent
        where = f": {place}" if place else ""
        other = " (another folder: --out)" if "out" in args and args.command != "run" else ""
        print(f"mi_course: {error.strerror or error}{where}{other}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nmi_course: stopped.", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
