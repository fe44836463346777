"""Train the small BigGAN of critters: `python -m xai_lib.training.embedded_generator`, or `make embedded ARGS=generator`.

Some two hours on two cores. It can be stopped at any time, or by `--minutes`, and goes on from its checkpoint in `--work`.
"""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Annotated

import torch
import typer

from xai_lib import classifiers, critters, generators
from xai_lib.generators import Generator
from xai_lib.training import card, generator_measures, plan
from xai_lib.training.biggan import Adversaries, Recipe
from xai_lib.training.generator_measures import Measures
from xai_lib.training.loop import Samples
from xai_lib.weights import EMBEDDED

FOLDER = EMBEDDED / "critters_biggan"
PICTURES, JUDGE = 40_000, "critters_vgg19"
COMPACT, CURVE = "unfinished.pt", "curve.csv"


def train_generator(
    folder: Path = FOLDER, work: Path = Path("build/embedded"), recipe: Recipe | None = None, minutes: float = 0,
    pictures: Samples | None = None, every: int = 1000, progress: bool = True,
) -> Path:  # fmt: skip
    """Train, or go on training; keep the averaged generator under `folder` with card and curve, and return its weights.

    A checkpoint of every step lies in `work`; where that is gone, `unfinished.pt` under `folder` is gone on from. Each `every`
    steps the generator is measured by the embedded classifier.
    """
    recipe = recipe or Recipe()
    pictures = pictures or plan.drawn(PICTURES, plan.TRAIN, cache=work, progress=progress)
    checkpoint, kept = work / "biggan.pt", folder / COMPACT
    if not checkpoint.exists() and kept.exists():
        checkpoint.parent.mkdir(parents=True, exist_ok=True)
        checkpoint.write_bytes(kept.read_bytes())
    both = Adversaries(generators.build(generators.small_config(), recipe.seed), pictures, recipe, checkpoint)
    both.run(minutes, progress, every=250)
    files = generators.save(both.finished(), folder)
    both.compact(kept)
    measures = _measure(folder)
    _note(folder / CURVE, both.step, measures)
    if both.step >= recipe.steps:
        kept.unlink()
    _write_card(folder, files, recipe, both, measures)
    return files[1]


def _measure(folder: Path, count: int = 4000) -> Measures:
    real = plan.drawn(count, plan.TEST, progress=False).inputs
    return generator_measures.measure(generators.load_generator(folder), classifiers.load(JUDGE), real, count)


def _note(file: Path, step: int, found: Measures) -> None:
    rows = list(csv.reader(file.read_text(encoding="utf-8").splitlines())) if file.exists() else []
    rows = [row for row in rows[1:] if int(row[0]) < step]
    rows = [["step", "distance", "share", "low", "high"], *rows, [str(step), *(f"{v:.4f}" for v in found[:4])]]
    file.write_text("".join(",".join(row) + "\n" for row in rows), encoding="utf-8")
