"""Files of every version so far, read by the package and by the reference decoder to the digests written down with them."""

from __future__ import annotations

import hashlib
import importlib.util
import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import deepcompress as dc
from deepcompress.container import layout
from deepcompress.container.varint import Cursor
from deepcompress.errors import UnsupportedError
from deepcompress.tensors.accounting import representation
from tests.reference.decoder import read_whole

FOLDER = Path(__file__).parent
SCRIPT = FOLDER.parent.parent / "scripts" / "make_goldens.py"
EXPECTED: dict[str, Any] = json.loads((FOLDER / "digests.json").read_text(encoding="utf-8"))


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def test_none_is_missing_and_none_is_new() -> None:
    assert {path.stem for path in FOLDER.glob("*.dcz")} == set(EXPECTED)


@pytest.mark.parametrize("name", EXPECTED)
def test_the_package_reads_it(name: str) -> None:
    expected, data = EXPECTED[name], (FOLDER / f"{name}.dcz").read_bytes()
    assert digest(data) == expected["sha256"]
    with dc.open(FOLDER / f"{name}.dcz", framework="numpy") as model:
        kinds = {record.name: record.dtype for record in model.records}
        known = {key: model[key] for key in model if key not in expected["unknown"]}
        found = {key: [kinds[key], list(array.shape), digest(array.tobytes())] for key, array in known.items()}
        assert found == expected["tensors"]
        assert (model.ties, model.metadata, model.recipe) == (expected["ties"], expected["metadata"], expected["recipe"])
        assert model.versions == expected["versions"]
        assert model.inference == expected.get("inference", False)  # which older ones do not tell
        assert model.bits.file.total == 8 * len(data)
        for key in expected["unknown"]:
            with pytest.raises(UnsupportedError, match=repr(key)):
                model[key]


@pytest.mark.parametrize("name", EXPECTED)
def test_the_reference_reads_it(name: str) -> None:
    expected = EXPECTED[name]
    file = read_whole((FOLDER / f"{name}.dcz").read_bytes())
    found = {key: [tensor.dtype, list(tensor.shape), digest(tensor.data)] for key, tensor in file.tensors.items()}
    assert found == expected["tensors"]
    assert {key: tensor.tie for key, tensor in file.tensors.items() if tensor.tie} == expected["ties"]
    assert sorted(file.failed) == expected["unknown"]


def kinds_of_planes(parameters: bytes) -> Iterator[str]:
    """What the planes are, as their parameters say."""
    cursor = Cursor(parameters, "")
    for _ in range(cursor.varint()):
        cursor.byte()
        kind = cursor.byte()
        for _ in range(kind):  # a constant has one number, a coded plane has two
            cursor.varint()
        yield ("plain", "constant", "coded")[kind]


def test_they_cover_the_format() -> None:
    kinds, dtypes, geometries, cut = set(), set(), set(), set()
    for name in EXPECTED:
        with dc.open(FOLDER / f"{name}.dcz", framework="numpy") as model:
            for record in model.records:
                codec = record.values.codec if record.values else None
                kinds.add((representation(record), record.value_map, codec))
                kinds.add((record.one_offset, record.sparse is not None))
                dtypes |= {record.dtype, (record.dtype, record.stored)}
                if record.values and codec == layout.CODEC_PLANES:
                    cut |= {record.dtype, *kinds_of_planes(record.values.parameters)}
                geometries.add(record.values.geometry >> 5 if record.values and codec in (1, 2) else 0)
    both = {layout.CODEC_FIXED, layout.CODEC_HUFFMAN}
    assert {("raw", 0, 0), ("gaps", 0, 0), ("tie", 0, None)} <= kinds
    assert {("planes", 0, 3), ("gaps", 0, 3), ("constant", 3, None)} <= kinds
    assert {"plain", "constant", "coded", *(kind.name for kind in layout.DTYPES)} <= cut
    assert {("dense", value_map, codec) for value_map in (1, 2) for codec in (*both, layout.CODEC_CONTEXT)} <= kinds
    assert {("gaps", value_map, codec) for value_map in (1, 2) for codec in both} <= kinds
    assert {(one_offset, sparse) for one_offset in (True, False) for sparse in (True, False)} <= kinds
    assert {kind.name for kind in layout.DTYPES} <= dtypes
    assert {(dtype, stored) for dtype, narrow in layout.NARROWER.items() for stored in narrow} <= dtypes
    assert geometries == set(range(6))


def test_they_cover_each_kind_of_stream_with_each_dtype() -> None:
    found, metadata = set(), set()
    for name in EXPECTED:
        with dc.open(FOLDER / f"{name}.dcz", framework="numpy") as model:
            metadata |= set(model.inspect()["metadata_bytes"])
            for record in model.records:
                if record.values is not None:
                    found.add((record.sparse is not None, record.value_map, record.values.codec, record.dtype))
                    if record.sparse is not None:
                        found.add(("gaps", record.sparse.stream.codec))
    forms = [(layout.MAP_NONE, layout.CODEC_RAW), (layout.MAP_NONE, layout.CODEC_PLANES)]
    values = {(sparse, *form, kind.name) for sparse in (True, False) for form in forms for kind in layout.DTYPES}
    floats = ("float16", "bfloat16", "float32", "float64")
    codecs, maps = (layout.CODEC_FIXED, layout.CODEC_HUFFMAN), (layout.MAP_CODEBOOK, layout.MAP_AFFINE)
    symbols = {(sparse, *form, kind) for sparse in (True, False) for form in itertools.product(maps, codecs) for kind in floats}
    assert values | symbols | {("gaps", codec) for codec in codecs} <= found
    assert len(metadata) > len(layout.KNOWN_META)  # and one of a later version


def test_the_script_overwrites_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    spec = importlib.util.spec_from_file_location("make_goldens", SCRIPT)
    assert spec
    assert spec.loader
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    assert set(script.MAKERS) == set(EXPECTED)  # else the script would write what is missing, here and now
    before = {path.name: path.read_bytes() for path in FOLDER.iterdir() if path.suffix in (".dcz", ".json")}
    script.main()
    assert {path.name: path.read_bytes() for path in FOLDER.iterdir() if path.suffix in (".dcz", ".json")} == before
    assert capsys.readouterr().out.count("left alone") == len(EXPECTED)
