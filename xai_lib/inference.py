"""Forward passes for search: the same network, at the precision and memory layout that suit the processor.

Searches spend nearly all their time in forward passes whose values only rank candidates. Those run on a copy of the
network with batch norms folded into the convolutions before them, channels last, and in bfloat16 where the processor
multiplies bfloat16 in hardware. The choice follows from what the processor can do and from what the network bears, never
from a timing, so that a search takes the same path every time on the same kind of machine. What a search reports is
computed again by the untouched network; metrics take their probabilities from the copy in the network's own format,
which agrees to six digits.

A network is foreign code: it may not bear another layout, a copy, or a missing norm. So each way of running it has to
answer as the network itself does, on random images of the shape, layout and device that it will meet; one that fails is
passed over for the next, and the last is the network as it is. A copy is kept as long as the network is bit for bit what
was copied, and is compared with it again on the first image of every explanation.
"""

from __future__ import annotations

import copy
import itertools
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from xai_lib.classifiers import Classifier, ClassifierError, left_as_it_was
from xai_lib.classifiers.fingerprint import state_of


@dataclass(frozen=True)
class Plan:
    """How candidates are evaluated: `dtype` "float32" or "bfloat16"; every batch is padded to `inner_batch` images."""

    dtype: str
    inner_batch: int
    reason: str

    def declaration(self) -> dict[str, Any]:
        """For the record of a run: what is meant; what a network bears of it is in `FastNetwork.declaration`."""
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
LAYOUTS = {torch.channels_last: "channels last", torch.contiguous_format: "channels first"}
Answer = Callable[[nn.Module, Tensor], Tensor]


class Route(NamedTuple):
    """One way to run a network: itself, or a copy; `folded` counts the norms that are folded into convolutions.

    `alone`: one image at a time, as rows of a batch feel each other (dynamic quantisation takes its scale from all of them).
    """

    network: nn.Module
    dtype: torch.dtype
    layout: torch.memory_format
    folded: int = 0
    alone: bool = False

    def laid(self, batch: Tensor) -> Tensor:
        """A batch `(N, C, H, W)` as this way takes it."""
        return laid(batch.to(self.dtype), self.layout)


def laid(batch: Tensor, layout: torch.memory_format) -> Tensor:
    """A batch `(N, C, H, W)` in a memory layout, also where one channel or one pixel leaves open which one it is in.

    `contiguous` leaves such a batch alone, and a convolution may go by its strides and answer channels last.
    """
    batch = batch.contiguous(memory_format=layout)
    if layout == torch.contiguous_format and batch.stride() != torch.empty(batch.shape, device="meta").stride():
        return batch.clone(memory_format=layout)
    return batch


class FastNetwork:
    """A classifier's network for ranking candidates; takes normalised images `(n, C, H, W)`.

    A row's result does not depend on the rows beside it: every batch has `plan.inner_batch` rows, the last one padded.
    """

    def __init__(self, classifier: Classifier, plan: Plan, route: Route) -> None:
        self.plan, self.route, self.dtype, self.network = plan, route, route.dtype, route.network
        self._classifier = classifier

    def logits(self, normalised: Tensor) -> Tensor:
        """Logits `(n, classes)` of normalised images `(n, C, H, W)`, n <= inner_batch.

        Returns
        -------
        Tensor
            float32, or float64 for a double network.

        Raises
        ------
        ClassifierError
            For NaN.
        """
        n, missing = len(normalised), self.plan.inner_batch - len(normalised)
        if missing and not self.route.alone:
            normalised = torch.cat([normalised, normalised[-1:].expand(missing, -1, -1, -1)])
        batch = self.route.laid(normalised)
        if self.network is self._classifier.core:
            found = torch.cat([_own(self.network, part) for part in batch.split(1 if self.route.alone else len(batch))])
        else:
            with torch.inference_mode():
                found = self.network(batch)
        found = _wide(found)[:n]
        if bool(found.isnan().any()):
            raise ClassifierError(
                f"{self._classifier.name}: gives NaN for an image in which parts are removed; nothing can be ranked by it. "
                'Look for a division by a norm or a standard deviation, which is 0 in flat regions, or take fill="mean"'
            )
        return found

    def declaration(self) -> dict[str, Any]:
        """For the record of a run: the plan, and how far the network bears it."""
        if self.network is self._classifier.core:
            norms = "as it is: no copy of the network answers as it does"
        else:
            norms = f"{self.route.folded} folded into the convolution before it" if self.route.folded else "none folded"
        dtype = str(self.dtype).removeprefix("torch.")
        return asdict(self.plan) | {"dtype": dtype, "layout": LAYOUTS[self.route.layout], "batch norm": norms}


_kept: WeakKeyDictionary[Classifier, tuple[bytes, dict[Plan, Route]]] = WeakKeyDictionary()


def fast_network(classifier: Classifier, plan: Plan | None = None, images: Tensor | None = None) -> FastNetwork:
    """The fastest right way to run a classifier's network under a plan.

    Parameters
    ----------
    classifier
        Its copy is made once, and again when anything in the network has changed.
    plan
        What suits the device by default. Networks in another format than float32 keep their own.
    images
        Normalised images `(n, C, H, W)` of the explanation to come. The copy is compared with the network on the first;
        without them only on random images of the classifier's view.
    """
    plan = plan or plan_for(classifier.device)
    core, state = classifier.core, state_of(classifier.core)
    if classifier not in _kept or _kept[classifier][0] != state:
        _kept[classifier] = (state, {})
    routes = _kept[classifier][1]
    first = images[:1].detach() if images is not None else None
    with torch.inference_mode(False), torch.no_grad():
        route = routes.get(plan)
        if route is None or (first is not None and not _agrees(route, first, _own(core, first))):
            size = images.shape[2:] if images is not None else (classifier.view.size,) * 2
            probe = probes(plan.inner_batch, classifier, size)
            checks = [probe] if first is None else [probe, first]
            route = routes[plan] = first_right(core, checks, _formats(classifier, plan))
    return FastNetwork(classifier, plan, route)


def _formats(classifier: Classifier, plan: Plan) -> list[torch.dtype]:
    own = classifier.dtype
    wanted = getattr(torch, plan.dtype) if own == torch.float32 else own
    return list(dict.fromkeys([wanted, own]))


def probes(n: int, classifier: Classifier, size: Sequence[int]) -> Tensor:
    """Normalised images `(n, C, H, W)` of coarse and fine noise, the same ones every time."""
    generator = torch.Generator().manual_seed(0)
    coarse, fine = (torch.rand(n, classifier.channels, *s, generator=generator) for s in ((6, 6), size))
    smooth = nn.functional.interpolate(coarse, size=tuple(size), mode="bilinear", align_corners=False)
    return classifier.normalise((0.8 * smooth + 0.2 * fine).to(classifier.device))


def first_right(
    network: nn.Module, checks: Sequence[Tensor], formats: Sequence[torch.dtype], answer: Answer | None = None
) -> Route:
    """The fastest way to run a network that answers as the network itself does.

    Parameters
    ----------
    network
        The original; its weights, hooks and modes are left alone.
    checks
        Batches `(N, C, H, W)` in the network's format on which answers are compared.
    formats
        Number formats to try, best first.
    answer
        What is asked of a network and a batch; its output by default.
    """
    ask = answer or (lambda module, batch: module(batch))
    wanted = [torch.cat([_own(network, image, ask) for image in batch.split(1)]) for batch in checks]
    itself = Route(network, checks[0].dtype, torch.contiguous_format)
    for route in itertools.chain(_routes(network, checks[0], formats), [itself]):
        if all(_agrees(route, batch, found, ask) for batch, found in zip(checks, wanted, strict=True)):
            return route
    return itself._replace(alone=True)


def _own(network: nn.Module, batch: Tensor, ask: Answer = lambda module, batch: module(batch)) -> Tensor:
    """The answer of the untouched network; inference mode would leave its mark on tensors that it keeps."""
    with left_as_it_was(network), torch.inference_mode(False), torch.no_grad():
        return ask(network, laid(batch.clone() if batch.is_inference() else batch, torch.contiguous_format)).detach()


SLACK = {torch.float64: 1e-6, torch.float32: 1e-3, torch.float16: 0.03, torch.bfloat16: 0.15}
"""By how much answers may differ in a number format, relative to the spread of the answers of an image."""


def _agrees(route: Route, batch: Tensor, wanted: Tensor, ask: Answer = lambda module, batch: module(batch)) -> bool:
    """Whether a way of running the network gives `wanted`; any exception of foreign code says no."""
    try:
        found, target = _wide(ask(route.network, route.laid(batch))), _wide(wanted)
    except Exception:
        return False
    if found.shape != target.shape or not len(target):
        return False
    found, target = found.flatten(1), target.flatten(1)
    centred = target - target.mean(1, keepdim=True) if target.shape[1] > 1 else target
    scale = torch.maximum(centred.abs().amax(1), 1e-4 * target.abs().amax(1))
    return bool(((found - target).abs().amax(1) <= SLACK.get(route.dtype, 1e-3) * scale).all())


def _wide(values: Tensor) -> Tensor:
    return values if values.dtype == torch.float64 else values.float()


def _routes(network: nn.Module, probe: Tensor, formats: Sequence[torch.dtype]) -> Iterator[Route]:
    """Copies of a network, fastest first. What cannot be copied or converted is passed over."""
    for dtype in formats:
        for fold in (True, False):
            try:
                copied = copy.deepcopy(network).eval().requires_grad_(False)
                folded = fold_norms(copied, probe[:1]) if fold else 0
            except Exception:  # of foreign code: locks, tensors with a graph, weights in C++
                continue
            for layout in LAYOUTS:
                if not (folded or layout == torch.channels_last or dtype != probe.dtype):
                    continue  # no faster than the network itself
                try:
                    yield Route(copied.to(dtype=dtype).to(memory_format=layout), dtype, layout, folded)
                except Exception:
                    break
            if fold and not folded:
                break  # without norms to fold both copies are the same


# ---------------------------------------------------------------------------------------------------------------------
# Folding


@torch.no_grad()
def fold_norms(network: nn.Module, probe: Tensor) -> int:
    """Fold, in place, the batch norms of `network` into the convolutions that feed them; how many there were.

    Both modules stay the objects they are, so that whoever else holds them sees the change. See `_pairs` for which.
    """
    found = _pairs(network, probe)
    for conv, norm in found:
        conv.weight, conv.bias = fuse_conv_bn_weights(
            conv.weight, conv.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
        )
        # timm's norms hold an activation; the norm's own object becomes what is left of it
        held = [norm._modules.get("drop"), norm._modules.get("act")]
        steps = [m for m in held if m is not None and type(m) is not nn.Identity]
        left = steps[0] if len(steps) == 1 else nn.Sequential(*steps)
        norm.__class__, norm.__dict__ = type(left), left.__dict__
    return len(found)


class _Uses(TorchDispatchMode):
    """Counts the operations that take a tensor, by its identity."""

    def __init__(self) -> None:
        super().__init__()
        self.count: Counter[int] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count.update({id(t) for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)})
        return func(*args, **(kwargs or {}))


def _pairs(network: nn.Module, probe: Tensor) -> list[tuple[Any, Any]]:
    """Convolutions and norms of known kinds, without hooks, where the norm alone reads what the convolution gives.

    Seen in a trial run (registration order lies, as in DenseNet): the output of the convolution, and every tensor of both
    modules, goes into one operation only.
    """
    modules = [m for m in network.modules() if _plain(m) and not m.training]
    convs = [m for m in modules if _among(m, (nn.Conv2d,), "Conv2dSame")]
    norms = [m for m in modules if _among(m, (nn.BatchNorm2d, nn.SyncBatchNorm), "BatchNormAct2d")]
    made_by: dict[int, nn.Module] = {}
    pairs: list[tuple[Any, Any, Tensor]] = []
    alive: list[Tensor] = []  # keeps identities unique while the trial runs

    def after_conv(module: nn.Module, _inputs: Any, output: Tensor) -> None:
        alive.append(output)
        made_by[id(output)] = module
        uses.count[id(output)] = 0

    def after_norm(module: nn.Module, inputs: tuple[Any, ...], _output: Any) -> None:
        if inputs and id(inputs[0]) in made_by:
            pairs.append((made_by[id(inputs[0])], module, inputs[0]))

    hooks = [m.register_forward_hook(after_conv) for m in convs] + [m.register_forward_hook(after_norm) for m in norms]
    try:
        with _Uses() as uses:
            network(probe)
    finally:
        for hook in hooks:
            hook.remove()
    return [(conv, norm) for conv, norm, between in pairs if _alone(uses.count, conv, norm, between)]


def _alone(count: Counter[int], conv: nn.Module, norm: nn.Module, between: Tensor) -> bool:
    statistics = [norm._buffers.get("running_mean"), norm._buffers.get("running_var")]
    held = [between, *conv._parameters.values(), *norm._parameters.values(), *statistics]
    return all(t is not None for t in statistics) and all(count[id(t)] == 1 for t in held if t is not None)


def _plain(module: nn.Module) -> bool:
    """Whether a module does what its class says: no hooks, no `forward` of its own."""
    return not (module._forward_hooks or module._forward_pre_hooks or "forward" in vars(module))


def _among(module: nn.Module, kinds: Sequence[type], timms: str) -> bool:
    """Whether a module is of exactly one of these classes, or of that one of timm, which need not be imported for it."""
    kind = type(module)
    return kind in kinds or (kind.__qualname__ == timms and kind.__module__.startswith("timm."))
