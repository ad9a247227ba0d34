"""Networks that the labs and examples use."""

from deepcompress.models.convnet import ConvNet
from deepcompress.models.lenet import LeNet5, LeNet300100, LeNetDigits
from deepcompress.models.resnet18_cifar import ResNet18Cifar, resnet18_cifar
from deepcompress.models.resnet_cifar import ResNetCifar, resnet20, resnet32, resnet44, resnet56
from deepcompress.models.separable import SeparableNet

__all__ = [
    "ConvNet",
    "LeNet5",
    "LeNet300100",
    "LeNetDigits",
    "ResNet18Cifar",
    "ResNetCifar",
    "SeparableNet",
    "resnet18_cifar",
    "resnet20",
    "resnet32",
    "resnet44",
    "resnet56",
]
