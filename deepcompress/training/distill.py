"""A loss by which one network teaches another."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from deepcompress.errors import ParameterError, PipelineError
from deepcompress.training.batches import split_batch
from deepcompress.training.loop import Loss

__all__ = ["distillation"]


def distillation(teacher: nn.Module, *, temperature: float = 4.0, own_share: float = 0.3) -> Loss:
    """The loss `own_share` x cross entropy + (1 - own_share) x the distance to the teacher's softened answers.

    Args:
        teacher: gives logits, (n, classes, ...), as the model does that learns. It is copied, so that it stays as it is now; it
            answers in eval mode, without gradients.
        temperature: above 0; logits are divided by it on both sides, and the distance (Kullback and Leibler's, mean over the
            batch) is multiplied by its square, so that gradients keep their size.
        own_share: from 0 to 1. At 0 no labels are looked at: a batch is then a tensor of inputs, or (inputs, anything).

    Returns:
        (model, batch) -> scalar tensor, for `loss=` of `Pipeline.run` and `fit`.

    Raises:
        ParameterError: an argument out of its range. The loss itself raises PipelineError for batches and answers that are none.

    Source: Hinton, Vinyals, Dean. Distilling the knowledge in a neural network. 2015. arXiv:1503.02531.
    """
    if not isinstance(teacher, nn.Module):
        raise ParameterError.of("teacher", "distillation", "a torch.nn.Module", teacher)
    if not (_is_number(temperature) and 0 < temperature < math.inf):
        raise ParameterError.of("temperature", "distillation", "a number above 0", temperature)
    if not (_is_number(own_share) and 0 <= own_share <= 1):
        raise ParameterError.of("own_share", "distillation", "a number from 0 to 1", own_share)
    master = copy.deepcopy(teacher).eval().requires_grad_(False)

    def loss(model: nn.Module, batch: Any) -> Tensor:
        inputs, targets = split_batch(batch) if own_share else (_inputs_of(batch), None)
        logits = _logits(model(inputs), "model")
        distance = _distance(logits, master, inputs, temperature) if own_share < 1 else logits.new_zeros(())
        if targets is None:
            return distance
        return own_share * F.cross_entropy(logits, targets) + (1 - own_share) * distance

    return loss


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _inputs_of(batch: Any) -> Any:
    """The inputs of a batch whose labels, if it has any, are of no interest."""
    if isinstance(batch, Sequence) and not isinstance(batch, str) and len(batch):
        return batch[0]
    if isinstance(batch, Tensor):
        return batch
    raise PipelineError(f"a batch of type {type(batch).__name__} is neither inputs nor (inputs, ...): give a loss that takes it")


def _logits(answer: Any, whose: str) -> Tensor:
    if not isinstance(answer, Tensor):
        raise PipelineError(f"the {whose} gives a {type(answer).__name__}, not logits: give a loss that takes it")
    return answer if answer.dtype == torch.float64 else answer.float()  # under autocast they are narrower


def _distance(logits: Tensor, master: nn.Module, inputs: Any, temperature: float) -> Tensor:
    """How far the answers are from the teacher's, both softened."""
    with torch.no_grad():
        wanted = F.softmax(_logits(master(inputs), "teacher") / temperature, 1)
    return F.kl_div(F.log_softmax(logits / temperature, 1), wanted, reduction="batchmean") * temperature**2
