"""Files are written whole or not at all, text and bytes alike, and a pair of weights and card stays a pair."""

import json
import os

import pytest
import torch

from mi_course import files, grokking, induction, lenses, models, oracles, sae, steering
from mi_course.errors import CourseError


def test_text_and_bytes_are_written_as_they_are(tmp_path):
    assert files.write(tmp_path / "new" / "a.txt", "é\n✔\n").read_bytes() == "é\n✔\n".encode()
    assert files.write(str(tmp_path / "b.bin"), b"\x00\r\n").read_bytes() == b"\x00\r\n"
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["a.txt", "b.bin", "new"]


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_what_fails_leaves_the_old_files(tmp_path, monkeypatch, step):
    first, second = tmp_path / "first", tmp_path / "second"
    files.write_atomically({first: "old", second: "old"})

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, step, full)
    with pytest.raises(CourseError, match="No space left on device.*untouched"):
        files.write_atomically({first: "new", second: b"new"})
    assert first.read_text() == second.read_text() == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["first", "second"]


def pair(folder, number):
    return files.save_checked(folder / "pair", {"W": torch.full((3,), float(number))}, number=number)


def the_pair(folder):
    tensors, card = files.read_checked(folder / "pair")
    assert files.read_card(folder / "pair", verify=True)[1] == card
    return tensors["W"][0], card["number"]


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
@pytest.mark.parametrize("at", [1, 2, 3])
def test_whichever_renaming_fails_the_old_pair_is_there(tmp_path, monkeypatch, at, error):
    pair(tmp_path, 1)
    replace, count = os.replace, []

    def fails(*paths):
        count.append(paths)
        if len(count) == at:
            raise error
        replace(*paths)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", fails)
        with pytest.raises((CourseError, KeyboardInterrupt)):
            pair(tmp_path, 2)
    assert the_pair(tmp_path) == (1, 1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["pair.json", "pair.safetensors"]


def test_a_first_pair_that_fails_leaves_nothing(tmp_path, monkeypatch):
    replace = os.replace

    def fails(part, path):
        if path.suffix == ".json":
            raise OSError(28, "No space left on device")
        replace(part, path)

    monkeypatch.setattr(os, "replace", fails)
    with pytest.raises(CourseError, match="untouched"):
        pair(tmp_path, 1)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("at", [1, 2, 3, 4])
def test_a_pair_is_a_pair_wherever_a_kill_comes(tmp_path, monkeypatch, at):
    """Nothing runs after a kill: no putting back, no taking away."""
    pair(tmp_path, 1)
    left = 0
    for module, name in ((os, "replace"), (files, "_remove")):
        real = getattr(module, name)

        def killed(*given, real=real, **how):
            nonlocal left
            left += 1
            if left < at:
                real(*given, **how)

        monkeypatch.setattr(module, name, killed)
    pair(tmp_path, 2)
    monkeypatch.undo()
    assert left >= at and the_pair(tmp_path) in ((1, 1), (2, 2))
    pair(tmp_path, 3)
    assert the_pair(tmp_path) == (3, 3)
    files.remove_checked(tmp_path / "pair")
    assert not [path for path in tmp_path.iterdir() if not path.name.endswith(".tmp")]


def test_a_file_where_a_folder_should_be_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(CourseError, match="file.inside could not be written"):
        files.write(tmp_path / "file" / "inside", "text")
    assert (tmp_path / "file").read_text() == "in the way"


def test_a_pair_is_read_back_and_its_card_can_say_more(tmp_path):
    path = files.save_checked(tmp_path / "pair", {"W": torch.eye(3).T}, seed=1, what="λ")
    files.add_to_card(path, minutes=2.5)
    tensors, card = files.read_checked(tmp_path / "pair.json")
    assert torch.equal(tensors["W"], torch.eye(3))
    assert (card["seed"], card["what"], card["minutes"]) == (1, "λ", 2.5)
    assert "λ" in (text := path.with_suffix(".json").read_text(encoding="utf-8")) and text.endswith("}\n")
    assert json.loads(text) == card


@pytest.mark.parametrize("name", ["a/b", "a/b.json", "a/b.safetensors"])
def test_three_names_of_one_pair(name):
    assert files.with_suffix(name, ".json").as_posix() == "a/b.json"


@pytest.mark.parametrize("card", ["[]", "3", "null", '"words"', "{"])
def test_a_card_that_is_none_is_one_sentence(tmp_path, card):
    path = files.save_checked(tmp_path / "pair", {"W": torch.eye(3)})
    path.with_suffix(".json").write_text(card)
    with pytest.raises(CourseError, match="pair.json is not a readable card"):
        files.read_checked(path)


@pytest.mark.parametrize(
    "load, said",
    [
        (lambda: models.load("induction-2k"), "no model 'induction-2k'.*'induction-2l'"),
        (lambda: sae.SparseAutoencoder.load("sae-512"), "no autoencoder 'sae-512'. Did you mean"),
        (
            lambda: lenses.load_lens("smollm2-tunned"),
            "no lens 'smollm2-tunned'. Did you mean 'smollm2-tuned'",
        ),
        (lambda: oracles.load_update("smollm2-orcle", None), "no oracle 'smollm2-orcle'.*'smollm2-oracle'"),
        (lambda: grokking.shipped("groking"), "no run 'groking'.*'grokking'"),
        (lambda: steering.real.shipped("smollm2-dose"), "no sweep 'smollm2-dose'.*'smollm2-doses'"),
        (lambda: induction.training_log("induction-2k"), "no training log of 'induction-2k'.*'induction-2l'"),
        (lambda: induction.training_log("hidden-step"), "no training log of 'hidden-step'"),
        (
            lambda: induction.snapshots("induction-1l"),
            "no series of snapshots of 'induction-1l'.*'induction-2l'",
        ),
    ],
)
def test_a_misspelt_name_gives_the_nearest_of_its_kind(load, said):
    with pytest.raises(CourseError, match=said) as caught:
        load()
    assert "Rebuild" not in str(caught.value)


@pytest.mark.parametrize("kind", ["log", "snapshots"])
def test_a_log_that_is_missing_is_made_with_its_model(tmp_path, kind):
    with pytest.raises(CourseError, match="train induction-2l`"):
        files.read_checked(files.shipped_path(tmp_path / "induction-2l", kind))


@pytest.mark.parametrize(
    "load, said",
    [
        (lambda: grokking.shipped("grokking-sweep"), "no single run"),
        (lambda: grokking.shipped_sweep("grokking"), "no sweep"),
        (lambda: grokking.shipped(files.checkpoints() / "induction-1l"), "no single run"),
        (lambda: grokking.shipped_sweep(files.checkpoints() / "induction-1l"), "no sweep"),
        (lambda: lenses.load_lens(files.checkpoints() / "induction-1l"), "is no lens"),
        (lambda: oracles.load_update(files.checkpoints() / "induction-1l", None), "is no oracle"),
    ],
)
def test_another_kind_of_checkpoint_is_one_sentence(load, said):
    with pytest.raises(CourseError, match=said):
        load()


def test_what_is_shipped_is_known_by_name():
    assert "induction-2l" in files.checkpoint_names() and "sae-512-l3" in files.checkpoint_names("sae")
    assert files.minutes_of("induction-2l") > 0 and files.minutes_of("nothing") != files.minutes_of("nothing")
    assert files.shipped_path("induction-2l") == files.checkpoints() / "induction-2l.json"
    with pytest.raises(CourseError, match="no autoencoder 'sae-512'.*Did you mean"):
        files.shipped_path("sae-512", "sae")
