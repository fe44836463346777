"""The search of Eq. 1: many noises at once, in batches of one shape, with curve, early stop, checkpoint and resume."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, cast, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from xai_lib import explanation, generators
from xai_lib.classifiers import Classifier
from xai_lib.classifiers.fingerprint import contents_of
from xai_lib.counterfactuals.cases import checked_vectors, features, pooled_layer, resized
from xai_lib.counterfactuals.inversion import Inversion
from xai_lib.errors import XaiError
from xai_lib.explanation import left_as_it_was
from xai_lib.generators import Generator
from xai_lib.inference import first_right, probes

Optimiser = Literal["rmsprop", "adam", "sgd"]
GAIN = 1e-4  #: less than this much cosine is no gain (our choice)
_EVERY = 50  #: updates between two checkpoints


class CounterfactualError(XaiError):
    """Settings, pictures or class vectors that cannot be searched with, or a checkpoint of another search."""


@dataclass(frozen=True)
class Settings(explanation.Settings):
    """How to search."""

    noises: int = 32  #: random starts for each class vector (paper)
    updates: int = 2000  #: of z (paper)
    learning_rate: float = 0.03  #: our choice, see notebook 05's sweep
    batch: int = 16  #: searches side by side; every batch has this many rows, the last one is padded
    patience: int = 100  #: a search ends when its best cosine gained less than 1e-4 in so many updates (our choice); 0: never
    optimiser: Optimiser = "rmsprop"  #: RMSprop (paper), Adam or gradient ascent
    decay: float = 0.99  #: of RMSprop's mean square, and Adam's second moment (our choice: PyTorch's of RMSprop)
    eps: float = 1e-8  #: added to the root of the mean square (PyTorch's)
    layer: str = ""  #: whose features are compared, a dotted name; "": the last pooled ones (paper), see `pooled_layer`
    truncation: float = 1.0  #: of the first noises, and for the stored statistics of batch norm (paper: "threshold 1.0")

    def __post_init__(self) -> None:
        if self.optimiser not in get_args(Optimiser):
            raise CounterfactualError(f"optimiser: {', '.join(get_args(Optimiser))}; found {self.optimiser!r}")
        if min(self.noises, self.batch) < 1 or min(self.updates, self.patience) < 0:
            raise CounterfactualError(f"noises and batch must be at least 1, updates and patience at least 0; found {self}")
        if self.learning_rate <= 0 or self.eps <= 0 or not 0 <= self.decay < 1 or not 0 < self.truncation <= 1:
            raise CounterfactualError(
                f"learning_rate and eps must be above 0, decay in 0..1 below 1, truncation above 0 and at most 1; found {self}"
            )

    def as_dict(self) -> dict[str, Any]:
        """The fields by name."""
        return asdict(self)

    def build(self, z: Tensor) -> torch.optim.Optimizer:
        """The optimiser of z. Each works coordinate by coordinate, so rows of a batch do not mix."""
        if self.optimiser == "rmsprop":
            return torch.optim.RMSprop([z], self.learning_rate, alpha=self.decay, eps=self.eps)
        if self.optimiser == "adam":
            return torch.optim.Adam([z], self.learning_rate, betas=(0.9, self.decay), eps=self.eps)
        return torch.optim.SGD([z], self.learning_rate)


class _Found(Exception):
    """The features are there: what follows them in the network is not needed."""


class Features(nn.Module):
    """`features` for many calls: the fastest right way to run the network, and nothing computed behind the features.

    `batch`: pictures in one call, for which that way is looked for.
    """

    def __init__(self, classifier: Classifier, layer: str = "", batch: int = 1) -> None:
        super().__init__()
        self.layer = layer or pooled_layer(classifier)
        classifier.layer(self.layer)  # an unknown one is an error with the nearest names
        self.classifier = [classifier]  # in a list: no submodule, so that nothing of it is moved or counted
        self._last = 0
        size = (classifier.view.size,) * 2
        with left_as_it_was(classifier), torch.no_grad():
            calls: list[int] = []
            counter = classifier.layer(self.layer).register_forward_hook(lambda *_: calls.append(1))
            classifier(torch.full((1, classifier.channels, *size), 0.5, device=classifier.device))
            counter.remove()
            self._last = len(calls)
            if not calls:
                raise CounterfactualError(f"{classifier.name}: layer {self.layer!r} was not reached; name another with layer=")
            self.route = first_right(classifier.network, [probes(batch, classifier, size)], [classifier.dtype], self._ask)

    def _ask(self, network: nn.Module, batch: Tensor) -> Tensor:
        """What the layer gives in its last run, `(N, C h w)`."""
        seen: list[Tensor] = []

        def keep(_module: nn.Module, _inputs: Any, output: Tensor) -> None:
            seen.append(output)
            if len(seen) == self._last:
                raise _Found

        hook = network.get_submodule(self.layer).register_forward_hook(keep)
        try:
            network(batch)
        except _Found:
            return seen[-1].flatten(1)
        finally:
            hook.remove()
        raise CounterfactualError(f"layer {self.layer!r} was not reached")

    def forward(self, images: Tensor) -> Tensor:
        """Flat features `(N, C h w)` of pictures `(N, C, S, S)` in 0..1."""
        classifier = self.classifier[0]
        return self._ask(self.route.network, self.route.laid(classifier.normalise(resized(classifier, images))))


def invert(
    generator: Generator,
    classifier: Classifier,
    image: Tensor,
    class_vectors: Mapping[str, Tensor],
    *,
    settings: Settings | None = None,
    seed: int = 0,
    checkpoint: str | Path | None = None,
    progress: bool = True,
) -> Inversion:
    """Search noises whose pictures have the features of `image` `(1, 3, H, W)`, for each class vector `(1, classes)`.

    Noise k, of `generators.noise`, is the same for every class vector. Only z moves. The sum of a batch's cosines is climbed, so
    that a row does not feel its neighbours: its result is the same bit for bit whatever runs beside it, on one machine with
    one number of threads and one `settings.batch`. The best z seen is kept, not the last (our choice). `checkpoint`: a
    file, written every fifty updates; a search that finds it goes on there and ends with the same result. Raises
    `CounterfactualError`, and `GeneratorError` for vectors of another size.
    """
    settings = settings or Settings()
    if image.ndim != 4 or len(image) != 1:
        raise CounterfactualError(f"invert: expected one picture (1, 3, H, W), found {tuple(image.shape)}")
    if classifier.channels != 3:
        raise CounterfactualError(
            f"{classifier.name} takes images of {classifier.channels} channel(s), and the generator makes three; wrap the "
            "network in a module that makes its channels of red, green and blue"
        )
    if not class_vectors:
        raise CounterfactualError("invert: no class vector was given; see class_vectors")
    checked_vectors(generator, class_vectors)
    began = time.perf_counter()
    start = generators.noise(settings.noises, generator.z_dim, seed, settings.truncation).to(classifier.device)
    z = start.repeat(len(class_vectors), 1)
    vectors = torch.cat([v.to(z).reshape(1, -1).expand(settings.noises, -1) for v in class_vectors.values()])
    kinds = tuple(kind for kind in class_vectors for _ in range(settings.noises))
    with left_as_it_was(classifier):
        run = _Search(generator, classifier, image.to(z), settings, Path(checkpoint) if checkpoint else None)
        run.key = _key(generator, classifier, (z, vectors, image), settings)
        found = run.all_rows(z, vectors, progress)
        return _result(generator, classifier, image.to(z), found, vectors, kinds, settings, began - run.spent)


class _Search:
    def __init__(
        self, generator: Generator, classifier: Classifier, image: Tensor, settings: Settings, checkpoint: Path | None
    ) -> None:
        self.generator, self.settings, self.checkpoint = generator, settings, checkpoint
        self.features = Features(classifier, settings.layer, settings.batch)
        with torch.no_grad():
            self.goal = features(classifier, image, settings.layer).flatten(1).float()
        self.key, self.spent, self.began = "", 0.0, time.perf_counter()
        self.done: list[dict[str, Tensor]] = []
        self.best = -1.0

    def all_rows(self, z: Tensor, vectors: Tensor, progress: bool) -> dict[str, Tensor]:
        size, within = self.settings.batch, self._resume()
        parts = list(torch.arange(len(z)).split(size))
        total = len(parts) * self.settings.updates
        with tqdm(total=total, desc="searching", disable=not progress, leave=False) as bar:
            bar.update(len(self.done) * self.settings.updates)
            for part in parts[len(self.done) :]:
                padded = torch.cat([part, part[-1:].expand(size - len(part))])
                found = self._one_batch(z[padded], vectors[padded], within, bar)
                within = None
                self.done.append({name: values[: len(part)].cpu() for name, values in found.items()})
                self._write(None)
        return {name: torch.cat([part[name] for part in self.done]) for name in self.done[0]}

    def _one_batch(self, z: Tensor, vectors: Tensor, within: dict[str, Any] | None, bar: tqdm[Any]) -> dict[str, Tensor]:
        updates, n = self.settings.updates, len(z)
        z = z.clone().requires_grad_()
        optimiser = self.settings.build(z)
        state = {
            "best_z": z.detach().clone(), "cosines": z.new_full((n,), -torch.inf), "curves": z.new_zeros(n, updates + 1),
            "mark": z.new_full((n,), -torch.inf), "marked_at": z.new_zeros(n), "updates": z.new_full((n,), float(updates)),
        }  # fmt: skip
        step = 0
        if within:
            step, state = within["step"], {k: v.to(z) for k, v in within["state"].items()}
            with torch.no_grad():
                z.copy_(within["z"])
            optimiser.load_state_dict(within["optimiser"])
            bar.update(step)
        while True:
            pictures = self.generator(z, vectors, self.settings.truncation)
            cosine = F.cosine_similarity(self.features(pictures).float(), self.goal)
            self._note(state, z.detach(), cosine.detach(), step)
            if step == updates or bool((state["updates"] < updates).all()):
                bar.update(updates - step)
                return {k: state[k] for k in ("best_z", "cosines", "curves", "updates")}
            if not cosine.requires_grad:
                raise CounterfactualError(
                    f"layer {self.features.layer!r} does not depend differentiably on the image (no_grad, detach or quantised "
                    "layers before it); name an earlier one with layer="
                )
            (z.grad,) = torch.autograd.grad(-cosine.sum(), z)
            optimiser.step()
            step += 1
            bar.update()
            if step % _EVERY == 0:
                self.best = max(self.best, float(state["cosines"].max()))
                bar.set_postfix_str(f"best cosine {self.best:.4f}", refresh=False)
                self._write({"step": step, "state": state, "z": z.detach(), "optimiser": optimiser.state_dict()})

    def _note(self, state: dict[str, Tensor], z: Tensor, cosine: Tensor, step: int) -> None:
        """Enter the cosines of this step; rows that have ended keep what they have."""
        going = state["updates"] >= self.settings.updates
        state["curves"][going, step:] = cosine[going, None]
        better = going & (cosine > state["cosines"])
        state["cosines"] = torch.where(better, cosine, state["cosines"])
        state["best_z"] = torch.where(better[:, None], z, state["best_z"])
        gained = state["cosines"] >= state["mark"] + GAIN
        state["mark"] = torch.where(gained, state["cosines"], state["mark"])
        state["marked_at"] = torch.where(gained, float(step), state["marked_at"])
        if self.settings.patience:
            ends = going & (step - state["marked_at"] >= self.settings.patience) & (step < self.settings.updates)
            state["updates"] = torch.where(ends, float(step), state["updates"])

    def _write(self, within: dict[str, Any] | None) -> None:
        if self.checkpoint is None:
            return
        seconds = self.spent + time.perf_counter() - self.began
        self.checkpoint.parent.mkdir(parents=True, exist_ok=True)
        beside = self.checkpoint.with_name(f"{self.checkpoint.name}.{os.getpid()}")
        torch.save({"key": self.key, "done": self.done, "within": within, "seconds": seconds}, beside)
        beside.replace(self.checkpoint)

    def _resume(self) -> dict[str, Any] | None:
        if self.checkpoint is None or not self.checkpoint.exists():
            return None
        try:
            found = torch.load(self.checkpoint, map_location="cpu", weights_only=True)
            key = found["key"]
        except Exception as error:  # a damaged file raises nearly anything
            why = f"{self.checkpoint} cannot be read ({type(error).__name__})"
            raise CounterfactualError(f"checkpoint {why}; remove it to begin anew") from None
        if key != self.key:
            raise CounterfactualError(f"checkpoint {self.checkpoint} belongs to another search; remove it to begin anew")
        self.done, self.spent = found["done"], found["seconds"]
        return cast("dict[str, Any] | None", found["within"])


@torch.no_grad()
def _result(
    generator: Generator, classifier: Classifier, image: Tensor, found: dict[str, Tensor], vectors: Tensor,
    kinds: tuple[str, ...], settings: Settings, began: float,
) -> Inversion:  # fmt: skip
    """Pictures and classes of the best z, made in the same fixed shape as the search."""
    z, size = found["best_z"].to(image), settings.batch
    pictures, probabilities = [], []
    for part in torch.arange(len(z)).split(size):
        padded = torch.cat([part, part[-1:].expand(size - len(part))])
        made = generator(z[padded], vectors[padded], settings.truncation)
        probabilities.append(classifier.probabilities(resized(classifier, made))[: len(part)].cpu())
        pictures.append(made[: len(part)].mul(255).round().to(torch.uint8).cpu())
    true = int(vectors[kinds.index("correct")].argmax()) if "correct" in kinds else -1
    predicted = int(classifier(resized(classifier, image)).argmax())
    return Inversion(
        z.cpu(), found["cosines"], found["curves"], found["updates"].long(), vectors.cpu(), torch.cat(probabilities),
        torch.cat(pictures), kinds, true, predicted, time.perf_counter() - began,
    )  # fmt: skip


def _key(generator: Generator, classifier: Classifier, tensors: Sequence[Tensor], settings: Settings) -> str:
    how = settings, classifier.view.size, classifier.mean.tolist(), classifier.std.tolist()
    digest = hashlib.blake2b(repr(how).encode(), digest_size=16)
    digest.update(contents_of(classifier.core) + contents_of(generator.model))
    for tensor in tensors:
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
