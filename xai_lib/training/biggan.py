"""Train a small class-conditional BigGAN: hinge loss, spectral norm, averaged weights (Brock et al. 2019, in small).

Randomness depends on the recipe's seed and the step alone, so a training that was cut off goes on to the same weights.
"""

from __future__ import annotations

import copy
import dataclasses
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pytorch_pretrained_biggan import BigGAN
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from xai_lib.generators import settle
from xai_lib.training.batch_statistics import fill, learning
from xai_lib.training.discriminator import Discriminator
from xai_lib.training.loop import Samples, TrainingError


@dataclass(frozen=True)
class Recipe:
    """How to train; all our choice but hinge loss, betas and averaging, which are the paper's."""

    steps: int = 8000  #: of the generator; as many of the discriminator
    batch: int = 64
    generator_rate: float = 3e-4  #: Adam's, betas 0 and 0.999
    discriminator_rate: float = 6e-4
    auxiliary: float = 0.5  #: weight of the class loss: the discriminator's on real pictures, the generator's on its own
    averaging: float = 0.999  #: of the generator's weights, an exponential mean over steps
    averaging_from: int = 500  #: until then the mean is the last step's weights
    falling: float = 0.25  #: over this last share of the steps both rates fall to a tenth, in a straight line
    seed: int = 0


class Adversaries:
    """Generator and discriminator in training.

    `model`: the package's generator, from `generators.build`. `pictures`: uint8 `(N, 3, 64, 64)` with labels; each is mirrored by
    chance. `checkpoint`: a file with everything, written by `run`; if it is there, training goes on from it. Raises
    `TrainingError` for one of another recipe.
    """

    def __init__(self, model: BigGAN, pictures: Samples, recipe: Recipe | None = None, checkpoint: Path | None = None) -> None:
        self.recipe, self.pictures, self.checkpoint = recipe or Recipe(), pictures, checkpoint
        self.generator, self.step = model, 0
        self.discriminator = Discriminator(model.config.num_classes, seed=self.recipe.seed)
        for network in (self.generator, self.discriminator):
            network.to(memory_format=torch.channels_last)  # a step takes a third less on a processor
        self.average = copy.deepcopy(model).requires_grad_(False)
        betas = (0.0, 0.999)
        self.of_g = torch.optim.Adam(self.generator.parameters(), self.recipe.generator_rate, betas, eps=1e-6)
        self.of_d = torch.optim.Adam(self.discriminator.parameters(), self.recipe.discriminator_rate, betas, eps=1e-6)
        self.history: list[dict[str, float]] = []  #: means of the losses over a hundred steps
        if checkpoint is not None and checkpoint.exists():
            self._resume(checkpoint)

    def run(self, minutes: float = 0, progress: bool = True, every: int = 250) -> bool:
        """Train until the steps are done, or for so many minutes; True when done. A checkpoint `every` so many steps."""
        began, sums = time.perf_counter(), torch.zeros(3)
        self.generator.train()
        self.discriminator.train()
        with (
            tqdm(total=self.recipe.steps, initial=self.step, desc="BigGAN", disable=not progress, leave=False) as bar,
            learning(self.generator),
        ):
            while self.step < self.recipe.steps:
                sums += self._one_step()
                self.step += 1
                bar.update()
                if self.step % 100 == 0:
                    names = ("discriminator", "generator", "class_loss")
                    self.history.append({"step": self.step} | dict(zip(names, (sums / 100).tolist(), strict=True)))
                    bar.set_postfix_str(" ".join(f"{k} {v:.2f}" for k, v in self.history[-1].items() if k != "step"))
                    sums.zero_()
                if self.step % every == 0:
                    self._write()
                if minutes and time.perf_counter() - began > 60 * minutes:
                    break
        self._write()
        return self.step >= self.recipe.steps

    def finished(self, batch: int = 256) -> BigGAN:
        """A copy of the averaged generator with statistics stored: what is kept and used."""
        model = copy.deepcopy(self.average)
        with learning(model):
            settle(model)
        fill(model, self.recipe.seed, batch)
        return model

    def _one_step(self) -> Tensor:
        """One update of each; the same generated pictures serve both (our choice: it spares a pass). Returns three losses."""
        rng = torch.Generator().manual_seed(self.recipe.seed * 10_000_000 + self.step)
        config, n = self.generator.config, self.recipe.batch
        self._set_rates()
        which = torch.randint(len(self.pictures), (n,), generator=rng)
        real, labels = self.pictures.batch(which) * 2 - 1, self.pictures.labels[which]
        real = torch.where(torch.rand(n, 1, 1, 1, generator=rng) < 0.5, real.flip(-1), real)
        asked = torch.randint(config.num_classes, (n,), generator=rng)
        z = torch.nn.init.trunc_normal_(torch.empty(n, config.z_dim), a=-2, b=2, generator=rng)
        made = self.generator(z, F.one_hot(asked, config.num_classes).float(), 1.0)

        scores, logits = self.discriminator(torch.cat([real, made.detach()]), torch.cat([labels, asked]))
        named = F.cross_entropy(logits[:n], labels)
        loss_d = F.relu(1 - scores[:n]).mean() + F.relu(1 + scores[n:]).mean()
        self.of_d.zero_grad()
        (loss_d + self.recipe.auxiliary * named).backward()
        self.of_d.step()

        self.discriminator.requires_grad_(False)
        scores, logits = self.discriminator(made, asked)
        loss_g, wanted = -scores.mean(), F.cross_entropy(logits, asked)
        self.of_g.zero_grad()
        (loss_g + self.recipe.auxiliary * wanted).backward()
        self.discriminator.requires_grad_(True)
        self.of_g.step()
        self._average()
        if not bool(loss_d.isfinite() & loss_g.isfinite()):
            raise TrainingError(f"a loss is not finite at step {self.step}; take smaller rates")
        return torch.stack([loss_d.detach(), loss_g.detach(), wanted.detach()])

    def _set_rates(self) -> None:
        left = (1 - self.step / self.recipe.steps) / max(self.recipe.falling, 1e-9)
        factor = min(1.0, 0.1 + 0.9 * left)
        for optimiser, rate in ((self.of_g, self.recipe.generator_rate), (self.of_d, self.recipe.discriminator_rate)):
            for group in optimiser.param_groups:
                group["lr"] = rate * factor

    @torch.no_grad()
    def _average(self) -> None:
        keep = self.recipe.averaging if self.step >= self.recipe.averaging_from else 0.0
        for mean, now in zip(self.average.parameters(), self.generator.parameters(), strict=True):
            mean.lerp_(now, 1 - keep)
        for mean, now in zip(self.average.buffers(), self.generator.buffers(), strict=True):
            mean.copy_(now)  # vectors of spectral norm, which a mean would make no eigenvectors of anything

    def state(self) -> dict[str, Any]:
        """All that training needs to go on."""
        parts = ("generator", "discriminator", "average", "of_g", "of_d")
        found = {part: getattr(self, part).state_dict() for part in parts}
        return found | {"recipe": dataclasses.asdict(self.recipe), "step": self.step, "history": self.history}

    def compact(self, file: Path) -> None:
        """A checkpoint small enough to commit: half precision, without Adam's moments, so going on is not the same bit by bit."""
        state = {k: v for k, v in self.state().items() if not k.startswith("of_")}
        for part in ("generator", "discriminator", "average"):
            # not the statistics, which are filled afterwards, nor what spectral norm computes anew
            state[part] = {k: v.half() for k, v in state[part].items() if "running_" not in k}
        _save(state, file)

    def _write(self) -> None:
        if self.checkpoint is not None:
            _save(self.state(), self.checkpoint)

    def _resume(self, file: Path) -> None:
        try:
            found = torch.load(file, map_location="cpu", weights_only=True)
            recipe, step = found["recipe"], int(found["step"])
        except Exception as error:  # a damaged file raises nearly anything
            raise TrainingError(f"checkpoint {file} cannot be read ({type(error).__name__}); remove it to begin anew") from None
        if recipe != dataclasses.asdict(self.recipe):
            raise TrainingError(f"checkpoint {file} belongs to another recipe ({recipe}); remove it to begin anew")
        for part in ("generator", "discriminator", "average", "of_g", "of_d"):
            if part in found:
                strict = {} if part.startswith("of_") or "of_g" in found else {"strict": False}
                getattr(self, part).load_state_dict(found[part], **strict)
        self.step, self.history = step, found["history"]


def _save(state: dict[str, Any], file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    beside = file.with_name(f"{file.name}.{os.getpid()}")
    torch.save(state, beside)
    beside.replace(file)
