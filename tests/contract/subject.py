"""What is explained: an awkward network as a stranger hands it over, and a plain twin that oracles understand."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from xai_lib.classifiers import Classifier
from xai_lib.images import View

Part = Callable[[Tensor], Tensor]
MEAN = (0.45, 0.5, 0.4)
STD = (0.25, 0.3, 0.2)


def as_it_is(x: Tensor) -> Tensor:
    """No folding."""
    return x


@dataclass
class Subject:
    """One row of the table.

    Parameters
    ----------
    network : the awkward network, from normalised images to whatever it returns.
    twin : a plain network from the same images to the same logits, in float64; None where every method must refuse.
    splits : pairs of functions, images to feature maps `(N, K, h, w)` and maps to logits: the maps that a CAM may take.
        Empty: the maps are what the layer in `details["layer"]` of the twin gives, after `fold`.
    chain : the twin's modules in order, where it is a chain of those that `oracles.lrp` knows.
    fold : layer outputs as maps `(N, K, h, w)`.
    link : "softmax", or "sigmoid" for independent labels.
    grids : the sides that maps at that layer may have; empty: any.
    tolerance : of relative errors of maps, by the network's precision.
    layer : for Score-CAM and FEM, where the last maps have many units or hardly any place.
    change : done after a first explanation, whose result is thrown away.
    """

    network: nn.Module
    twin: nn.Module | None
    splits: Sequence[tuple[Part, Part]] = ()
    chain: Sequence[nn.Module] = ()
    options: dict[str, Any] = field(default_factory=dict)
    size: tuple[int, int] = (48, 48)
    channels: int = 3
    fold: Part = as_it_is
    link: str = "softmax"
    tolerance: float = 2e-3
    grids: Sequence[int] = ()
    layer: str = ""
    around: Callable[[], AbstractContextManager[Any]] = nullcontext
    change: Callable[[], None] | None = None

    def classifier(self) -> Classifier:
        """The classifier that a stranger makes."""
        options = {"mean": MEAN, "std": STD, "view": View(self.size[0], self.size[0] + 4)} | self.options
        return Classifier(self.network, **options)

    @cached_property
    def image(self) -> Tensor:
        """The explained image."""
        return blocks(self.size, self.channels)

    def normalised(self, images: Tensor) -> Tensor:
        """Images in 0..1 `(N, C, H, W)` as the twin takes them, in their own dtype."""
        mean, std = (
            torch.tensor(self.options.get(name, value), dtype=images.dtype).view(1, -1, 1, 1)
            for name, value in (("mean", MEAN), ("std", STD))
        )
        return (images - mean) / std


def blocks(size: tuple[int, int], channels: int = 3, seed: int = 3) -> Tensor:
    """An image of 3 x 3 coloured blocks with a little noise, which quickshift finds again: nine superpixels."""
    rng = torch.Generator().manual_seed(seed)
    colours = 0.1 + 0.8 * torch.rand(channels, 3, 3, generator=rng)
    height, width = size
    image = colours[:, torch.arange(height) * 3 // height][:, :, torch.arange(width) * 3 // width]
    return (image + 0.02 * torch.randn(image.shape, generator=rng)).clamp(0, 1)


@contextmanager
def seeded(seed: int = 0) -> Iterator[None]:
    """Random weights that are the same in every run, torch's own generator left alone."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield


@torch.no_grad()
def lively(network: nn.Module, last: nn.Linear | nn.Conv2d, size: tuple[int, int], channels: int = 3, gain: float = 1.5) -> None:
    """Scale the last layer so that probabilities differ from image to image: random weights alone give constant ones."""
    mean, std = (torch.tensor(v).view(1, -1, 1, 1) if channels == 3 else 0.5 for v in (MEAN, STD))
    images = torch.stack([blocks(size, channels, s) for s in range(24)])
    images = torch.cat([images[:8], images[8:] * (torch.rand(16, 1, *size, generator=torch.Generator().manual_seed(0)) > 0.3)])
    logits = network.eval()((images - mean) / std)
    scale = gain / logits.std(0).mean()
    last.weight.mul_(scale)
    assert last.bias is not None
    last.bias.copy_((last.bias - logits.mean(0)) * scale)


class Body(nn.Module):
    """Two halves: images to feature maps behind an activation, and maps to logits."""

    def __init__(self, features: nn.Sequential, head: nn.Sequential) -> None:
        super().__init__()
        self.features, self.head = features, head

    def forward(self, x: Tensor) -> Any:
        return self.head(self.features(x))


class Before(nn.Module):
    """What a network does to its input before the first convolution, without weights."""

    def __init__(self, function: Part) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def halves(
    channels: int = 3, classes: int = 4, size: tuple[int, int] = (48, 48), seed: int = 0, gain: float = 1.5,
    activation: Callable[[], nn.Module] = nn.ReLU,
) -> tuple[nn.Sequential, nn.Sequential]:  # fmt: skip
    """A small convolutional network for `size`, which must be divisible by 4."""
    with seeded(seed):
        features = nn.Sequential(
            nn.Conv2d(channels, 6, 3, 2, 1), activation(), nn.MaxPool2d(2), nn.Conv2d(6, 8, 3, 1, 1), activation()
        )
        head = nn.Sequential(nn.Flatten(), nn.Linear(8 * size[0] * size[1] // 16, 16), activation(), nn.Linear(16, classes))
    lively(Body(features, head), head[-1], size, channels, gain)
    return features, head


def plain(
    features: nn.Sequential, head: nn.Sequential, network: nn.Module | None = None, *, chained: bool = True, **changes: Any
) -> Subject:
    """A subject whose twin is the two halves, in float64; `network` None: the halves themselves."""
    network = Body(features, head) if network is None else network
    one, two = (copy.deepcopy(part).double().eval() for part in (features, head))
    return Subject(network, Body(one, two), ((one, two),), [*one, *two] if chained else (), **changes)


ZOO: dict[str, tuple[str, Callable[[], Subject]]] = {}
"""What is awkward about each network, and how to make it."""


def entry(name: str, awkward: str) -> Callable[[Callable[[], Subject]], Callable[[], Subject]]:
    """Register a network under a name, with a sentence on what is awkward about it."""

    def register(make: Callable[[], Subject]) -> Callable[[], Subject]:
        ZOO[name] = awkward, make
        return make

    return register
