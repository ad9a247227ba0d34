"""Other coders behind one shape each: bytes or arrays in, and back, as fast as their own interfaces go."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Symbols = NDArray[Any]
Blobs = list[bytes]


class Zstd:
    """zstandard, the C library; on symbols with no repeats, level 1 is its Huffman coder alone."""

    name = "zstd level 1"

    def __init__(self, level: int = 1) -> None:
        import zstandard

        self._in, self._out = zstandard.ZstdCompressor(level=level), zstandard.ZstdDecompressor()

    def encode(self, symbols: bytes) -> bytes:
        return self._in.compress(symbols)

    def decode(self, coded: bytes) -> bytes:
        return self._out.decompress(coded)


class Bitarray:
    """bitarray's Huffman code, in C. The fastest way back is list(decode(tree)): bytes() and numpy.fromiter take longer."""

    name = "bitarray"

    def __init__(self, symbols: Symbols) -> None:
        self._code = self._build(symbols)

    @staticmethod
    def _build(symbols: Symbols) -> dict[int, Any]:
        from bitarray.util import huffman_code

        return huffman_code({symbol: int(count) for symbol, count in enumerate(np.bincount(symbols)) if count})

    def encode(self, symbols: Symbols) -> Any:
        """Counting and building the code included."""
        from bitarray import bitarray

        coded = bitarray()
        coded.encode(self._build(symbols), symbols.tobytes())
        return coded

    def decode(self, coded: Any) -> list[int]:
        from bitarray import decodetree

        return list(coded.decode(decodetree(self._code)))


class DaHuffman:
    """dahuffman, in Python."""

    name = "dahuffman"

    def __init__(self, symbols: Symbols) -> None:
        from dahuffman import HuffmanCodec

        self._codec = HuffmanCodec.from_frequencies({s: int(n) for s, n in enumerate(np.bincount(symbols)) if n})

    def encode(self, symbols: bytes) -> bytes:
        return self._codec.encode(symbols)

    def decode(self, coded: bytes) -> list[int]:
        return self._codec.decode(coded)


class Constriction:
    """constriction's ANS coder, in Rust; its symbols are int32. The model is made within the clock, as our code is."""

    name = "constriction's ANS"

    def __init__(self, symbols: Symbols) -> None:
        self._counts = np.bincount(symbols)

    def _model(self, counts: NDArray[np.int64]) -> Any:
        import constriction

        return constriction.stream.model.Categorical(counts / counts.sum(), perfect=False)

    def encode(self, symbols: NDArray[np.int32]) -> NDArray[np.uint32]:
        import constriction

        coder = constriction.stream.stack.AnsCoder()
        coder.encode_reverse(symbols, self._model(np.bincount(symbols)))
        return coder.get_compressed()

    def decode(self, coded: NDArray[np.uint32], count: int) -> NDArray[np.int32]:
        import constriction

        return constriction.stream.stack.AnsCoder(coded).decode(self._model(self._counts), count)


class ZipNN:
    """ZipNN with its settings for a dtype. It overwrites what it is given: hand it copies, made outside the clock."""

    name = "ZipNN"

    def __init__(self, dtype: str, threads: int = 1) -> None:
        self._settings = {"input_format": "byte", "bytearray_dtype": dtype, "threads": threads}

    def encode(self, buffers: list[bytearray]) -> Blobs:
        from zipnn import ZipNN as Coder

        return [Coder(**self._settings).compress(buffer) for buffer in buffers]

    def decode(self, blobs: Blobs) -> list[bytes]:
        from zipnn import ZipNN as Coder

        return [Coder(**self._settings).decompress(blob) for blob in blobs]


class OpenZL:
    """OpenZL with one of `configurations`; numeric arrays in, each a frame of its own."""

    name = "OpenZL"

    def __init__(self, graph: Callable[[Any], Any]) -> None:
        import openzl.ext as zl

        self._compressor = zl.Compressor()
        self._compressor.set_parameter(zl.CParam.FormatVersion, zl.MAX_FORMAT_VERSION)
        self._compressor.select_starting_graph(graph(self._compressor))

    def encode(self, arrays: Iterable[Symbols]) -> Blobs:
        import openzl.ext as zl

        context, blobs = zl.CCtx(), []
        for array in arrays:
            context.ref_compressor(self._compressor)  # its parameters hold for one frame
            blobs.append(context.compress([zl.Input(zl.Type.Numeric, array)]))
        return blobs

    def decode(self, blobs: Blobs) -> list[Symbols]:
        import openzl.ext as zl

        context = zl.DCtx()
        return [context.decompress(blob)[0].content.as_nparray() for blob in blobs]


def configurations(dtype: str) -> dict[str, Callable[[Any], Any]]:
    """OpenZL's graphs for a float type, by name: float parts apart, byte planes apart, and its two general ones.

    Those that were the smallest on some checkpoint, out of 39 for float32 and 39 for 16 bits (each part with each of Fse,
    Huffman, Entropy, Zstd, Store, Compress, FieldLz and BruteForce over them), and the first of each kind.
    """
    import openzl.ext as zl

    nodes, graphs = zl.nodes, zl.graphs
    parts = {"float32": nodes.Float32Deconstruct, "float16": nodes.Float16Deconstruct, "bfloat16": nodes.BFloat16Deconstruct}

    def best(compressor: Any) -> Any:
        leaves = (graphs.Fse, graphs.Huffman, graphs.Zstd, graphs.Store)
        return graphs.BruteForce([leaf()(compressor) for leaf in leaves])(compressor)

    def split(leaf: Callable[[Any], Any]) -> Callable[[Any], Any]:
        return lambda compressor: nodes.TransposeSplit()(compressor, leaf(compressor))

    def apart(rest: Callable[[Any], Any], exponent: Callable[[Any], Any]) -> Callable[[Any], Any]:
        return lambda compressor: parts[dtype]()(compressor, sign_frac=rest(compressor), exponent=exponent(compressor))

    def planes(leaf: Callable[[Any], Any]) -> Callable[[Any], Any]:
        return lambda compressor: nodes.ConvertNumToStructLE()(compressor, split(leaf)(compressor))

    fse, huffman, generic = graphs.Fse(), graphs.Huffman(), graphs.Compress()
    return {
        "exponents Fse, rest stored": apart(graphs.Store(), fse),
        "exponents Fse, rest Compress": apart(generic, fse),
        "exponents Huffman, rest Compress": apart(generic, huffman),
        "exponents and bytes of the rest: the best of each": apart(split(best), best),
        "byte planes Fse": planes(fse),
        "byte planes: the best of each": planes(best),
        "Compress": generic,
        "FieldLz": graphs.FieldLz(),
    }
