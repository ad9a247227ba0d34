"""The README's code runs as it stands there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import deepcompress as dc

ROOT = Path(__file__).parent.parent
BLOCKS = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)


class Newcomer(nn.Module):
    """A network with the layers that the README speaks of."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 4, 3)
        self.fc1 = nn.Linear(16, 8)
        self.layer1 = nn.Linear(8, 3)

    def forward(self, images: Tensor) -> Tensor:
        return self.layer1(torch.relu(self.fc1(self.conv1(images).flatten(1))))


def test_there_is_code() -> None:
    assert len(BLOCKS) == 13


@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_code_block_runs(number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    model = Newcomer()
    names = {
        "dc": dc,
        "model": model,
        "fresh_model": Newcomer(),
        "train_loader": [(torch.randn(8, 1, 4, 4), torch.randint(0, 3, (8,))) for _ in range(2)],
        "accuracy": lambda model: 0.5,
        "optimizer": torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9),
        "masks": {"fc1.weight": torch.rand(8, 16) > 0.5},
        "pipeline": dc.Pipeline([("quantize", dc.KMeansQuantize(bits=3))]),
        "settings": dc.TrainSettings(epochs=1),
    }
    exec(BLOCKS[number], names)
    if "model.dcz" in BLOCKS[number]:
        assert (tmp_path / "model.dcz").stat().st_size == names["result"].report.file_bytes
        loaded = names["fresh_model"].state_dict()
        assert all(torch.equal(loaded[name], value) for name, value in names["result"].model.state_dict().items())
