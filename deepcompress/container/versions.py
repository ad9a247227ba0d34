"""Module versions (`state_dict._metadata`), which `load_state_dict` hands to the modules' own upgrade hooks.

The modules are those that the tensors' names imply, in their order, so that only the numbers are stored: one varint each,
0 for a module without a version. Those that hold tensors stand in one section. Those around them, which nearly always have
version 1, stand in another, where there is one that has not.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from deepcompress.container.layout import MAX_PATHS_AROUND
from deepcompress.container.varint import Cursor, varint


def module_paths(names: Iterable[str]) -> list[str]:
    """The modules that hold the named tensors: all before the last dot, each once, in order."""
    return list(dict.fromkeys(name.rpartition(".")[0] for name in names))


def paths_around(names: Iterable[str]) -> list[str]:
    """The modules around those, which hold no tensor themselves: the outermost first, each once, in order.

    None where they are too long together: each dot of a long name makes another path.
    """
    listed = module_paths(names)
    found: list[str] = []
    seen, length = set(listed), 0
    walked: set[str] = set()
    for path in listed:
        fresh = []
        while path and path not in walked:
            walked.add(path)
            path = path.rpartition(".")[0]
            if path not in seen:
                seen.add(path)
                fresh.append(path)
                length += len(path)
            if length > MAX_PATHS_AROUND:
                return []
        found += reversed(fresh)
    return found


def pack_versions(versions: Mapping[str, int], paths: Sequence[str]) -> bytes:
    """The content of the section for these modules; versions of other modules are left out."""
    return b"".join(varint(versions.get(path, 0)) for path in paths)


def unpack_versions(data: bytes, paths: Sequence[str]) -> dict[str, int]:
    """Module path -> version, without those that have none."""
    cursor = Cursor(data, "module versions")
    versions = {path: cursor.varint() for path in paths}
    cursor.finish()
    return {path: version for path, version in versions.items() if version}
