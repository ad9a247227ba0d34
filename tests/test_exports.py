"""The front door: every promised name is there, and opening it costs nothing."""

from __future__ import annotations

import importlib
import importlib.metadata
import json
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import deepcompress as dc
from deepcompress import errors

ROOT = Path(__file__).parent.parent

# Names in the README and in recipes; taking one away breaks somebody.
PROMISED = {
    "CompressedModel",
    "Finetune",
    "GradualPrune",
    "HuffmanEncode",
    "KMeansQuantize",
    "Pipeline",
    "Prune",
    "Retrain",
    "__version__",
    "hold_masks",
    "load",
    "open",
    "sensitivity_scan",
    *errors.__all__,
}
HEAVY = ("torch", "numpy", "numba", "scipy", "sklearn", "rich", "yaml", "safetensors", "matplotlib", "torchvision")


def loaded_after(code: str) -> set[str]:
    """The heavy modules that a new interpreter has loaded after running `code`."""
    report = f"\nimport json, sys\nprint(json.dumps([name for name in {HEAVY!r} if name in sys.modules]))"
    done = subprocess.run([sys.executable, "-c", code + report], capture_output=True, text=True, check=True, cwd=ROOT)
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_promised_names_are_exported() -> None:
    assert set(dc.__all__) >= PROMISED
    assert len(dc.__all__) == len(set(dc.__all__))


def test_every_exported_name_resolves_and_is_listed() -> None:
    for name in dc.__all__:
        assert getattr(dc, name) is not None, name
    assert set(dc.__all__) <= set(dir(dc))


def test_a_name_keeps_its_identity() -> None:
    assert dc.Pipeline is dc.Pipeline
    assert dc.FormatError is errors.FormatError


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match=r"module 'deepcompress' has no attribute 'Magic'"):
        dc.Magic  # noqa: B018


def test_the_front_door_loads_nothing_heavy() -> None:
    assert loaded_after("import deepcompress; deepcompress.__version__; deepcompress.FormatError") == set()


def test_opening_a_file_loads_no_torch() -> None:
    assert not loaded_after("import deepcompress as dc; dc.load; dc.open; dc.CompressedModel") & {"torch", "sklearn"}


def test_all_errors_are_one_family() -> None:
    for name in errors.__all__:
        assert issubclass(getattr(errors, name), errors.DeepCompressError)
        assert name in (errors.__doc__ or "")


@pytest.mark.parametrize("name", [module.name for module in pkgutil.walk_packages(dc.__path__, "deepcompress.")])
def test_every_module_imports_and_keeps_its_promises(name: str) -> None:
    if name == "deepcompress.__main__":
        pytest.skip("runs the command line")
    module = importlib.import_module(name)
    assert module.__doc__, f"{name} has no docstring"
    for exported in getattr(module, "__all__", ()):
        assert hasattr(module, exported), f"{name}.__all__ lists {exported}, which is not there"


def test_version_is_the_same_everywhere() -> None:
    from deepcompress.version import __version__

    assert dc.__version__ == __version__
    assert f"## {__version__} " in (ROOT / "CHANGELOG.md").read_text().replace(f"[{__version__}]", __version__)
