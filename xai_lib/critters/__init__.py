"""Drawn animals and bottles on cluttered backgrounds, whose parts and parameters are known: a world with true explanations.

Eight classes, among them the confusions of Suzuki et al. (brown bear with standard poodle and with gibbon, pop bottle with beer
bottle). No part belongs to one class alone: classes differ in how wide a neck or how round a shoulder is, and overlap in that.

```python
one = critters.critter("brown_bear", index=3, seed=0)     # its numbers: shape, coat, pose, light
drawing = one.draw(224)                                   # pixels (224, 224, 3) uint8, parts["neck"] (224, 224) bool
one.with_(neck_width=0.4).draw(224)                       # the same bear in the same place with a poodle's neck
many = critters.batch([0, 1], range(2), seed=0, size=64)  # images (2, 3, 64, 64), parameters, parts
images.load("critters", per_class=50, size=64)            # as a sequence of pictures
```
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from xai_lib.critters.ceiling import ceiling
from xai_lib.critters.parameters import NAMES, PARAMETERS, PART_OF, SPREADS, Parameter, random_parameters, row
from xai_lib.errors import XaiError, nearest, whole

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "CLASSES", "CREDIT", "NAMES", "PARAMETERS", "PARTS", "PART_OF", "SPREADS", "Batch", "Critter", "CritterError", "Drawing",
    "Parameter", "batch", "ceiling", "check", "critter", "table",
]  # fmt: skip

CLASSES = tuple(SPREADS)
"""A label is a place in this list."""
PARTS = (
    "body", "neck", "topknot", "ears", "head", "face", "snout", "beak", "nose", "eyes",
    "glass", "shoulder", "bottle_neck", "cap", "label", "highlight",
)  # fmt: skip
"""What is seen at a pixel is a place in this list, from 1; 0 is the background. Ten parts of animals, six of bottles."""
CREDIT = "synthetic, drawn by xai_lib.critters"
SMALLEST = 32


class CritterError(XaiError):
    """A class, parameter, size, seed or index that cannot be drawn."""


@dataclass(frozen=True, eq=False)
class Drawing:
    """A drawn critter.

    `pixels`: `(H, W, 3)` uint8. `parts`: name to `(H, W)` bool, the parts of its family, where they are *seen*: no pixel is in
    two, and "head" is the head without face, eyes and snout. All False for a part that is hidden or too small.
    """

    pixels: np.ndarray = field(repr=False)
    parts: dict[str, np.ndarray] = field(repr=False)

    @property
    def mask(self) -> np.ndarray:
        """`(H, W)` bool: the whole critter as far as it is seen."""
        return np.any(list(self.parts.values()), axis=0)


@dataclass(frozen=True)
class Critter:
    """All that makes one picture; drawing it twice gives the same bytes (with the same versions on one machine).

    `parameters`: name to number, in the units and ranges of `PARAMETERS`, those of its family: shape, coat, pose and light.
    `backdrop`: seed of what is behind and before it and of the noise.
    """

    kind: str
    parameters: Mapping[str, float]
    backdrop: int = 0

    def with_(self, **changes: float) -> Critter:
        """The same critter in the same picture but for the parameters named, such as `neck_width=0.4`; `kind` stays.

        What neither part nor its shadow touches stays as it is. Raises `CritterError` for an unknown name, or a number out of
        the range of `PARAMETERS`.
        """
        for name, value in changes.items():
            if name not in self.parameters:
                raise CritterError(f"a {self.kind} has no parameter {name!r}; {nearest(name, list(self.parameters))}")
            known = PARAMETERS[name]
            if not known.low <= value <= known.high:
                wanted = f"a number from {known.low} to {known.high} ({known.meaning})"
                raise CritterError(f"{name}: expected {wanted}, found {value!r}")
        return dataclasses.replace(self, parameters={**self.parameters, **changes})

    def draw(self, size: int = 224) -> Drawing:
        """The picture as a square of `size` pixels. Raises `CritterError` for less than 32."""
        from xai_lib.critters.painting import paint

        whole("size", size, SMALLEST, CritterError)
        pictures, parts = paint(row(self.parameters)[None], [self.backdrop], size)
        own = range(10) if "ear_length" in self.parameters else range(10, len(PARTS))
        seen = parts[0].numpy()
        return Drawing(pictures[0].permute(1, 2, 0).contiguous().numpy(), {PARTS[i]: seen == i + 1 for i in own})


@dataclass(frozen=True, eq=False)
class Batch:
    """Many critters, drawn together; row i is the picture of `critter(kind, index, seed)` bit by bit.

    `images`: `(N, 3, size, size)` float32, 0..1, exactly k/255. `labels`: `(N,)` int64. `parameters`: `(N, P)` float32, columns
    `NAMES`, NaN where a family has no such number. `parts`: `(N, size, size)` uint8, places in `PARTS` from 1, 0 elsewhere.
    """

    images: Tensor = field(repr=False)
    labels: Tensor = field(repr=False)
    parameters: Tensor = field(repr=False)
    parts: Tensor = field(repr=False)

    def mask(self, part: str | None = None) -> Tensor:
        """`(N, size, size)` bool: where this part is seen, or the whole critter."""
        if part is None:
            return self.parts > 0
        if part not in PARTS:
            raise CritterError(f"no part is called {part!r}; {nearest(part, PARTS)}")
        return self.parts == PARTS.index(part) + 1


def critter(kind: str, index: int = 0, seed: int = 0) -> Critter:
    """The numbers of one picture: they depend on class, `index` and `seed` alone.

    `kind`: one of `CLASSES`. `index`, `seed`: whole numbers from 0. Shape is drawn from the class's spread, but one parameter in
    fifty from that of a class with which it is confused, and in every twentieth picture two in five: a hybrid, called after
    the greater part. Coat, pose, light and backdrop are drawn alike for every class, but that glass has other colours than fur.
    Raises `CritterError`.
    """
    if kind not in CLASSES:
        raise CritterError(f"no class of critters is called {kind!r}; {nearest(str(kind), CLASSES)}")
    whole("index", index, 0, CritterError)
    whole("seed", seed, 0, CritterError)
    shape, rest = (np.random.default_rng([seed, CLASSES.index(kind), index, part]) for part in range(2))
    return Critter(kind, random_parameters(kind, shape, rest), int(rest.integers(2**31)))


def batch(
    kinds: Sequence[str | int] | Sequence[Critter], indices: Iterable[int] = itertools.count(), seed: int = 0, size: int = 64
) -> Batch:
    """Draw many at once, in 3 to 5 ms a picture of 64 pixels on one core.

    `kinds`: names or labels, `(N,)`, with `indices` as many whole numbers; or critters, for which `indices` and `seed` do not
    matter. Raises `CritterError`.
    """
    import torch

    from xai_lib.critters.painting import paint

    check(size, seed)
    named = zip(kinds, indices, strict=False)  # indices may be endless
    many = [one if isinstance(one, Critter) else critter(_kind(one), index, seed) for one, index in named]
    if len(many) != len(kinds):
        raise CritterError(f"batch: {len(kinds)} kinds, but only {len(many)} indices")
    numbers = table(many)
    pictures, parts = paint(numbers, [one.backdrop for one in many], size)
    labels = torch.tensor([CLASSES.index(one.kind) for one in many], dtype=torch.int64)
    return Batch(pictures.float().div_(255), labels, torch.from_numpy(numbers), parts)


def table(many: Iterable[Critter]) -> np.ndarray:
    """The numbers of many critters, `(N, P)` float32 as in `Batch.parameters`, without drawing them."""
    return np.array([row(one.parameters) for one in many], np.float32).reshape(-1, len(NAMES))


def _kind(kind: object) -> str:
    if isinstance(kind, str):
        return kind
    whole("label", kind, 0, CritterError)
    if int(kind) >= len(CLASSES):  # type: ignore[call-overload]
        raise CritterError(f"label: expected 0..{len(CLASSES) - 1}, found {kind!r}")
    return CLASSES[int(kind)]  # type: ignore[call-overload]


def check(size: int, seed: int) -> None:
    """Raise `CritterError` for a size (pixels) or a seed that no critter can have, before any is drawn."""
    whole("size", size, SMALLEST, CritterError)
    whole("seed", seed, 0, CritterError)
