"""A candidate of EVO-LRP against the plain loop of zennit and quantus, and what LRP and RAP cost in forwards.

    python benchmarks/evo_lrp.py            the table, and one JSON object as the last line
    python benchmarks/evo_lrp.py --rows F   keeps every round in F, a line each: goes on where it was

A forward is one image's share of a contiguous float32 batch of 8 through the same network, measured in every round beside
what it is the unit of. The plain loop makes each candidate a composite of zennit and hands each image, one a call, to
quantus, whose draws are replaced by ours, so that both must find the same scores: checked in the same run (the exit status
is 1 where one differs). It is slow, so few of the candidates go through it. Our float32 relevance is checked against
zennit's in float64, and in float32 with the network channels last as ours. Rounding may let another pixel win a max
pooling, in any of them: one winner of 330,000 has moved a map by 1e-4 of its largest value.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision
import zennit.composites
import zennit.core
from torch import Tensor, nn
from zennit.canonizers import Canonizer, SequentialMergeBatchNorm
from zennit.rules import AlphaBeta, ZBox
from zennit.torchvision import ResNetCanonizer

from xai_lib import classifiers, images, relevance
from xai_lib.classifiers import Classifier
from xai_lib.explainers import evo_lrp, lrp, rap
from xai_lib.weights import WeightsError

NETWORKS = ("squeezenet1_1", "resnet18", "efficientnet_lite0")
EXACT = ("squeezenet1_1",)  #: where zennit's answer is right: no batch norm to merge, no sum in `forward`
STABILISER = 1e-6  #: zennit's
SAME_SCORES, SAME_RELEVANCE = 1e-4, 1e-5
SEARCH = 30  #: generations over which a search's set-up is spread
Row = dict[str, Any]


def seconds(run: Callable[[], Any]) -> float:
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def classifier(name: str) -> Classifier:
    """The network with its own weights if they are on this machine, else random ones; resnet18 always random."""
    with suppress(WeightsError):
        if name != "resnet18":
            return classifiers.load(name)
    torch.manual_seed(0)
    return Classifier(getattr(torchvision.models, name)(weights=None), name=f"{name}, random weights")


def unit(network: nn.Module, size: int) -> Callable[[], Any]:
    """Eight images at once, contiguous float32."""
    eight = torch.rand(8, 3, size, size, generator=torch.Generator().manual_seed(0))

    @torch.no_grad()
    def run() -> Tensor:
        return network(eight)

    return run


class Kept:
    """Rounds in a file, by figure, network and number, of one choice of settings; without a file nothing is kept."""

    def __init__(self, file: Path | None, settings: str = "") -> None:
        self.file, self.settings, self.rows = file, settings, dict[tuple[str, str, int], Row]()
        for line in file.read_text().splitlines() if file and file.exists() else []:
            with suppress(json.JSONDecodeError):  # cut off while it was being written
                row = json.loads(line)
                if row["settings"] == settings:
                    self.rows[row["figure"], row["network"], row["round"]] = row

    def rounds(self, figure: str, network: str, count: int, measure: Callable[[int], Row]) -> list[Row]:
        """`count` rounds, those measured that are not there."""
        for i in range(count):
            if (figure, network, i) in self.rows:
                continue
            row = {"figure": figure, "network": network, "round": i, "settings": self.settings} | measure(i)
            self.rows[figure, network, i] = row
            if self.file:
                with self.file.open("a") as out:
                    out.write(f"\n{json.dumps(row)}\n")  # a line that was cut off stays apart
            print(f"{figure} {network}: round {i + 1} of {count}", file=sys.stderr)
        return [self.rows[figure, network, i] for i in range(count)]


Runs = dict[str, tuple[Callable[[], Any], int]]
"""What is timed in turn, and how many images or candidates each deals with; one of them is the forward."""


def in_turn(runs: Runs) -> Callable[[int], Row]:
    """Seconds a piece of each run, one after the other; before the first round all are run once."""
    warm = False

    def measure(_: int) -> Row:
        nonlocal warm
        for run, _of in () if warm else runs.values():
            run()
        warm = True
        return {name: seconds(run) / of for name, (run, of) in runs.items()}

    return measure


def in_forwards(rows: list[Row], runs: Runs) -> Row:
    unit = {"ms_a_forward": 1e3 * statistics.median(r["forward"] for r in rows)}
    return {n: spread([r[n] / r["forward"] for r in rows]) for n in runs if n != "forward"} | unit


def spread(values: list[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


# ---------------------------------------------------------------------------------------------------------------------
# The plain loop


def composite(layers: list[str], alphas: list[float], box: lrp.Box, canonizers: list[Canonizer]) -> zennit.core.Composite:
    """zennit's composite of one alpha a layer, from the input; z^B in the first."""
    names: list[tuple[tuple[str, ...], Any]] = [((layers[0],), ZBox(*box))]
    names += [((name,), AlphaBeta(a, a - 1)) for name, a in zip(layers[1:], alphas[1:], strict=True)]
    return zennit.composites.NameLayerMapComposite(names, zennit.composites.layer_map_base(), canonizers)


def canonizers(name: str) -> list[Canonizer]:
    """What zennit's manual recommends."""
    return [ResNetCanonizer()] if name.startswith("resnet") else [SequentialMergeBatchNorm()]


def by_zennit(network: nn.Module, x: Tensor, targets: Tensor, rules: zennit.core.Composite) -> Tensor:
    x = x.detach().clone().requires_grad_()
    with rules.context(network) as prepared:
        logits = prepared(x)
        start = torch.zeros_like(logits).scatter(1, targets[:, None], logits.detach().gather(1, targets[:, None]))
        (found,) = torch.autograd.grad(logits, x, start)
    return found


@contextmanager
def drawn(function: str, values: Iterator[np.ndarray]) -> Iterator[None]:
    """numpy's global `function` of random numbers hands out `values`, in turn."""
    before = getattr(np.random, function)
    setattr(np.random, function, lambda *args, **kwargs: next(values))
    try:
        yield
    finally:
        setattr(np.random, function, before)


class Plain:
    """Candidates one after the other, images one after the other, with the perturbations of an `Evaluation`."""

    def __init__(self, evaluation: evo_lrp.Evaluation, subset: int) -> None:
        import quantus

        own: dict[str, Any] = {"return_aggregate": False, "disable_warnings": True}
        self.evaluation, self.network = evaluation, evaluation.classifier.network
        recording = relevance.Recording(self.network, evaluation.inputs[:1])
        self.layers = [o.layer.name for o in recording.linear if o.layer is not None]
        self.groups = lrp.groups_of(recording, evaluation.groups)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.fc = quantus.FaithfulnessCorrelation(
                nr_runs=evaluation.indices.shape[1], subset_size=subset, perturb_baseline="black", normalise=True, **own
            )
            self.sp = quantus.Sparseness(**own)
            self.average = quantus.AvgSensitivity(nr_samples=evaluation.samples, lower_bound=evaluation.bound, **own)

    def scores(self, values: np.ndarray) -> dict[str, np.ndarray]:
        """As `Evaluation.scores`; NaN where quantus refuses a map."""
        box, found = lrp.bounds(self.evaluation.classifier), np.full((3, len(values), len(self.evaluation.inputs)), np.nan)
        for p, candidate in enumerate(values.tolist()):
            rules = composite(self.layers, [candidate[g] for g in self.groups], box, canonizers(self.evaluation.classifier.name))
            for i in range(len(self.evaluation.inputs)):
                with suppress(AssertionError), warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    found[:, p, i] = self._score(rules, i)
        return dict(zip(evo_lrp.METRICS, found, strict=True))

    def _score(self, rules: zennit.core.Composite, i: int) -> tuple[float, float, float]:
        def explain(model: nn.Module, inputs: Any, targets: Any, **_: Any) -> np.ndarray:
            return by_zennit(model, torch.as_tensor(inputs), torch.as_tensor(targets), rules).sum(1, keepdim=True).numpy()

        x, y = self.evaluation.inputs[i : i + 1], self.evaluation.targets[i : i + 1]
        copies = self.evaluation._noisy[i].double().numpy() - x.double().numpy()
        noise = iter(copies.reshape(len(copies), 1, -1))
        call: dict[str, Any] = {"model": self.network, "x_batch": x.numpy(), "y_batch": y.numpy()}
        call |= {"device": "cpu", "batch_size": 1}
        maps = explain(self.network, call["x_batch"], call["y_batch"])
        with drawn("choice", iter(self.evaluation.indices[i].numpy())):
            fc = self.fc(a_batch=maps.copy(), softmax=False, **call)[0]
        sp = self.sp(a_batch=maps.copy(), **call)[0]
        with drawn("uniform", noise):
            moved = self.average(a_batch=maps.copy(), explain_func=explain, **call)[0]
        return float(fc), float(sp), float(moved)


# ---------------------------------------------------------------------------------------------------------------------
# The figures


def photographs(network: Classifier, count: int, size: int) -> tuple[Tensor, Tensor]:
    pixels = images.load("photos").batch(images.View(size, size))[:count]
    return pixels, network.probabilities(pixels).argmax(1)


def stabilised(rules: lrp.Composite) -> lrp.Composite:
    """With zennit's stabiliser everywhere, also in the first layer."""
    assert isinstance(rules.first, relevance.ZBox)
    rules.convolution.stabiliser = rules.dense.stabiliser = STABILISER
    rules.first = relevance.ZBox(rules.first.low, rules.first.high, STABILISER)
    return rules


def candidates(name: str, chosen: argparse.Namespace, kept: Kept) -> Row:
    """Seconds a candidate, all images and metrics: ours for a whole population, the plain loop for a few of it."""
    network = classifier(name)
    pixels, targets = photographs(network, chosen.images, chosen.size)
    forward = unit(network.network, chosen.size)
    both: list[tuple[evo_lrp.Evaluation, Plain, float]] = []

    def begin() -> tuple[evo_lrp.Evaluation, Plain, float]:
        forward()
        began = time.perf_counter()
        made = evo_lrp.Evaluation(network, pixels, targets, runs=chosen.runs, subset=chosen.subset, samples=chosen.samples)
        made.composite = stabilised(made.composite)
        made.scores(np.random.default_rng(99).uniform(1, 5, (chosen.population, made.size)))
        spent = time.perf_counter() - began
        return made, Plain(made, chosen.subset), spent

    def measure(i: int) -> Row:
        if not both:  # nothing of it where all rounds are kept
            both.append(begin())
        evaluation, plain, setup = both[0]
        values = np.random.default_rng(i).uniform(1, 5, (chosen.population, evaluation.size))
        one = seconds(forward) / 8
        began = time.perf_counter()
        ours = evaluation.scores(values)
        between = time.perf_counter()
        theirs = plain.scores(values[: chosen.plain])
        ended = time.perf_counter()
        apart = {m: np.abs(ours[m][: chosen.plain] - theirs[m]) for m in ours}
        return {
            "ours": (between - began) / chosen.population, "plain": (ended - between) / chosen.plain, "forward": one,
            "setup": setup, "refused": int(sum(np.isnan(a).sum() for a in apart.values())),
            "deviation": {m: float(np.nanmax(a, initial=0)) for m, a in apart.items()},
        }  # fmt: skip

    rows = kept.rounds("candidates", network.name, chosen.rounds, measure)
    whole = chosen.population * SEARCH
    search = [(r["setup"] - r["ours"] * chosen.population + r["ours"] * whole) / whole for r in rows]
    return {
        "network": network.name,
        "speedup": spread([r["plain"] / r["ours"] for r in rows]),
        "speedup_with_setup": spread([r["plain"] / s for r, s in zip(rows, search, strict=True)]),
        "seconds": spread([r["ours"] for r in rows]),
        "seconds_with_setup": spread(search),
        "seconds_plain": spread([r["plain"] for r in rows]),
        "setup_seconds": spread([r["setup"] for r in rows]),
        "forwards_an_image": spread([r["ours"] / r["forward"] / chosen.images for r in rows]),
        "forwards_an_image_plain": spread([r["plain"] / r["forward"] / chosen.images for r in rows]),
        "deviation": {m: max(r["deviation"][m] for r in rows) for m in evo_lrp.METRICS},
        "refused_by_quantus": sum(r["refused"] for r in rows),
        "checked": name in EXACT,
        "same": max(max(r["deviation"].values()) for r in rows) <= SAME_SCORES and not any(r["refused"] for r in rows),
        "images": chosen.images, "population": chosen.population, "plain_candidates": chosen.plain,
        "runs": chosen.runs, "subset": chosen.subset, "samples": chosen.samples,
    }  # fmt: skip


def alphabeta(chosen: argparse.Namespace, kept: Kept) -> Row:
    """Relevance of a population on one image, in forwards a candidate; zennit one alpha at a time."""
    network = classifier(EXACT[0])
    pixels, targets = photographs(network, 1, chosen.size)
    x, start = network.normalise(pixels), targets
    last = copy.deepcopy(network.network).to(memory_format=torch.channels_last)
    alphas = torch.linspace(1, 5, chosen.population, dtype=torch.float64)[:, None]
    rules = stabilised(lrp.alpha_beta(2.0, zbox=lrp.bounds(network)))
    recording = relevance.Recording(network.network, x)
    layers = [o.layer.name for o in recording.linear if o.layer is not None]

    def propagated(of: relevance.Recording) -> Tensor:
        begin = lrp.start_of(of, start)[None].expand(len(alphas), -1, -1)
        return lrp.propagate(of, rules, begin, alphas)[:, 0]

    def theirs(alpha: float, of: Tensor, model: nn.Module = network.network) -> Tensor:
        one = composite(layers, [alpha] * len(layers), lrp.bounds(network), canonizers(network.name))
        return by_zennit(model, of, start.expand(len(of)), one)

    runs: Runs = {
        "forward": (unit(network.network, chosen.size), 8),
        "anew": (lambda: propagated(relevance.Recording(network.network, x)), len(alphas)),
        "weights_kept": (lambda: propagated(relevance.Recording(network.network, x, recording)), len(alphas)),
        "activations_kept": (lambda: propagated(recording), len(alphas)),
        "zennit": (lambda: theirs(2.0, x), 1),
        "zennit_batch": (lambda: theirs(2.0, x.repeat(len(alphas), 1, 1, 1)), len(alphas)),
        "zennit_channels_last": (lambda: theirs(2.0, x.contiguous(memory_format=torch.channels_last), last), 1),
    }

    rows = kept.rounds("alphabeta", network.name, chosen.rounds, in_turn(runs))
    ours, double = propagated(recording), copy.deepcopy(network.network).double()
    answers = {
        "": [theirs(float(a), x.contiguous(memory_format=torch.channels_last), last)[0] for a in alphas],
        "_from_float64": [theirs(float(a), x.double(), double)[0].float() for a in alphas],
    }
    deviation = {f"deviation{k}": max(map(relative, ours, v)) for k, v in answers.items()}
    as_it_comes = [theirs(float(a), x)[0] for a in alphas]
    return {
        "network": network.name,
        **in_forwards(rows, runs),
        "candidates": len(alphas),
        **deviation,
        "zennit_deviation_from_float64": max(map(relative, as_it_comes, answers["_from_float64"])),
        "same": max(deviation.values()) <= SAME_RELEVANCE,
    }


def relative(a: Tensor, b: Tensor) -> float:
    """Largest difference over largest value."""
    return float((a - b).abs().max() / b.abs().max())


def rap_cost(chosen: argparse.Namespace, kept: Kept) -> Row:
    """A RAP map on a network with random weights, one image a call and eight, in forwards an image."""
    with torch.device("meta"):
        network: nn.Module = getattr(torchvision.models, chosen.rap)(weights=None)
    network, rng = network.to_empty(device="cpu").eval(), torch.Generator().manual_seed(0)
    for module in network.modules():  # He's sizes: activations neither die nor explode
        if isinstance(module, nn.Conv2d | nn.Linear):
            size = (6 / module.weight[0].numel()) ** 0.5
            module.weight.data.uniform_(-size, size, generator=rng)
            if module.bias is not None:
                module.bias.data.normal_(0, 0.05, generator=rng)
        elif isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
            module.reset_parameters()
    eight = torch.randn(8, 3, chosen.size, chosen.size, generator=rng)
    runs: Runs = {
        "forward": (unit(network, chosen.size), 8),
        "one": (lambda: rap.relevance(network, eight[:1], 3), 1),
        "eight": (lambda: rap.relevance(network, eight, 3), 8),
    }
    rows = kept.rounds("rap", chosen.rap, chosen.rounds, in_turn(runs))
    return {"network": chosen.rap, **in_forwards(rows, runs)}


def show(figures: Row) -> None:
    def line(words: str, value: dict[str, float], digits: int = 1) -> None:
        print(f"  {words:58s} {value['median']:9.{digits}f} ({value['min']:.{digits}f}..{value['max']:.{digits}f})")

    for f in figures["candidates"]:
        print(f"\n{f['network']}: a candidate on {f['images']} images, R = {f['runs']}, |S| = {f['subset']}, K = {f['samples']}; "
              f"the plain loop on {f['plain_candidates']} of {f['population']} candidates a round")  # fmt: skip
        line("plain seconds over ours", f["speedup"])
        line(f"with set-up, over {SEARCH} generations", f["speedup_with_setup"])
        line("seconds", f["seconds"], 3)
        line("seconds, plain", f["seconds_plain"], 3)
        line("seconds of set-up", f["setup_seconds"], 3)
        line("forwards an image", f["forwards_an_image"])
        line("forwards an image, plain", f["forwards_an_image_plain"])
        apart = ", ".join(f"{m} {v:.1e}" for m, v in f["deviation"].items())
        print(f"  largest difference of scores: {apart}{'' if f['checked'] else ' (not checked: zennit is inexact here)'}")
    f = figures["alphabeta"]
    print(f"\n{f['network']}: alpha-beta relevance of {f['candidates']} candidates on one image, forwards a candidate")
    line("everything anew", f["anew"])
    line("weights by sign kept", f["weights_kept"])
    line("activations kept", f["activations_kept"])
    line("zennit, one image", f["zennit"])
    line("zennit, a batch", f["zennit_batch"])
    line("zennit, one image, channels last", f["zennit_channels_last"])
    print(f"  largest difference from zennit, channels last {f['deviation']:.1e}; from zennit in float64: ours "
          f"{f['deviation_from_float64']:.1e}, zennit as it comes {f['zennit_deviation_from_float64']:.1e}")  # fmt: skip
    f = figures["rap"]
    print(f"\n{f['network']}, random weights: RAP, forwards an image")
    line("one image a call", f["one"])
    line("eight images a call", f["eight"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS), help="the first gives candidate_speedup")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--images", type=int, default=2)
    parser.add_argument("--population", type=int, default=12)
    parser.add_argument("--plain", type=int, default=2, help="candidates of each round that the plain loop scores")
    parser.add_argument("--runs", type=int, default=100, help="perturbed passes of faithfulness correlation")
    parser.add_argument("--subset", type=int, default=224)
    parser.add_argument("--samples", type=int, default=5, help="noisy copies of average sensitivity")
    parser.add_argument("--rap", default="vgg19", help="the network of RAP")
    parser.add_argument("--size", type=int, default=224, help="pixels of a side of all images")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rows", type=Path)
    parser.add_argument("--busy", action="store_true", help="measure although other processes are running")
    chosen = parser.parse_args()
    cores = os.cpu_count() or 1
    if os.getloadavg()[0] > cores and not chosen.busy:
        sys.exit(f"load {os.getloadavg()[0]:.1f} on {cores} cores: times would mean nothing; wait, or pass --busy")
    torch.set_num_threads(chosen.threads)
    apart = {"networks", "rounds", "rows", "busy"}
    kept = Kept(chosen.rows, " ".join(f"{k}={v}" for k, v in vars(chosen).items() if k not in apart))
    relevances, raps = alphabeta(chosen, kept), rap_cost(chosen, kept)
    networks = [candidates(name, chosen, kept) for name in chosen.networks]
    figures = {
        "candidate_speedup": networks[0]["speedup"]["median"],
        "alphabeta_forwards": relevances["anew"]["median"],
        "rap_forwards": max(raps[n]["median"] for n in ("one", "eight")),
        "threads": torch.get_num_threads(),
        "rounds": chosen.rounds,
        "alphabeta": relevances,
        "rap": raps,
        "candidates": networks,
    }
    show(figures)
    print(json.dumps(figures), flush=True)
    wrong = [f["network"] for f in networks if f["checked"] and not f["same"]]
    if wrong or not relevances["same"]:
        sys.exit(f"not the same as zennit and quantus: {', '.join(wrong) or 'relevance'}")


if __name__ == "__main__":
    main()
