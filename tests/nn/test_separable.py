"""Shift, multiply, add is torch's grouped convolution: in output, gradients, names and first weights."""

from __future__ import annotations

import copy
import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from deepcompress.errors import ParameterError
from deepcompress.nn import DepthwiseConv2d, DepthwiseSeparableConv2d, as_grouped, depthwise_separable_block, parameter_share
from deepcompress.nn.depthwise import _ShiftMultiplyAdd

# torch's, of its own way to pad unevenly
UNEVEN = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths:UserWarning")

sides = st.integers(1, 3)
pairs = st.one_of(sides, st.tuples(sides, sides))
paddings = st.one_of(st.integers(0, 2), st.tuples(st.integers(0, 2), st.integers(0, 2)), st.sampled_from(["valid", "same"]))


def gradients(layer: nn.Module, images: Tensor, direction: Tensor) -> list[Tensor]:
    """Of the images and of each parameter, in the order of their names."""
    inputs = images.clone().requires_grad_()
    parameters = [parameter for _, parameter in sorted(layer.named_parameters())]
    return list(torch.autograd.grad(layer(inputs), [inputs, *parameters], direction))


@UNEVEN
@settings(max_examples=80, deadline=None)
@given(pairs, pairs, paddings, pairs, st.integers(1, 3), st.integers(1, 3), st.booleans(), st.integers(0, 2))
def test_equal_to_the_grouped_form(kernel, stride, padding, dilation, channels, multiplier, bias, n) -> None:
    if padding == "same":
        stride = 1
    layer = DepthwiseConv2d(channels, kernel, stride, padding, dilation, depth_multiplier=multiplier, bias=bias).double()
    images, grouped = torch.randn(n, channels, 8, 9, dtype=torch.float64), as_grouped(layer)
    out, wanted = layer(images), grouped(images)
    torch.testing.assert_close(out, wanted)
    for found, expected in zip(
        gradients(layer, images, torch.cos(out)), gradients(grouped, images, torch.cos(wanted)), strict=True
    ):
        torch.testing.assert_close(found, expected)


@UNEVEN
@pytest.mark.parametrize("kernel", [1, 2, 3, 4, (2, 5)])
@pytest.mark.parametrize("dilation", [1, 2, (3, 1)])
def test_same_padding_keeps_the_size(kernel, dilation) -> None:
    layer, images = DepthwiseConv2d(2, kernel, padding="same", dilation=dilation), torch.randn(1, 2, 11, 12)
    reference = F.conv2d(images, layer.weight, layer.bias, padding="same", dilation=dilation, groups=2)
    assert layer(images).shape == images.shape
    torch.testing.assert_close(layer(images), reference)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_equal_to_float_precision_in_every_dtype(dtype: torch.dtype) -> None:
    layer = DepthwiseSeparableConv2d(6, 10, 3, 2, 1, depth_multiplier=2).to(dtype)
    images = torch.randn(2, 6, 15, 15, dtype=dtype)
    out = layer(images)
    assert out.dtype == dtype
    exact = as_grouped(copy.deepcopy(layer).double())(images.double())
    epsilon = torch.finfo(dtype).eps
    torch.testing.assert_close(out.double(), exact, atol=8 * epsilon, rtol=8 * epsilon)


def test_half_precision_is_summed_in_float32() -> None:
    layer = DepthwiseConv2d(1, 3, bias=False).half()
    nn.init.ones_(layer.weight)
    images = torch.full((1, 1, 3, 3), 1.0, dtype=torch.float16)
    images[0, 0, 0, 0] = 2048.0  # one by one, float16 would lose each of the eight others
    assert layer(images).item() == 2056.0


def test_gradients_and_their_gradients() -> None:
    layer = DepthwiseConv2d(2, (3, 2), (1, 2), 1, 2, depth_multiplier=2).double()
    images = torch.randn(2, 2, 5, 6, dtype=torch.float64, requires_grad=True)

    def forward(images: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return torch.func.functional_call(layer, {"weight": weight, "bias": bias}, (images,))  # type: ignore[no-any-return]

    inputs = (images, layer.weight, layer.bias)
    assert torch.autograd.gradcheck(forward, inputs)
    assert torch.autograd.gradgradcheck(forward, inputs)


@pytest.mark.parametrize("learns", ["images", "weight"])
@pytest.mark.parametrize("twice", [False, True])
def test_gradients_of_one_side_alone(learns: str, twice: bool) -> None:
    layer, images = DepthwiseConv2d(2, 3, padding=1, bias=False), torch.randn(1, 2, 5, 5, requires_grad=learns == "images")
    layer.weight.requires_grad_(learns == "weight")
    grouped = as_grouped(layer)
    found, wanted = (
        torch.autograd.grad(
            module(images).square().sum(), images if learns == "images" else module.weight, create_graph=twice
        )[0]
        for module in (layer, grouped)
    )
    torch.testing.assert_close(found, wanted)
    assert found.requires_grad == twice


def test_backward_keeps_the_padded_maps_and_no_shift_of_them() -> None:
    kept: list[Tensor] = []
    layer, images = DepthwiseConv2d(4, 5, padding=2), torch.randn(2, 4, 16, 16, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):
        layer(images)
    assert sum({tensor.data_ptr(): tensor.untyped_storage().nbytes() for tensor in kept}.values()) < 1.1 * 4 * 2 * 4 * 20 * 20


def test_starts_as_torchs_grouped_convolution_does() -> None:
    torch.manual_seed(7)
    layer = DepthwiseConv2d(3, (3, 5), depth_multiplier=2)
    torch.manual_seed(7)
    grouped = nn.Conv2d(3, 6, (3, 5), groups=3)
    assert torch.equal(layer.weight, grouped.weight)
    assert torch.equal(layer.bias, grouped.bias)


def test_the_grouped_form_has_the_same_state_and_shares_no_memory() -> None:
    layer = DepthwiseSeparableConv2d(3, 5, 3, depth_multiplier=2).half().eval()
    layer.pointwise.weight.requires_grad_(False)
    grouped = as_grouped(layer)
    assert not any(module.training for module in grouped.modules())
    assert {module.groups for module in grouped.modules() if isinstance(module, nn.Conv2d)} == {1, 3}
    assert not grouped.pointwise.weight.requires_grad
    tensors = grouped.state_dict()
    assert list(tensors) == list(layer.state_dict()) == ["depthwise.weight", "pointwise.weight", "pointwise.bias"]
    assert all(torch.equal(tensor, tensors[name]) for name, tensor in layer.state_dict().items())
    assert all(tensor.data_ptr() != tensors[name].data_ptr() for name, tensor in layer.state_dict().items())
    layer.load_state_dict(tensors)


def test_one_image_without_a_batch() -> None:
    layer, image = DepthwiseSeparableConv2d(3, 5, 3), torch.randn(3, 6, 6)
    torch.testing.assert_close(layer(image), layer(image[None])[0])
    assert layer(image).shape == (5, 4, 4)


def test_autocast_and_channels_last() -> None:
    layer, images = DepthwiseSeparableConv2d(4, 5, 3, padding=1), torch.randn(2, 4, 6, 6)
    torch.testing.assert_close(layer(images.to(memory_format=torch.channels_last)), layer(images))
    with torch.autocast("cpu", torch.bfloat16):
        out = layer(images.bfloat16())
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out.float(), layer(images), atol=0.05, rtol=0.05)


@pytest.mark.parametrize(
    ("out_channels", "kernel", "multiplier"), list(itertools.product([1, 16, 64], [1, 3, (3, 5)], [1, 2]))
)
def test_parameters_are_the_share_that_theory_says(out_channels, kernel, multiplier) -> None:
    layer = DepthwiseSeparableConv2d(8, out_channels, kernel, depth_multiplier=multiplier, bias=False)
    standard = nn.Conv2d(8, out_channels, kernel, bias=False)
    weights = [sum(p.numel() for p in module.parameters()) for module in (layer, standard)]
    assert weights[0] / weights[1] == pytest.approx(parameter_share(out_channels, kernel, multiplier))


def test_theory() -> None:
    assert parameter_share(64, 3) == pytest.approx(1 / 64 + 1 / 9)


def test_the_block() -> None:
    block = depthwise_separable_block(4, 8, stride=2)
    assert [type(module) for module in block] == [DepthwiseSeparableConv2d, nn.BatchNorm2d, nn.ReLU]
    assert block[0].pointwise.bias is None
    out = block(torch.randn(8, 4, 9, 9))
    assert out.shape == (8, 8, 5, 5)
    assert out.min() == 0


def test_looks() -> None:
    layer = DepthwiseConv2d(3, 3, 2, 1)
    assert repr(layer) == (
        "DepthwiseConv2d(3, kernel_size=(3, 3), stride=(2, 2), padding=((1, 1), (1, 1)), dilation=(1, 1), "
        "depth_multiplier=1, bias=True)"
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"channels": 0}, r"^The 'channels' parameter of DepthwiseConv2d must be an int of at least 1. Got 0 instead\.$"),
        ({"channels": True}, r"'channels' .* Got True"),
        ({"kernel_size": 0}, r"^The 'kernel_size' parameter .* an int of at least 1 or a pair of them. Got 0 instead\.$"),
        ({"kernel_size": (3, 3, 3)}, r"'kernel_size' .* Got \(3, 3, 3\)"),
        ({"stride": -1}, r"'stride' .* Got -1"),
        ({"dilation": 1.5}, r"'dilation' .* Got 1.5"),
        ({"padding": -1}, r'an int of at least 0, a pair of them, "same" or "valid". Got -1 instead'),
        ({"padding": "full"}, r"'padding' .* Got 'full'"),
        ({"padding": "same", "stride": 2}, r"'padding' parameter .* in numbers where the stride is above 1. Got 'same'"),
        ({"depth_multiplier": 0}, r"'depth_multiplier' .* Got 0"),
    ],
)
def test_bad_sizes(arguments, message) -> None:
    with pytest.raises(ParameterError, match=message):
        DepthwiseConv2d(**{"channels": 3, "kernel_size": 3, **arguments})


def test_bad_out_channels() -> None:
    with pytest.raises(ParameterError, match=r"'out_channels' .* Got 0"):
        DepthwiseSeparableConv2d(3, 0, 3)


@pytest.mark.parametrize("shape", [(1, 2, 8, 8), (3, 8), (1, 1, 3, 8, 8)])
def test_images_of_another_shape(shape) -> None:
    with pytest.raises(ParameterError, match=r"^The 'images' parameter .* of shape \(n, 3, height, width\) or one image"):
        DepthwiseConv2d(3, 3)(torch.zeros(shape))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.complex64])
def test_images_that_are_no_floats(dtype) -> None:
    with pytest.raises(ParameterError, match=r"^The 'images' parameter of DepthwiseConv2d must be of a floating-point type"):
        DepthwiseConv2d(3, 3)(torch.zeros(1, 3, 8, 8, dtype=dtype))


def test_images_smaller_than_the_kernel() -> None:
    with pytest.raises(ParameterError, match=r"at least as large as its kernel of \(3, 3\). Got \(1, 3, 8, 2\) instead"):
        DepthwiseConv2d(3, 3)(torch.zeros(1, 3, 8, 2))
    assert DepthwiseConv2d(3, 3, padding=1)(torch.zeros(1, 3, 8, 2)).shape == (1, 3, 8, 2)


def test_the_function_needs_no_gradient_at_all() -> None:
    maps, weight = torch.randn(1, 2, 1, 4, 4), torch.randn(1, 2, 1, 3, 3)
    out = _ShiftMultiplyAdd.apply(maps, weight, DepthwiseConv2d(2, 3).window)
    assert not out.requires_grad
    assert out.shape == (1, 2, 1, 2, 2)
