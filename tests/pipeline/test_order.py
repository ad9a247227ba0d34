"""Orders that cannot work are refused when the pipeline is built; nested ones are looked at in one row."""

from __future__ import annotations

from typing import Any

import pytest

from deepcompress.errors import PipelineError
from deepcompress.pipeline.pipeline import Pipeline
from deepcompress.pipeline.stages import Finetune, GradualPrune, HuffmanEncode, KMeansQuantize, Lossless, Prune, Retrain

PRUNE, RETRAIN, QUANTIZE = Prune("percentile", q=0.5), Retrain(epochs=1), KMeansQuantize()
FINETUNE, ENCODE, GRADUAL = Finetune(epochs=1), HuffmanEncode(), GradualPrune(epochs=2)


@pytest.mark.parametrize(
    ("stages", "text"),
    [
        ([QUANTIZE, PRUNE], "stage '1' cannot follow '0': pruning after weight sharing would score shared values; prune first"),
        ([QUANTIZE, GRADUAL], "stage '1' cannot follow '0': pruning after weight sharing"),
        ([QUANTIZE, RETRAIN], "stage '1' cannot follow '0': retraining would tear shared weights apart; finetune the centroids"),
        ([QUANTIZE, FINETUNE, RETRAIN], "stage '2' cannot follow '0': retraining would tear"),
        ([FINETUNE, QUANTIZE], "stage '0' needs a 'quantize' stage before it: there are no centroids to finetune"),
        ([ENCODE, HuffmanEncode()], "stage '1' cannot follow '0': a file has one encoding"),
        ([PRUNE, Lossless()], "stage '1' must be the only one: what loses nothing goes with nothing that changes weights"),
        ([Lossless(), ENCODE], "stage '0' must be the only one"),
        ([ENCODE, PRUNE], "stage '1' cannot follow '0': encoding is the last stage"),
        ([Pipeline([("in", QUANTIZE)]), PRUNE], "stage '1' cannot follow '0/in'"),
        ([QUANTIZE, Pipeline([("in", PRUNE)])], "stage '1/in' cannot follow '0'"),
    ],
)
def test_orders_that_cannot_work(stages: list[Any], text: str) -> None:
    with pytest.raises(PipelineError) as caught:
        Pipeline([(str(place), stage) for place, stage in enumerate(stages)])
    assert str(caught.value).startswith(text)


@pytest.mark.parametrize(
    "stages",
    [
        [PRUNE, RETRAIN, PRUNE, RETRAIN, GRADUAL, QUANTIZE, FINETUNE, FINETUNE, ENCODE],
        [QUANTIZE, FINETUNE, QUANTIZE],
        [Lossless()],
        [Pipeline([("a", PRUNE), ("b", Pipeline([("a", RETRAIN)]))]), Pipeline([("a", PRUNE)]), ENCODE],
    ],
)
def test_orders_that_work(stages: list[Any]) -> None:
    Pipeline([(str(place), stage) for place, stage in enumerate(stages)])


@pytest.mark.parametrize(
    ("stages", "text"),
    [
        ([], "a pipeline needs at least one stage"),
        ([("a", Pipeline([("b", PRUNE)])), ("a/b", PRUNE)], "stage names must be unique; 'a/b' stands more than once"),
        ([("a", PRUNE), ("a", RETRAIN)], "stage names must be unique; 'a' stands more than once"),
        ([("a", "prune")], "stage 'a' is 'prune', which is neither a stage nor a pipeline"),
        ([("a", Prune)], "which is neither a stage nor a pipeline"),
        ([PRUNE], "a stage is a pair (name, stage), not Prune('percentile', q=0.5)"),
        ([("", PRUNE)], "a stage is a pair (name, stage), not ('', Prune"),
        ([(1, PRUNE)], "a stage is a pair (name, stage), not (1, Prune"),
    ],
)
def test_what_is_no_row_of_named_stages(stages: list[Any], text: str) -> None:
    with pytest.raises(PipelineError) as caught:
        Pipeline(stages)
    assert text in str(caught.value)
