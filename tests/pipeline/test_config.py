"""A pipeline survives JSON and YAML, as data, as text and as a file; reading it imports and calls nothing."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from deepcompress.errors import ParameterError, StorageError
from deepcompress.pipeline.pipeline import Pipeline
from deepcompress.pipeline.stage import Stage
from deepcompress.pipeline.stages import (
    STAGES,
    AffineQuantize,
    ContextEncode,
    Finetune,
    FoldNorm,
    GradualPrune,
    HuffmanEncode,
    KMeansQuantize,
    Lossless,
    Prune,
    RateQuantize,
    RateRetrain,
    Retrain,
)

MILESTONES = [(1, 0.1), (2, 0.5)]
share = st.floats(0, 1)
patterns = st.none() | st.lists(st.text(min_size=1, max_size=6), max_size=3) | st.tuples(st.just("fc*"))
choice = {"include": patterns, "exclude": patterns, "types": patterns}
training = {
    "epochs": st.integers(3, 50),
    "lr": st.floats(1e-12, 10),
    "optimizer": st.sampled_from(["SGD", "AdamW"]),
    "optimizer_options": st.sampled_from([{}, {"momentum": 0.9}, {"betas": (0.9, 0.99)}]),
    "scheduler": st.sampled_from(["constant", "cosine", "StepLR"]),
    "autocast": st.sampled_from([None, "bfloat16"]),
    "label_smoothing": st.sampled_from([0.0, 0.1]),
    "clip_norm": st.none() | st.floats(1e-3, 5),
    "frozen_statistics": st.booleans(),
    "seed": st.none() | st.integers(0, 2**40),
    "restore_best": st.booleans(),
}


def prunes() -> st.SearchStrategy[Stage]:
    percentile = st.builds(lambda **rest: Prune("percentile", **rest), q=share, **choice)
    std = st.builds(lambda **rest: Prune("std", **rest), s=share, **choice)
    whole = st.builds(lambda **rest: Prune("unstructured", **rest), sparsity=share, scope=st.sampled_from(["global", "layer"]))
    return percentile | std | whole | st.builds(lambda **rest: Prune("filter_l1", **rest), sparsity=share)


def graduals() -> st.SearchStrategy[Stage]:
    common = training | choice | {"every": st.floats(0.01, 2), "reversible": st.booleans()}
    slope = st.builds(GradualPrune, sparsity=st.floats(0.1, 1), schedule=st.sampled_from(["linear", "cubic"]), **common)
    named = st.sampled_from([{}, {"schedule": "step"}])
    steps = st.builds(
        lambda schedule, **rest: GradualPrune(milestones=((1, 0.3), (2.5, 0.5)), **schedule, **rest), named, **common
    )
    scoped = st.builds(GradualPrune, parameters=st.just({"scope": "layer"}), end=st.floats(1, 3), initial=st.just(0.1))
    return slope | steps | scoped


bits = st.integers(1, 16) | st.dictionaries(st.text(min_size=1, max_size=5), st.integers(1, 16), min_size=1, max_size=3)
quantizers = st.builds(
    KMeansQuantize,
    bits=bits,
    init=st.sampled_from(["linear", "density", "random", "kmeans++"]),
    max_iter=st.integers(1, 900),
    seed=st.integers(0, 2**31),
    codebook=st.sampled_from(["auto", "float16", "float32"]),
    **choice,
)
grids = st.builds(
    AffineQuantize,
    bits=bits,
    per_channel=st.booleans(),
    symmetric=st.booleans(),
    rounding=st.sampled_from(["nearest-even", "stochastic"]),
    seed=st.integers(0, 2**31),
    **choice,
)
rates = st.builds(
    RateRetrain, bits=st.floats(0.01, 16), levels=st.integers(1, 127), ramp=st.floats(0, 0.5), freeze=st.floats(0.5, 1), **choice,
    **{name: value for name, value in training.items() if name != "restore_best"},
)  # fmt: skip
choices = st.builds(
    RateQuantize, bits=st.floats(0.01, 16), levels=st.integers(1, 32_767), batches=st.integers(0, 99), probes=st.integers(1, 9),
    seed=st.integers(0, 99), **choice,
)  # fmt: skip
coders = st.sampled_from([HuffmanEncode, ContextEncode])
encoders = coders.flatmap(
    lambda stage: st.builds(stage, max_code_length=st.integers(1, 20), leftovers=st.sampled_from([None, "float16"]))
)
before = prunes() | graduals() | st.builds(Retrain, **training)
names = st.text(min_size=1, max_size=8)


@st.composite
def pipelines(draw: st.DrawFn) -> Pipeline:
    stages: list[tuple[str, Any]] = [(f"{i} {draw(names)}", stage) for i, stage in enumerate(draw(st.lists(before, max_size=2)))]
    if stages and draw(st.booleans()):
        stages = [("nested", Pipeline(stages))]
    stages.append(("quantize", draw(quantizers | grids | rates | choices)))
    if draw(st.booleans()):
        stages.append(("finetune", draw(st.builds(Finetune, rest=st.booleans(), **training))))
    if draw(st.booleans()):
        chosen = {"include": draw(patterns), "exclude": draw(patterns)}
        stages.append(("fold", FoldNorm(draw(st.none() | st.integers(1, 16)), **chosen)))
    return Pipeline([*stages, ("encode", draw(encoders))])


@settings(max_examples=25, deadline=None)
@given(pipelines())
def test_a_pipeline_survives_json_and_yaml(pipeline: Pipeline) -> None:
    config = pipeline.config()
    forms = [json.dumps(config), json.dumps(config, indent="\t", ensure_ascii=False), yaml.safe_dump(config, sort_keys=False)]
    for source in (config, *forms):
        again = Pipeline.from_config(source)
        assert again == pipeline
        assert again.config() == config


def test_the_drawn_stages_are_all_there_are() -> None:
    drawn = {Prune, GradualPrune, Retrain, KMeansQuantize, AffineQuantize, Finetune, HuffmanEncode, ContextEncode, Lossless}
    drawn |= {RateQuantize, RateRetrain, FoldNorm}
    assert set(STAGES.values()) == drawn


@pytest.mark.parametrize("suffix", [".json", ".yaml", ".yml"])
@pytest.mark.parametrize("kind", [str, Path])
def test_files(tmp_path: Path, suffix: str, kind: type) -> None:
    pipeline = Pipeline([("prüne 🙂", Prune("percentile", q=0.1)), ("encode", HuffmanEncode())])
    path = tmp_path / f"recipe{suffix}"
    path.write_text(json.dumps(pipeline.config()) if suffix == ".json" else yaml.safe_dump(pipeline.config()), encoding="utf-8")
    assert Pipeline.from_config(kind(path)) == pipeline
    with pytest.raises(StorageError, match=r"cannot read .*missing.yaml"):
        Pipeline.from_config(kind(tmp_path / "missing.yaml"))


def test_milestones_alone_are_a_schedule_of_steps() -> None:
    alone = GradualPrune(milestones=MILESTONES, epochs=3)
    said = GradualPrune(schedule="step", milestones=MILESTONES, sparsity=0.5, begin=1, end=2.0, epochs=3)
    assert alone.as_schedule() == said.as_schedule()
    assert [alone.as_schedule().at(epoch) for epoch in (0.9, 1, 1.9, 2, 3)] == [0, 0.1, 0.1, 0.5, 0.5]
    assert alone.config() == {"stage": "gradual_prune", "milestones": [[1, 0.1], [2, 0.5]], "epochs": 3}
    assert GradualPrune.from_config(alone.config()) == alone
    usual = GradualPrune(epochs=8).as_schedule()
    assert (usual.kind, usual.final, usual.begin, usual.end) == ("cubic", 0.9, 0, 6)
    assert GradualPrune(epochs=8, schedule="linear", sparsity=0.4, begin=2).as_schedule().at(4) == pytest.approx(0.2)


def test_numbers_as_people_write_them() -> None:
    pipeline = Pipeline.from_config("stages:\n  - {stage: retrain, lr: 1e-3, clip_norm: 2E+0, epochs: 3}\n")
    assert pipeline == Pipeline([("retrain", Retrain(epochs=3, lr=1e-3, clip_norm=2.0))])


def test_names_and_patterns_that_read_as_numbers_stay_text() -> None:
    """yaml.safe_dump leaves 0E0 without quotes: to YAML 1.1 it is text."""
    stages = [("1e5", KMeansQuantize(bits={"0E0": 3}, include=["0E0"], types=["1e5"])), ("encode", HuffmanEncode())]
    pipeline = Pipeline(stages)
    assert Pipeline.from_config(yaml.safe_dump(pipeline.config())) == pipeline


def test_equality_looks_at_every_setting() -> None:
    assert Retrain(epochs=1) != Retrain(epochs=2)
    assert Retrain(restore_best=True) != Retrain()
    assert Finetune() != Retrain()
    assert KMeansQuantize(include=("a",)) == KMeansQuantize(include=["a"])
    assert Prune("percentile", q=0.5) != Prune("percentile", q=0.5, exclude=["a"])
    assert Prune("percentile", q=np.float32(0.5)).config() == {"stage": "prune", "method": "percentile", "q": 0.5}
    assert Retrain(optimizer=torch.optim.SGD) == Retrain(optimizer=torch.optim.SGD)


@pytest.mark.parametrize(
    "stage",
    [
        Retrain(optimizer=torch.optim.SGD),
        Retrain(scheduler=lambda optimizer: torch.optim.lr_scheduler.StepLR(optimizer, 1)),
        Retrain(optimizer_options={"deep": [len]}),
        Finetune(optimizer=torch.optim.SGD),
        GradualPrune(optimizer=torch.optim.SGD),
    ],
)
def test_callables_have_no_place_in_it(stage: Stage) -> None:
    pipeline = (
        Pipeline([("quantize", KMeansQuantize()), ("it", stage)]) if isinstance(stage, Finetune) else Pipeline([("it", stage)])
    )
    with pytest.raises(
        ParameterError, match=f"{type(stage).__name__}.(optimizer|scheduler|optimizer_options) is .*callables have no"
    ):
        pipeline.config()
    with pytest.raises(ParameterError, match="callables have no place in it"):
        pipeline.run({"w": torch.ones(2, 2)}, store_recipe=True)


TEXT = """
stages:
  - {name: a, stage: pipeline, stages: [{stage: prune, method: percentile, q: 0.5}, {stage: retrain, optimizer: Adamax}]}
  - {stage: gradual_prune, sparsity: 0.9, scheduler: CyclicLR}
  - {stage: kmeans_quantize, bits: {fc1: 4}}
  - {stage: finetune}
  - {stage: huffman_encode, leftovers: float16}
"""


def test_reading_imports_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    before = set(sys.modules)
    monkeypatch.setattr("builtins.__import__", lambda name, *rest: pytest.fail(f"imports {name}"))
    Pipeline.from_config(json.loads(json.dumps(yaml.safe_load(TEXT))))
    monkeypatch.undo()
    Pipeline.from_config(TEXT)
    assert set(sys.modules) <= before


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("stages: [", "the configuration is neither JSON nor YAML: "),
        ("[1]", 'a pipeline\'s configuration is {"stages": '),
        ("stages: 1", 'a pipeline\'s configuration is {"stages": '),
        ({"stages": [], "more": 1}, 'a pipeline\'s configuration is {"stages": '),
        ("!!python/object/apply:os.system [ls]", "the configuration is neither JSON nor YAML: "),
        ({"stages": ["prune"]}, "stage 0 of the configuration must be a mapping with a 'stage'; it is 'prune'"),
        ({"stages": [{"stage": "trim"}]}, "The 'stage' parameter of stage 0 must be one of prune, gradual_prune, retrain,"),
        ({"stages": [{"stage": ["prune"]}]}, "The 'stage' parameter of stage 0 must be one of prune,"),
        ({"stages": [{"stage": "os.system"}]}, "The 'stage' parameter of stage 0 must be one of"),
        ({"stages": [{"stage": "retrain", "name": 1}]}, "The 'name' parameter of stage 0 must be a string, in quotes"),
        ({"stages": [{"stage": "retrain", "epoch": 1}]}, "stage 'retrain': Retrain got an unexpected keyword argument 'epoch'"),
        ({"stages": [{"stage": "retrain", "epochs": "10"}]}, "The 'epochs' parameter of Retrain must be an int of at least 0"),
        ({"stages": [{"stage": "prune"}]}, "stage 'prune': Prune missing 1 required positional argument: 'method'"),
        ({"stages": [{"stage": "prune", "method": "best"}]}, "The 'method' parameter of Prune must be one of"),
        ({"stages": [{"stage": "prune", "method": "std", "q": 1}]}, "Prune('std') has no parameter 'q'; it takes 's'"),
        ({"stages": [{"stage": "prune", "method": "percentile", "q": 1.2}]}, "The 'q' parameter of Prune('percentile') must be"),
        (
            {"stages": [{"stage": "prune", "method": "percentile", "q": 1, "include": "fc"}]},
            "The 'include' parameter of Prune must",
        ),
        (
            {"stages": [{"stage": "kmeans_quantize", "types": "Linear"}]},
            "The 'types' parameter of KMeansQuantize must be None or a",
        ),
        (
            {"stages": [{"stage": "gradual_prune", "exclude": "a"}]},
            "The 'exclude' parameter of GradualPrune must be None or a list",
        ),
        ("stages: &a [{stage: pipeline, stages: *a}]", "the configuration is nested too deeply, or within itself"),
        ("[" * 5000, "the configuration is nested too deeply, or within itself"),
    ],
)
def test_what_is_no_configuration(source: Any, text: str) -> None:
    with pytest.raises(ParameterError) as caught:
        Pipeline.from_config(source)
    assert str(caught.value).startswith(text)


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: FoldNorm(bits=0), "The 'bits' parameter of FoldNorm must be None or an int from 1 to 16. Got 0 instead"),
        (lambda: FoldNorm(include="bn"), "The 'include' parameter of FoldNorm must be None or a list of strings"),
        (lambda: KMeansQuantize(bits=0), "The 'bits' parameter of KMeansQuantize must be an int from 1 to 16.*Got 0"),
        (lambda: KMeansQuantize(bits=17), "an int from 1 to 16.*Got 17"),
        (lambda: KMeansQuantize(bits=True), "an int from 1 to 16.*Got True"),
        (lambda: KMeansQuantize(bits={"a": 17}), "an int from 1 to 16.*Got {'a': 17}"),
        (lambda: KMeansQuantize(bits={1: 4}), "an int from 1 to 16"),
        (lambda: KMeansQuantize(bits={}), "an int from 1 to 16"),
        (lambda: KMeansQuantize(init="best"), "The 'init' parameter of KMeansQuantize must be one of linear, density"),
        (lambda: KMeansQuantize(max_iter=0), "The 'max_iter' parameter of KMeansQuantize"),
        (lambda: KMeansQuantize(seed=-1), "The 'seed' parameter of KMeansQuantize must be an int of at least 0"),
        (lambda: KMeansQuantize(codebook="int8"), "The 'codebook' parameter of KMeansQuantize must be one of auto, float16"),
        (
            lambda: HuffmanEncode(max_code_length=21),
            "The 'max_code_length' parameter of HuffmanEncode must be an int from 1 to 20",
        ),
        (lambda: Lossless(max_code_length=0), "The 'max_code_length' parameter of Lossless must be an int from 1 to 20"),
        (lambda: ContextEncode(leftovers="int8"), "The 'leftovers' parameter of ContextEncode must be None or 'float16'"),
        (lambda: HuffmanEncode(leftovers="int8"), "The 'leftovers' parameter of HuffmanEncode must be None or 'float16'"),
        (lambda: GradualPrune(method="std"), "The 'method' parameter of GradualPrune must be one of percentile"),
        (lambda: GradualPrune(sparsity=1.2), "The 'sparsity' parameter of GradualPrune"),
        (lambda: GradualPrune(every=0), "The 'every' parameter of GradualPrune must be a number of epochs above 0"),
        (lambda: GradualPrune(epochs=3, end=4), "The 'end' parameter of GradualPrune must be at most the 3 epochs of training"),
        (lambda: GradualPrune(schedule="sine"), "The 'kind' parameter of Schedule must be 'linear', 'cubic' or 'step'"),
        (lambda: GradualPrune(schedule="step", milestones=5), "The 'milestones' parameter of Schedule must be pairs"),
        (lambda: GradualPrune(schedule="step"), "The 'milestones' parameter of Schedule must be pairs"),
        (
            lambda: GradualPrune(schedule="cubic", milestones=MILESTONES),
            "The 'schedule' parameter of GradualPrune must be left out, or 'step', where there are milestones. Got 'cubic'",
        ),
        (
            lambda: GradualPrune(sparsity=0.9, milestones=MILESTONES),
            "The 'sparsity' parameter of GradualPrune must be left out, or the 0.5 of the milestones. Got 0.9 instead",
        ),
        (lambda: GradualPrune(begin=0.5, milestones=MILESTONES), "'begin' .* left out, or the 1 of the milestones. Got 0.5"),
        (lambda: GradualPrune(end=5, milestones=MILESTONES), "'end' .* left out, or the 2 of the milestones. Got 5"),
        (
            lambda: GradualPrune(epochs=1, milestones=MILESTONES),
            "The 'milestones' parameter of GradualPrune must be at most the 1 epochs of training. Got 2 instead",
        ),
        (lambda: GradualPrune(milestones=[(1, 0.5), (2, 0.1)]), "The 'milestones' parameter of Schedule must be pairs"),
        (lambda: GradualPrune(milestones=[(1, 1.5)]), "The 'milestones' parameter of Schedule must be pairs"),
        (lambda: GradualPrune(milestones=5), "The 'milestones' parameter of Schedule must be pairs"),
        (lambda: GradualPrune(parameters={"sparsity": 0.1}), "a mapping without 'sparsity', which the schedule gives"),
    ],
)
def test_parameters_out_of_range(make: Any, text: str) -> None:
    with pytest.raises(ParameterError, match=text):
        make()
