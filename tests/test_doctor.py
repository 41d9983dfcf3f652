"""The doctor finds what is wrong, says what to do, and is content with this machine."""

import json

import pytest
import torch

from mi_course import files, models
from mi_course.course import doctor


def problems(check) -> list[str]:
    return [str(finding) for finding in check() if finding.remedy]


def test_this_machine_is_sound(capsys):
    assert doctor.main() == 0, capsys.readouterr().out
    assert "All is well." in capsys.readouterr().out


@torch.no_grad()  # as in a notebook that has switched gradients off
def test_single_and_double_precision_agree_with_the_stored_numbers():
    assert doctor.disagreements(doctor.golden("cpu")) == []
    assert doctor.disagreements(doctor.golden("cpu", torch.float64)) == []


def transposed_scores(self, x, qk_input):
    return self.right(x.flip(1), qk_input.flip(1)).flip(1)  # looks into the future


@pytest.mark.parametrize("wrong", ["sign of gelu", "mask", "softmax", "layernorm", "gradient"])
def test_a_silently_wrong_operation_is_noticed(wrong, monkeypatch):
    if wrong == "sign of gelu":
        gelu = torch.nn.functional.gelu
        monkeypatch.setattr(torch.nn.functional, "gelu", lambda x, **how: -gelu(x, **how))
    elif wrong == "mask":
        monkeypatch.setattr(models.Attention, "right", models.Attention.forward, raising=False)
        monkeypatch.setattr(models.Attention, "forward", transposed_scores)
    elif wrong == "softmax":
        softmax = torch.Tensor.softmax
        monkeypatch.setattr(torch.Tensor, "softmax", lambda x, dim: softmax(1.01 * x, dim))
    elif wrong == "layernorm":
        norm = models.Norm.forward
        monkeypatch.setattr(models.Norm, "forward", lambda self, x: 1.001 * norm(self, x))
    else:
        backward = torch.Tensor.backward
        monkeypatch.setattr(torch.Tensor, "backward", lambda loss: backward(1.001 * loss))
    assert doctor.disagreements(doctor.golden("cpu"))


def test_a_wrong_device_is_told_with_a_remedy(monkeypatch):
    monkeypatch.setattr(doctor, "golden", lambda device: doctor.GOLDEN | {"logits": 11.5})
    (line,) = problems(doctor.devices)
    assert line.startswith("✘ cpu: wrong logits (11.5 instead of -11.46") and "use device='cpu'" in line


def test_a_device_that_crashes_is_told(monkeypatch):
    def crash(device):
        raise RuntimeError("not implemented for this device\nlong trace")

    monkeypatch.setattr(doctor, "golden", crash)
    (line,) = problems(doctor.devices)
    assert "not implemented for this device" in line and "long trace" not in line


def test_missing_and_too_old_packages_are_told(monkeypatch):
    monkeypatch.setattr(
        doctor, "requires", lambda _: ["torch>=99", "no-such-package>=1", "old; python_version<'3'"]
    )
    assert [line.split(" → ")[1] for line in problems(doctor.packages)] == [
        "pip install 'torch>=99'",
        "pip install 'no-such-package>=1'",
    ]


def test_another_version_than_the_tested_one_is_no_problem(monkeypatch):
    monkeypatch.setattr(doctor, "tested_versions", lambda: {"torch": "9.9"})
    (finding,) = doctor.packages()
    assert "(tested: 9.9)" in str(finding) and not finding.remedy


def test_the_tested_set_is_known_with_and_without_a_clone(monkeypatch, tmp_path):
    beside = doctor.tested_versions()
    assert beside["torch"] == "2.13.0" and len(beside) > 100
    monkeypatch.setattr(doctor, "__file__", str(tmp_path / "mi_course" / "course" / "doctor.py"))
    assert doctor.tested_versions()["torch"] == "2.13.0", "carried by the installed package"


def test_altered_and_missing_checkpoint_files_are_told(monkeypatch, tmp_path):
    monkeypatch.setattr(files, "data_dir", lambda: tmp_path)
    for name in ("good", "altered", "cardless"):
        files.save_checked(tmp_path / "checkpoints" / name, {"w": torch.ones(3)})
    (tmp_path / "checkpoints" / "altered.safetensors").write_bytes(b"x")
    (tmp_path / "checkpoints" / "cardless.json").unlink()
    lines = [str(finding) for finding in doctor.checkpoints()]
    assert [line[0] for line in lines] == ["✘", "✘", "✔"]
    assert "truncated or altered" in lines[0] and lines[0].endswith("python -m mi_course train altered")
    assert "agree with their cards: 1" in lines[2]
    assert json.loads((tmp_path / "checkpoints" / "good.json").read_text())["sha256"]


def test_a_full_disk_is_told(monkeypatch):
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 1e8}))
    assert "make room" in problems(doctor.disk)[0]


def test_exit_code_counts_problems(monkeypatch, capsys):
    monkeypatch.setattr(doctor, "GIGABYTES_NEEDED", 1e9)
    assert doctor.main() == 1 and "1 problem." in capsys.readouterr().out


@pytest.mark.parametrize(
    "system, conda, make, words",
    [
        (("Darwin", "x86_64"), None, None, "Intel processor"),
        (("Windows", "AMD64"), None, None, "without make"),
        (("Linux", "x86_64"), "mi_course", "/usr/bin/make", "the conda environment mi_course; make is here"),
    ],
)
def test_the_doctor_says_which_machine_this_is(monkeypatch, system, conda, make, words):
    monkeypatch.setattr(doctor.platform, "system", lambda: system[0])
    monkeypatch.setattr(doctor.platform, "machine", lambda: system[1])
    monkeypatch.setattr(doctor.shutil, "which", lambda name: make)
    monkeypatch.setenv("CONDA_DEFAULT_ENV", conda) if conda else monkeypatch.delenv(
        "CONDA_DEFAULT_ENV", raising=False
    )
    assert any(words in str(finding) for finding in doctor.machine())


def test_the_doctor_names_what_is_missing_for_lab_and_test(monkeypatch):
    found = doctor.importlib.util.find_spec
    monkeypatch.setattr(
        doctor.importlib.util, "find_spec", lambda name: None if name == "jupyterlab" else found(name)
    )
    assert any("without jupyterlab" in f.what and "[dev]" in f.remedy for f in doctor.machine())


def test_real_models_are_looked_at(monkeypatch, tmp_path):
    monkeypatch.setenv("MI_COURSE_CACHE", str(tmp_path))
    told = list(doctor.carried())
    assert all("not fetched" in finding.what and not finding.remedy for finding in told) and len(told) == 2
    monkeypatch.setattr(doctor.pretrained, "here", lambda name: True)
    monkeypatch.setattr(doctor.pretrained, "damaged", lambda name: ["model.safetensors"])
    assert "model.safetensors is damaged → delete" in str(next(doctor.carried()))
