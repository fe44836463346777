"""Eq. 1 against a literal second search; independence, early stop, going on, and clear errors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.awkward import Convolutional, Tutorial, awkward, classifier_of
from tests.counterfactuals import worlds
from xai_lib import counterfactuals
from xai_lib.classifiers import ClassifierError
from xai_lib.counterfactuals import CounterfactualError, Inversion, Settings
from xai_lib.counterfactuals import search as searching
from xai_lib.generators import GeneratorError

GENERATOR, CLASSIFIER, PICTURE = worlds.generator(), worlds.classifier(), worlds.picture()
VECTORS = counterfactuals.class_vectors(CLASSIFIER, PICTURE, 0, 1, GENERATOR)


def search(vectors: dict[str, Tensor] | None = None, checkpoint: Path | None = None, **settings: Any) -> Inversion:
    own = Settings(**{"noises": 3, "updates": 6, "batch": 4, "patience": 0, "learning_rate": 0.02} | settings)
    return counterfactuals.invert(
        GENERATOR, CLASSIFIER, PICTURE, vectors or VECTORS, settings=own, seed=2, checkpoint=checkpoint, progress=False
    )


def cosine_of(z: Tensor, vector: Tensor) -> Tensor:
    """The plain way: the whole classifier, features by its own layers, one picture."""
    own, wanted = (CLASSIFIER.network[:5](CLASSIFIER.normalise(x)).flatten() for x in (GENERATOR(z[None], vector), PICTURE))
    return (own @ wanted) / (own.norm() * wanted.norm())


def step_by_hand(way: str, number: int, rate: float, gradient: Tensor, memory: list[Tensor]) -> Tensor:
    """What is added to z; `memory` holds the moments. Written from the definitions."""
    if way == "sgd":
        return rate * gradient
    if way == "rmsprop":
        memory[0] = 0.99 * memory[0] + 0.01 * gradient**2
        return rate * gradient / (memory[0].sqrt() + 1e-8)
    memory[0], memory[1] = 0.9 * memory[0] + 0.1 * gradient, 0.99 * memory[1] + 0.01 * gradient**2
    first, second = memory[0] / (1 - 0.9**number), memory[1] / (1 - 0.99**number)
    return rate * first / (second.sqrt() + 1e-8)


@pytest.mark.parametrize("way", ["rmsprop", "adam", "sgd"])
def test_the_search_is_that_of_a_second_implementation(way: Any) -> None:
    rate = 2.0 if way == "sgd" else 0.02
    found = search(optimiser=way, learning_rate=rate, updates=3)
    for row, (kind, k) in enumerate([(kind, k) for kind in VECTORS for k in range(3)]):
        z, memory, curve = counterfactuals.noise(3, 8, seed=2)[k].clone(), [torch.zeros(8), torch.zeros(8)], []
        tried = []
        for number in range(1, 5):
            z.requires_grad_()
            cosine = cosine_of(z, VECTORS[kind])
            curve.append(float(cosine.detach()))
            tried.append(z.detach())
            (gradient,) = torch.autograd.grad(cosine, z)
            z = (z + step_by_hand(way, number, rate, gradient, memory)).detach()
        assert found.kinds[row] == kind and np.allclose(found.curves[row], curve, atol=2e-4)
        best = int(np.argmax(curve))
        assert torch.allclose(found.z[row], tried[best], atol=1e-3) and abs(float(found.cosines[row]) - curve[best]) < 2e-4


@pytest.mark.parametrize("layer", ["0", "2"])
def test_any_layer_can_be_compared(layer: str) -> None:
    found = search({"correct": VECTORS["correct"]}, layer=layer, updates=2)
    for picture in (found.images[:1], GENERATOR(found.z[:1], VECTORS["correct"])):
        own, wanted = (
            CLASSIFIER.network[: int(layer) + 1](CLASSIFIER.normalise(x)).flatten().detach() for x in (picture, PICTURE)
        )
        assert abs(float(torch.cosine_similarity(own, wanted, dim=0)) - float(found.cosines[0])) < 2e-3
    assert not torch.equal(found.cosines, search({"correct": VECTORS["correct"]}, updates=2).cosines)


def test_the_first_step_of_rmsprop_is_ten_times_the_rate_whatever_the_gradient() -> None:
    found = search(updates=1, learning_rate=0.02)
    moved = (found.z - counterfactuals.noise(3, 8, seed=2).repeat(3, 1)).abs()
    improved = found.curves[:, 1] > found.curves[:, 0]
    assert bool(improved.any()) and torch.allclose(moved[improved], torch.tensor(0.2), atol=1e-3)


def test_a_noise_does_not_depend_on_what_runs_beside_it() -> None:
    many, few, one = search(), search({"wrong": VECTORS["wrong"]}), search({"softmax": VECTORS["softmax"]}, noises=1)
    assert torch.equal(few.z, many.z[3:6]) and torch.equal(few.pictures, many.pictures[3:6])
    assert torch.equal(few.curves, many.curves[3:6])
    assert torch.equal(one.z, many.z[6:7]) and torch.equal(one.probabilities, many.probabilities[6:7])


def test_pictures_cosines_and_classes_are_those_of_the_best_z() -> None:
    found = search()
    made = GENERATOR(found.z, found.vectors)
    assert torch.allclose(found.images, made, atol=1 / 255) and found.pictures.dtype == torch.uint8
    assert torch.allclose(found.probabilities, CLASSIFIER.probabilities(made), atol=1e-3)
    assert torch.equal(found.cosines, found.curves.max(1).values) and bool((found.cosines > found.curves[:, 0]).any())
    again = [float(cosine_of(z, v[None]).detach()) for z, v in zip(found.z, found.vectors, strict=True)]
    assert np.allclose(found.cosines, again, atol=2e-4)
    assert (found.true, found.predicted) == (0, int(CLASSIFIER(PICTURE).argmax()))
    said = {0: "correct", found.predicted: "wrong"}
    assert found.verdicts == [said.get(int(p.argmax()), "other") for p in found.probabilities]


def test_the_table_counts_by_class_vector() -> None:
    found = search()
    table = found.table(case="a")
    assert list(table.columns) == [
        "case", "class_vector", "noises", "cosine_mean", "cosine_best", "share_correct", "share_wrong", "share_other",
        "seconds_per_image",
    ]  # fmt: skip
    assert list(table.class_vector) == ["correct", "wrong", "softmax"] and (table.noises == 3).all()
    assert np.allclose(table.share_correct + table.share_wrong + table.share_other, 1)
    assert np.isclose(table.cosine_mean[1], float(found.cosines[3:6].mean())) and (table.cosine_best >= table.cosine_mean).all()
    assert table.share_correct[2] == found.verdicts[6:].count("correct") / 3


def test_a_search_that_gains_nothing_ends_and_keeps_its_last_cosine() -> None:
    found = search(updates=40, patience=5, learning_rate=1e-9)
    assert found.updates.tolist() == [5] * 9 and found.updates_run == 5 and found.curves.shape == (9, 41)
    assert torch.equal(found.curves[:, 5:], found.curves[:, 5:6].expand(-1, 36))
    longer = search(updates=12, patience=5)
    free = search(updates=12, patience=0)
    for row, last in enumerate(longer.updates.tolist()):
        assert torch.equal(longer.curves[row, : last + 1], free.curves[row, : last + 1])


def test_a_search_cut_off_ends_as_one_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(searching, "_EVERY", 2)
    at_once, file = search(), tmp_path / "search.pt"
    for stop_after in (1, 4, 5):
        file.unlink(missing_ok=True)
        written = 0
        write = searching._Search._write

        def cut_off(self: Any, within: Any, stop: int = stop_after, write: Any = write) -> None:
            nonlocal written
            write(self, within)
            written += 1
            if written == stop:
                raise KeyboardInterrupt

        with monkeypatch.context() as patched:
            patched.setattr(searching._Search, "_write", cut_off)
            with pytest.raises(KeyboardInterrupt):
                search(checkpoint=file)
        again = search(checkpoint=file)
        assert all(torch.equal(getattr(again, k), getattr(at_once, k)) for k in ("z", "curves", "pictures", "updates"))
    assert torch.equal(search(checkpoint=file).z, at_once.z)
    with pytest.raises(CounterfactualError, match="search.pt belongs to another search; remove it"):
        search(checkpoint=file, updates=7)
    file.write_bytes(b"PK")
    with pytest.raises(CounterfactualError, match="search.pt cannot be read"):
        search(checkpoint=file)


def test_a_checkpoint_belongs_to_its_classifier_and_its_generator(tmp_path: Path) -> None:
    file = tmp_path / "search.pt"
    call: dict[str, Any] = {"settings": Settings(noises=1, updates=1, batch=1), "checkpoint": file, "progress": False}
    counterfactuals.invert(GENERATOR, CLASSIFIER, PICTURE, VECTORS, **call)
    again = counterfactuals.invert(worlds.generator(), worlds.classifier(), PICTURE, VECTORS, **call)
    assert len(again.z) == 3, "equal ones may go on"
    for generator, classifier in ((worlds.generator(1), CLASSIFIER), (GENERATOR, worlds.classifier(1))):
        with pytest.raises(CounterfactualError, match="search.pt belongs to another search; remove it"):
            counterfactuals.invert(generator, classifier, PICTURE, VECTORS, **call)
    changed = worlds.classifier()
    changed.network[0].weight.data.neg_()
    with pytest.raises(CounterfactualError, match="search.pt belongs to another search; remove it"):
        counterfactuals.invert(GENERATOR, changed, PICTURE, VECTORS, **call)


class SharedRelu(Convolutional):
    """One activation used twice; the layer of that name means its last run."""

    def __init__(self) -> None:
        super().__init__()
        self.act = nn.ReLU()

    def maps(self, x: Tensor) -> Tensor:
        return self.act(self.norm2(self.conv2(self.act(self.norm1(self.conv1(x))))))


@pytest.mark.parametrize("name", ["tutorial, view(-1)", "tutorial, view(size)", "plain", "keeps a tensor", "lock", "layout",
                                  "weak reference", "tied weights", "pair used twice", "dictionary", "double", "shared"])
def test_features_of_any_network_and_their_gradients(name: str) -> None:
    """Against the plain pass of `features`, which computes with the untouched network."""
    torch.manual_seed(0)
    classifier = classifier_of(SharedRelu()) if name == "shared" else awkward(name)
    layers = ["act"] if name == "shared" else [""] + ["conv1", "norm1"] * isinstance(classifier.network, Convolutional)
    for layer in layers:
        fast = searching.Features(classifier, layer, 4)
        pictures = torch.cat([worlds.picture(s, 32) for s in range(4)]).requires_grad_()
        answers = []
        for found in (fast(pictures), counterfactuals.features(classifier, pictures, layer).flatten(1)):
            answers.append((found, torch.autograd.grad(found.double().square().sum(), pictures)[0]))
        for one, other in zip(*answers, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-3 * float(other.detach().abs().max()))
    assert not any(m._forward_hooks for m in classifier.modules())


def test_a_layer_without_gradients_and_a_network_of_other_channels_are_refused() -> None:
    class Blind(Convolutional):
        def maps(self, x: Tensor) -> Tensor:
            with torch.no_grad():
                return super().maps(x)

    vectors = {"wrong": torch.eye(3)[1:2]}
    with pytest.raises(CounterfactualError, match="layer 'norm2' does not depend differentiably on the image"):
        counterfactuals.invert(GENERATOR, classifier_of(Blind()), worlds.picture(size=32), vectors, settings=Settings(
            noises=1, updates=1, batch=1, layer="norm2"), progress=False)  # fmt: skip
    with pytest.raises(CounterfactualError, match=r"takes images of 1 channel\(s\), and the generator makes three"):
        counterfactuals.invert(GENERATOR, classifier_of(Tutorial(True, 1), 1), worlds.picture(size=32)[:, :1], vectors)


def test_it_survives_json_bit_by_bit() -> None:
    found = search()
    again = Inversion.from_dict(json.loads(json.dumps(found.as_dict())))
    for name in ("z", "cosines", "curves", "updates", "vectors", "probabilities", "pictures"):
        one, other = getattr(again, name), getattr(found, name)
        assert torch.equal(one, other) and one.dtype == other.dtype
    assert (again.kinds, again.true, again.predicted, again.seconds) == (found.kinds, found.true, found.predicted, found.seconds)


def test_everything_is_left_as_it_was() -> None:
    state = torch.random.get_rng_state()
    parameters = [p.requires_grad for p in CLASSIFIER.parameters()]
    CLASSIFIER.train()
    search(updates=1)
    assert CLASSIFIER.training and [p.requires_grad for p in CLASSIFIER.parameters()] == parameters
    CLASSIFIER.eval()
    assert torch.equal(torch.random.get_rng_state(), state)
    assert not any(m._forward_hooks for m in CLASSIFIER.modules()) and all(p.grad is None for p in CLASSIFIER.parameters())


def test_a_generator_of_another_size_is_brought_to_the_classifiers() -> None:
    other = worlds.classifier(size=48)
    found = counterfactuals.invert(
        GENERATOR, other, worlds.picture(size=48), {"wrong": torch.eye(3)[1:2]},
        settings=Settings(noises=2, updates=2, batch=2), progress=False,
    )  # fmt: skip
    assert found.pictures.shape == (2, 3, 64, 64) and found.true == -1 and bool(found.curves.isfinite().all())


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"optimiser": "lbfgs"}, "optimiser: rmsprop, adam, sgd; found 'lbfgs'"),
        ({"noises": 0}, "noises and batch must be at least 1"),
        ({"learning_rate": 0.0}, "learning_rate and eps must be above 0"),
        ({"decay": 1.0}, "decay in 0..1 below 1"),
        ({"truncation": 1.5}, "truncation above 0 and at most 1"),
    ],
)
def test_wrong_settings_are_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(CounterfactualError, match=said):
        Settings(**settings)


def test_wrong_input_is_refused() -> None:
    with pytest.raises(CounterfactualError, match=r"expected one picture \(1, 3, H, W\), found \(3, 64, 64\)"):
        counterfactuals.invert(GENERATOR, CLASSIFIER, PICTURE[0], VECTORS)
    with pytest.raises(CounterfactualError, match="no class vector was given"):
        counterfactuals.invert(GENERATOR, CLASSIFIER, PICTURE, {})
    with pytest.raises(ClassifierError, match="small has no layer 'features'"):
        search(layer="features", updates=0)
    with pytest.raises(GeneratorError, match=r"class vector 'correct': expected \(1, 3\), found \(1, 5\)"):
        search({"correct": torch.ones(1, 5)}, updates=0)
    with pytest.raises(GeneratorError, match="class vector 'wrong': expected finite floats, found NaN"):
        search({"wrong": torch.full((1, 3), float("nan"))}, updates=0)
