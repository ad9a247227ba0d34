"""The GPU's decoder in Triton's interpreter, on the CPU, against the CPU's decoder. `test_gpu.py` runs this in a process of its
own, as the interpreter is chosen when Triton is first imported.

Every access of a kernel is checked against the arrays that it was given, and stores against those that it may write.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from triton.runtime import interpreter

from deepcompress.coding.huffman import HuffmanCode
from deepcompress.coding.streams import FixedLanes, Geometry, HuffmanLanes, encode_stream
from deepcompress.container import layout
from deepcompress.container.records import Sparse, StreamRecord, TensorRecord
from deepcompress.errors import DeepCompressError, FormatError, UnsupportedError
from deepcompress.tensors import gpu, gpu_kernels, gpu_launch
from deepcompress.tensors.decode import decode_tensor
from deepcompress.tensors.elements import to_torch
from deepcompress.tensors.gpu import decode_on_device
from deepcompress.tensors.model import CompressedModel
from deepcompress.tensors.streams import Encoding, dense_counts
from tests.tensors import samples

CPU = torch.device("cpu")
GOLDEN = Path(__file__).parent.parent / "golden"
Sections = Mapping[str, Any]
Tables = tuple[Any, ...]
_WRITABLE = {"out", "flag"}


@pytest.fixture(autouse=True)
def bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each array in an allocation of its own, and no access outside them."""
    upload: Callable[..., Any] = gpu_launch.upload
    monkeypatch.setattr(gpu_launch, "upload", lambda arrays, device: [upload([array], device)[0] for array in arrays])
    readable: list[tuple[int, int]] = []
    writable: list[tuple[int, int]] = []
    init, load, store = (
        interpreter.GridExecutor._init_args_hst,
        interpreter.InterpreterBuilder.create_masked_load,
        interpreter.InterpreterBuilder.create_masked_store,
    )

    def init_args(self: Any, args: Any, kwargs: Any) -> Any:
        readable.clear(), writable.clear()
        found = init(self, args, kwargs)
        for name, arg in zip(self.arg_names, found[0], strict=False):
            if isinstance(arg, torch.Tensor):
                span = (arg.data_ptr(), arg.data_ptr() + arg.nbytes)
                (writable if name in _WRITABLE else readable).append(span)
        return found

    def masked_load(self: Any, pointers: Any, mask: Any, *rest: Any) -> Any:
        check(pointers, mask, readable + writable)
        return load(self, pointers, mask, *rest)

    def masked_store(self: Any, pointers: Any, value: Any, mask: Any, *rest: Any) -> Any:
        check(pointers, mask, writable)
        return store(self, pointers, value, mask, *rest)

    def check(pointers: Any, mask: Any, spans: list[tuple[int, int]]) -> None:
        size = pointers.get_element_ty().primitive_bitwidth // 8
        at = np.broadcast_to(pointers.data, np.broadcast_shapes(pointers.data.shape, mask.data.shape))[mask.data.astype(bool)]
        inside = np.zeros(at.shape, np.bool_)
        for low, high in spans:
            inside |= (at >= low) & (at + size <= high)
        assert inside.all(), "a kernel reached outside its arrays"

    monkeypatch.setattr(interpreter.GridExecutor, "_init_args_hst", init_args)
    monkeypatch.setattr(interpreter.InterpreterBuilder, "create_masked_load", masked_load)
    monkeypatch.setattr(interpreter.InterpreterBuilder, "create_masked_store", masked_store)


def stored(model: CompressedModel) -> Iterator[tuple[TensorRecord, dict[str, Any], Tables]]:
    directory = model._reader.directory
    for record, spans in zip(model.records, directory.spans, strict=True):
        if record.tie is None:
            yield record, {kind: model._reader.section(span) for kind, span in spans.items()}, directory.tables


def outcome(decode: Callable[[], Any]) -> tuple[Any, ...]:
    """Type, shape and bits of a tensor; or of an error its kind and text."""
    try:
        tensor = decode()
    except DeepCompressError as error:
        return type(error), str(error)
    return tensor.dtype, tensor.shape, tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def compare(record: TensorRecord, sections: Sections, tables: Tables) -> tuple[Any, ...]:
    expected = outcome(lambda: to_torch(decode_tensor(record, sections, tables), record.dtype))
    assert outcome(lambda: decode_on_device(record, sections, tables, CPU)) == expected, record
    return expected


def compare_all(data: bytes) -> None:
    for record, sections, tables in stored(CompressedModel(data)):
        if for_the_cpu(record):
            assert decode_on_device(record, sections, tables, CPU) is None
        else:
            assert isinstance(compare(record, sections, tables)[0], torch.dtype)


def for_the_cpu(record: TensorRecord) -> bool:
    """Constants, planes and unknown codecs, and nonzeros that are longer than any integer."""
    if record.constant is not None:
        return True
    longest = record.sparse is not None and record.dtype == "complex128"
    return record.values is not None and (record.values.codec > layout.CODEC_HUFFMAN or longest)


def test_it_is_the_interpreter() -> None:
    assert gpu_kernels.INTERPRETED
    assert gpu_launch.works_on(CPU)
    assert not gpu_launch.works_on(torch.device("meta"))


@pytest.mark.parametrize("path", sorted(GOLDEN.glob("*.dcz")), ids=lambda path: path.stem)
def test_golden_files(path: Path) -> None:
    for record, sections, tables in stored(CompressedModel(path)):
        if for_the_cpu(record):
            assert decode_on_device(record, sections, tables, CPU) is None
        elif record.value_count <= 600:  # a long lane takes the interpreter seconds
            assert isinstance(compare(record, sections, tables)[0], torch.dtype)


@pytest.mark.parametrize("coder", ["huffman", "fixed"])
@pytest.mark.parametrize("dtype", samples.FLOATS)
@pytest.mark.parametrize("density", [1.0, 0.1, 0.0])
def test_codebooks(dtype: str, density: float, coder: str) -> None:
    narrow = "float16" if dtype in ("float32", "float64") else None
    shapes = {0: (), 1: (13,), 2: (0, 3), 3: (5, 60), 300: (310,)}
    tensors: samples.Named = [
        (f"{k}", samples.shared_tensor(dtype, shape, k, k, density, narrow if k == 3 else None)) for k, shape in shapes.items()
    ]
    compare_all(samples.to_file(tensors, Encoding(coder=coder)))


@pytest.mark.parametrize("coder", ["huffman", "fixed"])
@pytest.mark.parametrize("dtype", samples.FLOATS)
@pytest.mark.parametrize("density", [1.0, 0.1])
def test_grids(dtype: str, density: float, coder: str) -> None:
    narrow = "bfloat16" if dtype in ("float32", "float64") else dtype
    tensors: samples.Named = [
        (f"{shape}.{axis}", samples.grid_tensor(dtype, kept, shape, axis, 7, levels, density))
        for shape, axis, levels, kept in (
            ((), None, 4, dtype), ((90,), None, 255, narrow), ((7, 10), 0, 16, dtype), ((7, 10), 1, 15, narrow),
            ((3, 4, 5), 1, 300, dtype), ((0, 3), 1, 4, dtype),
        )
    ]  # fmt: skip
    compare_all(samples.to_file(tensors, Encoding(coder=coder)))


@pytest.mark.parametrize("density", [1.0, 0.05])
def test_grids_in_chunks(density: float) -> None:
    for axis in (None, 0, 1):
        with samples.small_chunks(40, 4):
            compare_all(samples.to_file([("a", samples.grid_tensor("float32", "float32", (17, 23), axis, 3, 15, density))]))


@pytest.mark.parametrize("lanes", [1, 2, 4, 8, 16, 32])
@pytest.mark.parametrize("density", [1.0, 0.03])
def test_chunks_and_lanes(lanes: int, density: float) -> None:
    """Also with gaps that take escapes, chunks without symbols, and a last chunk that is shorter."""
    size = 171 if density == 1 else 391
    for coder in ("huffman", "fixed"):
        with samples.small_chunks(40, lanes):
            tensors: samples.Named = [("a", samples.shared_tensor("float32", (size,), 15, lanes, density))]
            compare_all(samples.to_file(tensors, Encoding(coder=coder)))


@pytest.mark.parametrize("lanes", [1, 32])
def test_sparse_raw_values(lanes: int) -> None:
    kinds = [("float32", "bfloat16"), ("float64", "float32"), ("int64", "int8"), ("bool", "bool"), ("uint16", "uint16")]
    with samples.small_chunks(40, lanes):
        compare_all(samples.to_file([(dtype, samples.dense_tensor(dtype, kept, (700,), 3, 0.05)) for dtype, kept in kinds]))


def test_elements_of_16_bytes_are_for_the_cpu_where_they_are_sparse() -> None:
    data = samples.to_file([("a", samples.dense_tensor("complex128", "complex128", (700,), 3, 0.05))])
    for record, sections, tables in stored(CompressedModel(data)):
        assert record.sparse is not None
        assert decode_on_device(record, sections, tables, CPU) is None


@pytest.mark.parametrize(("dtype", "kept", "bits"), [("float32", "float16", "<u2"), ("float64", "float32", "<u4")])
def test_a_nan_that_is_to_be_widened_is_for_the_cpu(dtype: str, kept: str, bits: str) -> None:
    record = TensorRecord("a", dtype, (1,), kept, values=StreamRecord(0, np.dtype(bits).itemsize))
    values = np.full(np.dtype(bits).itemsize, 255, np.uint8)
    assert decode_on_device(record, {"values": values}, (), CPU) is None


@pytest.mark.parametrize("lanes", [1, 32])
def test_an_alphabet_of_65_537_symbols(lanes: int) -> None:
    """Codewords of 17 bits, one in an entry; and fields of 17 bits."""
    lengths = np.full(65_537, 16)
    lengths[-2:] = 17
    rng = np.random.default_rng(5)
    symbols = np.concatenate([rng.integers(0, 65_537, 200), [65_536, 65_535, 0, 1]])
    centroids = np.arange(1, 65_537, dtype=np.float32)
    for codec, coder, parameters in (
        (layout.CODEC_HUFFMAN, HuffmanLanes(HuffmanCode.from_lengths(lengths)), b"\0"),
        (layout.CODEC_FIXED, FixedLanes(17, 0), bytes([17, 0])),
    ):
        section = encode_stream(symbols, coder, lanes, dense_counts(len(symbols), 6), counts_known=True)
        values = StreamRecord(codec, len(section), Geometry(6, lanes).pack(), parameters)
        record = TensorRecord("a", "float32", (len(symbols),), "float32", layout.MAP_CODEBOOK, 65_536, values=values)
        sections = {"codebook": centroids.view(np.uint8), "values": section}
        assert isinstance(compare(record, sections, (lengths.astype(np.uint8),))[0], torch.dtype)


def test_codewords_of_every_length() -> None:
    """Of 1 to 20 bits, which takes a table of 2**20 entries."""
    code = HuffmanCode.from_lengths([*range(1, 21), 20])
    symbols = np.concatenate([np.arange(21), np.random.default_rng(1).permutation(42) % 21])
    section = encode_stream(symbols, HuffmanLanes(code), 2, dense_counts(len(symbols), 5), counts_known=True)
    values = StreamRecord(layout.CODEC_HUFFMAN, len(section), Geometry(5, 2).pack(), b"\0")
    record = TensorRecord("a", "float16", (9, 7), "float16", layout.MAP_CODEBOOK, 20, values=values)
    sections = {"codebook": np.arange(1, 21, dtype=np.float16).view(np.uint8), "values": section}
    assert isinstance(compare(record, sections, (code.lengths,))[0], torch.dtype)


def test_many_lanes_take_whole_warps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_launch, "_FEW_LANES", 0)
    with samples.small_chunks(40, 4):
        compare_all(samples.to_file([("a", samples.shared_tensor("float16", (171,), 40, 1, 1.0))]))


def small_files() -> list[bytes]:
    """A dense and a sparse tensor each, in few bytes."""
    files = []
    dense = [(1, "huffman", 1.0), (4, "huffman", 1.0), (2, "fixed", 1.0)]
    for lanes, coder, density in [*dense, (1, "huffman", 0.2), (2, "fixed", 0.2)]:
        with samples.small_chunks(16, lanes):
            tensors: samples.Named = [("a", samples.shared_tensor("float32", (44,), 6, 2, density))]
            files.append(samples.to_file(tensors, Encoding(coder=coder)))
    files.append(samples.to_file([("a", samples.dense_tensor("int16", "int16", (90,), 3, 0.1))]))
    for axis, density in ((None, 1.0), (1, 0.2)):
        with samples.small_chunks(16, 2):
            files.append(samples.to_file([("a", samples.grid_tensor("float16", "float16", (11, 4), axis, 5, 7, density))]))
    return files


@pytest.mark.parametrize("number", range(8))
def test_a_changed_bit_gives_what_the_cpu_gives(number: int) -> None:
    """The same tensor, or the same error in the same words."""
    ((record, sections, tables),) = stored(CompressedModel(small_files()[number]))
    rng = np.random.default_rng(number)
    kinds = set()
    for kind in sections:
        bits = 8 * len(sections[kind])
        for bit in rng.permutation(bits)[:40].tolist():
            changed = sections[kind].copy()
            changed[bit >> 3] ^= 1 << (bit & 7)
            kinds.add(isinstance(compare(record, {**sections, kind: changed}, tables)[0], torch.dtype))
    assert kinds == {True, False}


@pytest.mark.parametrize("number", range(8))
def test_other_records_and_lengths_give_what_the_cpu_gives(number: int) -> None:
    ((record, sections, tables),) = stored(CompressedModel(small_files()[number]))
    assert record.values is not None
    for kind in ("gaps", "values"):
        if kind in sections and (kind == "gaps" or record.values.codec):
            for cut in (0, 1, len(sections[kind]) // 2, len(sections[kind]) - 1):
                assert compare(record, {**sections, kind: sections[kind][:cut]}, tables)[0] is FormatError
            assert compare(record, {**sections, kind: np.append(sections[kind], np.uint8(0))}, tables)[0] is FormatError
    for other in other_records(record):
        compare(other, sections, tables)


def other_records(record: TensorRecord) -> Iterator[TensorRecord]:
    """Records that say something else of the same sections."""
    stream, sparse = record.values, record.sparse
    assert stream is not None
    if not record.axis:
        yield replace(record, shape=(record.numel + 1,))
        yield replace(record, shape=(record.numel - 1,))
        yield replace(record, shape=(1 << 40,)) if sparse is None else replace(record, shape=(4 * record.numel,))
    if stream.codec:
        for geometry in (0, 3, 5, 31, stream.geometry ^ 32, stream.geometry ^ 64, 0xE0):
            yield replace(record, values=replace(stream, geometry=geometry))
        for parameters in (b"", b"\0", b"\1", b"\2\0", b"\3\1", b"\x11\6", b"\x12\0", b"\3\7"):
            yield replace(record, values=replace(stream, parameters=parameters))
            yield replace(record, values=replace(stream, parameters=parameters, codec=3 - stream.codec))
    if sparse is not None:
        yield from (replace(record, sparse=other) for other in other_sparse(sparse))


def other_sparse(sparse: Sparse) -> Iterator[Sparse]:
    for more in (-1, 1):
        yield replace(sparse, nonzeros=sparse.nonzeros + more)
        yield replace(sparse, gap_count=sparse.gap_count + more)
        yield replace(sparse, gap_bits=sparse.gap_bits + more)
    for geometry in (0, 3, 31, sparse.stream.geometry ^ 32, 0xFF):
        yield replace(sparse, stream=replace(sparse.stream, geometry=geometry))


def test_gaps_that_end_in_an_escape_or_run_too_far() -> None:
    code, numel = HuffmanCode.from_lengths([1, 2, 3, 3]), 20
    right = [[0, 3, 1], [3, 3, 3, 3, 3, 3, 1]]
    wrong = [[0, 3, 3], [2, 3, 3, 3, 3, 3, 2], [0, 3, 3, 3, 3, 3, 3], [3, 3, 3, 3, 3, 3, 2], [3, 3, 3, 3, 3, 3, 3, 0]]
    for gaps in right + wrong:
        nonzeros = len(gaps) - gaps.count(3)
        section = encode_stream(np.array(gaps), HuffmanLanes(code), 1, np.array([len(gaps)]), counts_known=False)
        stream = StreamRecord(layout.CODEC_HUFFMAN, len(section), Geometry(5, 1).pack(), b"\0")
        values = np.arange(1, nonzeros + 1, dtype=np.int16).view(np.uint8)
        record = TensorRecord(
            "a", "int16", (numel,), "int16", sparse=Sparse(nonzeros, 2, len(gaps), stream), values=StreamRecord(0, len(values))
        )
        found = compare(record, {"gaps": section, "values": values}, (code.lengths,))
        assert (found[0] is torch.int16) == (gaps in right)


def test_one_codeword_must_be_a_zero_bit() -> None:
    lengths = np.array([0, 1], np.uint8)
    for byte, fits in ((0, True), (4, False)):
        stream = StreamRecord(layout.CODEC_HUFFMAN, 1, Geometry(5, 1).pack(), b"\0")
        record = TensorRecord("a", "float64", (7,), "float64", layout.MAP_CODEBOOK, 1, values=stream)
        sections = {"codebook": np.array([1.5]).view(np.uint8), "values": np.array([byte], np.uint8)}
        assert (compare(record, sections, (lengths,))[0] is torch.float64) == fits


def test_a_zero_symbol_in_a_sparse_tensor_and_one_above_the_codebook() -> None:
    """Both in fields of two bits; the first one's gaps are three times 0."""
    gaps = StreamRecord(layout.CODEC_FIXED, 0, Geometry(5, 1).pack(), b"\0\0")
    stream = StreamRecord(layout.CODEC_FIXED, 1, Geometry(5, 1).pack(), b"\2\0")
    for fields, sparse in ([1, 0, 2], True), ([1, 3, 2], False), ([1, 3, 2], True), ([1, 1, 2], True), ([1, 0, 2], False):
        places = Sparse(3, 2, 3, gaps) if sparse else None
        record = TensorRecord("a", "bfloat16", (3,), "bfloat16", layout.MAP_CODEBOOK, 2, sparse=places, values=stream)
        section = np.array([sum(field << 2 * i for i, field in enumerate(fields))], np.uint8)
        sections = {"codebook": np.array([0x3F80, 0x4000], "<u2").view(np.uint8), "values": section, "gaps": section[:0]}
        wrong = 3 in fields or (sparse and 0 in fields)
        assert (compare(record, sections, ())[0] is FormatError) == wrong


def test_what_the_device_alone_finds_is_an_error_too(monkeypatch: pytest.MonkeyPatch) -> None:
    ((record, sections, tables),) = stored(CompressedModel(small_files()[0]))
    monkeypatch.setattr(gpu_launch, "decode_stream", lambda staged, flag: flag.fill_(1).expand(44))
    with pytest.raises(FormatError, match="tensor 'a': its codewords, or what they stand for, are malformed"):
        decode_on_device(record, sections, tables, CPU)


def test_a_device_that_cannot_is_said_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise OSError("no compiler")

    monkeypatch.setattr(gpu_launch, "decode_stream", fail)
    device = torch.device("cpu", 0)  # another key than `CPU`, so that the cache does not know it
    with pytest.warns(RuntimeWarning, match="decoded on the CPU, as Triton does not work on cpu:0: no compiler"):
        assert not gpu_launch.works_on(device)
    ((record, sections, tables),) = stored(CompressedModel(small_files()[0]))
    assert decode_on_device(record, sections, tables, device) is None


def test_an_unknown_codec_is_for_the_cpu() -> None:
    stream = StreamRecord(29, 1, 0, b"")
    record = TensorRecord("a", "float32", (1,), "float32", values=stream)
    assert decode_on_device(record, {"values": np.zeros(1, np.uint8)}, (), CPU) is None
    with pytest.raises(UnsupportedError):
        decode_tensor(record, {"values": np.zeros(1, np.uint8)}, ())
    assert gpu.decode_on_device is decode_on_device
