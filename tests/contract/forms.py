"""Networks that are awkward by how they come: outputs, channels, dtype, wrappers, modes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tests.contract.architectures import of_tutorial, tutorial
from tests.contract.subject import Before, Body, Subject, entry, halves, lively, plain

GREY = {"mean": (0.5,), "std": (0.25,)}


# Channels and sizes -------------------------------------------------------------------------------------------------


@entry("one channel, two classes", "grey images, Classifier(network, mean=(0.5,), std=(0.25,))")
def _grey() -> Subject:
    return plain(*halves(1, 2), channels=1, options=GREY)


@entry("one channel, mean of three", "grey network, but the classifier is made for three channels")
def _grey_as_colour() -> Subject:
    return Subject(Body(*halves(1, 2)), None)


class Grey(Body):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.mean(1, keepdim=True))


@entry("one channel, wrapped by a mean", "colour images are turned grey before the first convolution")
def _wrapped_grey() -> Subject:
    features, head = halves(1, 2)
    before = Before(lambda x: x.mean(1, keepdim=True))
    options = {"mean": (0.5,) * 3, "std": (0.25,) * 3}
    return plain(nn.Sequential(before, *features), head, Grey(features, head), options=options)


class Expanded(Body):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.expand(-1, 3, -1, -1))


@entry("one channel, expanded to three", "grey images are repeated for a network of colour images")
def _expanded() -> Subject:
    features, head = halves(3, 2)
    before = Before(lambda x: x.expand(-1, 3, -1, -1))
    return plain(nn.Sequential(before, *features), head, Expanded(features, head), channels=1, options=GREY)


@entry("five channels", "more channels than colours")
def _five() -> Subject:
    return plain(*halves(5), channels=5, options={"mean": (0.5,) * 5, "std": (0.5,) * 5})


@entry("images that are not square", "48 x 64 pixels")
def _oblong() -> Subject:
    from xai_lib.images import View

    network = Pooled(*halves(size=(48, 64)))
    found = plain(network.features, network.head, network, size=(48, 64), options={"view": View(48, 52)})
    (before, after), = found.splits
    found.splits = (before, after), (nn.Sequential(*before, after[0]), after[1:])  # type: ignore[index, misc]
    return found


class Pooled(Body):
    """Adaptive pooling before the dense layers, so that any size can be taken."""

    def __init__(self, features: nn.Sequential, head: nn.Sequential) -> None:
        super().__init__(features, nn.Sequential(nn.AdaptiveAvgPool2d((6, 4)), nn.Flatten(), nn.Linear(192, 16), *head[2:]))
        lively(self, self.head[-1], (48, 64))


@entry("view left at 224 pixels", "takes images of 48 pixels alone, and nobody says so")
def _no_view() -> Subject:
    network = tutorial()
    from xai_lib.images import View

    return of_tutorial(network, network, options={"view": View()})


# What the output is and means ---------------------------------------------------------------------------------------


class AsDict(Body):
    def forward(self, x: Tensor) -> dict[str, Tensor]:
        maps = self.features(x)
        return {"logits": self.head(maps), "features": maps}


@entry("returns a dict", "no output= says where the logits are")
def _dict() -> Subject:
    return Subject(AsDict(*halves()), None)


@entry("returns a dict, output= given", 'output=lambda o: o["logits"]')
def _dict_given() -> Subject:
    features, head = halves()
    return plain(features, head, AsDict(features, head), options={"output": lambda o: o["logits"]})


class AsTuple(Body):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        maps = self.features(x)
        return maps, self.head(maps)


@entry("returns a tuple, output= given", "output=lambda o: o[1]")
def _tuple_given() -> Subject:
    features, head = halves()
    return plain(features, head, AsTuple(features, head), options={"output": lambda o: o[1]})


@dataclass
class Output:
    logits: Tensor
    hidden: Tensor


class AsData(Body):
    def forward(self, x: Tensor) -> Output:
        maps = self.features(x)
        return Output(self.head(maps), maps)


@entry("returns a dataclass, output= given", "output=lambda o: o.logits, as in transformers")
def _data_given() -> Subject:
    features, head = halves()
    return plain(features, head, AsData(features, head), options={"output": lambda o: o.logits})


@entry("one logit", "a single column, whose softmax is always 1")
def _one_logit() -> Subject:
    return Subject(Body(*halves(classes=1)), None)


@entry("one logit, output=sigmoid", "a single column, declared")
def _one_sigmoid() -> Subject:
    return plain(*halves(classes=1), link="sigmoid", options={"output": "sigmoid"})


@entry("logits of several labels, output=sigmoid", "independent labels")
def _labels() -> Subject:
    return plain(*halves(), link="sigmoid", options={"output": "sigmoid"})


@entry("sigmoids of several labels, output=sigmoid", "independent labels, the network ends in a sigmoid")
def _sigmoids() -> Subject:
    features, head = halves()
    network = Body(features, nn.Sequential(*head, nn.Sigmoid()))
    return plain(features, head, network, link="sigmoid", options={"output": "sigmoid"})


@entry("probabilities", "the network ends in a softmax, and nobody says so")
def _probabilities() -> Subject:
    features, head = halves()
    return Subject(Body(features, nn.Sequential(*head, nn.Softmax(1))), None)


@entry("probabilities, output= given", "the network ends in a softmax")
def _probabilities_given() -> Subject:
    features, head = halves()
    network = Body(features, nn.Sequential(*head, nn.Softmax(1)))
    found = plain(features, head, network, chained=False, options={"output": "probabilities"})
    (one, two), = found.splits
    two = nn.Sequential(two, nn.LogSoftmax(1))
    found.twin, found.splits = Body(one, two), ((one, two),)  # type: ignore[arg-type]
    return found


@entry("class_names of another length", "three names for four logits")
def _names() -> Subject:
    return Subject(Body(*halves()), None, options={"class_names": ["a", "b", "c"]})


@entry("NaN", "a weight is NaN")
def _nan() -> Subject:
    network = Body(*halves())
    network.head[-1].weight.data[0, 0] = torch.nan
    return Subject(network, None)


@entry("scores (N, classes, 1, 1)", "a fully convolutional network, output=lambda o: o.flatten(1)")
def _convolutional() -> Subject:
    features, _ = halves()
    dense = nn.Conv2d(8, 4, 12)
    dense.weight.data, dense.bias.data = dense.weight.data * 3, torch.zeros(4)  # type: ignore[union-attr]
    network = nn.Sequential(*features, dense)
    return plain(features, nn.Sequential(dense, nn.Flatten()), network, options={"output": lambda o: o.flatten(1)})


# Precision ----------------------------------------------------------------------------------------------------------


def _in(dtype: torch.dtype, tolerance: float) -> Subject:
    network = Body(*halves()).to(dtype)
    found = plain(network.features, network.head, network)
    found.tolerance = tolerance
    return found


@entry("half", "float16 weights")
def _half() -> Subject:
    return _in(torch.float16, 0.04)


@entry("bfloat16", "bfloat16 weights")
def _bfloat16() -> Subject:
    return _in(torch.bfloat16, 0.15)


@entry("double", "float64 weights")
def _double() -> Subject:
    return _in(torch.float64, 2e-3)


class Autocast(Body):
    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return super().forward(x)


@entry("autocast inside", "float32 weights, computed in bfloat16 by torch.autocast in forward")
def _autocast() -> Subject:
    features, head = halves()
    return plain(features, head, Autocast(features, head), tolerance=0.15)


@entry("dynamically quantised", "torch.ao.quantization.quantize_dynamic of the dense layers")
def _quantised() -> Subject:
    import warnings

    features, head = halves()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        network = torch.ao.quantization.quantize_dynamic(Body(features, head).eval(), {nn.Linear}, torch.qint8)

    def alone(x: Tensor, part: nn.Module) -> Tensor:  # what a quantised layer gives cannot be had in float64
        with torch.no_grad():
            return torch.cat([part(row[None].float()) for row in x]).double()

    class Twin(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return alone(x, network)

    parts = (lambda x: alone(x, network.features)), (lambda a: alone(a, network.head))
    return Subject(network, Twin(), (parts,), tolerance=1e-2)


# Wrappers and modes -------------------------------------------------------------------------------------------------


class Lightning(Body):
    """The shape of a LightningModule: properties, logging, steps; after lightning's documentation, without the package."""

    def __init__(self, features: nn.Sequential, head: nn.Sequential) -> None:
        super().__init__(features, head)
        self._trainer: Any = None
        self.loss = nn.CrossEntropyLoss()

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    @property
    def trainer(self) -> Any:
        raise RuntimeError("Lightning is not attached to a `Trainer`.")

    def log(self, name: str, value: Tensor) -> None:
        self.trainer.log(name, value)

    def training_step(self, batch: tuple[Tensor, Tensor], _index: int) -> Tensor:
        loss: Tensor = self.loss(self(batch[0]), batch[1])
        self.log("loss", loss)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters())


@entry("Lightning module", "properties that raise outside of training")
def _lightning() -> Subject:
    features, head = halves()
    return plain(features, head, Lightning(features, head))


@entry("DataParallel", "every module's name begins with module.")
def _parallel() -> Subject:
    features, head = halves()
    return plain(features, head, nn.DataParallel(Body(features, head)))


@entry("torch.jit.script", "a scripted network")
def _scripted() -> Subject:
    features, head = halves()
    return plain(features, head, torch.jit.script(nn.Sequential(*features, *head).eval()))


@entry("torch.jit.trace", "a traced network")
def _traced() -> Subject:
    features, head = halves()
    network = nn.Sequential(*features, *head).eval()
    return plain(features, head, torch.jit.trace(network, torch.rand(1, 3, 48, 48)))


@entry("torch.compile", "a compiled network, backend eager")
def _compiled() -> Subject:
    features, head = halves()
    return plain(features, head, torch.compile(Body(features, head), backend="eager"))


@entry("made in inference_mode", "its parameters are inference tensors")
def _made_in_inference() -> Subject:
    with torch.inference_mode():
        network = Body(*halves())
    return plain(*halves(), network)


@entry("explained in inference_mode", "explain is called under torch.inference_mode()")
def _in_inference() -> Subject:
    return plain(*halves(), around=torch.inference_mode)


@entry("explained in no_grad", "explain is called under torch.no_grad()")
def _in_no_grad() -> Subject:
    return plain(*halves(), around=torch.no_grad)


@entry("training mode", "the network is handed over, and stays, in training mode")
def _training() -> Subject:
    features, head = halves()
    network = Body(features, nn.Sequential(*head[:3], nn.Dropout(0.5), head[3]))
    return plain(features, head, network, change=lambda: network.train())
