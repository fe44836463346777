"""Which function of torch is what to relevance: tables by function, however it is spelt.

A function appears under several names (`torch.add`, `Tensor.add`, `Tensor.add_`, `F.relu`); `named` collects them.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional as F

_PLACES = (torch, torch.Tensor, torch._C.TensorBase, F, torch.special, torch._C._nn)


def named(*names: str) -> set[Any]:
    """Every function of torch of one of these names, and its form that writes in place."""
    spelt = [spelling for name in names for spelling in (name, name + "_")]
    found = {getattr(place, name, None) for place in _PLACES for name in spelt}
    return found - {None}


#: elementwise and never decreasing: bounds of the input are bounds of the output
MONOTONE = named(
    "relu", "relu6", "hardtanh", "leaky_relu", "elu", "selu", "celu", "hardsigmoid", "softplus", "tanh", "sigmoid",
    "clamp", "clip", "clamp_min", "clamp_max", "logsigmoid", "softsign", "threshold", "softshrink", "hardshrink",
    "tanhshrink", "rrelu", "erf", "expit", "special_expit",
)  # fmt: skip
#: relevance passes as it is: activations, and products with a statistic of the input, which counts as a constant
ELEMENTWISE = MONOTONE | named(
    "silu", "gelu", "mish", "hardswish", "prelu", "pow", "square", "abs", "local_response_norm", "normalize", "rms_norm",
) | {torch.Tensor.__pow__}  # fmt: skip
DROPOUTS = named(
    "dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout", "feature_alpha_dropout", "feature_dropout"
)
ADDITIONS = named("add") | {torch.Tensor.__radd__}
SUBTRACTIONS = named("sub", "subtract")
PRODUCTS = named("mul", "multiply") | {torch.Tensor.__rmul__}
QUOTIENTS = named("div", "divide", "true_divide")
MATRIX_PRODUCTS = named("matmul", "mm", "bmm", "mv") | {torch.Tensor.__matmul__}
CONVOLUTIONS = named(
    "conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d"
)
MEANS = named("mean", "sum")
#: linear in their one argument, with positive weights (bicubic interpolation aside) and without a bias
POOLING = MEANS | named(
    "avg_pool1d", "avg_pool2d", "avg_pool3d", "adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d",
    "interpolate", "upsample", "fold",
)  # fmt: skip
MAX_POOLING: dict[Any, Any] = {
    F.max_pool2d: F.max_pool2d_with_indices, torch.max_pool2d: F.max_pool2d_with_indices,
    F.adaptive_max_pool2d: F.adaptive_max_pool2d_with_indices,
}  # fmt: skip
#: each output is one of the inputs, or a constant: relevance goes where the value came from
SELECTIONS = named(
    "amax", "amin", "maximum", "minimum", "where", "masked_fill", "max_pool1d", "max_pool3d", "adaptive_max_pool1d",
    "adaptive_max_pool3d",
)  # fmt: skip
CONCATENATIONS = named("cat", "concat", "concatenate", "stack", "hstack", "vstack", "dstack")
#: what moves values and changes none: its gradient carries relevance as it is
VIEWS = CONCATENATIONS | named(
    "flatten", "reshape", "permute", "transpose", "swapaxes", "swapdims", "movedim", "moveaxis", "t", "squeeze",
    "unsqueeze", "chunk", "tensor_split", "split", "split_with_sizes", "narrow", "select", "unbind", "unflatten", "clone",
    "view", "view_as", "reshape_as", "contiguous", "to", "type", "type_as", "float", "double", "half", "bfloat16", "cpu",
    "__getitem__", "expand", "expand_as", "broadcast_to", "repeat", "tile", "repeat_interleave", "roll", "flip", "fliplr",
    "flipud", "rot90", "index_select", "gather", "take_along_dim", "diagonal", "unfold", "pixel_shuffle", "ravel",
    "pixel_unshuffle", "channel_shuffle", "native_channel_shuffle", "atleast_1d", "atleast_2d", "atleast_3d", "alias",
    "broadcast_tensors", "pad",
) | {getattr(torch.Tensor, name).__get__ for name in ("T", "mT")}  # fmt: skip
#: nodes of the autograd graph that those leave behind, without the number at the end
VIEW_NODES = {
    name + "Backward" for name in (
        "View", "ViewAs", "UnsafeView", "ReshapeAlias", "Reshape", "Permute", "Transpose", "T", "Cat", "Stack", "Split",
        "SplitWithSizes", "UnsafeSplit", "UnsafeSplitWithSizes", "Slice", "Select", "Expand", "Squeeze", "Unsqueeze",
        "Clone", "ToCopy", "Unbind", "Index", "IndexSelect", "Gather", "Roll", "Flip", "Repeat", "Alias", "PixelShuffle",
        "PixelUnshuffle", "NativeChannelShuffle", "ConstantPadNd", "ReflectionPad1D", "ReflectionPad2D",
        "ReflectionPad3D", "ReplicationPad1D", "ReplicationPad2D", "ReplicationPad3D", "Im2Col", "Unfold", "Diagonal",
        "AsStrided", "Copy", "Narrow", "Contiguous", "Identity",
    )
}  # fmt: skip
#: whatever gives numbers between two limits, by how surely it is meant as a gate: 3 attention weights, 2 gates, 1 others
BOUNDED = (
    dict.fromkeys(named("relu6", "hardtanh", "tanh", "erf", "softsign", "sign"), 1)
    | dict.fromkeys(named("sigmoid", "hardsigmoid", "expit", "special_expit"), 2)
    | dict.fromkeys(named("softmax"), 3)
)
#: values leave torch, and what Python makes of them comes back unseen
ESCAPES = named("item", "tolist", "numpy", "__array__", "__float__", "__int__", "__index__", "__complex__", "__dlpack__")
ESCAPES |= {torch.Tensor.__float__, torch.Tensor.__int__}
#: tensors of the shape or dtype of another, not of its values
SHAPED = named(
    "zeros_like", "ones_like", "empty_like", "full_like", "rand_like", "randn_like", "new_zeros", "new_ones", "new_empty",
    "new_full", "new_tensor", "size", "stride",
)  # fmt: skip
#: what writes values into a tensor without a result
SET_DATA: Any = vars(torch._C.TensorBase)["data"].__set__ if "data" in vars(torch._C.TensorBase) else None
ARGUMENTS = {
    "conv": ("input", "weight", "bias", "stride", "padding", "dilation", "groups"),
    "conv_transpose": ("input", "weight", "bias", "stride", "padding", "output_padding", "groups", "dilation"),
    "linear": ("input", "weight", "bias"),
    "batch_norm": ("input", "running_mean", "running_var", "weight", "bias", "training", "momentum", "eps"),
}
WINDOW = ("kernel_size", "stride", "padding", "dilation", "ceil_mode")


def bound(name: str, args: Any, kwargs: Any) -> dict[str, Any]:
    """The arguments of a call by name."""
    return dict(zip(ARGUMENTS[name], args, strict=False)) | kwargs


def in_place(function: Any, args: Any, kwargs: Any) -> bool:
    """Whether a call writes into its first argument."""
    name = getattr(function, "__name__", "")
    if name.startswith("__i") or (name.endswith("_") and not name.endswith("__")):
        return True
    return function in ELEMENTWISE and (bool(kwargs.get("inplace")) or any(a is True for a in args[1:]))
