"""A GPU decodes a tensor at 100 GB/s of float32 or more, and sooner than the CPU decodes it and copies it there.

    python benchmarks/bench_gpu.py

Two clocks for each way of storing 64 M weights of 15 centroids: the kernels alone, from sections on the GPU to values there, by
the GPU's own events, and the whole way from sections in the CPU's memory. Each result is compared with the CPU's, bit by bit.
Without a GPU nothing is measured and nothing is written.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from _harness import Bench, Row

from deepcompress.coding.gaps import encode_gaps, find_nonzeros
from deepcompress.coding.huffman import HuffmanCode
from deepcompress.coding.streams import FixedLanes, Geometry, HuffmanLanes, LaneCoder, encode_stream
from deepcompress.container import layout
from deepcompress.container.records import Sparse, StreamRecord, TensorRecord
from deepcompress.tensors import gpu, gpu_launch
from deepcompress.tensors.decode import decode_tensor
from deepcompress.tensors.elements import to_torch
from deepcompress.tensors.streams import dense_counts

LIMIT = 100.0  # GB/s of decoded float32, on an H200
CHUNK_LOG2 = 18
K = 15
GAP_BITS = 4


class Case(NamedTuple):
    """A tensor as a file holds it."""

    name: str
    record: TensorRecord
    sections: dict[str, Any]
    tables: list[Any]

    @property
    def gigabytes(self) -> float:
        return self.record.dense_bytes / 1e9


def main(arguments: list[str] | None = None) -> list[Row]:
    bench, device = Bench("gpu", __doc__, arguments), torch.device("cuda")
    if not gpu_launch.works_on(device):
        print("gpu: no GPU that torch and Triton can use; nothing is measured")
        return []
    for case in cases(1 << 20 if bench.tiny else 1 << 26):
        kernels(bench, case, device)
        whole_way(bench, case, device)
    bench.data["gpu"] = torch.cuda.get_device_name(device)
    return bench.finish()


def cases(numel: int) -> list[Case]:
    """Dense and sparse; with four lanes a chunk, which a writer takes by itself, and with 32."""
    rng = np.random.default_rng(1)
    near = np.clip(np.rint(rng.standard_normal(numel) * 2.5 + 8), 1, K).astype(np.uint8)  # like weights: the middle is frequent
    pruned = np.where(rng.random(numel, np.float32) < 0.1, near, 0).astype(np.uint8)
    code = HuffmanCode.from_counts(np.bincount(near, minlength=K + 1))
    mostly_zero = HuffmanCode.from_counts(np.bincount(pruned, minlength=K + 1))
    return [
        dense_case("Huffman, 4 lanes", near, HuffmanLanes(code), 4, code),
        dense_case("Huffman, 32 lanes", near, HuffmanLanes(code), 32, code),
        dense_case("Huffman, 32 lanes, nine tenths zero", pruned, HuffmanLanes(mostly_zero), 32, mostly_zero),
        dense_case("four bits each", near, FixedLanes(4), 4, code),
        sparse_case("sparse, a tenth kept, 32 lanes", pruned, 32, code),
    ]


def dense_case(name: str, symbols: Any, coder: LaneCoder, lanes: int, code: HuffmanCode) -> Case:
    section, stream = coded(symbols, coder, lanes, dense_counts(len(symbols), CHUNK_LOG2), known=True)
    record = TensorRecord("w", "float32", symbols.shape, "float32", layout.MAP_CODEBOOK, K, values=stream)
    return Case(name, record, {"codebook": codebook(), "values": section}, [code.lengths])


def sparse_case(name: str, symbols: Any, lanes: int, code: HuffmanCode) -> Case:
    found = find_nonzeros(symbols, CHUNK_LOG2)
    gaps, gap_counts = encode_gaps(found.gaps, found.counts, GAP_BITS)
    gap_code = HuffmanCode.from_counts(np.bincount(gaps, minlength=1 << GAP_BITS))
    gap_section, gap_stream = coded(gaps, HuffmanLanes(gap_code), lanes, gap_counts, known=False, table=1)
    section, stream = coded(found.kept, HuffmanLanes(code), lanes, found.counts, known=False)
    sparse = Sparse(len(found.kept), GAP_BITS, len(gaps), gap_stream)
    record = TensorRecord("w", "float32", symbols.shape, "float32", layout.MAP_CODEBOOK, K, sparse=sparse, values=stream)
    sections = {"codebook": codebook(), "gaps": gap_section, "values": section}
    return Case(name, record, sections, [code.lengths, gap_code.lengths])


def coded(symbols: Any, coder: LaneCoder, lanes: int, counts: Any, known: bool, table: int = 0) -> tuple[Any, StreamRecord]:
    section = encode_stream(symbols, coder, lanes, counts, counts_known=known)
    fixed = isinstance(coder, FixedLanes)
    codec, parameters = (layout.CODEC_FIXED, bytes([4, 0])) if fixed else (layout.CODEC_HUFFMAN, bytes([table]))
    return section, StreamRecord(codec, len(section), Geometry(CHUNK_LOG2, lanes).pack(), parameters)


def codebook() -> Any:
    return np.delete(np.arange(-8, 8, dtype=np.float32), 8).view(np.uint8)


def kernels(bench: Bench, case: Case, device: torch.device) -> None:
    """From sections on the GPU to values there."""
    staged = gpu.stage_tensor(case.record, case.sections, case.tables, device)
    seconds = [event_seconds(lambda: gpu.run(staged)) for _ in range(2 + bench.repeats)][2:]  # the first compiles
    if staged.flag.item():
        raise RuntimeError(f"{case.name}: the GPU found its own input malformed")
    rates = [case.gigabytes / taken for taken in seconds]
    rate, spread = statistics.median(rates), (min(rates), max(rates))
    note = "by the GPU's events; symbols, tables and lanes lie on the GPU"
    what, limit = f"kernels: {case.name}", f"{LIMIT:g} GB/s of float32"
    bench.figure(Row(what, limit, "at least", LIMIT, rate, spread, f"{rate:,.0f} GB/s", "", note))


def whole_way(bench: Bench, case: Case, device: torch.device) -> None:
    """From sections in the CPU's memory to values on the GPU."""

    def ours() -> torch.Tensor | None:
        return gpu.decode_on_device(case.record, case.sections, case.tables, device)

    def theirs() -> torch.Tensor:
        moved = to_torch(decode_tensor(case.record, case.sections, case.tables), case.record.dtype).to(device)
        synchronize()
        return moved

    pair = bench.time(ours, theirs)
    if pair.our_result is None or not torch.equal(pair.our_result.view(torch.int32), pair.their_result.view(torch.int32)):
        raise RuntimeError(f"{case.name}: the GPU's values are not the CPU's")
    bench.at_least(1, f"whole way: {case.name}", "CPU decodes, then a copy", pair, (1e3 * case.gigabytes, "MB/s"))


def event_seconds(work: Callable[[], Any]) -> float:
    """Seconds that the GPU takes, by its own clock."""
    start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    work()
    stop.record()
    synchronize()
    return start.elapsed_time(stop) / 1e3


def synchronize() -> None:
    torch.cuda.synchronize()


if __name__ == "__main__":
    main()
