"""The house, proved from its imports: they point down, siblings never meet, and some rooms do without torch."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

PACKAGE = Path(__file__).parent.parent / "deepcompress"

# Top to bottom. A room imports from rows below its own and from itself, never from its own row's other rooms.
HOUSE = (
    {"cli"},
    {"auto"},
    {"pipeline", "exercises"},
    {"report"},
    {"training"},
    {"prune", "quantize"},
    {"layers"},
    {"tensors"},
    {"container"},
    {"coding"},
    {"errors"},
)
FLOOR = {room: floor for floor, rooms in enumerate(HOUSE) for room in rooms}
# Beside the house: the front door and what it hands to everyone, recipes (data), and the networks of labs and examples.
BESIDE = {"__init__", "__main__", "version", "vision", "recipes", "models", "nn"}
TORCH_FREE = ("errors", "coding", "container", "tensors", "exercises", "cli", "version", "recipes", "__init__", "__main__")
# Imported only by functions that have torch modules, or a device of torch's, in hand.
TORCH_SIDE = {PACKAGE / "tensors" / f"{name}.py" for name in ("loading", "wrappers", "gpu", "gpu_launch", "gpu_kernels")}
FOR_LABS = {"models", "nn"}


class Import(NamedTuple):
    module: str
    eager: bool  # runs when the importing module is imported
    line: int


def imports_of(path: Path) -> Iterator[Import]:
    """Every import of a file, inside functions too; those for type checkers alone are left out."""
    package = ("deepcompress", *path.relative_to(PACKAGE).parent.parts)
    yield from _walk(ast.parse(path.read_text(encoding="utf-8")), package, eager=True)


def _walk(node: ast.AST, package: tuple[str, ...], *, eager: bool) -> Iterator[Import]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            yield from (Import(alias.name, eager, child.lineno) for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            base = ".".join(package[: len(package) + 1 - child.level]) if child.level else ""
            module = ".".join(filter(None, (base, child.module)))
            yield from (Import(f"{module}.{alias.name}", eager, child.lineno) for alias in child.names)
        elif isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            yield from _walk(ast.Module(child.orelse, []), package, eager=eager)
        else:
            in_function = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            yield from _walk(child, package, eager=eager and not in_function)


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def files() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def inner_imports() -> Iterator[tuple[Path, Import, str]]:
    """(file, import, the room imported from) for all imports within the package."""
    for path in files():
        for found in imports_of(path):
            parts = found.module.split(".")
            if parts[0] == "deepcompress":
                rest = parts[1] if len(parts) > 1 else ""
                inside = (PACKAGE / rest).is_dir() or (PACKAGE / f"{rest}.py").is_file()
                yield path, found, rest if inside else "__init__"


def where(path: Path, found: Import) -> str:
    return f"{path.relative_to(PACKAGE.parent)}:{found.line} imports {found.module}"


def test_every_room_has_its_place() -> None:
    rooms = {room_of(path) for path in files()}
    assert rooms <= FLOOR.keys() | BESIDE
    assert {"cli", "coding", "container", "errors", "tensors"} <= rooms


def test_imports_point_down_and_siblings_never_meet() -> None:
    def is_wrong(room: str, target: str) -> bool:
        return room in FLOOR and target in FLOOR and room != target and FLOOR[room] >= FLOOR[target]

    wrong = [where(path, found) for path, found, target in inner_imports() if is_wrong(room_of(path), target)]
    assert wrong == []


def test_rooms_do_not_use_the_front_door() -> None:
    """`import deepcompress as dc` is for users and for the command line, which is one."""
    wrong = [
        where(path, found)
        for path, found, target in inner_imports()
        if target == "__init__" and room_of(path) not in {"cli", "__init__"}
    ]
    assert wrong == []


def test_errors_import_nothing() -> None:
    assert {found.module for found in imports_of(PACKAGE / "errors.py")} <= {"__future__.annotations"}


def test_networks_are_imported_by_the_demo_alone() -> None:
    users = {path for path, _, target in inner_imports() if target in FOR_LABS and room_of(path) not in FOR_LABS}
    assert users <= {PACKAGE / "cli" / "demo.py"}


def test_networks_build_on_layers_at_most() -> None:
    wrong = [
        where(path, found)
        for path, found, target in inner_imports()
        if room_of(path) in FOR_LABS and target in FLOOR and FLOOR[target] < FLOOR["layers"]
    ]
    assert wrong == []


@pytest.mark.parametrize("room", TORCH_FREE)
def test_rooms_that_import_no_torch(room: str) -> None:
    """Neither at module level, nor through a room of this package that does."""
    mine = [path for path in files() if room_of(path) == room and path not in TORCH_SIDE]
    eager = [(path, found) for path in mine for found in imports_of(path) if found.eager]
    assert [where(*pair) for pair in eager if pair[1].module.split(".")[0] in {"torch", "sklearn", "torchvision"}] == []
    rooms = [(path, found, target) for path, found, target in inner_imports() if path in mine and found.eager]
    assert [where(path, found) for path, found, target in rooms if target not in TORCH_FREE] == []
    sides = tuple(".".join(("deepcompress", *side.relative_to(PACKAGE).with_suffix("").parts)) for side in TORCH_SIDE)
    assert [where(*pair) for pair in eager if pair[1].module.startswith(sides)] == []


def test_coding_and_container_import_no_torch_at_all() -> None:
    low = [path for path in files() if room_of(path) in {"errors", "coding", "container"}]
    wrong = [where(path, found) for path in low for found in imports_of(path) if found.module.split(".")[0] == "torch"]
    assert wrong == []


def test_the_reader_of_imports_sees_what_it_should(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The proof rests on `imports_of`; each form of import once."""
    monkeypatch.setitem(globals(), "PACKAGE", tmp_path)
    (tmp_path / "room").mkdir()
    path = tmp_path / "room" / "file.py"
    path.write_text(
        "import a.b, c\n"
        "from . import near\n"
        "from .side import x\n"
        "from ..up import y\n"
        "if TYPE_CHECKING:\n    import unseen\nelse:\n    import seen\n"
        "try:\n    import tried\nexcept ImportError:\n    pass\n"
        "class C:\n    import within\n    def f(self):\n        from deepcompress.late import z\n"
    )
    found = {(item.module, item.eager) for item in imports_of(path)}
    assert found == {
        ("a.b", True),
        ("c", True),
        ("deepcompress.room.near", True),
        ("deepcompress.room.side.x", True),
        ("deepcompress.up.y", True),
        ("seen", True),
        ("tried", True),
        ("within", True),
        ("deepcompress.late.z", False),
    }
