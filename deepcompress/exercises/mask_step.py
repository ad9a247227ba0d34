"""A training step under a mask: what is pruned stays exactly zero.

Write `masked_step(weights, gradient, velocity, mask, lr, momentum, weight_decay)`: one step of SGD as torch.optim.SGD makes it,

    velocity = momentum x velocity + (gradient + weight_decay x weights)
    weights  = weights - lr x velocity

for the weights that the mask keeps (True = kept), while each pruned weight ends at exactly 0: whatever its gradient, whatever the
velocity remembers from the time before the mask, and also where it comes in as another number. The answer is (weights, velocity),
new arrays; what the velocity says of pruned weights does not matter.

    masked_step([1.0, 2.0], [0.5, 0.5], [0.0, 1.0], [True, False], lr=0.1, momentum=0.9, weight_decay=0.0)
    gives ([0.95, 0.0], [0.5, anything])    (as arrays)

Source: Han, Pool, Tran, Dally. Learning both weights and connections for efficient neural networks. NIPS 2015, sec. 3;
Sutskever et al. On the importance of initialization and momentum in deep learning. ICML 2013.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from deepcompress.exercises.answers import Mistake, array, is_close, parts, recognised
from deepcompress.exercises.exercise import Case, WrongAnswerError
from deepcompress.exercises.show import shown

STARTER = '''\
import numpy as np


def masked_step(
    weights: np.ndarray,
    gradient: np.ndarray,
    velocity: np.ndarray,
    mask: np.ndarray,
    lr: float,
    momentum: float,
    weight_decay: float,
) -> tuple[np.ndarray, np.ndarray]:
    """The weights and the velocity after a step of SGD in which pruned weights (mask False) stay exactly zero."""
    raise NotImplementedError
'''

Array = NDArray[Any]


class Step(NamedTuple):
    """The arguments of one call."""

    weights: Array
    gradient: Array
    velocity: Array
    mask: Array
    lr: float
    momentum: float
    weight_decay: float


def cases() -> list[Case]:
    """The hidden cases."""
    return [Case(name, "masked_step", step._asdict(), partial(_check, step)) for name, step in _given()]


def _given() -> Iterator[tuple[str, Step]]:
    rng = np.random.default_rng(2013)

    def drawn(*shape: int, density: float = 0.5, old: bool = False) -> tuple[Array, Array, Array, Array]:
        """Weights, gradient, velocity and mask; pruned places are zero, unless the mask is new (`old` velocity)."""
        mask = rng.random(shape) < density
        weights, gradient, velocity = rng.normal(0, 1, (3, *shape))
        return weights * mask, gradient, velocity if old else velocity * mask, mask

    yield "nothing pruned, plain SGD", Step(*drawn(6, density=1), 0.1, 0.0, 0.0)
    yield "nothing pruned, momentum and weight decay", Step(*drawn(6, density=1), 0.1, 0.9, 0.01)
    yield "half pruned, plain SGD", Step(*drawn(4, 3), 0.1, 0.0, 0.0)
    yield "half pruned, weight decay", Step(*drawn(4, 3), 0.5, 0.0, 0.1)
    yield "half pruned, momentum", Step(*drawn(4, 3), 0.05, 0.9, 0.0)
    yield "the velocity is older than the mask", Step(*drawn(3, 5, old=True), 0.1, 0.9, 5e-4)
    weights, gradient, velocity, mask = drawn(8, old=True)
    whole = np.where(mask, weights, 3.0)
    yield "the first step: pruned weights are no zeros yet", Step(whole, gradient, velocity, mask, 0.1, 0.9, 0.1)
    yield "a convolution's filters", Step(*drawn(4, 2, 3, 3, density=0.1, old=True), 0.01, 0.9, 1e-4)
    weights, gradient, velocity, mask = drawn(8, density=0.6)
    wild = np.where(mask, gradient, np.resize([np.inf, np.nan, -np.inf], 8))
    yield "gradients of pruned weights that are not finite", Step(weights, wild, velocity, mask, 0.1, 0.9, 0.0)
    yield "everything pruned", Step(*drawn(5, density=0, old=True), 0.1, 0.9, 0.1)


def _decayed(step: Step) -> Array:
    return step.gradient + step.weight_decay * step.weights


def _velocity(step: Step) -> Array:
    return step.momentum * step.velocity + _decayed(step)


def _kept(rule: Callable[[Step], Array]) -> Callable[[Step], Array]:
    return lambda step: rule(step)[step.mask]


def _pruned(rule: Callable[[Step], Array]) -> Callable[[Step], Array]:
    return lambda step: rule(step)[~step.mask]


_ON_KEPT: Sequence[Mistake] = (
    (_kept(lambda s: s.weights - s.lr * (s.momentum * s.velocity + s.gradient)), "the weight decay is missing"),
    (
        _kept(lambda s: s.weights - s.lr * (s.momentum * s.velocity + s.gradient - s.weight_decay * s.weights)),
        "the weight decay has the wrong sign",
    ),
    (
        _kept(lambda s: s.weights - s.lr * (s.momentum * s.velocity + (1 - s.momentum) * _decayed(s))),
        "the gradient is not multiplied by 1 - momentum here (torch calls that dampening)",
    ),
    (_kept(lambda s: s.weights - s.lr * (_decayed(s) + s.momentum * _velocity(s))), "this is Nesterov's momentum"),
    (_kept(lambda s: s.weights - s.lr * _decayed(s)), "the velocity is not used"),
    (_kept(lambda s: s.weights - s.lr * s.velocity), "the weights moved by the old velocity: they come second"),
    (_kept(lambda s: s.weights + s.lr * _velocity(s)), "the step goes up the gradient, it must go down"),
    (
        _kept(lambda s: s.weights - s.momentum * s.velocity - s.lr * _decayed(s)),
        "the learning rate belongs to the step of the weights, not into the velocity",
    ),
)

_ON_PRUNED: Sequence[Mistake] = (
    (_pruned(lambda s: s.weights - s.lr * _velocity(s)), "pruned weights are trained like all others: the mask is not used"),
    (
        _pruned(lambda s: s.weights - s.lr * (s.momentum * s.velocity + s.weight_decay * s.weights)),
        "the mask is on the gradient alone: the velocity from before, and the weight decay, move pruned weights on",
    ),
    (
        _pruned(lambda s: s.weights - s.lr * s.momentum * s.velocity),
        "the mask is on the gradient alone: the velocity from before moves pruned weights on",
    ),
    (
        _pruned(lambda s: s.weights - s.lr * s.weight_decay * s.weights),
        "the mask is on gradient and velocity alone: the weights themselves must be set to zero",
    ),
    (_pruned(lambda s: s.weights), "a pruned weight keeps the number it came with: it must be set to zero"),
)


_ON_VELOCITY: Sequence[Mistake] = (
    (_kept(lambda s: s.velocity), "this is the velocity before the step"),
    (
        _kept(lambda s: s.momentum * s.velocity + s.gradient),
        "the weight decay is taken from the weights alone (as AdamW does), instead of being added to the gradient",
    ),
    (_kept(lambda s: s.momentum * s.velocity + s.lr * _decayed(s)), "the learning rate belongs to the step of the weights alone"),
    (_kept(lambda s: s.lr * _velocity(s)), "the learning rate belongs to the step of the weights alone"),
    (_kept(_decayed), "the old velocity is missing"),
)


def _check(step: Step, answer: Any) -> None:
    weights, velocity = (array(part, "arrays of numbers") for part in parts(answer, "weights", "velocity"))
    if (weights.shape, velocity.shape) != (step.mask.shape, step.mask.shape):
        got = f"shapes {weights.shape} and {velocity.shape}"
        raise WrongAnswerError(f"weights and velocity of shape {step.mask.shape}", got)
    moved = _velocity(step)
    expected = np.where(step.mask, step.weights - step.lr * moved, 0.0)
    if not is_close(weights[step.mask], expected[step.mask]):
        raise WrongAnswerError(f"weights {shown(expected)}", shown(weights), _hint_on_kept(step, weights))
    if np.any(weights[~step.mask] != 0):
        raise WrongAnswerError(f"weights {shown(expected)}", shown(weights), _hint_on_pruned(step, weights))
    if not is_close(velocity[step.mask], moved[step.mask]):
        hint = recognised(velocity[step.mask], {"step": step}, _ON_VELOCITY)
        raise WrongAnswerError(f"velocity {shown(moved)} (where the mask keeps)", shown(velocity), hint)


def _hint_on_kept(step: Step, weights: Array) -> str:
    if step.mask.any() and not weights[step.mask].any():
        return "the mask is upside down: True means kept"
    return recognised(weights[step.mask], {"step": step}, _ON_KEPT)


def _hint_on_pruned(step: Step, weights: Array) -> str:
    if not np.isfinite(weights[~step.mask]).all():
        return "0 times infinity is nan: choose zero where a weight is pruned (np.where), do not multiply by the mask"
    return recognised(weights[~step.mask], {"step": step}, _ON_PRUNED) or "pruned weights must be exactly 0, not almost"
