"""Tensors of every kind, made up by hypothesis, and the files that they become."""

from __future__ import annotations

import io
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import numpy as np
from hypothesis import strategies as st

from deepcompress.container.layout import DTYPES, NARROWER, numel
from deepcompress.tensors import contexts, cutting, encode, streams
from deepcompress.tensors.affine import AffineTensor, by_channel
from deepcompress.tensors.build import Extras, Tie, write_model
from deepcompress.tensors.codebook import Codebook
from deepcompress.tensors.compressed import CompressedTensor, DenseTensor
from deepcompress.tensors.elements import Array, float32_to_bfloat16, numpy_dtype
from deepcompress.tensors.encode import AnyTensor
from deepcompress.tensors.streams import Encoding

FLOATS = ("float16", "bfloat16", "float32", "float64")
Named = list[tuple[str, AnyTensor | Tie]]

shapes = st.one_of(
    st.lists(st.integers(0, 6), max_size=4).map(tuple), st.integers(0, 400).map(lambda side: (side,)), st.just((1, 1, 90, 3))
)


@contextmanager
def small_chunks(symbols: int, lanes: int) -> Iterator[None]:
    """Chunks of about `symbols` symbols, and `lanes` lanes even in short ones."""
    of_streams = mock.patch.multiple(streams, _CHUNK_SYMBOLS=symbols, _SINGLE_LANE=1, _LANES=lanes)
    of_contexts = mock.patch.object(contexts, "_CHUNK_LOG2", symbols.bit_length() - 1)
    with of_streams, of_contexts, mock.patch.multiple(cutting, _CHUNK_LOG2=symbols.bit_length() - 1, _FEW=1, _LANES=lanes):
        yield


@contextmanager
def only_contexts() -> Iterator[None]:
    """All symbols by contexts, whatever is shortest; for encodings of coder "context"."""
    honest, plenty = encode._by_contexts, 1 << 62

    def always(base: Any, sections: Any, symbols: Any, around: Any, bits: int, tables: Any) -> Any:
        return honest(base, sections, symbols, around, plenty, tables)

    with mock.patch.object(encode, "_by_contexts", always):
        yield


def to_file(tensors: Named, encoding: Encoding | None = None, extras: Extras | None = None) -> bytes:
    file = io.BytesIO()
    write_model(file, tensors, encoding or Encoding(), extras)
    return file.getvalue()


def elements(dtype: str, shape: tuple[int, ...], seed: int, density: float = 1.0, *, nan: bool = True) -> Array:
    """Elements of random bits, only some of them not zero."""
    rng = np.random.default_rng(seed)
    kind = numpy_dtype(dtype)
    count = numel(shape)
    raw = rng.integers(0, 2 if dtype == "bool" else 256, (count, kind.itemsize), np.uint8)
    raw[rng.random(count) >= density] = 0
    flat = raw.reshape(-1).view(kind)
    if not nan:
        wide = (flat.astype(np.uint32) << 16).view(np.float32) if dtype == "bfloat16" else flat
        flat = np.where(np.isnan(wide), flat.dtype.type(0), flat).astype(kind)
    return flat.view(kind).reshape(shape)


def weights(dtype: str, shape: tuple[int, ...], seed: int) -> Array:
    """Elements of which planes of bits can be coded: Gaussian numbers in every float and complex type, small integers else."""
    rng = np.random.default_rng(seed)
    kind, gauss = numpy_dtype(dtype), rng.standard_normal((numel(shape), 2)) / 50
    found: Array
    if dtype == "bfloat16":
        found = (gauss[:, 0].astype("<f4").view("<u4") >> 16).astype("<u2").view(kind)
    elif dtype == "complex32":
        found = gauss.astype(np.float16).view(kind)
    elif dtype.startswith("complex"):
        found = gauss.view(np.complex128).reshape(-1).astype(kind)
    else:
        found = np.asarray(gauss[:, 0] if kind.kind == "f" else np.abs(gauss[:, 0] * 500).astype(np.uint8) & 127).astype(kind)
    return found.reshape(shape)


def few(elements: Array, seed: int, values: int = 2) -> Array:
    """As many elements, but of only so many different ones."""
    return elements.reshape(-1)[np.random.default_rng(seed).integers(0, values, elements.size)].reshape(elements.shape)


def dense_tensor(dtype: str, stored: str, shape: tuple[int, ...], seed: int, density: float) -> DenseTensor:
    return DenseTensor(elements(stored, shape, seed, density, nan=stored == dtype), dtype, stored)


def shared_tensor(
    dtype: str, shape: tuple[int, ...], k: int, seed: int, density: float, stored: str | None = None
) -> CompressedTensor:
    """A tensor of `k` centroids; with a density below 1, the rest of its weights are pruned."""
    rng = np.random.default_rng(seed)
    eighths = rng.permutation(np.concatenate([np.arange(-250, 0), np.arange(1, 251)]))[:k] if k <= 500 else _many(k)
    centroids = (np.sort(eighths) / 8).astype("float32" if dtype == "bfloat16" else stored or dtype)
    count = numel(shape)
    symbols = np.minimum(rng.geometric(0.3, count), k) if rng.random() < 0.5 else rng.integers(min(k, 1), k + 1, count)
    symbols = np.where(rng.random(count) < density, symbols, 0)
    return CompressedTensor(shape, dtype, Codebook(centroids), symbols.astype(streams_dtype(k)))


def level_tensor(
    dtype: str, shape: tuple[int, ...], sides: tuple[int, int], seed: int, density: float, period: int = 0
) -> CompressedTensor:  # fmt: skip
    """So many centroids below and above zero, small ones more often; with a period, columns are alike at that distance."""
    below, above = sides
    rng = np.random.default_rng(seed)
    centroids = np.concatenate([np.arange(-below, 0), np.arange(1, above + 1)])
    count = numel(shape)
    sizes = np.where(rng.random(count) < 0.8, rng.geometric(0.2, count), rng.integers(1, max(below, above) + 2, count))
    levels = np.where(rng.random(count) * (below + above) < below, -np.minimum(sizes, below), np.minimum(sizes, above))
    kept = np.full(count, density)
    if period:
        kept = np.where(np.arange(count) % math.prod(shape[1:]) % period < 2, 0.95, density / 9)
    levels = np.where(rng.random(count) < kept, levels, 0)
    symbols = np.where(levels, levels + below + (levels < 0), 0).astype(streams_dtype(below + above))
    kind = "float32" if dtype == "bfloat16" else dtype
    return CompressedTensor(shape, dtype, Codebook((centroids / 8).astype(kind)), symbols)


def streams_dtype(k: int) -> Any:
    return np.min_scalar_type(max(k, 1))


def _many(k: int) -> Any:
    return np.arange(1, k + 1) * 8.0


def affine_tensor(dtype: str, stored: str, shape: tuple[int, ...], axis: int | None, seed: int, levels: int) -> AffineTensor:
    rng = np.random.default_rng(seed)
    channels = 1 if axis is None else shape[axis]
    scales = rng.standard_normal(channels) * 10.0 ** rng.integers(-4, 4)
    if stored == "bfloat16":
        single = scales.astype(np.float32)
        kept = float32_to_bfloat16((single.view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32))
    else:
        kept = scales.astype(stored)
    low, top = (-(2**31), 2**31) if seed % 5 == 0 else (-20, levels)
    offsets = rng.integers(low, top, channels).astype(np.int32)
    symbols = rng.integers(0, levels, numel(shape)).astype(np.uint16)
    return AffineTensor(shape, dtype, stored, kept, offsets, axis, symbols)


def grid_tensor(
    dtype: str, stored: str, shape: tuple[int, ...], axis: int | None, seed: int, levels: int, density: float = 1.0
) -> AffineTensor:  # fmt: skip
    """As a quantizer makes it: scales above zero, zero on the grid, and often met where the density is below 1."""
    tensor = affine_tensor(dtype, stored, shape, axis, seed, levels)
    if stored == "bfloat16":
        scales = np.maximum(tensor.scales.view(np.uint16) & 0x7FFF, 1).view(numpy_dtype("bfloat16"))
    else:
        scales = np.maximum(np.abs(tensor.scales), np.finfo(stored).smallest_subnormal)
    rng = np.random.default_rng(seed)
    same = seed % 2 == 0
    offsets = np.full(len(scales), levels // 2) if same else rng.integers(0, levels, len(scales))
    zeros = np.broadcast_to(offsets[:, None], by_channel(shape, axis)).reshape(-1)
    symbols = np.where(rng.random(numel(shape)) < density, tensor.symbols, zeros).astype(np.uint16)
    return AffineTensor(shape, dtype, stored, scales, offsets.astype(np.int32), axis, symbols)


seeds, densities = st.integers(0, 2**20), st.sampled_from([0.0, 0.02, 0.2, 0.7, 1.0])


@st.composite
def dense_tensors(draw: st.DrawFn) -> DenseTensor:
    dtype = draw(st.sampled_from([kind.name for kind in DTYPES]))
    stored = draw(st.sampled_from([dtype, *NARROWER.get(dtype, ())]))
    tensor = dense_tensor(dtype, stored, draw(shapes), draw(seeds), draw(densities))
    form = draw(st.sampled_from(["bits", "weights", "few", "one"]))
    if form == "weights":
        return DenseTensor(weights(stored, tensor.elements.shape, draw(seeds)), dtype, stored)
    if form != "bits" and tensor.elements.size > 1:
        return DenseTensor(few(tensor.elements, draw(seeds), 2 if form == "few" else 1), dtype, stored)
    return tensor


@st.composite
def shared_tensors(draw: st.DrawFn) -> CompressedTensor:
    dtype = draw(st.sampled_from(FLOATS))
    narrow = [name for name in NARROWER.get(dtype, ()) if name != "bfloat16"]
    k = draw(st.sampled_from([0, 1, 2, 3, 15, 16, 31, 255, 256, 300]))
    return shared_tensor(dtype, draw(shapes), k, draw(seeds), draw(densities), draw(st.sampled_from([dtype, *narrow])))


@st.composite
def affine_tensors(draw: st.DrawFn) -> AffineTensor:
    dtype, shape = draw(st.sampled_from(FLOATS)), draw(shapes)
    stored = draw(st.sampled_from([dtype, *NARROWER.get(dtype, ())]))
    axis = draw(st.sampled_from([None, *range(len(shape))]))
    levels = draw(st.sampled_from([1, 2, 16, 255, 256, 65_536]))
    if draw(st.booleans()):
        return affine_tensor(dtype, stored, shape, axis, draw(seeds), levels)
    return grid_tensor(dtype, stored, shape, axis, draw(seeds), levels, draw(densities))


# What weights by contexts differ in: dimensions, kernels, rows alike at a distance, and how levels lie around zero.
context_shapes = st.sampled_from([
    (), (0,), (1,), (300,), (6, 50), (1, 80), (80, 1), (20, 0), (40, 24), (3, 1, 7, 9), (9, 8, 1, 1), (6, 5, 3, 3), (4, 3, 5, 5),
    (8, 4, 3), (4, 0, 3, 3), (3, 2, 2, 3, 2), (2, 3, 1, 40, 1), (2, 2, 7, 7),
])  # fmt: skip
level_sides = st.sampled_from([(0, 0), (1, 1), (0, 1), (1, 0), (2, 1), (7, 8), (0, 14), (15, 15), (16, 16), (17, 0), (100, 120)])


@st.composite
def context_tensors(draw: st.DrawFn) -> CompressedTensor | AffineTensor:
    dtype, shape, seed, density = draw(st.sampled_from(FLOATS)), draw(context_shapes), draw(seeds), draw(densities)
    if draw(st.booleans()):
        axis = draw(st.sampled_from([None, *range(len(shape))]))
        levels = draw(st.sampled_from([1, 2, 3, 16, 255, 65_536]))
        return grid_tensor(dtype, draw(st.sampled_from([dtype, *NARROWER.get(dtype, ())])), shape, axis, seed, levels, density)
    sides = (20_000, 40_000) if dtype == "float32" and seed % 40 == 0 else draw(level_sides)
    return level_tensor(dtype, shape, sides, seed, density, draw(st.sampled_from([0, 4])) if shape == (40, 24) else 0)


any_tensors = st.one_of(dense_tensors(), shared_tensors(), affine_tensors())
names = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=12).filter(
    lambda name: ".." not in name
)


@st.composite
def models(draw: st.DrawFn) -> Named:
    """Up to five named tensors, some of them ties."""
    named: Named = []
    for name in draw(st.lists(names, max_size=5, unique=True)):
        earlier = [other for other, _ in named]
        named.append((name, Tie(draw(st.sampled_from(earlier))) if earlier and draw(st.booleans()) else draw(any_tensors)))
    return named


encodings = st.builds(
    Encoding,
    coder=st.sampled_from(["huffman", "huffman", "fixed", "context"]),
    max_code_length=st.integers(1, 20),
    one_offset=st.booleans(),
    compact=st.booleans(),
)
cuts = st.tuples(st.sampled_from([1, 4, 32, 1 << 16]), st.sampled_from([1, 2, 4, 8, 16, 32]))


def dense_values(tensors: Named) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    """(dtype, shape, bytes) that each name must give."""
    found: dict[str, tuple[str, tuple[int, ...], bytes]] = {}
    for name, tensor in tensors:
        if isinstance(tensor, Tie):
            found[name] = found[tensor.to]
        else:
            found[name] = (tensor.dtype, tensor.shape, tensor.to_dense().tobytes())
    return found
