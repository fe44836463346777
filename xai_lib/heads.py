"""A network with a new last layer, and the file that keeps a trained one: safetensors, with what is needed to use it.

The file's metadata holds one JSON object (`About`): which network, preprocessing, class names, and whether all tensors are
in the file or the head's alone, which then sits on the network's own weights.
"""

from __future__ import annotations

import dataclasses
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from xai_lib.weights import WeightsError

Part = Literal["head", "all"]
KEY = "xai_lib"


@dataclass(frozen=True)
class About:
    """What a file of trained weights says of itself. `mean`, `std`, `view`: as in `Classifier`."""

    network: str  #: a name that `classifiers.load` knows
    part: Part
    class_names: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    view: tuple[Any, ...]  #: size, resize, interpolation and, in newer files, squash
    source: str = ""  #: data and settings of the training, in words
    licence: str = "unknown"


def replace(network: nn.Module, classes: int, seed: int = 0) -> str:
    """Put a new dense layer of `classes` units where the last one was; returns its dotted name.

    In SqueezeNet, which ends in a convolution with a ReLU, the new layer stands behind the pooled features. Weights are
    uniform within 1 / sqrt(inputs), from `seed`. Raises `WeightsError` for a network without a dense layer.
    """
    first = next(network.parameters())
    if type(network).__name__ == "SqueezeNet":
        convolution = next(m for m in network.get_submodule("classifier").modules() if isinstance(m, nn.Conv2d))
        name, layer = "classifier.2", nn.Linear(convolution.in_channels, classes)
        network.set_submodule("classifier", nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), layer))
    else:
        dense = [(n, m) for n, m in network.named_modules() if isinstance(m, nn.Linear)]
        if not dense:
            raise WeightsError(f"{type(network).__name__} has no dense layer that could be replaced")
        name, layer = dense[-1][0], nn.Linear(dense[-1][1].in_features, classes)
        network.set_submodule(name, layer)
    bound = float(layer.in_features) ** -0.5
    rng = torch.Generator().manual_seed(seed)
    for parameter in layer.parameters():
        parameter.data.uniform_(-bound, bound, generator=rng)
    layer.to(first)
    return name


def head_of(network: nn.Module) -> str:
    """The dotted name of the last dense layer."""
    names = [n for n, m in network.named_modules() if isinstance(m, nn.Linear)]
    if not names:
        raise WeightsError(f"{type(network).__name__} has no dense layer; give it one with heads.replace")
    return names[-1]


def write(network: nn.Module, about: About, file: str | Path, half: bool = False) -> Path:
    """The network's tensors, or its head's, with `about`; written whole or not at all. `half`: floats in half precision."""
    from safetensors.torch import save_file

    path, prefix = Path(file), head_of(network) + "."
    kept = {k: v for k, v in network.state_dict().items() if about.part == "all" or k.startswith(prefix)}
    state = {k: v.detach().cpu().contiguous() for k, v in kept.items()}
    if half:
        state = {k: v.half() if v.is_floating_point() else v for k, v in state.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        save_file(state, beside, {KEY: json.dumps(dataclasses.asdict(about))})
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)
    return path


def read(file: str | Path) -> tuple[About, dict[str, Tensor]]:
    """What `write` wrote. Raises `WeightsError` for a file that is missing, damaged, or says nothing of itself."""
    from safetensors import safe_open

    path = Path(file)
    if not path.is_file():
        raise WeightsError(f"{path} does not exist; give the path of a file that training.save wrote")
    try:
        with safe_open(path, "pt") as opened:
            metadata, state = opened.metadata() or {}, {k: opened.get_tensor(k) for k in opened.keys()}  # noqa: SIM118
    except Exception as error:  # safetensors raises its own kind, and OSError
        raise WeightsError(f"{path} is damaged or no safetensors file ({error}); train or fetch it anew") from None
    if KEY not in metadata:
        raise WeightsError(
            f"{path} does not say which network it belongs to; if you know, load(NETWORK, weights={str(path)!r}); "
            "training.save writes files that say so"
        )
    try:
        said: dict[str, Any] = json.loads(metadata[KEY])
        fields: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in said.items()}
        about = About(**fields)
    except (TypeError, ValueError) as error:
        raise WeightsError(f"{path}: its description cannot be read ({error}); it may be of a newer version") from None
    return about, state


def fit(network: nn.Module, about: About, state: dict[str, Tensor], file: str | Path) -> None:
    """Replace the head and put the file's tensors into the network; raises `WeightsError` where they do not fit."""
    prefix = replace(network, len(about.class_names)) + "."
    wanted = {k: v for k, v in network.state_dict().items() if about.part == "all" or k.startswith(prefix)}
    wrong = sorted(set(wanted) ^ set(state)) + [k for k in wanted if k in state and wanted[k].shape != state[k].shape]
    if wrong:
        raise WeightsError(
            f"{file} does not fit {about.network} with {len(about.class_names)} classes: {len(wrong)} tensors are missing, "
            f"unknown or of another shape, as {', '.join(wrong[:3])}"
        )
    network.load_state_dict(state, strict=False)
