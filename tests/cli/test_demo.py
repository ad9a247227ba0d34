"""`deepcompress demo`: the whole main job, once, for real."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import deepcompress as dc
from deepcompress.cli import demo
from deepcompress.cli.main import main
from deepcompress.errors import FormatError


@pytest.mark.slow
def test_demo_end_to_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "some" / "where"
    assert main(["demo", "--out", str(folder), "--json"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    data = json.loads(out)
    assert {path.name for path in folder.iterdir()} == {"digits.dcz", "report.html", "report.json"}
    assert data["file_bytes"] == (folder / "digits.dcz").stat().st_size
    assert data["file_ratio"] > 30
    stages = {row["name"]: row["accuracy"] for row in data["stages"]}
    assert stages["input"] > 0.97
    assert stages["encode"] >= stages["input"] - 0.005
    assert data["equal_tensors"] == 8
    assert data["equal_logits"] == 5_000

    report = json.loads((folder / "report.json").read_text())
    assert {name: data[name] for name in report} == report
    assert "<html" in (folder / "report.html").read_text()
    assert main(["verify", str(folder / "digits.dcz"), "--quiet"]) == 0

    # The accuracy in the report is that of the file.
    from deepcompress.models import LeNetDigits

    digits = demo._digits()
    model = dc.load(folder / "digits.dcz").load_into(LeNetDigits())
    right = demo._logits(model, digits).argmax(1) == digits.test_labels
    assert right.float().mean().item() == stages["encode"]


def test_the_split_is_fixed_and_leaves_no_image_out() -> None:
    first, second = demo._digits(), demo._digits()
    assert torch.equal(first.test_images, second.test_images)
    assert len(first.train_labels) == 1_297
    assert len(first.test_labels) == 500
    assert first.train_images.shape[1:] == (1, 8, 8)
    assert 0 <= first.train_images.min() < first.train_images.max() <= 1


def test_a_file_that_differs_from_the_model_is_noticed(tmp_path: Path) -> None:
    from deepcompress.models import LeNetDigits

    model, digits = LeNetDigits(), demo._digits()
    dc.Pipeline([("encode", dc.HuffmanEncode())]).run(model).compressed.save(tmp_path / "m.dcz")
    assert demo._compare(tmp_path / "m.dcz", model, digits) == {"equal_tensors": 8, "equal_logits": 5_000}
    with torch.no_grad():
        model.fc2.bias[3] += 1e-4
    with pytest.raises(FormatError, match=r"fc2\.bias is not the tensor that was saved"):
        demo._compare(tmp_path / "m.dcz", model, digits)


def test_a_folder_that_cannot_be_made(cli, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    ended = cli("demo", "--out", tmp_path / "file")
    assert ended.status == 1
    assert f"cannot make the folder {tmp_path}/file: File exists" in ended.err
