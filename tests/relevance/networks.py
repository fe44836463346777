"""Networks that relevance is tried on: the eight of the papers, and small ones written in one way and in another."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F

from xai_lib import classifiers

RELU = ("vgg16", "vgg19", "resnet18", "resnet50")  #: every layer but the first sees what a ReLU let through; dense end
MIXED = ("squeezenet1_1", "mobilenet_v2", "densenet121", "efficientnet_lite0")
LARGE = ("vgg16", "vgg19")  #: a gigabyte of weights in float64


def big(name: str, seed: int = 0, hidden: int = 0) -> nn.Module:
    """A network of 1000 classes in float64: efficientnet_lite0 as it comes, the others random, with norms that do something.

    `hidden`: as many units in VGG's hidden dense layers, in place of 4096.
    """
    if name == "efficientnet_lite0":
        return classifiers.load(name).network.double()
    with torch.device("meta"):
        network: nn.Module = getattr(torchvision.models, name)(weights=None)
        if hidden and name.startswith("vgg"):
            for place, (a, b) in {"0": (25088, hidden), "3": (hidden, hidden), "6": (hidden, 1000)}.items():
                network.get_submodule("classifier").add_module(place, nn.Linear(a, b))
    return randomised(network.to(torch.float64).to_empty(device="cpu"), seed).eval()


def randomised(network: nn.Module, seed: int = 0) -> nn.Module:
    """All weights, biases and statistics random: weights keep the size of activations, biases and norms are small."""
    rng = torch.Generator().manual_seed(seed)
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            assert module.running_mean is not None and module.running_var is not None
            module.running_mean.data.normal_(0, 0.1, generator=rng)
            module.running_var.data.uniform_(0.5, 1.5, generator=rng)
            module.weight.data.uniform_(0.5, 1.5, generator=rng)
            module.bias.data.normal_(0, 0.1, generator=rng)
        elif isinstance(module, nn.Conv2d | nn.Linear):
            size = (6 / module.weight[0].numel()) ** 0.5
            module.weight.data.uniform_(-size, size, generator=rng)
            if module.bias is not None:
                module.bias.data.normal_(0, 0.05, generator=rng)
    return network


def pixels(n: int = 2, size: int = 64, seed: int = 0) -> Tensor:
    """Smooth random inputs of both signs `(n, 3, size, size)`, float64."""
    side = max(size // 6, 3)
    rough = torch.randn(n, 3, side, side, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return F.interpolate(rough, size=size, mode="bicubic")


class Written(nn.Module):
    """A network whose forward pass is a function of its parts and the input."""

    def __init__(self, function: Callable[[Any, Tensor], Any], *parts: nn.Module) -> None:
        super().__init__()
        self.m, self.function = nn.ModuleList(parts), function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self.m, x)


def small(function: Callable[[Any, Tensor], Any], *parts: nn.Module, seed: int = 0) -> nn.Module:
    return randomised(Written(function, *parts).double(), seed).eval()


def sequential(seed: int = 0, *, bias: bool = True, norms: bool = False) -> nn.Sequential:
    """VGG's kind, 5 classes, for 16 pixels."""

    def convolution(a: int, b: int, stride: int = 1) -> list[nn.Module]:
        norm = [nn.BatchNorm2d(b)] if norms else []
        return [nn.Conv2d(a, b, 3, stride, 1, bias=bias), *norm, nn.ReLU()]

    network = nn.Sequential(
        *convolution(3, 6), *convolution(6, 8), nn.MaxPool2d(2), *convolution(8, 8, 2), nn.AvgPool2d(2), nn.Flatten(),
        nn.Linear(32, 12, bias=bias), nn.ReLU(), nn.Dropout(0.5), nn.Linear(12, 5, bias=bias),
    )  # fmt: skip
    randomised(network.double(), seed).eval()
    return network


class Block(nn.Module):
    """A residual block, with its shortcut as a convolution or as it is."""

    def __init__(self, a: int, mid: int, b: int, stride: int = 1, shortcut: bool = False) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(a, mid, 1, bias=False), nn.BatchNorm2d(mid)
        self.conv2, self.bn2 = nn.Conv2d(mid, mid, 3, stride, 1, bias=False), nn.BatchNorm2d(mid)
        self.conv3, self.bn3 = nn.Conv2d(mid, b, 1, bias=False), nn.BatchNorm2d(b)
        self.downsample = nn.Sequential(nn.Conv2d(a, b, 1, stride, bias=False), nn.BatchNorm2d(b)) if shortcut else None

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)))
        out = F.relu(self.bn2(self.conv2(out)), inplace=True)
        out = self.bn3(self.conv3(out))
        out += x if self.downsample is None else self.downsample(x)
        return F.relu(out)


class Vgg(nn.Module):
    """`vgg` of the oracle rap_lrp."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 16, 3, 1, 1), nn.ReLU(), nn.Conv2d(16, 16, 3, 1, 1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(16, 24, 3, 1, 1), nn.ReLU(),
        )  # fmt: skip
        self.classifier = nn.Sequential(nn.Linear(1536, 10), nn.ReLU(), nn.Linear(10, 5))

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.features(x).flatten(1))


class Res(nn.Module):
    """`res` of the oracle rap_lrp."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16)
        self.layer1 = nn.Sequential(Block(16, 8, 32, 1, True), Block(32, 8, 32))
        self.layer2 = nn.Sequential(Block(32, 12, 48, 2, True), Block(48, 12, 48))
        self.fc = nn.Linear(48, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(x))), 2)
        return self.fc(torch.flatten(F.adaptive_avg_pool2d(self.layer2(self.layer1(x)), 1), 1))
