"""Epochs of gradient descent on a classifier, with every split watched and the weights kept that each would choose.

Which split chooses is the caller's to say, afterwards: `Training.choose("validation")` is what one should do, "test" what
the authors of paper 4 did. The test set never stops a training and never weighs in it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from xai_lib.errors import XaiError

State = dict[str, Tensor]


class TrainingError(XaiError):
    """Samples or settings that cannot be trained with, a diverging loss, or a checkpoint of another training."""


@dataclass(frozen=True)
class Recipe:
    """How to train. The defaults are those of the authors of paper 4 (their program BrainTumor_training.py)."""

    epochs: int = 50
    batch: int = 32  #: samples a step
    learning_rate: float = 1e-5  #: of Adam
    weight_decay: float = 0.0  #: decoupled (AdamW), so that 0 is Adam
    class_weights: bool = False  #: True: a class counts inversely to its size
    patience: int = 0  #: epochs without a lower validation loss before it stops; 0: never
    minutes: float = 0.0  #: no further epoch once they are over; 0: no limit
    one_cycle: bool = False  #: the rate rises over the first tenth of all steps, then falls to 0 along half a cosine
    seed: int = 0  #: of the order of samples, and of dropout

    def __post_init__(self) -> None:
        if min(self.epochs, self.batch) < 1 or self.learning_rate <= 0 or min(self.weight_decay, self.patience, self.minutes) < 0:
            raise TrainingError(f"a recipe needs epochs and batch >= 1, learning_rate > 0 and nothing negative; found {self}")


@dataclass(frozen=True, eq=False)
class Samples:
    """What is learnt from: `inputs` `(N, ...)`, pictures as uint8 `(N, 1 or 3, H, W)` or float features, `labels` `(N,)`."""

    inputs: Tensor
    labels: Tensor
    names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.labels.shape != self.inputs.shape[:1] or self.labels.is_floating_point() or not len(self.labels):
            raise TrainingError(
                f"samples: expected one whole label a sample, at least one; found inputs {tuple(self.inputs.shape)}, "
                f"labels {tuple(self.labels.shape)} of {self.labels.dtype}"
            )

    def batch(self, which: Tensor) -> Tensor:
        """Those samples as float; pictures in 0..1 with three channels, channels last, which is faster on a processor."""
        found = self.inputs[which].float()
        if self.inputs.dtype == torch.uint8:
            found = found.div(255)
        if found.ndim != 4:
            return found
        found = found.expand(-1, 3, -1, -1) if found.shape[1] == 1 else found
        return found.contiguous(memory_format=torch.channels_last)

    def __len__(self) -> int:
        return len(self.labels)


class Scores(NamedTuple):
    """Of a set: mean cross-entropy, share of right answers (0..1), logits `(N, classes)`."""

    loss: float
    accuracy: float
    logits: Tensor


@dataclass
class Training:
    """What was trained. `history`: a row an epoch and split, with loss (mean cross-entropy), accuracy (0..1), seconds.

    The row of `train` is the mean while it trained (dropout on, weights moving). `best`: for each split its epoch of least
    loss, and the weights then.
    """

    network: nn.Module
    history: pd.DataFrame
    best: dict[str, tuple[int, State]] = field(repr=False)

    def choose(self, split: str = "validation") -> int:
        """Put in the weights of that split's least loss; returns the epoch, counted from 1."""
        if split not in self.best:
            raise TrainingError(f"no split is called {split!r}; watched were {', '.join(self.best)}")
        epoch, state = self.best[split]
        self.network.load_state_dict(state)
        self.network.eval()
        return epoch


@torch.no_grad()
def evaluate(network: nn.Module, samples: Samples, batch: int = 32) -> Scores:
    """Loss, accuracy and logits in evaluation mode; the network's mode is left as it was."""
    modes = {m: m.training for m in network.modules()}
    network.eval()
    try:
        device = _device(network)
        parts = torch.arange(len(samples)).split(batch)
        logits = torch.cat([network(samples.batch(part).to(device)).float().cpu() for part in parts])
    finally:
        for module, mode in modes.items():
            module.training = mode
    loss = float(F.cross_entropy(logits, samples.labels))
    return Scores(loss, float((logits.argmax(1) == samples.labels).float().mean()), logits)


def train(
    network: nn.Module,
    sets: Mapping[str, Samples],
    recipe: Recipe | None = None,
    *,
    checkpoint: str | Path | None = None,
    progress: bool = True,
) -> Training:
    """Train all parameters that require a gradient on `sets["train"]`; every other set is watched after each epoch.

    The network ends with the last epoch's weights (see `Training.choose`). `checkpoint`: a file written after every epoch; a
    training that finds it goes on from there and ends with the same weights, bit for bit on the same machine and threads.
    Random numbers depend on the recipe's seed and the epoch alone; the global generators are left as they were. Raises
    `TrainingError` for a checkpoint of another training and for a loss that is not finite.
    """
    recipe = recipe or Recipe()
    if "train" not in sets:
        raise TrainingError(f"sets: one must be called train; found {', '.join(sets) or 'none'}")
    if recipe.patience and "validation" not in sets:
        raise TrainingError("patience needs a set called validation")
    loop = _Loop(network, sets, recipe, Path(checkpoint) if checkpoint is not None else None)
    loop.resume()
    steps = -(-len(sets["train"]) // recipe.batch)
    with tqdm(total=recipe.epochs * steps, initial=loop.epoch * steps, desc="training", disable=not progress, leave=False) as bar:
        while loop.epoch < recipe.epochs and not loop.over():
            loop.run_epoch(bar)
    network.eval()
    return Training(network, pd.DataFrame(loop.history), loop.best)


class _Loop:
    def __init__(self, network: nn.Module, sets: Mapping[str, Samples], recipe: Recipe, checkpoint: Path | None) -> None:
        self.network, self.sets, self.recipe, self.checkpoint = network, sets, recipe, checkpoint
        self.epoch, self.step, self.seconds = 0, 0, 0.0
        self.history: list[dict[str, Any]] = []
        self.best: dict[str, tuple[int, State]] = {}
        trained = [p for p in network.parameters() if p.requires_grad]
        if not trained:
            raise TrainingError("no parameter of the network requires a gradient: there is nothing to train")
        self.optimiser = torch.optim.AdamW(trained, recipe.learning_rate, weight_decay=recipe.weight_decay)
        self.key = _key(network, sets, recipe) if checkpoint else ""
        labels = sets["train"].labels
        counts = torch.bincount(labels).clamp(min=1)
        self.weights = (len(labels) / (len(counts) * counts)).to(_device(network)) if recipe.class_weights else None

    def over(self) -> bool:
        """Whether patience or time is used up."""
        if self.recipe.minutes and self.seconds > 60 * self.recipe.minutes:
            return True
        best, _ = self.best.get("validation", (self.epoch, {}))
        return bool(self.recipe.patience) and self.epoch - best >= self.recipe.patience

    def run_epoch(self, bar: tqdm[Any]) -> None:
        began = time.perf_counter()
        self.network.train()
        seed = int.from_bytes(hashlib.blake2b(f"{self.recipe.seed} {self.epoch}".encode(), digest_size=7).digest())
        device = _device(self.network)
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            torch.manual_seed(seed)  # dropout draws from the global generator
            loss, right = self._steps(torch.randperm(len(self.sets["train"])), bar)
        self.epoch += 1
        self._note("train", loss, right, time.perf_counter() - began)
        for name, samples in self.sets.items():
            if name != "train":
                scores = evaluate(self.network, samples, self.recipe.batch)
                self._note(name, scores.loss, scores.accuracy, 0.0)
        self.seconds += time.perf_counter() - began
        self._write()

    def _steps(self, order: Tensor, bar: tqdm[Any]) -> tuple[float, float]:
        total, right, seen = 0.0, 0, 0
        for x, y in self._batches(order):
            logits = self.network(x)
            if logits.ndim != 2 or int(y.max()) >= logits.shape[1]:
                raise TrainingError(f"labels reach class {int(y.max())}, but the network gives logits {tuple(logits.shape)}")
            loss = F.cross_entropy(logits, y, self.weights)
            if not bool(loss.isfinite()):
                raise TrainingError(f"the loss is {loss.item()} in epoch {self.epoch + 1}; take a smaller learning_rate")
            self._set_rate()
            self.optimiser.zero_grad()
            loss.backward()
            self.optimiser.step()
            self.step += 1
            total, right, seen = total + float(loss.detach()) * len(y), right + int((logits.argmax(1) == y).sum()), seen + len(y)
            bar.update()
            bar.set_postfix_str(f"epoch {self.epoch + 1} loss {total / seen:.3f} accuracy {right / seen:.3f}", refresh=False)
        return total / seen, right / seen

    def _set_rate(self) -> None:
        if self.recipe.one_cycle:
            part = self.step / (self.recipe.epochs * -(-len(self.sets["train"]) // self.recipe.batch))
            shape = part / 0.1 if part < 0.1 else (1 + math.cos(math.pi * (part - 0.1) / 0.9)) / 2
            for group in self.optimiser.param_groups:
                group["lr"] = self.recipe.learning_rate * max(shape, 1e-3)

    def _batches(self, order: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        device = _device(self.network)
        for part in order.split(self.recipe.batch):
            if len(part) > 1 or len(order) == 1:  # a batch norm cannot learn from one sample
                yield self.sets["train"].batch(part).to(device), self.sets["train"].labels[part].to(device)

    def _note(self, split: str, loss: float, accuracy: float, seconds: float) -> None:
        before = [row["loss"] for row in self.history if row["split"] == split]
        row = {"epoch": self.epoch, "split": split, "loss": loss, "accuracy": accuracy, "seconds": seconds}
        self.history.append(row)
        if split != "train" and (not before or loss < min(before)):
            self.best[split] = self.epoch, _copied(self.network.state_dict())

    def _write(self) -> None:
        if self.checkpoint is None:
            return
        self.checkpoint.parent.mkdir(parents=True, exist_ok=True)
        beside = self.checkpoint.with_name(f"{self.checkpoint.name}.{os.getpid()}")
        torch.save({
            "key": self.key, "epoch": self.epoch, "step": self.step, "seconds": self.seconds,
            "history": self.history, "best": self.best,
            "network": self.network.state_dict(), "optimiser": self.optimiser.state_dict(),
        }, beside)  # fmt: skip
        beside.replace(self.checkpoint)

    def resume(self) -> None:
        if self.checkpoint is None or not self.checkpoint.exists():
            return
        try:
            found = torch.load(self.checkpoint, map_location="cpu", weights_only=True)
            key = found["key"]
        except Exception as error:  # a damaged file raises nearly anything
            reason = type(error).__name__
            raise TrainingError(f"checkpoint {self.checkpoint} cannot be read ({reason}); remove it to begin anew") from None
        if key != self.key:
            raise TrainingError(f"checkpoint {self.checkpoint} belongs to another training (samples, weights, recipe); remove it")
        self.epoch, self.step, self.seconds = (found[k] for k in ("epoch", "step", "seconds"))
        self.history, self.best = found["history"], found["best"]
        self.network.load_state_dict(found["network"])
        self.optimiser.load_state_dict(found["optimiser"])


def _device(network: nn.Module) -> torch.device:
    return next(network.parameters()).device


def _copied(state: Mapping[str, Tensor]) -> State:
    return {k: v.detach().cpu().clone() for k, v in state.items()}


def _key(network: nn.Module, sets: Mapping[str, Samples], recipe: Recipe) -> str:
    """A checksum of what the outcome depends on; time and patience only say when it ends, as do epochs at a constant rate."""
    said = dataclasses.asdict(recipe)
    for when in ("patience", "minutes", *(() if recipe.one_cycle else ("epochs",))):
        said.pop(when)
    digest = hashlib.blake2b(json.dumps(said, sort_keys=True).encode(), digest_size=16)
    tensors = [*network.state_dict().items()]
    tensors += [(f"{name} {part}", t) for name, s in sets.items() for part, t in (("inputs", s.inputs), ("labels", s.labels))]
    for name, tensor in tensors:
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
