"""The search against slow second implementations, and on a network whose best mask is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from tests.networks import planted
from xai_lib import classifiers, explainers, images
from xai_lib.explainers import elime
from xai_lib.explanation import ExplanationError
from xai_lib.inference import FLOAT32
from xai_lib.superpixels import Fitness, masked_images, segment
from xai_lib.surrogate import likeness


def slow_breed(parents: np.ndarray, n: int, settings: elime.Settings, rng: np.random.Generator) -> np.ndarray:
    """Child by child and bit by bit, on the same random numbers."""
    count, d = parents.shape
    draws = rng.integers(0, count, (2, n, settings.tournament))
    two, rate = rng.random(n), rng.random(n)
    swap, flip = rng.random((n, d)), rng.random((n, d))
    children = []
    for i in range(n):
        mother, father = parents[min(draws[0][i])], parents[min(draws[1][i])]
        child = [bool(b) for b in mother]
        for k in range(d):
            if two[i] < settings.crossover and swap[i, k] < 0.5:
                child[k] = bool(father[k])
            if flip[i, k] < settings.mutation[math.floor(rate[i] * len(settings.mutation))] / d:
                child[k] = not child[k]
        children.append(child)
    return np.array(children)


@pytest.mark.parametrize("settings", [elime.Settings(), elime.Settings.paper()])
def test_breeding_equals_its_definition(settings: elime.Settings) -> None:
    parents = np.random.default_rng(0).random((settings.population, 19)) < 0.5
    fast = elime.breed(parents, 40, settings, np.random.default_rng(1))
    assert np.array_equal(fast, slow_breed(parents, 40, settings, np.random.default_rng(1)))


def test_mutation_flips_the_stated_number_of_bits() -> None:
    settings = elime.Settings(mutation=(2.0,), crossover=0.0)
    parents = np.random.default_rng(0).random((12, 50)) < 0.5
    children = elime.breed(parents[:1], 4000, settings, np.random.default_rng(1))
    assert (children != parents[0]).sum(1).mean() == pytest.approx(2.0, abs=0.1)


def test_crossover_takes_each_bit_from_either_parent() -> None:
    settings = elime.Settings(mutation=(0.0,), crossover=1.0, tournament=1)
    parents = np.array([np.zeros(40, bool), np.ones(40, bool)])
    children = elime.breed(parents, 4000, settings, np.random.default_rng(1))
    mixed = children[(children.any(1)) & (~children.all(1))]
    assert len(mixed) / 4000 == pytest.approx(0.5, abs=0.05)
    assert mixed.mean() == pytest.approx(0.5, abs=0.02)


def test_the_first_population() -> None:
    masks = elime.first_population(400, elime.Settings(), np.random.default_rng(0))
    assert masks.shape == (8, 400) and masks[0].all()
    np.testing.assert_allclose(masks[1:].mean(1), np.linspace(0.75, 0.97, 7), atol=0.07)
    without = elime.first_population(400, elime.Settings(seed_full=False), np.random.default_rng(0))
    assert without.shape == (8, 400) and not without.all(1).any()


@pytest.mark.parametrize("settings", [elime.Settings(), elime.Settings.paper()])
@pytest.mark.parametrize("seed", range(3))
def test_it_finds_the_best_mask_of_a_planted_network(settings: elime.Settings, seed: int) -> None:
    classifier, image, segments = planted(4)
    fitness = Fitness(classifier, image, segments, 1, calls=290)
    for _ in elime.evolve(fitness, settings, np.random.default_rng(seed)):
        pass
    wanted = classifier.network.wanted.flatten().numpy() > 0
    assert np.array_equal(fitness.outcome()["kept"], wanted)


def test_the_surrogate_search_needs_fewer_calls_than_the_plain_one() -> None:
    classifier, image, segments = planted(6)
    wanted = classifier.network.wanted.flatten().numpy() > 0

    def calls(settings: elime.Settings, seed: int) -> int:
        fitness = Fitness(classifier, image, segments, 1, calls=300)
        for _ in elime.evolve(fitness, settings, np.random.default_rng(seed)):
            pass
        hit = np.flatnonzero((fitness.masks == wanted).all(1))
        return int(hit[0]) if len(hit) else 300

    ours, plain = ([calls(s, seed) for seed in range(5)] for s in (elime.Settings(), elime.Settings.paper()))
    assert np.median(ours) < 0.6 * np.median(plain)


@pytest.mark.parametrize("settings", [elime.Settings(calls=60), elime.Settings.paper(60)])
def test_populations_are_sorted_and_the_elite_is_never_lost(settings: elime.Settings) -> None:
    classifier, image, segments = planted(5)
    fitness = Fitness(classifier, image, segments, 1, calls=56)
    best = []
    for population in elime.evolve(fitness, settings, np.random.default_rng(0)):
        scores = fitness(population)
        assert np.array_equal(scores, np.sort(scores)[::-1]) and len(population) <= settings.population
        best.append(scores[0])
    assert best == sorted(best) and best[-1] == fitness.scores.max()


def test_children_of_one_batch_differ_in_two_superpixels_and_are_new() -> None:
    classifier, image, segments = planted(5)
    fitness = Fitness(classifier, image, segments, 1, calls=100)
    settings, rng = elime.Settings(), np.random.default_rng(0)
    population = elime.first_population(fitness.d, settings, rng)
    fitness(population)
    alike = likeness(segments.numpy())
    children = elime.screen(elime.breed(population, 96, settings, rng), fitness, alike, settings, rng)
    assert len(children) == 4 and len(fitness.unseen(children)) == 4
    differences = (children[:, None] != children[None]).sum(2)[~np.eye(4, dtype=bool)]
    assert differences.min() >= 2


def test_few_superpixels_end_before_the_calls_do() -> None:
    classifier, image, segments = planted(2)
    found = [elime.Settings(), elime.Settings.paper()]
    for settings in found:
        fitness = Fitness(classifier, image, segments, 1, calls=200)
        for _ in elime.evolve(fitness, settings, np.random.default_rng(0)):
            pass
        assert fitness.calls <= 16 and fitness.outcome()["kept"].tolist() == [True, False, False, True]


def test_a_size_term_prefers_smaller_masks() -> None:
    classifier = classifiers.load("efficientnet_lite0")
    image = images.load("photos").select(["coffee"]).batch(classifier.view)
    plain, small = (
        elime.ELime().explain(classifier, image, settings=elime.Settings(calls=120, size_weight=w)).details[0]
        for w in (0.0, 6.0)
    )
    assert small["kept"].mean() < 0.75 * plain["kept"].mean()


def test_the_real_network_is_more_certain_of_the_evolved_mask() -> None:
    classifier = classifiers.load("efficientnet_lite0")
    photographs = images.load("photos").select(["stereo_motorcycle", "flower"]).batch(classifier.view)
    full = classifier.probabilities(photographs)
    found = explainers.get("elime").explain(classifier, photographs, settings=elime.Settings(calls=100))
    for i, (photograph, details) in enumerate(zip(photographs, found.details, strict=True)):
        shown = masked_images(photograph, details["segments"], details["kept"][None])
        probability = float(classifier.probabilities(shown)[0, found.targets[i]])
        assert details["probability"] == pytest.approx(probability, abs=1e-6)
        assert probability > float(full[i, found.targets[i]]) + 0.05
        assert torch.equal(found.maps[i].bool(), torch.from_numpy(details["kept"])[details["segments"]])


def test_precision_is_declared_and_can_be_asked_for() -> None:
    classifier = classifiers.load("efficientnet_lite0")
    image = images.load("photos").select(["flower"]).batch(classifier.view)
    settings = elime.Settings(calls=30, precision="float32")
    details = elime.ELime().explain(classifier, image, settings=settings).details[0]
    assert details["inference"]["dtype"] == FLOAT32.dtype
    plan_auto = elime.fitness_for(classifier, image[0], 985, elime.Settings()).plan
    assert details["inference"]["inner_batch"] == FLOAT32.inner_batch and plan_auto.reason.startswith("processor")


def test_search_in_float32_does_not_depend_on_threads() -> None:
    classifier = classifiers.load("efficientnet_lite0")
    image = images.load("photos").select(["flower"]).batch(classifier.view)[0]
    threads, found = torch.get_num_threads(), []
    try:
        for n in (1, 2):
            torch.set_num_threads(n)
            fitness = Fitness(classifier, image, segment(image), 985, calls=60, plan=FLOAT32)
            for _ in elime.evolve(fitness, elime.Settings(), np.random.default_rng(0)):
                pass
            found.append((fitness.masks.copy(), fitness.scores.copy()))
    finally:
        torch.set_num_threads(threads)
    # sums may be split differently between threads: scores agree to 1e-4 log-odds; on the machines tried, exactly
    np.testing.assert_allclose(found[0][1][:8], found[1][1][:8], atol=1e-4)


@pytest.mark.parametrize("wrong", [{"population": 0}, {"calls": 1}, {"elitism": 13}, {"tournament": 0}])
def test_settings_that_cannot_work(wrong: dict[str, int]) -> None:
    with pytest.raises(ExplanationError, match="E-LIME: .*expected counts of at least 1"):
        elime.Settings(**wrong)
