"""Greed as a rival of evolution: remove, or add, the one superpixel that helps most, again and again. Our control."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from torch import Tensor

from xai_lib import explanation
from xai_lib.classifiers import Classifier
from xai_lib.explanation import Explainer, ExplanationError
from xai_lib.superpixels import Fill, Fitness, Segmentation, segment


@dataclass(frozen=True)
class Settings(explanation.Settings):
    """Greedy search at the calls of the method it is compared with."""

    calls: int = 300  #: images sent through the network, the float32 judging of the best included
    segmentation: Segmentation = "quickshift"  #: as E-LIME
    fill: Fill = "black"  #: as E-LIME
    judged: int = 4  #: leading masks whose probability is computed again in float32

    def __post_init__(self) -> None:
        if self.judged < 1 or self.calls <= self.judged:
            raise ExplanationError(f"greedy search: expected more calls than judged masks, at least 1; found {self}")


class GreedyDeletion(Explainer):
    """From the full image: one superpixel less a step, the one whose loss raises the score most."""

    name = "greedy_deletion"
    title = "Greedy deletion of superpixels"
    source = "our control"
    needs = "probabilities"
    cost = "300"
    signed = False
    settings_class = Settings
    start: ClassVar[bool] = True  #: every superpixel is kept at first

    def explain_image(
        self, classifier: Classifier, image: Tensor, target: int, settings: Settings, rng: np.random.Generator
    ) -> tuple[Tensor, int, dict[str, Any]]:
        segments = segment(image, settings.segmentation)
        budget = settings.calls - settings.judged
        fitness = Fitness(classifier, image, segments, target, calls=budget, fill=settings.fill)
        descend(fitness, np.full(fitness.d, self.start))
        found = fitness.outcome(settings.judged)
        return fitness.map_of(found["kept"]), found["calls"], found


class GreedyInsertion(GreedyDeletion):
    """From the empty image: one superpixel more a step, the one that raises the score most."""

    name = "greedy_insertion"
    title = "Greedy insertion of superpixels"
    start = False


def descend(fitness: Fitness, mask: np.ndarray) -> None:
    """Change one superpixel a step, never back, to the best neighbour even if it is worse, until the calls are spent."""
    fitness(mask[None])
    open_ = np.ones(len(mask), dtype=bool)
    while open_.any() and fitness.left:
        places = np.flatnonzero(open_)
        neighbours = np.repeat(mask[None], len(places), 0)
        neighbours[np.arange(len(places)), places] ^= True
        best = int(np.argmax(fitness(neighbours)))
        mask, open_[places[best]] = neighbours[best], False
