"""Whole files: opened every way, inspected, verified, saved, loaded into modules."""

from __future__ import annotations

import errno
import io
import os
import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from torch import nn

import deepcompress as dc
from deepcompress.container import source as files
from deepcompress.errors import FormatError, ModelError, ParameterError, StorageError
from deepcompress.tensors.build import Extras, Tie, build_model
from deepcompress.tensors.compressed import DenseTensor
from deepcompress.tensors.elements import dtype_name, from_torch
from deepcompress.tensors.streams import Encoding
from tests.attacks.test_mutants import repaired
from tests.tensors import samples


def network() -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(12, 2, bias=False))


def as_tensors(state: dict[str, torch.Tensor]) -> samples.Named:
    return [(name, DenseTensor(from_torch(t), dtype_name(t), dtype_name(t))) for name, t in state.items()]


NAMED: samples.Named = [
    ("a", samples.shared_tensor("float32", (40, 50), 7, 1, 0.2)),
    ("b", samples.dense_tensor("bfloat16", "bfloat16", (3, 3), 2, 1.0)),
    ("t", Tie("a")),
    ("c", samples.affine_tensor("float16", "float16", (4, 4), 0, 3, 16)),
]
DATA = samples.to_file(NAMED, extras=Extras({"who": "me"}, {"stages": []}, {"": 2}))


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(samples.models(), samples.encodings, samples.cuts)
def test_every_bit_is_accounted_for(tensors: samples.Named, encoding: Encoding, cut: tuple[int, int]) -> None:
    with samples.small_chunks(*cut):
        data = samples.to_file(tensors, encoding)
    model = dc.open(data, framework="numpy")
    bits = model.bits
    assert bits.file.total == 8 * len(data)
    assert min(bits.file.as_dict().values()) >= 0
    assert sum(row.total for row in bits.tensors) <= bits.file.total
    assert all(row.total == 0 for row, record in zip(bits.tensors, model.records, strict=True) if record.tie is not None)
    described = model.inspect()
    assert sum(described["directory_bytes"].values()) < len(data)
    assert [row["name"] for row in described["tensors"]] == list(model) == [name for name, _ in tensors]
    assert described["dense_bytes"] == model.dense_bytes
    model.verify()


def test_as_a_mapping() -> None:
    model = dc.load(DATA, framework="numpy")
    assert (list(model), len(model), "a" in model, "x" in model, 7 in model) == (["a", "b", "t", "c"], 4, True, False, False)
    assert repr(model) == f"CompressedModel(<bytes>: 4 tensors, 8050 bytes in {len(DATA)})"
    assert (model.metadata, model.recipe, model.versions, model.ties) == ({"who": "me"}, {"stages": []}, {"": 2}, {"t": "a"})
    assert model["b"].dtype.metadata == {"torch_dtype": "bfloat16"}
    with pytest.raises(KeyError, match="x"):
        model["x"]


def test_ties_share_memory() -> None:
    model = dc.load(DATA)
    arrays, state = model.numpy(), model.state_dict()
    assert arrays["t"] is arrays["a"]
    assert state["t"].data_ptr() == state["a"].data_ptr()
    assert (model["t"] == model["a"]).all()


def test_opened_in_every_way(tmp_path: Path) -> None:
    path = tmp_path / "model.dcz"
    dc.load(DATA).save(path)
    expected = {name: array.tobytes() for name, array in dc.load(DATA).numpy().items()}
    behind = io.BytesIO(b"behind" + DATA)
    behind.seek(6)
    opened: list[Any] = [path, str(path), DATA, bytearray(DATA), memoryview(DATA), io.BytesIO(DATA), behind]
    for source in opened:
        with dc.open(source) as model:
            assert {name: array.tobytes() for name, array in model.numpy().items()} == expected
            assert model.to_bytes() == DATA
    with path.open("rb", buffering=0) as file:
        assert dc.open(file).to_bytes() == DATA
    with subprocess.Popen(["cat", str(path)], stdout=subprocess.PIPE) as pipe:
        assert pipe.stdout is not None
        assert dc.load(pipe.stdout).to_bytes() == DATA


def test_loaded_files_need_the_disk_no_more(tmp_path: Path) -> None:
    path = tmp_path / "model.dcz"
    path.write_bytes(DATA)
    loaded, opened = dc.load(path), dc.open(path)
    path.unlink()
    opened.close()
    assert loaded["a"].shape == (40, 50)
    with pytest.raises(StorageError, match=r"cannot read .*model\.dcz: .*closed"):
        opened["a"]


def test_limit() -> None:
    assert dc.open(DATA, max_bytes=8_050).dense_bytes == 8_050
    for opener in (dc.open, dc.load):
        with pytest.raises(FormatError, match="<bytes>: 8050 bytes when decoded, at most 8049 are allowed"):
            opener(DATA, max_bytes=8_049)


def test_frameworks() -> None:
    with pytest.raises(ParameterError, match=r"The 'framework' parameter of open must be 'torch' or 'numpy'\. Got 'jax'"):
        dc.open(DATA, framework="jax")
    assert isinstance(dc.open(DATA)["b"], torch.Tensor)
    assert isinstance(dc.open(DATA, framework="numpy")["b"], np.ndarray)


def test_threads() -> None:
    tensors: samples.Named = [(f"t{i}", samples.shared_tensor("float32", (60, 60), 7, i, 0.3)) for i in range(12)]
    with samples.small_chunks(64, 4):
        model = dc.open(io.BytesIO(samples.to_file(tensors)), framework="numpy")
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda name: model[name].tobytes(), [name for name, _ in tensors] * 3))
    assert found == [values for _, _, values in samples.dense_values(tensors).values()] * 3


def test_save_onto_itself(tmp_path: Path) -> None:
    path = tmp_path / "model.dcz"
    path.write_bytes(DATA)
    with dc.open(path) as model:
        model.save(path)
    assert path.read_bytes() == DATA
    assert list(tmp_path.iterdir()) == [path]


class Full:
    """A file on a disk with room for so many bytes."""

    def __init__(self, file: BinaryIO, room: int) -> None:
        self.file, self.room = file, room

    def write(self, data: bytes) -> int:
        self.room -= len(data)
        if self.room < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return self.file.write(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)

    def __enter__(self) -> Full:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()


@pytest.mark.parametrize("old", [None, b"old"])
def test_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, old: bytes | None) -> None:
    path = tmp_path / "model.dcz"
    if old:
        path.write_bytes(old)
    model = dc.load(DATA)
    monkeypatch.setattr(files, "open", lambda *how, **more: Full(open(*how, **more), 100), raising=False)  # noqa: SIM115
    with pytest.raises(StorageError, match=r"cannot write .*model\.dcz: No space left on device"):
        model.save(path)
    assert [entry.read_bytes() for entry in tmp_path.iterdir()] == ([old] if old else [])


def test_a_source_that_breaks_while_it_is_saved(tmp_path: Path) -> None:
    path = tmp_path / "model.dcz"
    path.write_bytes(DATA)
    with dc.open(path) as model:
        os.truncate(path, 50)
        with pytest.raises(StorageError, match="it ended at byte 50"):
            model.save(tmp_path / "copy.dcz")
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("tensors", "extras", "kind", "text"),
    [
        ([("a..b", NAMED[0][1])], None, ModelError, r"the tensor name 'a\.\.b' holds '\.\.'"),
        ([("\ud800", NAMED[0][1])], None, ModelError, "has no UTF-8 form"),
        ([("a", NAMED[0][1])] * 2, None, ModelError, "the tensor name 'a' is there twice"),
        ([("a", Tie("b"))], None, ModelError, "'a' is tied to 'b', which does not come before it"),
        ([], Extras({"a": 1}), ParameterError, "The 'metadata' parameter of write_model must be a mapping of strings"),  # type: ignore[dict-item]
        ([], Extras({"a": "\ud800"}), ParameterError, "The 'metadata' parameter of write_model must be fit for JSON"),
        ([], Extras(recipe={"a": float("nan")}), ParameterError, "The 'recipe' parameter of write_model must be fit for JSON"),
        ([], Extras(recipe={"a": object()}), ParameterError, "The 'recipe' parameter of write_model must be fit for JSON"),
    ],
)
def test_what_cannot_be_written(tensors: samples.Named, extras: Extras | None, kind: type[Exception], text: str) -> None:
    with pytest.raises(kind, match=text):
        build_model(tensors, Encoding(), extras)


def test_into_a_module() -> None:
    source = network()
    source(torch.randn(8, 1, 4, 4))
    versions = {path: module._version for path, module in source.named_modules()}
    model = build_model(as_tensors(source.state_dict()), Encoding(), Extras(versions=versions))
    target = network()
    assert model.load_into(target) is target
    assert all(torch.equal(a, b) for a, b in zip(source.state_dict().values(), target.state_dict().values(), strict=True))
    expected = {"": 1, "0": 1, "1": 2, "3": 1}  # the module around them too
    assert model.state_dict()._metadata == {path: {"version": version} for path, version in expected.items()}  # type: ignore[attr-defined]


class Renovated(nn.Sequential):
    """Its own version says how its parts are to be read; it holds no tensor itself."""

    _version = 3

    def _load_from_state_dict(self, state_dict: Any, prefix: str, local_metadata: dict[str, Any], *rest: Any) -> None:
        if local_metadata.get("version") != 3:
            raise ValueError(f"version {local_metadata.get('version')}")
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *rest)


def test_versions_of_modules_around_others() -> None:
    def house() -> nn.ModuleDict:
        return nn.ModuleDict({"wing": Renovated(nn.Sequential(nn.Linear(2, 2))), "door": nn.Linear(2, 1)})

    state = house().state_dict()
    versions = {path: entry["version"] for path, entry in state._metadata.items()}  # type: ignore[attr-defined]
    model = build_model(as_tensors(state), Encoding(), Extras(versions=versions))
    assert model.state_dict()._metadata == state._metadata  # type: ignore[attr-defined]
    loaded = model.load_into(house())
    assert all(torch.equal(tensor, state[name]) for name, tensor in loaded.state_dict().items())


def test_a_module_that_raises_while_it_loads_is_as_it_was() -> None:
    target = nn.Sequential(nn.Linear(2, 2), Renovated(nn.Linear(2, 2)))
    before = {name: tensor.clone() for name, tensor in target.state_dict().items()}
    old = build_model(as_tensors({name: tensor + 1 for name, tensor in before.items()}), Encoding(), Extras(versions={"1": 2}))
    with pytest.raises(ModelError, match=r"^<bytes> does not fit Sequential: version 2$"):
        old.load_into(target)
    assert all(torch.equal(tensor, before[name]) for name, tensor in target.state_dict().items())


def test_old_checkpoints_load() -> None:
    state = {name: tensor for name, tensor in network().state_dict().items() if "num_batches" not in name}
    build_model(as_tensors(state), Encoding()).load_into(network())
    with pytest.raises(ModelError, match=r"Missing key.*1\.num_batches_tracked"):
        build_model(as_tensors(state), Encoding(), Extras(versions={"1": 2})).load_into(network())


def test_all_mismatches_at_once_and_nothing_changed() -> None:
    state = network().state_dict()
    state["extra"] = torch.ones(2)
    state["3.weight"] = torch.zeros(2, 13)
    state["0.weight"] = torch.zeros_like(state["0.weight"])
    del state["0.bias"]
    target = network()
    before = {name: tensor.clone() for name, tensor in target.state_dict().items()}
    with pytest.raises(ModelError) as caught:
        build_model(as_tensors(state), Encoding()).load_into(target)
    text = str(caught.value)
    assert text.startswith("<bytes> does not fit Sequential: ")
    assert "\n" not in text
    for part in (
        'Missing key(s) in state_dict: "0.bias"',
        'Unexpected key(s) in state_dict: "extra"',
        "mismatch for 3.weight",
    ):
        assert part in text
    assert all(torch.equal(tensor, before[name]) for name, tensor in target.state_dict().items())


def test_without_torch_sklearn_and_scipy(tmp_path: Path) -> None:
    (tmp_path / "model.dcz").write_bytes(DATA)
    script = textwrap.dedent(
        """
        import sys
        for name in ("torch", "sklearn", "scipy"):
            sys.modules[name] = None
        import deepcompress as dc
        model = dc.load(sys.argv[1])
        arrays = model.numpy()
        model.inspect(), model.verify()
        assert arrays["b"].dtype == "uint16" and arrays["b"].dtype.metadata == {"torch_dtype": "bfloat16"}
        assert dc.open(sys.argv[1], framework="numpy")["b"].tobytes() == arrays["b"].tobytes()
        print({name: (str(array.dtype), array.shape) for name, array in arrays.items()})
        """
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script, str(tmp_path / "model.dcz")],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(dc.__file__).parent.parent,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.strip() == str({name: (str(array.dtype), array.shape) for name, array in dc.load(DATA).numpy().items()})


def test_a_device_is_one_that_torch_can_use(tmp_path: Path) -> None:
    path = tmp_path / "model.dcz"
    path.write_bytes(samples.to_file([("w", samples.shared_tensor("float32", (9, 9), 4, 1, 1.0))]))
    for device in ("cpu", torch.device("cpu"), None):
        assert dc.load(path, device=device)["w"].device.type == "cpu"
    assert dc.open(path, device="meta")["w"].device.type == "meta"
    with pytest.raises(ParameterError, match=r"'device' parameter of open must be one that this torch can use"):
        dc.open(path, device="nowhere")
    with pytest.raises(ParameterError, match=r"'device' parameter of open must be left out for arrays, which have none"):
        dc.open(path, framework="numpy", device="cpu")
    if not torch.cuda.is_available():
        with pytest.raises(ParameterError, match=r"'device' parameter of open"):
            dc.load(path, device="cuda")


def saved(module: nn.Module, seed: int = 1) -> tuple[bytes, dict[str, torch.Tensor]]:
    """A file for a module, half of it with codebooks, and the tensors that it holds."""
    named: samples.Named = []
    for place, (name, tensor) in enumerate(module.state_dict().items()):
        if tensor.ndim > 1 and tensor.is_floating_point():
            named.append((name, samples.shared_tensor(dtype_name(tensor), tuple(tensor.shape), 5, seed + place, 0.8)))
        else:
            fresh = torch.full_like(tensor, seed + place)
            named.append((name, DenseTensor(from_torch(fresh), dtype_name(fresh), dtype_name(fresh))))
    data = samples.to_file(named)
    return data, dc.load(data).state_dict()


def test_loading_writes_over_a_modules_own_memory_as_load_state_dict_does() -> None:
    for change in (lambda m: m, lambda m: m.double(), lambda m: m.bfloat16(), lambda m: m.to(memory_format=torch.channels_last)):
        module = change(network())
        before = {name: (tensor, tensor._version) for name, tensor in module.state_dict(keep_vars=True).items()}
        data, expected = saved(module)
        dc.load(data).load_into(module)
        for name, tensor in module.state_dict(keep_vars=True).items():
            assert tensor is before[name][0]
            assert tensor._version > before[name][1]
            assert torch.equal(tensor, expected[name])


def test_a_module_that_loads_in_a_way_of_its_own_is_asked_to() -> None:
    module = network()
    data, expected = saved(module)
    seen: list[str] = []
    module[0].register_load_state_dict_pre_hook(lambda module, tensors, *rest: seen.extend(tensors))
    dc.load(data).load_into(module)
    assert {"0.weight", "0.bias"} <= set(seen)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in module.state_dict().items())


def test_tensors_of_another_dtype_are_converted() -> None:
    data, expected = saved(network())
    module = network().double()
    dc.load(data).load_into(module)
    assert all(torch.equal(tensor, expected[name].to(tensor.dtype)) for name, tensor in module.state_dict().items())


def test_malformed_content_under_right_checksums_leaves_the_module_as_it_was() -> None:
    module = network()
    data, _ = saved(module)
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    values = dc.load(data)._reader.directory.spans[-1]["values"]  # the last tensor: all others can be decoded
    altered = bytearray(data)
    altered[values.start : values.stop] = bytes(255 - byte for byte in data[values.start : values.stop])
    with pytest.raises(FormatError, match=r"'3\.weight', values"):
        dc.load(repaired(altered)).load_into(module)
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())


def test_one_memory_under_two_names_that_the_file_tells_apart_holds_the_last() -> None:
    module = nn.ModuleDict({"a": nn.Linear(300, 300, bias=False), "b": nn.Linear(300, 300, bias=False)})
    data, expected = saved(module)
    module["b"].weight = module["a"].weight
    dc.load(data).load_into(module)
    assert torch.equal(module["a"].weight, expected["b.weight"])
