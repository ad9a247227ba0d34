"""The two MNIST networks of LeCun et al. (1998), in the shapes that the pruning literature reports on."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F


class LeNet300100(nn.Module):
    """LeNet-300-100: two hidden layers of 300 and 100 units; 266,610 parameters.

    Input (n, 1, 28, 28) or (n, 784), output (n, 10) logits.

    Source: LeCun, Bottou, Bengio, Haffner. Gradient-based learning applied to document recognition. Proc. IEEE 1998.
    """

    def __init__(self, num_classes: int = 10) -> None:
        super().__init__()
        self.fc1 = nn.Linear(28 * 28, 300)
        self.fc2 = nn.Linear(300, 100)
        self.fc3 = nn.Linear(100, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        hidden = F.relu(self.fc1(images.flatten(1)))
        hidden = F.relu(self.fc2(hidden))
        logits: Tensor = self.fc3(hidden)
        return logits


class LeNet5(nn.Module):
    """LeNet-5 as Caffe and Han et al. have it: 431,080 parameters, one ReLU, after the first linear layer.

    Input (n, 1, 28, 28), output (n, 10) logits.

    Source: BVLC Caffe, examples/mnist/lenet.prototxt; Han, Mao, Dally. Deep Compression. ICLR 2016, table 3.
    """

    def __init__(self, num_classes: int = 10) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 20, 5)
        self.conv2 = nn.Conv2d(20, 50, 5)
        self.fc1 = nn.Linear(50 * 4 * 4, 500)
        self.fc2 = nn.Linear(500, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        maps = F.max_pool2d(self.conv1(images), 2)
        maps = F.max_pool2d(self.conv2(maps), 2)
        hidden = F.relu(self.fc1(maps.flatten(1)))
        logits: Tensor = self.fc2(hidden)
        return logits


class LeNetDigits(nn.Module):
    """A LeNet for scikit-learn's 8x8 digits: two convolutions, two linear layers; 51,880 parameters.

    Input (n, 1, 8, 8), output (n, 10) logits.
    """

    def __init__(self, num_classes: int = 10) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 16, 3, padding=1)
        self.conv2 = nn.Conv2d(16, 32, 3, padding=1)
        self.fc1 = nn.Linear(32 * 4 * 4, 90)
        self.fc2 = nn.Linear(90, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        maps = F.relu(self.conv1(images))
        maps = F.max_pool2d(F.relu(self.conv2(maps)), 2)
        hidden = F.relu(self.fc1(maps.flatten(1)))
        logits: Tensor = self.fc2(hidden)
        return logits
