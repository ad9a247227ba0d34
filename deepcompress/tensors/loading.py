"""A decoded state dict into a module: all mismatches named at once, and a module that is either loaded or as it was."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.parameter import is_lazy

from deepcompress.container.records import TensorRecord
from deepcompress.errors import ModelError
from deepcompress.tensors.wrappers import bare_names, plain_names


def load_state_dict(module: nn.Module, tensors: Mapping[str, Tensor], source: str) -> None:
    """`module.load_state_dict(tensors, strict=True)`, with the modules' own version hooks, but all or nothing.

    Raises:
        ModelError: names or shapes do not match, or a module's own code for loading raises.
    """
    own = module.state_dict()
    kind = type(module).__name__
    if empty := [name for name, tensor in own.items() if isinstance(tensor, Tensor) and tensor.is_meta and not is_lazy(tensor)]:
        what = f"{empty[0]!r} has no memory; module.to_empty(device=...) gives it some"
        raise ModelError(f"{source} cannot be loaded into {kind}: {what}")
    if _fits(own, tensors) and _loads_plainly(module):
        module.load_state_dict(tensors)
        return
    before = {name: tensor.clone() for name, tensor in own.items() if isinstance(tensor, Tensor) and not is_lazy(tensor)}
    try:
        module.load_state_dict(tensors)
    except BaseException as error:
        _put_back(module, before)
        if not isinstance(error, Exception):
            raise
        foreign = None if isinstance(error, RuntimeError) else error
        raise ModelError(f"{source} does not fit {kind}: {_one_line(error)}") from foreign


def _put_back(module: nn.Module, before: Mapping[str, Tensor]) -> None:
    for name, tensor in module.state_dict().items():
        if name in before and not _is_expanded(tensor):
            with torch.inference_mode(tensor.is_inference()), torch.no_grad():  # torch writes to such a one, and raises then
                tensor.copy_(before[name])


def own_names(module: nn.Module, names: Sequence[str]) -> dict[str, str]:
    """Name in a file -> the module's own name of that tensor, where wrappers alone make the difference; others as they are."""
    theirs = module.state_dict()
    if theirs.keys() == set(names):
        return {name: name for name in names}
    bare = bare_names(module, theirs)
    own = dict(zip(plain_names(bare.values()).values(), bare, strict=True))
    return {name: own.get(plain, name) for name, plain in plain_names(names).items()}


def _fits(own: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> bool:
    """Whether names and shapes are the same, and all can be written to, so that loading cannot stop half-way."""
    return own.keys() == tensors.keys() and all(_takes(tensor, tensors[name].shape) for name, tensor in own.items())


def _takes(tensor: object, shape: torch.Size) -> bool:
    if not isinstance(tensor, Tensor) or is_lazy(tensor) or tensor.is_inference():
        return False
    return tensor.shape == shape and tensor.layout is torch.strided and not _is_expanded(tensor)


def _is_expanded(tensor: Tensor) -> bool:
    """Nothing can be written to it."""
    steps = tensor.stride() if tensor.layout is torch.strided else ()
    return any(step == 0 and size > 1 for size, step in zip(tensor.shape, steps, strict=False))


def _one_line(error: Exception) -> str:
    """torch's list of what does not match, without its heading and line breaks."""
    _, _, listed = str(error).partition("\n")
    return " ".join(listed.split()) or str(error)


def memory_of(
    module: nn.Module, records: Sequence[TensorRecord], names: Mapping[str, str]
) -> list[NDArray[np.uint8]] | None:  # fmt: skip
    """The bytes of the module's own tensors, in the order of `records`, where loading is nothing but writing over them.

    `names` are those of `own_names`.

    None where it is more: names, shapes or dtypes differ, tensors are elsewhere or not contiguous, or a module has a hook or a
    way of its own to load.
    """
    own = module.state_dict()
    if not _loads_plainly(module) or own.keys() != {names[record.name] for record in records}:
        return None
    tensors = [own[names[record.name]] for record in records]
    if not all(_holds(tensor, record) for tensor, record in zip(tensors, records, strict=True)):
        return None
    memory = [tensor.detach().reshape(-1).view(torch.uint8).numpy() for tensor in tensors]
    return None if _overlap([own for own, record in zip(memory, records, strict=True) if record.tie is None]) else memory


def _overlap(memory: Sequence[NDArray[np.uint8]]) -> bool:
    """Whether two tensors that the file tells apart are one memory in the module: which of them is written last matters then."""
    spans = sorted((own.ctypes.data, own.ctypes.data + len(own)) for own in memory if len(own))
    return any(end > start for (_, end), (start, _) in pairwise(spans))


def _loads_plainly(module: nn.Module) -> bool:
    """Whether no part of it has a hook or a way of its own to load."""
    return all(_loads_as_usual(part) for part in module.modules())


def _loads_as_usual(module: nn.Module) -> bool:
    hooks = ("_load_state_dict_pre_hooks", "_load_state_dict_post_hooks", "_state_dict_hooks", "_state_dict_pre_hooks")
    kind = type(module)
    own = (kind._load_from_state_dict, kind.load_state_dict, kind.state_dict)
    usual = own[0] in _USUAL and own[1:] == (nn.Module.load_state_dict, nn.Module.state_dict)
    return usual and not any(getattr(module, name, None) for name in hooks)


# Norms look at versions for a counter that old checkpoints lack; where all names are there, they load as others do.
_USUAL = (nn.Module._load_from_state_dict, _NormBase._load_from_state_dict)


def _holds(tensor: object, record: TensorRecord) -> bool:
    """Whether the tensor's memory is what the record's elements would be."""
    if not isinstance(tensor, Tensor) or type(tensor) not in (Tensor, nn.Parameter) or is_lazy(tensor):
        return False
    if tensor.is_inference() or tensor.is_conj() or tensor.is_neg():
        return False
    usual = tensor.device.type == "cpu" and tensor.layout is torch.strided and tensor.is_contiguous()
    return usual and str(tensor.dtype) == f"torch.{record.dtype}" and tuple(tensor.shape) == record.shape
