"""The one contract: what goes into an explainer, what comes out, and the registry that finds explainers by name.

A method is one file under `xai_lib/explainers/` with one subclass of `Explainer`; writing it registers it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import numbers
import operator
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import UnionType
from typing import Any, ClassVar, Self, Union, cast, get_args, get_origin, get_type_hints

import numpy as np
import torch
from torch import Tensor

from xai_lib.classifiers import Classifier, left_as_it_was
from xai_lib.errors import XaiError

Targets = int | Sequence[int] | Tensor | None


class ExplanationError(XaiError):
    """Input that no explainer can take: wrong shape, range, type, target or settings."""


class UnknownExplainer(XaiError):
    """A name that no registered explainer has."""


@dataclass(frozen=True)
class Settings:
    """Base of every method's settings: frozen, compared by value, and the same after a trip through JSON."""

    def to_json(self) -> str:
        """All fields as one JSON object."""
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str | Path) -> Self:
        """The settings that `to_json` wrote: its text, or the path of a file that holds it.

        A string that does not start with "{" is a path. Lists become tuples in fields of that type. Raises
        `ExplanationError` for a file that is missing or holds no JSON object, and for an unknown field.
        """
        where, values = _json_object(text)
        hints = get_type_hints(cls)
        known = [f.name for f in dataclasses.fields(cls)]
        wrong = sorted(set(values) - set(known))
        if wrong:
            raise ExplanationError(f"{where}{cls.__qualname__} has no field {', '.join(wrong)}; its fields: {', '.join(known)}")
        return cls(**{name: _with_tuples(value, hints[name]) for name, value in values.items()})


def _json_object(text: str | Path) -> tuple[str, dict[str, Any]]:
    """The object in a JSON text or file, and what messages about it begin with."""
    where = ""
    if isinstance(text, Path) or not text.lstrip().startswith("{"):
        where = f"settings file {text}: "
        try:
            text = Path(text).read_text(encoding="utf-8")
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else "no text in UTF-8"
            raise ExplanationError(
                f"{where}cannot be read ({reason}); pass the path of a file with what to_json() wrote, or that text itself, "
                "which starts with {"
            ) from None
    try:
        values = json.loads(text)
    except json.JSONDecodeError as error:
        raise ExplanationError(f"{where}expected a JSON object, found no valid JSON ({error}); write it with to_json()") from None
    if not isinstance(values, dict):
        raise ExplanationError(f"{where}expected a JSON object, found {type(values).__name__}; write it with to_json()")
    return where, values


def _with_tuples(value: Any, hint: Any) -> Any:
    """JSON knows lists alone: they are tuples again where the field's type says so, however deep."""
    if get_origin(hint) in (Union, UnionType):
        hint = next((h for h in get_args(hint) if tuple in (h, get_origin(h))), hint)
    if not isinstance(value, list) or tuple not in (hint, get_origin(hint)):
        return value
    inner = get_args(hint) or (Any, ...)
    hints = [inner[0]] * len(value) if ... in inner or len(inner) != len(value) else inner
    return tuple(_with_tuples(v, h) for v, h in zip(value, hints, strict=True))


@dataclass
class Explanation:
    """What an explainer answers for `N` images.

    `maps` is `(N, H, W)` float32, where the images were: relevance of each pixel for the target's score. With
    `signed` zero means "no influence" and negative values speak against the target; without, values are >= 0.
    `network_calls` counts the images that went forward or backward through the network, `seconds` is wall time.
    `details` holds one dict an image with whatever the method found beside the map.
    """

    method: str
    targets: Tensor
    maps: Tensor
    signed: bool
    network_calls: int
    seconds: float
    details: list[dict[str, Any]] = field(default_factory=list)

    def _repr_png_(self) -> bytes:
        from xai_lib import plots  # matplotlib is loaded only when somebody looks

        return plots.png(plots.maps(self.maps, signed=self.signed, titles=[f"class {int(t)}" for t in self.targets]))


class Explainer(ABC):
    """A method behind the common contract: `explain(classifier, images, targets, settings, seed)`.

    A subclass names itself, says what it needs, and implements `explain_image`. Its random numbers come from the
    generator it is handed, which depends on `seed` and on the image's own pixels and target, so that the result
    does not change with the order or the number of the images beside it.
    """

    name: ClassVar[str]
    title: ClassVar[str]  #: one line for tables
    source: ClassVar[str]  #: the paper
    needs: ClassVar[str]  #: what it asks of a network: "probabilities", "gradients", "layers"
    cost: ClassVar[str]  #: network calls an image at the default settings, in words
    signed: ClassVar[bool]
    settings_class: ClassVar[type[Settings]] = Settings  #: the method's own

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "name" in cls.__dict__:
            _registry[cls.name] = cls

    @abstractmethod
    def explain_image(
        self, classifier: Classifier, image: Tensor, target: int, settings: Any, rng: np.random.Generator
    ) -> tuple[Tensor, int, dict[str, Any]]:
        """One image `(C, H, W)`: its map `(H, W)`, the number of network calls, and the details."""

    def explain(
        self,
        classifier: Classifier,
        images: Tensor,
        targets: Targets = None,
        settings: Settings | None = None,
        seed: int = 0,
    ) -> Explanation:
        """Explain `images` `(N, C, H, W)`, float, values 0..1, not normalised (the classifier does that).

        They may be on another device than the classifier; the answer is where they are.
        `targets`: one class for all, one an image, or None for the class predicted for each. Raises
        `ExplanationError` for anything else, and `ClassifierError` for a network that cannot be
        explained (`Classifier.check`). The network is left as it was, also after an exception.
        """
        home = images.device if isinstance(images, Tensor) else None
        settings = self._checked_settings(settings)
        with torch.inference_mode(False), left_as_it_was(classifier), classifier.held():
            images = checked_images(images, classifier.channels).to(classifier.device)
            classifier.check((images.shape[2], images.shape[3]))
            started = time.perf_counter()
            wanted, calls = resolve_targets(classifier, images, targets)
            maps, details = [], []
            for image, target in zip(images, wanted.tolist(), strict=True):
                saliency, n, info = self.explain_image(classifier, image, target, settings, rng_for(seed, image, target))
                maps.append(saliency.to(home, torch.float32))
                details.append(info)
                calls += n
        return Explanation(
            self.name, wanted.to(home), torch.stack(maps), self.signed, calls, time.perf_counter() - started, details
        )

    def _checked_settings(self, settings: Settings | None) -> Settings:
        if settings is None:
            return self.settings_class()
        if not isinstance(settings, self.settings_class):
            raise ExplanationError(
                f"{self.name} expects settings of type {self.settings_class.__qualname__}, found "
                f"{type(settings).__qualname__}; pass {type(self).__module__}.{self.settings_class.__name__}(...) or None"
            )
        return settings


_registry: dict[str, type[Explainer]] = {}


def registered() -> dict[str, type[Explainer]]:
    """The explainers whose modules have been imported, by name (`explainers.names()` imports them all)."""
    return dict(sorted(_registry.items()))


def checked_images(images: Tensor, channels: int | None = 3) -> Tensor:
    """`images` as float32, or `ExplanationError` unless they are `(N, channels, H, W)`, finite and within 0..1.

    `channels` None: any number of them.
    """
    words = f"(N, {channels or 'C'}, H, W)"
    if not isinstance(images, Tensor):
        raise ExplanationError(f"images: expected a tensor {words}, found {type(images).__name__}")
    shape = tuple(images.shape)
    if images.ndim != 4 or shape[1] != (channels or shape[1]) or 0 in shape:
        hint = "; add the batch axis with image[None]" if images.ndim == 3 else ""
        if images.ndim == 4 and 0 not in shape:
            hint = (
                f"; the classifier has {channels} channels by its mean and std: Classifier(network, mean=..., std=...) with "
                f"{shape[1]} values each is for images of {shape[1]}"
            )
        raise ExplanationError(f"images: expected shape {words} with N, H, W > 0, found {shape}{hint}")
    if not images.is_floating_point():
        raise ExplanationError(f"images: expected floats in 0..1, found {images.dtype}; divide bytes by 255")
    low, high = images.detach().aminmax()
    if not (torch.isfinite(low) and torch.isfinite(high)):
        raise ExplanationError("images: found NaN or infinite values")
    if low < 0 or high > 1:
        raise ExplanationError(
            f"images: expected values in 0..1, found {float(low):.3g}..{float(high):.3g}; pass pictures before "
            "normalisation, the classifier normalises"
        )
    images = images.detach().float()
    return images.clone() if images.is_inference() else images  # autograd cannot use what inference_mode made


def resolve_targets(classifier: Classifier, images: Tensor, targets: Targets) -> tuple[Tensor, int]:
    """The target class of each image `(N,)`, and the network calls spent on finding it (N for None, else 0)."""
    n = len(images)
    if targets is None:
        # one image at a time: a float32 batch of another size may round a tie to another class
        predicted = [classifier.probabilities(image[None]).argmax(1) for image in images]
        return torch.cat(predicted), n
    if isinstance(targets, Tensor):
        if targets.is_floating_point() or targets.dtype == torch.bool:
            raise ExplanationError(f"targets: expected integers, found a tensor of {targets.dtype}")
        targets = cast("int | list[int]", targets.tolist())
    try:
        wanted = [operator.index(targets)] * n if not isinstance(targets, Sequence) else [*map(operator.index, targets)]
    except TypeError:
        raise ExplanationError(f"targets: expected an int, a sequence or a tensor of ints, found {targets!r}") from None
    if len(wanted) != n:
        raise ExplanationError(f"targets: expected {n}, one an image, found {len(wanted)}")
    for target in wanted:
        if not 0 <= target < classifier.classes:
            raise ExplanationError(f"targets: class {target} is not among the {classifier.classes} of {classifier.name}")
    return torch.tensor(wanted, device=images.device), 0


def rng_for(seed: int, image: Tensor, target: int) -> np.random.Generator:
    """The random numbers of one image: they depend on `seed`, its pixels and its target, and on nothing else."""
    if not isinstance(seed, numbers.Integral):
        raise ExplanationError(f"seed: expected a whole number, found {seed!r}; there is no seed that means chance")
    content = image.detach().cpu().contiguous().numpy().tobytes()
    digest = hashlib.blake2b(content, digest_size=8, salt=target.to_bytes(8, "little")).digest()
    return np.random.default_rng([abs(int(seed)), int(seed < 0), int.from_bytes(digest, "little")])
