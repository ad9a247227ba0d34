"""Lab C. Affine quantization after training: codes, scale and offset; a classifier at few bits; stochastic rounding.

    python examples/lab_c_affine.py --data DIR            # C1 to C3
    python examples/lab_c_affine.py C2 --data DIR         # one part

C1 quantizes NumPy arrays to 8 bits and counts every byte, those of the array objects too. C2 trains a multilayer perceptron on
MNIST and rounds its weights to few bits. C3 rounds to 2 bits ten times by chance, and compares with the nearest level.

Committed run (examples/results/lab_c; MNIST, LeNet-300-100 after five epochs, seed 0, CPU): 97.73 % in floats, 97.73 % at 8
bits, 97.61 % at 4, 80.81 % at 2; by stochastic rounding at 2 bits 74.5 % on the mean of ten, with a standard deviation of 5.9
points. What one network's accuracy is known to: two standard errors of 10,000 test images, 0.3 points at 97 %.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import torch
from _data import Batches
from _lab import Lab, as_data, run_lab
from torch import nn

import deepcompress as dc
from deepcompress.layers.select import select_weights
from deepcompress.models import LeNet300100

BASE = (0.9722, 0.1179)  # the authors' accuracy and loss
QUANTIZED = {8: (0.9715, 0.1170), 4: (0.9687, 0.1231)}
OBJECTS = {"1-D": 84, "2-D": 96}  # bytes of an array object, without its data
WIDTHS = (8, 6, 5, 4, 3, 2)
REPEATS, FEW = 10, (4, 3, 2)
AVERAGED = (1, 2, 5, 10, 20, 50)
EPOCHS = 5
PARTS = ("C1", "C2", "C3")


def main() -> None:
    from _lab_c_story import story  # it reads this module's tables of figures

    run_lab("c", "Affine quantization after training", __doc__, measure, story, data="mnist", parts=PARTS)


def measure(lab: Lab) -> None:
    wanted = PARTS if lab.options.part == "all" else (lab.options.part,)
    if "C1" in wanted:
        part_c1(lab)
    if wanted == ("C1",):
        return
    model = classifier(lab)
    if "C2" in wanted:
        part_c2(lab, model)
    if "C3" in wanted:
        part_c3(lab, model)


# C1


def part_c1(lab: Lab) -> None:
    lab.step("C1 arrays", lambda: {name: _weigh(array) for name, array in arrays(lab.options.seed).items()})
    lab.step("C1 clipped", lambda: _weigh(arrays(lab.options.seed)["1-D"], low=-2.0, high=2.0))


def arrays(seed: int) -> dict[str, np.ndarray]:
    """A vector and a matrix of floats, normally distributed."""
    random = np.random.default_rng(seed)
    shapes = {"1-D": (100_000,), "2-D": (300, 784)}
    return {name: random.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}


def _weigh(array: np.ndarray, **ends: float) -> dict[str, Any]:
    quantized = dc.quantize_affine(array, 8, **ends)
    scale, zero_point, codes = float(quantized.scale), int(quantized.zero_point), quantized.codes
    steps = np.abs(dc.dequantize_affine(quantized).astype(np.float64) - array) / scale
    clipped = (array < -(zero_point + 0.5) * scale) | (array > (255.5 - zero_point) * scale)
    return {
        "shape": list(array.shape),
        "floats": array.nbytes,
        "codes": codes.nbytes,
        "parameters": quantized.nbytes - codes.nbytes,
        "object": sys.getsizeof(array) - array.nbytes,
        "scale": scale,
        "zero_point": zero_point,
        "clipped": float(clipped.mean()),
        "largest error": float(steps.max()),
        "largest error inside": float(steps[~clipped].max()),
    }


# C2 and C3


def classifier(lab: Lab) -> nn.Module:
    """LeNet-300-100, trained by Adam."""
    epochs, seed = lab.epochs(EPOCHS, quick=6), lab.options.seed
    settings = dc.TrainSettings(epochs=epochs, lr=1e-3, seed=seed)

    def make() -> nn.Module:
        torch.manual_seed(seed)
        return LeNet300100().to(lab.device)

    def train(model: nn.Module) -> dict[str, Any]:
        return as_data(dc.fit(model, Batches(lab.data()[0], 64, shuffle=True, seed=seed), settings, quiet=False))

    return lab.model("C2 training", make, train, epochs=epochs).eval()


def score(lab: Lab, model: nn.Module) -> dict[str, Any]:
    """Accuracy and mean loss on the test images, with the loss's standard error."""
    losses, right = [], 0
    with torch.inference_mode():
        for images, labels in Batches(lab.data()[1], 500):
            logits = model(images.to(lab.device)).cpu()
            losses.append(nn.functional.cross_entropy(logits, labels, reduction="none"))
            right += int((logits.argmax(1) == labels).sum())
    loss = torch.cat(losses)
    return {"accuracy": right / len(loss), "loss": float(loss.mean()), "loss_error": float(loss.std() / len(loss) ** 0.5)}


def quantized(lab: Lab, model: nn.Module, **how: Any) -> dict[str, Any]:
    """A copy of the model with its weights on a grid: score, bytes of its file, and what the rounding did to them."""
    stage = dc.AffineQuantize(symmetric=False, **how)
    result = dc.Pipeline([("quantize", stage), ("encode", dc.HuffmanEncode())]).run(model)
    before, after = (flat(each) for each in (model, result.model))
    return {**score(lab, result.model), "file_bytes": result.report.file_bytes, "rmse": _rms(after - before)}


def _rms(error: torch.Tensor) -> float:
    return float(error.square().mean().sqrt())


def flat(model: nn.Module) -> torch.Tensor:
    return torch.cat([weight.detach().double().flatten().cpu() for weight in select_weights(model, owner="lab C").values()])


def part_c2(lab: Lab, model: nn.Module) -> None:
    lab.step("C2 float", lambda: score(lab, model))
    for bits in WIDTHS:
        lab.step(f"C2 layer {bits}", lambda bits=bits: quantized(lab, model, bits=bits))
        lab.step(f"C2 channel {bits}", lambda bits=bits: quantized(lab, model, bits=bits, per_channel=True))
    lab.step("C2 weights", lambda: _some_weights(model))


def _some_weights(model: nn.Module) -> dict[str, list[float]]:
    """The second layer's weights as floats, at 4 and at 2 bits."""
    weight = dict(model.named_parameters())["fc2.weight"].detach().cpu()[::6]
    found = {"floats": weight}
    for bits in (4, 2):
        found[f"{bits} bits"] = dc.dequantize_affine(dc.quantize_affine(weight, bits))
    return {name: [round(value, 5) for value in values.flatten().tolist()] for name, values in found.items()}


def part_c3(lab: Lab, model: nn.Module) -> None:
    for bits in FEW:
        lab.step(f"C3 nearest {bits}", lambda bits=bits: quantized(lab, model, bits=bits))
        lab.step(f"C3 stochastic {bits}", lambda bits=bits: [by_chance(lab, model, bits, seed) for seed in range(REPEATS)])
    lab.step("C3 means", lambda: averages(lab, model))


def by_chance(lab: Lab, model: nn.Module, bits: int, seed: int) -> dict[str, Any]:
    return quantized(lab, model, bits=bits, rounding="stochastic", seed=seed)


def averages(lab: Lab, model: nn.Module) -> dict[str, Any]:
    """The mean of several stochastic roundings to 2 bits, as weights of the network: its error and its accuracy."""
    mean, rows = None, {}
    weights = select_weights(model, owner="lab C")
    for count in range(1, max(AVERAGED) + 1):
        drawn = [_drawn(weight, 1000 * place + count) for place, weight in enumerate(weights.values())]
        mean = drawn if mean is None else [old + (new - old) / count for old, new in zip(mean, drawn, strict=True)]
        if count in AVERAGED:
            state = {name: values.float() for name, values in zip(weights, mean, strict=True)}
            other = LeNet300100().to(lab.device).eval()
            other.load_state_dict({**model.state_dict(), **state})
            error = flat(other) - flat(model)
            spread = 2 * float(error.std()) / len(error) ** 0.5  # two standard errors of the mean error
            rows[count] = {"rmse": _rms(error), "bias": float(error.mean()), "spread": spread, **score(lab, other)}
    return rows


def _drawn(weight: torch.Tensor, seed: int) -> torch.Tensor:
    """One stochastic rounding to 2 bits."""
    values: torch.Tensor = dc.dequantize_affine(dc.quantize_affine(weight.detach(), 2, rounding="stochastic", seed=seed))
    return values.double()


if __name__ == "__main__":
    main()
