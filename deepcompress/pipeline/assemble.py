"""The final state as named tensors for the file, and the file as rows for the report."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from deepcompress.coding.denormals import denormals_kept
from deepcompress.coding.entropy import entropy
from deepcompress.coding.huffman import HuffmanCode
from deepcompress.coding.streams import count_symbols
from deepcompress.container.records import TensorRecord
from deepcompress.errors import ModelError
from deepcompress.layers import masking
from deepcompress.layers.sharing import tied_names
from deepcompress.pipeline.state import Model, State
from deepcompress.report.histogram import Histogram
from deepcompress.report.rows import LayerRow
from deepcompress.tensors.accounting import representation
from deepcompress.tensors.affine import AffineGrid, AffineTensor
from deepcompress.tensors.build import Extras, Tie, build_model
from deepcompress.tensors.codebook import Codebook
from deepcompress.tensors.compressed import CompressedTensor, DenseTensor
from deepcompress.tensors.cost import BitCount
from deepcompress.tensors.elements import dtype_name, from_torch, numpy_dtype
from deepcompress.tensors.encode import AnyTensor
from deepcompress.tensors.model import CompressedModel
from deepcompress.tensors.wrappers import bare_names, renamed_versions

T = TypeVar("T")

_SAMPLE = 1 << 16  # weights of a layer that its histogram looks at


def model_tensors(model: Model) -> dict[str, Tensor]:
    """The tensors that a file of this model must hold, in state-dict order.

    Raises:
        ModelError: there are none, some entry is no tensor, or one that cannot be stored.
    """
    tensors = dict(model.state_dict()) if isinstance(model, nn.Module) else model
    for name, value in tensors.items():
        if not isinstance(name, str):
            raise ModelError(f"{name!r} is the name of a tensor, but no string")
        if isinstance(value, Tensor) and (problem := _problem(value)):
            raise ModelError(f"{name!r} {problem}")
    if strangers := [name for name, value in tensors.items() if not isinstance(value, Tensor)]:
        raise ModelError(f"not a tensor, so it cannot be stored: {', '.join(map(repr, strangers))}")
    if not tensors:
        what = "the model" if isinstance(model, nn.Module) else "the state dict"
        raise ModelError(f"{what} is empty: there is nothing to store")
    return tensors


def _problem(tensor: Tensor) -> str | None:
    """Why a tensor cannot be stored."""
    if is_lazy(tensor):
        return "has no shape yet: pass one batch through the model first"
    if tensor.is_meta or tensor.is_nested or tensor.layout != torch.strided:
        return f"is {'a meta' if tensor.is_meta else 'no dense'} tensor, so it cannot be stored"
    try:
        dtype_name(tensor)
    except ModelError as error:
        return f"is a tensor whose {error}"
    return None


def names_in_file(model: Model, names: Iterable[str]) -> dict[str, str]:
    """Name of each tensor -> its name in a file, which has none of what wrappers around parts of a model put into it."""
    return bare_names(model, names) if isinstance(model, nn.Module) else {name: name for name in names}


def module_versions(model: Model) -> dict[str, int]:
    """Module path -> version, of those around tensors, as `state_dict` keeps them for its upgrade hooks."""
    holder: Any = model.state_dict() if isinstance(model, nn.Module) else model
    metadata = renamed_versions(getattr(holder, "_metadata", None) or {}, names_in_file(model, holder))
    found = {path: entry.get("version") for path, entry in metadata.items() if isinstance(entry, Mapping)}
    return {path: version for path, version in found.items() if isinstance(version, int) and version > 0}


class Assembly:
    """A state becomes a file; on the way the indices of each quantized tensor are counted for the report."""

    def __init__(self, state: State) -> None:
        self.state = state
        tensors = model_tensors(state.model)
        self._names = names_in_file(state.model, tensors)
        self.tensors = {self._names[name]: tensor for name, tensor in tensors.items()}
        self._ties = tied_names(self.tensors)
        self._codebooks = self._by_first_name(state.codebooks)
        self._errors = self._by_first_name(state.errors)
        self._masked = self._by_first_name(state.masks).keys()
        self._stored = self._by_first_name(state.stored)
        self.index_counts: dict[str, NDArray[np.int64]] = {}

    def _by_first_name(self, found: Mapping[str, T]) -> dict[str, T]:
        """What is known of weights, by their names in the file: a buffer's, if that comes first."""
        names = {name: self._names.get(name, name) for name in found}
        return {self._ties.get(names[name], names[name]): value for name, value in found.items()}

    def build(self, extras: Extras) -> CompressedModel:
        """Encode everything; the model that a reader of the file would open."""
        encoding = replace(self.state.encoding, one_offset=any(map(_may_share_offset, self._codebooks.values())))
        return build_model(self._named(), encoding, extras)

    def _named(self) -> Iterator[tuple[str, AnyTensor | Tie]]:
        for name, tensor in self.tensors.items():
            yield name, Tie(self._ties[name]) if name in self._ties else self._compressed(name, tensor)

    def _compressed(self, name: str, tensor: Tensor) -> AnyTensor:
        try:
            dtype, values = dtype_name(tensor), from_torch(tensor)
            codebook = self._codebooks.get(name)
            if codebook is None:
                stored = self._stored.get(name, dtype)
                return DenseTensor(values.astype(numpy_dtype(stored)) if stored != dtype else values, dtype, stored)
            if isinstance(codebook, AffineGrid):
                return self._gridded(name, AffineTensor.from_values(values, dtype, codebook))
            shared = CompressedTensor.from_values(values, dtype, codebook)
        except ModelError as error:
            raise ModelError(f"{name}: {error}") from None
        self.index_counts[name] = count_symbols(shared.symbols, codebook.k + 1)[1:]  # bincount would make eight bytes of each
        return shared

    def _gridded(self, name: str, tensor: AffineTensor) -> AffineTensor:
        self.index_counts[name] = count_symbols(tensor.symbols[tensor.is_nonzero()])
        return tensor

    @denormals_kept()
    def rows(self, compressed: CompressedModel, before: Mapping[str, NDArray[Any]]) -> tuple[LayerRow, ...]:
        """A row per tensor of the file; `before` holds samples of the weights as they came."""
        bits, before = compressed.bits.tensors, self._by_first_name(before)
        return tuple(
            self._row(record, count, before.get(record.name))
            for record, count in zip(compressed.records, bits, strict=True)
        )

    def _row(self, record: TensorRecord, bits: BitCount, before: NDArray[Any] | None) -> LayerRow:
        tensor, codebook = self.tensors[record.name], self._codebooks.get(record.name)
        counts = self.index_counts.get(record.name)
        changed = before is not None and (codebook is not None or record.name in self._masked)
        return LayerRow(
            name=record.name,
            shape=record.shape,
            dtype=record.dtype,
            weights=record.numel,
            nonzeros=count_nonzero(tensor),
            representation=representation(record),
            bits=bits,
            quantized=codebook is not None,
            pruned=record.name in self._masked,
            k=codebook.k if codebook is not None else None,
            bit_width=codebook.bit_width if codebook is not None else None,
            mean_code_length=_mean_code_length(counts, self.state) if counts is not None else None,
            entropy=entropy(counts) if counts is not None else None,
            gap_bit_width=record.sparse.gap_bits if record.sparse else None,
            gap_symbols=record.sparse.gap_count if record.sparse else None,
            rmse=self._errors.get(record.name),
            histogram=Histogram.of(before, sample(tensor)) if changed and before is not None else None,
        )


def _may_share_offset(book: Codebook | AffineGrid) -> bool:
    """Whether channels have scales of their own and one offset."""
    return isinstance(book, AffineGrid) and book.axis is not None and len(np.unique(book.offsets)) == 1


def _mean_code_length(counts: NDArray[np.int64], state: State) -> float:
    """Bits per nonzero's index under a Huffman code of their own, whatever the file uses."""
    return HuffmanCode.from_counts(counts, state.encoding.max_code_length).mean_length(counts) if counts.any() else 0.0


def count_nonzero(tensor: Tensor) -> int:
    """Elements that are not zero; of dtypes that torch cannot count in, those with any bit set."""
    if tensor.dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        return masking.count_nonzero(tensor)
    raw = np.ascontiguousarray(from_torch(tensor)).reshape(-1)
    return int(raw.view(np.uint8).reshape(len(raw), -1).any(axis=1).sum()) if len(raw) else 0


def sample(tensor: Tensor) -> NDArray[Any]:
    """Up to 65,536 of a tensor's values, evenly spread, as float32."""
    flat = tensor.detach().reshape(-1)
    step = max(-(-flat.numel() // _SAMPLE), 1)
    array: NDArray[Any] = flat[::step].float().cpu().numpy()
    return array
