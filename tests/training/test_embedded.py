"""What makes the embedded networks: drawn sets, thin architectures, the ceiling, measures, cards; and what lies there."""

from __future__ import annotations

import hashlib
import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from xai_lib import classifiers, counterfactuals, critters, explainers, generators, small_networks
from xai_lib.critters.parameters import CROSSED, HYBRIDS, RIVALS, STRAY
from xai_lib.training import Recipe, Samples, TrainingError, card, embedded, generator_measures, plan, train
from xai_lib.training.loop import evaluate
from xai_lib.weights import EMBEDDED, WeightsError

NAMES = tuple(small_networks.BUILDERS)


@pytest.mark.parametrize("name", NAMES)
def test_a_thin_network_is_small_and_ends_in_features_of_four_by_four(name: str) -> None:
    classifier = embedded.untrained(name)
    assert sum(p.numel() for p in classifier.parameters()) < 1_000_000 and classifier.classes == 8
    assert counterfactuals.features(classifier, torch.rand(2, 3, 64, 64)).shape[2:] == (4, 4)
    again = embedded.untrained(name).state_dict()
    assert all(torch.equal(v, again[k]) for k, v in classifier.state_dict().items())


@pytest.mark.parametrize("name", NAMES)
def test_relevance_is_conserved_on_them(name: str) -> None:
    classifier = embedded.untrained(name).double()
    images = torch.rand(1, 3, 64, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    method = "lrp" if name == "critters_mobilenet" else "rap"
    logit = float(classifier(images)[0, 3].detach())
    [detail] = explainers.get(method).explain(classifier, images.float(), targets=[3]).details if method == "rap" else [{}]
    if detail:
        assert detail["pixels"] == pytest.approx(logit, abs=1e-3 * max(1.0, abs(logit) * detail["spread"]))
    else:
        maps = explainers.get(method).explain(classifier.float(), images.float(), targets=[3]).maps
        assert bool(maps.isfinite().all()) and float(maps.abs().sum()) > 0


def slow_ceiling(row: np.ndarray) -> int:
    """One critter, number by number, in plain loops."""
    scores = []
    for kind, spread in critters.SPREADS.items():
        if math.isnan(row[critters.NAMES.index(next(iter(spread)))]):
            scores.append(-math.inf)
            continue
        total = 0.0
        for rival in RIVALS[kind]:
            for share, weight in ((STRAY, 1 - HYBRIDS), (CROSSED, HYBRIDS)):
                product = weight / len(RIVALS[kind])
                for name in spread:
                    value, densities = float(row[critters.NAMES.index(name)]), []
                    for mean, deviation in (spread[name], critters.SPREADS[rival][name]):
                        z = (value - mean) / deviation
                        densities.append(math.exp(-z * z / 2) / deviation if abs(z) <= 2.0001 else 0.0)
                    product *= (1 - share) * densities[0] + share * densities[1] + 1e-12
                total += product
        scores.append(math.log(total) if total else -1e9)
    return int(np.argmax(scores))


def test_the_ceiling_is_bayes_rule_in_slow_loops_and_names_nearly_all() -> None:
    labels = np.arange(800) % 8
    table = critters.table(critters.critter(critters.CLASSES[c], i, seed=12) for i, c in enumerate(labels.tolist()))
    found = critters.ceiling(table)
    assert [slow_ceiling(row) for row in table[:120]] == found[:120].tolist()
    assert 0.96 < (found == labels).mean() < 1
    assert np.array_equal(critters.ceiling(torch.from_numpy(table)), found)


def test_a_drawn_set_is_the_critters_of_its_seed_and_kept(tmp_path: Path) -> None:
    found = plan.drawn(20, 5, cache=tmp_path, progress=False)
    wanted = critters.batch(found.labels.tolist(), range(20), seed=5)
    assert torch.equal(found.inputs, wanted.images.mul(255).round().to(torch.uint8))
    assert found.labels[:9].tolist() == [*range(8), 0]
    [file] = tmp_path.iterdir()
    before = file.stat().st_mtime_ns
    again = plan.drawn(20, 5, cache=tmp_path, progress=False)
    assert torch.equal(again.inputs, found.inputs) and file.stat().st_mtime_ns == before
    assert min(plan.TRAIN, plan.VALIDATION, plan.TEST) > 10_000


def test_varied_samples_are_mirrored_moved_and_lit_and_follow_the_seed() -> None:
    pictures = torch.zeros(40, 3, 64, 64, dtype=torch.uint8)
    pictures[:, :, 30:34, 10:14] = 200
    varied = plan.Varied(pictures, torch.zeros(40, dtype=torch.long))
    torch.manual_seed(3)
    found = varied.batch(torch.arange(40))
    assert found.shape == (40, 3, 64, 64) and 0 <= float(found.min()) <= float(found.max()) <= 1
    left = found[:, 0, :, :32].amax((1, 2)) > 0.5
    assert 8 < int(left.sum()) < 32
    brightness = found.amax((1, 2, 3))
    assert float(brightness.min()) > 0.9 * 200 / 255 - 0.01 and float(brightness.max()) < 1.1 * 200 / 255 + 0.01
    torch.manual_seed(3)
    assert torch.equal(varied.batch(torch.arange(40)), found)
    assert not isinstance(found, type(None)) and found.is_contiguous(memory_format=torch.channels_last)


def test_one_cycle_rises_and_falls_and_goes_on_the_same(tmp_path: Path) -> None:
    pictures = torch.randint(0, 256, (24, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    sets = {"train": plan.Varied(pictures, torch.arange(24) % 8), "validation": Samples(pictures[:8], torch.arange(8))}
    recipe = Recipe(epochs=2, batch=8, learning_rate=1e-3, one_cycle=True)

    def run(file: Path | None, minutes: float = 0.0) -> dict[str, Tensor]:
        classifier = embedded.untrained("critters_resnet")
        own = Recipe(**{**vars(recipe), "minutes": minutes})
        train(classifier, sets, own, checkpoint=file, progress=False)
        return classifier.state_dict()

    at_once = run(None)
    run(tmp_path / "half.pt", minutes=1e-6)
    again = run(tmp_path / "half.pt")
    assert all(torch.equal(v, again[k]) for k, v in at_once.items())
    with pytest.raises(TrainingError, match="belongs to another training"):
        train(embedded.untrained("critters_resnet"), sets, Recipe(**{**vars(recipe), "epochs": 3}),
              checkpoint=tmp_path / "half.pt", progress=False)  # fmt: skip


def test_a_small_training_end_to_end_leaves_weights_and_card(tmp_path: Path) -> None:
    file = embedded.train_classifier(
        "critters_resnet", tmp_path, recipe=Recipe(epochs=1, batch=16, learning_rate=1e-3, one_cycle=True),
        counts={"train": 48, "validation": 16, "test": 40}, progress=False,
    )  # fmt: skip
    assert file.stat().st_size < 2_000_000
    found = classifiers.load(str(file))
    assert found.name == "critters_resnet" and found.class_name(3) == critters.CLASSES[3] and found.view.size == 64
    text = (tmp_path / "critters_resnet.md").read_text(encoding="utf-8")
    assert hashlib.sha256(file.read_bytes()).hexdigest() in text
    test = plan.drawn(40, plan.TEST, progress=False)
    assert f"{100 * evaluate(found, test).accuracy:.2f} % of 40 unseen critters" in text


def test_names_and_missing_files_are_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(TrainingError, match="no embedded classifier is called 'critters_vgg16'; .*critters_vgg19"):
        embedded.untrained("critters_vgg16")
    monkeypatch.setattr(classifiers, "EMBEDDED", tmp_path)
    with pytest.raises(WeightsError, match=r"critters_vgg19.safetensors not found; restore it .* make embedded"):
        classifiers.load("critters_vgg19")


def test_the_frechet_distance_of_known_normals() -> None:
    rng = np.random.default_rng(0)
    one, other = torch.tensor(rng.standard_normal((4000, 3))), torch.tensor(2 * rng.standard_normal((4000, 3)) + [1, 0, 0])
    assert generator_measures.frechet_distance(one, one) == pytest.approx(0, abs=1e-6)
    assert generator_measures.frechet_distance(one, other) == pytest.approx(1 + 3 * (2 - 1) ** 2, rel=0.06)


def test_consistency_is_the_share_named_as_asked() -> None:
    classifier = embedded.untrained("critters_resnet")
    generator = generators.Generator(generators.build(generators.small_config(channel_width=4)))
    real = plan.drawn(16, 3, progress=False).inputs
    found = generator_measures.measure(generator, classifier, real, count=40, seed=5)
    labels = torch.arange(40) % 8
    z = generators.noise(40, 64, 5)
    with torch.no_grad():
        named = classifier(generator(z, torch.eye(8)[labels])).argmax(1)
    assert found.share == pytest.approx(float((named == labels).float().mean())) and found.low <= found.share <= found.high
    assert len(found.by_class) == 8 and np.mean(found.by_class) == pytest.approx(found.share) and math.isfinite(found.distance)


def test_a_card_names_its_files_with_checksums(tmp_path: Path) -> None:
    (tmp_path / "w").write_bytes(b"abc")
    text = card.write(tmp_path / "w.md", "A title", {"Data": "drawn"}, [tmp_path / "w"]).read_text(encoding="utf-8")
    assert text.startswith("# A title\n\n## Data\n\ndrawn\n") and hashlib.sha256(b"abc").hexdigest() in text and "MIT" in text


@pytest.fixture(scope="module")
def unseen() -> Samples:
    """1600 drawings that no training has seen."""
    fresh = critters.batch([i % 8 for i in range(1600)], range(1600), seed=31)
    return Samples(fresh.images.mul(255).round().to(torch.uint8), fresh.labels)


@pytest.mark.parametrize("name", NAMES)
def test_what_lies_there_is_what_its_card_says(name: str, unseen: Samples) -> None:
    file = EMBEDDED / f"{name}.safetensors"
    if not file.is_file():
        pytest.skip(f"{name} is not trained yet: make embedded")
    text = file.with_suffix(".md").read_text(encoding="utf-8")
    assert hashlib.sha256(file.read_bytes()).hexdigest() in text and file.stat().st_size < 2_000_000
    said = float(re.findall(r"([\d.]+) % of \d+ unseen", text)[0])
    classifier = classifiers.load(name)
    accuracy = 100 * evaluate(classifier, unseen, 200).accuracy
    assert said >= 95 and accuracy > 94 and abs(accuracy - said) < 2 and accuracy < 100
