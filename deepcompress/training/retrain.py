"""Training while masks are held: what is pruned stays exactly zero."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from typing import Any, Unpack

from torch import Tensor, nn
from torch.optim import Optimizer

from deepcompress.errors import ParameterError
from deepcompress.layers.masking import Masks, hold_masks, sparsity_of
from deepcompress.training.gradual import GradualMasks, GradualSettings
from deepcompress.training.history import History
from deepcompress.training.loop import FitOptions, fit
from deepcompress.training.settings import TrainSettings
