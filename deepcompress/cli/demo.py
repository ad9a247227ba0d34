"""`deepcompress demo`: the main job on scikit-learn's handwritten digits, under a minute on two cores."""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deepcompress.cli.console import Outcome, say
from deepcompress.errors import FormatError, StorageError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from deepcompress.pipeline.pipeline import Result
    from deepcompress.report.report import Report

SEED = 0
TEST_IMAGES = 500
BATCH = 64
SMOOTHING = 0.1
FILES = {"file": "digits.dcz", "html": "report.html", "json": "report.json"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", metavar="DIR", default="demo", help="where the results go (default: %(default)s)")


def run(options: argparse.Namespace) -> Outcome:
    started = time.perf_counter()
    folder = _make_folder(Path(options.out))
    quiet = options.quiet or options.json
    data = _digits()
    with _one_thread():
        say(f"training a LeNet on {len(data.train_labels):,} of scikit-learn's digits", options)
        model = _trained(data, quiet=quiet)
        say(f"{_accuracy(model, data):.2%} of {len(data.test_labels)} others are read right; compressing", options)
        result = _compress(model, data, quiet=quiet)
        path = folder / FILES["file"]
        result.compressed.save(path)
        proof = _compare(path, model, data)
    result.report.to_html(folder / FILES["html"])
    _write(folder / FILES["json"], result.report.to_json())
    return _outcome(folder, result.report, proof, time.perf_counter() - started)


@contextmanager
def _one_thread() -> Iterator[None]:
    """In a network this small, threads wait for each other longer than they work."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@dataclass(frozen=True)
class Digits:
    """Images (n, 1, 8, 8), float32 in [0, 1], and labels (n,), int64."""

    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor


def _digits() -> Digits:
    """1,297 images to train on and 500 to test on, always the same."""
    import torch
    from sklearn.datasets import load_digits

    data = load_digits()
    order = torch.randperm(len(data.target), generator=torch.Generator().manual_seed(SEED))
    images = (torch.from_numpy(data.images).float() / 16)[order].unsqueeze(1)
    labels = torch.from_numpy(data.target).long()[order]
    return Digits(images[TEST_IMAGES:], labels[TEST_IMAGES:], images[:TEST_IMAGES], labels[:TEST_IMAGES])


def _batches(data: Digits) -> Iterable[Any]:
    import torch
    from torch.utils.data import DataLoader, TensorDataset

    train = TensorDataset(data.train_images, data.train_labels)
    return DataLoader(train, BATCH, shuffle=True, generator=torch.Generator().manual_seed(SEED))


def _trained(data: Digits, *, quiet: bool) -> nn.Module:
    import torch

    from deepcompress.models import LeNetDigits
    from deepcompress.training.loop import fit
    from deepcompress.training.settings import TrainSettings

    torch.manual_seed(SEED)
    model = LeNetDigits()
    settings = TrainSettings(epochs=20, lr=4e-3, scheduler="onecycle", label_smoothing=SMOOTHING)
    fit(model, _batches(data), settings, quiet=quiet)
    return model


def _compress(model: nn.Module, data: Digits, *, quiet: bool) -> Result:
    """Compress in place: the model that is given holds the file's values afterwards."""
    import deepcompress as dc

    pipeline = dc.Pipeline(
        [
            ("prune", dc.Prune("unstructured", sparsity=0.8)),
            ("retrain", dc.Retrain(epochs=10, lr=2e-3, label_smoothing=SMOOTHING)),
            ("prune more", dc.Prune("unstructured", sparsity=0.92)),
            ("retrain more", dc.Retrain(epochs=20, lr=3e-3, scheduler="cosine", label_smoothing=SMOOTHING)),
            ("quantize", dc.KMeansQuantize(bits=4, init="kmeans++")),
            ("finetune", dc.Finetune(epochs=3, lr=1e-4, label_smoothing=SMOOTHING)),
            ("encode", dc.HuffmanEncode()),
        ]
    )
    return pipeline.run(model, train=_batches(data), evaluate=lambda model: _accuracy(model, data), inplace=True, quiet=quiet)


def _accuracy(model: nn.Module, data: Digits) -> float:
    return (_logits(model, data).argmax(1) == data.test_labels).float().mean().item()


def _logits(model: nn.Module, data: Digits) -> Tensor:
    import torch

    with torch.inference_mode():
        logits: Tensor = model.eval()(data.test_images)
    return logits


def _compare(path: Path, model: nn.Module, data: Digits) -> dict[str, int]:
    """Load the file into a new network and hold it against the one in memory. Raises FormatError where they differ."""
    import torch

    import deepcompress as dc
    from deepcompress.models import LeNetDigits

    reloaded = dc.load(path).load_into(LeNetDigits())
    tensors = model.state_dict()
    for name, tensor in reloaded.state_dict().items():
        if not torch.equal(_bytes(tensor), _bytes(tensors[name])):
            raise FormatError(f"{path}: {name} is not the tensor that was saved")
    if not torch.equal(_logits(reloaded, data), _logits(model, data)):
        raise FormatError(f"{path}: the reloaded network answers otherwise than the one that was saved")
    return {"equal_tensors": len(tensors), "equal_logits": TEST_IMAGES * 10}


def _bytes(tensor: Tensor) -> Tensor:
    import torch

    return tensor.contiguous().view(torch.uint8)


def _make_folder(folder: Path) -> Path:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"cannot make the folder {folder}: {error.strerror or error}") from error
    return folder


def _write(path: Path, text: str) -> None:
    from deepcompress.container.source import atomic_file

    with atomic_file(path) as file:
        file.write(text.encode())


def _outcome(folder: Path, report: Report, proof: dict[str, int], seconds: float) -> Outcome:
    files = {kind: str(folder / name) for kind, name in FILES.items()}
    lines = [
        str(report).rstrip("\n"),
        "",
        f"reloaded {files['file']}: {proof['equal_tensors']} tensors equal byte for byte, "
        f"{proof['equal_logits']:,} logits equal bit for bit",
        f"{report.file_bytes:,} bytes, {report.file_ratio:.1f} times smaller; {seconds:.0f} s; see {files['html']}",
    ]
    return Outcome({**files, **proof, "seconds": round(seconds, 1), **report.to_dict()}, "\n".join(lines))
