"""The scan: each point is the model with one layer changed and nothing else, and the model is given back whatever happens."""

from __future__ import annotations

import copy
import json
import math
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console
from torch import Tensor, nn

import deepcompress as dc
from deepcompress.errors import ModelError, ParameterError, StorageError
from deepcompress.pipeline import sensitivity
from deepcompress.pipeline.points import fingerprint
from deepcompress.report.sensitivity import SensitivityTable
from tests.pipeline.samples import accuracy, net, same_bits, state_of

LAYERS = ("conv.weight", "fc.weight", "inner.weight")


class Probe:
    """An `evaluate` that keeps a copy of what it was shown, and answers with the number of the call."""

    def __init__(self, fail_at: int | None = None, error: BaseException | None = None) -> None:
        self.seen: list[dict[str, Tensor]] = []
        self._fail_at, self._error = fail_at, error

    def __call__(self, model: nn.Module) -> float:
        assert not any(module.training for module in model.modules())
        assert not torch.is_grad_enabled()
        self.seen.append(state_of(model))
        if self._error is not None and len(self.seen) == self._fail_at:
            raise self._error
        return float(len(self.seen))


def scan(model: nn.Module, evaluate=accuracy, **options) -> SensitivityTable:
    return dc.sensitivity_scan(model, evaluate, quiet=True, **options)


def changed(before: dict[str, Tensor], after: dict[str, Tensor]) -> set[str]:
    return {name for name in before if not torch.equal(before[name], after[name])}


def test_each_point_is_the_model_with_one_layer_changed_and_nothing_else() -> None:
    model, probe = net(), Probe()
    table = scan(model, probe, sparsities=(0.9, 0.5), bits=(2, 4))
    before = state_of(model)
    unchanged, *points = probe.seen
    assert changed(before, unchanged) == set()
    assert table.baseline == 1.0
    settings = [("sparsity", 0.5), ("sparsity", 0.9), ("bits", 2), ("bits", 4)]
    assert [row.key for row in table.rows] == [(layer, *setting) for layer in LAYERS for setting in settings]
    assert [row.accuracy for row in table.rows] == [float(call) for call in range(2, 14)]
    for row, seen in zip(table.rows, points, strict=True):
        ties = {"inner.weight", "again.weight"} if row.layer == "inner.weight" else {row.layer}
        assert changed(before, seen) == ties
        weight = before[row.layer]
        assert row.weights == weight.numel()
        expected = copy.deepcopy(model)
        if row.kind == "sparsity":
            stage = dc.Prune("percentile", q=row.setting, include=[row.layer])
            assert row.sparsity == round(row.setting * weight.numel()) / weight.numel()
        else:
            stage = dc.KMeansQuantize(bits=int(row.setting), include=[row.layer])
            assert len(seen[row.layer].unique()) <= 2**row.setting
            assert row.sparsity == 0
        dc.Pipeline([("only", stage)]).run(expected, inplace=True, quiet=True)
        assert torch.equal(state_of(expected)[row.layer], seen[row.layer])


def test_the_ends_of_the_scale_on_a_real_measure() -> None:
    model = net()
    table = scan(model, sparsities=(0, 1), bits=(16,))
    for layer in table.layers:
        nothing, everything = table.accuracies(layer, "sparsity")
        assert nothing == table.baseline == accuracy(model.eval())
        assert everything <= 0.2
        assert table.accuracies(layer, "bits")[0] == pytest.approx(table.baseline, abs=0.02)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_the_model_is_given_back_bit_for_bit(dtype: torch.dtype) -> None:
    model = net(dtype=dtype)
    with torch.no_grad():
        model.conv.weight.view(-1)[0] = -0.0
    model.train()
    model.fc.eval()
    before, modes = state_of(model), [module.training for module in model.modules()]
    scan(model, lambda model: 0.5, sparsities=(0.5, 1.0), bits=(1, 3))
    assert same_bits(model, before)
    assert [module.training for module in model.modules()] == modes
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("error", [RuntimeError("no"), KeyboardInterrupt(), SystemExit(3)])
@pytest.mark.parametrize("call", [1, 2, 9])
def test_it_is_given_back_when_evaluate_fails(error: BaseException, call: int) -> None:
    model = net()
    before = state_of(model)
    with pytest.raises(type(error)):
        scan(model, Probe(call, error))
    assert same_bits(model, before)
    assert model.training


def test_whole_filters_and_unstructured() -> None:
    table = scan(net(), lambda model: 0.5, sparsities=(0.4, 0.99), bits=(), method="filter_l1", include=["conv"])
    assert [row.sparsity for row in table.rows] == [0.5, 0.75]  # of four filters, one of which stays
    one = scan(net(), sparsities=(0.4, 0.8), bits=(), method="unstructured")
    other = scan(net(), sparsities=(0.4, 0.8), bits=())
    assert one.rows == other.rows
    assert (one.method, other.method) == ("unstructured", "percentile")


def test_choice_of_layers_as_everywhere() -> None:
    def layers(**choice: list[str]) -> tuple[str, ...]:
        return scan(net(), lambda model: 0.5, sparsities=(0.5,), bits=(), **choice).layers

    assert layers() == LAYERS
    assert layers(include=["fc", "again"]) == ("fc.weight", "inner.weight")
    assert layers(exclude=["fc"]) == ("conv.weight", "inner.weight")
    assert layers(types=["Conv2d"]) == ("conv.weight",)
    assert layers(include=["*.bias"]) == ("conv.bias", "norm.bias", "fc.bias", "inner.bias", "again.bias")


def test_names_that_read_as_patterns() -> None:
    model = nn.ModuleDict({"a[0]": nn.Linear(4, 4), "a0": nn.Linear(4, 4), "*": nn.Linear(4, 4)})
    probe = Probe()
    before = state_of(model)
    table = scan(model, probe, sparsities=(0.5,), bits=(1,))
    assert table.layers == ("a[0].weight", "a0.weight", "*.weight")
    assert [changed(before, seen) for seen in probe.seen[1:]] == [{row.layer} for row in table.rows]


def test_nan_is_recorded_and_anything_that_is_no_number_refused(tmp_path: Path) -> None:
    path = tmp_path / "scan.json"
    answers = iter([0.5, math.nan, math.inf, np.float32(0.25), torch.tensor(0.125)])
    table = scan(net(), lambda model: next(answers), sparsities=(0.1, 0.2), bits=(1, 2), include=["fc"], path=path)
    assert math.isnan(table.rows[0].accuracy)
    assert [row.accuracy for row in table.rows[1:]] == [math.inf, 0.25, 0.125]
    again = scan(net(), Probe(), sparsities=(0.1, 0.2), bits=(1, 2), include=["fc"], path=path)
    assert repr(again) == repr(table)
    for answer in ("good", None, [0.5, 0.5]):
        with pytest.raises(ParameterError, match="'evaluate' parameter of sensitivity_scan must be a function that returns"):
            scan(net(), lambda model, answer=answer: answer)


def test_each_measurement_starts_from_the_same_random_numbers_and_leaves_none_behind() -> None:
    def draw(model: nn.Module) -> float:
        return random.random() + float(np.random.rand()) + torch.rand(()).item()  # noqa: NPY002

    torch.manual_seed(5)
    np.random.seed(5)  # noqa: NPY002
    random.seed(5)
    table = scan(net(), draw, sparsities=(0.5,), bits=(2,))
    after = (random.random(), np.random.rand())  # noqa: NPY002
    random.seed(5)
    np.random.seed(5)  # noqa: NPY002
    assert after == (random.random(), np.random.rand())  # noqa: NPY002
    assert {row.accuracy for row in table.rows} == {table.baseline}


# ---- the file


GRID = {"sparsities": (0.5, 0.9), "bits": (2,)}


@pytest.mark.parametrize("stop", [1, 2, 5, 10])
def test_an_interrupted_scan_goes_on_where_it_was(stop: int, tmp_path: Path) -> None:
    path = tmp_path / "scan.json"
    whole = scan(net(), Probe(), **GRID)
    first = Probe(stop, KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        scan(net(), first, path=path, **GRID)
    second = Probe()
    table = scan(net(), second, path=path, **GRID)
    assert len(first.seen) - 1 + len(second.seen) == 1 + len(whole.rows)
    assert [row.key for row in table.rows] == [row.key for row in whole.rows]
    kept = [row.accuracy for row in table.rows[: max(stop - 2, 0)]]
    assert kept == [row.accuracy for row in whole.rows[: len(kept)]]
    third = Probe()
    assert scan(net(), third, path=path, **GRID) == table
    assert third.seen == []
    assert [entry.name for entry in tmp_path.iterdir()] == ["scan.json"]


def test_the_file_is_a_table_after_every_point(tmp_path: Path) -> None:
    path = tmp_path / "scan.json"
    lengths = []

    def look(model: nn.Module) -> float:
        data = json.loads(path.read_text())
        lengths.append((data["baseline"], len(data["rows"])))
        return 0.5

    table = scan(net(), look, path=path, **GRID)
    assert lengths == [(None, 0), *((0.5, count) for count in range(9))]
    assert SensitivityTable.from_json(path.read_text()) == table
    assert json.loads(path.read_text())["weights"] == fingerprint(net())


def test_a_finer_grid_and_other_layers_take_what_is_there(tmp_path: Path) -> None:
    path, probe = tmp_path / "scan.json", Probe()
    scan(net(), probe, path=path, sparsities=(0.5,), bits=(), include=["conv", "fc"])
    more = scan(net(), probe, path=path, sparsities=(0.7, 0.5), bits=(3,), include=["fc"])
    assert len(probe.seen) == 1 + 2 + 2
    assert [row.key[1:] for row in more.rows] == [("sparsity", 0.5), ("sparsity", 0.7), ("bits", 3)]
    everything = SensitivityTable.from_json(path.read_text())
    assert len(everything.rows) == 4
    assert scan(net(), probe, path=path, sparsities=(0.5,), bits=(), include=["conv"]).rows == everything.rows[:1]
    assert len(probe.seen) == 5


def test_other_weights_and_other_methods_are_refused_and_the_file_stays(tmp_path: Path) -> None:
    path = tmp_path / "scan.json"
    scan(net(), Probe(), path=path, **GRID)
    before = path.read_bytes()
    moved = net()
    with torch.no_grad():
        moved.norm.running_mean[0] += 1  # evaluation depends on it
    for model, method, other in ((moved, "percentile", "of other weights"), (net(), "filter_l1", "of method 'percentile'")):
        with pytest.raises(ParameterError) as caught:
            scan(model, Probe(), path=path, method=method, **GRID)
        start = "The 'path' parameter of sensitivity_scan must be a new file, or one of an earlier scan of the same weights"
        assert str(caught.value) == f"{start} by the same method. Got {f'{path}, {other}'!r} instead."
    assert path.read_bytes() == before


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"{}", b"\xff", b'{"baseline": 1, "rows": []}', b"null"])
def test_a_file_of_something_else_is_refused_and_stays(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    path.write_bytes(content)
    with pytest.raises(ParameterError, match=r"must be a new file, or one of an earlier scan .*mine.json, which is none"):
        scan(net(), Probe(), path=path)
    assert path.read_bytes() == content


def test_a_path_that_cannot_be_used_is_known_before_anything_is_measured(tmp_path: Path) -> None:
    probe = Probe()
    with pytest.raises(StorageError, match=r"cannot write .*none/scan.json: No such file or directory"):
        scan(net(), probe, path=tmp_path / "none" / "scan.json")
    with pytest.raises(StorageError, match=r"cannot read .*: Is a directory"):
        scan(net(), probe, path=tmp_path)
    assert probe.seen == []


def test_a_fingerprint_is_of_names_types_shapes_and_bits() -> None:
    class Plain(nn.Module):
        def __init__(self, name: str, tensor: Tensor) -> None:
            super().__init__()
            self.register_buffer(name, tensor)

    zero = torch.zeros(4)
    others = [zero, -zero, zero.reshape(2, 2), zero.to(torch.int32), zero.bfloat16(), zero.double(), zero[:0], zero[0]]
    assert len({fingerprint(Plain("w", other)) for other in others} | {fingerprint(Plain("v", zero))}) == len(others) + 1
    assert fingerprint(Plain("w", zero)) == fingerprint(Plain("w", zero.clone()))


# ---- arguments


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sparsities": (1.5,)}, "The 'sparsities' parameter of sensitivity_scan must be numbers in [0, 1]. Got 1.5 instead."),
        ({"sparsities": (math.nan,)}, "must be numbers in [0, 1]. Got nan instead."),
        ({"sparsities": (True,)}, "must be numbers in [0, 1]. Got True instead."),
        ({"bits": (0,)}, "The 'bits' parameter of sensitivity_scan must be integers from 1 to 16. Got 0 instead."),
        ({"bits": (17,)}, "must be integers from 1 to 16. Got 17 instead."),
        ({"bits": (2.0,)}, "must be integers from 1 to 16. Got 2.0 instead."),
        ({"method": "std"}, "must be one of 'percentile', 'unstructured', 'filter_l1'. Got 'std' instead."),
        ({"sparsities": (), "bits": ()}, "there is nothing to scan: no sparsities and no bits"),
        ({"include": ["magic"]}, "Got 'magic' instead."),
    ],
)
def test_arguments_that_cannot_be_meant(options: dict[str, object], message: str) -> None:
    probe = Probe()
    with pytest.raises(ParameterError) as caught:
        scan(net(), probe, **options)
    assert message in str(caught.value)
    assert probe.seen == []


def test_models_that_cannot_be_scanned() -> None:
    with pytest.raises(ParameterError, match=r"The 'model' parameter .* must be a module, which can run. Got 'dict' instead"):
        scan({"w": torch.ones(2, 2)}, Probe())
    with pytest.raises(ParameterError, match="there is nothing to scan: no layers"):
        scan(nn.BatchNorm1d(3), Probe())
    broken = net()
    with torch.no_grad():
        broken.fc.weight[0, 0] = math.nan
    before = state_of(broken)
    with pytest.raises(ModelError, match=r"fc\.weight"):
        scan(broken, Probe())
    assert same_bits(broken, before)


def test_a_bar_appears_on_a_terminal_unless_quiet(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sensitivity, "Console", lambda **_: Console(stderr=True, force_terminal=True, width=100))
    dc.sensitivity_scan(net(), lambda model: 0.5, **GRID)
    out, err = capsys.readouterr()
    assert out == ""
    assert "scan" in err
    assert "9/10" in err
    assert "-1/" not in err
    dc.sensitivity_scan(net(), lambda model: 0.5, quiet=True, **GRID)
    assert capsys.readouterr() == ("", "")
    monkeypatch.undo()
    dc.sensitivity_scan(net(), lambda model: 0.5, **GRID)
    assert capsys.readouterr() == ("", "")
