"""Networks that are awkward by what they are made of."""

from __future__ import annotations

import copy
from typing import Any

import torch
import torch.utils.checkpoint
from torch import Tensor, nn
from torch.nn.functional import relu, silu
from torch.nn.utils.parametrizations import weight_norm

from tests.contract.subject import Body, Subject, entry, halves, lively, plain, seeded


@entry("plain", "nothing: two convolutions, two dense layers")
def _plain() -> Subject:
    return plain(*halves())


class Tutorial(nn.Module):
    """PyTorch's tutorial network for small images."""

    def __init__(self, size: int = 48) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 6, 5), nn.Conv2d(6, 8, 5)
        self.pool = nn.MaxPool2d(2, 2)
        side = ((size - 4) // 2 - 4) // 2
        self.fc1, self.fc2, self.fc3 = nn.Linear(8 * side * side, 24), nn.Linear(24, 16), nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(relu(self.conv1(x)))
        x = self.pool(relu(self.conv2(x)))
        x = relu(self.fc1(torch.flatten(x, 1)))
        return self.fc3(relu(self.fc2(x)))


def tutorial() -> Tutorial:
    with seeded():
        network = Tutorial()
    lively(network, network.fc3, (48, 48))
    return network


def of_tutorial(network: nn.Module, weights: Tutorial, **changes: Any) -> Subject:
    """The twin in modules; the last maps are those before or behind the last pooling."""
    n = copy.deepcopy(weights).double().eval()
    chain = [n.conv1, nn.ReLU(), n.pool, n.conv2, nn.ReLU(), n.pool, nn.Flatten(), n.fc1, nn.ReLU(), n.fc2, nn.ReLU(), n.fc3]
    splits = [(nn.Sequential(*chain[:at]), nn.Sequential(*chain[at:])) for at in (5, 6)]
    return Subject(network, nn.Sequential(*chain), splits, chain, **changes)


@entry("PyTorch tutorial CNN", "one pooling module used twice, activations as functions")
def _tutorial() -> Subject:
    network = tutorial()
    return of_tutorial(network, network)


class Functional(Body):
    def forward(self, x: Tensor) -> Tensor:
        x = self.features[2](relu(self.features[0](x)))
        x = relu(self.features[3](x))
        return self.head[3](relu(self.head[1](x.flatten(1))))


@entry("F.relu", "activations are functions, so that no module gives what lies behind them")
def _functional() -> Subject:
    features, head = halves()
    return plain(features, head, Functional(features, head))


class Shared(Body):
    def __init__(self, features: nn.Sequential, head: nn.Sequential) -> None:
        super().__init__(features, head)
        self.act = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        x = self.features[2](self.act(self.features[0](x)))
        x = self.act(self.features[3](x))
        return self.head[3](self.act(self.head[1](x.flatten(1))))


@entry("one shared ReLU", "one activation module used three times")
def _shared() -> Subject:
    features, head = halves()
    return plain(features, head, Shared(features, head))


def replaced(part: nn.Sequential, kind: type[nn.Module], new: nn.Module) -> nn.Sequential:
    """The same modules with `new` in place of each of a kind."""
    return nn.Sequential(*(copy.copy(new) if isinstance(m, kind) else m for m in part))


@entry("in-place ReLU", "activations overwrite what convolutions gave")
def _in_place() -> Subject:
    features, head = halves()
    return plain(features, head, Body(*(replaced(part, nn.ReLU, nn.ReLU(inplace=True)) for part in (features, head))))


class Swish(torch.autograd.Function):
    """The memory-efficient swish of an EfficientNet package."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:  # type: ignore[override]
        ctx.save_for_backward(x)
        return x * torch.sigmoid(x)

    @staticmethod
    def backward(ctx: Any, *grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        s = torch.sigmoid(x)
        return grad[0] * (s * (1 + x * (1 - s)))


class SwishModule(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return Swish.apply(x)


@entry("autograd.Function swish", "a custom function, which no trace of torch functions sees")
def _swish() -> Subject:
    features, head = halves(activation=nn.SiLU)
    network = Body(*(replaced(part, nn.SiLU, SwishModule()) for part in (features, head)))
    return plain(features, head, network, chained=False)


@entry("SiLU", "an activation below zero")
def _silu() -> Subject:
    return plain(*halves(activation=nn.SiLU), chained=False)


class ChannelsLast(nn.Module):
    """Convolutions between permutations: every block takes and gives (N, h, w, C)."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


@entry("maps (N, h, w, C)", "a home-made network whose blocks give channels last")
def _channels_last() -> Subject:
    features, head = halves()

    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.blocks = nn.Sequential(ChannelsLast(features[:3]), ChannelsLast(features[3:]))
            self.head = head

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.blocks(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2))

    return plain(features, head, Network())


class View(Body):
    def forward(self, x: Tensor) -> Tensor:
        x = self.features(x)
        return self.head[1:](x.view(x.size(0), -1))


@entry("x.view(x.size(0), -1)", "fails in the channels-last memory format")
def _view() -> Subject:
    features, head = halves()
    return plain(features, head, View(features, head))


@entry("BatchNorm", "batch norms behind convolutions, to be folded")
def _batch_norm() -> Subject:
    features, head = halves()
    norm = nn.BatchNorm2d(8)
    with seeded(1):
        norm.running_mean, norm.running_var = torch.randn(8) * 0.3, torch.rand(8) + 0.5
        norm.weight.data, norm.bias.data = torch.rand(8) + 0.5, torch.randn(8) * 0.2
    network = Body(nn.Sequential(*features[:4], norm, features[4]), head)
    lively(network, head[-1], (48, 48))
    folded = copy.deepcopy(features)
    folded[3] = nn.utils.fusion.fuse_conv_bn_eval(copy.deepcopy(features[3]).eval(), copy.deepcopy(norm).eval())
    return plain(folded, head, network)


@entry("batch norm without statistics", "track_running_stats=False: each image's answer depends on the others of its batch")
def _no_statistics() -> Subject:
    features, head = halves()
    network = Body(nn.Sequential(*features[:4], nn.BatchNorm2d(8, track_running_stats=False), features[4]), head)
    return Subject(network, None)


@entry("GroupNorm", "a norm that looks at the image itself")
def _group_norm() -> Subject:
    features, head = halves()
    features = nn.Sequential(*features[:4], nn.GroupNorm(2, 8), features[4])
    lively(Body(features, head), head[-1], (48, 48))
    return plain(features, head, chained=False)


@entry("LayerNorm2d", "timm's layer norm over channels, in channels-first layout")
def _layer_norm() -> Subject:
    from timm.layers import LayerNorm2d

    features, head = halves()
    features = nn.Sequential(*features[:4], LayerNorm2d(8), features[4])
    lively(Body(features, head), head[-1], (48, 48))
    return plain(features, head, chained=False)


@entry("dilated convolutions", "holes in the kernels, and a last 1x1 map that is no feature map")
def _dilated() -> Subject:
    with seeded():
        features = nn.Sequential(
            nn.Conv2d(3, 6, 3, 2, 1), nn.ReLU(), nn.Conv2d(6, 8, 3, 2, 2, dilation=2), nn.ReLU(),
            nn.Conv2d(8, 8, 3, padding=4, dilation=4), nn.ReLU(),
        )  # fmt: skip
        head = nn.Sequential(nn.MaxPool2d(12), nn.Conv2d(8, 12, 1), nn.ReLU(), nn.Flatten(), nn.Linear(12, 4))
    lively(Body(features, head), head[-1], (48, 48))
    return plain(features, head)


@entry("weight_norm", "weights are computed by a parametrization")
def _weight_norm() -> Subject:
    features, head = halves()
    twin = copy.deepcopy(features), copy.deepcopy(head)
    for module in (features[3], head[1]):
        weight_norm(module)
    return plain(*twin, Body(features, head))


@entry("silu by function", "torch's own silu, twin of the custom function")
def _silu_function() -> Subject:
    features, head = halves(activation=nn.SiLU)

    class Network(Body):
        def forward(self, x: Tensor) -> Tensor:
            x = self.features[2](silu(self.features[0](x)))
            x = silu(self.features[3](x))
            return self.head[3](silu(self.head[1](x.flatten(1))))

    return plain(features, head, Network(features, head), chained=False)


class Clamping(Body):
    def forward(self, x: Tensor) -> Tensor:
        x = self.features[2](self.features[0](x).clamp(min=0))
        x = self.features[3](x).clamp_min(0)
        return self.head[3](torch.maximum(self.head[1](x.flatten(1)), torch.zeros(())))


@entry("clamp for ReLU", "activations are x.clamp(min=0) and torch.maximum(x, 0)")
def _clamping() -> Subject:
    features, head = halves()
    return plain(features, head, Clamping(features, head))


class Averaging(Body):
    def forward(self, x: Tensor) -> Tensor:
        return self.head[2](self.features(x).mean((2, 3)))


@entry("mean((2, 3)) for pooling", "the last pooling is no module")
def _averaging() -> Subject:
    features, _ = halves()
    with seeded(4):
        head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4))
    network = Averaging(features, head)
    lively(network, head[-1], (48, 48))
    return plain(features, head, network)


class WithSkips(nn.Module):
    """Gives its maps and a list of earlier ones, as encoders do."""

    def __init__(self, features: nn.Sequential) -> None:
        super().__init__()
        self.features = features

    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        early = self.features[:3](x)
        return self.features[3:](early), [early]


@entry("blocks that return tuples", "an encoder gives its maps with a list of earlier ones")
def _tuples() -> Subject:
    features, head = halves()

    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder, self.head = WithSkips(features), head

        def forward(self, x: Tensor) -> Tensor:
            maps, _ = self.encoder(x)
            return self.head(maps)

    return plain(features, head, Network())
