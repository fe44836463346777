"""Mistakes, class vectors, ends and transitions, checked by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.counterfactuals import worlds
from xai_lib import counterfactuals
from xai_lib.classifiers import Classifier
from xai_lib.counterfactuals import CounterfactualError, End, Inversion, Transition
from xai_lib.counterfactuals.cases import checked_vectors
from xai_lib.errors import XaiError
from xai_lib.generators import GeneratorError
from xai_lib.images import View
from xai_lib.training import embedded

GENERATOR, CLASSIFIER = worlds.generator(), worlds.classifier()


class Brightness(nn.Module):
    """Logits: brightness of red, green and blue."""

    def forward(self, x: Tensor) -> Tensor:
        return 10 * x.mean((2, 3))


def colours(*which: int) -> Tensor:
    return torch.eye(3)[list(which)][:, :, None, None].expand(-1, -1, 8, 8)


def test_mistakes_are_found_in_order_with_what_they_were_taken_for() -> None:
    by_colour = Classifier(Brightness(), mean=(0,) * 3, std=(1,) * 3, view=View(8, 8), class_names=["r", "g", "b"])
    found = counterfactuals.find_misclassified(by_colour, colours(0, 1, 2, 0, 1), [0, 2, 2, 1, 1], batch=2)
    assert [(m.index, m.true, m.predicted) for m in found] == [(1, 2, 1), (3, 1, 0)]
    assert all(abs(m.probability - float(torch.tensor([10.0, 0, 0]).softmax(0)[0])) < 1e-6 for m in found)
    assert counterfactuals.find_misclassified(by_colour, colours(0), [0]) == []
    with pytest.raises(GeneratorError, match="1 pictures, but 2 labels"):
        counterfactuals.find_misclassified(by_colour, colours(0), [0, 1])


def test_class_vectors_are_two_one_hots_and_the_softmax() -> None:
    image = worlds.picture()
    found = counterfactuals.class_vectors(CLASSIFIER, image, 2, 0, GENERATOR)
    assert found["correct"].tolist() == [[0, 0, 1]] and found["wrong"].tolist() == [[1, 0, 0]]
    assert torch.allclose(found["softmax"], CLASSIFIER(image).softmax(1)) and abs(float(found["softmax"].sum()) - 1) < 1e-6
    four = Classifier(nn.Sequential(nn.Flatten(), nn.Linear(3 * 64 * 64, 4)), view=View(64, 64))
    with pytest.raises(GeneratorError, match="makes 3 classes, Sequential knows 4"):
        counterfactuals.class_vectors(four, image, 0, 1, GENERATOR)


def test_features_are_those_behind_the_last_pooling() -> None:
    vgg = embedded.untrained("critters_vgg19")
    image = worlds.picture()
    found = counterfactuals.features(vgg, image)
    assert found.shape == (1, 96, 4, 4)
    assert counterfactuals.pooled_layer(vgg) == "features.39" and isinstance(vgg.layer("features.39"), nn.MaxPool2d)
    assert torch.allclose(found, vgg.network.features[:40](vgg.normalise(image)), atol=1e-5)  # type: ignore[index]
    assert counterfactuals.features(vgg, image, "features.26").shape == (1, 64, 8, 8)
    for name, wanted in (("critters_resnet", "layer4"), ("critters_mobilenet", "features")):  # no max pooling near the end
        assert counterfactuals.pooled_layer(embedded.untrained(name)) == wanted


def test_rap_where_it_is_made_for_and_a_conserving_rule_elsewhere() -> None:
    image = worlds.picture()
    for name, wanted in (("critters_vgg19", "RAP"), ("critters_resnet", "RAP"), ("critters_mobilenet", "LRP")):
        classifier = embedded.untrained(name)
        method, said = counterfactuals.relevance_method(classifier)
        assert said.startswith(wanted)
        maps = method.explain(classifier, image, targets=[3]).maps
        assert maps.shape == (1, 64, 64) and bool(maps.isfinite().all())


def inversion(probabilities: list[list[float]], cosines: list[float]) -> Inversion:
    n = len(cosines)
    z = torch.arange(8.0 * n).view(n, 8)
    return Inversion(
        z, torch.tensor(cosines), torch.zeros(n, 2), torch.ones(n).long(), torch.eye(3)[torch.arange(n) % 3],
        torch.tensor(probabilities), torch.zeros(n, 3, 64, 64, dtype=torch.uint8), ("correct",) * n, 0, 1, 1.0,
    )  # fmt: skip


def test_an_end_is_the_most_similar_of_the_sure_ones_else_the_surest() -> None:
    found = inversion([[0.95, 0.05, 0], [0.91, 0.09, 0], [0.2, 0.8, 0], [0.3, 0.7, 0], [0, 0.1, 0.9]], [0.5, 0.6, 0.7, 0.9, 0.99])
    goal, start = counterfactuals.pick(found, "correct"), counterfactuals.pick(found, "wrong")
    assert goal is not None and goal.row == 1
    assert goal.said == "the most similar of 2 with at least 0.9 (confidence 0.91, cosine 0.600)"
    assert start is not None and start.row == 2 and start.said.startswith("the most confident of 2")
    assert torch.equal(start.z, found.z[2]) and torch.equal(start.class_vector, found.vectors[2])
    assert counterfactuals.pick(inversion([[0.9, 0.1, 0]], [0.5]), "wrong") is None
    with pytest.raises(CounterfactualError, match="correct or wrong; found 'right'"):
        counterfactuals.pick(found, "right")  # type: ignore[arg-type]


def test_a_transition_is_a_straight_line_with_both_ends() -> None:
    z = counterfactuals.noise(2, 8, seed=1)
    start, goal = End(z[0], torch.eye(3)[1], 0, ""), End(z[1], torch.eye(3)[0], 1, "")
    found = counterfactuals.transition(GENERATOR, CLASSIFIER, start, goal, classes=(0, 1), phases=7, batch=3)
    shares = torch.arange(7)[:, None] / 6
    by_hand = GENERATOR((1 - shares) * z[0] + shares * z[1], (1 - shares) * torch.eye(3)[1] + shares * torch.eye(3)[0])
    assert torch.allclose(found.images(range(7)), by_hand, atol=1e-4) and found.phases == 7
    assert torch.allclose(found.probabilities, CLASSIFIER.probabilities(by_hand), atol=1e-3)
    ends = GENERATOR(z, torch.eye(3)[[1, 0]])
    assert torch.allclose(found.images([0, 6]), ends, atol=1e-5)
    assert torch.equal(found.confidence(1), found.probabilities[:, 1])
    with pytest.raises(CounterfactualError, match="phases: at least 2, found 1"):
        counterfactuals.transition(GENERATOR, CLASSIFIER, start, goal, classes=(0, 1), phases=1)


@pytest.mark.parametrize(
    ("correct", "wanted"),
    [
        ([0.1, 0.3, 0.7, 0.9], [1.5]),
        ([0.1, 0.4, 0.8], [1.25]),
        ([0.1, 0.2], []),
        ([0.1, 0.9, 0.1], [0.5, 1.5]),
        ([0.1, 0.5, 0.9], [1.0]),
    ],
)
def test_crossings_by_hand(correct: list[float], wanted: list[float]) -> None:
    one = torch.tensor(correct)
    end = End(torch.zeros(8), torch.eye(3)[0], 0, "")
    found = Transition(GENERATOR, end, end, (0, 1), torch.stack([one, 1 - one, 0 * one], 1))
    assert found.crossings == pytest.approx(wanted)


NAN = worlds.picture().clone()
NAN[0, 1, 5, 5] = float("nan")


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (NAN, "found NaN or infinite values"), (worlds.picture() / 0, "found NaN or infinite values"),
        (worlds.picture() * 255, "expected values in 0..1, found"),
        ((worlds.picture() * 255).byte(), "expected (floats|values) in 0..1"),
        (worlds.picture()[:, :1], r"expected shape \(N, 3, H, W\)"), (worlds.picture()[0], "add the batch axis"),
    ],
)  # fmt: skip
def test_images_that_no_cosine_means_anything_for(image: Tensor, message: str) -> None:
    """At every door: features, softmax, the list of mistakes, and the search."""
    vectors = {"correct": torch.eye(3)[:1]}
    for ask in (
        lambda: counterfactuals.features(CLASSIFIER, image),
        lambda: counterfactuals.class_vectors(CLASSIFIER, image, 0, 1, GENERATOR),
        lambda: counterfactuals.find_misclassified(CLASSIFIER, image, [0]),
        lambda: counterfactuals.invert(GENERATOR, CLASSIFIER, image, vectors, progress=False),
    ):
        with pytest.raises(XaiError, match=message if image.ndim == 4 else "1, 3, H, W|batch axis"):
            ask()


@pytest.mark.parametrize("label", [3, 99, -1, 0.5, True])
def test_classes_that_nobody_knows(label: Any) -> None:
    for true, predicted in ((label, 1), (1, label)):
        with pytest.raises(GeneratorError, match="(true|predicted): (class .* is not among the 3 of small|expected a whole)"):
            counterfactuals.class_vectors(CLASSIFIER, worlds.picture(), true, predicted, GENERATOR)
    if not isinstance(label, float):
        start = End(torch.zeros(8), torch.eye(3)[1], 0, "")
        with pytest.raises(CounterfactualError, match="classes: "):
            counterfactuals.transition(GENERATOR, CLASSIFIER, start, start, classes=(0, label), phases=3)
    if label is not True:  # which torch takes for a 1
        with pytest.raises(GeneratorError, match="label: "):
            counterfactuals.find_misclassified(CLASSIFIER, worlds.picture(), [label])


def test_ends_of_another_generator_and_odd_truncations() -> None:
    start, other = End(torch.zeros(8), torch.eye(3)[1], 0, ""), End(torch.zeros(9), torch.eye(3)[1], 0, "")
    with pytest.raises(GeneratorError, match=r"goal: expected z \(8,\) and class_vector \(3,\) of .*, found \(9,\) and \(3,\)"):
        counterfactuals.transition(GENERATOR, CLASSIFIER, start, other, classes=(0, 1), phases=3)
    for truncation in (0.0, -1.0, 1.5, float("nan")):
        with pytest.raises(GeneratorError, match="truncation: expected above 0 and at most 1"):
            counterfactuals.transition(GENERATOR, CLASSIFIER, start, start, classes=(0, 1), phases=3, truncation=truncation)


@pytest.mark.parametrize(
    ("vector", "message"),
    [
        (torch.eye(4)[:1], r"class vector 'own': expected \(1, 3\), found \(1, 4\)"),
        (torch.eye(3), r"expected \(1, 3\), found \(3, 3\)"), (torch.full((1, 3), torch.nan), "found NaN or infinite values"),
        (torch.eye(3)[:1].long(), "expected finite floats, found torch.int64"),
    ],
)  # fmt: skip
def test_class_vectors_of_another_kind(vector: Tensor, message: str) -> None:
    with pytest.raises(GeneratorError, match=message):
        checked_vectors(GENERATOR, {"own": vector})
    checked_vectors(GENERATOR, {"row": torch.eye(3)[:1], "flat": torch.ones(3) / 3})
