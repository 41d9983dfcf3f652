"""The examples of README and docs/ run as they are printed, on a small folder of text and a small model."""

import contextlib
import importlib.util
import io
import re
import shutil
from pathlib import Path

import pytest

from mi_course import pretrained

ROOT = Path(__file__).parents[1]
PAGES = [
    ROOT / "README.md",
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "docs" / "use").glob("*.md")),
]
BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)


def examples(page: Path) -> str:
    """All Python of a page as one script that keeps its line numbers."""
    text = page.read_text(encoding="utf-8")
    lines = [""] * (text.count("\n") + 1)
    for block in BLOCK.finditer(text):
        first = text[: block.start(1)].count("\n")
        written = block[1].splitlines()
        lines[first : first + len(written)] = written
    return "\n".join(lines)


@pytest.fixture
def desk(tmp_path, monkeypatch) -> Path:
    """What the examples name: my_texts, some Python files; my_gpt2, GPT-2's format with random weights."""
    import transformers
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel

    (tmp_path / "my_texts").mkdir()
    for path in sorted((ROOT / "mi_course").glob("*.py"))[:12]:
        shutil.copy(path, tmp_path / "my_texts")
    words = Tokenizer(WordLevel({"<unk>": 0, "<eos>": 1}, unk_token="<unk>"))
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>", eos_token="<eos>")
    fast.save_pretrained(tmp_path / "my_gpt2")
    config = transformers.GPT2Config(vocab_size=40, n_positions=32, n_embd=8, n_layer=2, n_head=2)
    transformers.GPT2LMHeadModel(config).save_pretrained(tmp_path / "my_gpt2")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    "page", [page for page in PAGES if BLOCK.search(page.read_text())], ids=lambda p: p.name
)
def test_examples_run_as_printed(page, desk):
    if page.name == "models.md" and not all(map(pretrained.here, pretrained.CARRIED)):
        pytest.skip("the real models are not here: python -m mi_course fetch")
    code = re.sub(r"\bsteps=\d+", "steps=3", examples(page))  # the one change: shorter training
    with contextlib.redirect_stdout(io.StringIO()):
        exec(compile(code, page.name, "exec"), {"__name__": "example"})


def test_the_worked_examples_say_what_they_promise(desk, capsys):
    exec(compile(re.sub(r"\bsteps=\d+", "steps=3", examples(ROOT / "docs" / "own.md")), "own.md", "exec"), {})
    said = capsys.readouterr().out
    assert re.search(r"my_texts: \d+ files to train on", said)
    loss, floor = map(float, re.search(r"held-out loss ([\d.]+) nats, bigram table ([\d.]+)", said).groups())
    assert floor < loss < 7, "three steps of training do not beat a bigram table, and log 512 is 6.2"
    assert (desk / "my_model.safetensors").exists() and (desk / "my_model.json").exists()


def test_every_link_between_pages_leads_somewhere():
    for page in PAGES:
        for target in re.findall(r"\]\((?!https?:|#)([^)#\s]+)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name} links to {target}, which is not here"


def found(name: str) -> bool:
    """Whether a dotted name leads to a module or to something in one."""
    thing, place = importlib.import_module("mi_course"), "mi_course"
    for part in name.split(".")[1:]:
        place = f"{place}.{part}"
        if not hasattr(thing, part) and importlib.util.find_spec(place) is None:
            return False
        thing = getattr(thing, part) if hasattr(thing, part) else importlib.import_module(place)
    return True


@pytest.mark.parametrize(
    "page", [*PAGES, ROOT / "CONTRIBUTING.md", ROOT / "data" / "README.md"], ids=lambda p: p.name
)
def test_every_name_of_the_package_on_a_page_is_in_the_package(page):
    """`mi_course.x` in a page of words, and the functions named beside it in a row of README's table."""
    text = page.read_text(encoding="utf-8")
    assert [name for name in re.findall(r"`(mi_course(?:\.\w+)+)", text) if not found(name)] == []
    for name, beside in re.findall(r"`(mi_course(?:\.\w+)+)` \(((?:`\w+`(?:, )?)+)\)", text):
        assert [part for part in re.findall(r"\w+", beside) if not found(f"{name}.{part}")] == []
