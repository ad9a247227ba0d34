"""A split image by image, as torchvision's data sets give them, and loaders whose worker processes prepare them."""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from _data import Split
from PIL import Image
from torch.utils.data import DataLoader, Dataset, Sampler

from deepcompress.vision import import_torchvision

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


class Images(Dataset[tuple[torch.Tensor, int]]):
    """Each image by itself: padded by four pixels and cropped, mirrored or not, made a tensor, normalised.

    `augment=False` leaves out the first two. That is the work that a loader's worker processes share.
    """

    def __init__(self, split: Split, *, augment: bool) -> None:
        transforms = import_torchvision("transforms")
        moved = [transforms.RandomCrop(split.images.shape[-1], padding=4), transforms.RandomHorizontalFlip()] if augment else []
        self._prepare = transforms.Compose([*moved, transforms.ToTensor(), transforms.Normalize(split.mean, split.std)])
        self._pixels = split.images.permute(0, 2, 3, 1).contiguous().numpy()
        self._labels = split.labels.tolist()

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, place: int) -> tuple[torch.Tensor, int]:
        return self._prepare(Image.fromarray(self._pixels[place])), self._labels[place]


def loader(
    images: Images, batch: int, *, workers: int = 0, sampler: Sampler[int] | None = None, device: str = "cpu"
) -> DataLoader[Any]:
    """Batches, shuffled unless a sampler orders them. More workers than cores work too, in turns; see `notice`."""
    warnings.filterwarnings("ignore", message="This DataLoader will create", category=UserWarning)  # `notice` says it shorter
    return DataLoader(images, batch, shuffle=sampler is None, sampler=sampler, num_workers=workers, pin_memory=device == "cuda")


class Starts:
    """A loader, and how long each pass through it took to give its first batch: worker processes have to be started."""

    def __init__(self, batches: DataLoader[Any]) -> None:
        self.batches = batches
        self.seconds: list[float] = []

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Any]:
        start = time.perf_counter()
        for place, batch in enumerate(self.batches):
            if place == 0:
                self.seconds.append(time.perf_counter() - start)
            yield batch


def notice(workers: int) -> str | None:
    """What to say of more workers than cores; None where there are enough."""
    cores = os.cpu_count() or 1
    return f"{workers} workers on {cores} cores: they take turns, and nothing becomes faster" if workers > cores else None
