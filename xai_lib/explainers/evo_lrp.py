"""EVO-LRP: the parameters of an LRP rule, one a group of layers, tuned by CMA-ES to faithfulness, sparseness, sensitivity.

Zhang, Weaver, Santacruz, Castillo: "EVO-LRP", arXiv 2509.23585. Of the paper the abstract and captions are known; what they
leave open is our choice and said where it is made. Where the time goes, and what is done once: the perturbed forward passes
of faithfulness correlation do not depend on a rule's parameters (once an image for a whole search); neither do activations
and the rules' denominators (once an image and noisy copy, within `memory`); a population goes back through the network as
one batch. All candidates, strategies and seeds meet the same perturbations, so that two candidates are comparable.
"""

from __future__ import annotations

import copy
import hashlib
import math
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from tqdm import tqdm

from xai_lib import explanation
from xai_lib.classifiers import Classifier
from xai_lib.explainers import lrp
from xai_lib.explanation import Explainer, ExplanationError, checked_images, left_as_it_was, rng_for
from xai_lib.metrics import faithfulness
from xai_lib.relevance import Bias, Recording
from xai_lib.strategies import State, Strategy, TuningError, asker, read, write

Family = Literal["alpha_beta", "epsilon"]
METRICS = ("FC", "SP", "AS")
"""Faithfulness correlation (higher is better), sparseness (higher), average sensitivity (lower)."""
BETTER = {"FC": 1.0, "SP": 1.0, "AS": -1.0}
UNTUNED: dict[Family, float] = {"alpha_beta": 2.0, "epsilon": 0.25}
"""Values that people set by hand: alpha 2, beta 1; epsilon a quarter of the layer's rms, as in the LRP tutorials."""
FAILED = 1e6  #: the cost of a candidate that no image has a score for (CMA-ES takes NaN without a word)


def parameter(family: Family, u: np.ndarray) -> np.ndarray:
    """The rule's parameter at `u` in 0..1 (our choice of range): alpha = 1 + 4u, or epsilon = 10^(5u - 4), relative."""
    return 1 + 4 * u if family == "alpha_beta" else 10.0 ** (5 * u - 4)


def coordinate(family: Family, value: float) -> float:
    """The inverse of `parameter`."""
    return (value - 1) / 4 if family == "alpha_beta" else (math.log10(value) + 4) / 5


def composite(
    classifier: Classifier, family: Family, values: tuple[float, ...], groups: lrp.Grouping = "all", bias: Bias = "keep"
) -> lrp.Composite:
    """The uniform rule of a family, one value a group (or one for all), z^B with the bounds of the pixels at the input."""
    box = lrp.bounds(classifier)
    if family == "alpha_beta":
        return lrp.alpha_beta(values, zbox=box, bias=bias, groups=groups)
    return lrp.epsilon(values, relative=True, zbox=box, bias=bias, groups=groups)


# ---------------------------------------------------------------------------------------------------------------------
# Candidates scored


class Evaluation:
    """Scores of candidates on `images` `(N, C, H, W)` in 0..1 for the classes `targets` `(N,)`.

    `runs`, `subset`: of faithfulness correlation; `samples`, `bound`: noisy copies of average sensitivity, uniform noise in
    normalised units. Perturbations come from `seed` and each image's content. `memory`: bytes that recorded passes may
    take; those beyond are recorded again for every population. Maps are summed over channels before they are scored.
    """

    def __init__(
        self, classifier: Classifier, images: Tensor, targets: Tensor, family: Family = "alpha_beta", *,
        groups: lrp.Grouping = "resolution", bias: Bias = "keep", runs: int = 100, subset: int = 224, samples: int = 5,
        bound: float = 0.2, seed: int = 0, memory: float = 6e9,
    ) -> None:  # fmt: skip
        images = checked_images(images, classifier.channels).to(classifier.device)
        if targets.shape != (len(images),):
            raise TuningError(f"targets: expected ({len(images)},), one an image, found {tuple(targets.shape)}")
        self.classifier, self.memory = classifier, memory
        self.targets, self.samples = targets.to(classifier.device), samples
        self.inputs = classifier.normalise(images)
        self._rng = [rng_for(seed, image, int(t)) for image, t in zip(images, targets, strict=True)]
        channels, height, width = self.inputs.shape[1:]
        self.indices = torch.stack([faithfulness.subsets((channels, height, width), runs, subset, rng=r) for r in self._rng])
        with left_as_it_was(classifier):
            self.drops = faithfulness.drops(classifier.core, self.inputs, self.targets, self.indices.to(classifier.device))
        self._noise = [r.spawn(1)[0] for r in self._rng]
        self._noisy: dict[int, Tensor] = {}
        self.bound = bound
        self._take(family, groups, bias)

    def _take(self, family: Family, groups: lrp.Grouping, bias: Bias) -> None:
        if family not in get_args(Family):
            raise TuningError(f"family: expected {' or '.join(get_args(Family))}, found {family!r}")
        self.family, self.groups, self.bias = family, groups, bias
        self.composite = composite(self.classifier, family, (UNTUNED[family],), "all", bias)
        self.composite.groups, self.composite.values = groups, ()
        self._kept: dict[tuple[int, int], Recording] = {}
        self._last: Recording | None = None
        self._bytes = 0.0

    def of_rule(self, family: Family, groups: lrp.Grouping = "resolution", bias: Bias = "keep") -> Evaluation:
        """The same images and perturbations, whose passes are not made again, for another rule."""
        twin = copy.copy(self)
        twin._take(family, groups, bias)
        return twin

    @property
    def size(self) -> int:
        """The number of groups, so of parameters."""
        return max(lrp.groups_of(self._recording(0, 0), self.groups)) + 1

    def maps(self, values: np.ndarray, image: int, copy: int = 0) -> Tensor:
        """Maps `(P, H, W)` of candidates with parameters `values` `(P, G)`; `copy` 0 is the image, k its k-th noisy one."""
        recording = self._recording(image, copy)
        start = lrp.start_of(recording, self.targets[image : image + 1])[None].expand(len(values), -1, -1)
        found = lrp.propagate(recording, self.composite, start, torch.from_numpy(np.asarray(values, dtype=np.float64)))
        maps = found[:, 0].sum(1)
        self._keep(image, copy, recording)
        return maps

    def scores(self, values: np.ndarray, metrics: tuple[str, ...] = METRICS) -> dict[str, np.ndarray]:
        """Scores `(P, N)` of candidates `(P, G)`; FC is NaN where a map is constant."""
        found: dict[str, list[Tensor]] = {m: [] for m in metrics}
        for i in range(len(self.inputs)):
            clean = self.maps(values, i)
            if "FC" in found:
                fc = faithfulness.faithfulness_correlation(
                    clean[:, None, None], self.drops[i : i + 1], self.indices[i], self.inputs.shape[1]
                )
                found["FC"].append(fc[:, 0])
            if "SP" in found:
                found["SP"].append(faithfulness.sparseness(clean))
            if "AS" in found:
                noisy = torch.stack([self.maps(values, i, k + 1) for k in range(self.samples)])
                found["AS"].append(faithfulness.average_sensitivity(clean, noisy))
        return {m: torch.stack(v, 1).cpu().double().numpy() for m, v in found.items()}

    def noisy(self, image: int, copy: int) -> Tensor:
        """The normalised image `(1, C, H, W)`, or its `copy`-th noisy one, counted from 1."""
        one = self.inputs[image : image + 1]
        if copy == 0:
            return one
        if image not in self._noisy:
            self._noisy[image] = faithfulness.perturbed(one, self.samples, self.bound, rng=self._noise[image])
        return self._noisy[image][copy - 1]

    def _recording(self, image: int, copy: int) -> Recording:
        if (image, copy) in self._kept:
            return self._kept[image, copy]
        with left_as_it_was(self.classifier):
            recording = Recording(self.classifier.core, lrp.at_least_float32(self.noisy(image, copy)), self._last)
        self._last = self._last or recording
        return recording

    def _keep(self, image: int, copy: int, recording: Recording) -> None:
        if (image, copy) not in self._kept and self._bytes < self.memory:
            self._kept[image, copy] = recording
            self._bytes += recording.nbytes

    def fingerprint(self) -> str:
        """What the scores depend on, as a checksum: network (by its answers), images, targets, perturbations, rule."""
        said = repr((self.family, self.groups, self.bias, self.samples, self.bound, self.targets.tolist())).encode()
        arrays = [t.cpu().numpy().tobytes() for t in (self.inputs.float(), self.indices, self.drops.float())]
        return hashlib.blake2b(b"".join([said, *arrays]), digest_size=16).hexdigest()


# ---------------------------------------------------------------------------------------------------------------------
# What is asked for


@dataclass(frozen=True)
class Objective:
    """A weighted sum of metrics, to be made as good as possible; "FC", "FC+SP", or "0.25*FC+0.75*SP".

    Several metrics are first standardised by `reference`, `{metric: (mean, sd)}`: those of untuned alpha-2-beta-1 over the
    tuning images (our choice; see `Objective.of`).
    """

    name: str
    weights: tuple[tuple[str, float], ...]
    reference: tuple[tuple[str, tuple[float, float]], ...] = ()

    @classmethod
    def of(cls, name: str, untuned: dict[str, np.ndarray] | None = None) -> Objective:
        """From a name and, where it has several metrics, the scores `(1, N)` of the untuned rule."""
        weights = []
        for term in name.split("+"):
            number, _, metric = term.strip().rpartition("*")
            if metric not in METRICS:
                raise TuningError(f"objective {name!r}: expected {', '.join(METRICS)} or a sum such as 0.5*FC+0.5*SP")
            weights.append((metric, float(number) if number else 1.0))
        if len(weights) > 1 and untuned is None:
            raise TuningError(f"objective {name!r}: several metrics need the untuned rule's scores to be put on one scale")
        scales = {m: (float(np.nanmean(untuned[m])), float(np.nanstd(untuned[m])) or 1.0) for m, _ in weights} if untuned else {}
        return cls(name, tuple(weights), tuple(scales.items()) if len(weights) > 1 else ())

    @property
    def metrics(self) -> tuple[str, ...]:
        return tuple(m for m, w in self.weights if w)

    def costs(self, means: dict[str, np.ndarray]) -> np.ndarray:
        """The cost of each candidate, `(P,)`, from its scores' means over images; less is better."""
        scale, total = dict(self.reference), np.zeros(())
        for metric, weight in self.weights:
            if weight:
                centre, spread = scale.get(metric, (0.0, 1.0))
                total = total - weight * BETTER[metric] * (means[metric] - centre) / spread
        return np.where(np.isfinite(total), total, FAILED)


# ---------------------------------------------------------------------------------------------------------------------
# The search


@dataclass
class Tuning:
    """What a search found: the best `values` `(G,)`, and every candidate it tried.

    `history`: a row a candidate with generation, cost, means over the tuning images of what was measured, and coordinates
    u0, u1, ... in 0..1. `failed` counts candidates that no image had a score for.
    """

    family: Family
    groups: lrp.Grouping
    bias: Bias
    objective: str
    strategy: Strategy
    seed: int
    values: tuple[float, ...]
    cost: float
    history: pd.DataFrame = field(repr=False)
    seconds: float = 0.0

    @property
    def failed(self) -> int:
        return int((self.history.cost >= FAILED).sum())

    @property
    def settings(self) -> Settings:
        """For `explain(..., settings=...)`; `settings.to_json()` is the file to keep."""
        return Settings(rule=self.family, groups=self.groups, bias=self.bias, values=self.values, objective=self.objective)

    def choose(self, objective: Objective) -> Tuning:
        """The candidate that is best by another objective, if all its metrics were measured (random search and grid)."""
        costs = objective.costs({m: self.history[m].to_numpy() for m in METRICS if m in self.history})
        best = int(costs.argmin())
        u = self.history.filter(regex=r"^u\d+$").iloc[best].to_numpy()
        values = tuple(map(float, parameter(self.family, u)))
        return replace(
            self, objective=objective.name, values=values, cost=float(costs[best]), history=self.history.assign(cost=costs)
        )


def search(
    evaluation: Evaluation,
    objective: Objective,
    strategy: Strategy = "cma",
    *,
    generations: int = 30,
    population: int = 12,
    start: float | None = None,
    sigma: float = 0.25,
    seed: int = 1,
    checkpoint: str | Path | None = None,
    progress: bool = True,
) -> Tuning:
    """Look for the parameters of least cost among `generations * population` candidates.

    `start`, `sigma`: where CMA-ES begins in each coordinate (None: at the untuned rule), and how wide. `"random"` draws
    uniformly; `"grid"` takes the largest lattice that fits and fills up with equal values in all groups. Both measure all
    three metrics, so that one of them serves every objective (`Tuning.choose`). `checkpoint`: a file written after every
    generation; a search that finds it goes on from there and ends with the same numbers, bit for bit. Raises `TuningError`
    for one of another search.
    """
    if strategy not in get_args(Strategy) or min(generations, population) < 1 or seed < 1:
        raise TuningError(f"search: strategy {get_args(Strategy)}, generations, population, seed >= 1; found {strategy!r}, "
                          f"{generations}, {population}, {seed}")  # fmt: skip
    start = coordinate(evaluation.family, UNTUNED[evaluation.family]) if start is None else start
    metrics = objective.metrics if strategy == "cma" else METRICS
    key = f"{evaluation.fingerprint()} {objective} {strategy} {generations} {population} {start} {sigma} {seed}"
    state = read(checkpoint, key)
    if state is None:
        state = State(key, asker(strategy, evaluation.size, population, generations, start, sigma, seed), [], 0.0)
    words = f"{strategy} {evaluation.family} {objective.name} seed {seed}"
    with tqdm(total=generations, initial=len(state.rows), desc=words, disable=not progress, leave=False) as bar:
        while len(state.rows) < generations:
            began = time.perf_counter()
            u = np.asarray(state.asker.ask())
            scores = evaluation.scores(parameter(evaluation.family, u), metrics)
            with np.errstate(invalid="ignore"):
                means = {m: _mean(v) for m, v in scores.items()}
            costs = objective.costs(means)
            state.asker.tell(costs)
            columns = {"generation": len(state.rows), "cost": costs, **means, **{f"u{g}": u[:, g] for g in range(u.shape[1])}}
            seconds = state.seconds + time.perf_counter() - began
            state = State(key, state.asker, [*state.rows, pd.DataFrame(columns)], seconds)
            write(checkpoint, state)
            bar.update()
            bar.set_postfix_str(f"best {min(float(r.cost.min()) for r in state.rows):.4f}")
    history = pd.concat(state.rows, ignore_index=True)
    found = Tuning(evaluation.family, evaluation.groups, evaluation.bias, objective.name, strategy, seed, (), 0.0, history,
                   state.seconds)  # fmt: skip
    return found.choose(objective)


def _mean(scores: np.ndarray) -> np.ndarray:
    """Mean over images of `(P, N)`, those without a score left out; NaN where there is none."""
    known = np.isfinite(scores)
    return np.where(known.any(1), np.where(known, scores, 0).sum(1) / np.maximum(known.sum(1), 1), np.nan)


# ---------------------------------------------------------------------------------------------------------------------
# Maps, and the explainer


def clamped(maps: Tensor, percent: float = 1.0) -> Tensor:
    """Maps `(..., H, W)` cut at their `percent`-th and (100 - percent)-th percentile, over their largest size: -1..1."""
    low, high = np.percentile(maps.cpu().numpy(), [percent, 100 - percent], axis=(-2, -1), keepdims=True)
    cut = maps.clamp(torch.from_numpy(low).to(maps), torch.from_numpy(high).to(maps))
    return cut / cut.abs().amax((-2, -1), keepdim=True).clamp(min=1e-30)


def composite_map(maps: Tensor) -> Tensor:
    """One map `(H, W)` from those of several tunings `(M, H, W)`: the mean of each, clamped (our reading of the paper)."""
    return clamped(maps).mean(0)


@dataclass(frozen=True)
class Settings(explanation.Settings):
    """Tuned parameters, or how to tune them on the image itself. What the paper leaves open is our choice."""

    rule: Family = "alpha_beta"  #: one family in all layers ("uniform rule", as we read the paper)
    groups: lrp.Grouping = "resolution"  #: which layers share a parameter (our choice)
    values: tuple[float, ...] = ()  #: alpha, or epsilon in units of each layer's rms, one a group; () tunes on the image
    bias: Bias = "keep"  #: as in zennit
    objective: str = "FC"  #: what `values` were, or are to be, tuned for: FC, SP, AS
    generations: int = 10  #: of a search on the image itself, and all below
    population: int = 12  #: candidates a generation
    runs: int = 100  #: perturbed passes for FC (quantus)
    subset: int = 224  #: features replaced in each (quantus)
    samples: int = 5  #: noisy copies for AS

    def __post_init__(self) -> None:
        object.__setattr__(self, "values", tuple(self.values))
        if self.rule not in get_args(Family) or self.groups not in get_args(lrp.Grouping):
            raise ExplanationError(f"evo_lrp: rule {get_args(Family)}, groups {get_args(lrp.Grouping)}; found {self}")
        if min(self.generations, self.population - 1, self.runs - 1, self.subset, self.samples) < 1:
            raise ExplanationError(f"evo_lrp: generations, subset, samples >= 1, population, runs >= 2; found {self}")
        if not self.values and self.objective not in METRICS:
            raise ExplanationError(f"evo_lrp tunes on one image for one of {', '.join(METRICS)}; found {self.objective!r}")


class EvoLrp(Explainer):
    """LRP with tuned parameters; without any it tunes them on the image."""

    name = "evo_lrp"
    title = "EVO-LRP: rules tuned by an evolution strategy"
    source = "Zhang et al. 2025, arXiv 2509.23585"
    needs = "layers"
    cost = "2 when tuned, else about 220"
    signed = True
    settings_class = Settings

    def explain_image(
        self, classifier: Classifier, image: Tensor, target: int, settings: Settings, rng: np.random.Generator
    ) -> tuple[Tensor, int, dict[str, Any]]:
        values, calls, wanted = settings.values, 2, torch.tensor([target], device=image.device)
        if not values:
            evaluation = Evaluation(
                classifier, image[None], wanted, settings.rule, groups=settings.groups, bias=settings.bias, runs=settings.runs,
                subset=settings.subset, samples=settings.samples, seed=int(rng.integers(2**31)),
            )  # fmt: skip
            found = search(
                evaluation, Objective.of(settings.objective), generations=settings.generations, population=settings.population,
                seed=int(rng.integers(1, 2**31)), progress=False,
            )  # fmt: skip
            copies = 1 + settings.samples * (settings.objective == "AS")
            calls += settings.runs + 1 + copies * (1 + len(found.history))
            values = found.values
        rule = composite(classifier, settings.rule, values, settings.groups if len(values) > 1 else "all", settings.bias)
        recording = Recording(classifier.core, lrp.inputs_of(classifier, image[None]))
        saliency = lrp.propagate(recording, rule, lrp.start_of(recording, wanted)[None])[0, 0].sum(0)
        return saliency, calls, {"values": values, "tuned_here": not settings.values, "calls": calls}
