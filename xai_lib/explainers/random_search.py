"""Luck as a rival of evolution: random masks, the best is kept. Our control; the paper has none."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from xai_lib import explanation
from xai_lib.classifiers import Classifier
from xai_lib.explanation import Explainer, ExplanationError
from xai_lib.superpixels import Fill, Fitness, Segmentation, segment


@dataclass(frozen=True)
class Settings(explanation.Settings):
    """Random search at the calls of the method it is compared with."""

    calls: int = 300  #: images sent through the network, the float32 judging of the best included
    segmentation: Segmentation = "quickshift"  #: as E-LIME
    fill: Fill = "black"  #: as E-LIME
    kept: tuple[float, float] = (0.3, 1.0)  #: the fraction kept is drawn uniformly from here for each mask
    judged: int = 4  #: leading masks whose probability is computed again in float32

    def __post_init__(self) -> None:
        object.__setattr__(self, "kept", tuple(self.kept))
        if self.judged < 1 or self.calls <= self.judged:
            raise ExplanationError(f"random search: expected more calls than judged masks, at least 1; found {self}")


class RandomSearch(Explainer):
    """The best of random masks, the full image among them; the map is 1 on the kept superpixels."""

    name = "random_search"
    title = "Random search over masks"
    source = "our control"
    needs = "probabilities"
    cost = "300"
    signed = False
    settings_class = Settings

    def explain_image(
        self, classifier: Classifier, image: Tensor, target: int, settings: Settings, rng: np.random.Generator
    ) -> tuple[Tensor, int, dict[str, Any]]:
        segments = segment(image, settings.segmentation)
        budget = settings.calls - settings.judged
        fitness = Fitness(classifier, image, segments, target, calls=budget, fill=settings.fill)
        draw(fitness, settings, rng)
        found = fitness.outcome(settings.judged)
        return fitness.map_of(found["kept"]), found["calls"], found


def draw(fitness: Fitness, settings: Settings, rng: np.random.Generator) -> None:
    """The full image, then random masks until the calls are spent."""
    fitness(np.ones((1, fitness.d), dtype=bool))
    for _ in range(100):  # rounds: with few superpixels the masks that were not seen run out
        if not fitness.left:
            return
        kept = rng.uniform(*settings.kept, (fitness.left, 1))
        fitness(rng.random((fitness.left, fitness.d)) < kept)
