"""Which tensors of a forward pass are maps over the image, how they lie in memory, and what they are called.

A network is traced: every call of a torch function is seen, whether a module makes it or the code of
`forward`, so that `F.relu` counts as `nn.ReLU` does. What a tensor means is not read off its number of
axes alone: of a batch in which one quarter of an image was changed at a time, a map must change most
in that quarter. Attention tensors do not, and are no maps.

A layer has the dotted name of its module. A module that runs several times means its last run;
`name#1` is the first one, and `F.relu#2` the second call of that function in a pass.
"""

from __future__ import annotations

import re
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple, cast
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from xai_lib.classifiers.modes import left_as_it_was
from xai_lib.classifiers.trial import ClassifierError, probes, words_for
from xai_lib.errors import nearest

if TYPE_CHECKING:
    from xai_lib.classifiers.classifier import Classifier

Size = tuple[int, int]
Through = Callable[[Any], Any]

LEAN = 0.04
"""How far the change of a map must lean to the changed side, of 2 at most (our choice): attention tensors lean by less than 0.02,
maps of 7 x 7 behind global attention by 0.09 and more. What convolutions made need not, only not lean to the other side: with
random weights and 2 x 2 places each of which sees everything, it does neither."""
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


class Place(NamedTuple):
    """A layer found in a classifier: where it is in a pass, and how its output lies over the image."""

    site: Site
    layout: Layout

    @property
    def name(self) -> str:
        """The name that `find` takes."""
        return self.site.name


def find(classifier: Classifier, layer: str, size: Size) -> Place:
    """The layer of that name, "" for the last feature maps before pooling, for images of `size` (H, W).

    Parameters
    ----------
    classifier : Classifier
    layer : str
        A dotted name, `name#k`, `F.function#k`, or "". Then it is the last output, behind its
        activation, that follows the image, has more than one place, and on which the scores depend: of
        convolutional networks the last maps, of transformers the last normalised tokens.
    size : (int, int)
        Height and width of the images.

    Raises
    ------
    ClassifierError
        If there is no such layer, if it gives no maps, or none that follow the image; names some that do.
    """
    places = _found.setdefault(classifier, {})
    structure = classifier.structure
    if (structure, layer, size) not in places:
        for key in [k for k in places if k[0] != structure]:
            del places[key]
        with left_as_it_was(classifier), torch.inference_mode(False):
            wanted = _named(classifier, layer, size) if layer else _last(classifier, size)
        places[structure, layer, size] = wanted
    return places[structure, layer, size]


_found: WeakKeyDictionary[Classifier, dict[tuple[Any, ...], Place]] = WeakKeyDictionary()


def run(classifier: Classifier, images: Tensor, site: Site, through: Through) -> Tensor:
    """Logits of `images` where the output at `site` is replaced by `through` of it."""
    count, inputs = 0, classifier.normalise(images)

    def met(output: Any) -> Any:
        nonlocal count
        count += 1
        return through(output) if count == site.call + 1 else output

    if site.module:
        handle = classifier.layer(site.module).register_forward_hook(lambda _m, _i, output: met(output))
        try:
            return classifier.logits_of(inputs)
        finally:
            handle.remove()
    with _Watch(lambda name, _args, output: met(output) if name == site.function else output):
        return classifier.logits_of(inputs)


def named_maps(classifier: Classifier, size: Size) -> list[tuple[str, Size]]:
    """Names and sizes (h, w) of the modules whose outputs are maps that follow the image, in the order of a pass."""
    with left_as_it_was(classifier), torch.inference_mode(False):
        steps = _trace(classifier, size)
    return [(s.site.name, (s.layout.height, s.layout.width)) for s in steps if s.layout and s.site.module]


def before_last_convolution(classifier: Classifier, size: Size) -> str:
    """The name of what feeds the last convolution before the feature layer; "" if nothing that has a name does."""
    end = find(classifier, classifier.given_layer or "", size).site
    with left_as_it_was(classifier), torch.inference_mode(False):
        steps = _trace(classifier, size)
    feeds = ""
    for step in steps:
        if step.function == "conv2d" and step.input is not None:
            source = steps[step.input]
            feeds = source.site.name if source.layout else ""
        if step.site == end:
            break
    return feeds


# ---------------------------------------------------------------------------------------------------------------------
# A pass that is watched


class _Step(NamedTuple):
    site: Site
    function: str
    layout: Layout | None  #: None: no map, or one that does not follow the image
    sure: bool  #: it was seen to follow the image; False: nothing changed anywhere
    input: int | None  #: the step that made the first argument


class _Watch(TorchFunctionMode):
    """Hands every tensor that a torch function makes to `seen(name, arguments, output)`, whose answer takes its place."""

    def __init__(self, seen: Callable[[str, Any, Tensor], Any]) -> None:
        super().__init__()
        self.seen = seen

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        if isinstance(output, Tensor) and output.ndim in (3, 4) and output.is_floating_point():
            return self.seen(getattr(func, "__name__", "?"), args, output)
        return output


def _trace(classifier: Classifier, size: Size) -> list[_Step]:
    """Every output with three or four axes of a pass, in order, and whether it is a map."""
    made: list[tuple[str, int, Layout | None, bool, int | None]] = []
    newest: dict[int, tuple[weakref.ref[Tensor], int, int]] = {}  # tensor -> itself, its version and its step
    convolutional: set[int] = set()  # steps
    turned = False  # a map was seen that leans to the other side
    owners: dict[int, tuple[str, int]] = {}  # step -> module and call; an enclosing module ends later and takes its place
    runs: dict[str, int] = {}
    calls: dict[str, int] = {}
    images = classifier.normalise(_quarters(classifier, size))

    def made_by(value: Any, unwritten: bool = False) -> int | None:
        known = newest.get(id(value)) if isinstance(value, Tensor) else None
        if known is None or known[0]() is not value or (unwritten and known[1] != value._version):
            return None
        return known[2]

    def seen(name: str, args: Any, output: Tensor) -> Tensor:
        nonlocal turned
        first = args[0][0] if args and isinstance(args[0], list | tuple) and args[0] else args[0] if args else None
        source = made_by(first)
        if name in _CONVOLUTIONAL or (source in convolutional and output.shape[2:] == first.shape[2:]):
            convolutional.add(len(made))
        layout, lean = _layout(output, size, len(images))
        sure = lean is not None and lean > LEAN
        if len(made) in convolutional and layout and layout.kind == "channels first":
            turned = turned or (lean is not None and lean < -0.5)
            layout = layout if sure or (not turned and (lean is None or lean > -LEAN)) else None
        elif not sure:
            layout = None
        newest[id(output)] = weakref.ref(output), output._version, len(made)
        made.append((name, calls.get(name, 0), layout, sure, source))
        calls[name] = calls.get(name, 0) + 1
        return output

    def note(name: str) -> Callable[..., None]:
        def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
            call = runs[name] = runs.get(name, -1) + 1
            if (step := made_by(output, unwritten=True)) is not None:
                owners[step] = name, call

        return hook

    with _hooks(classifier, note), torch.no_grad(), words_for(classifier, size), _Watch(seen):
        classifier.logits_of(images)
    steps = []
    for i, (function, call, layout, sure, source) in enumerate(made):
        module, nth = owners.get(i, ("", call))
        site = Site(module, "" if module else function, nth, not module or nth == runs[module])
        steps.append(_Step(site, function, layout, sure, source))
    return steps


@contextmanager
def _hooks(classifier: Classifier, note: Callable[[str], Any]) -> Iterator[None]:
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


def _quarters(classifier: Classifier, size: Size) -> Tensor:
    """A random image, and it with another top left, top right, bottom left, bottom right quarter: `(5, C, H, W)`."""
    first, other = probes(2, classifier.channels, size, seed=1).to(classifier.device)
    images = first.repeat(5, 1, 1, 1)
    rows, columns = size[0] // 2, size[1] // 2
    for i, (down, right) in enumerate(((0, 0), (0, 1), (1, 0), (1, 1))):
        place = (slice(None), slice(rows, None) if down else slice(rows), slice(columns, None) if right else slice(columns))
        images[i + 1][place] = other[place]
    return images


def _layout(output: Tensor, size: Size, n: int) -> tuple[Layout | None, float | None]:
    """The layout in which `output` `(5, ...)` leans most to the changed quarters, and how far; see `_lean`."""
    found: list[tuple[float, Layout]] = []
    candidates = _candidates(tuple(output.shape), size) if len(output) == n else []
    for layout in candidates:
        lean = _lean(layout.maps(output))
        if lean is None:
            return layout, None
        found.append((lean, layout))
    if not found:
        return None, None
    lean, layout = max(found, key=lambda each: each[0])
    return layout, lean


def _candidates(shape: tuple[int, ...], size: Size) -> list[Layout]:
    if len(shape) == 4:
        found = [("channels first", shape[2], shape[3]), ("channels last", shape[1], shape[2])]
        return [Layout(kind, h, w) for kind, h, w in found if h * w > 1 and _proportionate(h, w, size)]
    for offset in range(min(PREFIX, shape[1] - 2) + 1):
        places = shape[1] - offset
        height = max(1, round((places * size[0] / size[1]) ** 0.5))
        if places % height == 0 and _proportionate(height, places // height, size):
            return [Layout("tokens", height, places // height, offset)]
    return []


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


# ---------------------------------------------------------------------------------------------------------------------
# The layer that is asked for


def _last(classifier: Classifier, size: Size) -> Place:
    steps = [s for s in _trace(classifier, size) if s.layout and (s.layout.kind != "tokens" or s.function in _NORMS)]
    seen = next((step for step in steps if step.sure), None)
    flat = seen is None or not _reaches(classifier, Place(seen.site, cast(Layout, seen.layout)), size, True)
    for strict in (False,) if flat else (True, False):  # flat: no gradient anywhere, as with a last layer of zeros
        for step in reversed(steps):
            place: Place | None = Place(step.site, cast(Layout, step.layout))
            if place and place.layout.kind == "tokens":
                place = _aligned(classifier, place, size)
            if place and _reaches(classifier, place, size, strict):
                return place
    raise ClassifierError(
        f"{classifier.name}: no layer gives feature maps (N, K, h, w) above 1x1 that follow the image and on which the scores "
        f"depend, for images of {size[0]} x {size[1]}; name one with feature_layer= or layer=, or take a method that needs none, "
        "such as lime or integrated_gradients"
    )


_NORMS = ("layer_norm", "rms_norm")
_CONVOLUTIONAL = {
    "conv2d", "conv_transpose2d", "max_pool2d", "avg_pool2d", "adaptive_avg_pool2d", "adaptive_max_pool2d", "batch_norm",
    "group_norm", "instance_norm", "interpolate", "pixel_shuffle", "boolean_dispatch", "fn", "lp_pool2d", "fractional_max_pool2d",
}  # fmt: skip


def _named(classifier: Classifier, layer: str, size: Size) -> Place:
    site = _site(classifier, layer, size)
    kept: list[Any] = []
    images = _quarters(classifier, size)

    def keep(output: Any) -> Any:
        kept.append(output.detach().clone() if isinstance(output, Tensor) else output)
        return output

    with torch.no_grad(), words_for(classifier, size):
        logits = run(classifier, images, site, keep)
    output = kept[0]
    shape = (1, *output.shape[1:]) if isinstance(output, Tensor) and len(output) == len(images) else None
    if not shape or len(shape) not in (3, 4) or not output.is_floating_point() or not _candidates(shape, size):
        found = shape or (tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__)
        raise _no_maps(classifier, layer, size, f"gives {found}, not maps (N, K, h, w) above 1x1")
    steps = _trace(classifier, size)
    layout = next((step.layout for step in steps if step.site == site), None)
    if layout is None:  # made by an operation that the trace does not see
        layout, lean = _layout(output, size, len(images))
        layout = layout if lean is not None and lean > LEAN else None
    place = Place(site, layout) if layout else None
    if place and place.layout.kind == "tokens":
        place = _aligned(classifier, place, size)
    if place is None:
        what = f"gives {shape}, which does not follow the image: a quarter that is changed does not change it most"
        raise _no_maps(classifier, layer, size, f"{what} there")
    if not _matters(classifier, site, images, logits):
        raise _no_maps(classifier, layer, size, "gives maps on which the scores do not depend")
    return place


def _matters(classifier: Classifier, site: Site, images: Tensor, logits: Tensor) -> bool:
    """Whether other values at a site give other logits than `logits`; needs no gradients."""

    def disturbed(output: Tensor) -> Tensor:
        noise = torch.randn(output.shape, generator=torch.Generator().manual_seed(0)).to(output)
        return output + noise * (1 + output.std())

    with torch.no_grad():
        return not torch.equal(run(classifier, images, site, disturbed), logits)


def _site(classifier: Classifier, layer: str, size: Size) -> Site:
    """Where the named layer runs in a pass."""
    runs: dict[str, int] = {}

    def note(name: str) -> Callable[..., None]:
        return lambda *_: runs.update({name: runs.get(name, 0) + 1})

    def seen(name: str, _args: Any, output: Tensor) -> Tensor:
        key = f"F.{name}"
        runs[key] = runs.get(key, 0) + 1
        return output

    name, number = layer, ""
    if found := re.fullmatch(r"(.+)#(\d+)", layer):
        name, number = found[1], found[2]
    if not name.startswith("F."):
        classifier.layer(name)  # an unknown one is an error with the nearest names
    inputs = classifier.normalise(_quarters(classifier, size)[:1])
    with _hooks(classifier, note), torch.no_grad(), words_for(classifier, size), _Watch(seen):
        classifier.logits_of(inputs)
    if not runs.get(name):
        known = [n for n in runs if n.startswith("F.") == name.startswith("F.")]
        raise ClassifierError(f"{classifier.name}: {name!r} does not run in a forward pass; {nearest(name, known)}")
    call = int(number) - 1 if number else runs[name] - 1
    if not 0 <= call < runs[name]:
        raise ClassifierError(f"{classifier.name}: {name!r} runs {runs[name]} times in a forward pass; {layer!r} is none of them")
    function = name.removeprefix("F.") if name.startswith("F.") else ""
    return Site("" if function else name, function, call, call == runs[name] - 1)


def _no_maps(classifier: Classifier, layer: str, size: Size, why: str) -> ClassifierError:
    try:
        working = [name for name, _ in named_maps(classifier, size)]
    except ClassifierError:
        working = []
    some = list(dict.fromkeys([*working[:: max(1, len(working) // 5)], *working[-1:]]))
    hint = f"layers that work: {', '.join(some)}" if some else "no module of it gives such maps"
    return ClassifierError(f"{classifier.name}: layer {layer!r} {why}; {hint} (layer= or feature_layer=)")


def _reaches(classifier: Classifier, place: Place, size: Size, strict: bool) -> bool:
    """Whether the scores depend on the maps at a place; with `strict` their gradient there must not vanish."""
    held: list[Tensor] = []
    images = _quarters(classifier, size)

    def cut(output: Tensor) -> Tensor:
        held.append(output.detach().requires_grad_())
        return held[-1].clone()

    with torch.enable_grad():
        classifier.requires_grad_(False)
        try:
            scores = classifier.log_odds(run(classifier, images[:1], place.site, cut)).max()
            gradient = torch.autograd.grad(scores, held[0])[0] if scores.requires_grad else None
        except RuntimeError:  # quantised, or made under inference_mode: methods without gradients may still look
            gradient = None
    if gradient is None:
        with torch.no_grad():
            return _matters(classifier, place.site, images, classifier(images))
    return not strict or bool(place.layout.maps(gradient).any())


def _aligned(classifier: Classifier, place: Place, size: Size) -> Place | None:
    """Tokens whose first one was looked for by changing single cells of the image; None if no token answers."""
    layout = place.layout
    cells = torch.randperm(layout.height * layout.width, generator=torch.Generator().manual_seed(0))[:8].tolist()
    first, other = probes(2, classifier.channels, size, seed=1).to(classifier.device)
    images = first.repeat(len(cells) + 1, 1, 1, 1)
    for i, cell in enumerate(cells, 1):
        row, column = divmod(cell, layout.width)
        down, right = (slice(round(at * n / of), round((at + 1) * n / of)) for at, n, of in
                       ((row, size[0], layout.height), (column, size[1], layout.width)))  # fmt: skip
        images[i, :, down, right] = other[:, down, right]
    kept: list[Tensor] = []
    with torch.no_grad():
        run(classifier, images, place.site, lambda output: kept.append(output) or output)
    change = (kept[0][1:] - kept[0][:1]).float().abs().mean(2)
    change = change / change.sum(1, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny)
    change = change - change.mean(0)  # what every change moves, such as a class token, says nothing
    offsets = range(change.shape[1] - layout.height * layout.width + 1)
    answers = [float(sum(change[i, offset + cell] for i, cell in enumerate(cells))) for offset in offsets]
    best = max(offsets, key=lambda offset: answers[offset])
    if answers[best] <= 0:
        return None
    return Place(place.site, layout._replace(offset=best))
