"""The one place where torchvision is imported.

A torchvision that was built for another torch than the one installed (PyPI's CUDA build beside a CPU torch, say) cannot
load its compiled operators and dies at import: `operator torchvision::nms does not exist`. Datasets, transforms and
models need none of those operators; once their schemas are declared, the import goes through.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType

import torch

from deepcompress.errors import MissingExtraError

# Operators whose fake kernels torchvision registers at import, and which must exist for that.
_SCHEMAS = {
    "nms": "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms": "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
}
_declared: list[torch.library.Library] = []  # an operator lives as long as the library object that defines it


def import_torchvision(submodule: str = "") -> ModuleType:
    """Import torchvision, or `torchvision.<submodule>`.

    Raises:
        MissingExtraError: torchvision is not installed.
    """
    name = f"torchvision.{submodule}" if submodule else "torchvision"
    try:
        return importlib.import_module(name)
    except RuntimeError as error:
        if "operator torchvision::" not in str(error):
            raise
    except ModuleNotFoundError as error:
        if error.name != "torchvision":
            raise
        raise MissingExtraError("torchvision is not installed; pip install 'deepcompress[vision]'") from error
    _forget_half_imported()
    _declare_missing()
    return importlib.import_module(name)


def _forget_half_imported() -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        del sys.modules[name]


def _declare_missing() -> None:
    missing = [schema for name, schema in _SCHEMAS.items() if not hasattr(torch.ops.torchvision, name)]
    library = torch.library.Library("torchvision", "FRAGMENT")
    for schema in missing:
        library.define(schema)
    _declared.append(library)
