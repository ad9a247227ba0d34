"""Compiled and data-parallel models go in everywhere as the model inside would, and files have its names."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DataParallel, DistributedDataParallel

import deepcompress as dc
from deepcompress.tensors.wrappers import as_written, bare, bare_names, plain_names
from deepcompress.training.distributed import unwrapped
from tests.pipeline.samples import same_bits

PIPELINE = dc.Pipeline([("prune", dc.Prune("percentile", q=0.5)), ("quantize", dc.KMeansQuantize(3)), ("e", dc.HuffmanEncode())])
SGD = dc.TrainSettings(epochs=1, lr=0.1, optimizer="SGD")
IMAGES, LABELS = torch.randn(8, 1, 6, 6, generator=torch.Generator().manual_seed(2)), torch.arange(8) % 4


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
        self.fc = nn.Linear(64, 4)

    def forward(self, images: Tensor) -> Tensor:
        out: Tensor = self.fc(self.features(images).flatten(1))
        return out


@pytest.fixture(autouse=True, scope="module")
def _alone_in_a_group() -> Iterator[None]:
    """DistributedDataParallel asks for one."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()
    torch.compiler.reset()


def compiled(model: nn.Module) -> Any:
    return torch.compile(model, backend="eager")


WRAPPINGS: dict[str, Callable[[nn.Module], Any]] = {
    "compiled": compiled,
    "DataParallel": DataParallel,
    "DistributedDataParallel": DistributedDataParallel,
    "compiled DDP": lambda model: compiled(DistributedDataParallel(model)),
    "DDP of compiled": lambda model: DistributedDataParallel(compiled(model)),
    "compiled DP of compiled": lambda model: compiled(DataParallel(compiled(model))),
}
every_wrapping = pytest.mark.parametrize("wrap", WRAPPINGS.values(), ids=WRAPPINGS)


def net(seed: int = 0) -> Net:
    torch.manual_seed(seed)
    return Net()


def in_part(seed: int = 0) -> Net:
    """A compiled part, and data parallelism within another one, as old examples have it."""
    model = net(seed)
    model.features = DataParallel(model.features)  # type: ignore[assignment]
    model.fc = compiled(model.fc)
    return model


def measure(model: nn.Module) -> float:
    return float((model(IMAGES).argmax(1) == LABELS).float().mean())


@every_wrapping
@pytest.mark.parametrize("inplace", [False, True])
def test_a_pipeline_takes_the_model_inside_and_leaves_the_wrapping_whole(wrap: Callable[[nn.Module], Any], inplace: bool) -> None:
    expected = PIPELINE.run(net(), quiet=True)
    inner = net()
    wrapped = wrap(inner)
    wrapped(IMAGES)
    inner.load_state_dict(net().state_dict())
    kind, before = type(wrapped), copy.deepcopy(inner.state_dict())
    result = PIPELINE.run(wrapped, evaluate=measure, quiet=True, inplace=inplace)
    assert type(result.model) is Net
    assert (result.model is inner) == inplace
    assert result.compressed.to_bytes() == expected.compressed.to_bytes()
    assert same_bits(result.model, result.compressed.state_dict())
    assert type(wrapped) is kind
    assert bare(wrapped) is inner
    assert same_bits(inner, result.model if inplace else before)
    wrapped.eval()
    assert torch.equal(wrapped(IMAGES), inner(IMAGES))


@every_wrapping
def test_a_file_loads_into_the_model_inside(wrap: Callable[[nn.Module], Any]) -> None:
    result = PIPELINE.run(net(), quiet=True)
    wrapped = wrap(net(1)).eval()
    wrapped(IMAGES)
    assert result.compressed.load_into(wrapped) is wrapped
    assert same_bits(bare(wrapped), result.model)
    assert torch.equal(wrapped(IMAGES), result.model.eval()(IMAGES))


@every_wrapping
def test_a_state_dict_of_a_wrapped_model_has_the_names_inside(wrap: Callable[[nn.Module], Any]) -> None:
    saved = wrap(net()).state_dict()
    names = list(saved)
    result = PIPELINE.run(saved, quiet=True)
    assert list(saved) == names
    assert list(result.model) == list(result.compressed) == list(net().state_dict())  # type: ignore[arg-type]
    assert same_bits(result.model, result.compressed.state_dict())
    versions = result.compressed.state_dict()._metadata  # type: ignore[attr-defined]
    expected = {"": 1, "features": 1, "features.0": 1, "features.1": 2, "fc": 1}
    assert versions == {path: {"version": version} for path, version in expected.items()}
    for module in (net(1), wrap(net(1))):
        assert same_bits(bare(result.compressed.load_into(module)), result.model)


@every_wrapping
def test_a_file_with_the_wrappers_names_loads_too(wrap: Callable[[nn.Module], Any]) -> None:
    """As older versions wrote them, and as who puts a module of his own around one has them."""
    saved = {f"module.{name}": tensor for name, tensor in net().state_dict().items()}
    holder = nn.Module()
    holder.module = net(1)
    data = dc.Pipeline([("lossless", dc.Lossless())]).run(nn.ModuleDict({"module": net()}), quiet=True).compressed
    assert list(data) == list(saved)
    for module in (net(1), wrap(net(1)), holder):
        assert same_bits(bare(data.load_into(module)), saved if module is holder else net())


def test_what_does_not_fit_is_said_in_names_without_prefixes() -> None:
    result = PIPELINE.run({"module.fc.weight": torch.ones(4, 64), "module.x": torch.ones(2)}, quiet=True)
    with pytest.raises(dc.ModelError) as caught:
        result.compressed.load_into(compiled(nn.Sequential()))
    assert str(caught.value).startswith("<bytes> does not fit Sequential: Unexpected key(s) in state_dict: \"fc.weight\", \"x\"")


@pytest.mark.parametrize("inplace", [False, True])
def test_wrappers_around_parts_of_a_model_stay_and_are_in_no_name(inplace: bool) -> None:
    expected = PIPELINE.run(net(), quiet=True).compressed
    model = in_part()
    own = list(model.state_dict())
    result = PIPELINE.run(model, quiet=True, inplace=inplace)
    assert "fc._orig_mod.weight" in own
    assert "features.module.0.weight" in own
    assert list(result.model.state_dict()) == list(model.state_dict()) == own
    assert (result.model is model) == inplace
    assert result.compressed.to_bytes() == expected.to_bytes()
    assert [row.quantized for row in result.report.layers if row.name in ("features.0.weight", "fc.weight")] == [True, True]
    fresh = in_part(1).eval()
    expected.load_into(fresh)
    assert same_bits(fresh, result.model)
    with torch.no_grad():
        assert torch.equal(fresh(IMAGES), result.model.eval()(IMAGES))
    assert same_bits(expected.load_into(net(1)), expected.state_dict())


def test_patterns_say_the_names_without_wrappers_or_with_them() -> None:
    for pattern in ("features.0", "features.module.0.weight"):
        result = dc.Pipeline([("q", dc.KMeansQuantize(2, include=[pattern]))]).run(in_part(), quiet=True)
        assert [row.name for row in result.report.layers if row.quantized] == ["features.0.weight"]


@every_wrapping
def test_training_in_a_wrapper_is_training(wrap: Callable[[nn.Module], Any]) -> None:
    plain, inner = net(), net()
    train = [(IMAGES, LABELS)] * 3
    history = dc.fit(plain, train, SGD, validate=measure)
    again = dc.fit(wrap(inner), train, SGD, validate=measure)
    assert again.step_losses == history.step_losses
    assert same_bits(inner, plain)
    retrain = dc.Pipeline([("p", dc.Prune("percentile", q=0.5)), ("r", dc.Retrain(1, 0.1, "SGD")), ("e", dc.HuffmanEncode())])
    results = [retrain.run(model, train=train, quiet=True).compressed for model in (net(), wrap(net()))]
    assert results[0].to_bytes() == results[1].to_bytes()


@every_wrapping
def test_training_goes_on_with_a_wrapper_or_without(wrap: Callable[[nn.Module], Any], tmp_path: Path) -> None:
    """A checkpoint has the names inside, too."""
    settings, train = dc.TrainSettings(epochs=2, lr=0.1, optimizer="SGD", optimizer_options={"momentum": 0.9}), [(IMAGES, LABELS)]
    plain = net()
    dc.fit(plain, train, settings)

    def stop(record: Any) -> None:
        raise KeyboardInterrupt

    for place, wrappings in enumerate([(wrap, bare), (bare, wrap)]):
        first, second = (wrapping(net()) for wrapping in wrappings)
        path = tmp_path / f"{place}.dcz"
        with pytest.raises(KeyboardInterrupt):
            dc.fit(first, train, settings, checkpoint=path, after_epoch=stop)
        assert len(dc.fit(second, train, settings, checkpoint=path).epochs) == 2
        assert same_bits(bare(second), plain)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # torch's own, while it compiles
@pytest.mark.parametrize("inplace", [False, True])
def test_a_run_with_wrapped_parts_goes_on(inplace: bool, tmp_path: Path) -> None:
    train = [(IMAGES, LABELS)]
    pipeline = dc.Pipeline([("p", dc.Prune("percentile", q=0.5)), ("r", dc.Retrain(2, 0.1, "SGD")), ("q", dc.KMeansQuantize(3))])
    expected = pipeline.run(net(), train=train, quiet=True).compressed.to_bytes()
    calls = 0

    def evaluate(model: nn.Module) -> float:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise ZeroDivisionError
        return 0.0

    with pytest.raises(ZeroDivisionError):
        pipeline.run(in_part(), train=train, evaluate=evaluate, workdir=tmp_path, quiet=True, inplace=inplace)
    result = pipeline.run(in_part(), train=train, evaluate=evaluate, workdir=tmp_path, quiet=True, inplace=inplace)
    assert result.compressed.to_bytes() == expected


def test_only_distributed_wrappers_are_taken_off_to_train() -> None:
    inner = net()
    fast, spread = compiled(inner), DataParallel(inner)
    assert unwrapped(fast) is fast
    assert unwrapped(spread) is spread
    assert unwrapped(compiled(DistributedDataParallel(fast))) is fast


@every_wrapping
def test_scans_and_calibrations_are_of_the_model_inside(wrap: Callable[[nn.Module], Any]) -> None:
    wrapped = wrap(net())
    wrapped.eval()
    wrapped(IMAGES)  # compiled, where it is: hooks that come later are none to compiled code
    table = dc.sensitivity_scan(wrapped, measure, sparsities=[0.5], bits=[2], quiet=True)
    assert table == dc.sensitivity_scan(net(), measure, sparsities=[0.5], bits=[2], quiet=True)
    plain = net().eval()
    calibration = dc.calibrate(plain, [IMAGES])
    assert dc.calibrate(wrapped, [IMAGES]) == calibration
    before, exact = wrapped(IMAGES), plain(IMAGES)
    with dc.quantize_activations(plain, calibration):
        expected = plain(IMAGES)
    with dc.quantize_activations(wrapped, calibration):
        found = wrapped(IMAGES)
    assert torch.equal(before, exact)
    assert not torch.equal(found, exact)
    assert torch.equal(found, expected)
    assert torch.equal(wrapped(IMAGES), exact)
    assert dc.check_fixed_point(wrapped, IMAGES, calibration) == dc.check_fixed_point(plain, IMAGES, calibration)
    folded = dc.fold_batch_norm(wrapped)
    assert type(folded) is Net
    assert isinstance(folded.features[1], nn.Identity)


def test_calibrations_look_into_wrapped_parts() -> None:
    plain, parts = net().eval(), in_part().eval()
    with torch.no_grad():
        parts(IMAGES)
    calibration = dc.calibrate(parts, [IMAGES])
    assert calibration == dc.calibrate(plain, [IMAGES])
    with dc.quantize_activations(plain, calibration), dc.quantize_activations(parts, calibration), torch.no_grad():
        assert torch.equal(parts(IMAGES), plain(IMAGES))


def test_a_chain_in_integers() -> None:
    torch.manual_seed(0)
    chain = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 4)).eval()
    calibration = dc.calibrate(chain, [IMAGES])
    codes = [dc.FixedPointModel(model, calibration)(IMAGES) for model in (chain, compiled(chain), DataParallel(chain))]
    assert torch.equal(codes[0], codes[1])
    assert torch.equal(codes[0], codes[2])


@every_wrapping
def test_masks_by_the_names_inside(wrap: Callable[[nn.Module], Any]) -> None:
    inner = net()
    masks = {name: torch.rand(weight.shape) > 0.5 for name, weight in inner.named_parameters() if weight.ndim > 1}
    wrapped = wrap(inner)
    dc.apply_masks(wrapped, masks)
    assert all(bool((inner.get_parameter(name)[~mask] == 0).all()) for name, mask in masks.items())
    with dc.hold_masks(wrapped, masks, torch.optim.SGD(wrapped.parameters(), 0.1)):
        wrapped(IMAGES).sum().backward()
    gradient = inner.fc.weight.grad
    assert gradient is not None
    assert bool((gradient[~masks["fc.weight"]] == 0).all())


def test_a_module_compiled_in_place_is_a_module() -> None:
    """`module.compile()` changes how it is called, and nothing else."""
    model, plain = net().eval(), net().eval()
    model.compile(backend="eager")
    model(IMAGES)
    call = model._compiled_call_impl
    calibration = dc.calibrate(model, [IMAGES])
    assert calibration == dc.calibrate(plain, [IMAGES])
    with dc.quantize_activations(model, calibration), dc.quantize_activations(plain, calibration):
        assert torch.equal(model(IMAGES), plain(IMAGES))
    assert model._compiled_call_impl is call
    assert PIPELINE.run(model, quiet=True).compressed.to_bytes() == PIPELINE.run(plain, quiet=True).compressed.to_bytes()


def test_compiled_models_are_compiled_again_afterwards() -> None:
    """Also after an error."""
    wrapped = compiled(net())
    forward = wrapped.forward
    with pytest.raises(ZeroDivisionError), as_written(wrapped):
        assert 1 / (wrapped.forward is forward)
    assert wrapped.forward is forward
    assert list(wrapped.state_dict()) == [f"_orig_mod.{name}" for name in net().state_dict()]


@pytest.mark.parametrize(
    ("names", "plain"),
    [
        (["a", "b.c"], ["a", "b.c"]),
        (["module.a", "module.b.c"], ["a", "b.c"]),
        (["module.a", "n_averaged"], ["module.a", "n_averaged"]),
        (["_orig_mod.a", "_orig_mod.module.b"], ["a", "module.b"]),
        (["module._orig_mod.module.a"], ["a"]),
        (["enc._orig_mod.a", "dec._orig_mod._orig_mod.a"], ["enc.a", "dec.a"]),
        (["_orig_mod.a", "a"], ["_orig_mod.a", "a"]),
        (["module.", "module.a"], ["module.", "module.a"]),
        (["modules.a"], ["modules.a"]),
        ([], []),
    ],
)
def test_names_in_state_dicts(names: list[str], plain: list[str]) -> None:
    assert plain_names(names) == dict(zip(names, plain, strict=True))


def test_names_that_a_hook_made_up() -> None:
    model = nn.Sequential(compiled(nn.Linear(2, 2)))
    assert bare_names(model, ["0._orig_mod.weight", "0._orig_mod.made.up", "else"]) == {
        "0._orig_mod.weight": "0.weight",
        "0._orig_mod.made.up": "0.made.up",
        "else": "else",
    }
