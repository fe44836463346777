"""Epochs: the steps are Adam's, what is kept is what a split would choose, and a kill changes nothing."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.networks import tiny
from xai_lib.training import Recipe, Samples, TrainingError, evaluate, train

pytestmark = pytest.mark.usefixtures("one_thread")


def blobs(n: int = 60, seed: int = 0, classes: int = 3, noise: float = 0.7) -> Samples:
    """Points `(n, 4)` around one corner a class."""
    rng = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % classes
    centres = torch.eye(4)[:classes] * 2
    return Samples(centres[labels] + noise * torch.randn(n, 4, generator=rng), labels)


def dense(seed: int = 0) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Dropout(0.3), nn.Linear(16, 3))


def states_equal(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def test_one_epoch_is_adam_by_hand() -> None:
    """A linear layer, gradients of the mean cross-entropy from the formula, Adam's moments step by step."""
    samples, recipe = blobs(10), Recipe(epochs=1, batch=4, learning_rate=0.1, seed=3)
    layer = nn.Linear(4, 3)
    w = np.concatenate([layer.weight.detach().numpy(), layer.bias.detach().numpy()[:, None]], 1).astype(np.float64)
    orders: list[Tensor] = []
    plain, torch_randperm = torch.randperm, torch.randperm
    torch.randperm = lambda n: orders.append(torch_randperm(n)) or orders[-1]  # type: ignore[assignment, func-returns-value]
    try:
        found = train(layer, {"train": samples}, recipe, progress=False)
    finally:
        torch.randperm = plain
    m, v = np.zeros_like(w), np.zeros_like(w)
    losses = []
    for step, part in enumerate(orders[0].split(4), 1):
        x = np.concatenate([samples.inputs[part].numpy(), np.ones((len(part), 1))], 1).astype(np.float64)
        z = x @ w.T
        p = np.exp(z) / np.exp(z).sum(1, keepdims=True)
        y = np.eye(3)[samples.labels[part].numpy()]
        losses += [-np.log((p * y).sum(1))]
        g = (p - y).T @ x / len(part)
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
        w = w - 0.1 * (m / (1 - 0.9**step)) / (np.sqrt(v / (1 - 0.999**step)) + 1e-8)
    np.testing.assert_allclose(layer.weight.detach(), w[:, :4], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(layer.bias.detach(), w[:, 4], rtol=1e-4, atol=1e-5)
    assert found.history.loss[0] == pytest.approx(np.concatenate(losses).mean(), rel=1e-4)


def test_it_learns_and_history_says_what_evaluate_says() -> None:
    sets = {"train": blobs(90), "validation": blobs(30, 1), "test": blobs(30, 2)}
    network = dense()
    found = train(network, sets, Recipe(epochs=30, batch=16, learning_rate=0.01), progress=False)
    last = found.history[found.history.epoch == 30].set_index("split")
    for name in ("validation", "test"):
        scores = evaluate(network, sets[name])
        assert last.loss[name] == pytest.approx(scores.loss, rel=1e-5) and last.accuracy[name] == scores.accuracy
    assert last.accuracy["validation"] > 0.8 and found.history.groupby("split").size().tolist() == [30, 30, 30]
    assert not network.training


def test_each_split_keeps_the_weights_of_its_own_least_loss() -> None:
    sets = {"train": blobs(12, noise=1.5), "validation": blobs(30, 1, noise=1.5), "test": blobs(30, 2, noise=1.5)}
    network = dense()
    found = train(network, sets, Recipe(epochs=40, batch=4, learning_rate=0.02), progress=False)
    chosen = {}
    for name in ("validation", "test"):
        losses = found.history[found.history.split == name].set_index("epoch").loss
        chosen[name] = found.choose(name)
        assert chosen[name] == losses.idxmin() and evaluate(network, sets[name]).loss == pytest.approx(losses.min(), rel=1e-5)
    assert max(chosen.values()) < 40  # twelve noisy points are learnt by heart: the last epoch is not the best
    with pytest.raises(TrainingError, match="no split is called 'train'; watched were validation, test"):
        found.choose("train")


def test_patience_minutes_and_the_test_set_do_not_mix() -> None:
    train_set, validation = blobs(12, noise=1.5), blobs(30, 1, noise=1.5)
    recipe = Recipe(epochs=60, batch=4, learning_rate=0.02, patience=4)
    alone = train(dense(), {"train": train_set, "validation": validation}, recipe, progress=False)
    watched = train(dense(), {"train": train_set, "validation": validation, "test": blobs(30, 2)}, recipe, progress=False)
    epochs = alone.history.epoch.max()
    assert epochs == alone.best["validation"][0] + 4 < 60
    assert states_equal(alone.network, watched.network)  # the test set only watches
    short = train(dense(), {"train": train_set}, dataclasses.replace(recipe, patience=0, minutes=1e-9), progress=False)
    assert short.history.epoch.max() == 1


def test_class_weights_are_inverse_to_class_sizes() -> None:
    labels = torch.tensor([0] * 9 + [1] * 3)
    samples = Samples(torch.randn(12, 4, generator=torch.Generator().manual_seed(0)), labels)
    layer, twin = nn.Linear(4, 2), nn.Linear(4, 2)
    twin.load_state_dict(layer.state_dict())
    train(layer, {"train": samples}, Recipe(epochs=1, batch=12, learning_rate=0.1, class_weights=True), progress=False)
    optimiser = torch.optim.Adam(twin.parameters(), 0.1)
    F.cross_entropy(twin(samples.inputs), labels, torch.tensor([12 / 18, 12 / 6])).backward()
    optimiser.step()
    torch.testing.assert_close(layer.weight, twin.weight, rtol=1e-4, atol=1e-5)


def test_pictures_are_scaled_grey_ones_expanded_and_batch_norms_get_no_single_sample() -> None:
    rng = torch.Generator().manual_seed(0)
    grey = torch.randint(0, 256, (9, 1, 32, 32), generator=rng, dtype=torch.uint8)
    samples = Samples(grey, torch.arange(9) % 5)
    assert torch.equal(samples.batch(torch.tensor([4, 1])), (grey[[4, 1]].float() / 255).expand(-1, 3, -1, -1))
    classifier = tiny()
    statistics = classifier.network[1].running_mean.clone()
    found = train(classifier, {"train": samples, "validation": samples}, Recipe(epochs=1, batch=4), progress=False)
    assert len(found.history) == 2 and not torch.equal(classifier.network[1].running_mean, statistics)


def test_global_random_numbers_are_left_alone_and_the_seed_decides() -> None:
    before = torch.random.get_rng_state(), np.random.get_state()[1].copy()
    recipes = [Recipe(epochs=2, learning_rate=0.01, seed=s) for s in (0, 0, 1)]
    one, two, other = (train(dense(), {"train": blobs()}, recipe, progress=False).network for recipe in recipes)
    assert torch.equal(torch.random.get_rng_state(), before[0]) and (np.random.get_state()[1] == before[1]).all()
    assert states_equal(one, two) and not states_equal(one, other)


SCRIPT = """
import sys, torch
from tests.training.test_loop import blobs, dense
from xai_lib.training import Recipe, train
torch.set_num_threads(1)
sets = {"train": blobs(600), "validation": blobs(60, 1)}
train(dense(), sets, Recipe(epochs=400, batch=8, learning_rate=0.01), checkpoint=sys.argv[1], progress=False)
"""


def test_a_killed_training_goes_on_and_ends_with_the_same_weights(tmp_path: Path) -> None:
    checkpoint, root = tmp_path / "training.pt", Path(__file__).resolve().parents[2]
    here = os.environ | {"PYTHONPATH": str(root)}
    process = subprocess.Popen([sys.executable, "-c", SCRIPT, str(checkpoint)], cwd=root, env=here)
    while process.poll() is None and not checkpoint.exists():
        time.sleep(0.01)
    time.sleep(0.3)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL  # not yet at its end
    reached = torch.load(checkpoint, weights_only=True)["epoch"]
    sets, recipe = {"train": blobs(600), "validation": blobs(60, 1)}, Recipe(epochs=reached + 3, batch=8, learning_rate=0.01)
    resumed = train(dense(), sets, recipe, checkpoint=checkpoint, progress=False)
    whole = train(dense(), sets, recipe, progress=False)
    assert 0 < reached < 400 and states_equal(resumed.network, whole.network)
    for column in ("epoch", "split", "loss", "accuracy"):
        assert resumed.history[column].tolist() == whole.history[column].tolist()
    assert resumed.choose() == whole.choose() and states_equal(resumed.network, whole.network)


def test_a_checkpoint_of_another_training_is_refused(tmp_path: Path) -> None:
    checkpoint, sets = tmp_path / "training.pt", {"train": blobs()}
    train(dense(), sets, Recipe(epochs=1), checkpoint=checkpoint, progress=False)
    others: list[tuple[Any, Any, Any]] = [
        (dense(1), sets, Recipe()), (dense(), {"train": blobs(seed=1)}, Recipe()), (dense(), sets, Recipe(batch=8)),
    ]  # fmt: skip
    for network, given, recipe in others:
        with pytest.raises(TrainingError, match=r"training.pt belongs to another training .*; remove it"):
            train(network, given, recipe, checkpoint=checkpoint, progress=False)
    checkpoint.write_bytes(checkpoint.read_bytes()[:200])
    with pytest.raises(TrainingError, match=r"training.pt cannot be read .*; remove it to begin anew"):
        train(dense(), sets, Recipe(epochs=1), checkpoint=checkpoint, progress=False)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Recipe(learning_rate=0.0), "learning_rate > 0"),
        (lambda: Samples(torch.zeros(3, 4), torch.zeros(2, dtype=torch.long)), "one whole label a sample"),
        (lambda: Samples(torch.zeros(3, 4), torch.zeros(3)), "labels .3,. of torch.float32"),
        (lambda: train(dense(), {"validation": blobs()}), "one must be called train; found validation"),
        (lambda: train(dense(), {"train": blobs()}, Recipe(patience=2)), "patience needs a set called validation"),
        (lambda: train(dense(), {"train": blobs(classes=4)}, progress=False), r"labels reach class 3, but .* logits \(32, 3\)"),
        (lambda: train(dense().requires_grad_(False), {"train": blobs()}), "nothing to train"),
        (lambda: train(dense(), {"train": Samples(torch.full((4, 4), torch.inf), torch.arange(4) % 3)}, progress=False),
         "the loss is nan in epoch 1; take a smaller learning_rate"),
    ],
)  # fmt: skip
def test_what_cannot_be_trained(make: Any, message: str) -> None:
    with pytest.raises(TrainingError, match=message):
        make()
