"""What is explained: an ImageNet network, or a module of the user's own, with its preprocessing and class names.

`load("efficientnet_lite0")` (or 1, 2) works from the install alone. Other names are those of torchvision's classification
networks, and `timm:NAME` for timm's. Weights are looked for, in this order: the file given as `weights`, the folder
`$XAI_WEIGHTS_HOME`, the library's own cache; they are fetched only when `download=True`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from xai_lib import heads, small_networks
from xai_lib.classifiers import sources
from xai_lib.classifiers.classifier import Classifier, Prediction, Provenance, UnknownNetwork
from xai_lib.classifiers.modes import left_as_it_was
from xai_lib.classifiers.sources import imagenet_classes
from xai_lib.classifiers.trial import ClassifierError
from xai_lib.errors import nearest
from xai_lib.images import View
from xai_lib.weights import EMBEDDED, WeightsError, read_state_dict, weights_home

__all__ = [
    "Classifier", "ClassifierError", "Prediction", "Provenance", "UnknownNetwork", "WeightsError", "architecture", "available",
    "find_device", "imagenet_classes", "left_as_it_was", "load", "names", "read_state_dict", "weights_home",
]  # fmt: skip


def load(
    name: str, *, weights: str | Path | None = None, download: bool = False, device: str | torch.device = "cpu"
) -> Classifier:
    """The network called `name` with its real weights, preprocessing and class names, in evaluation mode.

    `name`: `efficientnet_lite0` (1, 2), `mobilenetv1_075`, any classification network of torchvision, or `timm:NAME`; for
    critters `critters_vgg19`, `critters_resnet` or `critters_mobilenet`, whose weights lie in data/embedded.
    `weights`: a state dict (safetensors, or .pth read without executing code) in place of the network's own.
    The path of a file that `training.save` wrote stands for the trained network, with its own classes. `device`: as in
    `find_device`. Raises `UnknownNetwork` and `WeightsError`.
    """
    if name.endswith(".safetensors"):
        if weights is not None:
            raise WeightsError(f"{name} holds its own weights; give the network's name with weights={str(weights)!r} instead")
        classifier = _load_trained(Path(name), download)
    elif name in small_networks.BUILDERS:
        classifier = _load_small(name, weights, download)
    elif name.startswith("timm:"):
        classifier = sources.load_timm(name, weights, download)
    elif name in sources.RECIPES and (found := sources.from_recipe(name, weights)) is not None:
        classifier = found
    elif name in sources.torchvision_names():
        classifier = sources.load_torchvision(name, weights, download)
    elif name in sources.RECIPES:
        raise sources.missing(name, sources.FILES[name], [f"$XAI_WEIGHTS_HOME = {weights_home() or 'not set'}"], "put it there")
    else:
        raise UnknownNetwork(f"no network is called {name!r}; {nearest(name, names())} (or timm:NAME)")
    return classifier.to(find_device(device))


def names() -> list[str]:
    """The networks that `load` knows by plain name (timm's come on top, as `timm:NAME`)."""
    return sorted({*sources.RECIPES, *small_networks.BUILDERS, *sources.torchvision_names()})


def available(names: Sequence[str]) -> dict[str, str]:
    """For each network name: "" if it can be loaded from this machine, else the reason why not, also of a name that is unknown.

    Each is loaded and let go again: a file that is there may still be damaged or belong to another network.
    """
    reasons = {}
    for name in names:
        try:
            load(name)
            reasons[name] = ""
        except (WeightsError, ClassifierError) as error:
            reasons[name] = str(error)
    return reasons


def find_device(name: str | torch.device = "auto") -> torch.device:
    """`auto` (CUDA, else Apple's GPU, else the processor), or a device by name; `ClassifierError` if it is not there."""
    here = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name == "auto":
        return torch.device(next(kind for kind in ("cuda", "mps", "cpu") if here[kind]))
    kind = str(name).split(":")[0]
    if not here.get(kind):
        usable = ", ".join(k for k, there in here.items() if there)
        raise ClassifierError(f"device {str(name)!r} is not on this machine; use auto or one of: {usable}")
    return torch.device(name)


def architecture(name: str) -> nn.Module:
    """The network of that name with whatever weights it is built with, which mean nothing."""
    if name.startswith("timm:"):
        return sources.timm_network(name.removeprefix("timm:"))
    if name in small_networks.BUILDERS:
        return small_networks.BUILDERS[name]()
    if name in sources.RECIPES:
        return sources.RECIPES[name].build()
    if name in sources.torchvision_names():
        import torchvision

        network: nn.Module = torchvision.models.get_model(name, weights=None)
        return network
    raise UnknownNetwork(f"no network is called {name!r}; {nearest(name, names())} (or timm:NAME)")


def _load_small(name: str, weights: str | Path | None, download: bool) -> Classifier:
    file = Path(weights) if weights is not None else EMBEDDED / f"{name}.safetensors"
    if not file.is_file():
        raise WeightsError(f"{name}: weights file {file} not found; restore it from the repository, or train it: make embedded")
    found = _load_trained(file, download)
    if found.name != name:
        raise WeightsError(f"{file} holds {found.name}, not {name}")
    return found


def _load_trained(file: Path, download: bool) -> Classifier:
    about, state = heads.read(file)
    network = architecture(about.network) if about.part == "all" else load(about.network, download=download).network
    heads.fit(network, about, state, file)
    return Classifier(
        network, name=about.network, mean=about.mean, std=about.std, view=View(*about.view),
        class_names=about.class_names, provenance=Provenance(about.source, about.licence, file),
    )  # fmt: skip
