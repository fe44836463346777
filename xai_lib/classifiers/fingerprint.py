"""What a network is at this moment, as a few bytes: whoever keeps something computed from it can tell that it changed.

A network is walked as the graph of Python objects that it is: submodules, parameters, buffers, hooks, mode, and whatever
else lies in `__dict__` (a configuration object, a module hidden in a list, what a replaced `forward` closes over), and
the methods and constants of its classes. Not seen are globals that `forward` reads and the inside of objects written in C.
"""

from __future__ import annotations

import functools
import hashlib
import io
import types
import weakref
import zlib
from collections.abc import Iterable, Mapping
from pathlib import PurePath
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

DEPTH = 6  #: objects entered below a module that are not modules themselves: a way to a data set ends somewhere
_PLAIN = (type(None), bool, int, float, complex, str, bytes, torch.dtype, torch.device, range, slice, np.generic, PurePath)
_QUICK = frozenset(_PLAIN)  #: looked at first, by exact type


def structure_of(network: nn.Module) -> bytes:
    """Digest of everything but the values of tensors; a few milliseconds.

    It holds for this process alone, as modules, tensors and unknown objects count by identity. Of a tensor's values it
    sees changes in place that torch counts (`copy_`, an optimiser's step), not those written through `.data`.

    Parameters
    ----------
    network
        Any module. Its mode and its hooks count; `requires_grad` and gradients do not.

    Returns
    -------
    bytes
        16 bytes, the same as long as nothing changed.
    """
    return _Walk(values=False, identities=True).digest(network)


def contents_of(network: nn.Module) -> bytes:
    """Digest of structure and values, every byte of parameters, buffers and tensor attributes; about 0.3 s a GB.

    Identities do not count, so that the same network has the same digest in another process.

    Parameters
    ----------
    network
        Any module. Its mode and its hooks count; `requires_grad` and gradients do not.

    Returns
    -------
    bytes
        16 bytes, the same as long as nothing changed that the walk can see
        (but for one change in 2**32).
    """
    return _Walk(values=True, identities=False).digest(network)


def state_of(network: nn.Module) -> bytes:
    """As `contents_of`, but that objects count by identity too, for this process alone: also what cannot be looked into."""
    return _Walk(values=True, identities=True).digest(network)


class _Walk:
    """One walk over the objects of a network. Each is entered once; met again, it is named by its place."""

    def __init__(self, values: bool, identities: bool) -> None:
        self.values, self.identities = values, identities
        self._words: list[str] = []
        self._places: dict[int, int] = {}
        self._alive: list[Any] = []  # keeps identities unique

    def digest(self, network: nn.Module) -> bytes:
        self._enter(network, 0)
        if self.values:  # weights may lie in C++: scripted and quantised modules
            try:
                self._enter(network.state_dict(keep_vars=True), 0)
            except Exception as error:  # foreign code
                self._say(type(error).__name__)
        text = "\n".join(self._words)
        return hashlib.blake2b(text.encode("utf-8", "backslashreplace"), digest_size=16).digest()

    def _say(self, *words: Any) -> None:
        self._words.append(repr(words))

    def _enter(self, value: Any, depth: int) -> None:
        kind = type(value)
        if kind in _QUICK or (kind is tuple and _QUICK.issuperset(map(type, value))) or isinstance(value, _PLAIN):
            self._words.append(repr(value))
            return
        place = self._places.get(id(value))
        if place is not None:
            self._say("again", place)
            return
        if isinstance(value, Tensor):
            self._met(value)
            self._tensor(value)
        elif isinstance(value, nn.Module):
            self._met(value)
            self._object(value, 0)
        elif depth < DEPTH:
            self._met(value)
            self._other(value, depth + 1)
        else:
            self._say("deeper", type(value).__qualname__)

    def _met(self, value: Any) -> None:
        self._places[id(value)] = len(self._alive)
        self._alive.append(value)

    def _other(self, value: Any, depth: int) -> None:
        """Whatever is neither a plain value nor a tensor nor a module."""
        if isinstance(value, dict | Mapping):
            self._say("mapping", len(value))
            for key, item in list(value.items()):
                self._enter(key, depth)
                self._enter(item, depth)
        elif isinstance(value, list | tuple):
            self._say("list", len(value))
            self._all(value, depth)
        elif isinstance(value, types.FunctionType):
            self._say("function", value.__qualname__)
            self._code(value.__code__)
            cells = [_in_cell(cell) for cell in value.__closure__ or ()]
            self._all((value.__defaults__, value.__kwdefaults__, cells, vars(value)), depth)
        elif isinstance(value, types.MethodType):
            self._all((value.__func__, value.__self__), depth)
        elif isinstance(value, functools.partial):
            self._all((value.func, value.args, value.keywords), depth)
        elif isinstance(value, weakref.ref):
            self._enter(value(), depth)
        elif isinstance(value, set | frozenset):
            self._say("set", sorted(repr(v) if isinstance(v, _PLAIN) else type(v).__qualname__ for v in value))
        elif isinstance(value, np.ndarray) and value.dtype != object:
            self._say("array", value.shape, value.dtype.str, zlib.crc32(np.ascontiguousarray(value).data))
        elif isinstance(value, type | types.ModuleType | types.BuiltinFunctionType):
            self._say(type(value).__name__, getattr(value, "__module__", ""), getattr(value, "__qualname__", value.__name__))
        else:
            self._object(value, depth)

    def _all(self, values: Iterable[Any], depth: int) -> None:
        for value in values:
            self._enter(value, depth)

    def _object(self, value: Any, depth: int) -> None:
        """A module or another object: its class, then its attributes; those that are empty say nothing."""
        kind = type(value)
        self._say(kind.__module__, kind.__qualname__)
        if self.identities:
            self._say(id(value), id(kind))
        for cls in kind.__mro__:
            if not cls.__module__.startswith(_GIVEN):
                self._class(cls, depth)
        for cls in kind.__mro__:
            slots = cls.__dict__.get("__slots__", ())
            for slot in (slots,) if isinstance(slots, str) else slots:
                if slot not in ("__dict__", "__weakref__"):
                    self._attribute(slot, getattr(value, slot, None), depth)
        for name, item in list(getattr(value, "__dict__", {}).items()):
            if not isinstance(item, dict) or item:
                self._attribute(name, item, depth)

    def _attribute(self, name: str, value: Any, depth: int) -> None:
        self._words.append(name)
        if name.endswith("_hooks") and isinstance(value, Mapping):  # their keys count all hooks of the process
            value = list(value.values())
        elif "_hooks_" in name and isinstance(value, Mapping):
            value = len(value)
        self._enter(value, depth)

    def _class(self, cls: type, depth: int) -> None:
        """Methods and plain constants of a class that is not torch's."""
        if id(cls) in self._places:
            return
        self._met(cls)
        for name, item in list(vars(cls).items()):
            if isinstance(item, types.FunctionType) and self.values:
                self._enter(item, depth)
            elif isinstance(item, types.FunctionType):
                self._say(name, id(item.__code__))
            elif isinstance(item, _PLAIN) and not name.startswith("__"):
                self._say(name, item)

    def _code(self, code: types.CodeType) -> None:
        self._say(code.co_code, code.co_names)
        for constant in code.co_consts:
            if isinstance(constant, types.CodeType):
                self._code(constant)
            elif isinstance(constant, frozenset):  # the order differs from one process to the next
                self._say(sorted(map(repr, constant)))
            else:
                self._say(constant)

    def _tensor(self, tensor: Tensor) -> None:
        self._say(type(tensor).__name__, tuple(tensor.shape), str(tensor.dtype), str(tensor.device), str(tensor.layout))
        if not self.values:
            counted = -1 if tensor.is_inference() else tensor._version
            self._say(id(tensor), counted)
            return
        if tensor.is_meta:
            return
        try:
            data = tensor.detach().reshape(-1).cpu().contiguous().view(torch.uint8).numpy()
        except (RuntimeError, TypeError, NotImplementedError):  # quantised, sparse
            file = io.BytesIO()
            torch.save(tensor.detach(), file)
            data = np.frombuffer(file.getvalue(), np.uint8)
        self._say(zlib.crc32(data.data))  # 3 GB/s, three times as fast as a cryptographic digest


_GIVEN = ("torch.", "builtins", "abc", "typing", "collections")  #: modules whose classes nobody changes


def _in_cell(cell: types.CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # empty as yet
        return None
