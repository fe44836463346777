"""A trial run at the door: what is wrong with a network is said in words before any method sees it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from xai_lib.classifiers.modes import left_as_it_was
from xai_lib.classifiers.outputs import last_step, look_like_probabilities
from xai_lib.errors import XaiError

if TYPE_CHECKING:
    from xai_lib.classifiers.classifier import Classifier


class ClassifierError(XaiError):
    """A network that cannot be used as asked: output of the wrong kind, unknown layer or device."""


def probes(n: int, channels: int, size: tuple[int, int], seed: int = 0) -> Tensor:
    """Smooth random images `(n, channels, H, W)` in 0..1, the same ones every time."""
    rng = torch.Generator().manual_seed(seed)
    rough = torch.rand(n, channels, 6, 6, generator=rng)
    fine = torch.rand(n, channels, *size, generator=rng)
    smooth = interpolate(rough, size=size, mode="bilinear", align_corners=False)
    return 0.8 * smooth + 0.2 * fine


def logits_of_trial(classifier: Classifier, size: tuple[int, int]) -> Tensor:
    """The logits `(3, classes)` of three random images of `size` (H, W).

    Raises
    ------
    ClassifierError
        Says what the network does that no explanation can be trusted with, and the way out.
    """
    images = probes(3, classifier.channels, size).to(classifier.device)
    with left_as_it_was(classifier):
        with words_for(classifier, size):
            alone = _graph(classifier, images[:1])
        _check_columns(classifier, alone)
        with torch.no_grad(), words_for(classifier, size):
            again = classifier.core(classifier.normalise(images[:1]))
            together = classifier.core(classifier.normalise(images))
    _check_rows(classifier, alone.detach(), again, together)
    _check_meaning(classifier, alone, together)
    return together


def _graph(classifier: Classifier, images: Tensor) -> Tensor:
    """Logits with their graph, where the network has one."""
    with torch.inference_mode(False), torch.enable_grad():
        inputs = classifier.normalise(images).requires_grad_()
        try:
            logits: Tensor = classifier.core(inputs)
        except RuntimeError as error:
            if "nference tensor" not in str(error):
                raise
            with torch.no_grad():  # a network made under inference_mode: answers, but no gradients
                logits = classifier.core(inputs.detach())
    return logits


def _check_columns(classifier: Classifier, logits: object) -> None:
    name = classifier.name
    if not isinstance(logits, Tensor) or logits.ndim != 2 or len(logits) != 1:
        found = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        keys = f" with {', '.join(map(repr, logits))}" if isinstance(logits, dict) else ""
        example = 'o["logits"]' if isinstance(logits, dict) else "o[0]"
        raise ClassifierError(
            f"{name}: expected logits (N, classes), found {found}{keys} for one image; say where they are with "
            f"Classifier(..., output=lambda o: {example}), or wrap the network in a module that returns them"
        )
    if not logits.is_floating_point():
        raise ClassifierError(f"{name}: expected logits as floats, found {logits.dtype}; return scores, not decisions")
    if not logits.shape[1]:
        raise ClassifierError(f"{name}: expected logits (N, classes), found {tuple(logits.shape)}: no class at all")
    if logits.shape[1] == 1 and not classifier.independent:
        columns = "; or make two columns of the logit: output=lambda o: torch.cat([-o, o], 1) / 2"
        raise ClassifierError(
            f"{name}: found one output column; the softmax of one column is always 1, so there is nothing to explain. "
            'For a network with one yes-or-no output say Classifier(..., output="sigmoid")'
            + ("" if last_step(logits) == "sigmoid" else columns)
        )


def _check_rows(classifier: Classifier, alone: Tensor, again: Tensor, together: Tensor) -> None:
    name = classifier.name
    if torch.isnan(together).any() or torch.isnan(alone).any():
        raise ClassifierError(
            f"{name}: gives NaN for ordinary images in 0..1; look for a division by zero, a logarithm of 0, weights that are "
            "NaN, or numbers beyond the range of its format (half precision ends at 65504)"
        )
    if together.shape != (3, alone.shape[1]):
        raise ClassifierError(
            f"{name}: expected one row for each of three images, found {tuple(together.shape)}; let forward keep the batch axis"
        )
    classes = len(classifier.given_names) if classifier.given_names is not None else alone.shape[1]
    if classes != alone.shape[1]:
        raise ClassifierError(f"{name}: class_names has {classes} names, the network {alone.shape[1]} outputs; give one for each")
    slack = _slack(alone, together)
    if float((again - alone).abs().max()) > slack:
        raise ClassifierError(
            f"{name}: gives other logits for the same image in every run; an explanation would change with them. Something "
            "random is left on: F.dropout(x) needs training=self.training, noise layers a switch"
        )
    if float((together[:1] - alone).abs().max()) > (50 * slack if _quantised(classifier) else slack):
        raise ClassifierError(
            f"{name}: an image's logits depend on the other images of its batch, as with a batch norm without running statistics "
            "(track_running_stats=False); give it statistics, or replace it by a group norm or instance norm"
        )


def _quantised(classifier: Classifier) -> bool:
    """Whether it has layers of torch's quantisation, whose steps may follow the largest value of the batch."""
    return any(".quantized" in type(m).__module__ for m in classifier.network.modules())


def _slack(*logits: Tensor) -> float:
    """By how much two answers for one image may differ: rounding."""
    size = max(float(z.detach().abs().max()) for z in logits)
    return (0.05 if logits[0].dtype in (torch.float16, torch.bfloat16) else 2e-3) * max(size, 1e-6)


def _check_meaning(classifier: Classifier, alone: Tensor, together: Tensor) -> None:
    """Refuses what looks like probabilities where logits are meant, and the other way round."""
    if classifier.declared is None:
        step = last_step(alone)
        if step == "softmax" or (not step and look_like_probabilities(torch.cat([alone, together]))):
            raise ClassifierError(
                f"{classifier.name}: its outputs are probabilities (in 0..1, rows sum to 1); a second softmax would falsify "
                'them. Take off the last softmax, or say Classifier(..., output="probabilities"); output="logits" takes them as '
                "logits"
            )
        if step == "sigmoid":
            raise ClassifierError(
                f"{classifier.name}: its outputs come from a sigmoid, so labels do not exclude each other; say "
                'Classifier(..., output="sigmoid")'
            )
    elif classifier.declared == "probabilities":
        answer = together.double().exp()
        if not look_like_probabilities(answer):
            sums = ", ".join(f"{s:.3g}" for s in answer.sum(1).tolist())
            raise ClassifierError(
                f'{classifier.name}: output="probabilities" expects values in 0..1 whose rows sum to 1, found sums {sums}; '
                'for independent labels say output="sigmoid", for logits output="logits"'
            )


@contextmanager
def words_for(classifier: Classifier, size: tuple[int, int]) -> Iterator[None]:
    """Torch's errors about sizes, channels and number formats, in words; other errors as they come."""
    try:
        yield
    except (RuntimeError, AssertionError, ValueError) as error:
        if isinstance(error, XaiError) or not (message := _worded(classifier, size, str(error))):
            raise
        raise ClassifierError(message) from error


def _worded(classifier: Classifier, size: tuple[int, int], text: str) -> str:
    name, first = classifier.name, text.strip().split("\n")[0][:200]
    for pattern, message in _MESSAGES:
        if re.search(pattern, text, re.IGNORECASE):
            return f"{name}: " + message.format(
                channels=classifier.channels, height=size[0], width=size[1], dtype=classifier.dtype, view=classifier.view.size
            ) + f" (torch says: {first})"  # fmt: skip
    return ""


_MESSAGES = (
    (
        r"to have \d+ channels?, but got|number of channels|expected \d+ channels|mean.* must match|dimension 1 .*channels",
        "cannot take images of {channels} channel(s); give mean= and std= one value for each channel that the network takes, "
        "as in Classifier(network, mean=(0.5,), std=(0.25,)) for one",
    ),
    (
        r"(input type|bias type|same dtype|expected scalar type|mixed dtype|type promotion|found dtype|must have same dtype"
        r"|to have the same dtype|not implemented for '(Half|BFloat16)')",
        "mixes number formats: its first weights are {dtype}, and something in it is of another format, or has no kernel for "
        "this one; convert all of it, network.float() for instance",
    ),
    (
        r"same device|on device|device type",
        "lies on several devices; move all of it, classifier.to(device)",
    ),
    (
        r"mat1 and mat2|size mismatch|is invalid for input of size|kernel size can't be greater|output size is too small"
        r"|doesn't match model|wrong image (height|width)|must match the size of tensor|sizes of tensors must match"
        r"|more than 1 (value|spatial)|input size|not divisible|divisible by|shape mismatch|calculated (padded )?input"
        r"|must be divisible|cannot be multiplied|inconsistent tensor size|should be (greater|larger)|too small",
        "cannot take images of {height} x {width}; say for which size it is made with view=View(size, resize), and give images "
        "of that size (its view is {view})",
    ),
)
