"""Train the small BigGAN of critters: `python -m xai_lib.training.embedded_generator`, or `make embedded ARGS=generator`.

Some two hours on two cores. It can be stopped at any time, or by `--minutes`, and goes on from its checkpoint in `--work`.
"""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Annotated

import torch
import typer
from PIL import Image

from xai_lib import classifiers, critters, generators
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


def _write_card(folder: Path, files: list[Path], recipe: Recipe, both: Adversaries, found: Measures) -> None:
    config = both.generator.config
    numbers = sum(p.numel() for p in both.generator.parameters())
    done = both.step >= recipe.steps
    state = "" if done else f" **Unfinished:** {both.step} of {recipe.steps} steps; `{COMPACT}` goes on from here."
    by_class = ", ".join(f"{kind} {100 * share:.0f}" for kind, share in zip(critters.CLASSES, found.by_class, strict=True))
    sheet = folder / "samples.png"
    _sample_sheet(folder).save(sheet, optimize=True)
    card.write(folder / "README.md", "critters_biggan: a generator of drawn critters", {
        "What it is": "The generator of pytorch-pretrained-biggan (BigGAN-deep; Brock et al., ICLR 2019), small: "
        f"{config.output_dim} px, z of {config.z_dim}, {config.num_classes} classes, {numbers} parameters, in half precision. "
        "`counterfactuals.load_generator(\"critters\")`; the package's own `from_pretrained` reads the folder as well.",
        "Data": f"{len(both.pictures)} critters drawn by `xai_lib.critters` (seed {plan.TRAIN}), mirrored by chance.",
        "Recipe": f"Hinge loss, spectral norm, one update of each side a step, batches of {recipe.batch}, Adam (0, 0.999) at "
        f"{recipe.generator_rate:g} and {recipe.discriminator_rate:g}, {recipe.steps} steps, averaged weights "
        f"({recipe.averaging:g} from step {recipe.averaging_from}), an auxiliary classifier of weight {recipe.auxiliary:g}, seed "
        f"{recipe.seed}. Statistics of batch norm are filled in afterwards for each truncation.{state}",
        "How good": f"`{JUDGE}` names the class that was asked for on {100 * found.share:.1f} % of {found.pictures} pictures "
        f"(95 % interval {100 * found.low:.1f} to {100 * found.high:.1f}, one training); by class, %: {by_class}. Fréchet "
        f"distance in its pooled features to {found.pictures} unseen drawings: {found.distance:.2f} (no Inception: compare "
        f"within this project alone). Along the training: `{CURVE}`. Ten pictures a class: `{sheet.name}`.",
        "Make it again": "`make embedded ARGS=generator`",
    }, files)  # fmt: skip


def _sample_sheet(folder: Path, columns: int = 10) -> Image.Image:
    """A row a class."""
    generator = generators.load_generator(folder)
    labels = torch.arange(generator.classes).repeat_interleave(columns)
    made = generator_measures.made(generator, labels, seed=1).mul(255).round().to(torch.uint8)
    rows = made.view(generator.classes, columns, 3, *made.shape[-2:]).permute(0, 3, 1, 4, 2)
    return Image.fromarray(rows.reshape(rows.shape[0] * rows.shape[1], -1, 3).numpy())


def main(
    minutes: Annotated[float, typer.Option(help="Stop after so many; 0: at the end.")] = 0,
    work: Annotated[Path, typer.Option(help="Folder of drawn sets and checkpoints.")] = Path("build/embedded"),
) -> None:
    """Train the generator, or go on training it."""
    print(train_generator(work=work, minutes=minutes))


if __name__ == "__main__":
    typer.run(main)
