"""The one import of torchvision: its own build, a build for another torch, and none at all."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from deepcompress.errors import MissingExtraError
from deepcompress.vision import import_torchvision

# A torchvision in little: at import it registers fake kernels, as the real one does, for operators nobody has defined.
MISMATCHED = """
import torch

@torch.library.register_fake("torchvision::nms")
def nms(dets, scores, iou_threshold):
    return dets

@torch.library.register_fake("torchvision::qnms")
def qnms(dets, scores, iou_threshold):
    return dets
"""


def run_python(code: str, *path: Path) -> subprocess.CompletedProcess[str]:
    """Run `code` in a new interpreter, `path` first on its import path, warnings being errors."""
    prologue = f"import sys; sys.path[:0] = {[str(folder) for folder in path]!r}\n"
    command = [sys.executable, "-W", "error", "-c", prologue + textwrap.dedent(code)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def stand_in(folder: Path, body: str) -> Path:
    (folder / "torchvision").mkdir()
    (folder / "torchvision" / "__init__.py").write_text(body)
    (folder / "torchvision" / "datasets.py").write_text("MNIST = 'the data set'\n")
    return folder


def test_installed_torchvision_imports_in_a_fresh_interpreter() -> None:
    if importlib.util.find_spec("torchvision") is None:
        pytest.skip("torchvision is not installed")
    done = run_python("""
        from deepcompress.vision import import_torchvision
        print(import_torchvision("datasets").MNIST.__name__, import_torchvision().__name__)
    """)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["MNIST", "torchvision"]


def test_build_for_another_torch_fails_alone_and_imports_through_the_shim(tmp_path: Path) -> None:
    folder = stand_in(tmp_path, MISMATCHED)
    alone = run_python("import torchvision", folder)
    assert "operator torchvision::nms does not exist" in alone.stderr

    done = run_python(
        """
        from deepcompress.vision import import_torchvision
        first = import_torchvision("datasets")
        assert first is import_torchvision("datasets") and first is sys.modules["torchvision.datasets"]
        import torchvision
        assert torchvision is import_torchvision()
        print(first.MNIST)
        """,
        folder,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "the data set\n"


def test_operators_that_exist_are_not_declared_again(tmp_path: Path) -> None:
    done = run_python(
        """
        import torch
        own = torch.library.Library("torchvision", "DEF")
        own.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        from deepcompress.vision import import_torchvision
        print(import_torchvision().__name__)
        """,
        stand_in(tmp_path, MISMATCHED),
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "torchvision\n"


@pytest.fixture
def forgotten(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """A `monkeypatch` in a process that has not imported torchvision."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        monkeypatch.delitem(sys.modules, name)
    return monkeypatch


def test_missing_torchvision_names_the_extra(forgotten: pytest.MonkeyPatch) -> None:
    class Absent:
        def find_spec(self, name: str, *_: object) -> None:
            if name.partition(".")[0] == "torchvision":
                raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    forgotten.setattr(sys, "meta_path", [Absent(), *sys.meta_path])
    with pytest.raises(MissingExtraError) as caught:
        import_torchvision("datasets")
    assert str(caught.value) == "torchvision is not installed; pip install 'deepcompress[vision]'"


@pytest.mark.parametrize(
    ("body", "submodule", "kind", "message"),
    [
        ("raise RuntimeError('the disk is on fire')", "", RuntimeError, "the disk is on fire"),
        ("import not_there_at_all", "", ModuleNotFoundError, "No module named 'not_there_at_all'"),
        ("", "holography", ModuleNotFoundError, "No module named 'torchvision.holography'"),
    ],
)
def test_other_failures_pass_through(
    forgotten: pytest.MonkeyPatch, tmp_path: Path, body: str, submodule: str, kind: type[Exception], message: str
) -> None:
    forgotten.syspath_prepend(stand_in(tmp_path, body))
    with pytest.raises(kind, match=message) as caught:
        import_torchvision(submodule)
    assert type(caught.value) is kind
    sys.modules.pop("torchvision", None)
