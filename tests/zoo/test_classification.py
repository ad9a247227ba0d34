"""Ten small classifiers of torchvision, there and back; `make zoo` takes all of them."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest
import torch
from torch import nn

import deepcompress as dc
from deepcompress.vision import import_torchvision
from tests.zoo import classification
from tests.zoo.classification import UnequalError, build, main, names, there_and_back

if importlib.util.find_spec("torchvision") is None:
    pytest.skip("torchvision is not installed", allow_module_level=True)

SMALL = (
    "densenet121",
    "efficientnet_b0",
    "googlenet",
    "mnasnet0_5",
    "mobilenet_v2",
    "mobilenet_v3_small",
    "regnet_y_400mf",
    "resnet18",
    "shufflenet_v2_x0_5",
    "squeezenet1_1",
)


@pytest.mark.parametrize("name", SMALL)
def test_there_and_back(name: str, tmp_path: Path) -> None:
    row = there_and_back(name, tmp_path)
    assert row.dense_bytes >= 4 * row.parameters
    assert row.dense_bytes > 8 * row.file_bytes
    assert list(tmp_path.iterdir()) == []


def test_the_list_is_torchvisions_and_all_of_it_was_run() -> None:
    assert len(names()) >= 80
    assert set(SMALL) < set(names())
    record = json.loads(Path(classification.__file__).with_name("record.json").read_text())
    assert (record["failed"], record["left_out"]) == ([], [])
    if import_torchvision().__version__ == record["torchvision"]:
        assert {row["name"] for row in record["rows"]} == set(names())


class Forgetful(nn.Linear):
    """Loads, and then is another one."""

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        return super().forward(batch) + torch.rand(())


@pytest.mark.parametrize("kind", [nn.Linear, Forgetful])
def test_what_differs_is_told(kind: type[nn.Linear], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def build(name: str, seed: int) -> nn.Module:
        torch.manual_seed(seed)
        return nn.Sequential(nn.Flatten(), kind(3 * 64 * 64, 5))

    monkeypatch.setattr(classification, "build", build)
    if kind is nn.Linear:
        monkeypatch.setattr(dc.CompressedModel, "load_into", lambda self, module: module)
    with pytest.raises(UnequalError, match="net has other tensors" if kind is nn.Linear else "net has other logits"):
        there_and_back("net", tmp_path)


def test_the_command_line_and_its_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:  # fmt: skip
    log = tmp_path / "log.json"
    names = ["--only", "squeezenet1_1", "shufflenet_v2_x0_5", "--max-parameters", "1300000", "--log", str(log)]
    assert main(names) == 0
    said = capsys.readouterr().out
    assert "1 of 2 models came back in every bit; 0 failed" in said
    assert "left out, as they have more than 1,300,000 parameters: shufflenet_v2_x0_5" in said
    kept = json.loads(log.read_text())
    assert [row["name"] for row in kept["rows"]] == ["squeezenet1_1"]
    assert (kept["models"], kept["failed"], kept["left_out"]) == (1, [], ["shufflenet_v2_x0_5"])

    monkeypatch.setattr(classification, "logits", lambda model, name: torch.zeros(2, 3))
    assert main(names) == 0  # that one is in the log
    assert json.loads(log.read_text())["rows"] == kept["rows"]
    log.write_text(log.read_text().replace(torch.__version__, "1.0"))
    assert main(names) == 1
    assert "UnequalError: the logits of squeezenet1_1 tell nothing" in capsys.readouterr().out


def test_a_build_is_random_everywhere() -> None:
    model = build("squeezenet1_1", seed=3)
    assert all(float(parameter.detach().std()) > 0 for parameter in model.parameters())
