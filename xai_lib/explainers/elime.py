"""E-LIME: a genetic algorithm evolves the set of superpixels that explains a prediction.

Wang, Pei, Xue, Zhang: "Explaining Deep Convolutional Neural Networks for Image Classification by Evolving Local
Interpretable Model-agnostic Explanations", IEEE TETCI 2025, arXiv 2211.15143. A candidate is a bit a superpixel, kept
or blacked out; its fitness is the probability that the network still gives to the explained class. The paper's text
leaves the algorithm's sizes and rates open: every value below is our choice unless its comment says otherwise.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from torch import Tensor

from xai_lib import explanation
from xai_lib.classifiers import Classifier
from xai_lib.explanation import Explainer, ExplanationError
from xai_lib.inference import FLOAT32
from xai_lib.superpixels import Fill, Fitness, Masks, Segmentation, segment
from xai_lib.surrogate import MaskSurrogate, likeness, one_thread


@dataclass(frozen=True)
class Settings(explanation.Settings):
    """The genetic algorithm. The defaults search with a surrogate; `Settings.paper()` is the plain algorithm."""

    calls: int = 300  #: images sent through the network, the float32 judging of the best included
    segmentation: Segmentation = "quickshift"  #: lime's default; "slic" as in the authors' earlier code
    fill: Fill = "black"  #: what removed superpixels show; black as in the authors' earlier code
    population: int = 12  #: parents kept
    offspring: int = 4  #: children evaluated a generation; as many more for every 64 calls when they are screened
    generations: int = 500  #: at most; the calls usually end the search
    elitism: int = 12  #: parents that survive; equal to `population`: a child replaces the worst (steady state)
    tournament: int = 2  #: ranks drawn, of which the best becomes a parent
    crossover: float = 0.6  #: probability that a child has two parents, mixed bit by bit
    mutation: tuple[float, ...] = (0.75, 1.5, 3.0, 6.0)  #: expected bit flips of a child, drawn from these
    start: int = 8  #: masks of the first population, the full image included
    start_kept: tuple[float, float] = (0.75, 0.97)  #: fraction kept, spread over the first population
    seed_full: bool = True  #: the full image is among the first candidates
    screening: int = 64  #: children bred a generation, of which a surrogate picks `offspring`; 0: none are screened
    size_weight: float = 0.0  #: log-odds subtracted for keeping everything, in proportion to what is kept
    judged: int = 1  #: leading masks whose probability is computed again in float32 before the best is named
    precision: Literal["auto", "float32"] = "auto"  #: of the search; what is reported is always float32

    @classmethod
    def paper(cls, calls: int = 300, *, seed_full: bool = True) -> Settings:
        """A plain generational algorithm, the reading of the paper that its fact-poor sources allow."""
        return cls(
            calls=calls, population=20, offspring=18, elitism=2, tournament=3, crossover=0.9, mutation=(1.0,),
            start=20, start_kept=(0.3, 1.0), seed_full=seed_full, screening=0,
        )  # fmt: skip

    def __post_init__(self) -> None:
        object.__setattr__(self, "mutation", tuple(self.mutation))  # JSON has no tuples
        object.__setattr__(self, "start_kept", tuple(self.start_kept))
        wrong = [n for n in ("population", "offspring", "tournament", "start", "judged") if getattr(self, n) < 1]
        if wrong or self.calls <= self.judged or not 0 <= self.elitism <= self.population:
            raise ExplanationError(
                f"E-LIME: {', '.join(wrong) or 'calls and elitism'}: expected counts of at least 1, more calls than "
                f"judged masks and elitism within the population; found {self}"
            )


class ELime(Explainer):
    """Evolves the superpixels to keep; the map is 1 on them and 0 elsewhere."""

    name = "elime"
    title = "E-LIME: superpixels chosen by a genetic algorithm"
    source = "Wang et al. 2025, arXiv 2211.15143"
    needs = "probabilities"
    cost = "300"
    signed = False
    settings_class = Settings

    def explain_image(
        self, classifier: Classifier, image: Tensor, target: int, settings: Settings, rng: np.random.Generator
    ) -> tuple[Tensor, int, dict[str, Any]]:
        fitness = fitness_for(classifier, image, target, settings)
        for _ in evolve(fitness, settings, rng):
            pass
        found = fitness.outcome(settings.judged)
        return fitness.map_of(found["kept"]), found["calls"], found


def fitness_for(classifier: Classifier, image: Tensor, target: int, settings: Settings) -> Fitness:
    """The fitness that `settings` ask for, with the calls of the final judging set apart."""
    return Fitness(
        classifier, image, segment(image, settings.segmentation), target,
        calls=settings.calls - settings.judged, fill=settings.fill, size_weight=settings.size_weight,
        plan=FLOAT32 if settings.precision == "float32" else None,
    )  # fmt: skip


def evolve(fitness: Fitness, settings: Settings, rng: np.random.Generator) -> Iterator[Masks]:
    """Run the search; after each generation yields the population, best first. The fitness keeps what was found."""
    alike = likeness(fitness.segments.cpu().numpy())
    population = first_population(fitness.d, settings, rng)
    population, scores = _best_first(population, fitness(population))
    yield population
    with one_thread():
        for _ in range(settings.generations):
            if not fitness.left:
                return
            children = breed(population, max(settings.offspring, settings.screening), settings, rng)
            if settings.screening:
                children = screen(children, fitness, alike, settings, rng)
            survivors = slice(settings.elitism)
            population, scores = _best_first(
                np.concatenate([population[survivors], children]), np.concatenate([scores[survivors], fitness(children)])
            )
            population, scores = population[: settings.population], scores[: settings.population]
            yield population


def first_population(d: int, settings: Settings, rng: np.random.Generator) -> Masks:
    """Random masks, each keeping its own fraction of the superpixels; the first is the full image if so set."""
    full = int(settings.seed_full)
    kept = np.linspace(*settings.start_kept, max(settings.start - full, 1))[:, None]
    masks = rng.random((len(kept), d)) < kept
    return np.concatenate([np.ones((full, d), dtype=bool), masks])


def breed(parents: Masks, n: int, settings: Settings, rng: np.random.Generator) -> Masks:
    """`n` children of parents sorted best first: tournaments, uniform crossover, bit flips."""
    count, d = parents.shape
    mother, father = rng.integers(0, count, (2, n, settings.tournament)).min(2)
    crossed, rate = rng.random((2, n, 1))
    from_father, flipped = rng.random((2, n, d))
    flips = np.array(settings.mutation)[(rate * len(settings.mutation)).astype(int)] / d
    mixed = from_father < 0.5 * (crossed < settings.crossover)
    return np.where(mixed, parents[father], parents[mother]) ^ (flipped < flips)


def screen(
    children: Masks, fitness: Fitness, alike: np.ndarray, settings: Settings, rng: np.random.Generator
) -> Masks:
    """The children that a surrogate of the scores so far finds best, after one round of breeding among them.

    Those picked differ in two superpixels at least, so that a batch does not spend itself on one idea.
    """
    surrogate = MaskSurrogate(fitness.masks, fitness.scores, alike)
    children, predicted = _ranked(fitness.unseen(children), surrogate)
    if not len(children):  # few superpixels: every mask that breeding reaches was evaluated
        return children
    grandchildren = breed(children[: settings.screening // 4], settings.screening, settings, rng)
    second, again = _ranked(fitness.unseen(grandchildren), surrogate)
    children, _ = _best_first(np.concatenate([children, second]), np.concatenate([predicted, again]))
    # a surrogate that has seen more is trusted with more children before it is fitted again
    return _apart(children, settings.offspring * (1 + fitness.calls // 64))


def _ranked(masks: Masks, surrogate: MaskSurrogate) -> tuple[Masks, np.ndarray]:
    return _best_first(masks, surrogate(masks))


def _best_first(masks: Masks, scores: np.ndarray) -> tuple[Masks, np.ndarray]:
    order = np.argsort(-scores, kind="stable")
    return masks[order], scores[order]


def _apart(masks: Masks, n: int, distance: int = 2) -> Masks:
    """The first `n` of masks that differ from each other in `distance` superpixels."""
    d, raw = masks.shape[1], masks.tobytes()
    picked: dict[int, int] = {}  # a mask's bytes as one number, which tells differences apart in one step: its row
    for i in range(len(masks)):
        bits = int.from_bytes(raw[i * d : i * d + d], "little")
        if all((bits ^ other).bit_count() >= distance for other in picked):
            picked[bits] = i
            if len(picked) == n:
                break
    return masks[list(picked.values())]
