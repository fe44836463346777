"""Weights on disk: state dicts that are read without executing anything in them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from xai_lib.errors import XaiError

EMBEDDED = Path(__file__).resolve().parents[1] / "data" / "embedded"
"""Small weights that this project trained itself, each with its model card."""


class WeightsError(XaiError):
    """Weights that are missing, damaged, unsafe to read, or made for another network.

    `missing`: the name of the file that `$XAI_WEIGHTS_HOME` lacks; empty where that is not the fault.
    """

    def __init__(self, message: str, missing: str = "") -> None:
        super().__init__(message)
        self.missing = missing


def weights_home() -> Path | None:
    """The folder `$XAI_WEIGHTS_HOME`, or None."""
    return Path(os.environ["XAI_WEIGHTS_HOME"]) if os.environ.get("XAI_WEIGHTS_HOME") else None


def fill(network: nn.Module, file: Path, name: str, by_position: bool = False) -> None:
    """Put the tensors of `file` into `network`; `by_position` where the file's names differ but its order does not.

    Raises `WeightsError` that names what is missing, unknown, or of another shape.
    """
    state = read_state_dict(file)
    wanted = network.state_dict()
    if by_position:
        if len(state) != len(wanted):
            missing, extra = [*wanted][len(state) :], [*state][len(wanted) :]
            raise WeightsError(
                f"{file} does not fit {name}: expected {len(wanted)} tensors in the network's order, found {len(state)}; "
                + (f"missing from {missing[0]} on" if missing else f"unknown from {extra[0]} on")
            )
        state = dict(zip(wanted, state.values(), strict=True))
    missing, extra = sorted(set(wanted) - set(state)), sorted(set(state) - set(wanted))
    shapes = [k for k in wanted if k in state and wanted[k].shape != state[k].shape]
    if missing or extra or shapes:
        raise WeightsError(
            f"{file} does not fit {name}: {len(missing)} tensors missing {missing[:3]}, {len(extra)} unknown {extra[:3]}, "
            f"{len(shapes)} of another shape {[(k, tuple(state[k].shape), tuple(wanted[k].shape)) for k in shapes[:3]]}"
        )
    network.load_state_dict(state)


def read_state_dict(file: str | Path) -> Mapping[str, Tensor]:
    """Tensors by name from a .safetensors file, or from a .pth file without executing anything in it.

    Raises `WeightsError` for a file that is absent, damaged, or holds more than tensors.
    """
    file = Path(file)
    if not file.is_file():
        raise WeightsError(f"weights file {file} does not exist; give the path of a .safetensors or .pth state dict")
    try:
        if file.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(file)
        state = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # both readers raise many kinds for a damaged or unsafe file
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise WeightsError(
            f"{file} is no state dict that can be read safely ({reason}); fetch it anew, or save it with "
            "torch.save(network.state_dict(), file) or as safetensors"
        ) from None
    if not isinstance(state, Mapping) or not all(isinstance(v, Tensor) for v in state.values()):
        raise WeightsError(f"{file} holds a {type(state).__name__}, expected a state dict (tensor by name)")
    return state
