"""How much each layer bears by itself: accuracy with one layer pruned, or quantized, and all others unchanged."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from glob import escape
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.markup import escape as escape_markup
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn

from deepcompress.errors import ParameterError
from deepcompress.layers.masking import sparsity_of
from deepcompress.layers.select import select_weights
from deepcompress.pipeline.points import Points
from deepcompress.pipeline.stage import Stage
from deepcompress.pipeline.stages.prune import Prune
from deepcompress.pipeline.stages.quantize import KMeansQuantize
from deepcompress.pipeline.state import Context, Measure, State
from deepcompress.prune.ranking import is_within
from deepcompress.report.sensitivity import SensitivityRow, SensitivityTable
from deepcompress.report.text import printable
from deepcompress.tensors.wrappers import bare
from deepcompress.training.seeds import generators_kept
from deepcompress.training.snapshot import mode_kept

__all__ = ["sensitivity_scan"]

Setting = tuple[str, float]  # "sparsity" or "bits", and which

_OWNER = "sensitivity_scan"
_SHARES = {"percentile": "q", "unstructured": "sparsity", "filter_l1": "sparsity"}  # method: its parameter that is a share


def sensitivity_scan(
    model: nn.Module,
    evaluate: Measure,
    *,
    sparsities: Sequence[float] = (0.3, 0.5, 0.7, 0.8, 0.9, 0.95),
    bits: Sequence[int] = (2, 3, 4, 5, 6),
    method: str = "percentile",
    include: Sequence[str] | None = None,
    exclude: Sequence[str] | None = None,
    types: Sequence[str] | None = None,
    path: str | Path | None = None,
    quiet: bool = False,
) -> SensitivityTable:
    """Measure accuracy with one layer at a time pruned to each sparsity, then quantized to each number of bits.

    Each layer is given back bit for bit after a measurement, also where `evaluate` raises or the keyboard interrupts.

    Args:
        model: any module, on any device. What `torch.compile` and data parallelism put around it is left out.
        evaluate: model -> float, more is better (an accuracy as a fraction); called in eval mode, without gradients, and each
            time with the random generators as they were. NaN is recorded.
        sparsities: shares in [0, 1] of a layer's weights, or filters, that go; may be empty.
        bits: widths of an index, 1 to 16, as KMeansQuantize takes them; may be empty if `sparsities` is not.
        method: "percentile" or "unstructured", which are the same in one layer, or "filter_l1", whole filters.
        include, exclude, types: which layers; as in Prune.
        path: a JSON file to which each point is written as soon as it is measured, whole or not at all. Points that are there
            are taken from it. It does not know what `evaluate` measures: for another measure, name another file.
        quiet: no progress bar.

    Raises:
        ParameterError: an argument out of its range; nothing to scan; `path` holds something else, or points of other weights or
            another method.
        ModelError: a layer holds NaN or infinite weights.
        StorageError: `path` cannot be read or written.

    Source: Han, Pool, Tran, Dally. Learning both weights and connections for efficient neural networks. NIPS 2015, sec. 4
    (sensitivity of a layer to pruning). arXiv:1506.02626; for filters: Li et al. Pruning filters for efficient ConvNets. ICLR
    2017, sec. 3.2. arXiv:1608.08710.
    """
    settings, model = _settings(model, sparsities, bits, method), bare(model)
    chosen = select_weights(model, include=include, exclude=exclude, types=types, owner=_OWNER)
    layers = {name: weight for name, weight in chosen.items() if weight.numel()}
    if not layers or not settings:
        raise ParameterError(f"{_OWNER}: there is nothing to scan: {'no sparsities and no bits' if layers else 'no layers'}")
    points = Points.opened(path, model, method)
    asked = [(name, *setting) for name in layers for setting in settings]
    with _progress(1 + len(asked), quiet=quiet) as begin:
        begin("unchanged")
        if points.baseline is None:
            points.add_baseline(_measured(model, evaluate))
        for name, kind, setting in asked:
            begin(name)
            if (name, kind, setting) not in points.rows:
                points.add(_point(model, evaluate, (name, layers[name]), (kind, setting), method))
    return points.table(asked)


def _settings(model: nn.Module, sparsities: Sequence[float], bits: Sequence[int], method: str) -> list[Setting]:
    """What is done to each layer, in order. Raises ParameterError where an argument cannot be meant."""
    if not isinstance(model, nn.Module):
        raise ParameterError.of("model", _OWNER, "a module, which can run", type(model).__name__)
    if method not in _SHARES:
        raise ParameterError.of("method", _OWNER, f"one of {', '.join(map(repr, _SHARES))}", method)
    for sparsity in sparsities:
        if not is_within(sparsity, 0, 1):
            raise ParameterError.of("sparsities", _OWNER, "numbers in [0, 1]", sparsity)
    for width in bits:
        if not isinstance(width, int | np.integer) or not is_within(width, 1, 16):
            raise ParameterError.of("bits", _OWNER, "integers from 1 to 16", width)
    shares, widths = sorted({float(sparsity) for sparsity in sparsities}), sorted({int(width) for width in bits})
    return [*(("sparsity", share) for share in shares), *(("bits", float(width)) for width in widths)]


def _point(
    model: nn.Module, evaluate: Measure, layer: tuple[str, Tensor], setting: Setting, method: str
) -> SensitivityRow:  # fmt: skip
    """Measure the model with one layer changed."""
    name, weight = layer
    kind, value = setting
    with _given_back(weight):
        _stage(name, setting, method).apply(State(model), Context(quiet=True))
        sparsity = sparsity_of({name: weight})
        accuracy = _measured(model, evaluate)
    return SensitivityRow(
        layer=name, weights=weight.numel(), kind=kind, setting=value, sparsity=sparsity, accuracy=accuracy
    )  # fmt: skip


def _stage(name: str, setting: Setting, method: str) -> Stage:
    """What changes the one layer."""
    kind, value = setting
    if kind == "bits":
        return KMeansQuantize(bits=int(value), include=[escape(name)])
    share: dict[str, Any] = {_SHARES[method]: value}
    return Prune(method, include=[escape(name)], **share)


@contextmanager
def _given_back(weight: Tensor) -> Iterator[None]:
    """Whatever happens, the weight ends with the bits that it had."""
    before = weight.detach().clone()
    try:
        yield
    finally:
        with torch.no_grad():
            weight.copy_(before)


def _measured(model: nn.Module, evaluate: Measure) -> float:
    with mode_kept(model), generators_kept(), torch.no_grad():
        found = evaluate(model.eval())
    try:
        return float(found)
    except (TypeError, ValueError):
        raise ParameterError.of("evaluate", _OWNER, "a function that returns a number", found) from None


@contextmanager
def _progress(steps: int, *, quiet: bool) -> Iterator[Callable[[str], None]]:
    """Give `begin(what)`, to be called before each step; a bar appears on a terminal unless `quiet`."""
    console = Console(stderr=True)
    if quiet or not console.is_terminal:
        yield lambda what: None
        return
    columns = (TextColumn("scan"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), TextColumn("{task.description}"))
    with Progress(*columns, console=console, transient=True) as progress:
        task, done = progress.add_task("", total=steps), count()

        def begin(what: str) -> None:
            progress.update(task, completed=next(done), description=escape_markup(printable(what)))

        yield begin
