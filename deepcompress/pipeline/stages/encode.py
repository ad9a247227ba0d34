"""The stages that decide how everything is written."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from deepcompress.coding.huffman import DEFAULT_MAX_CODE_LENGTH, MAX_CODE_LENGTH
from deepcompress.errors import ParameterError
from deepcompress.layers.sharing import is_expanded, tied_names
from deepcompress.pipeline.assemble import model_tensors
from deepcompress.pipeline.stage import Stage
from deepcompress.pipeline.state import Context, State
from deepcompress.tensors.streams import Encoding

_HALVED = (torch.float32, torch.float64)


@dataclass(frozen=True, eq=False)
class HuffmanEncode(Stage):
    """Code indices and the gaps between nonzeros with canonical Huffman codes.

    For each tensor the cheapest of nonzeros with gaps, indices with a zero symbol, and plain values is written, by counting
    their bits. What has no codebook loses nothing but what `leftovers` rounds: its numbers are cut into planes, see `Lossless`.

    Args:
        max_code_length: longest codeword, 1 to 20 bits; raised where an alphabet needs more.
        leftovers: "float16" stores what has no codebook (biases, norms and their statistics) in half the bytes; the model takes
            the rounded values. A tensor that float16 cannot hold (a value beyond 65,504) keeps its dtype. None keeps all.

    Raises:
        ParameterError: a parameter out of its range.

    Source: Huffman. A method for the construction of minimum-redundancy codes. Proc. IRE 1952; Han et al. 2016, sec. 4.
    """

    max_code_length: int = DEFAULT_MAX_CODE_LENGTH
    leftovers: str | None = None

    kind: ClassVar[str] = "huffman_encode"
    phase: ClassVar[str] = "encode"

    def __post_init__(self) -> None:
        owner = type(self).__name__
        _check_code_length(self.max_code_length, owner)
        if self.leftovers not in (None, "float16"):
            raise ParameterError.of("leftovers", owner, "None or 'float16'", self.leftovers)

    def apply(self, state: State, context: Context) -> State:
        stored = _round_leftovers(state) if self.leftovers else {}
        encoding = Encoding("huffman", self.max_code_length)
        return replace(state, encoding=encoding, stored={**state.stored, **stored}, notes=())


@dataclass(frozen=True, eq=False)
class ContextEncode(HuffmanEncode):
    """Code indices by what stands around them: the smallest file, at some megabytes of dense weights a second.

    Each index is said in yes-or-no questions (zero? above zero? farther from it than the next?), and each answer costs what the
    weights left, above and in the filters before, and the density of its row, column and channel so far, have not foreseen. Where
    Huffman codes take fewer bytes, they are written. Args and errors: those of HuffmanEncode.

    Source: Mahoney. Adaptive weighing of context models for lossless data compression. 2005; contexts from neighbours: Wiedemann
    et al. DeepCABAC. 2020. arXiv:1907.11900.
    """

    kind: ClassVar[str] = "context_encode"

    def apply(self, state: State, context: Context) -> State:
        after = super().apply(state, context)
        return replace(after, encoding=replace(after.encoding, coder="context", compact=True))


@dataclass(frozen=True, eq=False)
class Lossless(Stage):
    """Write every tensor so that it comes back equal in every bit, in as few bytes as that takes; the only stage of a pipeline.

    The numbers of each tensor are cut into planes: exponents with the first bits of their mantissas are Huffman-coded, what is
    noise is stored as it is. Weights that are zero cost the gaps between the others.

    Args:
        max_code_length: longest codeword, 1 to 20 bits.

    Raises:
        ParameterError: a parameter out of its range.

    Source: Hershcovitch et al. ZipNN: Lossless compression for AI models. 2024. arXiv:2411.05239 (planes of bytes).
    """

    max_code_length: int = DEFAULT_MAX_CODE_LENGTH

    kind: ClassVar[str] = "lossless"
    phase: ClassVar[str] = "lossless"

    def __post_init__(self) -> None:
        _check_code_length(self.max_code_length, "Lossless")

    def apply(self, state: State, context: Context) -> State:
        return replace(state, encoding=Encoding("huffman", self.max_code_length), notes=())


def _check_code_length(limit: object, owner: str) -> None:
    if isinstance(limit, bool) or not isinstance(limit, int) or not 1 <= limit <= MAX_CODE_LENGTH:
        raise ParameterError.of("max_code_length", owner, f"an int from 1 to {MAX_CODE_LENGTH}", limit)


def _round_leftovers(state: State) -> dict[str, str]:
    """Round what has no codebook to float16, in place. Returns tensor name -> "float16"."""
    tensors = model_tensors(state.model)
    ties = tied_names(tensors)
    shared = {ties.get(name, name) for name in state.codebooks}
    rounded: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if name in shared or name in ties or tensor.dtype not in _HALVED or is_expanded(tensor):
            continue
        half = tensor.detach().half()
        if bool(torch.isfinite(half).all()):
            rounded[name] = half
    with torch.no_grad():
        for name, half in rounded.items():
            tensors[name].copy_(half)
    after = model_tensors(state.model)  # extra state may be made anew each time: what is written to it is lost
    return {name: "float16" for name, half in rounded.items() if torch.equal(after[name], half.to(after[name].dtype))}
