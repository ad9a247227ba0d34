"""One file, or two, read by many at once: threads, forked processes, and one that closes it meanwhile."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import deepcompress as dc
from deepcompress.coding import pool
from deepcompress.errors import StorageError
from deepcompress.tensors.build import build_model
from deepcompress.tensors.codebook import Codebook
from deepcompress.tensors.compressed import CompressedTensor, DenseTensor
from deepcompress.tensors.encode import AnyTensor
from deepcompress.tensors.model import CompressedModel
from deepcompress.tensors.streams import Encoding

ROOT = Path(__file__).parents[2]
THREADS = 10
needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")


def made(seed: int) -> bytes:
    """A file of twenty-four tensors of all kinds: raw, in planes, by a codebook, sparse."""
    rng = np.random.default_rng(seed)
    tensors: list[tuple[str, AnyTensor]] = []
    for number in range(24):
        count = int(rng.integers(1, 60_000))
        if number % 3 == 0:
            elements = rng.standard_normal(count).astype(np.float32)
            tensors.append((f"t{number}", DenseTensor(elements, "float32", "float32")))
        else:
            centroids = np.arange(1, 17, dtype=np.float32) + np.float32(seed)
            symbols = rng.integers(1, 17, count).astype(np.uint8)
            if number % 3 == 2:
                symbols[rng.random(count) < 0.9] = 0
            tensors.append((f"t{number}", CompressedTensor((count,), "float32", Codebook(centroids), symbols)))
    return build_model(tensors, Encoding()).to_bytes()


FILES = [made(0), made(1)]
EXPECTED = [dict(CompressedModel(file, framework="numpy").numpy()) for file in FILES]


def at_once(work: Callable[[int], None], threads: int = THREADS) -> None:
    """`work(number)` on so many threads, which start together. The first error of any is raised."""
    start = threading.Barrier(threads)

    def run(number: int) -> None:
        start.wait()
        work(number)

    with ThreadPoolExecutor(threads) as executor:
        for done in [executor.submit(run, number) for number in range(threads)]:
            done.result()


def read_some(model: CompressedModel, which: int, seed: int, count: int = 40) -> None:
    names = list(model)
    for place in np.random.default_rng(seed).integers(0, len(names), count):
        name = names[int(place)]
        assert np.array_equal(model[name], EXPECTED[which][name]), name


@pytest.fixture
def paths(tmp_path: Path) -> list[Path]:
    found = [tmp_path / "0.dcz", tmp_path / "1.dcz"]
    for path, content in zip(found, FILES, strict=True):
        path.write_bytes(content)
    return found


@pytest.mark.parametrize("own_threads", [1, 4])
@pytest.mark.parametrize("kind", ["path", "loaded", "file", "bytes"])
def test_one_file_read_by_ten_threads(paths: list[Path], kind: str, own_threads: int) -> None:
    source = io.BytesIO(FILES[0]) if kind == "file" else FILES[0] if kind == "bytes" else paths[0]
    open_it = dc.load if kind == "loaded" else dc.open
    with pool.limited(own_threads), open_it(source, framework="numpy") as model:
        at_once(lambda number: read_some(model, 0, number))


def test_two_models_loaded_at_once(paths: list[Path]) -> None:
    def work(number: int) -> None:
        which = number % 2
        for _ in range(3):
            model = dc.load(paths[which], framework="numpy")
            found = model.numpy()
            assert all(np.array_equal(found[name], array) for name, array in EXPECTED[which].items())
            model.verify()

    with pool.limited(2):
        at_once(work, 6)


def test_two_modules_are_filled_from_one_model_at_once(paths: list[Path]) -> None:
    with dc.open(paths[0]) as model:
        expected = model.state_dict()

        def work(_: int) -> None:
            module = nn.Module()
            for name, tensor in expected.items():
                module.register_buffer(name, torch.zeros_like(tensor))
            model.load_into(module)
            assert all(torch.equal(tensor, expected[name]) for name, tensor in module.state_dict().items())

        at_once(work, 4)


@pytest.mark.parametrize("kind", ["path", "file"])
def test_closed_meanwhile(paths: list[Path], kind: str, tmp_path: Path) -> None:
    """Each read gives what is right or says that the file was closed, also where the system gives its number to another."""
    for round_ in range(15):
        with paths[0].open("rb") as file:
            model = dc.open(file if kind == "file" else paths[0], framework="numpy")
            ended = []

            def work(number: int, model: CompressedModel = model, ended: list[str] = ended, rounds: int = round_) -> None:
                if number == 0:
                    threading.Event().wait(0.0005 * rounds)
                    model.close()
                    others = [paths[1].open("rb") for _ in range(5)]
                    threading.Event().wait(0.002)
                    for other in others:
                        other.close()
                else:
                    try:
                        read_some(model, 0, number, 20)
                    except StorageError as error:
                        ended.append(str(error))

            at_once(work, 5)
            assert all(text == f"cannot read {model.source}: it was closed" for text in ended)
            with pytest.raises(StorageError, match="it was closed"):
                model["t0"]


def test_a_model_that_is_closed_lets_go_of_its_file(paths: list[Path]) -> None:
    folder = Path("/proc/self/fd")
    if not folder.is_dir():
        pytest.skip("this system has no /proc")

    def held() -> int:
        return sum(1 for entry in folder.iterdir() if os.path.realpath(entry) == str(paths[0].resolve()))

    model = dc.open(paths[0])
    assert held() == 1
    model.close()
    assert held() == 0
    assert dc.open(paths[0], framework="numpy")["t0"] is not None  # nobody closes this one
    assert held() == 0
    loaded = dc.load(paths[0])
    assert (held(), len(loaded)) == (0, 24)


@needs_fork
def test_forked_processes_share_an_open_model(paths: list[Path]) -> None:
    """A position that they moved for each other would give one the other's bytes."""
    program = """
        import os, sys
        import numpy as np
        import deepcompress as dc

        model = dc.open(sys.argv[1], framework="numpy")
        expected = dc.load(sys.argv[1], framework="numpy").numpy()
        children = []
        for number in range(4):
            if not (child := os.fork()):
                status = 1
                try:
                    names = list(model)
                    for place in np.random.default_rng(number).integers(0, len(names), 300):
                        assert np.array_equal(model[names[place]], expected[names[place]])
                    status = 0
                finally:
                    os._exit(status)
            children.append(child)
        print([os.waitpid(child, 0)[1] for child in children])
        """
    command = [sys.executable, "-W", "ignore", "-c", textwrap.dedent(program), str(paths[0])]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100)
    assert done.stdout.strip() == "[0, 0, 0, 0]", done.stderr


class Sums(torch.utils.data.Dataset[torch.Tensor]):
    """What a data set does that keeps its tensors in one compressed file."""

    def __init__(self, model: CompressedModel) -> None:
        self.model, self.names = model, list(model) * 10

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, place: int) -> torch.Tensor:
        return torch.as_tensor(self.model[self.names[place]].double().sum())


@needs_fork
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_workers_of_a_data_loader_read_one_model(paths: list[Path]) -> None:
    with dc.open(paths[0]) as model:
        sums = Sums(model)
        alone = torch.stack([sums[place] for place in range(len(sums))])
        loader = torch.utils.data.DataLoader(sums, batch_size=7, num_workers=2, multiprocessing_context="fork", timeout=60)
        assert torch.allclose(torch.cat(list(loader)), alone, rtol=1e-12)
