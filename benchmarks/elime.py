"""E-LIME against the `lime` package and against its rivals, in one process, interleaved, on the same segments.

    python benchmarks/elime.py            the table, and one JSON object as the last line
    python benchmarks/elime.py --levers   what each part of the search is worth, in calls
    python benchmarks/elime.py --rows F   keeps every round in F, a line each: goes on where it was, --levers reads it

The prize is LIME's own: the highest probability that its ranking (1000 samples) reaches at any number of features.
Seconds count the search alone; segmentation is the same for all and left out. A mask passes when the untouched network
in float32 says so.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from xai_lib import classifiers, images, inference, surrogate
from xai_lib.classifiers import Classifier
from xai_lib.explainers import elime, greedy, lime, random_search
from xai_lib.explanation import rng_for
from xai_lib.superpixels import Fitness, segment

NETWORKS = ("efficientnet_lite0", "mobilenetv1_075", "squeezenet1_1")
PHOTOGRAPHS = ("coffee", "stereo_motorcycle", "chelsea", "flower")
CALLS = 300
Search = Callable[[Fitness, np.random.Generator], Any]


def evolving(settings: elime.Settings) -> Search:
    return lambda fitness, rng: [None for _ in elime.evolve(fitness, settings, rng)]


SEARCHES: dict[str, Search] = {
    "elime": evolving(elime.Settings()),
    "elime_paper": evolving(elime.Settings.paper()),
    "random_search": lambda fitness, rng: random_search.draw(fitness, random_search.Settings(), rng),
    "greedy_deletion": lambda fitness, rng: greedy.descend(fitness, np.ones(fitness.d, dtype=bool)),
    "greedy_insertion": lambda fitness, rng: greedy.descend(fitness, np.zeros(fitness.d, dtype=bool)),
}


def problems(networks: list[str]) -> Iterator[tuple[Classifier, str, torch.Tensor, torch.Tensor, int]]:
    """Each network with each photograph, its superpixels and the class predicted; networks without weights are named."""
    for name in networks:
        reason = classifiers.available([name])[name]
        if reason:
            print(f"left out: {reason}", file=sys.stderr)
            continue
        classifier = classifiers.load(name)
        photographs = images.load("photos").select(list(PHOTOGRAPHS))
        for photograph, image in zip(photographs.names, photographs.batch(classifier.view), strict=True):
            target = classifier.top(image[None], 1)[0][0].index
            warm = Fitness(classifier, image, segment(image), target, calls=16)
            warm(elime.first_population(warm.d, elime.Settings(start=16), np.random.default_rng(0)))
            yield classifier, photograph, image, segment(image), target


def prize(classifier: Classifier, image: torch.Tensor, segments: torch.Tensor, target: int, seed: int) -> tuple[float, float]:
    """LIME's seconds, and the best probability its ranking reaches at any number of features."""
    started = time.perf_counter()
    weights = lime.Lime().weights(classifier, image, segments, target, lime.Settings(), rng_for(seed, image, target))
    seconds = time.perf_counter() - started
    judge = Fitness(classifier, image, segments, target, calls=0)
    return seconds, float(judge.probabilities(lime.ranking_masks(weights)).max())


def race(classifier: Classifier, image: torch.Tensor, segments: torch.Tensor, target: int, seed: int) -> dict[str, Any]:
    """One round: LIME, then every search at 300 calls, and E-LIME for a tenth of LIME's seconds."""
    seconds, best = prize(classifier, image, segments, target, seed)
    row: dict[str, Any] = {"lime_seconds": seconds, "lime_best": best, "methods": {}}
    for name, search in SEARCHES.items():
        fitness = Fitness(classifier, image, segments, target, calls=CALLS)
        search(fitness, rng_for(seed, image, target))
        passed = fitness.first_above(best)
        calls, spent = (passed.call, passed.seconds) if passed else (None, None)
        row["methods"][name] = {"calls": calls, "seconds": spent}
    row["gain_at_tenth"] = gain(classifier, image, segments, target, seed, seconds / 10, best)
    return row


def gain(
    classifier: Classifier, image: torch.Tensor, segments: torch.Tensor, target: int, seed: int, limit: float, best: float
) -> float:
    """E-LIME's best probability after `limit` seconds minus LIME's, in log-odds (both float32 values)."""
    fitness = Fitness(classifier, image, segments, target, calls=2000)
    started = time.perf_counter()
    for _ in elime.evolve(fitness, elime.Settings(calls=2000), rng_for(seed, image, target)):
        if time.perf_counter() - started > limit:
            break
    found = fitness.outcome()["probability"]
    return float(np.log(found / (1 - found)) - np.log(best / (1 - best)))


def overhead(classifier: Classifier, image: torch.Tensor, segments: torch.Tensor, target: int) -> tuple[float, float, float]:
    """E-LIME's time over calls x the bare batched forward at its precision (median of seven pairs); seconds a bare call
    and seconds an image of the unit of cost, a contiguous float32 batch of 8."""
    fast = inference.fast_network(classifier)
    size, inner = classifier.view.size, fast.plan.inner_batch
    batch = torch.rand(inner, 3, size, size).to(fast.dtype).contiguous(memory_format=torch.channels_last)
    eight = torch.rand(8, 3, size, size)
    ratios, bare_seconds, unit_seconds = [], [], []
    for seed in range(7):
        started = time.perf_counter()
        for _ in range(CALLS // inner):
            fast.logits(batch)
        bare = (time.perf_counter() - started) / (CALLS // inner * inner)
        fitness = Fitness(classifier, image, segments, target, calls=CALLS - elime.Settings().judged)
        started = time.perf_counter()
        evolving(elime.Settings())(fitness, rng_for(seed, image, target))
        calls = fitness.outcome(elime.Settings().judged)["calls"]
        ratios.append((time.perf_counter() - started) / calls / bare)
        started = time.perf_counter()
        for _ in range(4):
            classifier.probabilities(eight)
        unit_seconds.append((time.perf_counter() - started) / 32)
        bare_seconds.append(bare)
    return statistics.median(ratios), statistics.median(bare_seconds), statistics.median(unit_seconds)


def ratio(rows: list[dict[str, Any]], method: str, of: str) -> dict[str, Any]:
    """LIME's cost over the method's until it passes LIME; a run that never passes counts as 0 times faster."""
    whole = {"calls": lambda row: 1000.0, "seconds": lambda row: row["lime_seconds"]}[of]
    found = [whole(r) / r["methods"][method][of] if r["methods"][method][of] else 0.0 for r in rows]
    return {"median": statistics.median(found), "min": min(found), "max": max(found), "passed": sum(f > 0 for f in found)}


def kept_rounds(rows: Path | None) -> dict[tuple[str, str, int], dict[str, Any]]:
    """The rounds already in the file, by network, photograph and seed."""
    found = {}
    for line in rows.read_text().splitlines() if rows and rows.exists() else []:
        with suppress(json.JSONDecodeError):  # cut off while it was being written
            r = json.loads(line)
            found[r["network"], r["photograph"], r["seed"]] = r
    return found


def compare(networks: list[str], seeds: int, file: Path | None) -> dict[str, Any]:
    """All figures of the benchmark, a network each."""
    rows: dict[str, list[dict[str, Any]]] = {}
    costs: dict[str, list[tuple[float, float, float]]] = {}
    kept = kept_rounds(file)
    for classifier, photograph, image, segments, target in problems(networks):
        for seed in range(seeds):
            name = {"network": classifier.name, "photograph": photograph, "seed": seed}
            row = kept.get((classifier.name, photograph, seed))
            if row is None:
                row = name | race(classifier, image, segments, target, seed)
                if file:
                    with file.open("a") as out:
                        out.write(f"\n{json.dumps(row)}\n")  # a line that was cut off stays apart
            rows.setdefault(classifier.name, []).append(row)
            print(f"{classifier.name} {photograph} seed {seed}: LIME {row['lime_seconds']:.1f} s", file=sys.stderr)
        costs.setdefault(classifier.name, []).append(overhead(classifier, image, segments, target))
    return {name: summary(rows[name], costs[name]) for name in rows}


def until(rows: list[dict[str, Any]], method: str, unit: float) -> float | None:
    """Median cost, in forward units, until LIME is passed; None where most runs never do."""
    found = statistics.median(r["methods"][method]["seconds"] or float("inf") for r in rows)
    return found / unit if found < float("inf") else None


def summary(rows: list[dict[str, Any]], costs: list[tuple[float, float, float]]) -> dict[str, Any]:
    gains = {p: min(r["gain_at_tenth"] for r in rows if r["photograph"] == p) for p in PHOTOGRAPHS}
    share, bare, unit = (statistics.median(c) for c in zip(*costs, strict=True))
    return {
        "runs": len(rows),
        "threads": torch.get_num_threads(),
        "speedup_to_match_lime": {m: ratio(rows, m, "seconds") for m in SEARCHES},
        "calls_ratio_to_match_lime": {m: ratio(rows, m, "calls") for m in SEARCHES},
        "probability_gain_at_tenth": {"worst seed of each photograph": gains, "min": min(gains.values())},
        "overhead": share,
        "ms_a_call": 1e3 * bare,
        "ms_a_forward_unit": 1e3 * unit,
        "forward_units": {
            "lime": statistics.median(r["lime_seconds"] for r in rows) / unit,
            "elime, 300 calls": CALLS * bare * share / unit,
        }
        | {f"{m} until LIME is passed": until(rows, m, unit) for m in SEARCHES},
    }


def levers(networks: list[str], seeds: int, file: Path | None) -> dict[str, Any]:
    """Calls until LIME is passed (300 if never), median and mean, with one part of the search changed at a time."""
    s = elime.Settings()
    changed: dict[str, tuple[elime.Settings, dict[str, tuple[Any, Any]]]] = {
        "default": (s, {}),
        "no surrogate": (replace(s, screening=0), {}),
        "surrogate without likeness by place": (s, {"NEIGHBOURS": (surrogate, 0.0)}),
        "start at every density (0.3 to 1 kept)": (replace(s, start_kept=(0.3, 1.0)), {}),
        "leave-one-out start": (s, {"first_population": (elime, leave_one_out)}),
        "eight children a generation": (replace(s, offspring=8), {}),
        "population 24": (replace(s, population=24, elitism=24), {}),
        "plain algorithm (Settings.paper)": (elime.Settings.paper(), {}),
    }
    calls: dict[str, list[float]] = {name: [] for name in changed}
    kept = kept_rounds(file)
    for classifier, photograph, image, segments, target in problems(networks):
        for seed in range(seeds):
            row = kept.get((classifier.name, photograph, seed))
            best = row["lime_best"] if row else prize(classifier, image, segments, target, seed)[1]
            for name, (settings, patches) in changed.items():
                fitness = Fitness(classifier, image, segments, target, calls=CALLS)
                with patched(patches):
                    evolving(settings)(fitness, rng_for(seed, image, target))
                passed = fitness.first_above(best)
                calls[name].append(passed.call if passed else CALLS)
    return {n: {"median": statistics.median(c), "mean": statistics.mean(c), "runs": len(c)} for n, c in calls.items()}


def leave_one_out(d: int, settings: elime.Settings, rng: np.random.Generator) -> np.ndarray:
    return np.concatenate([np.ones((1, d), dtype=bool), ~np.eye(d, dtype=bool)])


@contextmanager
def patched(patches: dict[str, tuple[Any, Any]]) -> Iterator[None]:
    before = {name: getattr(module, name) for name, (module, _) in patches.items()}
    for name, (module, value) in patches.items():
        setattr(module, name, value)
    try:
        yield
    finally:
        for name, (module, _) in patches.items():
            setattr(module, name, before[name])


def show(figures: dict[str, Any]) -> None:
    for name, f in figures.items():
        print(f"\n{name}: {f['runs']} runs, {f['ms_a_call']:.1f} ms a call, unit {f['ms_a_forward_unit']:.1f} ms")
        print(f"  {'method':18s} {'speedup (min..max)':>28s} {'calls ratio (min..max)':>28s}  passed")
        for m in SEARCHES:
            a, b = f["speedup_to_match_lime"][m], f["calls_ratio_to_match_lime"][m]
            print(f"  {m:18s} {a['median']:8.1f} ({a['min']:5.1f}..{a['max']:6.1f})   "
                  f"{b['median']:8.1f} ({b['min']:5.1f}..{b['max']:6.1f})  {a['passed']:3d}/{f['runs']}")  # fmt: skip
        print(f"  gain at a tenth of LIME's time, log-odds: {f['probability_gain_at_tenth']}")
        print(f"  overhead {f['overhead']:.3f}")
        print("  cost in forward units: " + ", ".join(f"{k} {v:.0f}" if v else f"{k} -" for k, v in f["forward_units"].items()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--levers", action="store_true")
    parser.add_argument("--rows", type=Path)
    parser.add_argument("--busy", action="store_true", help="measure although other processes are running")
    chosen = parser.parse_args()
    cores = os.cpu_count() or 1
    if os.getloadavg()[0] > cores and not chosen.busy:
        sys.exit(f"load {os.getloadavg()[0]:.1f} on {cores} cores: times would mean nothing; wait, or pass --busy")
    if chosen.levers:
        figures = levers(chosen.networks, chosen.seeds, chosen.rows)
        for name, f in figures.items():
            print(f"{name:40s} median {f['median']:6.1f}  mean {f['mean']:6.1f}  ({f['runs']} runs)")
    else:
        figures = compare(chosen.networks, chosen.seeds, chosen.rows)
        show(figures)
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
