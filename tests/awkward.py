"""Networks that break habits of code around networks, for images of 32 pixels and five classes; each is right in itself."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from xai_lib.classifiers import Classifier
from xai_lib.images import View


class Tutorial(nn.Module):
    """PyTorch's tutorial network: one pooling used twice, activations as functions, a view that wants contiguous memory."""

    def __init__(self, by_size: bool = False, channels: int = 3) -> None:
        super().__init__()
        self.conv1, self.pool, self.conv2 = nn.Conv2d(channels, 6, 5), nn.MaxPool2d(2, 2), nn.Conv2d(6, 16, 5)
        self.fc1, self.fc2, self.fc3 = nn.Linear(16 * 5 * 5, 24), nn.Linear(24, 16), nn.Linear(16, 5)
        self.by_size = by_size

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(F.relu(self.conv1(x)))
        x = self.pool(F.relu(self.conv2(x)))
        x = x.view(x.size(0), -1) if self.by_size else x.view(-1, 16 * 5 * 5)
        return self.fc3(F.relu(self.fc2(F.relu(self.fc1(x)))))


class Convolutional(nn.Module):
    """Convolution, norm, activation, convolution, norm; subclasses use them oddly."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(3, 8, 3, 2, 1), lively(nn.BatchNorm2d(8))
        self.conv2, self.norm2 = nn.Conv2d(8, 8, 3, 2, 1), lively(nn.BatchNorm2d(8))
        self.fc = nn.Linear(8, 5)

    def maps(self, x: Tensor) -> Tensor:
        return F.relu(self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x))))))

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.maps(x).mean((2, 3)))


class Keeps(Convolutional):
    """Keeps a tensor that hangs in its graph, which copy.deepcopy refuses."""

    def forward(self, x: Tensor) -> Tensor:
        self.kept = self.maps(x)
        return self.fc(self.kept.mean((2, 3)))


class Locked(Convolutional):
    def __init__(self) -> None:
        super().__init__()
        self.lock = threading.Lock()

    def forward(self, x: Tensor) -> Tensor:
        with self.lock:
            return super().forward(x)


class Child(nn.Module):
    """Reaches its parent's layers over a weak reference, which a copy keeps to the original."""

    def __init__(self, parent: Convolutional) -> None:
        super().__init__()
        self.parent = weakref.ref(parent)

    def forward(self, x: Tensor) -> Tensor:
        return self.parent().norm1(x)  # type: ignore[union-attr]


class WithChild(Convolutional):
    def __init__(self) -> None:
        super().__init__()
        self.child = Child(self)

    def maps(self, x: Tensor) -> Tensor:
        return F.relu(self.norm2(self.conv2(F.relu(self.child(self.conv1(x))))))


class Both(Convolutional):
    """What a convolution gives is read beside its norm."""

    def maps(self, x: Tensor) -> Tensor:
        y = self.conv1(x)
        return F.relu(self.norm2(self.conv2(F.relu(self.norm1(y) + 0.1 * y))))


class WeightRead(Convolutional):
    """A convolution's weight serves a second convolution, as a function."""

    def maps(self, x: Tensor) -> Tensor:
        y = F.relu(self.norm1(self.conv1(x)))
        return F.relu(self.norm2(self.conv2(y)) + F.conv2d(y, self.conv2.weight, None, 2, 1))


class NormRead(Convolutional):
    """A norm's scale is read as a number."""

    def maps(self, x: Tensor) -> Tensor:
        return super().maps(x) * self.norm1.weight.mean()


class Tied(Convolutional):
    """Two convolutions, one weight; each has a norm of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.conv3, self.norm3 = nn.Conv2d(8, 8, 3, 2, 1), lively(nn.BatchNorm2d(8), 3)
        self.conv3.weight = self.conv2.weight

    def maps(self, x: Tensor) -> Tensor:
        return F.relu(self.norm3(self.conv3(super().maps(x))))


class Twice(Convolutional):
    """One pair of convolution and norm runs twice, under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.again, self.once_more = self.conv2, self.norm2

    def maps(self, x: Tensor) -> Tensor:
        return F.relu(self.once_more(self.again(super().maps(x))))


class Alias(Convolutional):
    """Runs through modules that it holds in a list as well."""

    def __init__(self) -> None:
        super().__init__()
        self.steps = [self.conv1, self.norm1]

    def maps(self, x: Tensor) -> Tensor:
        for step in self.steps:
            x = step(x)
        return F.relu(self.norm2(self.conv2(F.relu(x))))


class Layout(Convolutional):
    """Says something else of images that lie channels last."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) if x.is_contiguous() else -super().forward(x)


class Fine(Convolutional):
    """Lives on differences that bfloat16 does not hold."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward((x + 1000) - 1000)


class Packed(nn.Module):
    """Returns a dictionary."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = Convolutional()

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"logits": self.inner(x)}


def lively(norm: Any, seed: int = 1) -> Any:
    """A batch norm whose statistics and weights matter."""
    n, rng = norm.num_features, torch.Generator().manual_seed(seed)
    norm.running_mean = torch.randn(n, generator=rng) * 0.3
    norm.running_var = torch.rand(n, generator=rng) + 0.3
    norm.weight.data = torch.rand(n, generator=rng) + 0.5
    norm.bias.data = torch.randn(n, generator=rng) * 0.3
    return norm


def _changed(change: Callable[[Convolutional], Any]) -> Callable[[], nn.Module]:
    def made() -> nn.Module:
        network = Convolutional()
        change(network)
        return network

    return made


def _hooked(name: str, pre: bool = False) -> Callable[[], nn.Module]:
    def change(network: Convolutional) -> None:
        module = network.get_submodule(name)
        if pre:
            module.register_forward_pre_hook(lambda _m, inputs: (inputs[0] * 2,))
        else:
            module.register_forward_hook(lambda _m, _i, output: output * 2 + 1)

    return _changed(change)


def _own_forward(network: Convolutional) -> None:
    inner = network.conv1.forward
    network.conv1.forward = lambda x: inner(x) * 2  # type: ignore[method-assign]


def _frozen(network: Convolutional) -> None:
    from torchvision.ops import FrozenBatchNorm2d

    frozen = FrozenBatchNorm2d(8)
    frozen.load_state_dict({k: v for k, v in network.norm1.state_dict().items() if k != "num_batches_tracked"})
    network.norm1 = frozen  # type: ignore[assignment]


def _with_activation(network: Convolutional) -> None:
    from timm.layers import BatchNormAct2d

    norm = BatchNormAct2d(8, drop_layer=nn.Dropout)
    norm.load_state_dict(network.norm1.state_dict())
    norm.drop = nn.Hardtanh(-1, 1)  # whatever stands there is applied before the activation
    network.norm1 = norm


def _no_affine(network: Convolutional) -> None:
    norm = nn.BatchNorm2d(8, affine=False)
    norm.running_mean, norm.running_var = network.norm1.running_mean, network.norm1.running_var
    network.norm1 = norm


def _inference() -> nn.Module:
    with torch.inference_mode():
        return Convolutional()


def _quantised() -> nn.Module:
    network = Convolutional().eval()
    return torch.ao.quantization.quantize_dynamic(network, {nn.Linear})


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "plain": Convolutional,
    "tutorial, view(-1)": Tutorial,
    "tutorial, view(size)": lambda: Tutorial(True),
    "keeps a tensor": Keeps,
    "lock": Locked,
    "weak reference": WithChild,
    "output read twice": Both,
    "weight read": WeightRead,
    "norm read": NormRead,
    "tied weights": Tied,
    "pair used twice": Twice,
    "alias": Alias,
    "layout": Layout,
    "fine differences": Fine,
    "dictionary": Packed,
    "hook on a convolution": _hooked("conv1"),
    "hook before a norm": _hooked("norm1", pre=True),
    "hook on a norm": _hooked("norm2"),
    "forward of an instance": _changed(_own_forward),
    "weight norm, old": _changed(lambda n: nn.utils.weight_norm(n.conv1)),
    "weight norm": _changed(lambda n: nn.utils.parametrizations.weight_norm(n.conv1)),
    "spectral norm": _changed(lambda n: nn.utils.parametrizations.spectral_norm(n.conv2)),
    "frozen norm": _changed(_frozen),
    "norm with activation": _changed(_with_activation),
    "norm without weights": _changed(_no_affine),
    "synchronised norm": _changed(lambda n: setattr(n, "norm1", nn.SyncBatchNorm.convert_sync_batchnorm(n.norm1))),
    "DataParallel": lambda: nn.DataParallel(Convolutional()),
    "scripted": lambda: torch.jit.script(Convolutional().eval()),
    "traced": lambda: torch.jit.trace(Convolutional().eval(), torch.zeros(1, 3, 32, 32)),
    "quantised": _quantised,
    "made under inference mode": _inference,
    "half": lambda: Convolutional().half(),
    "bfloat16": lambda: Convolutional().bfloat16(),
    "double": lambda: Convolutional().double(),
}


def awkward(name: str) -> Classifier:
    """One of `NETWORKS` with random weights, the same ones every time, behind a classifier."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = NETWORKS[name]()
    return classifier_of(network)


def classifier_of(network: nn.Module, channels: int = 3, **settings: Any) -> Classifier:
    """A classifier of images `(N, channels, 32, 32)`; outputs in a dictionary are found."""
    if isinstance(network, Packed):
        settings["output"] = _logits_of
    return Classifier(network, mean=(0.5,) * channels, std=(0.25,) * channels, view=View(32, 36), **settings)


def _logits_of(found: dict[str, Tensor]) -> Tensor:
    return found["logits"]
