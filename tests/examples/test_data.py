"""The examples' data: read from torchvision's layouts, and cut into batches."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from _data import Batches, Split, load_cifar10, load_mnist
from PIL import Image


def write_idx(path: Path, array: np.ndarray) -> None:
    path.write_bytes(struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes())


@pytest.fixture
def mnist(tmp_path: Path) -> Path:
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name, count in (("train", 6), ("t10k", 3)):
        write_idx(raw / f"{name}-images-idx3-ubyte", rng.integers(0, 256, (count, 28, 28), np.uint8))
        write_idx(raw / f"{name}-labels-idx1-ubyte", np.arange(count, dtype=np.uint8))
    return tmp_path


@pytest.fixture
def image_folder(tmp_path: Path) -> Path:
    for split in ("train", "test"):
        for label, name in enumerate(("airplane", "bird")):
            folder = tmp_path / "cifar10" / split / name
            folder.mkdir(parents=True)
            for i in range(2):
                Image.fromarray(np.full((32, 32, 3), 100 * label + i, np.uint8)).save(folder / f"{i}.png")
    return tmp_path


def test_mnist_in_torchvisions_layout(mnist: Path) -> None:
    train, test = load_mnist(mnist)
    assert train.images.shape == (6, 1, 28, 28)
    assert test.labels.tolist() == [0, 1, 2]


def test_cifar10_from_an_image_folder_and_from_its_cache(image_folder: Path) -> None:
    first = load_cifar10(image_folder)
    again = load_cifar10(image_folder)
    for split, same in zip(first, again, strict=True):
        assert split.images.shape == (4, 3, 32, 32)
        assert split.labels.tolist() == [0, 0, 1, 1]
        assert split.images[:, 0, 0, 0].tolist() == [0, 1, 100, 101]
        assert torch.equal(split.images, same.images)


@pytest.mark.parametrize("load", [load_mnist, load_cifar10])
def test_missing_data_says_how_to_get_it(load, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="download=True"):
        load(tmp_path)


def make_split(count: int = 10, size: int = 8) -> Split:
    images = torch.arange(count * size * size).reshape(count, 1, size, size).to(torch.uint8)
    return Split(images, torch.arange(count), (0.5,), (0.25,))


def test_samples_of_a_split_are_drawn_and_the_same_each_time() -> None:
    split = make_split(50)
    some = split.sample(20)
    assert torch.equal(some.images, split.sample(20).images)
    assert some.labels.tolist() not in (list(range(20)), split.sample(20, seed=1).labels.tolist())
    assert torch.equal(split.sample(10).labels, some.labels[:10])
    for count in (None, 1000):
        assert sorted(split.sample(count).labels.tolist()) == list(range(50))


def test_batches_cover_each_image_once_and_are_normalised() -> None:
    split = make_split()
    images, labels = (torch.cat(parts) for parts in zip(*Batches(split, 4), strict=True))
    assert labels.tolist() == list(range(10))
    torch.testing.assert_close(images, (split.images / 255 - 0.5) / 0.25)
    assert len(Batches(split, 4)) == 3


def test_shuffled_batches_differ_by_pass_and_repeat_by_seed() -> None:
    def labels(batches: Batches) -> list[int]:
        return torch.cat([y for _, y in batches]).tolist()

    one, two = Batches(make_split(50), 7, shuffle=True, seed=3), Batches(make_split(50), 7, shuffle=True, seed=3)
    first, second = labels(one), labels(one)
    assert first != second
    assert sorted(first) == sorted(second) == list(range(50))
    assert [labels(two), labels(two)] == [first, second]


def test_shift_moves_whole_images_and_flip_mirrors_them() -> None:
    split = make_split(count=200)
    images = torch.cat([x for x, _ in Batches(split, 64, shift=1, flip=True)])
    raw = (images * 0.25 + 0.5).mul(255).round().to(torch.uint8)
    padded = torch.nn.functional.pad(split.images, (1, 1, 1, 1))
    seen = set()
    for image, source in zip(raw, padded, strict=True):
        views = {(y, x, f): source[:, y : y + 8, x : x + 8] for y in range(3) for x in range(3) for f in (False,)}
        views |= {(y, x, True): view.flip(2) for (y, x, _), view in views.items()}
        seen.add(next(key for key, view in views.items() if torch.equal(view, image)))
    assert len(seen) == 18
