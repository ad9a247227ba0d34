"""What each rank does in the tests of distributed training: `torchrun --nproc-per-node 2 ranks.py FOLDER`.

Each scenario gives JSON data; all of it is written to FOLDER/RANK.json, compressed models beside it.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

import deepcompress as dc
from deepcompress.prune.allocate import prune_masks
from deepcompress.prune.schedule import Schedule
from deepcompress.training.group import Group
from deepcompress.training.retrain import Gradual, retrain

Batch = tuple[Tensor, Tensor]

PIPELINE = dc.Pipeline(
    [
        ("prune", dc.Prune("percentile", q=0.3)),
        ("retrain", dc.Retrain(2, 0.05, "SGD", {"momentum": 0.9, "weight_decay": 1e-3}, clip_norm=1.0)),
        ("more", dc.GradualPrune(3, 0.01, "SGD", {"momentum": 0.9}, "cosine", sparsity=0.7, end=2.0)),
        ("quantize", dc.KMeansQuantize(bits=3, init="kmeans++", codebook="float32")),
        ("finetune", dc.Finetune(2, 1e-2, "SGD", rest=True)),
        ("encode", dc.HuffmanEncode()),
    ]
)
GRIDS = dc.Pipeline(
    [("grid", dc.AffineQuantize(bits=4)), ("finetune", dc.Finetune(2, 1e-2, "SGD", rest=True)), ("encode", dc.HuffmanEncode())]
)
SGD = dc.TrainSettings(2, 0.05, "SGD", {"momentum": 0.9})


def data(count: int = 42) -> TensorDataset:
    """42 samples: five batches of 8, or of 4 and 4, and 2, or 1 and 1, that are left."""
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(count, 6, generator=generator)
    return TensorDataset(inputs, inputs[:, :3].argmax(1))


def network(seed: int, *layers: nn.Module) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 16), nn.Tanh(), *layers, nn.Linear(16, 3))


def loader(rank: int, size: int = 2) -> DataLoader[Any]:
    return DataLoader(data(), 4, sampler=DistributedSampler(data(), size, rank))


class Whole:
    """One process's batches that hold what both ranks' do, epoch by epoch."""

    def __init__(self) -> None:
        self.halves = [loader(rank) for rank in range(2)]

    def set_epoch(self, epoch: int) -> None:
        for half in self.halves:
            half.sampler.set_epoch(epoch)  # type: ignore[attr-defined]

    def __iter__(self) -> Iterator[Batch]:
        for left, right in zip(*self.halves, strict=True):
            yield torch.cat([left[0], right[0]]), torch.cat([left[1], right[1]])

    def __len__(self) -> int:
        return len(self.halves[0])


def uneven(rank: int | None) -> list[Batch]:
    """Three batches on rank 0 and one, larger, on rank 1; both together for one process."""
    inputs, labels = data().tensors
    parts: list[list[tuple[int, int]]] = [[(0, 3), (3, 7), (7, 12)], [(12, 20), (0, 0), (0, 0)]]
    if rank is not None:
        return [(inputs[a:b], labels[a:b]) for a, b in parts[rank] if b]
    rows = [torch.cat([torch.arange(a, b), torch.arange(c, d)]) for (a, b), (c, d) in zip(*parts, strict=True)]
    return [(inputs[row], labels[row]) for row in rows]


def mean_square(model: nn.Module, batch: Batch) -> Tensor:
    loss: Tensor = (model(batch[0]) - 1).square().mean()
    return loss


def gradual(model: nn.Module) -> Gradual:
    weights = {name: weight for name, weight in model.named_parameters() if weight.ndim > 1}
    return Gradual(weights, "unstructured", Schedule("cubic", 0.0, 0.6, 0.0, 1.5), reversible=True)


def values(model: nn.Module) -> list[list[float]]:
    return [tensor.detach().double().reshape(-1).tolist() for tensor in (*model.parameters(), *model.buffers())]


class Dies(DataLoader[Any]):
    """A loader that gives so many epochs and dies in the next."""

    epochs = 0

    def __iter__(self) -> Any:
        if not self.epochs:
            raise OSError("the disk is gone")
        self.epochs -= 1
        return super().__iter__()


class Scenarios:
    """One method per scenario; `self.rank` says which rank this is."""

    def __init__(self, group: Group, out: Path) -> None:
        self.group, self.rank, self.out = group, group.rank, out
        self.log: list[str] = []

    def pipeline(self) -> Any:
        calls: list[int] = []

        def evaluate(model: nn.Module) -> float:
            calls.append(self.rank)
            return 0.25 + len(calls)

        model = network(self.rank)  # rank 1's own beginning does not count
        result = PIPELINE.run(model, train=loader(self.rank), evaluate=evaluate, quiet=False)
        result.compressed.save(self.out / f"pipeline.{self.rank}.dcz")
        return {
            "calls": len(calls),
            "accuracies": [row.accuracy for row in result.report.stages],
            "losses": {name: history.step_losses for name, history in result.histories.items()},
            "accuracy": result.histories["retrain"].epochs[0].accuracy,
            "untouched": values(model) == values(network(self.rank)),
        }

    def resumed(self) -> Any:
        """The loader of one rank dies in some epoch of the pipeline, and the same call goes on."""
        told = []
        for epoch in (1, 4, 7):
            folder = self.out / f"work{epoch}"
            guilty = epoch % 2
            dies = Dies(data(), 4, sampler=DistributedSampler(data(), 2, self.rank))
            dies.epochs = epoch - 1 if self.rank == guilty else 100
            told.append(raised(lambda train=dies, folder=folder: PIPELINE.run(network(self.rank), train=train, workdir=folder)))
            again = PIPELINE.run(network(self.rank), train=loader(self.rank), workdir=folder)
            again.compressed.save(self.out / f"resumed.{epoch}.{self.rank}.dcz")
        return told

    def grids(self) -> Any:
        GRIDS.run(network(0), train=loader(self.rank), quiet=True).compressed.save(self.out / f"grids.{self.rank}.dcz")

    def masks(self) -> Any:
        model = network(0)
        begin = prune_masks(gradual(model).weights, "percentile", q=0.2)
        masks, history = retrain(model, loader(self.rank), begin, SGD, gradual=gradual(model))
        return {"masks": {name: mask.tolist() for name, mask in masks.items()}, "values": values(model), "kept": history.kept}

    def uneven(self) -> Any:
        model = network(self.rank)
        history = dc.fit(model, uneven(self.rank), SGD, loss=mean_square)
        return {"values": values(model), "losses": history.step_losses}

    def lbfgs(self) -> Any:
        model = network(0)
        dc.fit(model, uneven(self.rank), dc.TrainSettings(2, 0.5, "LBFGS", {"max_iter": 4, "line_search_fn": "strong_wolfe"}))
        return values(model)

    def best(self) -> Any:
        scores, seen = iter([0.1, 0.9, 0.3]), []
        model = network(0)
        settings = dc.TrainSettings(3, 0.05)
        history = dc.fit(
            model, loader(self.rank), settings, validate=lambda model: next(scores), restore_best=True, after_epoch=seen.append
        )
        return {"kept": history.kept, "seen": len(seen), "values": values(model), "scores": history.column("validation")}

    def wrapped(self) -> Any:
        inner = network(0)
        dc.fit(DistributedDataParallel(inner), uneven(self.rank), SGD)
        plain = network(0)
        dc.fit(plain, uneven(self.rank), SGD)
        result = PIPELINE.run(DistributedDataParallel(network(0)), train=loader(self.rank), quiet=True)
        return {"equal": values(inner) == values(plain), "names": list(result.compressed.state_dict())}

    def buffers(self) -> Any:
        model = network(0, nn.BatchNorm1d(16))
        dc.fit(model, uneven(self.rank), SGD)
        return values(model)

    def unused(self) -> Any:
        """A branch that only rank 0 takes, and one that none does."""
        model = network(0)
        branch, never = nn.Linear(6, 3), nn.Linear(6, 3)
        model.append(branch).append(never)

        def loss(model: Any, batch: Batch) -> Tensor:
            out = model[:3](batch[0])
            return nn.functional.cross_entropy(out + branch(batch[0]) if self.rank == 0 else out, batch[1])

        begin = [never.weight.clone(), branch.weight.clone()]
        dc.fit(model, loader(self.rank), dc.TrainSettings(1, 0.1, "SGD", {"weight_decay": 0.1}), loss=loss)
        return [torch.equal(never.weight, begin[0]), torch.equal(branch.weight, begin[1])]

    def stage(self) -> Any:
        """A stage that runs on rank 0, on weights that cannot be shared; and arguments that rank 1 lacks."""
        broken = network(0)
        with torch.no_grad():
            broken[0].weight[0, 0] = torch.nan
        missing = {"train": loader(0)} if self.rank == 0 else {}
        quantize = dc.Pipeline([("quantize", dc.KMeansQuantize(bits=2))])
        return [raised(lambda: quantize.run(broken)), raised(lambda: PIPELINE.run(network(0), quiet=True, **missing))]

    def notice(self) -> Any:
        self.log.clear()
        dc.fit(network(0), DataLoader(data(), 4, shuffle=True), SGD)
        dc.fit(network(0), loader(self.rank), SGD)
        return self.log


def failing(rank: int, guilty: int) -> dict[str, dict[str, Any]]:
    """What may go wrong on one rank alone: name -> how `fit` is called."""

    def breaks(*_: Any) -> Any:
        if rank == guilty:
            raise ZeroDivisionError("mine alone")
        return 0.5

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        breaks()
        return mean_square(model, batch)

    def secret(model: nn.Module, batch: Batch) -> Tensor:
        if rank == guilty:
            with torch.no_grad():
                next(model.parameters()).add_(1e-3)
        return mean_square(model, batch)

    class Ends:
        def __len__(self) -> int:
            return 3

        def __iter__(self) -> Iterator[Batch]:
            yield from list(loader(rank))[:2]
            breaks()

    cases: dict[str, dict[str, Any]] = {"loss": {"loss": loss}, "loader": {"train": Ends()}, "secret": {"loss": secret}}
    if guilty == 0:  # only there are these called
        cases |= {"validate": {"validate": breaks}, "after_epoch": {"after_epoch": breaks}}
    if rank == guilty:
        cases["nothing to train on"] = {"train": None}
        cases["nothing learns"] = {"model": network(0).requires_grad_(False)}
        cases["another model"] = {"model": nn.Sequential(nn.Linear(6, 8), nn.Linear(8, 3))}
    else:
        cases["nothing to train on"] = cases["nothing learns"] = cases["another model"] = {}
    return cases


def raised(call: Any) -> list[str]:
    try:
        call()
    except Exception as error:
        return [type(error).__name__, str(error)]
    return []


def how_it_ends(rank: int, change: dict[str, Any]) -> Any:
    arguments = {"model": network(0), "train": loader(rank), "settings": SGD, **change}
    before = values(arguments["model"])
    return [*raised(lambda: dc.fit(**arguments)), values(arguments["model"]) == before]


def main() -> None:
    out = Path(sys.argv[1])
    torch.set_num_threads(1)
    with dc.process_group() as group:
        scenarios = Scenarios(group, out)
        logging.getLogger("deepcompress").addHandler(Listener(scenarios.log))
        found: dict[str, Any] = {"size": group.size, "device": str(group.device)}
        names = "pipeline", "resumed", "grids", "masks", "uneven", "lbfgs", "best", "wrapped", "buffers", "unused", "notice"
        found |= {name: getattr(scenarios, name)() for name in names}
        found["stage"] = scenarios.stage()
        for guilty in range(2):
            cases = failing(group.rank, guilty)
            found[f"failures of {guilty}"] = {name: how_it_ends(group.rank, change) for name, change in cases.items()}
    found["left"] = not torch.distributed.is_initialized()
    (out / f"{group.rank}.json").write_text(json.dumps(found))


class Listener(logging.Handler):
    """Keeps what is said."""

    def __init__(self, said: list[str]) -> None:
        super().__init__(logging.WARNING)
        self.said = said

    def emit(self, record: logging.LogRecord) -> None:
        self.said.append(record.getMessage())


if __name__ == "__main__":
    main()
