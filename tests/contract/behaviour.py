"""Networks that are awkward by what they do: to their input, to gradients, to themselves, between two explanations."""

from __future__ import annotations

import copy
import threading

import torch
import torch.utils.checkpoint
from torch import Tensor, nn
from torch.nn.functional import relu

from tests.contract.subject import Before, Body, Subject, entry, halves, lively, plain, seeded


class Streams(nn.Module):
    """Two streams, one of them without gradients."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(3, 4, 3, 2, 1), nn.Conv2d(3, 4, 3, 2, 1)
        self.last, self.act = nn.Conv2d(8, 8, 3, 2, 1), nn.ReLU()
        self.head = nn.Sequential(nn.Flatten(), nn.Linear(8 * 144, 4))
        self.frozen = True

    def features(self, x: Tensor) -> Tensor:
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            two = relu(self.two(x))
        return self.act(self.last(torch.cat([relu(self.one(x)), two], 1)))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x))


@entry("branch in no_grad", "one of two streams runs in torch.no_grad, so that no gradient passes through it")
def _no_grad_branch() -> Subject:
    with seeded():
        network = Streams()
    lively(network, network.head[1], (48, 48))
    twin = copy.deepcopy(network).double().eval()
    twin.frozen = False
    return Subject(network, twin, ((twin.features, twin.head),))


class Scaled(Body):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x * 4)


@entry("scaled input", "forward multiplies the input by 4 before the first convolution")
def _scaled() -> Subject:
    features, head = halves()
    network = Scaled(features, head)
    lively(network, head[-1], (48, 48))
    return plain(nn.Sequential(Before(lambda x: 4 * x), *features), head, network)


class Normalising(Body):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward((x - 0.5) / 0.25)


@entry("normalises inside", "forward subtracts a mean and divides, and the classifier does not")
def _normalises() -> Subject:
    features, head = halves()
    network, before = Normalising(features, head), Before(lambda x: (x - 0.5) / 0.25)
    options = {"mean": (0.0,) * 3, "std": (1.0,) * 3}
    return plain(nn.Sequential(before, *features), head, network, chained=False, options=options)


class Flipping(Body):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.flip(-1))


@entry("flips its input", "feature maps are mirror images of the image")
def _flips() -> Subject:
    features, head = halves()
    found = plain(features, head, Flipping(features, head), chained=False)
    (one, two), = found.splits
    found.twin = Flipping(one, two).double()
    found.splits = ((lambda x: one(x.flip(-1)).flip(-1), lambda a: two(a.flip(-1))),)
    return found


@entry("frozen parameters", "no parameter asks for a gradient")
def _frozen() -> Subject:
    features, head = halves()
    network = Body(features, head).requires_grad_(False)
    return plain(features, head, network)


class Decoder(Body):
    """A reconstruction is made in passing and thrown away."""

    def __init__(self, features: nn.Sequential, head: nn.Sequential) -> None:
        super().__init__(features, head)
        self.decoder = nn.Sequential(nn.Upsample(scale_factor=2), nn.Conv2d(8, 3, 3, padding=1), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        maps = self.features(x)
        logits = self.head(maps)
        self.reconstruction = self.decoder(maps).detach()
        return logits


@entry("auxiliary decoder", "the last maps of the forward pass do not reach the logits")
def _decoder() -> Subject:
    features, head = halves()
    return plain(features, head, Decoder(features, head))


class Keeping(Body):
    def forward(self, x: Tensor) -> Tensor:
        self.x = self.features(x)  # not a leaf, which copy.deepcopy refuses
        return self.head(self.x)


@entry("keeps self.x", "a non-leaf tensor among its attributes, which copy.deepcopy refuses")
def _keeping() -> Subject:
    features, head = halves()
    return plain(features, head, Keeping(features, head))


class Locked(Body):
    def __init__(self, features: nn.Sequential, head: nn.Sequential) -> None:
        super().__init__(features, head)
        self.lock = threading.Lock()

    def forward(self, x: Tensor) -> Tensor:
        with self.lock:
            return super().forward(x)


@entry("holds a lock", "an attribute that copy.deepcopy refuses")
def _locked() -> Subject:
    features, head = halves()
    return plain(features, head, Locked(features, head))


@entry("weights written through .data", "a first explanation, then the last layer is turned round through .data")
def _changed() -> Subject:
    features, head = halves()
    found = plain(features, turned(head), Body(features, head))

    def change() -> None:
        head[-1].weight.data.neg_()
        head[-1].bias.data.neg_()

    found.change = change
    return found


def turned(head: nn.Sequential) -> nn.Sequential:
    """The same head with all logits negated."""
    other = copy.deepcopy(head)
    other[-1].weight.data.neg_()
    other[-1].bias.data.neg_()
    return other


class TwoHeads(Body):
    def __init__(self, features: nn.Sequential, head: nn.Sequential) -> None:
        super().__init__(features, head)
        self.other = turned(head)
        self.use_other = False

    def forward(self, x: Tensor) -> Tensor:
        return (self.other if self.use_other else self.head)(self.features(x))


@entry("attribute changed", "a first explanation, then a plain Python attribute chooses another head")
def _attribute() -> Subject:
    features, head = halves()
    network = TwoHeads(features, head)
    return plain(features, turned(head), network, change=lambda: setattr(network, "use_other", True))


@entry("module replaced", "a first explanation, then another head is put in place of the first")
def _replaced() -> Subject:
    features, head = halves()
    network = Body(features, head)
    return plain(features, turned(head), network, change=lambda: setattr(network, "head", turned(head)))


class Dropping(Body):
    def forward(self, x: Tensor) -> Tensor:
        return self.head(nn.functional.dropout(self.features(x)))


@entry("dropout left on", "F.dropout(x) without training=: another answer in each run")
def _dropout() -> Subject:
    return Subject(Dropping(*halves()), None)


@entry("dropout in evaluation mode", "nn.Dropout, which does nothing here")
def _quiet_dropout() -> Subject:
    features, head = halves()
    network = Body(features, nn.Sequential(*head[:3], nn.Dropout(0.5), head[3]))
    return plain(features, head, network)


@entry("margin of 40", "the logits differ by 40 and more, where a probability in float32 is 1 and has no gradient")
def _margin() -> Subject:
    features, head = halves(gain=60.0)
    return plain(features, head)


class Checkpointed(Body):
    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.utils.checkpoint.checkpoint(self.features, x, use_reentrant=False))


@entry("torch.utils.checkpoint", "the forward pass of a block is repeated in the backward pass")
def _checkpointed() -> Subject:
    features, head = halves()
    return plain(features, head, Checkpointed(features, head))


@entry("a hook of the user's", "a forward hook on a layer changes its output")
def _hooked() -> Subject:
    features, head = halves()
    network = Body(features, head)
    network.features[3].register_forward_hook(lambda _module, _inputs, output: 2 * output)
    lively(network, head[-1], (48, 48))
    doubled = copy.deepcopy(features)
    doubled[3] = nn.Conv2d(6, 8, 3, 1, 1)
    doubled[3].weight.data, doubled[3].bias.data = 2 * features[3].weight.data, 2 * features[3].bias.data
    return plain(doubled, head, network)
