"""Module versions (`state_dict._metadata`), which `load_state_dict` hands to the modules' own upgrade hooks.

The modules are those that the tensors' names imply, in their order, so that only the numbers are stored: one varint each,
0 for a module without a version.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from deepcompress.container.varint import Cursor, varint


def module_paths(names: Iterable[str]) -> list[str]:
    """The modules that hold the named tensors: all before the last dot, each once, in order."""
    return list(dict.fromkeys(name.rpartition(".")[0] for name in names))


def pack_versions(versions: Mapping[str, int], names: Iterable[str]) -> bytes:
    """The content of the section for a file of these tensor names; versions of other modules are left out."""
    return b"".join(varint(versions.get(path, 0)) for path in module_paths(names))


def unpack_versions(data: bytes, names: Iterable[str]) -> dict[str, int]:
    """Module path -> version, without those that have none."""
    cursor = Cursor(data, "module versions")
    versions = {path: cursor.varint() for path in module_paths(names)}
    cursor.finish()
    return {path: version for path, version in versions.items() if version}
