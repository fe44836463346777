"""Larger functions in terms of smaller ones, so that a network has the same relevance whichever it calls.

Each takes `call`, which makes a call that the trace sees, and the arguments of the function of torch. Normalisations are a
mean that is subtracted (a sum of two branches), a division by a deviation that counts as a constant (Ali et al. 2022,
arXiv 2202.07304; Achtibat et al. 2024, arXiv 2402.05602), a scale and a bias. Attention is two products of matrices and a
softmax; its weights count as constants where they meet the values (CP-LRP of Ali et al. 2022), which conserves.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from xai_lib.relevance.functions import named
from xai_lib.relevance.operations import UnsupportedNetwork

Call = Callable[..., Any]


def centred(call: Call, x: Tensor, dims: Sequence[int], eps: float) -> Tensor:
    """`(x - mean) / deviation` over `dims`; the deviation is taken from the values and counts as a constant."""
    apart = call(torch.sub, x, call(torch.mean, x, list(dims), True))
    return call(torch.div, apart, (apart.detach().square().mean(list(dims), True) + eps).sqrt())


def affine(call: Call, x: Tensor, weight: Tensor | None, bias: Tensor | None, shape: Sequence[int]) -> Tensor:
    x = x if weight is None else call(torch.mul, x, weight.view(shape))
    return x if bias is None else call(torch.add, x, bias.view(shape))


def layer_norm(call: Call, input: Tensor, normalized_shape: Sequence[int], weight: Tensor | None = None,
               bias: Tensor | None = None, eps: float = 1e-5) -> Tensor:  # fmt: skip
    normalized_shape = tuple(normalized_shape)
    x = centred(call, input, range(-len(normalized_shape), 0), eps)
    return affine(call, x, weight, bias, normalized_shape)


def group_norm(call: Call, input: Tensor, num_groups: int, weight: Tensor | None = None, bias: Tensor | None = None,
               eps: float = 1e-5) -> Tensor:  # fmt: skip
    split = call(torch.reshape, input, (len(input), num_groups, -1))
    x = call(torch.reshape, centred(call, split, [-1], eps), input.shape)
    return affine(call, x, weight, bias, (-1, *[1] * (input.ndim - 2)))


def instance_norm(call: Call, input: Tensor, running_mean: Tensor | None = None, running_var: Tensor | None = None,
                  weight: Tensor | None = None, bias: Tensor | None = None, use_input_stats: bool = True,
                  momentum: float = 0.1, eps: float = 1e-5) -> Tensor:  # fmt: skip
    if not use_input_stats:
        return call(F.batch_norm, input, running_mean, running_var, weight, bias, False, momentum, eps)
    x = centred(call, input, range(2, input.ndim), eps)
    return affine(call, x, weight, bias, (-1, *[1] * (input.ndim - 2)))


def attention(call: Call, query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None,
              dropout_p: float = 0.0, is_causal: bool = False, scale: float | None = None,
              enable_gqa: bool = False) -> Tensor:  # fmt: skip
    """`F.scaled_dot_product_attention`."""
    return attended(call, query, key, value, attn_mask, dropout_p, is_causal, scale, enable_gqa)[0]


def attended(call: Call, query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None, dropout_p: float,
             is_causal: bool, scale: float | None = None, enable_gqa: bool = False) -> tuple[Tensor, Tensor]:  # fmt: skip
    """What attention gives, and its weights."""
    if dropout_p:
        raise UnsupportedNetwork("attention with dropout switched on gives another answer each time; no rule is known for it")
    if enable_gqa:
        times = query.shape[-3] // key.shape[-3]
        key, value = (call(torch.repeat_interleave, t, times, -3) for t in (key, value))
    scale = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
    scores = call(torch.matmul, call(torch.mul, query, scale), call(torch.transpose, key, -2, -1))
    if is_causal and attn_mask is None:
        attn_mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=query.device).tril()
    if attn_mask is not None:
        if attn_mask.dtype == torch.bool:
            attn_mask = torch.zeros(attn_mask.shape, dtype=query.dtype).to(query.device).masked_fill(~attn_mask, -math.inf)
        scores = call(torch.add, scores, attn_mask)
    weights = call(torch.softmax, scores, -1)
    return call(torch.matmul, weights, value), weights


def multi_head_attention(
    call: Call, query: Tensor, key: Tensor, value: Tensor, embed_dim_to_check: int, num_heads: int,
    in_proj_weight: Tensor | None, in_proj_bias: Tensor | None, bias_k: Tensor | None, bias_v: Tensor | None,
    add_zero_attn: bool, dropout_p: float, out_proj_weight: Tensor, out_proj_bias: Tensor | None, training: bool = True,
    key_padding_mask: Tensor | None = None, need_weights: bool = True, attn_mask: Tensor | None = None,
    use_separate_proj_weight: bool = False, q_proj_weight: Tensor | None = None, k_proj_weight: Tensor | None = None,
    v_proj_weight: Tensor | None = None, static_k: Tensor | None = None, static_v: Tensor | None = None,
    average_attn_weights: bool = True, is_causal: bool = False,
) -> tuple[Tensor, Tensor | None]:  # fmt: skip
    """`F.multi_head_attention_forward` of `(L, N, E)`, computed with the images on the first axis."""
    if query.ndim != 3 or add_zero_attn or bias_k is not None or static_k is not None or static_v is not None:
        raise UnsupportedNetwork(
            "attention with keys of its own, or without an axis of images, has no rule; expected (L, N, E) and no bias_k"
        )
    separate = q_proj_weight, k_proj_weight, v_proj_weight
    weights = separate if in_proj_weight is None else in_proj_weight.chunk(3)
    biases = [None] * 3 if in_proj_bias is None else in_proj_bias.chunk(3)
    heads = []
    for x, weight, bias in zip((query, key, value), weights, biases, strict=True):
        x = call(F.linear, call(torch.transpose, x, 0, 1), weight, bias)  # (N, L, E)
        heads.append(call(torch.transpose, call(torch.reshape, x, (*x.shape[:2], num_heads, -1)), 1, 2))
    mask = _float_mask(attn_mask, query)
    if mask is not None and mask.ndim == 3:
        mask = mask.view(-1, num_heads, *mask.shape[1:])
    if key_padding_mask is not None:
        padding = _float_mask(key_padding_mask, query)[:, None, None]  # type: ignore[index]
        mask = padding if mask is None else mask + padding
    q, k, v = heads
    found, weight = attended(call, q, k, v, mask, dropout_p if training else 0.0, False)
    found = call(torch.flatten, call(torch.transpose, found, 1, 2), 2)
    found = call(torch.transpose, call(F.linear, found, out_proj_weight, out_proj_bias), 0, 1)
    if not need_weights:
        return found, None
    return found, call(torch.mean, weight, 1) if average_attn_weights else weight


def _float_mask(mask: Tensor | None, like: Tensor) -> Tensor | None:
    """Minus infinity where a mask of `nn.MultiheadAttention` is true."""
    if mask is None or mask.dtype != torch.bool:
        return mask
    return torch.zeros(mask.shape, dtype=like.dtype, device=mask.device).masked_fill(mask, -math.inf)


def gated(call: Call, input: Tensor, dim: int = -1) -> Tensor:
    """`F.glu`."""
    signal, gate = call(torch.chunk, input, 2, dim)
    return call(torch.mul, signal, call(torch.sigmoid, gate))


def added_product(call: Call, input: Any, first: Any, second: Any, *, value: float = 1) -> Tensor:
    """`torch.addcmul`."""
    product = call(torch.mul, first, second)
    return call(torch.add, input, product if value == 1 else call(torch.mul, product, value))


def added_matrices(call: Call, input: Tensor, first: Tensor, second: Tensor, *, beta: float = 1, alpha: float = 1) -> Tensor:
    """`torch.addmm` and `torch.baddbmm`."""
    product = call(torch.matmul, first, second)
    product = product if alpha == 1 else call(torch.mul, product, alpha)
    return call(torch.add, input if beta == 1 else call(torch.mul, input, beta), product)


def interpolated(call: Call, input: Any, end: Any, weight: Any) -> Tensor:
    """`torch.lerp`."""
    return call(torch.add, input, call(torch.mul, call(torch.sub, end, input), weight))


REWRITTEN: dict[Any, Callable[..., Any]] = {
    F.layer_norm: layer_norm, F.group_norm: group_norm, F.instance_norm: instance_norm, F.glu: gated,
    F.scaled_dot_product_attention: attention, F.multi_head_attention_forward: multi_head_attention,
    **dict.fromkeys(named("neg", "negative"), lambda call, input: call(torch.mul, input, -1)),
    **dict.fromkeys(named("rsub"), lambda call, a, b, alpha=1: call(torch.sub, b, a, alpha=alpha)),
    torch.Tensor.__rsub__: lambda call, a, b: call(torch.sub, b, a),
    **dict.fromkeys((torch.addcmul, torch.Tensor.addcmul), added_product),
    **dict.fromkeys((torch.addmm, torch.Tensor.addmm, torch.baddbmm, torch.Tensor.baddbmm), added_matrices),
    **dict.fromkeys((torch.lerp, torch.Tensor.lerp), interpolated),
}  # fmt: skip
