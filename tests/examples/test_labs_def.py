"""What labs D, E and F measure by: their tasks, their counts, and what they say of files that do not fit."""

from __future__ import annotations

import argparse
from pathlib import Path
from types import SimpleNamespace

import lab_d_lora as lab_d
import lab_e_transformer as lab_e
import lab_f_separable as lab_f
import pytest
import torch
from _data import Split

from deepcompress.errors import ModelError, StorageError
from deepcompress.nn import Transformer


def fake_lab(**options: object) -> SimpleNamespace:
    known = {"seed": 0, "quick": True, "size": 32, "rank": 2, "frozen_until": "layer4", "epochs": None, "checkpoint": None}
    return SimpleNamespace(options=argparse.Namespace(**{**known, "stand_in": False, **options}), device=torch.device("cpu"))


def test_reversals_are_the_sources_backwards() -> None:
    source, target = lab_e.reversals(200, torch.Generator().manual_seed(1))
    lengths = set()
    for row, wanted in zip(source.tolist(), target.tolist(), strict=True):
        digits = [token for token in row if token]
        assert row == digits + [0] * (8 - len(digits))
        assert wanted == [lab_e.START, *digits[::-1], lab_e.END, *[0] * (8 - len(digits))]
        assert set(digits) <= set(range(3, 13))
        lengths.add(len(digits))
    assert lengths == set(range(3, 9))


def test_a_network_that_has_not_learned_writes_nothing_right() -> None:
    torch.manual_seed(0)
    model = Transformer(lab_e.CONFIG)
    assert lab_e._accuracy(model) < 0.01
    assert lab_e.loss(model, lab_e.reversals(8, torch.Generator().manual_seed(0))).isfinite()


def test_products_of_lab_e_are_those_of_the_formula() -> None:
    found = lab_e._products(2, 4)
    assert found["counted"] == found["formula"] == 2 * (15 * 4 + 7) + 1
    assert found["counted"] - found["hooks"] == 6 * 2 * 4
    assert found["torch"] == 17 * 2 + 1


def test_positions_of_lab_e() -> None:
    found = lab_e._positions()
    assert found["uneven"] < 1e-12
    assert found["similarity"][0] == 1 == max(found["similarity"])


def test_differences_of_lab_f_are_a_few_epsilon() -> None:
    rows = lab_f._differences()
    assert {row["dtype"] for row in rows} == set(lab_f.DTYPES)
    assert all(max(row["output"], row["gradients"]) <= 8 * row["epsilon"] for row in rows)


def test_parameters_of_lab_f_are_those_of_theory() -> None:
    assert all(row["separable"] / row["standard"] == pytest.approx(row["theory"]) for row in lab_f._parameters())


def test_classes_are_taken_and_numbered_from_zero() -> None:
    labels = torch.tensor([0, 7, 5, 9, 4, 5])
    split = Split(torch.arange(6).view(6, 1, 1, 1).to(torch.uint8), labels, (0.5,), (0.5,))
    found = lab_d._classes(split, range(5, 10))
    assert found.labels.tolist() == [2, 0, 4, 0]
    assert found.images.flatten().tolist() == [1, 2, 3, 5]


def test_images_are_resized_for_the_network() -> None:
    images = torch.randn(1, 3, 32, 32)
    assert lab_d._resized(images, 32) is images
    assert lab_d._resized(images, 48).shape == (1, 3, 48, 48)


def test_frozen_parts_keep_their_statistics_while_training() -> None:
    model = torch.nn.Sequential(torch.nn.BatchNorm2d(3), torch.nn.Flatten(), torch.nn.Linear(12, 2)).train()
    batch = (torch.randn(4, 3, 2, 2) + 5, torch.zeros(4, dtype=torch.int64))
    lab_d._loss([model[0]])(model, batch)
    assert not model[0].running_mean.any()
    assert model.training
    lab_d._loss([])(model.train(), batch)
    assert model[0].running_mean.any()


def test_checkpoints_that_do_not_fit(tmp_path: Path) -> None:
    path = tmp_path / "x.pth"
    path.write_bytes(b"no checkpoint")
    with pytest.raises(StorageError, match=r"x\.pth is no state dict that torch can read: "):
        lab_d._imagenet_weights(fake_lab(checkpoint=path))
    with pytest.raises(OSError, match="No such file"):
        lab_d._imagenet_weights(fake_lab(checkpoint=tmp_path / "none.pth"))
    with pytest.raises(ModelError, match=r"^the checkpoint does not fit torchvision's ResNet-18: .*Missing key"):
        lab_d._network(fake_lab(), 5, {})
    with pytest.raises(ModelError, match=r"^the checkpoint does not fit torchvision's ResNet-18: "):
        lab_d._network(fake_lab(), 5, [1, 2])  # type: ignore[arg-type]


def test_without_weights_there_is_a_stand_in() -> None:
    assert lab_d._imagenet_weights(fake_lab(quick=True)) is None
    assert lab_d._imagenet_weights(fake_lab(quick=False, stand_in=True)) is None


def test_low_rank_learns_rank_times_both_sides() -> None:
    assert all(row["learn"] == row["rank"] * (row["in"] + row["out"]) for row in lab_d._sizes())
