"""A network with its preprocessing, class names and the origin of its weights."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from xai_lib.allocator import keep_freed_memory
from xai_lib.errors import XaiError, nearest
from xai_lib.images import View


class ClassifierError(XaiError):
    """A network that cannot be used as asked: output of the wrong kind, unknown layer or device."""


class UnknownNetwork(ClassifierError):
    """A name that neither this package nor torchvision nor timm knows."""


class Prediction(NamedTuple):
    """One class with its probability (0..1)."""

    index: int  # type: ignore[assignment]  # hides tuple.index, which nobody looks for here
    name: str
    probability: float


@dataclass(frozen=True)
class Provenance:
    """Where weights come from; `file` is None for weights made in the running program."""

    source: str
    licence: str = "unknown"
    file: Path | None = None

    @cached_property
    def sha256(self) -> str | None:
        """Checksum of the file, hexadecimal."""
        return hashlib.sha256(self.file.read_bytes()).hexdigest() if self.file else None


class Classifier(nn.Module):
    """A network with its preprocessing: images in 0..1 go in, logits come out.

    `network`: any module from `(N, 3, H, W)` normalised images to `(N, classes)` logits. `mean`, `std`: a value a
    channel, for images in 0..1. `view`: how a photograph is resized and cropped for it. `class_names`: one a logit;
    "class k" where there are none. `feature_layer`: dotted name of the last convolutional features before pooling,
    found by a trial run when not given. The network is put into evaluation mode.
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        name: str = "",
        mean: Sequence[float] = (0.485, 0.456, 0.406),
        std: Sequence[float] = (0.229, 0.224, 0.225),
        view: View | None = None,
        class_names: Sequence[str] | None = None,
        provenance: Provenance | None = None,
        feature_layer: str | None = None,
    ) -> None:
        super().__init__()
        keep_freed_memory()
        self.network = network
        self.name = name or type(network).__name__
        self.view = view or View()
        self.provenance = provenance or Provenance("given by the caller")
        self._class_names = list(class_names) if class_names is not None else None
        self._feature_layer = feature_layer
        self._trial: tuple[int, str] | None = None
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).view(1, 3, 1, 1), persistent=False)
        self.mean: Tensor
        self.std: Tensor
        self.eval()

    def normalise(self, images: Tensor) -> Tensor:
        """Images in 0..1 as the network wants them."""
        return (images - self.mean) / self.std

    def forward(self, images: Tensor) -> Tensor:
        """Logits `(N, classes)` of images `(N, 3, H, W)` in 0..1."""
        logits = self.network(self.normalise(images))
        if not isinstance(logits, Tensor) or logits.ndim != 2:
            found = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
            raise ClassifierError(
                f"{self.name}: expected logits (N, classes), found {found}; wrap the network in a module that returns them"
            )
        return logits

    @torch.no_grad()
    def probabilities(self, images: Tensor) -> Tensor:
        """Softmax of the logits, `(N, classes)` float32; no gradient is kept."""
        return self(images).float().softmax(1)

    def top(self, images: Tensor, k: int = 5) -> list[list[Prediction]]:
        """The `k` most probable classes of each image, best first."""
        values, indices = self.probabilities(images).topk(min(k, self.classes), dim=1)
        return [
            [Prediction(i, self.class_name(i), p) for i, p in zip(row.tolist(), probability.tolist(), strict=True)]
            for row, probability in zip(indices, values, strict=True)
        ]

    @property
    def device(self) -> torch.device:
        """Where the network lies."""
        return self.mean.device

    @property
    def classes(self) -> int:
        """Number of logits."""
        return len(self._class_names) if self._class_names is not None else self._tried[0]

    def class_name(self, index: int) -> str:
        """The name of a class, or "class k"."""
        return self._class_names[index] if self._class_names is not None else f"class {index}"

    def layer(self, name: str) -> nn.Module:
        """The module of that dotted name; an unknown one is an error with the nearest names."""
        modules = dict(self.network.named_modules())
        if name not in modules or not name:
            raise ClassifierError(f"{self.name} has no layer {name!r}; {nearest(name, list(modules)[1:])}")
        return modules[name]

    @property
    def feature_layer(self) -> str:
        """Dotted name of the layer with the last convolutional features before pooling, after their activation."""
        name = self._feature_layer or self._tried[1]
        if not name:
            raise ClassifierError(f"{self.name}: no layer gives feature maps (N, C, h, w); name one with feature_layer=")
        return name

    @property
    def _tried(self) -> tuple[int, str]:
        if self._trial is None:
            self._trial = self._try()
        return self._trial

    @torch.no_grad()
    def _try(self) -> tuple[int, str]:
        """Number of classes, and the outermost module that made the last maps larger than 1x1, by a trial run."""
        maps: dict[int, str] = {}
        last = 0

        def note(name: str) -> Callable[..., None]:
            def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
                nonlocal last
                if isinstance(output, Tensor) and output.ndim == 4 and output.shape[-1] > 1:
                    last = output.data_ptr()
                    maps[last] = name  # an enclosing module ends later and replaces its last child

            return hook

        hooks = [m.register_forward_hook(note(n)) for n, m in self.network.named_modules() if n]
        try:
            logits = self(torch.zeros(1, 3, self.view.size, self.view.size, device=self.device))
        finally:
            for hook in hooks:
                hook.remove()
        return logits.shape[1], maps.get(last, "")

    def __repr__(self) -> str:
        millions = sum(p.numel() for p in self.network.parameters()) / 1e6
        return f"Classifier({self.name!r}, {millions:.1f} million parameters, view={self.view}, {self.provenance.source})"
