"""The GPU's decoder: in Triton's interpreter (`interpreted.py`, in a process of its own), compiled for GPUs, and on one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from deepcompress.errors import FormatError
from deepcompress.tensors.build import build_model
from deepcompress.tensors.decode import decode_tensor
from deepcompress.tensors.elements import to_torch
from deepcompress.tensors.gpu import decode_on_device
from deepcompress.tensors.streams import Encoding
from tests.tensors import samples

ROOT = Path(__file__).parent.parent.parent
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU that torch can use")

# Pointers of kernels by the size of what they point to; the rest are integers or constants.
POINTERS = {
    "i64": ("words", "starts", "stops", "firsts", "gap_firsts", "value_firsts", "bases", "ends"),
    "i32": ("counts", "table", "flag", "gaps", "gap_counts", "value_counts"),
}
KERNELS: list[tuple[str, str, dict[str, Any], int]] = [
    ("decode_codewords", "i32", {"burst": 5, "block": 4}, 1),
    ("decode_codewords", "i16", {"burst": 5, "block": 32}, 1),
    ("decode_codewords", "i64", {"burst": 3, "block": 32}, 1),
    ("decode_fields", "i32", {"block": 1024}, 4),
    ("decode_fields", "i16", {"block": 1024}, 4),
    ("scatter_nonzeros", "i32", {"zero": False, "block": 1024}, 4),
    ("scatter_nonzeros", "i8", {"zero": True, "block": 1024}, 4),
]


def test_in_the_interpreter() -> None:
    pytest.importorskip("triton", reason="Triton is not installed")
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", str(Path(__file__).with_name("interpreted.py"))]
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=290, check=False)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]


@pytest.mark.parametrize(("name", "kind", "constants", "warps"), KERNELS)
def test_kernels_compile(
    name: str, kind: str, constants: dict[str, Any], warps: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To the code of a GPU of 2022, which takes no GPU."""
    triton = pytest.importorskip("triton", reason="Triton is not installed")
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from deepcompress.tensors import gpu_kernels

    if gpu_kernels.INTERPRETED:
        pytest.skip("TRITON_INTERPRET is set")
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    kernel = getattr(gpu_kernels, name)
    types = {pointer: f"*{size}" for size, pointers in POINTERS.items() for pointer in pointers}
    types |= {"values": f"*{kind}", "out": f"*{kind}"} | dict.fromkeys(constants, "constexpr")
    signature = {argument: types.get(argument, "i32") for argument in kernel.arg_names}
    aligned = {(i,): [["tt.divisibility", 16]] for i, kind in enumerate(signature.values()) if kind.startswith("*")}
    source = ASTSource(kernel, signature, constants, aligned)
    made = triton.compile(source, target=GPUTarget("cuda", 90, 32), options={"num_warps": warps, "enable_fp_fusion": False})
    assert made.asm["cubin"]


@needs_gpu
@pytest.mark.parametrize("coder", ["huffman", "fixed"])
@pytest.mark.parametrize("density", [1.0, 0.05])
@pytest.mark.parametrize("lanes", [1, 4, 32])
def test_on_a_gpu(coder: str, density: float, lanes: int) -> None:
    """Few lanes and many, codewords of up to 12 bits and of more."""
    pytest.importorskip("triton", reason="Triton is not installed")
    with samples.small_chunks(1 << 9, lanes):
        tensors: samples.Named = [
            (f"{dtype}.{k}", samples.shared_tensor(dtype, (300_007,), k, k, density))
            for dtype, k in (("float32", 1), ("float32", 15), ("float16", 255), ("bfloat16", 250), ("float64", 300))
        ]
        tensors.append(("long codewords", samples.shared_tensor("float32", (300_007,), 5000, 5, density)))
        tensors += [("raw", samples.dense_tensor("float32", "float16", (5000,), 1, density))]
        tensors += [
            (f"grid.{dtype}.{axis}", samples.grid_tensor(dtype, dtype, (601, 499), axis, 3, 255, density))
            for dtype in samples.FLOATS
            for axis in (None, 0, 1)
        ]
        model = build_model(tensors, Encoding(coder=coder))
    directory, device = model._reader.directory, torch.device("cuda")
    for record, spans in zip(model.records, directory.spans, strict=True):
        sections = {kind: model._reader.section(span) for kind, span in spans.items()}
        found = decode_on_device(record, sections, directory.tables, device)
        expected = to_torch(decode_tensor(record, sections, directory.tables), record.dtype)
        assert found is not None
        assert (found.device.type, found.dtype, found.shape) == ("cuda", expected.dtype, expected.shape)
        assert found.cpu().view(torch.uint8).equal(expected.view(torch.uint8))


@needs_gpu
def test_a_malformed_stream_on_a_gpu() -> None:
    pytest.importorskip("triton", reason="Triton is not installed")
    model = build_model([("a", samples.shared_tensor("float32", (5000,), 15, 3, 1.0))], Encoding())
    directory = model._reader.directory
    sections = {kind: model._reader.section(span).copy() for kind, span in directory.spans[0].items()}
    sections["values"][-1] ^= 0xFF
    with pytest.raises(FormatError, match="tensor 'a', values: "):
        decode_on_device(model.records[0], sections, directory.tables, torch.device("cuda"))
