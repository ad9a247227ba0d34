"""Pipelines as YAML, the records among them: what to train on what, how to compress it, and what the file is to reach.

    dc.recipes.names()                                   the recipes of the package
    recipe = dc.recipes.load("lenet-300-100-250x")       one of them, or a file of your own
    recipe.pipeline.run(model, train=train_loader)       its pipeline alone

`benchmarks/make_record.py` follows a recipe from start to end, `benchmarks/records.py` measures the files: docs/records.md.
"""

from deepcompress.recipes.recipe import Batching, Goal, Inputs, LossMix, Recipe, load, names

__all__ = ["Batching", "Goal", "Inputs", "LossMix", "Recipe", "load", "names"]
