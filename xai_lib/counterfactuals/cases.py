"""The mistakes of a classifier, and what the search needs of each: features, class vectors, a method for relevance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from xai_lib import explainers
from xai_lib.classifiers import Classifier, ClassifierError
from xai_lib.classifiers.layers import named_maps
from xai_lib.errors import whole
from xai_lib.explanation import Explainer, ExplanationError, checked_images, left_as_it_was
from xai_lib.generators import Generator, GeneratorError
from xai_lib.relevance import UnsupportedNetwork


class Mistake(NamedTuple):
    """A misclassified picture: its place, its class, and the class that it was taken for, with the probability of that."""

    index: int  # type: ignore[assignment]  # hides tuple.index, which nobody looks for here
    true: int
    predicted: int
    probability: float


@torch.no_grad()
def find_misclassified(classifier: Classifier, images: Tensor, labels: Sequence[int] | Tensor, batch: int = 64) -> list[Mistake]:
    """The images `(N, C, H, W)` in 0..1 that the classifier does not take for their label, in order.

    Raises `GeneratorError` for other images, and for labels that are not one class of the classifier for each.
    """
    checked(classifier, images)
    wanted = torch.as_tensor(labels)
    if wanted.ndim != 1 or len(wanted) != len(images):
        raise GeneratorError(f"find_misclassified: {len(images)} pictures, but {wanted.numel()} labels")
    for label in sorted(set(wanted.tolist())):
        _check_class(classifier, "label", label)
    with left_as_it_was(classifier):
        found = [classifier.probabilities(part.to(classifier.device)).max(1) for part in images.split(batch)]
    probability, named = (torch.cat([part[k].cpu() for part in found]) for k in range(2))
    return [Mistake(i, int(wanted[i]), int(named[i]), float(probability[i])) for i in (named != wanted).nonzero()[:, 0].tolist()]


def class_vectors(classifier: Classifier, image: Tensor, true: int, predicted: int, generator: Generator) -> dict[str, Tensor]:
    """The three class vectors of the paper, `(1, classes)` each: "correct", "wrong", and "softmax", the "vector between".

    The softmax is the classifier's of `image` `(1, 3, H, W)`, all classes as they are. Raises `GeneratorError` where generator
    and classifier know different numbers of classes, for a class that they do not know, and for images outside of 0..1.
    """
    if classifier.classes != generator.classes:
        raise GeneratorError(
            f"{generator.name} makes {generator.classes} classes, {classifier.name} knows {classifier.classes}: take a pair that "
            "was made on the same classes"
        )
    for name, label in (("true", true), ("predicted", predicted)):
        _check_class(classifier, name, label)
    checked(classifier, image)
    with left_as_it_was(classifier):
        softmax = classifier.probabilities(image.to(classifier.device))
    one_hot = F.one_hot(torch.tensor([true, predicted]), classifier.classes).float().to(softmax)
    return {"correct": one_hot[:1], "wrong": one_hot[1:], "softmax": softmax}


def checked(classifier: Classifier, images: Tensor) -> Tensor:
    """The images, or `GeneratorError` unless they are `(N, C, H, W)`, finite, in 0..1 and of the classifier's channels."""
    try:
        checked_images(images, classifier.channels)
    except ExplanationError as error:
        raise GeneratorError(str(error)) from None
    return images


def checked_vectors(generator: Generator, class_vectors: Mapping[str, Tensor]) -> None:
    """`GeneratorError` unless each class vector is `(1, classes)` or `(classes,)` of the generator, finite and floating."""
    for kind, vector in class_vectors.items():
        if vector.shape not in ((generator.classes,), (1, generator.classes)):
            raise GeneratorError(f"class vector {kind!r}: expected (1, {generator.classes}), found {tuple(vector.shape)}")
        if not vector.is_floating_point() or not bool(torch.isfinite(vector).all()):
            found = "NaN or infinite values" if vector.is_floating_point() else str(vector.dtype)
            raise GeneratorError(f"class vector {kind!r}: expected finite floats, found {found}")


def _check_class(classifier: Classifier, name: str, label: object) -> None:
    whole(name, label, 0, GeneratorError)
    if int(label) >= classifier.classes:  # type: ignore[call-overload]
        raise GeneratorError(f"{name}: class {label} is not among the {classifier.classes} of {classifier.name}")


def resized(classifier: Classifier, images: Tensor) -> Tensor:
    """Generated pictures at the classifier's size, bilinear with antialias (our choice; the paper says nothing)."""
    size = classifier.view.size
    if images.shape[-2:] == (size, size):
        return images
    return F.interpolate(images, size=(size, size), mode="bilinear", antialias=True, align_corners=False).clamp(0, 1)


def pooled_layer(classifier: Classifier) -> str:
    """The layer whose features Eq. 1 compares: the last max pooling of the convolutions, 7x7x512 on VGG-19 (paper).

    On a network whose last max pooling stands near its input (ResNet) or that has none: `feature_layer`, the last features before
    the dense part, or where that is a function and no module the last module that gives maps (our choice).
    """
    names = [name for name, module in classifier.network.named_modules() if isinstance(module, nn.MaxPool2d)]
    last = names[-1] if len(names) > 1 else classifier.feature_layer
    if last in dict(classifier.network.named_modules()):
        return last
    maps = [name for name, _ in named_maps(classifier, (classifier.view.size,) * 2) if "#" not in name]
    if not maps:
        raise ClassifierError(f"{classifier.name}: no module gives feature maps that could be compared; name one with layer=")
    return maps[-1]


def features(classifier: Classifier, images: Tensor, layer: str = "") -> Tensor:
    """High-level features `(N, C, h, w)` of images in 0..1, those of `pooled_layer` if no layer is named.

    Gradients reach the images. `search.Features` is the same, faster, for many images. Raises `GeneratorError` for images with
    NaN or outside of 0..1: cosines of their features mean nothing.
    """
    checked(classifier, images)
    found: list[Tensor] = []
    hook = classifier.layer(layer or pooled_layer(classifier)).register_forward_hook(
        lambda _m, _i, out: found.append(out.clone())
    )  # an activation may follow in place
    try:
        classifier(resized(classifier, images))
    finally:
        hook.remove()
    return found[-1]


def relevance_method(classifier: Classifier) -> tuple[Explainer, str]:
    """RAP where the network allows it (VGG, ResNet), else LRP in the usual composite, which conserves as well; with its name."""
    size = classifier.view.size
    probe = torch.rand(1, classifier.channels, size, size, generator=torch.Generator().manual_seed(0)).to(classifier.device)
    try:
        explainers.get("rap").explain(classifier, probe, targets=0)
    except UnsupportedNetwork:
        return explainers.get("lrp"), "LRP (ε in dense layers, z⁺ in convolutions)"
    return explainers.get("rap"), "RAP"
