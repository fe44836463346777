"""Read off a picture the numbers that a critter may have been drawn from: a small regressor, trained on the spot.

Generated pictures have no such numbers. What a network that learnt them from drawings reads there is an estimate, as good as its
`r2` on drawings and as the picture is like a drawing. All of it is our choice.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from xai_lib import critters
from xai_lib.training.loop import Samples, TrainingError
from xai_lib.training.plan import Varied, drawn

SHAPE = tuple(dict.fromkeys(name for spread in critters.SPREADS.values() for name in spread))
"""What is read: the numbers of shape, of animals and of bottles."""
SEED = 2_000_000  #: of the drawings that a reader learns from; notebooks draw from small seeds


@dataclass(frozen=True, eq=False)
class Reader:
    """A trained reader.

    `r2`: for each number the share of its variance over unseen drawings of its family that is explained. `mean`, `deviation`: of
    the drawings that it learnt from, by number, over the family.
    """

    network: nn.Module = field(repr=False)
    mean: pd.Series = field(repr=False)
    deviation: pd.Series = field(repr=False)
    r2: dict[str, float]
    held_out: int

    @torch.no_grad()
    def read(self, images: Tensor, batch: int = 250) -> pd.DataFrame:
        """A row a picture `(N, 3, 64, 64)` in 0..1, a column a number, in standard deviations from the mean over its family."""
        device = next(self.network.parameters()).device
        found = torch.cat([self.network(part.to(device)).cpu() for part in images.split(batch)])
        return pd.DataFrame(found.numpy(), columns=list(SHAPE))

    def table(self) -> pd.DataFrame:
        """A row a number: the part that it belongs to and `r2`, best first."""
        rows = [{"number": n, "part": critters.PART_OF.get(n, ""), "r2": r, "sd": self.deviation[n]} for n, r in self.r2.items()]
        return pd.DataFrame(rows).sort_values("r2", ascending=False, ignore_index=True)


def train(critters_count: int = 3000, epochs: int = 6, seed: int = 0, held_out: int = 600, batch: int = 50) -> Reader:
    """Train a reader on so many drawings: squared error of standardised numbers, those of the other family left out.

    Half a minute on two cores with the defaults. The global generators stay as they are. Raises `TrainingError`.
    """
    if min(critters_count, held_out) < 4 * len(critters.CLASSES) or epochs < 1:
        raise TrainingError(f"a reader needs at least {4 * len(critters.CLASSES)} drawings and one epoch")
    samples, numbers = _drawn(critters_count, SEED + 2 * seed)
    unseen, true = _drawn(held_out, SEED + 2 * seed + 1)
    mean, deviation = numbers.mean(), numbers.std(ddof=0)
    wanted = torch.tensor(((numbers - mean) / deviation).to_numpy(), dtype=torch.float32)
    varied = Varied(samples.inputs, samples.labels)
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        network = _network().to(memory_format=torch.channels_last)
        steps = epochs * -(-critters_count // batch)
        optimiser = torch.optim.AdamW(network.parameters(), 3e-3, weight_decay=1e-3)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 3e-3, total_steps=steps)
        for _ in range(epochs):
            for part in torch.randperm(critters_count).split(batch):
                target = wanted[part]
                known = target.isfinite()
                error = torch.where(known, network(varied.batch(part)) - target.nan_to_num(), 0.0)
                optimiser.zero_grad()
                (error.square().sum() / known.sum()).backward()
                optimiser.step()
                schedule.step()
    reader = Reader(network.eval(), mean, deviation, {}, held_out)
    read = reader.read(unseen.batch(torch.arange(held_out)))
    for name in SHAPE:
        z = ((true[name] - mean[name]) / deviation[name]).to_numpy()
        known = np.isfinite(z)
        reader.r2[name] = float(1 - ((read[name].to_numpy()[known] - z[known]) ** 2).mean() / z[known].var())
    return reader


def _drawn(count: int, seed: int) -> tuple[Samples, pd.DataFrame]:
    samples = drawn(count, seed, progress=False)
    kinds = [critters.CLASSES[label] for label in samples.labels.tolist()]
    table = critters.table(critters.critter(kind, i, seed) for i, kind in enumerate(kinds))
    return samples, pd.DataFrame(np.asarray(table, np.float64), columns=list(critters.NAMES))[list(SHAPE)]


def _network() -> nn.Module:
    """Four convolutions, then dense layers that still know where things are."""
    layers: list[nn.Module] = []
    for inputs, outputs in ((3, 24), (24, 48), (48, 64), (64, 64)):
        layers += [nn.Conv2d(inputs, outputs, 3, 2, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(64 * 16, 128), nn.ReLU(), nn.Linear(128, len(SHAPE)))
