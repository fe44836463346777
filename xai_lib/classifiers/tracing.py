"""A forward pass that is watched: every tensor that torch functions make, and whether it is a map over the image.

What a tensor means is not read off its number of axes alone: of a batch in which one quarter of an
image was changed at a time, a map must change most in that quarter. Attention tensors do not, and are
no maps.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from xai_lib.classifiers.trial import ClassifierError, probes, words_for

if TYPE_CHECKING:
    from xai_lib.classifiers.classifier import Classifier

Size = tuple[int, int]
Through = Callable[[Any], Any]

LEAN = 0.04
"""How far the change of a map must lean to the changed side, of 2 at most (our choice): attention tensors lean by less than 0.02,
maps of 7 x 7 behind global attention by 0.09 and more. What convolutions made need not lean, as long as no map before it leans to
the other side: with random weights small maps, each place of which sees everything, lean anywhere, and the choice of a layer must
not depend on weights."""
PREFIX = 16  #: class and register tokens looked for at most


class Layout(NamedTuple):
    """How an output lies over the image: its axes, or the tokens that stand for its places."""

    kind: str  #: "channels first" (N, K, h, w), "channels last" (N, h, w, K) or "tokens" (N, T, K)
    height: int
    width: int
    offset: int = 0  #: of tokens: where those of the image begin

    def maps(self, output: Tensor) -> Tensor:
        """The output as maps `(N, K, h, w)`."""
        if self.kind == "channels first":
            return output
        if self.kind == "channels last":
            return output.permute(0, 3, 1, 2)
        places = output[:, self.offset : self.offset + self.height * self.width]
        return places.transpose(1, 2).unflatten(2, (self.height, self.width))


class Site(NamedTuple):
    """One output in a pass: a call (from 0) of a module, or of a torch function where `module` is ""."""

    module: str
    function: str
    call: int
    last: bool = True

    @property
    def name(self) -> str:
        """What it is called; see the module's text."""
        if self.module:
            return self.module if self.last else f"{self.module}#{self.call + 1}"
        return f"F.{self.function}#{self.call + 1}"


_CONVOLUTIONAL = {
    "conv2d", "conv_transpose2d", "max_pool2d", "avg_pool2d", "adaptive_avg_pool2d", "adaptive_max_pool2d", "batch_norm",
    "group_norm", "instance_norm", "interpolate", "pixel_shuffle", "boolean_dispatch", "fn", "lp_pool2d", "fractional_max_pool2d",
}  # fmt: skip


# ---------------------------------------------------------------------------------------------------------------------
# A pass that is watched


class Step(NamedTuple):
    site: Site
    function: str
    layout: Layout | None  #: None: no map, or one that does not follow the image
    sure: bool  #: it was seen to follow the image; False: nothing changed anywhere
    input: int | None  #: the step that made the first argument


class Watch(TorchFunctionMode):
    """Hands every tensor that a torch function makes to `seen(name, arguments, output)`, whose answer takes its place."""

    def __init__(self, seen: Callable[[str, Any, Tensor], Any]) -> None:
        super().__init__()
        self.seen = seen

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        if isinstance(output, Tensor) and output.ndim in (3, 4) and output.is_floating_point():
            return self.seen(getattr(func, "__name__", "?"), args, output)
        return output


def trace(classifier: Classifier, size: Size) -> list[Step]:
    """Every output with three or four axes of a pass, in order, and whether it is a map."""
    made: list[tuple[str, int, Layout | None, bool, int | None]] = []
    newest: dict[int, tuple[weakref.ref[Tensor], int, int]] = {}  # tensor -> itself, its version and its step
    convolutional: set[int] = set()  # steps
    turned = False  # a map was seen that leans to the other side
    seen_grids: set[Size] = set()  # sizes of maps, which tokens made from them have as well
    owners: dict[int, tuple[str, int]] = {}  # step -> module and call; an enclosing module ends later and takes its place
    runs: dict[str, int] = {}
    calls: dict[str, int] = {}
    images = classifier.normalise(quarters(classifier, size))

    def made_by(value: Any, unwritten: bool = False) -> int | None:
        if not isinstance(value, Tensor) or id(value) not in newest:
            return None
        itself, version, step = newest[id(value)]
        return None if itself() is not value or (unwritten and version != value._version) else step

    def seen(name: str, args: Any, output: Tensor) -> Tensor:
        nonlocal turned
        first: Any = args[0] if args else None
        if isinstance(first, list | tuple) and first:  # of a concatenation
            first = first[0]
        source = made_by(first)
        if name in _CONVOLUTIONAL or (source in convolutional and output.shape[2:] == first.shape[2:]):
            convolutional.add(len(made))
        layout, lean = layout_of(output, size, len(images), seen_grids)
        sure = lean is not None and lean > LEAN
        if len(made) in convolutional and layout and layout.kind == "channels first":
            turned = turned or (lean is not None and lean < -0.5)  # as a whole: by a flip somewhere before
            layout = layout if sure or not turned else None
        elif not sure:
            layout = None
        newest[id(output)] = weakref.ref(output), output._version, len(made)
        if layout and layout.kind != "tokens":
            seen_grids.add((layout.height, layout.width))
        made.append((name, calls.get(name, 0), layout, sure, source))
        calls[name] = calls.get(name, 0) + 1
        return output

    def note(name: str) -> Callable[..., None]:
        def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
            call = runs[name] = runs.get(name, -1) + 1
            if (step := made_by(output, unwritten=True)) is not None:
                owners[step] = name, call

        return hook

    with hooked(classifier, note), torch.no_grad(), words_for(classifier, size), Watch(seen):
        classifier.logits_of(images)
    steps = []
    for i, (function, call, layout, sure, source) in enumerate(made):
        module, nth = owners.get(i, ("", call))
        site = Site(module, "" if module else function, nth, not module or nth == runs[module])
        steps.append(Step(site, function, layout, sure, source))
    return steps


@contextmanager
def hooked(classifier: Classifier, note: Callable[[str], Any]) -> Iterator[None]:
    if isinstance(classifier.network, torch.jit.ScriptModule):
        raise ClassifierError(
            f"{classifier.name}: a scripted network shows none of its layers; give the module that it was made from"
        )
    handles = [m.register_forward_hook(note(n)) for n, m in classifier.network.named_modules() if n]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


# ---------------------------------------------------------------------------------------------------------------------
# What is a map


def quarters(classifier: Classifier, size: Size) -> Tensor:
    """A random image, and it with another top left, top right, bottom left, bottom right quarter: `(5, C, H, W)`."""
    first, other = probes(2, classifier.channels, size, seed=1).to(classifier.device)
    images = first.repeat(5, 1, 1, 1)
    rows, columns = size[0] // 2, size[1] // 2
    for i, (down, right) in enumerate(((0, 0), (0, 1), (1, 0), (1, 1))):
        place = (slice(None), slice(rows, None) if down else slice(rows), slice(columns, None) if right else slice(columns))
        images[i + 1][place] = other[place]
    return images


def grids(steps: list[Step]) -> set[Size]:
    """The sizes (h, w) of a pass's maps, tokens aside."""
    return {(s.layout.height, s.layout.width) for s in steps if s.layout and s.layout.kind != "tokens"}


def layout_of(output: Tensor, size: Size, n: int, known: set[Size]) -> tuple[Layout | None, float | None]:
    """The layout in which `output` `(5, ...)` leans most to the changed quarters, and how far; see `_lean`.

    `known`: the sizes of maps, of which tokens are made.
    """
    found: list[tuple[float, Layout]] = []
    fitting = candidates(tuple(output.shape), size, known) if len(output) == n else []
    for layout in fitting:
        lean = _lean(layout.maps(output))
        if lean is None:
            return layout, None
        found.append((lean, layout))
    if not found:
        return None, None
    lean, layout = max(found, key=lambda each: each[0])
    return layout, lean


def candidates(shape: tuple[int, ...], size: Size, known: Collection[Size] = ()) -> list[Layout]:
    """The layouts that an output of `shape` may have by its numbers alone; of tokens the likeliest."""
    if len(shape) == 4:
        found = [("channels first", shape[2], shape[3]), ("channels last", shape[1], shape[2])]
        return [Layout(kind, h, w) for kind, h, w in found if h * w > 1 and _proportionate(h, w, size)]
    tokens = []
    for offset in range(min(PREFIX, shape[1] - 2) + 1):
        places = shape[1] - offset
        height = max(1, round((places * size[0] / size[1]) ** 0.5))
        width = places // height
        if places == height * width and abs(size[0] * width / (size[1] * height) - 1) < 0.1:  # patches are nearly square
            tokens.append(Layout("tokens", height, width, offset))
    return sorted(tokens, key=lambda layout: (layout.height, layout.width) not in known)[:1]


def _proportionate(height: int, width: int, size: Size) -> bool:
    """Whether maps of that size have the proportions of the image, but for one row or column."""
    stride = (size[0] * size[1] / (height * width)) ** 0.5
    return abs(height - size[0] / stride) <= 1 and abs(width - size[1] / stride) <= 1


def _lean(maps: Tensor) -> float | None:
    """How far the change of maps `(5, K, h, w)` leans to the changed quarter, along the axis where it does least.

    From -2 to 2: the share of the change on the near side minus that on the far side, of the images
    changed there, minus the same of those changed opposite. None if nothing changes.
    """
    change = (maps[1:] - maps[:1]).float().abs().mean(1)
    total = change.sum((1, 2), keepdim=True)
    if not bool((total > 0).all()) or not bool(torch.isfinite(total).all()):
        return None
    change = change / total
    leans = []
    for axis, sign in ((1, (1, 1, -1, -1)), (2, (1, -1, 1, -1))):
        half = change.shape[axis] // 2
        if half:
            far = change.narrow(axis, change.shape[axis] - half, half)
            sides = (change.narrow(axis, 0, half) - far.flip(axis)).sum((1, 2))
            leans.append(float((sides * sides.new_tensor(sign)).sum()) / 2)
    return min(leans) if leans else None


