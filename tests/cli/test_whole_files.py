"""Every file that the package writes appears whole or not at all: the commands' and the functions'."""

from __future__ import annotations

import ast
import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import deepcompress as dc
from deepcompress.errors import StorageError
from deepcompress.report.curves import picture
from deepcompress.training.trace import profile_trace

PACKAGE = Path(dc.__file__).parent
FULL = os.strerror(errno.ENOSPC)
# Neither writes a result: the one place that renames; the lock of a working directory; where a child's output goes.
MAY_WRITE = {"container/source.py", "pipeline/workdir.py", "exercises/child.py", "cli/console.py"}


@pytest.fixture
def full(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """From the `after`-th flush on, the disk is full."""

    def fill(after: int = 0) -> None:
        left, fsync = after, os.fsync

        def flush(handle: int) -> None:
            nonlocal left
            left -= 1
            if left < 0:
                raise OSError(errno.ENOSPC, FULL)
            fsync(handle)

        monkeypatch.setattr(os, "fsync", flush)

    return fill


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.parametrize(
    ("command", "output"),
    [
        (("compress", "in.pt", "--no-quantize", "-o"), "out.dcz"),
        (("compress", "in.safetensors", "--lossless", "-o"), "out.dcz"),
        (("expand", "in.dcz", "-o"), "out.safetensors"),
        (("expand", "in.dcz", "-o"), "out.pt"),
        (("exercise", "percentile", "--starter"), "new.py"),
    ],
    ids=lambda value: value if isinstance(value, str) else value[0],
)
def test_commands(cli, full, tensors, tmp_path: Path, monkeypatch, command: tuple[str, ...], output: str) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save(tensors, "in.pt")
    save_file(tensors, "in.safetensors")
    cli("compress", "in.pt", "-o", "in.dcz", "--no-quantize")
    if output != "new.py":  # a starter is written over nothing
        Path(output).write_bytes(b"old")
    before = content(tmp_path)
    full()
    ended = cli(*command, output)
    assert (ended.status, ended.err) == (1, f"deepcompress: error: cannot write {output}: {FULL}\n")
    assert content(tmp_path) == before


@pytest.mark.parametrize("after", [0, 1])
def test_shards_are_replaced_together(cli, full, sharded: Path, tmp_path: Path, after: int) -> None:
    """Where the second does not fit, the first stays what it was."""
    cli("compress", sharded, "-o", tmp_path / "m.dcz", "--no-quantize")
    folder = tmp_path / "expanded"
    shutil.copytree(sharded.parent, folder, ignore=lambda *_: ["m.dcz", "expanded"])
    for path in folder.iterdir():
        path.write_bytes(b"old")
    before = content(folder)
    assert len(before) >= 3
    full(after)
    ended = cli("expand", tmp_path / "m.dcz", "-o", folder / sharded.name)
    assert ended.status == 1
    assert FULL in ended.err
    assert content(folder) == before


def save(path: Path) -> None:
    dc.Pipeline([("encode", dc.HuffmanEncode())]).run(torch.nn.Linear(3, 2)).compressed.save(path)


def page(path: Path) -> None:
    dc.Pipeline([("encode", dc.HuffmanEncode())]).run(torch.nn.Linear(3, 2)).report.to_html(path)


def plot(path: Path) -> None:
    pytest.importorskip("matplotlib")
    with picture(path) as (axes,):
        axes.plot([1, 2])


def trace(path: Path) -> None:
    with profile_trace(path, wait=0, warmup=0, active=1) as traced:
        torch.ones(2).sum()
        traced.step()


@pytest.mark.parametrize(
    ("write", "name"), [(save, "m.dcz"), (page, "r.html"), (plot, "p.png"), (plot, "p.svg"), (trace, "t.json")]
)
def test_functions(tmp_path: Path, write: Callable[[Path], None], name: str) -> None:
    path = tmp_path / name
    path.write_bytes(b"old")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(errno.ENOSPC, FULL)))
        with pytest.raises(StorageError, match=f"cannot write .*{name}: {FULL}"):
            write(path)
    assert content(tmp_path) == {name: b"old"}
    write(path)
    assert list(content(tmp_path)) == [name]
    assert path.read_bytes() != b"old"


def writes(call: ast.Call) -> bool:
    """Whether a call opens a file for writing, or gives one its name."""
    name = call.func.attr if isinstance(call.func, ast.Attribute) else call.func.id if isinstance(call.func, ast.Name) else ""
    given = [*call.args, *(keyword.value for keyword in call.keywords if keyword.arg == "mode")]
    modes = [one.value for one in given if isinstance(one, ast.Constant) and isinstance(one.value, str)]
    if name in ("open", "fdopen"):
        return any(len(mode) <= 3 and set(mode) & set("wax+") for mode in modes)
    return name in ("write_text", "write_bytes", "savez", "tofile", "save_file", "rename", "replace") and (
        name not in ("rename", "replace") or ast.unparse(call.func).startswith("os.")
    )


def test_nothing_else_writes_files() -> None:
    found = {
        str(path.relative_to(PACKAGE)).replace(os.sep, "/")
        for path in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and writes(node)
    }
    assert "container/source.py" in found
    assert found <= MAY_WRITE
