"""Several processes that train together: what they tell each other, and how all of them end where one cannot go on."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from deepcompress.errors import ModelError, TrainingError
from deepcompress.training.batches import rows_of
from deepcompress.training.group import NO_BATCH, Group, Loss
from deepcompress.training.wire import digest_of, exchange_in_pieces, is_dense

T = TypeVar("T")


class JoinedGroup(Group):
    """The group that torch's process group describes. An error on one rank is an error on all, at their next exchange."""

    def __init__(self) -> None:
        self.rank, self.size = dist.get_rank(), dist.get_world_size()
        on_gpu = "nccl" in dist.get_backend_config()
        super().__init__(torch.device("cuda", torch.cuda.current_device()) if on_gpu else torch.device("cpu"))
        self._wire = torch.device("cpu") if "gloo" in dist.get_backend_config() else self.device
        self._share = 1.0

    def agreed(self, call: Callable[[], T]) -> T:
        value, error = _attempt(call)
        self._end_where_one_failed(error, self._exchange(_text(error)))
        found: T = value  # type: ignore[assignment]
        return found

    def together(self, call: Callable[[], T]) -> list[T]:
        return self._exchange(self.agreed(call))

    def once(self, call: Callable[[], T]) -> T:
        value, error = _attempt(call) if self.is_first else (None, None)
        sent, text = self._send((value, _text(error)))
        self._end_where_one_failed(error, [text])
        found: T = value if self.is_first else sent  # type: ignore[assignment]
        return found

    def measured_once(self, measure: Callable[[nn.Module], float] | None) -> Callable[[nn.Module], float] | None:
        if measure is None:
            return None
        return lambda model: self.once(lambda: float(measure(model)))

    def in_step(self, batches: Iterable[Any]) -> Iterator[Any]:
        iterator = iter(batches)
        while True:
            batch, error = _attempt(lambda: next(iterator, NO_BATCH))
            here = error is None and batch is not NO_BATCH
            rows = max(rows_of(batch), 1) if here else 0
            failures, total = self._sum([float(error is not None), float(rows)])
            if failures:
                self._end_where_one_failed(error, self._exchange(_text(error)))
            if not total:
                return
            self._share = rows / total
            yield batch

    def averaged(self, call: Callable[[], Loss], parameters: Sequence[Tensor]) -> Loss:
        found, error = _attempt(call)
        loss, accuracy = found or (0.0, None)
        mine = [error is not None, self._share * loss, self._share * (accuracy or 0.0), accuracy is not None]
        failures, loss, right, known, *filled = self._sum([*mine, *(p.grad is not None for p in parameters)])
        if failures:
            self._end_where_one_failed(error, self._exchange(_text(error)))
        self._average([parameter for parameter, count in zip(parameters, filled, strict=True) if count])
        return loss, right if known else None

    def align(self, tensors: Mapping[str, Tensor]) -> None:
        shapes = {name: f"{str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)}" for name, tensor in tensors.items()}
        if difference := _first_difference(self._exchange(shapes)):
            rank, name, theirs, first = difference
            raise ModelError(f"the models differ: {name!r} is {theirs} on rank {rank}, and {first} on rank 0")
        self.copy_first(tensors.values())

    def copy_first(self, tensors: Iterable[Tensor]) -> None:
        with self._answered():
            exchange_in_pieces([t for t in tensors if is_dense(t)], lambda flat: dist.broadcast(flat, 0), as_bytes=True)

    def check_equal(self, tensors: Mapping[str, Tensor], when: str) -> None:
        if difference := _first_difference(self._exchange({name: digest_of(tensor) for name, tensor in tensors.items()})):
            rank, name, _, _ = difference
            raise TrainingError(
                f"{when}: {name!r} on rank {rank} is not what it is on rank 0; something changes it on one of them alone"
            )

    def _average(self, parameters: Sequence[Tensor]) -> None:
        for parameter in parameters:
            gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            parameter.grad = gradient.to_dense() if gradient.layout != torch.strided else gradient
        with self._answered():
            exchange_in_pieces([p.grad for p in parameters if p.grad is not None], self._add_up)

    def _add_up(self, flat: Tensor) -> None:
        dist.all_reduce(flat.mul_(self._share))

    def _sum(self, numbers: Sequence[float]) -> list[float]:
        """Each number, added up over all ranks."""
        with self._answered():
            sums = torch.tensor(numbers, dtype=torch.float64, device=self._wire)
            dist.all_reduce(sums)
            found: list[float] = sums.tolist()
        return found

    def _exchange(self, value: T) -> list[T]:
        """The value of every rank."""
        with self._answered():
            values: list[Any] = [None] * self.size
            dist.all_gather_object(values, value)
        return values

    def _send(self, value: Any) -> Any:
        """Rank 0's value, any tensors in it on the CPU."""
        buffer = io.BytesIO()
        torch.save(value, buffer)
        with self._answered():
            size = torch.tensor([buffer.tell()], device=self._wire)
            dist.broadcast(size, 0)
            content = bytearray(buffer.getbuffer()) if self.is_first else bytearray(int(size))
            packed = torch.frombuffer(content, dtype=torch.uint8).to(self._wire)
            dist.broadcast(packed, 0)
        return torch.load(io.BytesIO(packed.cpu().numpy().tobytes()), map_location="cpu", weights_only=False)

    def _end_where_one_failed(self, mine: Exception | None, texts: Sequence[str | None]) -> None:
        if mine is not None:
            raise mine
        for rank, text in enumerate(texts):
            if text is not None:
                raise TrainingError(f"rank {rank} of {self.size} has failed, which ends all of them: {text}")

    @contextmanager
    def _answered(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:  # a process has ended, or the network has
            first = str(error).strip().splitlines()[0]
            raise TrainingError(f"rank {self.rank} of {self.size} waits for processes that are gone: {first}") from error


def _attempt(call: Callable[[], T]) -> tuple[T | None, Exception | None]:
    """What a call gives, or how it failed: nobody leaves before the others know."""
    try:
        return call(), None
    except Exception as error:
        return None, error


def _text(error: Exception | None) -> str | None:
    return None if error is None else f"{type(error).__name__}: {error}"


def _first_difference(found: Sequence[Mapping[str, str]]) -> tuple[int, str, str, str] | None:
    """(rank, name, what it has there, what rank 0 has) where a rank does not have what rank 0 has."""
    first = found[0]
    for rank, other in enumerate(found):
        for name in {**first, **other}:
            mine, theirs = first.get(name, "nothing"), other.get(name, "nothing")
            if mine != theirs:
                return rank, name, theirs, mine
    return None
