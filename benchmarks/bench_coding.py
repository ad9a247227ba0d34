"""Huffman coding against zstd, bitarray, constriction and dahuffman; on two threads; and of sparse tensors.

    python benchmarks/bench_coding.py

Symbols are indices of 32 clusters of Gaussian weights, 4.09 bits each. What is timed on our side: counting, building the code
and coding to a section; and from the section's bytes to an array, decoding tables included. A sparse tensor's streams: from gaps
and indices as the scan leaves them, with the choice of gap bits, to two sections; and from these to gap symbols and indices.
Each result is compared with the input in the same run. Peers that are not installed have no rows.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
from _harness import Bench, Pair
from _peers import Bitarray, Constriction, DaHuffman, Zstd
from _streams import Coded, Counts, Symbols, check, decode, encode, encode_dense, gaussian_symbols
from numpy.typing import NDArray

from deepcompress.coding import pool
from deepcompress.coding.entropy import entropy
from deepcompress.coding.gaps import Nonzeros, best_gap_bits, check_walk, encode_gaps, find_nonzeros, scatter
from deepcompress.coding.huffman import HuffmanCode
from deepcompress.tensors.streams import choose_geometry


class Slow(NamedTuple):
    """A peer with the limits of its two rows, and what part of the symbols it gets."""

    module: str
    make: Callable[[Symbols], Any]
    encode: float | None = None
    decode: float | None = None
    share: int = 1


class SparseCoded(NamedTuple):
    """Both streams of a sparse tensor."""

    gaps: Coded
    indices: Coded
    gap_bits: int


SLOW = (Slow("bitarray", Bitarray, 20, 40), Slow("constriction", Constriction), Slow("dahuffman", DaHuffman, share=16))


def millions(count: int) -> tuple[float, str]:
    return count / 1e6, "M/s"


def against_zstd(bench: Bench, symbols: NDArray[np.uint8]) -> None:
    """The two rows of the table, and the sizes."""
    zstd, raw, coded = Zstd(), symbols.tobytes(), encode_dense(symbols)
    theirs = zstd.encode(raw)
    inward = bench.time(lambda: encode_dense(symbols), lambda: zstd.encode(raw), 3 * bench.repeats)
    outward = bench.time(lambda: decode(coded), lambda: zstd.decode(theirs), 3 * bench.repeats)
    check(decode(inward.our_result), symbols, "ours")
    check(zstd.decode(inward.their_result), symbols, zstd.name)
    check(outward.our_result, symbols, "ours")
    bench.at_least(1.0, "Huffman encode, one thread", zstd.name, inward, millions(len(symbols)))
    bench.at_least(1.0, "Huffman decode, one thread", zstd.name, outward, millions(len(symbols)))
    bench.data["bits per symbol"] |= {"ours": coded.bits_each, zstd.name: 8 * len(theirs) / len(symbols)}


def against_peer(bench: Bench, symbols: NDArray[np.uint8], slow: Slow) -> None:
    """Rows of a slower peer, on the first of `slow.share` parts of the symbols; ours are timed on all of them."""
    few = symbols[: len(symbols) // slow.share].copy()
    peer, ours = slow.make(few), encode_dense(symbols)
    given: Any = {DaHuffman: few.tobytes(), Constriction: few.astype(np.int32)}.get(type(peer), few)
    back = (lambda coded: peer.decode(coded, len(few))) if isinstance(peer, Constriction) else peer.decode
    theirs, scale = peer.encode(given), len(symbols) / len(few)
    inward = bench.time(lambda: encode_dense(symbols), lambda: peer.encode(given))
    outward = bench.time(lambda: decode(ours), lambda: back(theirs))
    check(decode(inward.our_result), symbols, "ours")
    check(back(inward.their_result), few, peer.name)
    check(outward.our_result, symbols, "ours")
    bench.at_least(slow.encode, "Huffman encode, one thread", peer.name, inward.scaled(scale), millions(len(symbols)))
    bench.at_least(slow.decode, "Huffman decode, one thread", peer.name, outward.scaled(scale), millions(len(symbols)))
    bench.data["bits per symbol"][peer.name] = 8 * memoryview(theirs).nbytes / len(few)


def two_threads(bench: Bench, size: int) -> None:
    """Two threads against one, in and out, with `size` million symbols."""
    symbols = gaussian_symbols(bench.size(size * 1_000_000))
    coded = encode_dense(symbols)
    for way, work in (("encode", lambda: encode_dense(symbols)), ("decode", lambda: decode(coded))):
        pair = bench.time(_on(2, work), _on(1, work))
        for found in (pair.our_result, pair.their_result):
            check(found if way == "decode" else decode(found), symbols, f"{way} on two threads and on one")
        bench.at_least(1.8, f"Huffman {way}, two threads, {size} M symbols", "one thread", pair, millions(len(symbols)))


def zstd_on_two_threads(bench: Bench, symbols: NDArray[np.uint8]) -> None:
    """What two threads bring zstd on this machine: where both share one core's units, no coder doubles its speed."""
    halves = [part.tobytes() for part in np.array_split(symbols, 2)]
    coders = [Zstd(), Zstd()]
    coded = [coder.encode(half) for coder, half in zip(coders, halves, strict=True)]
    with ThreadPoolExecutor(2) as threads:
        for way, given in (("encode", halves), ("decode", coded)):
            works = [getattr(coder, way) for coder in coders]

            def side_by_side(works: Any = works, given: Any = given) -> list[Any]:
                return list(threads.map(lambda work, part: work(part), works, given))

            def in_turn(works: Any = works, given: Any = given) -> list[Any]:
                return [work(part) for work, part in zip(works, given, strict=True)]

            pair = bench.time(side_by_side, in_turn, 3 * bench.repeats)
            bench.at_least(None, f"zstd {way}, two threads", "one thread", pair, millions(len(symbols)))


def _on(threads: int, work: Callable[[], Any]) -> Callable[[], Any]:
    def limited() -> Any:
        with pool.limited(threads):
            return work()

    return limited


def sparse_symbols(dense: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Ten times as many weights, each pruned with probability 0.9; 0 is a pruned one."""
    kept = np.random.default_rng(1).random(10 * len(dense), np.float32) < 0.1
    symbols = np.zeros(len(kept), np.uint8)
    symbols[kept] = 1 + np.resize(dense, int(np.count_nonzero(kept)))
    return symbols


def encode_sparse(found: Nonzeros, lanes: int) -> SparseCoded:
    """Gaps and indices, as the scan leaves them, to their sections."""
    gap_bits, occurrences = best_gap_bits(found.gaps, lambda counts: HuffmanCode.from_counts(counts).bits(counts))
    skips, counts = encode_gaps(found.gaps, found.counts, gap_bits)
    return SparseCoded(encode(skips, counts, lanes, occurrences), encode(found.kept, found.counts, lanes), gap_bits)


def scattered(skips: Symbols, indices: Symbols, coded: SparseCoded, numel: int, chunk_log2: int) -> Symbols:
    """Gap symbols and indices to the dense tensor."""
    dense, table = np.zeros(numel, np.uint8), np.arange(33, dtype=np.uint8)
    counts: Counts = np.stack([coded.gaps.counts, coded.indices.counts])
    check_walk(scatter(skips, indices, counts, table, coded.gap_bits, chunk_log2, dense), 0, counts, numel, chunk_log2)
    return dense


def sparse_tensor(bench: Bench, dense: NDArray[np.uint8]) -> None:
    """Both streams of a 90 %-sparse tensor, per nonzero, against dense Huffman, per symbol."""
    symbols, coded_dense = sparse_symbols(dense), encode_dense(dense)
    geometry = choose_geometry(len(symbols), len(dense))
    found = find_nonzeros(symbols, geometry.chunk_log2)
    coded, kept = encode_sparse(found, geometry.lanes), len(found.kept)
    inward = bench.time(lambda: encode_sparse(found, geometry.lanes), lambda: encode_dense(dense))
    outward = bench.time(lambda: [decode(coded.gaps), decode(coded.indices)], lambda: decode(coded_dense))
    back = [decode(stream) for stream in inward.our_result[:2]]
    for streams in (back, outward.our_result):
        check(scattered(*streams, coded, len(symbols), geometry.chunk_log2), symbols, "gap and index streams")
    for way, pair in (("coding", inward), ("decoding", outward)):
        what, each = f"{way} of a 90 %-sparse tensor's gaps and indices, per nonzero", pair.scaled(kept / len(dense))
        bench.at_least(0.25, what, "dense Huffman, per symbol", each, millions(kept))
    bits = {"gaps": 8 * len(coded.gaps.section) / kept, "indices": coded.indices.bits_each, "gap_bits": coded.gap_bits}
    bench.data["bits per nonzero"] = bits
    _scan_and_scatter(bench, symbols, back, coded, geometry.chunk_log2)


def _scan_and_scatter(bench: Bench, symbols: Symbols, streams: list[Symbols], coded: SparseCoded, chunk_log2: int) -> None:
    """Reported apart: the two passes over the dense tensor, against numpy's."""
    places = np.flatnonzero(symbols)

    def place() -> Symbols:
        dense = np.zeros(len(symbols), np.uint8)
        dense[places] = streams[1]
        return dense

    scan = bench.time(lambda: find_nonzeros(symbols, chunk_log2), lambda: np.flatnonzero(symbols))
    back = bench.time(lambda: scattered(*streams, coded, len(symbols), chunk_log2), place)
    check(scan.our_result.kept, symbols[places], "scan")
    check(back.our_result, symbols, "scatter")
    rows: list[tuple[str, str, Pair]] = [
        ("scan (dense to gaps and indices), per nonzero", "numpy.flatnonzero", scan),
        ("scatter (gap symbols and indices to dense), per nonzero", "numpy: zeros, then assignment", back),
    ]
    for what, against, pair in rows:
        bench.at_least(None, what, against, pair, millions(len(places)))


def main(arguments: list[str] | None = None) -> list[Any]:
    bench = Bench("coding", __doc__, arguments)
    symbols = gaussian_symbols(bench.size(8_000_000))
    bench.data["bits per symbol"] = {"entropy": entropy(np.bincount(symbols))}
    with pool.limited(1):
        bench.unless_missing("zstandard", lambda: against_zstd(bench, symbols))
        for slow in SLOW:
            bench.unless_missing(slow.module, lambda slow=slow: against_peer(bench, symbols, slow))
        sparse_tensor(bench, symbols)
    if pool.thread_count() > 1:
        for size in (8, 64):
            two_threads(bench, size)
        bench.unless_missing("zstandard", lambda: zstd_on_two_threads(bench, np.tile(symbols, 8)))
    else:
        print("one core: no rows for two threads")
    return bench.finish()


if __name__ == "__main__":
    main()
