"""Train what lies in data/embedded: `python -m xai_lib.training.embedded NAME...`, or `make embedded`.

Long: each network has a checkpoint an epoch in `--work` and goes on from there. The same seeds, versions and machine give the
same weights.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import torch
import typer
from torch import Tensor

from xai_lib import classifiers, critters, heads, small_networks
from xai_lib.classifiers import Classifier, Provenance
from xai_lib.errors import nearest
from xai_lib.images import View
from xai_lib.metrics import intervals
from xai_lib.training import card, plan
from xai_lib.training.embedded_generator import train_generator
from xai_lib.training.loop import Recipe, Samples, TrainingError, evaluate, train
from xai_lib.training.transfer import save
from xai_lib.weights import EMBEDDED

GENERATOR = "critters_biggan"
COUNTS = {"train": 40_000, "validation": 2_000, "test": 8_000}
RECIPE = Recipe(epochs=10, batch=64, learning_rate=3e-3, weight_decay=0.05, one_cycle=True)
_AUTHORS = {
    "critters_vgg19": "Simonyan, Zisserman, ICLR 2015", "critters_resnet": "He et al., CVPR 2016",
    "critters_mobilenet": "Sandler et al., CVPR 2018",
}  # fmt: skip


def untrained(name: str, seed: int = 0) -> Classifier:
    """The classifier of critters with random weights, pictures of 64 pixels in 0..1 centred to -1..1."""
    if name not in small_networks.BUILDERS:
        raise TrainingError(f"no embedded classifier is called {name!r}; {nearest(name, list(small_networks.BUILDERS))}")
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        network = small_networks.BUILDERS[name]()
    return Classifier(
        network, name=name, mean=(0.5,) * 3, std=(0.5,) * 3, view=View(small_networks.SIZE, small_networks.SIZE),
        class_names=critters.CLASSES, provenance=Provenance("untrained", "MIT"),
    )  # fmt: skip


def train_classifier(
    name: str, folder: Path = EMBEDDED, work: Path | None = None, recipe: Recipe = RECIPE, counts: dict[str, int] | None = None,
    progress: bool = True,
) -> Path:  # fmt: skip
    """Train one, keep it in half precision under `folder` with its card, and return the file.

    `work`: folder of drawn sets and checkpoints. The epoch is chosen on the validation set; the card's numbers are those of
    the file as it lies there, on a test set that nothing was chosen on.
    """
    counts = counts or COUNTS
    seeds = {"train": plan.TRAIN, "validation": plan.VALIDATION, "test": plan.TEST}
    sets = {split: plan.drawn(counts[split], seeds[split], cache=work, progress=progress) for split in counts}
    classifier = untrained(name, recipe.seed).to(memory_format=torch.channels_last)
    watched = {"train": plan.Varied(sets["train"].inputs, sets["train"].labels), "validation": sets["validation"]}
    found = train(classifier, watched, recipe, checkpoint=work / f"{name}.pt" if work else None, progress=progress)
    epoch = found.choose("validation")
    source = f"trained by this project on {counts['train']} drawn critters, {recipe.epochs} epochs"
    file = save(classifier, folder / f"{name}.safetensors", "all", source, "MIT", half=True)
    _write_card(file, name, sets["test"], recipe, counts, epoch)
    return file


def _write_card(file: Path, name: str, test: Samples, recipe: Recipe, counts: dict[str, int], epoch: int) -> None:
    about, state = heads.read(file)
    kept = classifiers.load(str(file))
    scores = evaluate(kept, test, 250)
    named = scores.logits.argmax(1)
    right = int((named == test.labels).sum())
    _, low, high = intervals.wilson(right, len(test))
    numbers = sum(t.numel() for t in state.values())
    card.write(file.with_suffix(".md"), f"{name}: a classifier of drawn critters", {
        "What it is": f"A thin network in torchvision's own classes ({_AUTHORS[name]}), {numbers} numbers in half precision, for "
        f"pictures of {about.view[0]} pixels with values 0..1, mean and deviation 0.5. `classifiers.load(\"{name}\")`. Classes: "
        f"{', '.join(about.class_names)}. It knows nothing but these drawings.",
        "Data": f"`xai_lib.critters`, the classes equally often: {counts['train']} to learn from (seed {plan.TRAIN}), "
        f"{counts['validation']} to choose the epoch ({plan.VALIDATION}), {counts['test']} for the numbers below ({plan.TEST}). "
        "Seen mirrored, moved by up to 3 pixels, 10 % brighter or darker.",
        "Recipe": f"AdamW, learning rate {recipe.learning_rate:g} in one cycle, weight decay {recipe.weight_decay:g}, batches of "
        f"{recipe.batch}, {recipe.epochs} epochs of which epoch {epoch} was chosen, seed {recipe.seed}.",
        "How good": f"{100 * right / len(test):.2f} % of {len(test)} unseen critters are named rightly (95 % interval "
        f"{100 * low:.2f} to {100 * high:.2f}, one training). Bayes' rule, told every number that these were drawn from, names "
        f"{100 * _ceiling(len(test)):.2f} % of them.\n\n{_confusions(named, test.labels)}",
        "Make it again": f"`make embedded ARGS={name}`",
    }, [file])  # fmt: skip


def _ceiling(count: int) -> float:
    labels = torch.arange(count) % len(critters.CLASSES)
    kinds = [critters.CLASSES[label] for label in labels.tolist()]
    table = critters.table(critters.critter(kind, i, plan.TEST) for i, kind in enumerate(kinds))
    return float((critters.ceiling(table) == labels.numpy()).mean())


def _confusions(named: Tensor, labels: Tensor) -> str:
    """The five most frequent mistakes, in Markdown."""
    pairs = torch.stack([labels, named], 1)[named != labels]
    kinds, counts = pairs.unique(dim=0, return_counts=True)
    rows = ["| drawn as | taken for | times |", "|---|---|---|"]
    for i in counts.argsort(descending=True)[:5].tolist():
        true, taken = (critters.CLASSES[k] for k in kinds[i].tolist())
        rows.append(f"| {true} | {taken} | {int(counts[i])} |")
    return "\n".join(rows)


def main(
    names: Annotated[list[str] | None, typer.Argument(help="Which; all without a name.")] = None,
    work: Annotated[Path, typer.Option(help="Folder of drawn sets and checkpoints.")] = Path("build/embedded"),
    folder: Annotated[Path, typer.Option(help="Where weights and cards go.", show_default="data/embedded")] = EMBEDDED,
) -> None:
    """Train the embedded networks: classifiers by name, and `generator`, which needs critters_vgg19 to be measured by."""
    for name in names or [*small_networks.BUILDERS, "generator"]:
        print(train_generator(folder / GENERATOR, work) if name == "generator" else train_classifier(name, folder, work))


if __name__ == "__main__":
    typer.run(main)
