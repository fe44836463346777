"""From a picture taken for the wrong class to one taken for the correct class, noise and class vector together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from xai_lib.classifiers import Classifier
from xai_lib.counterfactuals.cases import resized
from xai_lib.counterfactuals.inversion import Inversion
from xai_lib.counterfactuals.search import CounterfactualError
from xai_lib.errors import whole
from xai_lib.generators import Generator, GeneratorError

SURE = 0.9  #: confidence that a start or goal should have (our choice; the paper says "high")


@dataclass(frozen=True, eq=False)
class End:
    """Start or goal of a transition: noise `(z_dim,)`, class vector `(classes,)`, and in words how it was chosen."""

    z: Tensor = field(repr=False)
    class_vector: Tensor = field(repr=False)
    row: int
    said: str


def pick(inversion: Inversion, verdict: Literal["correct", "wrong"]) -> End | None:
    """The most similar picture with a confidence of 0.9 or more for that class, else the most confident; None without any.

    Paper: high confidence and high cosine; the rest is our choice.
    """
    if verdict not in ("correct", "wrong"):
        raise CounterfactualError(f"pick: correct or wrong; found {verdict!r}")
    rows = [i for i, v in enumerate(inversion.verdicts) if v == verdict]
    if not rows:
        return None
    confidence = inversion.probabilities.max(1).values
    sure = [i for i in rows if float(confidence[i]) >= SURE]
    row = max(sure, key=lambda i: float(inversion.cosines[i])) if sure else max(rows, key=lambda i: float(confidence[i]))
    how = f"the most similar of {len(sure)} with at least {SURE}" if sure else f"the most confident of {len(rows)}"
    said = f"{how} (confidence {float(confidence[row]):.2f}, cosine {float(inversion.cosines[row]):.3f})"
    return End(inversion.z[row], inversion.vectors[row], row, said)


@dataclass(frozen=True, eq=False)
class Transition:
    """A straight line between two ends in `phases` pictures. `probabilities`: `(phases, classes)`, on the CPU.

    `classes`: (correct, wrong). `crossings`: phases, with fractions, at which the confidences of the two classes are equal.
    """

    generator: Generator = field(repr=False)
    start: End
    goal: End
    classes: tuple[int, int]
    probabilities: Tensor = field(repr=False)
    truncation: float = 1.0

    @property
    def phases(self) -> int:
        """How many pictures."""
        return len(self.probabilities)

    def confidence(self, label: int) -> Tensor:
        """Probability of a class at every phase, `(phases,)`."""
        return self.probabilities[:, label]

    @property
    def crossings(self) -> list[float]:
        """Where the two confidences meet, by linear interpolation between phases; none or several are possible."""
        lead = (self.confidence(self.classes[0]) - self.confidence(self.classes[1])).double()
        at = (lead[:-1] * lead[1:] < 0) | ((lead[:-1] == 0) & (lead[1:] != 0))
        return [i + float(lead[i] / (lead[i] - lead[i + 1])) for i in at.nonzero()[:, 0].tolist()]

    @torch.no_grad()
    def images(self, phases: Sequence[int]) -> Tensor:
        """The pictures of these phases, `(n, 3, S, S)` in 0..1."""
        return _between(self.generator, self.start, self.goal, torch.as_tensor(phases), self.phases, self.truncation)


@torch.no_grad()
def transition(
    generator: Generator, classifier: Classifier, start: End, goal: End, *, classes: tuple[int, int], phases: int = 1000,
    truncation: float = 1.0, batch: int = 32,
) -> Transition:  # fmt: skip
    """Classify the pictures of a straight line from `start` to `goal`, both ends included; `classes`: (correct, wrong).

    Paper: 1000 phases. Raises `CounterfactualError` for fewer than 2, batches below 1 and classes that the classifier does not
    know, and `GeneratorError` for ends of another generator and other truncations than above 0 and at most 1.
    """
    if phases < 2:
        raise CounterfactualError(f"phases: at least 2, found {phases}")
    whole("batch", batch, 1, CounterfactualError)
    for label in classes:
        whole("classes", label, 0, CounterfactualError)
        if label >= classifier.classes:
            raise CounterfactualError(f"classes: {label} is not among the {classifier.classes} of {classifier.name}")
    for name, end in (("start", start), ("goal", goal)):
        if end.z.shape != (generator.z_dim,) or end.class_vector.shape != (generator.classes,):
            raise GeneratorError(
                f"{name}: expected z ({generator.z_dim},) and class_vector ({generator.classes},) of {generator.name}, found "
                f"{tuple(end.z.shape)} and {tuple(end.class_vector.shape)}"
            )
    found = []
    for part in torch.arange(phases).split(batch):
        pictures = _between(generator, start, goal, part, phases, truncation)
        found.append(classifier.probabilities(resized(classifier, pictures)).cpu())
    return Transition(generator, start, goal, classes, torch.cat(found), truncation)


def _between(generator: Generator, start: End, goal: End, at: Tensor, phases: int, truncation: float) -> Tensor:
    device = next(generator.parameters()).device
    share = (at.double() / (phases - 1)).float()[:, None].to(device)
    z, vector = (
        torch.lerp(a.to(device)[None], b.to(device)[None], share)
        for a, b in ((start.z, goal.z), (start.class_vector, goal.class_vector))
    )
    return generator(z, vector, truncation)
