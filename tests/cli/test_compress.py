"""`deepcompress compress`: every kind of checkpoint in, one file out, and nothing on the way that runs foreign code."""

from __future__ import annotations

import json
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

import deepcompress as dc
from deepcompress.cli.shards import INDEX_KEY


def assert_holds(path: Path, tensors: dict[str, Tensor]) -> None:
    """The file holds these names, shapes and dtypes, and what is not quantized bit for bit."""
    found = dc.load(path).state_dict()
    assert list(found) == list(tensors)
    for name, tensor in tensors.items():
        assert (found[name].shape, found[name].dtype) == (tensor.shape, tensor.dtype)
        if tensor.ndim < 2:
            assert torch.equal(found[name], tensor)


def test_a_state_dict_becomes_a_file_and_a_report(cli, checkpoint: Path, tensors: dict[str, Tensor], tmp_path: Path) -> None:
    output = tmp_path / "m.dcz"
    ended = cli("compress", checkpoint, "-o", output)
    assert ended.status == 0
    assert "fc " in ended.out
    size = output.stat().st_size
    assert ended.out.splitlines()[-1].startswith(f"wrote {output}: {size:,} bytes, ")
    assert_holds(output, tensors)
    assert len(dc.load(output).state_dict()["fc.weight"].unique()) == 32


@pytest.mark.parametrize("entry", ["state_dict", "model_state_dict", "model"])
@pytest.mark.parametrize("suffix", [".pt", ".pth", ".th"])
def test_a_state_dict_inside_a_checkpoint(cli, entry: str, suffix: str, tensors: dict[str, Tensor], tmp_path: Path) -> None:
    source = tmp_path / f"checkpoint{suffix}"
    torch.save({"epoch": 3, "optimizer": {"lr": 0.1}, entry: OrderedDict(tensors)}, source)
    assert cli("compress", source, "-o", tmp_path / "m.dcz", "--quiet").status == 0
    assert_holds(tmp_path / "m.dcz", tensors)


def test_the_prefix_of_data_parallel_goes_where_all_names_have_it(cli, tensors: dict[str, Tensor], tmp_path: Path) -> None:
    torch.save({f"module.{name}": tensor for name, tensor in tensors.items()}, tmp_path / "all.pt")
    cli("compress", tmp_path / "all.pt", "-o", tmp_path / "all.dcz")
    assert_holds(tmp_path / "all.dcz", tensors)

    some = {("module." if name.startswith("fc") else "") + name: tensor for name, tensor in tensors.items()}
    torch.save(some, tmp_path / "some.pt")
    cli("compress", tmp_path / "some.pt", "-o", tmp_path / "some.dcz")
    assert_holds(tmp_path / "some.dcz", some)


def test_prefixes_of_compiled_models_are_left_out(cli, tensors: dict[str, Tensor], tmp_path: Path) -> None:
    torch.save({f"module._orig_mod.{name}": tensor for name, tensor in tensors.items()}, tmp_path / "m.pt")
    cli("compress", tmp_path / "m.pt", "-o", tmp_path / "m.dcz", "--lossless")
    assert_holds(tmp_path / "m.dcz", tensors)


def test_module_versions_survive_the_prefix(cli, tmp_path: Path) -> None:
    model = torch.nn.DataParallel(torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3), torch.nn.BatchNorm2d(4)))
    torch.save(model.state_dict(), tmp_path / "m.pt")
    assert cli("compress", tmp_path / "m.pt", "-o", tmp_path / "m.dcz").status == 0
    versions = dc.load(tmp_path / "m.dcz").state_dict()._metadata  # type: ignore[attr-defined]
    assert versions["1"] == {"version": 2}


def test_safetensors_keep_their_metadata(cli, tensors: dict[str, Tensor], tmp_path: Path) -> None:
    save_file(tensors, tmp_path / "m.safetensors", metadata={"format": "pt", "author": "Ada"})
    assert cli("compress", tmp_path / "m.safetensors", "-o", tmp_path / "m.dcz").status == 0
    assert_holds(tmp_path / "m.dcz", {name: tensors[name] for name in dc.load(tmp_path / "m.dcz")})
    assert set(dc.load(tmp_path / "m.dcz")) == set(tensors)
    assert dc.load(tmp_path / "m.dcz").metadata == {"format": "pt", "author": "Ada"}


def test_a_sharded_index_is_read_and_kept(cli, sharded: Path, tensors: dict[str, Tensor], tmp_path: Path) -> None:
    assert cli("compress", sharded, "-o", tmp_path / "m.dcz").status == 0
    assert_holds(tmp_path / "m.dcz", tensors)
    kept = json.loads(dc.load(tmp_path / "m.dcz").metadata[INDEX_KEY])
    assert kept["weight_map"] == json.loads(sharded.read_text())["weight_map"]
    assert kept["metadata"] == {"total_size": 1234}
    assert kept["headers"]["a.safetensors"] == {"format": "pt"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[]", "not an index of .safetensors shards"),
        ("{", "not an index of .safetensors shards"),
        ('{"weight_map": {"x": "../x.safetensors"}}', "'../x.safetensors' is not the name of a shard in"),
        ('{"weight_map": {"x": 3}}', "3 is not the name of a shard in the same folder"),
        ('{"weight_map": {"x": "gone.safetensors"}}', "gone.safetensors: No such file or directory"),
        ('{"weight_map": {"fc.bias": "a.safetensors"}}', "index and shard disagree about "),
    ],
)
def test_a_bad_index_is_told(cli, sharded: Path, tmp_path: Path, content: str, message: str) -> None:
    sharded.write_text(content)
    ended = cli("compress", sharded, "-o", tmp_path / "m.dcz")
    assert ended.status == 1
    assert message in ended.err
    assert not (tmp_path / "m.dcz").exists()


@pytest.mark.parametrize(("option", "share"), [("percentile=0.6", 0.6), ("unstructured=0.9", 0.9), ("filter_l1=0.5", 0.5)])
def test_pruning_first(cli, checkpoint: Path, tmp_path: Path, option: str, share: float) -> None:
    assert cli("compress", checkpoint, "-o", tmp_path / "m.dcz", "--prune", option).status == 0
    found = dc.load(tmp_path / "m.dcz").state_dict()
    weights = torch.cat([found["conv.weight"].flatten(), found["fc.weight"].flatten()])
    assert (weights == 0).float().mean().item() == pytest.approx(share, abs=0.01)


def test_pruning_by_standard_deviations(cli, checkpoint: Path, tensors: dict[str, Tensor], tmp_path: Path) -> None:
    assert cli("compress", checkpoint, "-o", tmp_path / "m.dcz", "--prune", "std=1").status == 0
    zeros = dc.load(tmp_path / "m.dcz").state_dict()["fc.weight"] == 0
    assert 0.6 < zeros.float().mean().item() < 0.75


@pytest.mark.parametrize("bits", [1, 3, 16])
def test_bits_bound_the_codebook(cli, checkpoint: Path, tmp_path: Path, bits: int) -> None:
    assert cli("compress", checkpoint, "-o", tmp_path / "m.dcz", "--bits", bits, "--init", "density").status == 0
    values = dc.load(tmp_path / "m.dcz").state_dict()["fc.weight"].unique()
    assert len(values) == min(2**bits, 720)


def test_without_quantizing_values_stay(cli, checkpoint: Path, tensors: dict[str, Tensor], tmp_path: Path) -> None:
    assert cli("compress", checkpoint, "-o", tmp_path / "m.dcz", "--no-quantize").status == 0
    found = dc.load(tmp_path / "m.dcz").state_dict()
    assert all(torch.equal(found[name], tensor) for name, tensor in tensors.items())


def test_float16_leftovers_are_smaller_and_keep_their_dtype(cli, checkpoint: Path, tmp_path: Path) -> None:
    cli("compress", checkpoint, "-o", tmp_path / "wide.dcz")
    cli("compress", checkpoint, "-o", tmp_path / "narrow.dcz", "--float16")
    assert (tmp_path / "narrow.dcz").stat().st_size < (tmp_path / "wide.dcz").stat().st_size
    assert dc.load(tmp_path / "narrow.dcz").state_dict()["conv.bias"].dtype == torch.float32


def test_a_recipe_is_used_and_stored_on_request(cli, checkpoint: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(json.dumps(some_pipeline().config()))
    assert cli("compress", checkpoint, "-o", tmp_path / "m.dcz", "--recipe", recipe, "--store-recipe").status == 0
    model = dc.load(tmp_path / "m.dcz")
    assert len(model.state_dict()["fc.weight"].unique()) == 5
    assert model.recipe is not None
    assert dc.Pipeline.from_config(model.recipe) == some_pipeline()
    cli("compress", checkpoint, "-o", tmp_path / "plain.dcz", "--recipe", recipe)
    assert dc.load(tmp_path / "plain.dcz").recipe is None


def some_pipeline() -> dc.Pipeline:
    return dc.Pipeline(
        [
            ("prune", dc.Prune("percentile", q=0.5)),
            ("quantize", dc.KMeansQuantize(bits=2)),
            ("encode", dc.HuffmanEncode()),
        ]
    )


def test_json_is_the_report(cli, checkpoint: Path, tmp_path: Path) -> None:
    ended = cli("compress", checkpoint, "-o", tmp_path / "m.dcz", "--json")
    data = json.loads(ended.out)
    assert data["file"] == str(tmp_path / "m.dcz")
    assert data["file_bytes"] == (tmp_path / "m.dcz").stat().st_size
    assert data["file_ratio"] == data["dense_bytes"] / data["file_bytes"]
    assert sum(data["bits"].values()) == 8 * data["file_bytes"]


def test_quiet_says_nothing(cli, checkpoint: Path, tmp_path: Path) -> None:
    assert cli("compress", checkpoint, "-o", tmp_path / "m.dcz", "--quiet").out == ""


def test_the_source_is_left_as_it_was(cli, checkpoint: Path, tmp_path: Path) -> None:
    before = checkpoint.read_bytes()
    cli("compress", checkpoint, "-o", tmp_path / "m.dcz", "--prune", "percentile=0.5")
    assert checkpoint.read_bytes() == before
    ended = cli("compress", checkpoint, "-o", checkpoint)
    assert (ended.status, ended.err) == (2, f"deepcompress: error: {checkpoint} is the source itself\n")
    assert checkpoint.read_bytes() == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--bits", "17"], "The 'bits' parameter of KMeansQuantize must be "),
        (["--bits", "0"], "The 'bits' parameter of KMeansQuantize must be "),
        (["--init", "magic"], "The 'init' parameter of KMeansQuantize must be "),
        (["--prune", "percentile=1.2"], "1.2"),
        (["--prune", "percentile=nan"], "nan"),
        (["--prune", "percentile"], "percentile= takes a number, not ''"),
        (["--prune", "magic=0.5"], "unknown method 'magic'; there are percentile, std, unstructured, filter_l1"),
        (["--no-quantize", "--bits", "4"], "--no-quantize leaves nothing for --bits and --init to do"),
        (["--recipe", "r.yaml", "--bits", "4", "--float16"], "--bits and --float16 cannot stand beside --recipe"),
    ],
)
def test_bad_options_are_usage_errors(cli, checkpoint: Path, tmp_path: Path, options: list[str], message: str) -> None:
    ended = cli("compress", checkpoint, "-o", tmp_path / "m.dcz", *options)
    assert ended.status == 2
    assert message in ended.err
    assert not (tmp_path / "m.dcz").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("stages: [", "neither JSON nor YAML"),
        ("stages: [{stage: magic}]", "magic"),
        ("stages: [{name: only}]", "'stage'"),
        ("{}", "stages"),
        ("stages: [{stage: kmeans_quantize, nbits: 3}]", "nbits"),
        ("stages: [{stage: huffman_encode}, {stage: kmeans_quantize}]", "cannot follow"),
        ("stages: [{stage: retrain, epochs: 1, lr: 0.1}, {stage: huffman_encode}]", "bare state dict"),
    ],
)
def test_a_bad_recipe_is_bad_usage(cli, checkpoint: Path, tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "r.yaml").write_text(text)
    ended = cli("compress", checkpoint, "-o", tmp_path / "m.dcz", "--recipe", tmp_path / "r.yaml")
    assert ended.status == 2
    assert message in ended.err


def test_files_that_are_not_there(cli, checkpoint: Path, tmp_path: Path) -> None:
    for name in ("none.pt", "none.safetensors", "none.safetensors.index.json"):
        ended = cli("compress", tmp_path / name, "-o", tmp_path / "m.dcz")
        assert (ended.status, ended.err) == (
            1,
            f"deepcompress: error: cannot read {tmp_path / name}: No such file or directory\n",
        )
    ended = cli("compress", checkpoint, "-o", tmp_path / "m.dcz", "--recipe", tmp_path / "none.yaml")
    assert ended.status == 1
    assert "none.yaml" in ended.err


def test_an_output_that_cannot_be_written(cli, checkpoint: Path, tmp_path: Path) -> None:
    before = set(tmp_path.iterdir())
    ended = cli("compress", checkpoint, "-o", tmp_path / "no" / "folder" / "m.dcz")
    assert ended.status == 1
    assert ended.err.startswith(f"deepcompress: error: cannot write {tmp_path}/no/folder/m.dcz: No such file")
    assert set(tmp_path.iterdir()) == before


def test_a_name_of_no_known_kind(cli, tmp_path: Path) -> None:
    ended = cli("compress", tmp_path / "model.onnx", "-o", tmp_path / "m.dcz")
    assert ended.status == 2
    assert "must be a file named *.pt, *.pth, *.th, " in ended.err


def test_every_way_to_damage_a_checkpoint_is_one_line(cli, checkpoint: Path, tmp_path: Path) -> None:
    """Truncated at many places, zeroed at many places; and files that are nothing like one."""
    whole, damaged = checkpoint.read_bytes(), tmp_path / "damaged.pt"
    contents = [whole[:end] for end in range(0, len(whole), len(whole) // 12)]
    contents += [b"", b"hello", b"\x80\x02.", b"\x80\x04\x95", b"PK\x03\x04", bytes(100), bytes(range(256))]
    for content in contents:
        damaged.write_bytes(content)
        ended = cli("compress", damaged, "-o", tmp_path / "m.dcz")
        assert ended.status == 1
        assert str(damaged) in ended.err


def test_damaged_safetensors_are_one_line(cli, tensors: dict[str, Tensor], tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    save_file(tensors, path)
    whole = path.read_bytes()
    for content in (b"", whole[:7], whole[:100], whole[:-1], b"\xff" * 64):
        path.write_bytes(content)
        ended = cli("compress", path, "-o", tmp_path / "m.dcz")
        assert ended.status == 1
        assert f"{path}: not a well-formed .safetensors file" in ended.err


class Payload:
    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (Path("code-was-run"),))


def test_code_in_a_checkpoint_never_runs(
    cli, tensors: dict[str, Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": tensors, "payload": Payload()}, tmp_path / "evil.pt")
    ended = cli("compress", tmp_path / "evil.pt", "-o", tmp_path / "m.dcz")
    assert ended.status == 1
    assert "holds Python objects besides tensors, which are not loaded" in ended.err
    assert not (tmp_path / "code-was-run").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([torch.ones(2)], "holds a list, not a state dict"),
        (torch.ones(2), "holds a Tensor, not a state dict"),
        ({"epoch": 3, "best": 0.9}, "holds no tensors, but entries named epoch, best; looked for state_dict"),
        ({}, "is empty"),
        ({3: torch.ones(2)}, "names that are not text"),
        ({"w": torch.ones(2, 2), "extra": "text"}, "not a tensor, so it cannot be stored: 'extra'"),
        ({"w": torch.tensor([[1.0, float("nan")]])}, "w"),
    ],
)
def test_contents_that_are_no_state_dict(cli, tmp_path: Path, content: object, message: str) -> None:
    torch.save(content, tmp_path / "m.pt")
    ended = cli("compress", tmp_path / "m.pt", "-o", tmp_path / "m.dcz")
    assert ended.status == 1
    assert message in ended.err
    assert not (tmp_path / "m.dcz").exists()


def test_more_quality_is_a_larger_file(cli, checkpoint: Path, tensors: dict[str, Tensor], tmp_path: Path) -> None:
    sizes, errors = [], []
    for quality in (1, 25, 50, 75, 100):
        ended = cli("compress", checkpoint, "-o", tmp_path / "m.dcz", "--quality", quality)
        assert ended.status == 0
        assert f"Asked for: quality {quality}, noise " in ended.out
        found = dc.load(tmp_path / "m.dcz").state_dict()
        sizes.append((tmp_path / "m.dcz").stat().st_size)
        errors.append([float((found[name] - tensors[name]).norm()) for name in ("conv.weight", "fc.weight")])
    assert sizes == sorted(set(sizes))
    assert errors == sorted(errors, reverse=True)
    assert errors[-1][1] < 0.004 * float(tensors["fc.weight"].norm())


def test_quality_keeps_metadata_and_recipe(cli, tensors: dict[str, Tensor], tmp_path: Path) -> None:
    save_file(tensors, tmp_path / "m.safetensors", metadata={"author": "Ada"})
    arguments = ("compress", tmp_path / "m.safetensors", "-o", tmp_path / "m.dcz", "--quality", 60, "--store-recipe", "--json")
    told = json.loads(cli(*arguments).out)
    assert told["choice"]["unit"] == "Quality"
    loaded = dc.load(tmp_path / "m.dcz")
    assert loaded.metadata == {"author": "Ada"}
    assert [stage["stage"] for stage in (loaded.recipe or {})["stages"]] == ["affine_quantize", "context_encode"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--quality", "0"], "--quality takes an integer from 1 to 100, not 0"),
        (["--quality", "101"], "--quality takes an integer from 1 to 100, not 101"),
        (["--quality", "high"], "argument --quality: invalid int value: 'high'"),
        (["--quality", "50", "--bits", "4", "--float16"], "--bits and --float16 cannot stand beside --quality, which"),
        (["--quality", "50", "--lossless"], "--lossless cannot stand beside --quality"),
        (["--quality", "50", "--recipe", "r.yaml"], "--recipe cannot stand beside --quality"),
    ],
)  # fmt: skip
def test_quality_that_cannot_be_meant(cli, checkpoint: Path, tmp_path: Path, options: list[str], message: str) -> None:
    ended = cli("compress", checkpoint, "-o", tmp_path / "m.dcz", *options)
    assert ended.status == 2
    assert message in ended.err
    assert not (tmp_path / "m.dcz").exists()
