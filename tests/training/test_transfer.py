"""Heads on frozen features, and the file that brings a trained classifier back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from torch import nn

from tests.networks import picture, tiny
from xai_lib import classifiers, heads
from xai_lib.training import Recipe, Samples, TrainingError, evaluate, features, fit_head, load, save, with_head
from xai_lib.weights import WeightsError

pytestmark = pytest.mark.usefixtures("one_thread")
NAMES = ("disc", "ring", "none")


def drawn(n: int, seed: int = 0) -> Samples:
    """Grey pictures of 32 pixels: the class is how bright the middle is."""
    rng = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % 3
    pictures = torch.randint(0, 60, (n, 1, 32, 32), generator=rng, dtype=torch.uint8)
    pictures[:, :, 8:24, 8:24] += (labels * 80).to(torch.uint8)[:, None, None, None]
    return Samples(pictures, labels)


def trained() -> tuple[Any, dict[str, Samples]]:
    classifier = with_head(tiny(), NAMES)
    pictures = {"train": drawn(60), "validation": drawn(30, 1)}
    sets = {k: Samples(features(classifier, s.inputs, progress=False), s.labels) for k, s in pictures.items()}
    fit_head(classifier, sets, Recipe(epochs=60, learning_rate=0.05), progress=False)
    return classifier, pictures


def test_features_are_what_the_last_layer_sees() -> None:
    classifier = tiny(1)
    pictures = torch.stack([picture(s) for s in range(5)])
    with torch.no_grad():
        wanted = classifier.network[:-1](classifier.normalise(pictures))
        logits = classifier(pictures)
    found = features(classifier, pictures, batch=2, progress=False)
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(classifier.network[-1](found), logits, rtol=1e-4, atol=1e-5)
    grey = torch.randint(0, 256, (3, 1, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    wide = (grey.float() / 255).expand(-1, 3, -1, -1)
    assert torch.equal(features(classifier, grey, progress=False), features(classifier, wide, progress=False))


def test_a_head_learns_and_its_standardisation_is_in_the_layer() -> None:
    classifier, pictures = trained()
    assert evaluate(classifier, pictures["validation"]).accuracy > 0.9
    before = tiny().network.state_dict()
    rest = {k: v for k, v in classifier.network.state_dict().items() if not k.startswith("9.")}
    assert all(torch.equal(v, before[k]) for k, v in rest.items())


def test_the_chosen_epoch_goes_into_the_classifier() -> None:
    """One dense layer, of which the weights are worked out from the chosen state by hand."""
    classifier = with_head(tiny(), NAMES)
    sets = {k: Samples(features(classifier, s.inputs, progress=False), s.labels)
            for k, s in {"train": drawn(12), "validation": drawn(30, 1), "test": drawn(30, 2)}.items()}  # fmt: skip
    found = fit_head(classifier, sets, Recipe(epochs=20, learning_rate=0.05), choose="test", progress=False)
    state, x = found.best["test"][1], sets["test"].inputs
    mean, deviation = sets["train"].inputs.mean(0), sets["train"].inputs.std(0)
    wanted = (x - mean) / deviation.clamp(min=1e-6) @ state["layer.weight"].T + state["layer.bias"]
    torch.testing.assert_close(classifier.network[-1](x), wanted, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", ["efficientnet_lite0", "mobilenetv1_075", "squeezenet1_1", "resnet18", "mobilenet_v2"])
@pytest.mark.parametrize("part", ["all", "head"])
def test_a_saved_classifier_comes_back(name: str, part: heads.Part, tmp_path: Path) -> None:
    network = classifiers.architecture(name)
    try:
        base = classifiers.load(name)
    except WeightsError:
        if part == "head":
            pytest.skip(f"{name} has no weights here, and its head alone means nothing")
        base = classifiers.Classifier(network, name=name, mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6))
    classifier = with_head(base, NAMES, seed=3)
    file = save(classifier, tmp_path / "deep" / "trained.safetensors", part, "drawn discs, 60 epochs", "MIT")
    back = classifiers.load(str(file))
    pictures = torch.stack([picture(s, 224) for s in range(2)])
    with torch.no_grad():
        torch.testing.assert_close(back(pictures), classifier(pictures), rtol=0, atol=0)
    assert back.class_name(2) == "none" and back.classes == 3 and back.view == classifier.view and back.name == name
    assert back.provenance.source == "drawn discs, 60 epochs" and back.provenance.file == file and back.provenance.sha256
    assert file.stat().st_size < (20_000 if part == "head" else 60_000_000)
    assert [p.name for p in file.parent.iterdir()] == [file.name]


def test_the_original_is_left_alone() -> None:
    base = tiny()
    before = {k: v.clone() for k, v in base.state_dict().items()}
    with_head(base, NAMES)
    assert all(torch.equal(v, before[k]) for k, v in base.state_dict().items()) and base.network[-1].out_features == 5


def test_files_that_cannot_be_used(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    file = save(with_head(classifiers.load("efficientnet_lite0"), NAMES), tmp_path / "head.safetensors")
    about, state = heads.read(file)
    more = heads.About(about.network, "head", (*NAMES, "other"), about.mean, about.std, about.view)
    cases: list[tuple[str, Any, str]] = [
        ("absent", lambda p: None, "absent.safetensors does not exist; give the path of a file that training.save wrote"),
        ("damaged", lambda p: p.write_bytes(file.read_bytes()[:300]), "damaged.safetensors is damaged or no safetensors file"),
        ("bare", lambda p: save_file(state, p), "does not say which network it belongs to; .* weights="),
        ("strange", lambda p: save_file(state, p, {heads.KEY: '{"colour": 1}'}), "its description cannot be read"),
        ("others", lambda p: save_file(state, p, {heads.KEY: __import__("json").dumps(more.__dict__)}),
         "others.safetensors does not fit efficientnet_lite0 with 4 classes: 2 tensors are missing, unknown or of another shape"),
    ]  # fmt: skip
    for name, make, message in cases:
        path = tmp_path / f"{name}.safetensors"
        make(path)
        with pytest.raises(WeightsError, match=message):
            classifiers.load(str(path))


def test_a_head_of_other_classes_is_not_put_to_use(tmp_path: Path) -> None:
    file = save(with_head(classifiers.load("efficientnet_lite0"), (*NAMES, "other")), tmp_path / "head.safetensors")
    assert load(file, [*NAMES, "other"]).classes == 4
    for wanted, said in [
        (("cat", "dog", "cow", "hen"), "classes cat, dog, cow, hen; it was on others: disc, ring, none, other; train one on"),
        (("ring", "disc", "none", "other"), "it was in another order: disc, ring, none, other"),
        (NAMES, "classes disc, ring, none; it was on others: disc, ring, none, other"),
    ]:
        with pytest.raises(TrainingError, match=f"head.safetensors: expected a network trained on the .*{said}"):
            load(file, wanted)


def test_a_trained_file_takes_no_other_weights(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="a.safetensors holds its own weights; give the network's name with weights='b.pth'"):
        classifiers.load("a.safetensors", weights="b.pth")


def test_heads_and_names_that_cannot_be() -> None:
    with pytest.raises(TrainingError, match="class_names: expected two or more, all different; found a, a"):
        with_head(tiny(), ("a", "a"))
    with pytest.raises(WeightsError, match="Sequential has no dense layer that could be replaced"):
        heads.replace(nn.Sequential(nn.Conv2d(3, 4, 3)), 3)
    with pytest.raises(TrainingError, match=r"expected features \(N, 8\), found \(60, 1, 32, 32\)"):
        fit_head(with_head(tiny(), NAMES), {"train": drawn(60)}, Recipe())
    assert isinstance(torchvision.models.resnet18(weights=None).fc, nn.Linear)
