"""Which axis of a tensor is that of the images, through views that move it."""

from __future__ import annotations

from typing import Any

from torch import Tensor


def axis_behind(function: Any, args: Any, axis: int, x: Tensor, output: Tensor) -> int:
    """The axis of the images in `output`, a view of `x` whose images are on `axis`; -1 where it is lost.

    An axis that is split keeps the images in front, one that is merged behind them likewise: parts of an image follow
    each other.
    """
    if axis < 0 or x.ndim == 0:
        return -1
    name = getattr(function, "__name__", "")
    if name == "__get__":
        name = "t" if output.shape == x.shape[::-1] else "mT"
    rest = args[1:]
    dims = list(rest[0]) if rest and isinstance(rest[0], list | tuple) else [d for d in rest if isinstance(d, int)]
    dims = [d % x.ndim if isinstance(d, int) else d for d in dims]
    if name == "permute" and len(dims) == x.ndim:
        return dims.index(axis)
    if name in ("transpose", "swapaxes", "swapdims") and len(dims) == 2:
        return dims[1 - dims.index(axis)] if axis in dims else axis
    if name in ("t", "mT"):
        low = 0 if name == "t" else x.ndim - 2
        return x.ndim - 1 - axis + low if axis >= low else axis
    if name in ("movedim", "moveaxis"):
        return _in_order(x.ndim, rest).index(axis)
    if name == "__getitem__":
        return _indexed(rest[0], axis)
    if name in ("unbind", "select"):
        gone = dims[0] if dims else 0
        return -1 if gone == axis else axis - (gone < axis)
    if name in ("squeeze", "unsqueeze", "stack"):
        return _of_length(name, args, axis, x, output)
    return axis if axis == 0 or output.shape[: axis + 1] == x.shape[: axis + 1] else -1


def _of_length(name: str, args: Any, axis: int, x: Tensor, output: Tensor) -> int:
    """Behind an axis of one that comes or goes."""
    place = args[1] if len(args) > 1 else None
    if name == "squeeze":
        gone = [d % x.ndim for d in ([place] if isinstance(place, int) else place or range(x.ndim)) if x.shape[d] == 1]
        return axis - sum(d < axis for d in gone)
    place = (place or 0) % output.ndim
    return axis + (place <= axis)


def _in_order(ndim: int, rest: Any) -> list[int]:
    """The axes of the input in the order that `movedim` gives them."""
    source, target = ([d % ndim for d in ([v] if isinstance(v, int) else v)] for v in rest[:2])
    order = [d for d in range(ndim) if d not in source]
    for place, d in sorted(zip(target, source, strict=True)):
        order.insert(place, d)
    return order


def _indexed(index: Any, axis: int) -> int:
    """Behind an index: numbers take an axis away, None brings one."""
    found = axis
    for item in index if isinstance(index, tuple) else (index,):
        if axis < 0 or item is Ellipsis:
            break
        if item is None:
            found += 1
            continue
        if axis > 0 and isinstance(item, int):
            found -= 1
        axis -= 1
    return found
