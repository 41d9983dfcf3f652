"""Do the checks see mistakes? Every exercise's solution is changed in one place, again and again, and checked.

`python -m tests.mutants` writes docs/checks.md; `python -m tests.mutants NN` lists what got through in a notebook, and
what was refused without a word on why.
Kept libraries (mutmut, cosmic-ray) mutate files of a package and run its test suite for each mutant; here the code
stands in notebook cells, a check is its own test, and the mistakes worth having are those of tensors: axes,
transposes, masks, norms. So these operators are ours, on Python's own syntax tree.
"""

from __future__ import annotations

import ast
import contextlib
import copy
import functools
import importlib
import io
import re
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import nbformat

from mi_course import checks, files
from mi_course.course import classroom, places

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[1]
SWAPS = {
    "normalisation": [("sum", "mean"), ("softmax", "log_softmax"), ("softmax", "exp"), ("square", "abs")],
    "mask": [("triu", "tril"), ("ones_like", "zeros_like"), ("ones", "zeros")],
    "function": [
        ("max", "min"), ("argmax", "argmin"), ("cos", "sin"), ("relu", "abs"), ("clamp_min", "clamp_max"),
        ("log", "exp"), ("real", "imag"), ("indices", "values"), ("eigvals", "svdvals"), ("xlogy", "mul"),
    ],
}  # fmt: skip
FLIPS = {
    ast.Gt: (ast.GtE, ast.Lt), ast.GtE: (ast.Gt, ast.LtE), ast.Lt: (ast.LtE, ast.Gt), ast.LtE: (ast.Lt, ast.GtE),
    ast.Eq: (ast.NotEq,), ast.NotEq: (ast.Eq,), ast.In: (ast.NotIn,),
}  # fmt: skip
ARITHMETIC = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.Pow: ast.Mult, ast.MatMult: ast.Mult,
    ast.FloorDiv: ast.Mod, ast.Mod: ast.FloorDiv, ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd,
}  # fmt: skip
REDUCING = {
    "sum",
    "mean",
    "softmax",
    "log_softmax",
    "norm",
    "max",
    "min",
    "diagonal",
    "cat",
    "topk",
    "permute",
}

Changes = Iterator[tuple[str, ast.AST]]  # kind of mistake, what stands there instead


# -- operators: from a piece of a solution to the mistakes one could have made there -------------------


def arithmetic(node: ast.BinOp) -> Changes:
    """Signs, factors, operands left out or in the wrong order, transposed factors."""
    left, right, op = node.left, node.right, type(node.op)
    if op in ARITHMETIC:
        yield ("sign" if op in (ast.Add, ast.Sub) else "operator"), ast.BinOp(left, ARITHMETIC[op](), right)
    yield ("normalisation" if op in (ast.Div, ast.Pow) else "left out"), left
    yield "left out", right
    if op in (ast.MatMult, ast.Sub, ast.Div, ast.Pow):
        yield "order", ast.BinOp(right, node.op, left)
    if op is ast.MatMult:
        yield "transposition", ast.BinOp(ast.Attribute(left, "T", ast.Load()), node.op, right)
        yield "transposition", ast.BinOp(left, node.op, ast.Attribute(right, "T", ast.Load()))


def constant(node: ast.Constant) -> Changes:
    """Numbers a little off, flags turned round, axes of an einsum exchanged."""
    value = node.value
    if isinstance(value, bool):
        yield "flag", ast.Constant(not value)
    elif isinstance(value, int):
        yield "off by one", ast.Constant(value + 1)
        yield "off by one", ast.Constant(value - 1)
    elif isinstance(value, float):
        for other in {2 * value, value + 1, 0.0, -value} - {value}:
            yield "constant", ast.Constant(other)
    elif isinstance(value, str) and "->" in value:
        given, out = value.split("->")
        parts = given.split(",")
        yield "axis", ast.Constant(f"{given}->{out[::-1]}")
        for i, part in enumerate(parts):
            yield (
                "transposition",
                ast.Constant(",".join([*parts[:i], part[::-1], *parts[i + 1 :]]) + f"->{out}"),
            )


def negative(node: ast.UnaryOp) -> Changes:
    """A minus, a `not` or a ~ left out; −1 taken for 0 or −2."""
    yield "sign", node.operand
    if isinstance(node.op, ast.USub) and isinstance(node.operand, ast.Constant):
        for by in (1, -1):
            yield "off by one", ast.Constant(by - node.operand.value)


def comparison(node: ast.Compare) -> Changes:
    for flipped in FLIPS.get(type(node.ops[0]), ()):
        yield "comparison", ast.Compare(node.left, [flipped(), *node.ops[1:]], node.comparators)


def call(node: ast.Call) -> Changes:
    """Another function, none at all, arguments missing or in the wrong order."""
    name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
    method = isinstance(node.func, ast.Attribute) and getattr(node.func.value, "id", "") != "torch"
    if method or node.args:
        kind = "mask" if "mask" in name or name in ("triu", "tril") else "left out"
        yield kind, node.func.value if method else node.args[0]
    axis = "axis" if name in REDUCING else "argument"
    for i in range(len(node.keywords)):
        yield axis, ast.Call(node.func, node.args, node.keywords[:i] + node.keywords[i + 1 :])
    for i in range(len(node.args)):
        yield axis, ast.Call(node.func, node.args[:i] + node.args[i + 1 :], node.keywords)
    for args in neighbours(node.args):
        yield "order", ast.Call(node.func, args, node.keywords)
    if name == "range":
        for args in stepped(node.args):
            yield "off by one", ast.Call(node.func, args, node.keywords)


def named(node: ast.Attribute | ast.Name) -> Changes:
    """A function's neighbour: sum for mean, triu for tril; and `.T` left out."""
    name = node.attr if isinstance(node, ast.Attribute) else node.id
    if name in ("T", "real") and isinstance(node, ast.Attribute):
        yield "transposition" if name == "T" else "left out", node.value
    for kind, twins in SWAPS.items():
        for other in [b for a, b in twins if a == name] + [a for a, b in twins if b == name]:
            changed = copy.copy(node)
            setattr(changed, "attr" if isinstance(node, ast.Attribute) else "id", other)
            yield kind, changed


def subscript(node: ast.Subscript) -> Changes:
    """An index left out, indices in the wrong order."""
    yield "left out", node.value
    if isinstance(node.slice, ast.Tuple):
        for indices in neighbours(node.slice.elts):
            yield "axis", ast.Subscript(node.value, ast.Tuple(indices, ast.Load()), node.ctx)


def bounds(node: ast.Slice) -> Changes:
    for end in ("lower", "upper"):
        if (bound := getattr(node, end)) is not None:
            yield (
                "left out",
                ast.Slice(**{"lower": node.lower, "upper": node.upper, "step": node.step, end: None}),
            )
            for (other,) in stepped([bound]):
                yield (
                    "off by one",
                    ast.Slice(**{"lower": node.lower, "upper": node.upper, "step": node.step, end: other}),
                )


def branch(node: ast.IfExp) -> Changes:
    yield "branch", node.body
    yield "branch", node.orelse
    yield "branch", ast.IfExp(node.test, node.orelse, node.body)


def sequence(node: ast.Tuple | ast.List) -> Changes:
    if isinstance(node.ctx, ast.Load):
        for elements in neighbours(node.elts):
            yield "order", type(node)(elements, node.ctx)


def dictionary(node: ast.Dict) -> Changes:
    for values in neighbours(node.values):
        yield "order", ast.Dict(node.keys, values)


def condition(node: ast.comprehension) -> Changes:
    for i in range(len(node.ifs)):
        yield "branch", ast.comprehension(node.target, node.iter, node.ifs[:i] + node.ifs[i + 1 :], 0)


def line(node: ast.stmt) -> Changes:
    """A whole line left out."""
    yield "line left out", ast.Pass()


def cleaning(node: ast.Try) -> Changes:
    """What `finally` does, done only when all goes well."""
    yield "line left out", ast.If(ast.Constant(True), [*node.body, *node.finalbody], [])


SIZES = {"shape", "d_vocab", "n_ctx", "d_model", "d_head", "n_heads", "n_layers"}


def size(node: ast.Call | ast.Attribute) -> Changes:
    """The size that the first input had, for every input: what a number copied from the example does."""
    if isinstance(node, ast.Call):
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        known = name in ("len", "size", "numel")
    else:
        known = node.attr in SIZES and isinstance(node.ctx, ast.Load)
    if known:
        yield "hard-coded size", written("globals().setdefault({!r}, {})", ast.unparse(node), node)


def ties(node: ast.Call) -> Changes:
    """Of equal values the last where the first was taken."""
    name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
    given = [ast.unparse(item) for item in (*node.args, *node.keywords)]
    if isinstance(node.func, ast.Attribute):
        of, axis = f"({ast.unparse(node.func.value)})", (given or ["-1"])[0].split("=")[-1]
        if name in ("argmax", "argmin") and len(given) < 2 and not of.startswith("(torch"):
            yield (
                "lost tie",
                written(f"{of}.shape[{axis}] - 1 - {of}.flip({axis}).{name}({', '.join(given)})"),
            )
        if name == "index" and len(given) == 1:
            yield "lost tie", written(f"len({of}) - 1 - {of}[::-1].index({given[0]})")
    elif name in ("sorted", "max", "min") and node.keywords and len(node.args) == 1:
        yield "lost tie", written(f"{name}({', '.join([f'list({given[0]})[::-1]', *given[1:]])})")


def written(expression: str, value: str = "", at: ast.AST | None = None) -> ast.AST:
    """An expression as a piece of a syntax tree; with `at`, its place names what is remembered of `value`."""
    if at is not None:
        expression = expression.format(f"_size_{at.lineno}_{at.col_offset}", value)
    return ast.parse(expression, mode="eval").body


def neighbours(items: list) -> Iterator[list]:
    for i in range(len(items) - 1):
        yield [*items[:i], items[i + 1], items[i], *items[i + 2 :]]


def stepped(items: list) -> Iterator[list]:
    """One of the numbers a step more or less; numbers that stand there as such are left to `constant`."""
    for i, item in enumerate(items):
        for op in () if isinstance(item, ast.Constant) else (ast.Add(), ast.Sub()):
            yield [*items[:i], ast.BinOp(item, op, ast.Constant(1)), *items[i + 1 :]]


OPERATORS = {
    ast.BinOp: [arithmetic], ast.Constant: [constant], ast.UnaryOp: [negative], ast.Compare: [comparison],
    ast.Call: [call, size, ties], ast.Attribute: [named, size], ast.Name: [named], ast.Subscript: [subscript], ast.Slice: [bounds],
    ast.IfExp: [branch], ast.Tuple: [sequence], ast.List: [sequence], ast.Dict: [dictionary],
    ast.comprehension: [condition], ast.Assign: [line], ast.AugAssign: [line], ast.Expr: [line], ast.Return: [line],
    ast.Try: [cleaning], ast.Yield: [], ast.If: [line], ast.For: [line],
}  # fmt: skip


# -- mutants -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Mutant:
    """A solution with one mistake in it, and what its check said."""

    exercise: str
    kind: str
    change: str  # the line before → the line after
    source: str
    said: str | None = None  # None: it passed


def mutants(exercise: classroom.Exercise) -> list[Mutant]:
    """Every solution that differs from the exercise's in one place between its markers."""
    lines = exercise.answer.splitlines()
    first, last = (
        next(i for i, text in enumerate(lines, 1) if f"### {word} SOLUTION" in text)
        for word in ("BEGIN", "END")
    )
    tree = ast.parse(exercise.answer)
    original, found = ast.unparse(tree), {}
    for place in list(spots(tree, first, last)):
        before = place.get()
        for kind, other in changes(before, tree):
            place.set(other)
            with contextlib.suppress(SyntaxError, ValueError):
                source = ast.unparse(ast.fix_missing_locations(tree))
                compile(source, exercise.name, "exec")
                if source != original:
                    found.setdefault(
                        source, Mutant(exercise.name, kind, difference(original, source), source)
                    )
        place.set(before)
    return list(found.values())


@dataclass
class Place:
    """Where a node hangs in the tree."""

    parent: ast.AST
    field: str
    index: int | None

    def get(self) -> ast.AST:
        held = getattr(self.parent, self.field)
        return held if self.index is None else held[self.index]

    def set(self, node: ast.AST) -> None:
        if self.index is None:
            setattr(self.parent, self.field, node)
        else:
            getattr(self.parent, self.field)[self.index] = node


def spots(tree: ast.AST, first: int, last: int) -> Iterator[Place]:
    """Every node that stands on the lines between the markers."""
    for parent in ast.walk(tree):
        for field, value in ast.iter_fields(parent):
            for index, node in enumerate(value) if isinstance(value, list) else [(None, value)]:
                at = getattr(node, "lineno", getattr(getattr(node, "target", None), "lineno", 0))
                if isinstance(node, ast.AST) and first < at < last:
                    yield Place(parent, field, index)


def changes(node: ast.AST, tree: ast.AST) -> Changes:
    for operator in OPERATORS.get(type(node), ()):
        yield from operator(node)
    if (
        isinstance(node, ast.Name)
        and isinstance(node.ctx, ast.Load)
        and node.id in (names := variables(tree))
    ):
        for other in sorted(names - {node.id}):
            yield "wrong variable", ast.Name(other, ast.Load())
        yield "hard-coded argument", written("globals().setdefault({!r}, {})", node.id, node)


def variables(tree: ast.AST) -> set[str]:
    """What the function is given."""
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    return {argument.arg for function in functions[:1] for argument in function.args.args}


def difference(before: str, after: str) -> str:
    """The changed lines, before → after."""
    a, b = before.splitlines(), after.splitlines()
    while a and b and a[0] == b[0]:
        a, b = a[1:], b[1:]
    while a and b and a[-1] == b[-1]:
        a, b = a[:-1], b[:-1]
    return " → ".join("; ".join(text.strip() for text in part) or "∅" for part in (a, b))


# -- trying them ---------------------------------------------------------------------------------------


@functools.cache
def surroundings(notebook: str) -> dict:
    """What an exercise finds when nothing but the imports of its notebook has run."""
    nb = nbformat.read(places.find([notebook])[0], as_version=4)
    names: dict = {}
    for cell in nb.cells:
        if cell.cell_type == "code":
            imports = [
                n for n in ast.parse(plain(cell.source)).body if isinstance(n, (ast.Import, ast.ImportFrom))
            ]
            exec(compile(ast.Module(imports, []), notebook, "exec"), names)
    return names


def plain(source: str) -> str:
    """Python without the notebook's magics."""
    return re.sub(r"^( *)[%!].*$", r"\1pass", source, flags=re.MULTILINE)


def said(exercise: classroom.Exercise, answer: str) -> str | None:
    """What the check says to an answer; None where it passes."""
    names = dict(surroundings(exercise.notebook))
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            exec(compile(answer, exercise.name, "exec"), names)
        except Exception as error:  # an answer that is no function may fail as it is written
            return f"{type(error).__name__} in the answer"
        try:
            exec(compile(exercise.check, exercise.name, "exec"), names)
        except checks.CheckFailed as failed:
            return str(failed)
        except Exception as error:
            return f"{type(error).__name__} in the check: {error}"
    return None


def needs_its_notebook(exercise: classroom.Exercise) -> bool:
    """Whether the check line uses values that the notebook computed."""
    known = set(surroundings(exercise.notebook)) | {"checks"}
    defined = {node.id for node in ast.walk(ast.parse(exercise.answer)) if isinstance(node, ast.Name)}
    defined |= {
        node.name for node in ast.walk(ast.parse(exercise.answer)) if isinstance(node, ast.FunctionDef)
    }
    used = {node.id for node in ast.walk(ast.parse(exercise.check)) if isinstance(node, ast.Name)}
    return bool(used - known - defined)


def tried(exercise: classroom.Exercise) -> list[Mutant]:
    """All mutants of an exercise with what they were told."""
    return [replace(mutant, said=said(exercise, mutant.source)) for mutant in mutants(exercise)]


@functools.cache
def equivalent() -> dict[tuple[str, str], str]:
    """(exercise, change) → why this change is no mistake; the change is `bare`."""
    listed = tomllib.loads((ROOT / "tests" / "equivalent_mutants.toml").read_text(encoding="utf-8"))[
        "equivalent"
    ]
    return {(row["exercise"], bare(change)): row["why"] for row in listed for change in row["changes"]}


def bare(text: str) -> str:
    """A change without its brackets: Python 3.10 writes a pair around some tuples, 3.11 and later none."""
    return text.replace("(", "").replace(")", "")


def survivors(done: list[Mutant]) -> list[Mutant]:
    """Mistakes that the check let through."""
    return [m for m in done if m.said is None and (m.exercise, bare(m.change)) not in equivalent()]


# -- right answers -------------------------------------------------------------------------------------


@functools.cache
def right_answers() -> dict[str, list]:
    """Name of a check → the right answers that its own tests hold against it: RIGHT in tests/test_checks_*.py."""
    found: dict[str, list] = {}
    for path in sorted((ROOT / "tests").glob("test_checks_*.py")):
        right = importlib.import_module(f"tests.{path.stem}").RIGHT
        for check, *answers in right.items() if isinstance(right, dict) else right:
            flat = [f for answer in answers for f in (answer if isinstance(answer, list) else [answer])]
            found.setdefault(check.__name__.removeprefix("check_").replace("_", "-"), []).extend(flat)
    return found


# -- the page ------------------------------------------------------------------------------------------

KINDS = {
    "argument": "`f(x, k)` → `f(x)`", "axis": "`x.sum(0)` → `x.sum()`, `p[q, k]` → `p[k, q]`",
    "branch": "`a if by_norm else b` → `a`", "comparison": "`f > 0` → `f >= 0`", "constant": "`0.5` → `1.0`",
    "flag": "`keepdim=True` → `keepdim=False`", "function": "`relu` → `abs`, `max` → `min`", "left out": "`a + b` → `a`",
    "hard-coded argument": "`cut` → what it was for the first input",
    "hard-coded size": "`len(tokens)` → what it was for the first input",
    "line left out": "`z = z.clone()` → nothing", "lost tie": "`x.argmax()` → the last of equal values", "mask": "`triu(1)` → `tril(1)`, no mask at all",
    "normalisation": "`sum` → `mean`, `a / n` → `a`", "off by one": "`x[:, -n:]` → `x[:, -n + 1:]`",
    "operator": "`a @ b` → `a * b`", "order": "`a @ b` → `b @ a`, `f(q, k)` → `f(k, q)`",
    "sign": "`a - b` → `a + b`, `-1` → `1`", "transposition": "`Q @ K.T` → `Q @ K`",
    "wrong variable": "`W_E[i]` → `W_U[i]`",
}  # fmt: skip
VAGUE, RAISED = "test inputs come out right", "it raises"
OPENING = """\
# What the checks see

Every exercise checks itself: it runs the learner's answer on a few inputs, compares, and names the likely mistake. But
would it notice one? Here each solution is changed in one place, in every way listed below, and handed in. A change that
is no mistake (the axis −1 of a matrix for its axis 1) is set aside by hand, with the reason.

**{n} exercises, {mutants} changed solutions, {equal} of them no mistakes. Of the other {wrong} the checks refuse {refused}
({share:.1%}).** {told:.0%} are told what is wrong or which error their code raises; the others hear on how many inputs they
are right. {right} right answers, written in two or more ways for each exercise, all pass.

Written by `python -m tests.mutants`; `make test` repeats it. What this does not show: mistakes in two places, and whether a
learner understands the sentence.
"""


def heard(done: list[Mutant]) -> dict[str, int]:
    """How many mistakes were refused, how many with a word on what is wrong, and how many changes are no mistakes."""
    equal = [m for m in done if m.said is None and (m.exercise, bare(m.change)) in equivalent()]
    refused = [m for m in done if m.said is not None]
    return {
        "mutants": len(done),
        "equal": len(equal),
        "wrong": len(done) - len(equal),
        "refused": len(refused),
        "named": sum(VAGUE not in m.said and RAISED not in m.said for m in refused),
        "raised": sum(RAISED in m.said for m in refused),
    }


def row(first: str, done: list[Mutant]) -> str:
    n = heard(done)
    vague = n["refused"] - n["named"] - n["raised"]
    return f"| {first} | {n['wrong']} | {n['refused']} | {n['named']} | {n['raised']} | {vague} |"


HEADS = "mistakes | refused | told what | Python's error | only that |"


def page(tried_: dict[str, list[Mutant]], exercises: list[classroom.Exercise]) -> str:
    """docs/checks.md."""
    everything = [m for done in tried_.values() for m in done]
    n = heard(everything)
    told = (n["named"] + n["raised"]) / n["refused"]
    right = len(tried_) + sum(len(right_answers().get(name, ())) for name in tried_)
    lines = [OPENING.format(n=len(tried_), right=right, share=n["refused"] / n["wrong"], told=told, **n)]
    lines += ["## By kind of mistake", "", f"| kind | for example | {HEADS}", "|---" * 7 + "|"]
    for kind, example in KINDS.items():
        lines.append(row(f"{kind} | {example}", [m for m in everything if m.kind == kind]))
    lines += ["", "## By exercise"]
    for notebook in dict.fromkeys(e.notebook for e in exercises):
        lines += ["", f"### {notebook}", "", f"| exercise | {HEADS}", "|---" * 6 + "|"]
        for e in exercises:
            if e.notebook == notebook:
                name = f"{sentence(e.title)} {'★' * e.stars}"
                lines.append(
                    row(name, tried_[e.name])
                    if e.name in tried_
                    else f"| {name} | needs its notebook | | | | |"
                )
    lines += ["", "## What learners believe", "", "The misconception each exercise is built around.", ""]
    for notebook in dict.fromkeys(e.notebook for e in exercises):
        lines += [f"**{notebook}**", ""]
        lines += [f"- *{sentence(e.title)}*: {e.misconception}" for e in exercises if e.notebook == notebook]
        lines.append("")
    lines += ["## Changes that are no mistakes", ""]
    for name in sorted({name for name, _ in equivalent()}):
        reasons = [why for (exercise, _), why in equivalent().items() if exercise == name]
        lines += [
            f"- `{name}`: "
            + "; ".join(f"{why} ({reasons.count(why)})" for why in dict.fromkeys(reasons))
            + "."
        ]
    return "\n".join(lines) + "\n"


def sentence(text: str) -> str:
    return (text[:1].upper() + text[1:]).replace("|", "\\|")


def main(names: list[str]) -> int:
    """Write docs/checks.md; with names of notebooks, only say what got through and what heard nothing in particular."""
    exercises = classroom.exercises(names)
    done = {e.name: tried(e) for e in exercises if not needs_its_notebook(e)}
    alive = survivors([m for of_one in done.values() for m in of_one])
    for mutant in alive:
        print(f"{mutant.exercise}: passed though changed ({mutant.kind}): {mutant.change}")
    if not names:
        files.write(ROOT / "docs" / "checks.md", page(done, exercises))
        print(ROOT / "docs" / "checks.md")
    else:
        vague = [m for of_one in done.values() for m in of_one if m.said and VAGUE in m.said]
        print("\n".join(f"{m.exercise}: {m.kind}: {m.change}" for m in vague))
    return 1 if alive else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
