"""What each worker of lab H does: `torchrun --nproc-per-node N _lab_h_worker.py FOLDER` reads task.json and writes found.json.

Every figure is of rank 0, taken when all have done theirs. Timing rule: two epochs, the second counts.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from statistics import median
from typing import Any

import torch
import torch.distributed as dist
from _common import accuracy_on
from _data import Split, load_data, stand_in
from _images import Images, loader
from torch import Tensor, nn
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DistributedSampler

import deepcompress as dc
from deepcompress.models import resnet18_cifar, resnet20

NETWORKS: dict[str, Callable[[], nn.Module]] = {"resnet18": resnet18_cifar, "resnet20": resnet20}
Batch = tuple[Tensor, Tensor]


class Worker:
    """One of N processes, with the task that all of them were given."""

    def __init__(self, group: Any, task: dict[str, Any]) -> None:
        self.group, self.task = group, task
        self.device: torch.device = group.device if task["device"] == "cuda" else torch.device("cpu")
        self.train, self.test = (stand_in if task["data"] is None else _from(task["data"]))("cifar10")

    # What is timed

    def times(self) -> dict[str, Any]:
        """H1 to H3: an epoch's seconds, by batch per worker."""
        found: dict[str, dict[str, float]] = {"compute": {}, "whole": {}, "apart": {}}
        for batch in self.task["batches"]:
            if batch * self.group.size > self.task["images"]:
                continue
            if not self._fits(batch):
                break
            found["compute"][str(batch)] = self._second_epoch(self._in_memory(batch))
            if self.group.size > 1:
                found["apart"][str(batch)] = self._second_epoch(self._in_memory(batch), apart=True)
            if batch in self.task["whole"]:
                found["whole"][str(batch)] = self._second_epoch(self._loaded(batch))
        return {**found, "memory": self._memory(), "load": round(os.getloadavg()[0], 1)}

    def _second_epoch(self, batches: Callable[[int], Iterator[Batch]], *, apart: bool = False, model: Any = None) -> float:
        """`apart`: nothing is exchanged, so that only computing is timed."""
        model = model or self._network(self.task["network"])
        optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9, weight_decay=5e-4)
        seconds = 0.0
        for epoch in range(2):
            self._meet()
            start = time.perf_counter()
            for images, labels in batches(epoch):
                with model.no_sync() if apart and isinstance(model, DistributedDataParallel) else nullcontext():
                    self._step(model, optimizer, (images.to(self.device), labels.to(self.device)))
            self._meet()
            seconds = time.perf_counter() - start
        return seconds

    def _step(self, model: nn.Module, optimizer: torch.optim.Optimizer, batch: Batch) -> None:
        mixed = torch.autocast(self.device.type, torch.bfloat16, enabled=self.task["autocast"])
        optimizer.zero_grad()
        with mixed:
            loss = nn.functional.cross_entropy(model(batch[0]), batch[1])
        loss.backward()
        optimizer.step()

    def _steps(self, batch: int) -> int:
        return max(int(self.task["images"]) // (batch * self.group.size), 1)

    def _in_memory(self, batch: int) -> Callable[[int], Iterator[Batch]]:
        """One batch again and again: nothing is loaded."""
        ready = next(iter(loader(Images(self.train, augment=False), batch)))
        return lambda epoch: (ready for _ in range(self._steps(batch)))

    def _loaded(self, batch: int) -> Callable[[int], Iterator[Batch]]:
        """This worker's share of the images, loaded one by one; the sampler is told the epoch."""
        part = self.train.sample(self.task["images"])
        sampler = DistributedSampler(part, self.group.size, self.group.rank, drop_last=True)  # type: ignore[arg-type]
        batches = loader(Images(part, augment=True), batch, sampler=sampler, device=self.device.type)

        def epoch_of(epoch: int) -> Iterator[Batch]:
            sampler.set_epoch(epoch)
            return iter(batches)

        return epoch_of

    def _network(self, name: str, *, wrap: bool = True, buffers: bool = True) -> nn.Module:
        torch.manual_seed(self.task["seed"])
        model = NETWORKS[name]().to(self.device, memory_format=torch.channels_last).train()  # type: ignore[call-overload]
        if not wrap or self.group.size == 1:
            return model  # type: ignore[no-any-return]
        return DistributedDataParallel(model, broadcast_buffers=buffers)

    def _meet(self) -> None:
        """All have arrived, and each device has done its work."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        if self.group.size > 1:
            dist.barrier()

    def data_parallel(self) -> dict[str, dict[str, float]]:
        """H2: one process that copies the network to several GPUs at each step; GPUs -> batch per GPU -> seconds."""
        found: dict[str, dict[str, float]] = {}
        for gpus in self.task["gpus"]:
            wrapped = nn.DataParallel(self._network(self.task["network"]), list(range(gpus)))
            times = {batch: self._second_epoch(self._loaded(batch * gpus), model=wrapped) for batch in self.task["whole"]}
            found[str(gpus)] = {str(batch): seconds for batch, seconds in times.items()}
        return found

    # Where memory ends

    def _fits(self, batch: int) -> bool:
        """On a GPU by trying; on a CPU by what two images keep for the backward pass, for there nobody says no in time."""
        try:
            if self.device.type == "cuda":
                once = next(self._in_memory(batch)(0))
                self._second_epoch(lambda epoch: iter([once]))
                return True
        except torch.OutOfMemoryError:
            torch.cuda.empty_cache()
            return False
        free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        return self._memory()["per image"] * batch * self.group.size < 0.8 * free

    def _memory(self) -> dict[str, float]:
        """Bytes that are kept for the backward pass, per image, and those of parameters, gradients and momentum."""
        model, kept = self._network(self.task["network"], wrap=False), [0]

        def count(tensor: Tensor) -> Tensor:
            kept[0] += tensor.numel() * tensor.element_size()
            return tensor

        images = torch.randn(2, 3, 32, 32, device=self.device)
        with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            model(images)
        weights = sum(p.numel() * p.element_size() for p in model.parameters())
        return {"per image": (kept[0] - weights) / 2, "fixed": 3.0 * weights}

    # What crosses

    def traffic(self) -> dict[str, Any]:
        """H3 and H6: bytes that a step sends, counted where they are sent; and how long an all-reduce of them takes."""
        model = self._network(self.task["network"])
        buffers = sum(b.numel() * b.element_size() for b in model.buffers())
        found: dict[str, Any] = {"buffers": buffers, "gradients": 0, "buckets": 0}
        if not isinstance(model, DistributedDataParallel):
            return found

        def counted(state, bucket):  # type: ignore[no-untyped-def]  # torch takes no annotations but evaluated ones
            found["gradients"] += bucket.buffer().numel() * bucket.buffer().element_size()
            found["buckets"] += 1
            return allreduce_hook(state, bucket)

        model.register_comm_hook(None, counted)
        self._step(model, torch.optim.SGD(model.parameters(), 0.1), next(self._in_memory(8)(0)))
        return {**found, "all-reduce": self._all_reduce(found["gradients"])}

    def _all_reduce(self, size: int) -> float:
        flat, seconds = torch.ones(size // 4, device=self.device), []
        for _ in range(8):
            self._meet()
            start = time.perf_counter()
            dist.all_reduce(flat)
            self._meet()
            seconds.append(time.perf_counter() - start)
        return median(seconds[2:])

    # What differs

    def replicas(self) -> dict[str, Any]:
        """H7: gradients alone are sent; how far apart are the replicas' statistics, and what is each replica worth?"""
        return {str(batch): self._replicas(batch) for batch in self.task["replicas"]}

    def _replicas(self, batch: int) -> dict[str, Any]:
        model = self._network(self.task["learner"], buffers=False)
        optimizer = torch.optim.SGD(model.parameters(), 0.02, momentum=0.9)
        part = self.train.sample(batch * self.group.size * self.task["steps"])
        sampler = DistributedSampler(part, self.group.size, self.group.rank, drop_last=True)  # type: ignore[arg-type]
        for images, labels in loader(Images(part, augment=False), batch, sampler=sampler):
            self._step(model, optimizer, (images.to(self.device), labels.to(self.device)))
        inner = model.module if isinstance(model, DistributedDataParallel) else model
        mine = [torch.cat([b.double().reshape(-1) for name, b in inner.named_buffers() if name.endswith(kind)])
                for kind in ("running_mean", "running_var")]  # fmt: skip
        all_of_them: list[Any] = [None] * self.group.size
        dist.all_gather_object(all_of_them, ([each.cpu() for each in mine], self._accuracy(inner), _bits(inner)))
        first = all_of_them[0][0]
        means, variances = (
            max(float((other[0][kind] - first[kind]).norm() / first[kind].norm()) for other in all_of_them) for kind in (0, 1)
        )
        return {"means": means, "variances": variances, "accuracies": [other[1] for other in all_of_them],
                "equal parameters": len({other[2] for other in all_of_them}) == 1, "steps": self.task["steps"]}  # fmt: skip

    def _accuracy(self, model: nn.Module) -> float:
        return accuracy_on(self._tested(), channels_last=True)(model)

    def _tested(self) -> Split:
        return self.test.sample(self.task["test"])

    def orders(self) -> dict[str, Any]:
        """H5: which images a worker sees in two epochs, with the sampler told the epoch and without."""
        found = {}
        for told in (False, True):
            sampler = DistributedSampler(range(16), 2, 0)  # type: ignore[arg-type]
            epochs = []
            for epoch in range(2):
                if told:
                    sampler.set_epoch(epoch)
                epochs.append(list(sampler))
            found["told" if told else "not told"] = epochs
        return found

    # What is learned

    def learning(self) -> dict[str, Any]:
        """H4: the trainings of the plan, each by `dc.fit` on all workers."""
        return {name: self._learn(plan["batch"], plan["settings"]) for name, plan in self.task["plans"].items()}

    def _learn(self, batch: int, given: dict[str, Any]) -> dict[str, Any]:
        images = Images(self.train.sample(self.task["learn"]), augment=self.task["data"] is not None)
        sampler = DistributedSampler(images, self.group.size, self.group.rank, seed=self.task["seed"])
        settings = dc.TrainSettings(
            optimizer="SGD", optimizer_options={"momentum": 0.9, "weight_decay": 5e-4}, seed=self.task["seed"],
            autocast="bfloat16" if self.task["autocast"] else None, **given,
        )  # fmt: skip
        model = self._network(self.task["learner"], wrap=False)
        try:
            history = dc.fit(model, loader(images, batch // self.group.size, sampler=sampler), settings, validate=self._accuracy)
        except dc.TrainingError as error:  # a rate that is too high is a result
            return {"batch": batch, "ended": str(error).partition(";")[0]}
        return {"batch": batch, "history": history.as_dict()}


def _bits(model: nn.Module) -> str:
    content = b"".join(p.detach().cpu().numpy().tobytes() for p in model.parameters())
    return hashlib.sha256(content).hexdigest()


def _from(folder: str) -> Callable[[str], tuple[Split, Split]]:
    return lambda name: load_data(name, Path(folder))


def main() -> None:
    folder = Path(sys.argv[1])
    task = json.loads((folder / "task.json").read_text())
    with dc.process_group() as group:
        worker = Worker(group, task)
        found = {name: getattr(worker, name)() for name in task["parts"]}
        if group.is_first:
            (folder / "found.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main()
