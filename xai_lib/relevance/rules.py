"""The rules of layer-wise relevance propagation, each a hook of zennit that also takes a population of candidates.

Notation of the LRP literature (Bach et al. 2015, Montavon et al. 2019): a unit j has inputs x_i, contributions
z_ij = x_i w_ij, a bias b_j and z_j = sum_i z_ij + b_j; (.)+ and (.)- are the positive and negative parts; R_j is its
relevance, R_i what an input receives. Products of two negative factors count as positive contributions.

**What happens to a bias** is an explicit choice, `bias`:

- `"keep"`: b_j stands in the denominators and takes its share of R_j with it, as in zennit: pixels + biases = logit.
- `"ignore"`: denominators without b_j, as in most of the literature and in the RAP authors' code. A unit keeps what it gets,
  but alpha-beta multiplies units whose contributions have one sign by alpha or by -beta, and drops what meets a zero
  denominator: on networks with linear bottlenecks nearly all relevance is lost, on others it grows.
- `"spread"`: denominators without b_j; a unit whose contributions have one sign hands all of R_j to those; one without any
  contribution spreads R_j evenly over its inputs. Each unit conserves: pixels = logit. The share of a bias thus goes where
  the contributions of its sign go. Only a unit that sees padding alone, as at the border of a padded 1x1 convolution, has no
  input to hand its relevance to, and drops it.
"""

from __future__ import annotations

import copy
from abc import abstractmethod
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from zennit.core import Hook

from xai_lib.errors import XaiError
from xai_lib.relevance.layers import Layer, Pooling, of_module

Bias = Literal["keep", "ignore", "spread"]
Value = float | Tensor
State = dict[str, Any]


class RelevanceError(XaiError):
    """A rule, a parameter or a network that relevance cannot be computed with."""


class Rule(Hook):
    """A rule: what a layer's inputs receive of its relevance.

    `value` is the parameter that a search tunes (alpha, epsilon, gamma); a call may bring its own, a number or a tensor
    `(P,)` with one a candidate. The rule is also a hook of zennit and may stand in a composite of zennit.
    """

    parameter = ""  #: what `value` is called
    bias: Bias = "keep"
    stabiliser: float = 0.0

    def __init__(self, value: Value = 0.0, bias: Bias = "keep", stabiliser: float = 0.0) -> None:
        super().__init__()
        if bias not in get_args(Bias):
            raise RelevanceError(f"bias: expected {', '.join(get_args(Bias))}, found {bias!r}")
        if stabiliser < 0:
            raise RelevanceError(f"stabiliser: expected a number >= 0, found {stabiliser}")
        self.value, self.bias, self.stabiliser = value, bias, stabiliser

    @property
    def kind(self) -> tuple[Any, ...]:
        """Rules of one kind share what `prepare` makes of an image."""
        return type(self).__name__, self.bias, self.stabiliser

    @abstractmethod
    def prepare(self, layer: Layer, x: Tensor, z: Tensor) -> State:
        """What does not depend on relevance or `value`, of the input `x` `(N, ...)` and the output with bias `z`."""

    @abstractmethod
    def redistribute(self, layer: Layer, state: State, relevance: Tensor, value: Value) -> Tensor:
        """The relevance `(P, N, ...)` of the layer's inputs from that of its outputs."""

    def absorbed(self, layer: Layer, state: State, relevance: Tensor, value: Value) -> Tensor:
        """The relevance that the biases keep, `(P, N)`."""
        return relevance.new_zeros(relevance.shape[:2])

    def pooled(self) -> Rule:
        """The rule for average pooling behind layers of this rule."""
        return Norm(stabiliser=self.stabiliser)

    def share(self, parts: list[Tensor], relevance: Tensor, value: Value) -> list[Tensor]:
        """The relevance of each of `parts` `(N, ...)` from that of their sum: in proportion, as zennit's Norm."""
        inverse = reciprocal(sum(parts, start=torch.zeros_like(parts[0])), self.stabiliser)
        return [relevance * (part * inverse) for part in parts]

    # as a hook of zennit, on one module and one candidate

    def forward(self, module: nn.Module, input: Any, output: Tensor) -> None:
        self.stored_tensors["input"], self.stored_tensors["output"] = input[0].detach(), output.detach()

    def backward(self, module: nn.Module, grad_input: Any, grad_output: Any) -> tuple[Tensor | None, ...]:
        layer = of_module(module)
        rule = self.pooled() if isinstance(layer, Pooling) else self
        with torch.no_grad():
            x, z = self.stored_tensors["input"], self.stored_tensors["output"]
            found = rule.redistribute(layer, rule.prepare(layer, x, z), grad_output[0][None], self.value)[0]
        return tuple(found if each is not None and each.shape == found.shape else None for each in grad_input)

    def copy(self) -> Rule:
        twin = copy.copy(self)
        Hook.__init__(twin)
        return twin


class Epsilon(Rule):
    """LRP-epsilon: R_i = sum_j z_ij / (z_j + epsilon sign z_j) R_j, with sign(0) = 1; LRP-0 in the limit.

    `relative`: epsilon in units of the root mean square of the layer's z_j on each image. `bias="spread"` is refused:
    relevance put on units whose activation is near 0 is divided by it in the layer below and grows without bound
    (1e10 to 1e27 was measured on networks with linear bottlenecks).
    """

    parameter = "epsilon"

    def __init__(self, value: Value = 1e-9, bias: Bias = "keep", *, relative: bool = False) -> None:
        if bias == "spread":
            raise RelevanceError('epsilon: bias="spread" diverges (relevance of inactive units over 0); take "keep" or "ignore"')
        if not bool((torch.as_tensor(value) > 0).all()):
            raise RelevanceError(f"epsilon: expected a number above 0 (1e-9 stands for LRP-0), found {value}")
        super().__init__(value, bias)
        self.relative = relative

    @property
    def kind(self) -> tuple[Any, ...]:
        return *super().kind, self.relative

    def prepare(self, layer: Layer, x: Tensor, z: Tensor) -> State:
        z = z if self.bias == "keep" else z - layer.bias_like(z)
        size = z.square().mean(tuple(range(1, z.ndim)), keepdim=True).sqrt() if self.relative else z.new_ones(())
        return {"x": x, "z": z, "negative": z < 0, "size": size}

    def _quotient(self, state: State, relevance: Tensor, value: Value) -> Tensor:
        epsilon = over(value, state["z"]) * state["size"]
        return relevance / torch.where(state["negative"], state["z"] - epsilon, state["z"] + epsilon)

    def redistribute(self, layer: Layer, state: State, relevance: Tensor, value: Value) -> Tensor:
        return layer.back(self._quotient(state, relevance, value), state["x"]).mul_(state["x"])

    def absorbed(self, layer: Layer, state: State, relevance: Tensor, value: Value) -> Tensor:
        if self.bias != "keep":
            return super().absorbed(layer, state, relevance, value)
        return (self._quotient(state, relevance, value) * layer.bias_like(state["z"])).flatten(2).sum(2)


class Norm(Rule):
    """The z-rule of maps without bias: R_i = sum_j z_ij / z_j R_j (average pooling; zennit's Norm)."""

    def __init__(self, stabiliser: float = 0.0) -> None:
        super().__init__(0.0, "ignore", stabiliser)

    def prepare(self, layer: Layer, x: Tensor, z: Tensor) -> State:
        return {"x": x, "inverse": reciprocal(layer.forward(x), self.stabiliser)}

    def redistribute(self, layer: Layer, state: State, relevance: Tensor, value: Value) -> Tensor:
        return layer.back(relevance * state["inverse"], state["x"]) * state["x"]


class AlphaBeta(Rule):
    """LRP-alpha-beta: R_i = sum_j (alpha z+_ij / z+_j - beta z-_ij / z-_j) R_j, beta = alpha - 1 >= 0; alpha = 1 is z+.

    `bias="keep"` is zennit's rule, but with alpha = 1 a unit to which nothing is added (no positive contribution, no positive
    bias) hands its relevance to the negative ones, where zennit drops it: behind SiLU, hard-swish or no activation, z+ would
    lose it. Pooling and sums: with `"spread"` the same rule on their positive and negative parts, else
    in proportion (Norm).
    """

    parameter = "alpha"

    def __init__(self, value: Value = 2.0, bias: Bias = "keep", stabiliser: float = 0.0) -> None:
        if not bool((torch.as_tensor(value) >= 1).all()):
            raise RelevanceError(f"alpha: expected a number of at least 1 (beta = alpha - 1), found {value}")
        super().__init__(value, bias, stabiliser)

    def prepare(self, layer: Layer, x: Tensor, z: Tensor) -> State:
        positive, negative = contributions(layer, x)
        state = signs(x)
        if self.bias == "keep":
            b = layer.bias_like(z)
            state["up"] = (positive.add_(b.clamp(min=0)).add_(self.stabiliser)).reciprocal_()
            state["un"] = (negative.add_(b.clamp(max=0)).sub_(self.stabiliser)).reciprocal_()
        else:
            state |= by_sign(positive, negative, self.stabiliser, one_sided=self.bias == "spread")
        most = 1 / least(z.dtype)
        nothing, none_below = state["up"].abs() > most, state["un"].abs() > most
        if bool((nothing | none_below).any()):  # only where the stabiliser is 0
            state["up"], state["un"] = state["up"].masked_fill(nothing, 0), state["un"].masked_fill(none_below, 0)
            if self.bias == "keep" and bool((nothing & ~none_below).any()):
                state["un_instead"] = state["un"] * nothing
        return state

    def redistribute(self, layer: Layer, state: State, relevance: Tensor, value: Value) -> Tensor:
        above, below = shares(state, relevance, value)
        x = state["x"]
        found = layer.back_by_sign(above, below, x)
        if "x_negative" not in state:
            found *= x
        else:
            other = layer.back(above, x, -1)
            if below is not None:
                other += layer.back(below, x, 1)
            found = found.mul_(state["x_positive"]) + other.mul_(state["x_negative"])
        if "none" in state:
            found += layer.spread(relevance * state["none"] / layer.real_inputs(x), x)
        return found

    def absorbed(self, layer: Layer, state: State, relevance: Tensor, value: Value) -> Tensor:
        if self.bias != "keep":
            return super().absorbed(layer, state, relevance, value)
        above, below = shares(state, relevance, value)
        b = layer.bias_like(relevance[0])
        kept = above * b.clamp(min=0)
        if below is not None:
            kept += below * b.clamp(max=0)
        return kept.flatten(2).sum(2)

    def pooled(self) -> Rule:
        return self if self.bias == "spread" else Norm(self.stabiliser)

    def share(self, parts: list[Tensor], relevance: Tensor, value: Value) -> list[Tensor]:
        if self.bias != "spread":
            return super().share(parts, relevance, value)
        zero = torch.zeros_like(parts[0])
        positive, negative = sum((p.clamp(min=0) for p in parts), zero), sum((p.clamp(max=0) for p in parts), zero)
        state = by_sign(positive, negative, self.stabiliser, one_sided=True)
        above, below = shares(state, relevance, value)
        found = [above * part.clamp(min=0) for part in parts]
        if below is not None:
            found = [f.add_(below * part.clamp(max=0)) for f, part in zip(found, parts, strict=True)]
        if "none" in state:
            found = [f.add_(relevance * state["none"] / len(parts)) for f in found]
        return found


class Gamma(Rule):
    """LRP-gamma in zennit's general form: positive contributions count 1 + gamma times where z_j > 0, negative ones where
    z_j < 0. With `"ignore"` and `"spread"` a unit conserves wherever its contributions do not cancel to 0."""

    parameter = "gamma"

    def __init__(self, value: Value = 0.25, bias: Bias = "keep", stabiliser: float = 0.0) -> None:
        if not bool((torch.as_tensor(value) >= 0).all()):
            raise RelevanceError(f"gamma: expected a number >= 0, found {value}")
        super().__init__(value, bias, stabiliser)

    def prepare(self, layer: Layer, x: Tensor, z: Tensor) -> State:
        positive, negative = contributions(layer, x)
        b = layer.bias_like(z)
        if self.bias == "keep":
            positive, negative = positive + b.clamp(min=0), negative + b.clamp(max=0)
        else:
            z = z - b
        state = signs(x) | {"positive": positive, "negative": negative, "z": z}
        if self.bias == "spread" and bool((z == 0).any()):
            state["none"] = z == 0
        return state

    def _quotients(self, state: State, relevance: Tensor, value: Value) -> tuple[Tensor, Tensor]:
        z, gamma = state["z"], over(value, state["z"])
        zero = relevance.new_zeros(())
        above = torch.where(z > 0, relevance / (z + gamma * state["positive"] + self.stabiliser), zero)
        below = torch.where(z < 0, relevance / (z + gamma * state["negative"] - self.stabiliser), zero)
        return above, below

    def redistribute(self, layer: Layer, state: State, relevance: Tensor, value: Value) -> Tensor:
        above, below = self._quotients(state, relevance, value)
        x, gamma = state["x"], over(value, state["x"])
        found = layer.back(above + below, x) * x
        grown = layer.back_by_sign(above, below, x) * (state["x_positive"] if "x_negative" in state else x)
        if "x_negative" in state:
            grown += (layer.back(above, x, -1) + layer.back(below, x, 1)) * state["x_negative"]
        found += gamma * grown
        if "none" in state:
            found += layer.spread(relevance * state["none"] / layer.real_inputs(x), x)
        return found

    def absorbed(self, layer: Layer, state: State, relevance: Tensor, value: Value) -> Tensor:
        if self.bias != "keep":
            return super().absorbed(layer, state, relevance, value)
        above, below = self._quotients(state, relevance, value)
        b, gamma = layer.bias_like(state["z"]), over(value, state["z"])
        kept = above * (b + gamma * b.clamp(min=0)) + below * (b + gamma * b.clamp(max=0))
        return kept.flatten(2).sum(2)


class ZBox(Rule):
    """z^B at the pixels: R_i = sum_j (z_ij - l_i w+_ij - h_i w-_ij) / sum_i' (the same) R_j, for pixels within [l, h].

    `low`, `high`: numbers or tensors that broadcast against the inputs. A bias cancels; a unit whose denominator is 0
    spreads evenly, so the rule conserves by itself.
    """

    def __init__(self, low: Value, high: Value, stabiliser: float = 0.0) -> None:
        super().__init__(0.0, "ignore", stabiliser)
        self.low, self.high = low, high
        if not bool((torch.as_tensor(low) <= torch.as_tensor(high)).all()):
            raise RelevanceError("zbox: a lower bound lies above its upper bound")

    @property
    def kind(self) -> tuple[Any, ...]:
        return *super().kind, *(v if isinstance(v, float | int) else id(v) for v in (self.low, self.high))

    def prepare(self, layer: Layer, x: Tensor, z: Tensor) -> State:
        # the terms grouped by sign of weight: within the bounds none is negative, so nothing cancels
        above, below = (x - self._bound(v, x) for v in (self.low, self.high))
        z = layer.forward(above, 1) + layer.forward(below, -1)
        state: State = {"x": x, "above": above, "below": below, "inverse": reciprocal(z, self.stabiliser)}
        state["bounds"] = self.low, self.high  # kept alive: `kind` knows them by their identity
        if bool((z == 0).any()):
            state["none"] = z == 0
        return state

    def _bound(self, value: Value, x: Tensor) -> Tensor:
        bound = torch.as_tensor(value, dtype=x.dtype, device=x.device)
        try:
            shape = torch.broadcast_shapes(bound.shape, x.shape)
        except RuntimeError:
            shape = torch.Size()
        if shape != x.shape:
            raise RelevanceError(f"zbox: a bound of shape {tuple(bound.shape)} does not broadcast to inputs {tuple(x.shape)}")
        return bound

    def redistribute(self, layer: Layer, state: State, relevance: Tensor, value: Value) -> Tensor:
        x = state["x"]
        positive, negative = layer.back_both(relevance * state["inverse"], x)
        found = positive * state["above"] + negative * state["below"]
        if "none" in state:
            found += layer.spread(relevance * state["none"] / layer.real_inputs(x), x)
        return found


class Flat(Rule):
    """Equal shares: R_i = sum_j R_j / (number of inputs of j); zero padding is no input."""

    def __init__(self) -> None:
        super().__init__(0.0, "ignore", 0.0)

    def prepare(self, layer: Layer, x: Tensor, z: Tensor) -> State:
        return {"x": x, "inverse": layer.real_inputs(x).reciprocal()}

    def redistribute(self, layer: Layer, state: State, relevance: Tensor, value: Value) -> Tensor:
        return layer.spread(relevance * state["inverse"], state["x"])


# ---------------------------------------------------------------------------------------------------------------------
# What the rules share


def over(value: Value, z: Tensor) -> Value:
    """A value a candidate `(P,)`, so that it broadcasts against `(P, N, ...)`; a number as it is."""
    return value.to(z).view(-1, *[1] * z.ndim) if isinstance(value, Tensor) and value.ndim else value


def reciprocal(z: Tensor, stabiliser: float) -> Tensor:
    """1 / (z + stabiliser sign z), and 0 where z is 0."""
    if not stabiliser:
        return z.reciprocal().nan_to_num_(nan=torch.nan, posinf=0, neginf=0)
    return torch.where(z == 0, 0, (z + stabiliser * torch.where(z < 0, -1, 1)).reciprocal_())


def least(dtype: torch.dtype) -> float:
    """Sums of contributions up to this count as 0: relevance over them would grow beyond the numbers."""
    known = {torch.float32: 1e-20, torch.bfloat16: 1e-20, torch.float16: 1e-4}
    return known.get(dtype, torch.finfo(dtype).tiny * 1e10)


def signs(x: Tensor) -> State:
    """The input, and its positive and negative parts where it has negative values."""
    if not bool((x < 0).any()):
        return {"x": x}
    return {"x": x, "x_positive": x.clamp(min=0), "x_negative": x.clamp(max=0)}


def contributions(layer: Layer, x: Tensor) -> tuple[Tensor, Tensor]:
    """Sums of the positive and of the negative contributions of each unit, without bias."""
    parts = signs(x)
    positive, negative = layer.forward_by_sign(parts.get("x_positive", x))
    if "x_negative" in parts:
        positive += layer.forward(parts["x_negative"], -1)
        negative += layer.forward(parts["x_negative"], 1)
    return positive, negative


def by_sign(positive: Tensor, negative: Tensor, stabiliser: float, one_sided: bool) -> State:
    """Reciprocals of both sums, 0 where a sum is 0: `up`, `un`, which alpha and -beta multiply.

    With `one_sided` those of units that have one sign alone are `up_alone` and `un_alone`, which nothing multiplies, and
    units that have none are marked in `none`.
    """
    above, below = positive > least(positive.dtype), negative < -least(positive.dtype)
    if not one_sided:
        return {
            "up": torch.where(above, (positive + stabiliser).reciprocal(), 0),
            "un": torch.where(below, (negative - stabiliser).reciprocal(), 0),
        }
    up, un = torch.where(above, positive.reciprocal(), 0), torch.where(below, negative.reciprocal(), 0)
    state = {"up": up * below, "un": un * above, "up_alone": up * ~below, "un_alone": un * ~above}
    if bool((none := ~(above | below)).any()):
        state["none"] = none
    return state


def shares(state: State, relevance: Tensor, value: Value) -> tuple[Tensor, Tensor | None]:
    """What the positive and the negative contributions are multiplied by; None: the negative ones get nothing."""
    alpha = over(value, state["up"])
    above = (relevance * state["up"]).mul_(alpha)
    if "up_alone" in state:
        above += relevance * state["up_alone"]
    instead = "un_instead" in state and bool((torch.as_tensor(value) == 1).any())
    if "un_alone" not in state and not instead and bool((torch.as_tensor(value) == 1).all()):
        return above, None
    below = (relevance * state["un"]).mul_(1 - alpha)
    if instead:
        below += relevance * state["un_instead"] * (torch.as_tensor(alpha) == 1)
    if "un_alone" in state:
        below += relevance * state["un_alone"]
    return above, below
