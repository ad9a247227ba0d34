"""MNIST and CIFAR-10 for the examples, read through torchvision's datasets into tensors, and batches cut from them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from deepcompress.vision import import_torchvision

HOW_TO_GET = {
    "mnist": "torchvision.datasets.MNIST({root!r}, download=True) fetches it",
    "cifar10": "torchvision.datasets.CIFAR10({root!r}, download=True) fetches it; an ImageFolder layout "
    "(cifar10/train/<class>/*.png and cifar10/test/<class>/*.png, 32x32) is read as well",
}
SIZES = {"mnist": (60_000, 10_000), "cifar10": (50_000, 10_000)}
CIFAR_MEAN, CIFAR_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
MNIST_MEAN, MNIST_STD = (0.1307,), (0.3081,)


@dataclass(frozen=True)
class Split:
    """Images (n, channels, height, width), uint8, and labels (n,), int64, of one split, with the statistics to normalise by."""

    images: Tensor
    labels: Tensor
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, rows: Tensor) -> Split:
        return Split(self.images[rows], self.labels[rows], self.mean, self.std)

    def sample(self, count: int | None, seed: int = 0) -> Split:
        """So many of the images, or all, drawn at random and the same ones each time."""
        return self.take(torch.randperm(len(self), generator=torch.Generator().manual_seed(seed))[:count])


class Batches:
    """An iterable of normalised (images, labels) batches, in memory; a new shuffle and new crops at every pass.

    `shift` pads each image by so many pixels and crops it at random; `flip` mirrors half of them: four pixels and flips are the
    usual augmentation for CIFAR. It is done on whole batches of tensors; one image at a time would cost more than the training
    step of a small network.
    """

    def __init__(self, split: Split, batch_size: int, *, shuffle: bool = False, shift: int = 0, flip: bool = False,
                 seed: int = 0, channels_last: bool = False) -> None:
        self.split = split
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.shift = shift
        self.flip = flip
        self.channels_last = channels_last
        self.generator = torch.Generator().manual_seed(seed)
        self._padded = torch.nn.functional.pad(split.images, (shift,) * 4)
        self._mean = torch.tensor(split.mean).view(-1, 1, 1) * 255
        self._std = torch.tensor(split.std).view(-1, 1, 1) * 255

    def __len__(self) -> int:
        return -(-len(self.split) // self.batch_size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        n = len(self.split)
        order = torch.randperm(n, generator=self.generator) if self.shuffle else torch.arange(n)
        for rows in order.split(self.batch_size):
            images = self._crop(rows) if self.shift or self.flip else self._padded[rows]
            images = (images.float() - self._mean) / self._std
            if self.channels_last:
                images = images.contiguous(memory_format=torch.channels_last)
            yield images, self.split.labels[rows]

    def _crop(self, rows: Tensor) -> Tensor:
        size = self.split.images.shape[-1]
        offsets = torch.randint(0, 2 * self.shift + 1, (2, len(rows), 1), generator=self.generator)
        y, x = offsets + torch.arange(size)
        if self.flip:
            mirrored = torch.rand(len(rows), 1, generator=self.generator) < 0.5
            x = torch.where(mirrored, x.flip(1), x)
        return self._padded[rows[:, None, None], :, y[:, :, None], x[:, None, :]].permute(0, 3, 1, 2)


def load_data(name: str, root: Path) -> tuple[Split, Split]:
    """The whole of "mnist" or "cifar10" under `root`; leaves the program with one line where it is not there, or a part of it."""
    return load_part(name, root, train=True), load_part(name, root, train=False)


def load_part(name: str, root: Path, *, train: bool) -> Split:
    """The training images alone, or the test images alone; as `load_data`."""
    part = {"mnist": _mnist, "cifar10": _cifar10}[name](root, train)
    size, which, classes = SIZES[name][0 if train else 1], "training" if train else "test", len(part.labels.unique())
    if len(part) != size or classes != 10:
        there = f"{len(part):,} {which} images in {classes} classes are there, {size:,} in 10 belong to it"
        raise SystemExit(f"{name} under {str(root)!r} is incomplete or another data set: {there}")
    return part


def stand_in(name: str) -> tuple[Split, Split]:
    """scikit-learn's digits in the shape of "mnist" or "cifar10": 1,437 images to train on, 360 to test on, 10 classes."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    side, mean, std = {"mnist": (28, MNIST_MEAN, MNIST_STD), "cifar10": (32, CIFAR_MEAN, CIFAR_STD)}[name]
    small = torch.from_numpy(digits.images).float()[:, None] * (255 / 16)
    large = torch.nn.functional.interpolate(small, size=(side, side), mode="bilinear", antialias=False)
    images = large.round().to(torch.uint8).expand(-1, len(mean), -1, -1).contiguous()
    labels = torch.from_numpy(digits.target).long()
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    return tuple(Split(images[rows], labels[rows], mean, std) for rows in (order[:1437], order[1437:]))  # type: ignore[return-value]


def load_mnist(root: Path) -> tuple[Split, Split]:
    """MNIST's 60,000 training and 10,000 test images from torchvision's layout under `root`."""
    return _mnist(root, True), _mnist(root, False)


def load_cifar10(root: Path) -> tuple[Split, Split]:
    """CIFAR-10's 50,000 training and 10,000 test images, from torchvision's CIFAR10 layout or an ImageFolder."""
    return _cifar10(root, True), _cifar10(root, False)


def _mnist(root: Path, train: bool) -> Split:
    try:
        part = import_torchvision("datasets").MNIST(root, train=train, download=False)
    except RuntimeError as error:
        raise SystemExit(_missing("mnist", root)) from error
    return Split(part.data[:, None], part.targets, MNIST_MEAN, MNIST_STD)


def _cifar10(root: Path, train: bool) -> Split:
    if (root / "cifar10" / "train").is_dir():
        return _image_folder(root / "cifar10" / ("train" if train else "test"))
    try:
        part = import_torchvision("datasets").CIFAR10(root, train=train, download=False)
    except RuntimeError as error:
        raise SystemExit(_missing("cifar10", root)) from error
    return _split(part.data, part.targets)


def _split(images: np.ndarray, labels: list[int]) -> Split:
    return Split(torch.from_numpy(images).permute(0, 3, 1, 2).contiguous(), torch.tensor(labels), CIFAR_MEAN, CIFAR_STD)


def _image_folder(folder: Path) -> Split:
    """Read an ImageFolder once; decoding 50,000 PNGs takes half a minute, so the arrays are kept beside it."""
    dataset = import_torchvision("datasets").ImageFolder(folder)
    key = hashlib.sha256("\n".join(path for path, _ in dataset.samples).encode()).hexdigest()[:12]
    cache = folder.with_name(f"{folder.name}-{key}.npz")
    if not cache.exists():
        images = np.stack([np.asarray(image.convert("RGB")) for image, _ in dataset])
        try:
            np.savez(cache, images=images)
        except OSError:
            return _split(images, dataset.targets)
    return _split(np.load(cache)["images"], dataset.targets)


def _missing(name: str, root: Path) -> str:
    return f"no {name} under {str(root)!r}; " + HOW_TO_GET[name].format(root=str(root))

