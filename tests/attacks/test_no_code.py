"""Opening a file runs no code: Python itself tells of all that happens while files are read, and nothing of it is code."""

from __future__ import annotations

import ast
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "deepcompress"
TESTS = Path(__file__).parents[1]
FORBIDDEN = {"pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib", "runpy", "code", "codeop"}

# After a first round, in which modules are imported and kernels compiled, all files are read again under an audit hook.
_AUDITED = """
    import contextlib, io, os, pickle, sys
    from pathlib import Path
    import torch
    import deepcompress as dc
    from deepcompress.cli.main import main
    from deepcompress.tensors.bundle import read_bundle

    folder, out = Path(sys.argv[1]), Path(sys.argv[2])

    class Harm:
        def __reduce__(self):
            return os.system, (f"touch {out / 'harm'}",)

    payload = pickle.dumps(Harm())
    kept = dc.Pipeline([("encode", dc.HuffmanEncode())]).run(
        {"weight": torch.frombuffer(bytearray(payload), dtype=torch.uint8)},
        metadata={"pickle": payload.decode("latin-1")}, store_recipe=True,
    ).compressed
    kept.save(out / "harm.dcz")
    files = [*sorted(folder.glob("golden/*.dcz")), *sorted(folder.glob("attacks/corpus/*.dcz")), out / "harm.dcz"]

    def read(path):
        for framework in ("torch", "numpy"):
            with contextlib.suppress(dc.FormatError, dc.ModelError):
                model = dc.load(path, framework=framework, max_bytes=1 << 22)
                _ = model.metadata, model.recipe, model.versions, model.bits, model.inspect(), model.verify()
                _ = model.numpy(), model.state_dict()
        with contextlib.suppress(dc.FormatError, dc.StorageError):
            read_bundle(path)
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            main(["inspect", str(path)])
            main(["verify", str(path)])

    for path in files:
        read(path)
    events = set()
    harmless = ("array.", "builtins.id", "cpython.", "gc.", "object.", "sys._getframe", "threading.", "_thread.", "time.")

    def hook(event, arguments):
        to_read = event == "open" and not (set("wax+") & set(arguments[1] or "") or arguments[2] & (os.O_WRONLY | os.O_RDWR))
        if not to_read and not event.startswith(harmless):
            events.add((event, str(arguments)[:80]))

    sys.addaudithook(hook)
    for path in files:
        read(path)
    print(len(files), sorted(events))
"""


def test_nothing_is_run_imported_or_written_while_files_are_read(tmp_path: Path) -> None:
    program = [sys.executable, "-c", textwrap.dedent(_AUDITED), TESTS, tmp_path]
    said = subprocess.run(program, capture_output=True, text=True, check=False, timeout=300, cwd=PACKAGE.parent)
    count, _, events = said.stdout.partition(" ")
    assert int(count) > 50, said.stderr
    assert events.strip() == "[]"
    assert not (tmp_path / "harm").exists()


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def imported(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (name.name.split(".")[0] for name in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield (node.module or "").split(".")[0]


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_module_has_the_means(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    if path.name == "checkpoints.py":  # what torch raises, where it refuses to unpickle
        assert ast.unparse(tree).count("pickle.") == ast.unparse(tree).count("pickle.UnpicklingError")
    else:
        assert not FORBIDDEN & set(imported(tree))
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            assert called not in ("eval", "exec", "compile", "__import__")
            if called == "torch.load":  # between processes that trust each other, or of weights alone
                safe = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}.get("weights_only")
                assert safe == "True" or path.name == "joined.py", path
