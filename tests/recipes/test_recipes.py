"""Recipes: those of the package are whole, and a file with a mistake says which."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import deepcompress as dc
from deepcompress import models
from deepcompress.recipes import Batching, Goal, LossMix

WHOLE: dict[str, Any] = {
    "about": "A try.",
    "network": "LeNet5",
    "data": "mnist",
    "goal": {"ratio": 20, "error": 0.2},
    "dense": {"stages": [{"name": "train", "stage": "retrain", "epochs": 1}]},
    "pipeline": {"stages": [{"name": "encode", "stage": "huffman_encode"}]},
}


def written(tmp_path: Path, **change: Any) -> Path:
    path = tmp_path / "own.yaml"
    data = {name: value for name, value in {**WHOLE, **change}.items() if value is not None}
    path.write_text(yaml.safe_dump(data), encoding="utf-8")
    return path


@pytest.mark.parametrize("name", dc.recipes.names())
def test_recipes_of_the_package(name: str) -> None:
    recipe = dc.recipes.load(name)
    assert recipe.name == name
    assert callable(getattr(models, recipe.network))
    assert recipe.data in ("mnist", "cifar10")
    assert dc.Pipeline.from_config(recipe.pipeline.config()) == recipe.pipeline
    if recipe.goal.ratio is not None:
        assert f"{recipe.goal.ratio:g} times smaller" in recipe.about
        assert name.endswith(f"-{recipe.goal.ratio:g}x")
    else:
        right = f"{100 * (1 - (recipe.goal.error or 0)):.1f}"
        assert f"at least {right} % of the test images right" in recipe.about
        assert name.endswith(f"-{right}")
    assert dc.recipes.load(name) == recipe
    assert dc.recipes.load(name).digest == recipe.digest


def test_names_stand_in_the_order_of_their_numbers() -> None:
    names = dc.recipes.names()
    assert names.index("lenet-5-800x") < names.index("lenet-5-1100x")
    assert len({dc.recipes.load(name).digest for name in names}) == len(names)


def test_a_recipe_of_ones_own_and_its_pipeline_alone(tmp_path: Path) -> None:
    recipe = dc.recipes.load(written(tmp_path, batches={"size": 7}, loss={"own_share": 0.5, "temperature": 2}))
    assert (recipe.name, recipe.batches, recipe.loss) == ("own", Batching(7), LossMix(0.5, 2))
    assert (recipe.goal, dc.recipes.load(str(written(tmp_path))).loss) == (Goal(ratio=20, error=0.2), None)
    assert recipe.pipeline.run({"w": torch.ones(3)}).compressed.file_bytes > 0


def test_numbers_may_be_written_as_people_do(tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    path.write_text(written(tmp_path).read_text().replace("epochs: 1", "lr: 1e-2"))
    assert dc.recipes.load(path).dense.stages[0][1].lr == 0.01  # type: ignore[union-attr]


def test_the_digest_is_of_what_makes_the_file(tmp_path: Path) -> None:
    digest = dc.recipes.load(written(tmp_path)).digest
    assert dc.recipes.load(written(tmp_path, about="Other words.", goal={"bytes": 9, "lost": 0.1})).digest == digest
    parts = ({"batches": {"shift": 1}}, {"dense_batches": {"shift": 1}}, {"inputs": {"count": 9}})
    changes = (*parts, {"data": "cifar10"}, {"loss": {"own_share": 0.5, "temperature": 2}})
    assert all(dc.recipes.load(written(tmp_path, **change)).digest != digest for change in changes)


@pytest.mark.parametrize(("change", "text"), [
    ({"goal": None}, "recipe 'own': a recipe lacks the field 'goal'"),
    ({"batch": 3}, "a recipe has the unknown field 'batch'; its fields are name, about"),
    ({"name": "x"}, "the field 'name' is not one of a recipe"),
    ({"goal": 20}, "'goal' must be a mapping of fields; it is 20"),
    ({"goal": {"ratio": 20}}, "either 'ratio' or 'bytes', and either 'error' or 'lost'"),
    ({"goal": {"ratio": 20, "bytes": 3, "error": 0.1}}, "either 'ratio' or 'bytes'"),
    ({"goal": {"ratio": 0, "error": 0.1}}, "The 'ratio' parameter of Goal must be a number above 0. Got 0 instead"),
    ({"goal": {"bytes": 1.5, "error": 0.1}}, "The 'bytes' parameter of Goal must be an int above 0"),
    ({"goal": {"ratio": 2, "error": 1.8}}, "The 'error' parameter of Goal must be a share from 0 to 1"),
    ({"batches": {"size": 0}}, "The 'size' parameter of Batching must be an int above 0"),
    ({"batches": {"shift": -1}}, "The 'shift' parameter of Batching must be an int of at least 0"),
    ({"batches": {"flip": 1}}, "The 'flip' parameter of Batching must be true or false"),
    ({"batches": {"sizes": 1}}, "'batches' has the unknown field 'sizes'; its fields are size, shift, flip, channels_last"),
    ({"loss": {"own_share": 0.5}}, "'loss' lacks the field 'temperature'"),
    ({"loss": {"own_share": 2, "temperature": 1}}, "The 'own_share' parameter of LossMix must be a share from 0 to 1"),
    ({"loss": {"own_share": 0.5, "temperature": 0}}, "The 'temperature' parameter of LossMix must be a number above 0"),
    ({"inputs": {"count": 0}}, "The 'count' parameter of Inputs must be an int above 0"),
    ({"inputs": {"count": 1, "imagined": 1}}, "The 'imagined' parameter of Inputs must be true or false"),
    ({"inputs": {"count": 1}, "loss": {"own_share": 0.1, "temperature": 1}}, "a loss without labels has an 'own_share' of 0"),
    ({"network": 3}, "The 'network' parameter of Recipe must be a string that is not empty"),
    ({"pipeline": {"stages": [{"stage": "magic"}]}}, "recipe 'own': The 'stage' parameter of stage 0 must be one of"),
    ({"pipeline": {"stages": [{"stage": "retrain", "epoch": 1}]}}, "unexpected keyword argument 'epoch'"),
    ({"dense": []}, "'dense' must be a mapping of fields"),
])  # fmt: skip
def test_mistakes_are_named(change: dict[str, Any], text: str, tmp_path: Path) -> None:
    with pytest.raises(dc.ParameterError) as error:
        dc.recipes.load(written(tmp_path, **change))
    assert text in str(error.value)
    assert "\n" not in str(error.value)


def test_one_field_may_be_another() -> None:
    recipe = dc.recipes.load("lenet-5-800x")
    fewer = dc.recipes.load("lenet-5-800x", {"pipeline.stages.0.levels": 1, "loss": None})
    assert fewer.pipeline.stages[0][1].levels == 1  # type: ignore[union-attr]
    assert fewer.loss is None
    assert fewer.digest != recipe.digest
    for place in ("pipeline.stages.9.levels", "pipeline.steps.0", "goal.ratio.x", "pipeline.stages.first.levels"):
        with pytest.raises(dc.ParameterError, match=f"the change '{place}' is of a field that is not there"):
            dc.recipes.load("lenet-5-800x", {place: 1})


def test_what_is_no_recipe(tmp_path: Path) -> None:
    with pytest.raises(dc.ParameterError, match=r"The 'name' parameter of recipes.load must be one of lenet-5-800x, .* Got 'x'"):
        dc.recipes.load("x")
    with pytest.raises(dc.StorageError, match="cannot read"):
        dc.recipes.load(tmp_path / "missing.yaml")
    (tmp_path / "list.yaml").write_text("- 1")
    with pytest.raises(dc.ParameterError, match=r"recipe 'list': a recipe must be a mapping of fields; it is \[1\]"):
        dc.recipes.load(tmp_path / "list.yaml")
