"""What others report of the same networks, each with its source, and the goals that have no recipe yet."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Published:
    """A point of somebody else's: bytes where its source states them, else a ratio as its source counts it.

    `error` is a share of the test images, None where the source, as far as it was at hand, states none.
    """

    network: str
    who: str
    size: str  # as the source says it
    bytes: int | None
    ratio: float | None
    error: float | None
    source: str

    def bytes_of(self, dense_bytes: int) -> float:
        """Of a ratio, what it makes of our dense bytes."""
        return float(self.bytes) if self.bytes is not None else dense_bytes / (self.ratio or 1.0)


def _point(network: str, who: str, ratio: float, error: float | None, source: str, size: str = "") -> Published:
    return Published(network, who, f"{size}, {ratio:g}x" if size else f"{ratio:g}x", None, ratio, error, source)


_HAN = "Han, Mao, Dally. Deep Compression. ICLR 2016, arXiv:1510.00149, tables 1 to 3: by its formula, no file"
_GUO = "Guo, Yao, Chen. Dynamic Network Surgery. NIPS 2016, arXiv:1608.04493, abstract: of the number of weights, not of bytes"
_LOUIZOS = "Louizos, Ullrich, Welling. Bayesian Compression. NIPS 2017, arXiv:1705.08665: bits counted, no file"
_HAVASI = "Havasi, Peharz, Hernandez-Lobato. Minimal Random Code Learning. ICLR 2019, arXiv:1810.00440"
_OKTAY = "Oktay, Balle, Singh, Shrivastava. ICLR 2020, arXiv:1906.06624; figures as in TensorFlow Compression's tutorial on it"
_GOAL = "the figure by which this goal was set, its paper not named there"
_NNCODEC = "NNCodec 2.1.3 (ISO/IEC 15938-17), of resnet20-12fca82f.th as it is; dependent quantization, nonweight_qp -40"


def _nncodec(size: int, accuracy: float, qp: int) -> Published:
    said = f"{size:,} bytes"
    return Published("resnet20", "NNCodec", said, size, None, round(1 - accuracy, 4), f"{_NNCODEC}, qp {qp}")


PUBLISHED = (
    _point("LeNet300100", "Deep Compression", 40, 0.0158, _HAN),
    _point("LeNet300100", "entropy penalty", 124, 0.019, _OKTAY, "8.56 KB"),
    _point("LeNet5", "Deep Compression", 39, 0.0074, _HAN),
    _point("LeNet5", "network surgery", 108, None, _GUO),
    _point("LeNet5", "Bayesian Compression", 419, 0.010, _LOUIZOS),
    _point("LeNet5", "random codes", 555, 0.0069, _HAVASI, "3.03 kB"),
    _point("LeNet5", "random codes", 1110, 0.0096, _HAVASI, "1.52 kB"),
    _point("LeNet5", "entropy penalty", 606, 0.010, _OKTAY, "2.84 KB"),
    _point("LeNet5", "unnamed", 800, 0.00875, f"{_GOAL}: about 800x"),
    _point("resnet20", "unnamed", 31, None, f"{_GOAL}: about 31x, ternary weights under an ideal context coder, no file"),
    _nncodec(138_060, 0.9153, -26),
    _nncodec(125_491, 0.9140, -24),
    _nncodec(115_985, 0.9131, -23),
    _nncodec(102_004, 0.9114, -21),
    _nncodec(97_600, 0.902, -20),
)
