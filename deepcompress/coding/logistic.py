"""Chances in the logistic domain, in whole numbers, as both coders by context have them."""

from __future__ import annotations

from bisect import bisect_right
from functools import cache

SCALE = 256  # of the logistic domain: steps for a factor of e
FAR = 2_815  # its ends, a chance of 1 in 60,000
UNIT = 1 << 16  # of chances as the coder uses them, and of mixing weights
FINE = 22  # bits of a chance as it is learned
LIMIT = 250  # after so many answers a chance moves by 1 / 250 of what is new
LEAST = 48  # of a mixed chance, in 65,536ths; 1 less the same is the most


@cache
def logistic() -> list[int]:
    """65,536 / (1 + e^(-x / 256)), rounded down, for x from -FAR to FAR; in whole numbers of 200 bits."""
    one = 1 << 200
    step, term, count = one, one, 1  # e^(1 / 256) by its series
    while term := term // (SCALE * count):
        step, count = step + term, count + 1
    power, upper = one, []
    for _ in range(FAR + 1):
        upper.append(UNIT * power // (power + one))
        power = power * step // one
    return [UNIT - 1 - chance for chance in upper[:0:-1]] + upper


@cache
def stretched() -> list[int]:
    """For a chance from i to i + 1 in 4,096ths: the last place in the logistic domain whose chance is not above i + 1/2."""
    return [bisect_right(logistic(), 16 * i + 8) - 1 - FAR for i in range(4_096)]


@cache
def learning_rates() -> list[int]:
    """By the answers that a chance has learned from, how far it moves, in 65,536ths."""
    return [10 * UNIT // (10 * seen + 16) for seen in range(LIMIT + 1)]
