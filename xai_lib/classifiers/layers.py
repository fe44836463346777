"""Which tensors of a forward pass are maps over the image, how they lie in memory, and what they are called.

A network is traced: every call of a torch function is seen, whether a module makes it or the code of
`forward`, so that `F.relu` counts as `nn.ReLU` does. `tracing` decides what is a map.

A layer has the dotted name of its module. A module that runs several times means its last run;
`name#1` is the first one, and `F.relu#2` the second call of that function in a pass.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple, cast
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from xai_lib.classifiers.modes import left_as_it_was
from xai_lib.classifiers.tracing import (
    LEAN,
    Layout,
    Site,
    Size,
    Through,
    Watch,
    candidates,
    grids,
    hooked,
    layout_of,
    quarters,
    trace,
)
from xai_lib.classifiers.trial import ClassifierError, probes, words_for
from xai_lib.errors import nearest

if TYPE_CHECKING:
    from xai_lib.classifiers.classifier import Classifier


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
    with Watch(lambda name, _args, output: met(output) if name == site.function else output):
        return classifier.logits_of(inputs)


def named_maps(classifier: Classifier, size: Size) -> list[tuple[str, Size]]:
    """Names and sizes (h, w) of the modules whose outputs are maps that follow the image, in the order of a pass."""
    with left_as_it_was(classifier), torch.inference_mode(False):
        steps = trace(classifier, size)
    return [(s.site.name, (s.layout.height, s.layout.width)) for s in steps if s.layout and s.site.module]


def before_last_convolution(classifier: Classifier, size: Size) -> str:
    """The name of what feeds the last convolution before the feature layer; "" if nothing that has a name does."""
    end = find(classifier, classifier.given_layer or "", size).site
    with left_as_it_was(classifier), torch.inference_mode(False):
        steps = trace(classifier, size)
    feeds = ""
    for step in steps:
        if step.function == "conv2d" and step.input is not None:
            source = steps[step.input]
            feeds = source.site.name if source.layout else ""
        if step.site == end:
            break
    return feeds


# ---------------------------------------------------------------------------------------------------------------------
# The layer that is asked for


def _last(classifier: Classifier, size: Size) -> Place:
    steps = [s for s in trace(classifier, size) if s.layout and (s.layout.kind != "tokens" or s.function in _NORMS)]
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


def _named(classifier: Classifier, layer: str, size: Size) -> Place:
    site = _site(classifier, layer, size)
    kept: list[Any] = []
    images = quarters(classifier, size)

    def keep(output: Any) -> Any:
        kept.append(output.detach().clone() if isinstance(output, Tensor) else output)
        return output

    with torch.no_grad(), words_for(classifier, size):
        run(classifier, images, site, keep)
    output = kept[0]
    shape = (1, *output.shape[1:]) if isinstance(output, Tensor) and len(output) == len(images) else None
    if not shape or len(shape) not in (3, 4) or not output.is_floating_point() or not candidates(shape, size):
        found = shape or (tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__)
        raise _no_maps(classifier, layer, size, f"gives {found}, not maps (N, K, h, w) above 1x1")
    steps = trace(classifier, size)
    layout = next((step.layout for step in steps if step.site == site), None)
    if layout is None:  # made by an operation that the trace does not see
        layout, lean = layout_of(output, size, len(images), grids(steps))
        layout = layout if lean is not None and lean > LEAN else None
    place = Place(site, layout) if layout else None
    if place and place.layout.kind == "tokens":
        place = _aligned(classifier, place, size)
    if place is None:
        what = f"gives {shape}, which does not follow the image: a quarter that is changed does not change it most"
        raise _no_maps(classifier, layer, size, f"{what} there")
    if not _reaches(classifier, place, size, False):
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
    inputs = classifier.normalise(quarters(classifier, size)[:1])
    with hooked(classifier, note), torch.no_grad(), words_for(classifier, size), Watch(seen):
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
    """Whether the scores depend on the maps at a place; with `strict` their gradient there must not vanish.

    Where it vanishes at the tokens of the image and not at the class token, they never do.
    """
    held: list[Tensor] = []
    images = quarters(classifier, size)

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
    of_image = bool(place.layout.maps(gradient).any())
    return of_image or not (strict or bool(gradient.any()))  # class tokens alone are no map


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

    def keep(output: Tensor) -> Tensor:
        kept.append(output.detach().clone())
        return output

    with torch.no_grad():
        run(classifier, images, place.site, keep)
    change = (kept[0][1:] - kept[0][:1]).float().abs().mean(2)
    change = change / change.sum(1, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny)
    change = change - change.mean(0)  # what every change moves, such as a class token, says nothing
    offsets = range(change.shape[1] - layout.height * layout.width + 1)
    answers = [float(sum(change[i, offset + cell] for i, cell in enumerate(cells))) for offset in offsets]
    best = max(offsets, key=lambda offset: answers[offset])
    if answers[best] <= 0:
        return None
    return Place(place.site, layout._replace(offset=best))
