"""A right answer to `mask-step`."""

import numpy as np


def masked_step(weights, gradient, velocity, mask, lr, momentum, weight_decay):
    gradient = gradient + weight_decay * weights
    velocity = np.where(mask, momentum * velocity + gradient, 0.0)
    weights = np.where(mask, weights - lr * velocity, 0.0)
    return weights, velocity
