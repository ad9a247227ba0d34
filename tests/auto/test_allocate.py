"""Bits by one price: within the noise, as few as there are at that price, and never fewer for less noise."""

from __future__ import annotations

from itertools import pairwise, product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from deepcompress.auto.allocate import Width, allocate, noise_of, widths_of
from deepcompress.errors import ModelError


@st.composite
def hulls(draw: st.DrawFn) -> tuple[Width, ...]:
    """Widths whose slopes fall."""
    count = draw(st.integers(1, 4))
    slopes = sorted(draw(st.lists(st.floats(1e-4, 1), min_size=count, max_size=count, unique=True)))
    cost, noise, found = 1_000.0, draw(st.floats(0, 0.01)), []
    for bits, slope in enumerate(slopes):
        found.append(Width(16 - bits, cost, noise))
        step = draw(st.floats(1, 50))
        cost, noise = cost - step, noise + slope * step
    return tuple(reversed(found))


@settings(deadline=None)
@given(st.lists(hulls(), min_size=1, max_size=4), st.floats(0, 40))
def test_no_choice_of_no_more_noise_takes_fewer_bits(found: list[tuple[Width, ...]], noise: float) -> None:
    widths = {str(place): hull for place, hull in enumerate(found)}
    chosen = allocate(widths, noise)
    if noise_of(chosen.values()) > noise:
        assert all(chosen[name] == hull[-1] for name, hull in widths.items())
    cost, lost = sum(width.cost for width in chosen.values()), noise_of(chosen.values())
    for other in product(*found):
        assert sum(width.cost for width in other) >= cost - 1e-6 or noise_of(other) > lost - 1e-9


def layers() -> dict[str, Tensor]:
    chance = torch.Generator().manual_seed(0)
    return {
        "wide": torch.randn(200, 100, generator=chance),
        "small": torch.randn(10, 9, generator=chance) * 7,
        "tailed": torch.randn(50, 60, generator=chance) ** 3,
        "sparse": torch.randn(40, 50, generator=chance) * (torch.rand(40, 50, generator=chance) < 0.1),
        "zeros": torch.zeros(5, 4),
        "half": torch.randn(30, 30, generator=chance).half(),
        "brain": torch.randn(30, 30, generator=chance).bfloat16(),
    }


def test_hulls_of_real_layers() -> None:
    for name, hull in widths_of(layers()).items():
        slopes = [(low.noise - high.noise) / (high.cost - low.cost) for low, high in pairwise(hull)]
        assert slopes == sorted(slopes, reverse=True)
        assert all(slope > 0 for slope in slopes)
        assert [width.bits for width in hull] == sorted({width.bits for width in hull})
        assert len(hull) > 3 or name == "zeros"


def test_less_noise_never_takes_bits_away() -> None:
    widths = widths_of(layers())
    found = [allocate(widths, 10 ** (-quality / 20)) for quality in range(1, 101)]
    for quality, (before, after) in enumerate(pairwise(found), 2):
        assert all(after[name].bits >= before[name].bits for name in widths)
        assert noise_of(after.values()) <= max(10 ** (-quality / 20), noise_of(hull[-1] for hull in widths.values()))
    assert found[-1]["small"].bits > found[-1]["wide"].bits  # its bits cost less


def test_weights_that_are_no_numbers() -> None:
    with pytest.raises(ModelError, match="w: 1 of 4 weights are NaN or infinite; a grid needs finite ones"):
        widths_of({"w": torch.tensor([[1.0, 2.0], [float("nan"), 0.0]])})
