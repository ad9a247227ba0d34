"""Networks, data and comparisons for the pipeline's tests."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn


class Net(nn.Module):
    """A convolution, a norm, a linear layer, one weight under two names, and a counter."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.fc = nn.Linear(144, 10)
        self.inner = nn.Linear(10, 10)
        self.again = nn.Linear(10, 10)
        self.again.weight = self.inner.weight

    def forward(self, images: Tensor) -> Tensor:
        hidden = torch.relu(self.norm(self.conv(images))).flatten(1)
        out: Tensor = self.again(torch.tanh(self.inner(self.fc(hidden))))
        return out


def net(seed: int = 0, dtype: torch.dtype = torch.float32) -> Net:
    torch.manual_seed(seed)
    return Net().to(dtype)


def digits(batch: int = 64, count: int = 256) -> list[tuple[Tensor, Tensor]]:
    """Batches of scikit-learn's digits, images (n, 1, 8, 8)."""
    from sklearn.datasets import load_digits

    data = load_digits()
    images = torch.from_numpy(data.images[:count]).float().div(16).unsqueeze(1)
    return list(zip(images.split(batch), torch.from_numpy(data.target[:count]).split(batch), strict=True))


def accuracy(model: nn.Module) -> float:
    right = [(model(images).argmax(1) == labels).float().mean().item() for images, labels in digits(256)]
    return sum(right) / len(right)


def state_of(model: Any) -> dict[str, Tensor]:
    tensors: Mapping[str, Tensor] = model.state_dict() if isinstance(model, nn.Module) else model
    return {name: tensor.detach().clone() for name, tensor in tensors.items()}


def raw(tensor: Tensor) -> tuple[str, tuple[int, ...], bytes]:
    flat = tensor.detach().contiguous().reshape(-1)
    return str(tensor.dtype), tuple(tensor.shape), flat.view(torch.uint8).numpy().tobytes()


def same_bits(left: Any, right: Any) -> bool:
    """Equal names in equal order, dtypes, shapes and bytes."""
    a, b = state_of(left), state_of(right)
    return list(a) == list(b) and all(raw(a[name]) == raw(b[name]) for name in a)
