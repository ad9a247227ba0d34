"""A whole model: compress and save, peak memory, load, and what starting costs.

    python benchmarks/bench_model.py

ResNet-50's state dict, 25.6 M parameters, random weights by torchvision's own initialisation, is pruned (60 % of each layer, the
README's example; nothing is trained, so how much is pruned only decides which streams are coded), quantized to 5 bits, Huffman-
coded and saved. Peak memory is measured in a fresh process, see _process.py. That the file decodes to the very tensors that the
pipeline left, and a module loaded from it gives the same logits, is checked in the same run. --tiny takes a ResNet-20 for CIFAR.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from _harness import Bench
from _process import can_measure_memory, peak_above_level, run_python
from torch import Tensor, nn

import deepcompress as dc

_HERE = str(Path(__file__).resolve())
_IMPORT = """
import sys, deepcompress
assert "torch" not in sys.modules, "import deepcompress imports torch"
"""
_NUMPY = """
import sys, deepcompress
arrays = deepcompress.load(sys.argv[1], framework="numpy").numpy()
assert "torch" not in sys.modules, "reading a file imports torch"
print(len(arrays))
"""


def make_module(tiny: bool) -> nn.Module:
    torch.manual_seed(0)
    if tiny:
        from deepcompress.models import resnet20

        return resnet20().eval()
    from deepcompress.vision import import_torchvision

    module: nn.Module = import_torchvision("models").resnet50(weights=None)
    return module.eval()


def compress(tensors: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    """Prune, quantize, code, save; returns the tensors that the file must hold."""
    pipeline = dc.Pipeline([
        ("prune", dc.Prune("percentile", q=0.6)), ("quantize", dc.KMeansQuantize(bits=5)), ("encode", dc.HuffmanEncode()),
    ])  # fmt: skip
    result = pipeline.run(tensors, quiet=True)
    result.compressed.save(path)
    model: Any = result.model
    return model


def bits(tensor: Tensor) -> Tensor:
    return tensor.contiguous().view(-1).view(torch.uint8)


def check_equal(found: dict[str, Tensor], expected: dict[str, Tensor], what: str) -> None:
    """Raise unless all tensors are there, equal in every bit."""
    if found.keys() != expected.keys():
        raise SystemExit(f"{what}: other names than those that were saved")
    same = [found[name].dtype == own.dtype and torch.equal(bits(found[name]), bits(own)) for name, own in expected.items()]
    if not all(same):
        raise SystemExit(f"{what}: other tensors than those that were saved")


def check_logits(ours: nn.Module, expected: dict[str, Tensor], tiny: bool) -> None:
    """Raise unless the module gives what one with the expected tensors gives."""
    other = make_module(tiny)
    other.load_state_dict(expected)
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        if not torch.equal(ours(images), other(images)):
            raise SystemExit("the loaded module gives other logits than the quantized one")


def time_compress(bench: Bench, tensors: dict[str, Tensor], folder: Path) -> dict[str, Tensor]:
    """The rows of seconds; the warm run before them compiles what is not compiled yet."""
    path = folder / "model.dcz"
    pair = bench.time(lambda: compress(tensors, path), lambda: torch.save(tensors, folder / "model.pt"))
    dense = sum(tensor.nbytes for tensor in tensors.values())
    check_equal(dc.load(path).state_dict(), pair.our_result, "compress")
    what = "compress (prune, 5 bits, Huffman, save) a ResNet-50's state dict"
    bench.measured(4, what, "4 s", pair.ours, "s")
    bench.at_most(None, what, "torch.save of it", pair)
    bench.data["bytes"] = {"dense": dense, "file": path.stat().st_size, "ratio": dense / path.stat().st_size}
    return pair.our_result


def peak_memory(bench: Bench, folder: Path) -> None:
    """Peak of the whole compress call in processes of their own, above the level after imports and input."""
    if not can_measure_memory():
        print("no /proc/self/clear_refs here: no row for peak memory")
        return
    finished = [run_python([_HERE, "--worker", str(folder), *tiny_flag(bench)]) for _ in range(min(bench.repeats, 3))]
    ratios = [run.found["peak"] / run.found["dense"] for run in finished]
    bench.data["peak bytes"] = [run.found for run in finished]
    bench.measured(3, "peak memory of that, above imports and input", "dense size", ratios, "times")


def worker(folder: Path, tiny: bool) -> None:
    """In a fresh process: compress once, print the peak."""
    import json

    import deepcompress.pipeline.pipeline  # noqa: F401  imports count as level

    tensors = make_module(tiny).state_dict()
    _ = dc.HuffmanEncode, dc.KMeansQuantize, dc.Prune
    _, peak = peak_above_level(lambda: compress(tensors, folder / "worker.dcz"))
    print(json.dumps({"peak": peak, "dense": sum(tensor.nbytes for tensor in tensors.values())}))


def time_load(bench: Bench, expected: dict[str, Tensor], dense: dict[str, Tensor], folder: Path) -> None:
    """Load the file into a module, against safetensors with the dense weights."""
    from safetensors.torch import load_model, save_file

    save_file({name: tensor.contiguous() for name, tensor in dense.items()}, folder / "model.safetensors")
    ours, theirs = make_module(bench.tiny), make_module(bench.tiny)
    pair = bench.time(
        lambda: dc.load(folder / "model.dcz").load_into(ours), lambda: load_model(theirs, folder / "model.safetensors")
    )
    check_equal(ours.state_dict(), expected, "load_into")
    check_equal(theirs.state_dict(), dense, "safetensors")
    check_logits(ours, expected, bench.tiny)
    bench.at_most(3, "load that file into a module", "safetensors.torch.load_model of the dense weights", pair)


def time_start(bench: Bench, folder: Path) -> None:
    """Whole processes: imports, reading a file without torch, the command's help."""
    work = {
        "import deepcompress (no torch in it)": ["-c", _IMPORT],
        "read that file without torch, to numpy": ["-c", _NUMPY, str(folder / "model.dcz")],
        "deepcompress --help": ["-m", "deepcompress", "--help"],
    }
    for what, arguments in work.items():
        pair = bench.time(lambda arguments=arguments: run_python(arguments), lambda: run_python(["-c", "pass"]), warm=0)
        bench.at_most(None, f"{what}, whole process", "python -c pass", pair)


def first_and_second(bench: Bench, tensors: dict[str, Tensor], folder: Path) -> None:
    """What compiling costs the first process, with an empty folder for compiled kernels, above the second."""
    from safetensors.torch import save_file

    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / "given.safetensors")
    command = ["-m", "deepcompress", "compress", str(folder / "given.safetensors"), "-o", str(folder / "made.dcz"), "--json"]
    command += ["--prune", "percentile=0.6", "--bits", "5"]
    times: list[tuple[float, float]] = []
    for _ in range(min(bench.repeats, 3)):
        with tempfile.TemporaryDirectory() as cache:
            first, second = (run_python(command, {"DEEPCOMPRESS_CACHE_DIR": cache}) for _ in range(2))
            kept = any(path.is_file() for path in Path(cache).rglob("*"))
        if not kept:
            raise SystemExit("nothing was written to DEEPCOMPRESS_CACHE_DIR: the first process was no first one")
        if "compil" not in first.errors or "compil" in second.errors:
            raise SystemExit("only the first process must say that it compiles; or has the package changed meanwhile?")
        times.append((first.seconds, second.seconds))
    bench.data["first and second process, s"] = times
    what = "first compress in a fresh process without compiled kernels, above the second"
    bench.measured(10, what, "10 s", [first - second for first, second in times], "s")
    bench.measured(None, "the second compress in a fresh process", "", [second for _, second in times], "s")


def tiny_flag(bench: Bench) -> list[str]:
    return ["--tiny"] if bench.tiny else []


@contextmanager
def scratch() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


def run(bench: Bench, folder: Path) -> None:
    dense = dict(make_module(bench.tiny).state_dict())
    expected = time_compress(bench, dense, folder)
    peak_memory(bench, folder)
    time_load(bench, expected, dense, folder)
    time_start(bench, folder)
    if not bench.tiny:  # compiling takes as long for a small model
        first_and_second(bench, dense, folder)


def main(arguments: list[str] | None = None) -> list[Any]:
    bench = Bench("model", __doc__, arguments)
    with scratch() as folder:
        if bench.tiny:
            run(bench, folder)
        else:
            bench.unless_missing("torchvision", lambda: run(bench, folder))
    return bench.finish()


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        worker(Path(sys.argv[2]), "--tiny" in sys.argv)
    else:
        main()
