"""Forward passes for search: the same network, at the precision and memory layout that suit the processor.

Searches spend nearly all their time in forward passes whose values only rank candidates. Those run on a copy of the
network with batch norms folded into the convolutions before them, channels last, and in bfloat16 where the processor
multiplies bfloat16 in hardware. The choice follows from what the processor can do, never from a timing, so that a
search takes the same path every time on the same kind of machine. What a search reports is computed again by the
untouched network in float32; metrics take their probabilities from the float32 copy, which agrees to six digits.
"""

from __future__ import annotations

import copy
from dataclasses import asdict, dataclass
from typing import Any, cast
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from xai_lib.classifiers import Classifier


@dataclass(frozen=True)
class Plan:
    """How candidates are evaluated: `dtype` "float32" or "bfloat16"; every batch is padded to `inner_batch` images."""

    dtype: str
    inner_batch: int
    reason: str

    def declaration(self) -> dict[str, Any]:
        """For the record of a run."""
        return asdict(self) | {"layout": "channels last", "batch norm": "folded into the convolution before it"}


def plan_for(device: torch.device | str) -> Plan:
    """The plan for a device, from its capabilities: bfloat16 needs hardware products (AVX-512 BF16, AMX, CUDA >= 8.0)."""
    kind = torch.device(device).type
    if kind == "cuda":
        fast = torch.cuda.get_device_capability(device)[0] >= 8
        return Plan("bfloat16" if fast else "float32", 64, f"CUDA, bfloat16 tensor cores: {fast}")
    if kind == "mps":
        return Plan("float32", 16, "Apple GPU")
    fast = bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
    return Plan("bfloat16" if fast else "float32", 4, f"processor, bfloat16 products in hardware: {fast}")


FLOAT32 = Plan("float32", 4, "asked for")


class FastNetwork:
    """A copy of a classifier's network for ranking candidates; it takes normalised, channels-last images.

    A row's result does not depend on the rows beside it: every batch has `plan.inner_batch` rows, the last one padded.
    """

    def __init__(self, classifier: Classifier, plan: Plan) -> None:
        self.plan = plan
        self.dtype = getattr(torch, plan.dtype)
        network = folded(classifier).to(self.dtype)
        self.network = network.to(memory_format=torch.channels_last)

    @torch.inference_mode()
    def logits(self, normalised: Tensor) -> Tensor:
        """`(n, 3, H, W)`, n <= inner_batch -> float32 `(n, classes)`."""
        n, missing = len(normalised), self.plan.inner_batch - len(normalised)
        if missing:
            normalised = torch.cat([normalised, normalised[-1:].expand(missing, -1, -1, -1)])
        batch = normalised.to(self.dtype).contiguous(memory_format=torch.channels_last)
        return cast(Tensor, self.network(batch).float()[:n])


_copies: WeakKeyDictionary[Classifier, tuple[tuple[Any, ...], dict[Plan, FastNetwork]]] = WeakKeyDictionary()


def fast_network(classifier: Classifier, plan: Plan | None = None) -> FastNetwork:
    """The copy for this classifier and plan; made once, and anew when a weight of the classifier has changed."""
    plan = plan or plan_for(classifier.device)
    state = tuple((t.data_ptr(), t._version) for t in [*classifier.parameters(), *classifier.buffers()])
    held = _copies.get(classifier)
    if held is None or held[0] != state:
        held = _copies[classifier] = (state, {})
    if plan not in held[1]:
        held[1][plan] = FastNetwork(classifier, plan)
    return held[1][plan]


@torch.no_grad()
def folded(classifier: Classifier) -> nn.Module:
    """A copy whose batch norms are folded into the convolution that feeds them, where one does, in evaluation mode.

    Which convolution feeds which norm is seen in a trial run (registration order lies, as in DenseNet). A copy that
    does not answer as the original does is thrown away for one without folding.
    """
    original = classifier.network
    probe = torch.linspace(-2, 2, 3 * classifier.view.size**2, device=classifier.device)
    probe = probe.view(1, 3, classifier.view.size, -1)
    plain = copy.deepcopy(original).eval().requires_grad_(False)
    wanted = plain(probe)
    folded = copy.deepcopy(plain)
    for conv_name, norm_name in _pairs(folded, probe):
        conv, norm = folded.get_submodule(conv_name), folded.get_submodule(norm_name)
        folded.set_submodule(conv_name, fuse_conv_bn_eval(cast(nn.Conv2d, conv), cast(nn.BatchNorm2d, norm)))
        folded.set_submodule(norm_name, cast(nn.Module, getattr(norm, "act", nn.Identity())))  # timm's norms hold the activation
    same = torch.allclose(folded(probe), wanted, rtol=1e-3, atol=1e-4 * float(wanted.abs().max()))
    return folded if same else plain


def _pairs(network: nn.Module, probe: Tensor) -> list[tuple[str, str]]:
    """(convolution, norm) by name, where the norm's input is the convolution's output and each ran once."""
    made_by: dict[int, str] = {}
    pairs: list[tuple[str, str]] = []
    alive: list[Tensor] = []  # keeps identities unique while the trial runs

    def after(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        name = names[module]
        if isinstance(module, nn.Conv2d):
            made_by[id(output)] = name
            alive.append(output)
        elif id(inputs[0]) in made_by:
            pairs.append((made_by.pop(id(inputs[0])), name))

    names = {m: n for n, m in network.named_modules()}
    hooks = [m.register_forward_hook(after) for m in names if isinstance(m, nn.Conv2d | nn.BatchNorm2d)]
    try:
        network(probe)
    finally:
        for hook in hooks:
            hook.remove()
    convs, norms = [c for c, _ in pairs], [n for _, n in pairs]
    return [(c, n) for c, n in pairs if convs.count(c) == 1 and norms.count(n) == 1]
