"""The input of a layer, and the scores as a function of it: everything behind a cut through the network.

"Layer `features.7`" means, as in the package shap for torch, what goes INTO that module. It must be all that the scores
depend on, so that another tensor in its place is another image as far as the rest of the network can tell; a layer inside a
residual block, which the shortcut passes by, is refused.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves
from torch.utils.checkpoint import CheckpointError

from xai_lib.classifiers import Classifier
from xai_lib.classifiers.fingerprint import structure_of
from xai_lib.explanation import ExplanationError, left_as_it_was

PIXELS = "pixels"  #: the name of the image itself, 0..1
STRIDES = {"auto": 2, "stride2": 2, "stride4": 4}
"""What stands for a layer that is found by itself: the last activation at half the image's resolution, the first at a
quarter. On torchvision's VGG13, 16 and 19 these are the inputs of `features.7` and `features.10`, as in paper 4."""


class Place(NamedTuple):
    """A layer's dotted name (or "pixels"), the shape `(C, h, w)` of its input, and why it was chosen."""

    name: str
    shape: tuple[int, ...]
    reason: str


@dataclass(frozen=True)
class LayerInput:
    """The input of the layer `name` of a classifier; "pixels" is the image."""

    classifier: Classifier
    name: str

    @torch.no_grad()
    def of(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """The layer's input `(N, ...)` and the logits `(N, classes)` of images `(N, C, H, W)` in 0..1.

        Raises `ExplanationError` if the layer does not get one tensor once a forward pass.
        """
        if self.name == PIXELS:
            return images, self.classifier(images)
        seen: list[Tensor] = []

        def hold(_module: nn.Module, inputs: tuple[Any, ...]) -> None:
            if len(inputs) != 1 or not isinstance(inputs[0], Tensor) or len(inputs[0]) != len(images):
                raise ExplanationError(f"{self._words()} does not get one tensor with a row an image; name another layer")
            seen.append(inputs[0].detach().clone())

        logits = self._run(images, hold)
        if len(seen) != 1:
            raise ExplanationError(f"{self._words()} ran {len(seen)} times in one forward pass, not once")
        return seen[0], logits

    def logits(self, image: Tensor, inputs: Tensor) -> Tensor:
        """The logits `(n, classes)` where the layer gets `inputs` `(n, ...)`; differentiable by them.

        What lies before the layer runs once, on `image` `(1, C, H, W)`.
        """
        if self.name == PIXELS:
            return self.classifier(inputs)
        return self._run(image, lambda _module, _inputs: (inputs.clone(),))  # what follows may write into it

    def check(self, image: Tensor, other: Tensor) -> bool:
        """Whether the scores of `image` become those of `other`, `(1, C, H, W)` each, when the layer gets its input."""
        inputs, wanted = self.of(other)
        with torch.no_grad():
            found = self.logits(image, inputs)
        slack = 0.03 if wanted.dtype in (torch.float16, torch.bfloat16) else 1e-3
        return bool(torch.allclose(found, wanted, rtol=slack, atol=slack * float(wanted.abs().max())))

    def _run(self, images: Tensor, hook: Any) -> Tensor:
        try:
            handle = self.classifier.layer(self.name).register_forward_pre_hook(hook)
        except (AttributeError, RuntimeError) as error:  # compiled into C++
            raise ExplanationError(
                f'{self._words()} is scripted and takes no hook; give the network as it was written, or layer="pixels"'
            ) from error
        try:
            # the layer may get more rows than there are images
            logits: Tensor = self.classifier.core(self.classifier.normalise(images))
        finally:
            handle.remove()
        return logits

    def _words(self) -> str:
        return f"{self.classifier.name}: layer {self.name!r}"


@contextmanager
def gradients_in_words(classifier: Classifier) -> Iterator[None]:
    """Gradients by the input alone; raises `ExplanationError` where autograd finds no way back to it.

    Weights require none inside, and do again after `left_as_it_was`, within which this is used.
    """
    for parameter in classifier.parameters():
        if not parameter.is_inference():  # such a one never requires any, and cannot be told so
            parameter.requires_grad_(False)
    try:
        yield
    except RuntimeError as error:
        if isinstance(error, CheckpointError):
            raise ExplanationError(
                f"{classifier.name}: a layer inside of torch.utils.checkpoint, whose pass is made again without the layer's new "
                'input; name a layer outside of it, or layer="pixels", or switch checkpointing off'
            ) from error
        if not _NO_WAY_BACK.search(str(error)):
            raise
        raise ExplanationError(
            f"{classifier.name}: the scores do not depend differentiably on the input (quantised layers, no_grad, detach or "
            "integers on the way, or weights made under inference_mode); take a method that asks for probabilities alone, "
            f"such as lime or elime (torch says: {str(error).splitlines()[0]})"
        ) from error


_NO_WAY_BACK = re.compile(
    r"does not require grad|not have been used in the graph|[Ii]nference tensor|require gradients|not differentiable"
    r"|derivative for .* not implemented"
)


def check_map(classifier: Classifier, values: Tensor) -> None:
    """Raises `ExplanationError` for gradients that are NaN or infinite, or that a probability rounded to 0 or 1 has lost."""
    if not bool(values.isfinite().all()):
        raise ExplanationError(
            f"{classifier.name}: gradients of the score are NaN or infinite; look for a root or a norm of zeros, or numbers "
            f"beyond the range of {classifier.dtype}"
        )
    if classifier.squashed and not bool(values.any()):
        raise ExplanationError(
            f"{classifier.name}: a probability rounds to 0 or 1, and the gradient is lost in the network's own last layer; give "
            "the network without its softmax or sigmoid"
        )


def check_complete(classifier: Classifier, score: Callable[[Tensor], Tensor], point: Tensor, gap: float, change: float) -> None:
    """Refuse attributions whose sum misses the change of the score because autograd does not see a part of the network.

    Parameters
    ----------
    score
        From a batch of inputs `(1, ...)` to scores `(1,)`.
    point
        Input `(1, ...)` at which the network is traced; only where `gap` is more than a fifth of `change`.
    gap
        Sum of the attributions minus the change of the score.
    change
        Of the score, from the baseline to the point.

    Raises
    ------
    ExplanationError
        Where a value that depends on the input loses its gradient (no_grad, detach, integers) and reaches the score.
    """
    if abs(gap) <= 0.2 * abs(change):
        return
    with torch.enable_grad(), _Lost() as seen:
        result = score(point.detach().clone().requires_grad_())
    if id(result) in seen.lost:
        raise ExplanationError(
            f"{classifier.name}: a part of the network runs without gradients (no_grad, detach, integers), and its influence "
            f"is missing from the map: the sum of the map is off by {gap:.3g}, where the score changes by {change:.3g}; take a "
            "method that asks for probabilities alone, such as lime or elime"
        )


class _Lost(TorchFunctionMode):
    """Marks what depends on values that have lost their gradient; weights must not require any."""

    def __init__(self) -> None:
        super().__init__()
        self.lost: dict[int, Tensor] = {}  # by identity, which the reference keeps unique

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        inputs = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
        if getattr(func, "__name__", "") in _BY_INDEX:  # which value is taken is decided by integers, and needs no gradient
            inputs = [t for t in inputs if t.is_floating_point()]
        if any(t.requires_grad or id(t) in self.lost for t in inputs):
            carried = any(id(t) in self.lost for t in inputs)
            for t in tree_leaves(found):
                if isinstance(t, Tensor) and t.dtype != torch.bool and (carried or not t.requires_grad):
                    self.lost[id(t)] = t
        return found


_BY_INDEX = {
    "gather", "scatter", "scatter_", "index_select", "take_along_dim", "__getitem__", "__setitem__", "index_put", "index_put_",
    "index_fill", "index_fill_", "max_unpool2d", "take",
}  # fmt: skip


_found: WeakKeyDictionary[Classifier, tuple[bytes, dict[tuple[Any, ...], Place]]] = WeakKeyDictionary()


def find(classifier: Classifier, layer: str, size: tuple[int, int]) -> Place:
    """The place that `layer` means for images of `size` (H, W): "auto", "stride2", "stride4", "pixels" or a dotted name.

    A place is looked for among the inputs of convolutions and pooling, by trial runs on noise; where there is none, as in a
    transformer, it is the pixels, and `reason` says so. Raises `ExplanationError` for a named layer that the scores pass by.
    """
    key, state = (layer, size), structure_of(classifier.network)
    if classifier not in _found or _found[classifier][0] != state:
        _found[classifier] = (state, {})
    places = _found[classifier][1]
    if key not in places:
        with left_as_it_was(classifier), torch.inference_mode(False), torch.no_grad():
            places[key] = _find(classifier, layer, size)
    return places[key]


def _find(classifier: Classifier, layer: str, size: tuple[int, int]) -> Place:
    if layer == PIXELS:
        return Place(PIXELS, (classifier.channels, *size), "as asked for")
    rng = torch.Generator().manual_seed(0)
    one, other = (torch.rand(1, classifier.channels, *size, generator=rng).to(classifier.device) for _ in range(2))
    if layer not in STRIDES:
        inputs = LayerInput(classifier, layer)
        shape = tuple(inputs.of(one)[0].shape[1:])
        if not inputs.check(one, other):
            raise ExplanationError(
                f"{classifier.name}: the scores depend on more than the input of {layer!r} (a shortcut passes it by); name a "
                "layer through which everything goes, such as a whole block, or auto"
            )
        return Place(layer, shape, "as asked for")
    stride = STRIDES[layer]
    known = _of_vgg(classifier.network, stride)
    candidates = [known] if known else _candidates(classifier, one, stride)
    for name in candidates:
        inputs = LayerInput(classifier, name)
        with suppress(ExplanationError):  # it may run twice
            if inputs.check(one, other):
                shape = tuple(inputs.of(one)[0].shape[1:])
                return Place(name, shape, "as in paper 4" if known else f"{_WORDS[stride]} activation at stride {stride}")
    return Place(PIXELS, (classifier.channels, *size), f"no layer at stride {stride} through which everything goes")


_WORDS = {2: "last", 4: "first"}


def _of_vgg(network: nn.Module, stride: int) -> str:
    """Paper 4's layers, where the network is a VGG in which they are those convolutions."""
    from torchvision.models import VGG

    names = {2: "features.7", 4: "features.10"}
    if not isinstance(network, VGG) or len(network.features) < 11:
        return ""
    modules = [network.get_submodule(name) for name in names.values()]
    fits = all(isinstance(m, nn.Conv2d) and m.in_channels == 128 for m in modules)
    return names[stride] if fits else ""


def _candidates(classifier: Classifier, image: Tensor, stride: int) -> list[str]:
    """Layers whose input has that stride and is read by a convolution or pooling, the wanted ones first.

    Of modules that get the same tensor the outermost stands for all: what is put in its place reaches every reader inside.
    """
    names: dict[tuple[int, int], str] = {}
    strides: dict[tuple[int, int], int] = {}
    read: set[tuple[int, int]] = set()
    alive: list[Tensor] = []  # keeps identities unique

    def note(name: str, leaf: bool) -> Any:
        def hook(_module: nn.Module, inputs: tuple[Any, ...]) -> None:
            x = inputs[0] if inputs else None
            if isinstance(x, Tensor) and x.ndim == 4:
                alive.append(x)
                key = id(x), x._version  # an activation in place makes it another one
                names.setdefault(key, name)
                strides.setdefault(key, round(image.shape[2] / x.shape[2]))
                if leaf:
                    read.add(key)

        return hook

    modules = [(n, m) for n, m in classifier.network.named_modules() if n and not isinstance(m, nn.Identity)]
    if any(isinstance(m, torch.jit.ScriptModule) for _, m in modules):
        return []  # they take no hooks
    hooks = [m.register_forward_pre_hook(note(n, isinstance(m, _READERS))) for n, m in modules]
    try:
        classifier(image)
    finally:
        for hook in hooks:
            hook.remove()
    found = [name for key, name in names.items() if strides[key] == stride and key in read]
    return found[::-1] if stride == 2 else found


_READERS = (nn.Conv2d, nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d)
