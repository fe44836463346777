"""Counterfactual search: batches against one search at a time, and where the time goes.

    python benchmarks/counterfactuals.py                a table, and one JSON object as the last line
    python benchmarks/counterfactuals.py --plain        also the plain way: the package's generator, the whole classifier
    python benchmarks/counterfactuals.py --large        BigGAN-deep at 256 pixels and VGG-19 with random weights, for a GPU

A search is `--updates` updates of one noise. `batched_speedup`: searches a second in batches of 16 against one at a time, medians
of rounds that take turns. `compute_share`: time inside generator and features, forward and backward, of a batched search.
The embedded networks are used where they are there, else the same architectures with random weights: the arithmetic is the same.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
import torchvision
from pytorch_pretrained_biggan import BigGAN, BigGANConfig
from torch import Tensor
from torch.nn import functional as F

from xai_lib import classifiers, counterfactuals, generators
from xai_lib.classifiers import Classifier
from xai_lib.counterfactuals import Settings
from xai_lib.counterfactuals.search import Features
from xai_lib.errors import XaiError
from xai_lib.generators import Generator
from xai_lib.images import View
from xai_lib.training import embedded
from xai_lib.training.batch_statistics import fill

PUBLISHED = 83.0  #: seconds an image, hardware not given (Suzuki et al.)


def small() -> tuple[Any, Generator, Classifier]:
    """The package's model, ours, and the classifier of critters."""
    try:
        classifier = classifiers.load("critters_vgg19")
    except XaiError:
        classifier = embedded.untrained("critters_vgg19")
    try:
        generator = counterfactuals.load_generator("critters")
        model = BigGAN.from_pretrained(str(generator.files[0].parent)).eval()
    except XaiError:
        model = generators.build(generators.small_config())
        fill(model, batch=8)
        generator = Generator(model)
    return model, generator, classifier


def large(device: torch.device) -> tuple[Any, Generator, Classifier]:
    """BigGAN-deep-256's layers and VGG-19, random weights: this measures arithmetic, not pictures."""
    layers = [[False, 16, 16], [True, 16, 16], [False, 16, 16], [True, 16, 8], [False, 8, 8], [True, 8, 8], [False, 8, 8],
              [True, 8, 4], [False, 4, 4], [True, 4, 2], [False, 2, 2], [True, 2, 1]]  # fmt: skip
    model = generators.build(BigGANConfig(output_dim=256, layers=layers, attention_layer_position=8))
    classifier = Classifier(torchvision.models.vgg19(weights=None), name="vgg19, random weights", view=View(224, 256))
    return model, Generator(model).to(device), classifier.to(device)


def search(generator: Generator, classifier: Classifier, image: Tensor, noises: int, batch: int, updates: int) -> float:
    """Seconds a search."""
    vectors = {"wrong": F.one_hot(torch.tensor([1]), generator.classes).float()}
    settings = Settings(noises=noises, batch=batch, updates=updates, patience=0)
    began = time.perf_counter()
    counterfactuals.invert(generator, classifier, image, vectors, settings=settings, progress=False)
    return (time.perf_counter() - began) / noises


class Watch:
    """Seconds inside the generator and the features, forward, and in `torch.autograd.grad`, backward."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def around(self, run: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any, **kwargs: Any) -> Any:
            began = time.perf_counter()
            try:
                return run(*args, **kwargs)
            finally:
                self.seconds += time.perf_counter() - began

        return timed


def compute_share(generator: Generator, classifier: Classifier, image: Tensor, updates: int) -> float:
    """The share of a batched search that is spent in the two networks; what surrounds it is ours to keep small."""
    watch, grad, forward = Watch(), torch.autograd.grad, Features.forward
    of_generator = generator.model.forward
    try:
        torch.autograd.grad = watch.around(grad)  # type: ignore[assignment]
        Features.forward = watch.around(forward)  # type: ignore[method-assign]
        generator.model.forward = watch.around(of_generator)  # type: ignore[method-assign]
        whole = 16 * search(generator, classifier, image, 16, 16, updates)
    finally:
        torch.autograd.grad, Features.forward = grad, forward  # type: ignore[method-assign]
        generator.model.forward = of_generator  # type: ignore[method-assign]
    return watch.seconds / whole


def plain_search(model: Any, classifier: Classifier, image: Tensor, updates: int) -> float:
    """Seconds a search as one would write it: the package's model, all of the classifier, one picture at a time."""
    layer, seen = classifier.layer(counterfactuals.pooled_layer(classifier)), []
    hook = layer.register_forward_hook(lambda _m, _i, out: seen.append(out.flatten(1)))
    try:
        with torch.no_grad():
            classifier(image)
        goal = seen.pop()
        z = generators.noise(1, model.config.z_dim, 0).requires_grad_()
        vector = F.one_hot(torch.tensor([1]), model.config.num_classes).float()
        optimiser = torch.optim.RMSprop([z], 0.03)
        began = time.perf_counter()
        for _ in range(updates):
            classifier((model(z, vector, 1.0) + 1) / 2)
            loss = -F.cosine_similarity(seen.pop(), goal).sum()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    finally:
        hook.remove()
    return time.perf_counter() - began


def measure(updates: int, rounds: int, plain: bool) -> dict[str, Any]:
    """Rounds of every way in turn, after one that warms up."""
    model, generator, classifier = small()
    image = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    ways: dict[str, Callable[[], float]] = {
        "one at a time": lambda: search(generator, classifier, image, 2, 1, updates),
        "batches of 16": lambda: search(generator, classifier, image, 16, 16, updates),
    }
    if plain:
        ways["package, whole classifier"] = lambda: plain_search(model, classifier, image, updates)
    found: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds + 1):
        for name, run in ways.items():
            seconds = run()
            if number:
                found[name].append(seconds)
    shares = [compute_share(generator, classifier, image, updates) for _ in range(rounds)]
    print(f"{'way':<28}{'seconds a search':>18}{'least':>9}{'most':>9}")
    for name, values in found.items():
        print(f"{name:<28}{statistics.median(values):>18.3f}{min(values):>9.3f}{max(values):>9.3f}")
    middle = {name: statistics.median(values) for name, values in found.items()}
    answer = {
        "updates": updates, "rounds": rounds, "threads": torch.get_num_threads(),
        "batched_speedup": round(middle["one at a time"] / middle["batches of 16"], 2),
        "compute_share": round(statistics.median(shares), 3),
    }  # fmt: skip
    if plain:
        answer["speedup_over_plain"] = round(middle["package, whole classifier"] / middle["batches of 16"], 2)
    return answer


def measure_large(updates: int, batch: int) -> dict[str, Any]:
    """Seconds for the 96 searches of one picture, from a batch of them, beside what the paper needed."""
    device = classifiers.find_device("auto")
    _, generator, classifier = large(device)
    image = torch.rand(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    search(generator, classifier, image, batch, batch, 1)
    each = search(generator, classifier, image, batch, batch, updates)
    whole = 96 * each * 2000 / updates
    print(f"{device}: {each:.2f} s a search of {updates} updates")
    print(f"96 searches of 2000 updates: {whole:.0f} s; published: {96 * PUBLISHED:.0f} s")
    return {"device": str(device), "updates": updates, "seconds_for_96": round(whole, 1), "published": 96 * PUBLISHED}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--updates", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--plain", action="store_true")
    parser.add_argument("--large", action="store_true")
    parser.add_argument("--batch", type=int, default=16, help="of --large")
    given = parser.parse_args()
    answer = measure_large(given.updates, given.batch) if given.large else measure(given.updates, given.rounds, given.plain)
    print(json.dumps(answer))


if __name__ == "__main__":
    main()
