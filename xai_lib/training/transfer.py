"""Transfer learning: a network's features computed once, a linear head on them, and the file that keeps the result."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from xai_lib import classifiers, heads
from xai_lib.classifiers import Classifier, Provenance
from xai_lib.images import Images, View
from xai_lib.training.loop import Recipe, Samples, Training, TrainingError, train


def with_head(classifier: Classifier, class_names: Sequence[str], seed: int = 0, view: View | None = None) -> Classifier:
    """A copy of the classifier whose last layer is a new one for these classes, with random weights.

    `view`: how it sees pictures from now on, if not as before; it is saved with the weights.
    """
    if len(class_names) < 2 or len(set(class_names)) < len(class_names):
        raise TrainingError(f"class_names: expected two or more, all different; found {', '.join(class_names) or 'none'}")
    network = copy.deepcopy(classifier.network)
    heads.replace(network, len(class_names), seed)
    twin = Classifier(
        network, name=classifier.name, mean=classifier.mean.flatten().tolist(), std=classifier.std.flatten().tolist(),
        view=view or classifier.view, class_names=class_names, provenance=Provenance(f"{classifier.provenance.source}; new head"),
    )  # fmt: skip
    return twin.to(classifier.device)


def samples(images: Images, view: View, progress: bool = True) -> Samples:
    """The readable pictures of a labelled set as bytes, grey ones in one channel; a picture without label is an error."""
    rows, labels, names = [], [], []
    for name, image, label in tqdm(images.viewed(view), desc="reading", total=len(images), disable=not progress, leave=False):
        if label is None:
            raise TrainingError(f"{name}: nothing says which class it is")
        rows.append(image.mul(255).round().to(torch.uint8))
        labels.append(label)
        names.append(name)
    if not rows:
        raise TrainingError(f"none of {len(images)} pictures can be read; images.failures says why")
    pictures = torch.stack(rows)
    if bool((pictures == pictures[:, :1]).all()):
        pictures = pictures[:, :1].contiguous()
    return Samples(pictures, torch.tensor(labels), tuple(names))


@torch.no_grad()
def features(classifier: Classifier, pictures: Tensor, batch: int = 16, progress: bool = True) -> Tensor:
    """What the last dense layer sees of pictures `(N, 1 or 3, H, W)`, uint8 or 0..1: `(N, D)` float32, on the CPU."""
    samples = Samples(pictures, torch.zeros(len(pictures), dtype=torch.long))
    found: list[Tensor] = []

    def keep(_module: nn.Module, inputs: Any) -> None:
        found.append(inputs[0].float().cpu())

    hook = classifier.network.get_submodule(heads.head_of(classifier.network)).register_forward_pre_hook(keep)
    try:
        for part in tqdm(torch.arange(len(pictures)).split(batch), desc="features", disable=not progress, leave=False):
            classifier(samples.batch(part).to(classifier.device))
    finally:
        hook.remove()
    return torch.cat(found)


class _Standardised(nn.Module):
    """A dense layer on features less their mean, over their deviation."""

    def __init__(self, mean: Tensor, deviation: Tensor, layer: nn.Linear) -> None:
        super().__init__()
        self.mean, self.deviation, self.layer = mean, deviation, layer

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.layer((x - self.mean) / self.deviation)
        return found

    @torch.no_grad()
    def into(self, layer: nn.Linear) -> None:
        """The same map as one dense layer on the features as they are."""
        weight = self.layer.weight / self.deviation
        layer.weight.copy_(weight)
        layer.bias.copy_(self.layer.bias - weight @ self.mean)


def fit_head(
    classifier: Classifier,
    sets: Mapping[str, Samples],
    recipe: Recipe,
    *,
    choose: str = "validation",
    checkpoint: str | Path | None = None,
    progress: bool = True,
) -> Training:
    """Train the last dense layer on `features`, standardised by the training set; the chosen weights go into the classifier.

    `choose`: the split whose least loss picks the epoch ("" for the last epoch). The rest of the network stays.
    """
    layer = classifier.network.get_submodule(heads.head_of(classifier.network))
    assert isinstance(layer, nn.Linear)
    inputs = sets["train"].inputs if "train" in sets else torch.empty(0, 0)
    if inputs.ndim != 2 or inputs.shape[1] != layer.in_features:
        raise TrainingError(f"sets['train']: expected features (N, {layer.in_features}), found {tuple(inputs.shape)}")
    head = nn.Linear(layer.in_features, layer.out_features)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    standardised = _Standardised(inputs.mean(0), inputs.std(0).clamp(min=1e-6), head)
    found = train(standardised, sets, recipe, checkpoint=checkpoint, progress=progress)
    if choose:
        found.choose(choose)
    standardised.into(layer)
    return found


def load(file: str | Path, class_names: Sequence[str]) -> Classifier:
    """`classifiers.load` of what `save` wrote; raises `TrainingError` unless it was trained on these classes in this order."""
    classifier, wanted = classifiers.load(str(file)), list(class_names)
    found = [classifier.class_name(i) for i in range(classifier.classes)]
    if found != wanted:
        why = "in another order" if sorted(found) == sorted(wanted) else "on others"
        raise TrainingError(
            f"{file}: expected a network trained on the classes {', '.join(wanted)}; it was {why}: {', '.join(found)}; "
            "train one on yours with training.with_head and fit_head"
        )
    return classifier


def save(
    classifier: Classifier, file: str | Path, part: heads.Part = "head", source: str = "", licence: str = "unknown",
    half: bool = False,
) -> Path:  # fmt: skip
    """Keep a trained classifier as safetensors with its preprocessing and class names: `classifiers.load(file)` has it back.

    `part`: the last layer alone ("head"; the rest must be the named network's own weights) or everything ("all"). `source`:
    data and training, in words. `half`: in half precision, for a network that is to stay small.
    """
    names = tuple(classifier.class_name(i) for i in range(classifier.classes))
    view = classifier.view
    about = heads.About(
        classifier.name, part, names, tuple(classifier.mean.flatten().tolist()), tuple(classifier.std.flatten().tolist()),
        (view.size, view.resize, view.interpolation, view.squash), source, licence,
    )  # fmt: skip
    return heads.write(classifier.network, about, file, half)
