"""Checkpoints to compress: files that are given, weights trained on the spot, and generated ones."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from torch import Tensor, nn

Weights = dict[str, Tensor]
SUFFIXES = (".th", ".pt", ".pth", ".safetensors")


def given(folder: Path) -> dict[str, Weights]:
    """Name -> float32 weights of every checkpoint in a folder.

    Raises:
        SystemExit: there is none.
    """
    from deepcompress.cli.checkpoints import read_checkpoint

    paths = sorted(path for path in folder.iterdir() if path.suffix in SUFFIXES)
    if not paths:
        raise SystemExit(f"{folder} has no {', '.join(SUFFIXES)}")
    return {path.stem: _floats(read_checkpoint(str(path)).tensors) for path in paths}


def trained(epochs: int = 20) -> Weights:
    """A network of three layers, 0.3 M weights, trained on scikit-learn's digits for a second or two."""
    from sklearn.datasets import load_digits

    torch.manual_seed(0)
    images, labels = load_digits(return_X_y=True)
    inputs, targets = torch.from_numpy(images / 16).float(), torch.from_numpy(labels)
    module = nn.Sequential(nn.Linear(64, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 10))
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-3)
    for _ in range(epochs):
        for batch in torch.randperm(len(inputs)).split(128):
            optimizer.zero_grad()
            nn.functional.cross_entropy(module(inputs[batch]), targets[batch]).backward()
            optimizer.step()
    return _floats(module.state_dict())


def generated(width: int = 64) -> Weights:
    """Gaussians in the shapes of a ResNet-50, He-scaled layer by layer: 25.6 M weights at width 64.

    BatchNorm's vectors vary around what they begin with, as trained ones do.
    """
    generator = torch.Generator().manual_seed(0)
    weights: Weights = {}
    for name, shape in _shapes(width).items():
        noise = torch.randn(shape, generator=generator)
        kind = name.rpartition(".")[2]
        if len(shape) > 1:
            weights[name] = noise * math.sqrt(2 / math.prod(shape[1:]))
        else:
            weights[name] = {"weight": 1 + noise / 8, "running_var": (noise / 2).exp()}.get(kind, noise / 8)
    return weights


def layers(size: int, count: int = 6) -> Weights:
    """Gaussians in a few large matrices of about `size` weights, each of another scale, like a language model's."""
    generator = torch.Generator().manual_seed(0)
    shape = (size // 1000, 1000)
    return {f"layers.{place}": 0.02 * (place + 1) * torch.randn(shape, generator=generator) for place in range(count)}


def _shapes(width: int) -> dict[str, tuple[int, ...]]:
    """Floating-point tensors of a ResNet-50's state dict, by torchvision's names.

    Source: He, Zhang, Ren, Sun. Deep Residual Learning for Image Recognition. CVPR 2016, table 1.
    """
    shapes: dict[str, tuple[int, ...]] = {}

    def layer(name: str, norm: str, shape: tuple[int, ...]) -> None:
        shapes[f"{name}.weight"] = shape
        shapes.update({f"{norm}.{part}": shape[:1] for part in ("weight", "bias", "running_mean", "running_var")})

    layer("conv1", "bn1", (width, 3, 7, 7))
    before = width
    for group, blocks in enumerate((3, 4, 6, 3)):
        inner = width << group
        for block in range(blocks):
            path = f"layer{group + 1}.{block}"
            layer(f"{path}.conv1", f"{path}.bn1", (inner, before, 1, 1))
            layer(f"{path}.conv2", f"{path}.bn2", (inner, inner, 3, 3))
            layer(f"{path}.conv3", f"{path}.bn3", (4 * inner, inner, 1, 1))
            if block == 0:
                layer(f"{path}.downsample.0", f"{path}.downsample.1", (4 * inner, before, 1, 1))
            before = 4 * inner
    return {**shapes, "fc.weight": (1000, before), "fc.bias": (1000,)}


def _floats(tensors: Weights) -> Weights:
    """The floating-point ones, as float32: the peers know no other types."""
    return {name: tensor.detach().float() for name, tensor in tensors.items() if tensor.is_floating_point()}
