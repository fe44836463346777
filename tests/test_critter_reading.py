"""Numbers read off pictures: better than the mean on drawings, right in direction, and the same each time."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from xai_lib import critter_reading, critters
from xai_lib.training import TrainingError


@pytest.fixture(scope="module")
def reader() -> critter_reading.Reader:
    return critter_reading.train(critters_count=1200, epochs=5, held_out=200)


def test_it_explains_some_of_the_variance_of_plain_numbers(reader: critter_reading.Reader) -> None:
    assert reader.r2["ear_length"] > 0.2 and reader.r2["beak"] > 0.3 and set(reader.r2) == set(critter_reading.SHAPE)
    table = reader.table()
    assert list(table.columns) == ["number", "part", "r2", "sd"] and table.r2.is_monotonic_decreasing
    assert table.set_index("number").part["neck_width"] == "neck" and reader.held_out == 200


def test_r2_is_its_formula(reader: critter_reading.Reader) -> None:
    unseen = critters.batch([i % 8 for i in range(200)], range(200), seed=critter_reading.SEED + 1)
    column = critters.NAMES.index("ear_length")
    true = unseen.parameters[:, column].double().numpy()
    own = ~np.isnan(true)
    z = (true[own] - reader.mean["ear_length"]) / reader.deviation["ear_length"]
    read = reader.read(unseen.images)["ear_length"].to_numpy()[own]
    assert reader.r2["ear_length"] == pytest.approx(1 - ((read - z) ** 2).sum() / ((z - z.mean()) ** 2).sum(), abs=0.01)


def test_longer_ears_are_read_as_longer(reader: critter_reading.Reader) -> None:
    ones = [critters.critter("rabbit", i, seed=3) for i in range(8)]
    short, long = (reader.read(critters.batch([o.with_(ear_length=v) for o in ones]).images)["ear_length"] for v in (0.2, 1.4))
    assert (long > short).mean() >= 0.75 and long.mean() - short.mean() > 0.15


def test_it_is_the_same_each_time_and_leaves_the_global_generator_alone() -> None:
    state = torch.random.get_rng_state()
    first, second = (critter_reading.train(critters_count=64, epochs=1, held_out=40) for _ in range(2))
    assert first.r2 == second.r2 and torch.equal(torch.random.get_rng_state(), state)


def test_too_few_drawings_are_refused() -> None:
    with pytest.raises(TrainingError, match="at least 32 drawings"):
        critter_reading.train(critters_count=8)
