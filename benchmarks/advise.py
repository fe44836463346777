"""The adaptive density against the package `adaptivekde`, and what ADVISE and the whole of Table I cost in forwards.

    python benchmarks/advise.py           the table, and one JSON object as the last line

A forward is one image's share of a contiguous float32 batch of 8 through the same network. The densities' two rivals are
timed in turn on the same units, which lie where the two estimators agree, so that the numbers of peaks must be equal.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from xai_lib import classifiers, explainers, images, inference
from xai_lib.adaptive_density import adaptive_kde, count_peaks
from xai_lib.classifiers import Classifier
from xai_lib.explainers import advise, cam, lime
from xai_lib.explanation import rng_for
from xai_lib.feature_maps import enlarge, feature_maps, rescale
from xai_lib.metrics import avx
from xai_lib.superpixels import segment

LAYERS = {49: 2048, 196: 512}  #: samples a unit: units of a layer (ResNet50's, VGG16's)
COMPARED = {49: 24, 196: 8}  #: units that the other package estimates in a round
ROUNDS = 5


def seconds(run: Callable[[], Any]) -> float:
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def units(u: int, z: int, seed: int) -> Tensor:
    """Units with values at most of the grid's cells, the hardest case; least -0.05 and largest 0.95 where both agree."""
    x = torch.rand(u, z, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) * 0.94
    x[:, 0], x[:, 1] = -0.05, 0.95
    return x


def theirs(x: np.ndarray, grid: np.ndarray) -> Tensor:
    """Densities of `adaptivekde`, one unit after the other."""
    from adaptivekde import ssvkernel

    return torch.from_numpy(np.stack([ssvkernel(row, grid, M=10, nbs=1, WinFunc="Gauss")[0] for row in x]))


def density_speedup(z: int, rounds: int = ROUNDS) -> dict[str, Any]:
    """Seconds a unit of `adaptivekde` over ours, and the share of units with the same number of peaks."""
    grid, ratios, ours, others, equal = np.linspace(0, 1, z), [], [], [], []
    adaptive_kde(units(64, z, 99))
    for seed in range(rounds):
        x = units(LAYERS[z], z, seed)
        began = time.perf_counter()
        densities = theirs(x[: COMPARED[z]].numpy(), grid)
        between = time.perf_counter()
        found = count_peaks(adaptive_kde(x).density)
        ours.append((time.perf_counter() - between) / LAYERS[z])
        others.append((between - began) / COMPARED[z])
        ratios.append(others[-1] / ours[-1])
        equal += (found[: COMPARED[z]] == count_peaks(densities)).tolist()
    return {
        "speedup": statistics.median(ratios), "min": min(ratios), "max": max(ratios), "same_peaks": statistics.mean(equal),
        "ms_a_unit": 1e3 * statistics.median(ours), "ms_a_unit_adaptivekde": 1e3 * statistics.median(others),
        "units": LAYERS[z], "rounds": rounds,
    }  # fmt: skip


def forwards(rounds: int = ROUNDS) -> dict[str, Any]:
    """ADVISE and Grad-CAM on ResNet50 with random weights, eight photographs: time an image over a forward's.

    `explain` takes one photograph at a time, `shared` all in one pass.
    """
    from torchvision.models import resnet50

    torch.manual_seed(0)
    classifier = Classifier(resnet50(weights=None), name="resnet50")
    pixels = images.load("photos").batch(classifier.view)[:8]
    targets = classifier.probabilities(pixels).argmax(1)
    runs = {
        "forward": lambda: classifier.probabilities(pixels),
        "advise": lambda: explainers.get("advise").explain(classifier, pixels, targets),
        "gradcam": lambda: cam.shared(classifier, pixels, targets[:, None], ["grad_cam"]),
        "gradcam_explain": lambda: explainers.get("grad_cam").explain(classifier, pixels, targets),
        "kde": lambda: [adaptive_kde(s) for s in samples],
    }
    samples = feature_maps(classifier, pixels).activations.flatten(2)
    for run in runs.values():
        run()
    spent = [{name: seconds(run) for name, run in runs.items()} for _ in range(rounds)]
    ratio = {n: statistics.median(r[n] / r["forward"] for r in spent) for n in runs if n != "forward"}
    unit = statistics.median(r["forward"] for r in spent) / 8
    return {f"{name}_forwards": value for name, value in ratio.items()} | {"ms_a_forward_resnet50": 1e3 * unit}


class Clock:
    """Seconds spent in what a pipeline cannot do without: forward passes, gradients and densities."""

    def __init__(self) -> None:
        self.needed, self._inside = 0.0, False

    def timed(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            if self._inside:
                return function(*args, **kwargs)
            self._inside, started = True, time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                self.needed += time.perf_counter() - started
                self._inside = False

        return wrapper

    @contextmanager
    def running(self) -> Iterator[None]:
        places = [(Classifier, "forward"), (inference.FastNetwork, "logits"), (torch.autograd, "grad"), (advise, "adaptive_kde")]
        before = [getattr(owner, name) for owner, name in places]
        for (owner, name), function in zip(places, before, strict=True):
            setattr(owner, name, self.timed(function))
        try:
            yield
        finally:
            for (owner, name), function in zip(places, before, strict=True):
                setattr(owner, name, function)


def table_of_one(classifier: Classifier, image: Tensor, costly: bool) -> None:
    """Every map of Table I for both classes of one photograph, judged; with `costly` also Score-CAM and LIME."""
    size = (image.shape[1], image.shape[2])
    found = advise.groups(classifier, image)
    targets = torch.tensor(found.targets)
    avx.evaluate(classifier, image, found.maps, found.second_maps, found.targets)
    low = cam.shared(classifier, image[None], targets[None])
    maps = {name: m[:, 0] for name, m in low.items()}
    if costly:
        maps["score_cam"] = cam.score_cam(classifier, image, targets)
    for pair in maps.values():
        one, two = enlarge(rescale(pair), size).split(1)
        avx.evaluate(classifier, image, one, two, found.targets)
    if costly:
        segments = segment(image)
        for target in found.targets:
            weights = lime.Lime().weights(classifier, image, segments, target, lime.Settings(), rng_for(0, image, target))
            kept = torch.from_numpy(lime.top_features(weights, 5))[segments].float()
            avx.evaluate(classifier, image, kept[None], None, found.targets)


def table_overhead(costly: bool, rounds: int = 2) -> float:
    """The pipeline's seconds over those it spends in forward passes, gradients and densities, EfficientNet-Lite0."""
    classifier = classifiers.load("efficientnet_lite0")
    photographs = images.load("photos").batch(classifier.view)[:rounds]
    table_of_one(classifier, photographs[0], False)
    whole, clock = 0.0, Clock()
    with clock.running():
        for image in photographs:
            started = time.perf_counter()
            table_of_one(classifier, image, costly)
            whole += time.perf_counter() - started
    return whole / clock.needed


def measure(rounds: int = ROUNDS) -> dict[str, Any]:
    """All figures: first the four of the project's aims, then what stands behind them."""
    densities = {z: density_speedup(z, rounds) for z in LAYERS}
    return {
        **{f"kde_speedup_{z}": d["speedup"] for z, d in densities.items()},
        **forwards(rounds),
        "table_overhead": table_overhead(True),
        "table_overhead_without_score_cam_and_lime": table_overhead(False, 6),
        "threads": torch.get_num_threads(),
        "densities": densities,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--busy", action="store_true", help="measure although other processes are running")
    chosen = parser.parse_args()
    cores = os.cpu_count() or 1
    if os.getloadavg()[0] > cores and not chosen.busy:
        sys.exit(f"load {os.getloadavg()[0]:.1f} on {cores} cores: times would mean nothing; wait, or pass --busy")
    figures = measure(chosen.rounds)
    for z, d in figures["densities"].items():
        print(f"{d['units']} units x {z} samples: {d['ms_a_unit']:.2f} ms a unit, adaptivekde {d['ms_a_unit_adaptivekde']:.0f}; "
              f"{d['speedup']:.0f} times ({d['min']:.0f}..{d['max']:.0f}), same peaks {d['same_peaks']:.0%}")  # fmt: skip
    for name, value in figures.items():
        if isinstance(value, float):
            print(f"{name:45s} {value:8.2f}")
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
