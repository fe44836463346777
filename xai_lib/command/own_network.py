"""A network of the user's own for the command line: `FILE.py:NAME` or `PACKAGE.MODULE:NAME`. The file is executed."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import sys
import sysconfig
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from xai_lib.errors import XaiError, nearest

if TYPE_CHECKING:
    from xai_lib.classifiers import Classifier

EXAMPLE = "return Classifier(network, mean=..., std=..., view=View(side, side), class_names=[...])"


class NetworkError(XaiError):
    """A network of the user's own that cannot be had: no such file, no such name, an exception in it, something else in it."""


def is_own(network: str) -> bool:
    """Whether `--network` names a Python object and not a network of torchvision, of timm or of `xai_lib.training`."""
    return network.endswith(".py") or (":" in network and not network.startswith("timm:"))


def load(network: str, remarks: list[str]) -> Classifier:
    """The classifier; what had to be assumed is added to `remarks`. Raises `NetworkError`, which names the line at fault."""
    place, _, name = network.rpartition(":") if not network.endswith(".py") else (network, "", "")
    with _importable(Path(place).resolve().parent if place.endswith(".py") else Path.cwd()):
        found = _made(_named(_module(place, network), name, network), name, network)
    return _classifier(found, name, network, remarks)


def _module(place: str, network: str) -> ModuleType:
    """The executed file, or the imported module."""
    if place.endswith(".py"):
        return _executed(Path(place), network)
    try:
        return importlib.import_module(place)
    except (Exception, SystemExit) as error:
        missing = error.name if isinstance(error, ModuleNotFoundError) else None
        if missing is None or not f"{place}.".startswith(f"{missing}."):
            raise _raised(error, f"importing {place}", network) from None
        raise NetworkError(f"--network {network}: no module {missing!r}; expected FILE.py:NAME or MODULE:NAME") from None


def _executed(path: Path, network: str) -> ModuleType:
    if not path.is_file():
        found = "a folder" if path.is_dir() else "nothing of that name"
        raise NetworkError(f"--network {network}: expected a Python file {path}, found {found} (paths start from {Path.cwd()})")
    name = f"_own_network_{path.stem}"  # a file torch.py must not take the place of torch
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None, "a name that ends in .py has a loader"
    module = sys.modules[name] = importlib.util.module_from_spec(spec)  # dataclasses and pickle look their module up there
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        raise _raised(error, f"running {path}", network) from None
    return module


@contextlib.contextmanager
def _importable(folder: Path) -> Iterator[None]:
    """Modules in that folder can be imported, as in a script that lies there."""
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))


def _named(module: ModuleType, name: str, network: str) -> Any:
    from torch import nn

    known = [
        n for n, value in vars(module).items()
        if isinstance(value, nn.Module) or (callable(value) and getattr(value, "__module__", "") == module.__name__)
    ]  # fmt: skip
    hint = nearest(name, known) if known else "it defines no function, class or network"
    if not name:
        raise NetworkError(f"--network {network}: name what in it gives the network, {network.rstrip(':')}:NAME; {hint}")
    found: Any = module
    for part in name.split("."):
        if not hasattr(found, part):
            raise NetworkError(f"--network {network}: {_file(module)} has no {part!r}; {hint}")
        found = getattr(found, part)
    return found


def _file(module: ModuleType) -> str:
    return str(getattr(module, "__file__", None) or module.__name__)


def _made(found: Any, name: str, network: str) -> Any:
    """What a function or class gives when it is called without arguments; a network or classifier is taken as it is."""
    from torch import nn

    if isinstance(found, nn.Module) or not callable(found):
        return found
    try:
        return found()
    except (Exception, SystemExit) as error:
        raise _raised(error, f"{name}()", network) from None


def _classifier(found: Any, name: str, network: str, remarks: list[str]) -> Classifier:
    from torch import nn

    from xai_lib.classifiers import Classifier

    if isinstance(found, Classifier):
        return found
    if not isinstance(found, nn.Module):
        what = f"{type(found).__module__}.{type(found).__qualname__}".removeprefix("builtins.")
        hint = "; load the state dict into a network and return that" if isinstance(found, dict) else ""
        expected = f"expected {name} to be or to return an nn.Module or a Classifier"
        raise NetworkError(f"--network {network}: {expected}, found {what}{hint}")
    classifier = Classifier(found)
    view, mean = classifier.view, ", ".join(f"{value:.3g}" for value in classifier.mean.flatten().tolist())
    remarks.append(
        f"{network} gives no Classifier: taken as a network of RGB images of {view.size} pixels, normalised as on ImageNet "
        f"(mean {mean}), classes without names. If that is wrong: {EXAMPLE}"
    )
    return classifier


def _raised(error: BaseException, doing: str, network: str) -> NetworkError:
    """The last line of the traceback, and the last place in it that is neither Python's own nor in an installed package."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename != __file__]
    if isinstance(error, SyntaxError) and error.filename:
        where = f"{error.filename}:{error.lineno}"
    else:
        foreign = ("<frozen", sysconfig.get_path("stdlib"), sysconfig.get_path("platlib"))
        own = [f for f in frames if not f.filename.startswith(foreign)]
        where = f"{own[-1].filename}:{own[-1].lineno}" if own else ""
    said = traceback.format_exception_only(error)[-1].strip()
    return NetworkError(f"--network {network}: {doing} raised {said}" + (f" ({where})" if where else ""))


