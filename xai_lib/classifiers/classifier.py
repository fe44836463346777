"""A network with its preprocessing, class names and the origin of its weights."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from xai_lib.allocator import keep_freed_memory
from xai_lib.classifiers import outputs
from xai_lib.classifiers.fingerprint import structure_of
from xai_lib.classifiers.outputs import Core, Output
from xai_lib.classifiers.trial import ClassifierError, logits_of_trial, words_for
from xai_lib.errors import nearest
from xai_lib.images import View


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


def _values_of(values: object) -> tuple[float, ...]:
    """The numbers in a sequence, an array or a tensor; one alone counts as a sequence of one; none for anything else."""
    try:
        return tuple(float(v) for v in torch.as_tensor(values, dtype=torch.float64).flatten())
    except (TypeError, ValueError, RuntimeError):
        return ()


class Classifier(nn.Module):
    """A network with its preprocessing: images in 0..1 go in, logits come out.

    Parameters
    ----------
    network : nn.Module
        From normalised images `(N, C, H, W)` to logits `(N, classes)`, or to what `output` reads. It
        is put into evaluation mode. Of a compiled network the original is taken, whose inside can be
        seen. It runs in its own number format.
    name : str
        For messages; the class of the network by default.
    mean, std : sequence of float
        One value a channel, for images in 0..1; their number is the number of channels.
    view : View
        How an image file is resized and cropped for the network.
    class_names : sequence of str, optional
        One for each output; "class k" where there are none.
    provenance : Provenance, optional
        Where the weights come from.
    feature_layer : str, optional
        The layer that class activation maps look at; found by a trial run where it is not given, see
        `xai_lib.classifiers.layers`.
    output : {"logits", "probabilities", "sigmoid"}, callable, or a pair of both, optional
        What the network returns. None: logits of exclusive classes, refused if they look like
        something else; "logits": the same without that check. "probabilities": of exclusive classes;
        their logarithms are the logits. "sigmoid": independent labels, one or more, as logits or
        behind a sigmoid. A callable takes what the network returns and gives `(N, classes)`:
        ``output=lambda o: o["logits"]``; in a pair the word says what that is:
        ``output=(lambda o: o["scores"], "sigmoid")``.

    Raises
    ------
    ClassifierError
        For `mean` and `std` of different lengths and for an unknown word in `output`. What a trial
        run finds is raised by `check`, which every explainer calls.
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
        output: Output = None,
    ) -> None:
        super().__init__()
        keep_freed_memory()
        network = getattr(network, "_orig_mod", network)  # of torch.compile
        self.name = name or type(network).__name__
        if not isinstance(network, nn.Module):
            raise ClassifierError(
                f"{self.name}: network: expected a torch module, found {type(network).__name__}; a function becomes one as the "
                "forward of a class of yours"
            )
        self.view = view or View()
        self.provenance = provenance or Provenance("given by the caller")
        self.given_names = list(map(str, class_names)) if class_names is not None else None
        self.given_layer = feature_layer
        try:
            select, self.declared = outputs.parts(output)
        except ValueError:
            raise ClassifierError(
                f"{self.name}: output: expected logits, probabilities, sigmoid, a callable, or a pair (callable, one of those "
                f"words); found {output!r}"
            ) from None
        self.independent = self.declared == "sigmoid"  #: labels that do not exclude each other
        self.network = network
        # in a list: no submodule, whose weights would be there twice
        plain = select is None and self.declared in (None, "logits")
        self._core = [] if plain else [Core(network, select, self.declared)]
        self._normalisation = _values_of(mean), _values_of(std)
        if len(self._normalisation[0]) != len(self._normalisation[1]) or not self._normalisation[0] or (
            min(self._normalisation[1]) <= 0
        ):
            raise ClassifierError(
                f"{self.name}: mean and std: expected one number for each channel, std above 0; found {mean!r} and {std!r}"
            )
        for kept, values in zip(("mean", "std"), self._normalisation, strict=True):
            self.register_buffer(kept, torch.tensor(values, dtype=torch.float32).view(1, -1, 1, 1), persistent=False)
        self.mean: Tensor
        self.std: Tensor
        self._trials: dict[tuple[Any, ...], int] = {}
        self._held = b""
        try:
            self.eval()
        except NotImplementedError as error:  # torch.export's modules have no modes
            raise ClassifierError(
                f"{self.name}: cannot be put into evaluation mode ({error}); give the original module"
            ) from error

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> Classifier:
        super()._apply(fn, recurse)
        for kept, values in zip(("mean", "std"), self._normalisation, strict=True):  # half precision would round them
            device = getattr(self, kept).device
            setattr(self, kept, torch.tensor(values, dtype=torch.float32, device=device).view(1, -1, 1, 1))
        return self

    @property
    def core(self) -> nn.Module:
        """From normalised images to logits: the network itself, or the network and how its output is read."""
        if not self._core:
            return self.network
        if self._core[0].network is not self.network:  # another network was put in its place
            self._core[0].network = self.network
        return self._core[0]

    @property
    def _labels(self) -> outputs.Labels | None:
        read = getattr(self.core, "read", None)
        return read if isinstance(read, outputs.Labels) else None

    @property
    def channels(self) -> int:
        """Number of channels of the images."""
        return len(self._normalisation[0])

    @property
    def dtype(self) -> torch.dtype:
        """The network's number format: that of its first floating weight, float32 if it has none."""
        tensors = (t for kind in (self.network.parameters(), self.network.buffers()) for t in kind)
        return next((t.dtype for t in tensors if t.is_floating_point()), torch.float32)

    @property
    def squashed(self) -> bool:
        """Whether the network gives probabilities, whose gradient is lost where they round to 0 or 1."""
        return self.declared == "probabilities" or bool(self._labels and self._labels.squashed)

    def normalise(self, images: Tensor) -> Tensor:
        """Images in 0..1 as the network wants them, in its own number format."""
        dtype = self.dtype
        if images.stride() != torch.empty(images.shape, device="meta").stride():
            # channels last, or one channel that only looks contiguous: a network may take views that want it otherwise
            images = images.clone(memory_format=torch.contiguous_format)
        if dtype != torch.float64:
            return ((images.float() - self.mean) / self.std).to(dtype)
        mean, std = (torch.tensor(v, dtype=dtype, device=images.device).view(1, -1, 1, 1) for v in self._normalisation)
        return (images.double() - mean) / std

    def forward(self, images: Tensor) -> Tensor:
        """Logits `(N, classes)` of images `(N, C, H, W)` in 0..1."""
        return self.logits_of(self.normalise(images))

    def logits_of(self, inputs: Tensor) -> Tensor:
        """Logits `(N, classes)` of images `(N, C, H, W)` that are normalised already."""
        size = (inputs.shape[-2], inputs.shape[-1])
        if self._labels and self._labels.squashed is None:
            self.check(size)
        with words_for(self, size):
            logits = self.core(inputs)
        if not isinstance(logits, Tensor) or logits.ndim != 2 or len(logits) != len(inputs):
            found = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
            raise ClassifierError(
                f"{self.name}: expected logits (N, classes), found {found}; say where they are with "
                "Classifier(..., output=lambda o: ...), or wrap the network in a module that returns them"
            )
        if bool(torch.isnan(logits.detach()).any()):
            raise ClassifierError(f"{self.name}: gives NaN for images in 0..1; nothing can be explained there")
        return logits

    def probabilities_of(self, logits: Tensor) -> Tensor:
        """Probabilities `(N, classes)` of logits, float32 or float64: softmax, or sigmoid of independent labels."""
        z = logits if logits.dtype == torch.float64 else logits.float()
        return z.sigmoid() if self.independent else z.softmax(1)

    def log_odds(self, logits: Tensor) -> Tensor:
        """The log-odds of every class `(N, classes)`, differentiable; see `outputs.log_odds`."""
        return outputs.log_odds(logits, self.independent)

    def probabilities(self, images: Tensor) -> Tensor:
        """Probabilities `(N, classes)` float32 of images `(N, C, H, W)` in 0..1; no gradient is kept."""
        self.check((images.shape[-2], images.shape[-1]))
        with torch.no_grad():
            return self.probabilities_of(self(images)).float()

    def top(self, images: Tensor, k: int = 5) -> list[list[Prediction]]:
        """The `k` most probable classes of each image, best first."""
        values, indices = self.probabilities(images).topk(min(k, self.classes), dim=1)
        return [
            [Prediction(i, self.class_name(i), p) for i, p in zip(row.tolist(), probability.tolist(), strict=True)]
            for row, probability in zip(indices, values, strict=True)
        ]

    def check(self, size: tuple[int, int] | None = None) -> None:
        """A trial run on random images of `size` (H, W), the view's by default; repeated when the network changes.

        Raises
        ------
        ClassifierError
            One output column without ``output="sigmoid"``, probabilities that were not declared, NaN,
            logits that change from run to run or with the rest of the batch, `class_names` of another
            length, images of a size, number of channels or format that the network cannot take.
        """
        self._tried(size or (self.view.size, self.view.size))

    @property
    def structure(self) -> bytes:
        """What the network is at this moment, see `fingerprint.structure_of`; the same inside of `held`."""
        return self._held or structure_of(self.network)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Inside, the network does not change: what was found out about it is not held against it again."""
        before, self._held = self._held, self.structure
        try:
            yield
        finally:
            self._held = before

    def _tried(self, size: tuple[int, int]) -> int:
        """The number of classes."""
        key = self.structure, size, self.device
        if key not in self._trials:
            self._trials = {k: v for k, v in self._trials.items() if k[0] == key[0]}  # others are of what it was before
            if self._labels:
                self._labels.squashed = None
            self._trials[key] = logits_of_trial(self, size).shape[1]
        return self._trials[key]

    @property
    def device(self) -> torch.device:
        """Where the network lies."""
        return self.mean.device

    @property
    def classes(self) -> int:
        """Number of logits."""
        if self.given_names is not None:
            return len(self.given_names)
        structure = self.structure
        known = next((n for key, n in self._trials.items() if key[0] == structure), None)
        return known if known is not None else self._tried((self.view.size, self.view.size))

    def class_name(self, index: int) -> str:
        """The name of a class, or "class k"."""
        return self.given_names[index] if self.given_names is not None else f"class {index}"

    def layer(self, name: str) -> nn.Module:
        """The module of that dotted name; an unknown one is an error with the nearest names."""
        modules = dict(self.network.named_modules())
        if name not in modules or not name:
            raise ClassifierError(f"{self.name} has no layer {name!r}; {nearest(name, list(modules)[1:])}")
        return modules[name]

    @property
    def feature_layer(self) -> str:
        """The layer with the last feature maps before pooling, behind their activation; see `layers.find`."""
        from xai_lib.classifiers import layers

        return layers.find(self, self.given_layer or "", (self.view.size, self.view.size)).name

    def __repr__(self) -> str:
        millions = sum(p.numel() for p in self.network.parameters()) / 1e6
        return f"Classifier({self.name!r}, {millions:.1f} million parameters, view={self.view}, {self.provenance.source})"
