"""What `pip install .` would install, and that the pinned versions agree with what is asked for."""

from __future__ import annotations

import configparser
import importlib.metadata
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def wheel_files(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """Names in the wheel that is built from a copy of the tree."""
    folder = tmp_path_factory.mktemp("wheel")
    for name in ("setup.cfg", "pyproject.toml", "LICENSE", "README.md"):
        shutil.copy(ROOT / name, folder)
    shutil.copytree(ROOT / "deepcompress", folder / "deepcompress", ignore=shutil.ignore_patterns("__pycache__"))
    build = "from setuptools.build_meta import build_wheel; build_wheel('out')"
    (folder / "out").mkdir()
    subprocess.run([sys.executable, "-c", build], cwd=folder, check=True, capture_output=True)
    (wheel,) = (folder / "out").iterdir()
    return set(zipfile.ZipFile(wheel).namelist())


def test_the_wheel_holds_the_whole_package(wheel_files: set[str]) -> None:
    source = {
        str(path.relative_to(ROOT))
        for path in (ROOT / "deepcompress").rglob("*")
        if path.is_file() and path.suffix in {".py", ".typed", ".yaml", ".html", ".css", ".js"}
    }
    assert "deepcompress/py.typed" in source
    assert source - wheel_files == set()


def test_the_wheel_holds_nothing_else(wheel_files: set[str]) -> None:
    tops = {name.partition("/")[0] for name in wheel_files}
    assert {re.sub(r"-.*\.", ".", top) for top in tops} == {"deepcompress", "deepcompress.dist-info"}


def pins() -> dict[str, str]:
    """Normalised name -> version, from constraints.txt."""
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pairs = (line.split("==") for line in lines if line and not line.startswith("#"))
    return {canonicalize_name(name): version for name, version in pairs}


def wanted() -> set[str]:
    """What setup.cfg asks for, with all extras, and what that needs in turn, here."""
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    lines = "\n".join((config["options"]["install_requires"], *config["options.extras_require"].values()))
    todo, seen = [Requirement(line) for line in lines.split("\n") if line], set[str]()
    while todo:
        name = canonicalize_name(todo.pop().name)
        if name not in seen:
            seen.add(name)
            needs = map(Requirement, _requires(name, optional=("bench", "fuzz", "transformers")))
            todo += [need for need in needs if need.marker is None or need.marker.evaluate({"extra": ""})]
    return seen


def _requires(name: str, optional: tuple[str, ...]) -> list[str]:
    """What an installed package needs. Those of some extras may be missing here: tests do without them."""
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    lines = [line for extra in optional for line in config["options.extras_require"][extra].split("\n")]
    spared = [canonicalize_name(Requirement(line).name) for line in lines if line]
    try:
        return importlib.metadata.requires(name) or []
    except importlib.metadata.PackageNotFoundError:
        if name not in spared:
            raise
        return []


def test_all_that_is_needed_is_pinned_to_one_version() -> None:
    assert wanted() - pins().keys() == set()
    assert pins()["torch"] == "2.13.0"
    assert [version for version in pins().values() if not re.fullmatch(r"[0-9][0-9a-z.]*", version)] == []
