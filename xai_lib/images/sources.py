"""What a name or a path stands for: photographs inside packages, ImageNet samples, a user's own, drawn phantoms and critters."""

from __future__ import annotations

import csv
import difflib
import os
import re
import urllib.parse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from xai_lib import critters, phantoms
from xai_lib.images import scans
from xai_lib.images.decoding import ImageError, printable, read_pixels

SAMPLES = "imagenet-samples"
PHANTOMS = "mri-phantoms"
CRITTERS = "critters"
REGISTRY = Path(__file__).resolve().parents[2] / "data" / "registry" / f"{SAMPLES}.csv"
SUFFIXES = {
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".gif", ".bmp", ".tif", ".tiff", ".webp", ".ppm", ".pgm",
    ".pbm", ".pnm", ".jp2", ".avif", ".heic", ".heif",
}  # fmt: skip


class MissingPhotograph(ImageError):
    """A photograph of a known set that is not on this machine; unlike a bad file, it is never skipped."""


@dataclass(frozen=True)
class Entry:
    """A photograph that has not been read yet.

    `labels`: ImageNet classes that are right for it. `sha256`, `url`: what the file must be and where it is
    had. `fetch`: whether it may be fetched. `packaged`: it lies inside an installed package, whose version
    says it all. `known`: the known set that it is of, where it has a `url`.
    """

    name: str
    path: Path
    labels: tuple[int, ...] = ()
    credit: str = ""
    sha256: str = ""
    url: str = ""
    fetch: bool = False
    packaged: bool = False
    known: str = SAMPLES

    def pixels(self) -> np.ndarray:
        """`(H, W, 3)` uint8, as `decoding.read_pixels`; fetched first if absent and allowed."""
        if self.url and not os.path.lexists(self.path):
            self._get()
        return read_pixels(self.path, self.sha256)

    def read(self) -> tuple[np.ndarray, np.ndarray | None]:
        """The pixels, and None: nobody has marked on a photograph what is to be found."""
        return self.pixels(), None

    def _get(self) -> None:
        import pooch

        by_hand = f"put {self.url} by hand at {self.path} or in $XAI_DATA_HOME/{self.known}"
        if not self.fetch:
            raise MissingPhotograph(
                f"{self.path.name} is neither in {_data_home(self.known) or '$XAI_DATA_HOME (not set)'} nor in "
                f"{self.path.parent}; fetch it with load({self.known!r}, download=True), or {by_hand}"
            )
        try:
            pooch.retrieve(self.url, f"sha256:{self.sha256}", self.path.name, self.path.parent)
        except Exception as error:  # from requests, the file system, or pooch's own about the checksum
            raise MissingPhotograph(
                f"{self.path.name} could not be fetched from {self.url}: {error}; try again, or {by_hand}"
            ) from error


@dataclass(frozen=True)
class Drawn:
    """A phantom or critter that has not been drawn yet; no file holds it. `labels`: its place in `CLASSES` of its package."""

    name: str
    subject: Callable[[], phantoms.Phantom | critters.Critter]
    size: int
    labels: tuple[int, ...]
    credit: str
    path: None = None
    packaged: bool = True

    def pixels(self) -> np.ndarray:
        """`(size, size, 3)` uint8."""
        return self.subject().draw(self.size).pixels

    def read(self) -> tuple[np.ndarray, np.ndarray | None]:
        """The pixels, and the true mask of the lesion or critter, `(size, size)` bool."""
        drawing = self.subject().draw(self.size)
        return drawing.pixels, drawing.mask


def drawn(known: str, per_class: int = 10, size: int = 224, seed: int = 0) -> list[Drawn]:
    """`per_class` pictures of each class of `PHANTOMS` or `CRITTERS`; a name is the class and the index, `glioma-0003`."""
    if not isinstance(per_class, int) or per_class < 1:
        raise ImageError(f"{known}: per_class: expected a whole number from 1, found {per_class!r}")
    package = phantoms if known == PHANTOMS else critters
    make: Callable[..., Any] = phantoms.phantom if known == PHANTOMS else critters.critter
    try:
        package.check(size, seed)
    except (phantoms.PhantomError, critters.CritterError) as error:
        raise ImageError(f"{known}: {error}") from None
    return [
        Drawn(f"{kind}-{index:04}", partial(make, kind, index, seed), size, (label,), package.CREDIT)
        for label, kind in enumerate(package.CLASSES)
        for index in range(per_class)
    ]


_CC0 = "CC0, no copyright restrictions"
_BY = "CC BY 2.0, from scikit-learn's sample images"
_MIDDLEBURY = (
    "left view, Middlebury stereo benchmark 2014, by Nesic, Westling, Wang, Kitajima, Krathwohl and "
    "Scharstein; down-sampled by 4, as scikit-image distributes it; cite Scharstein et al., GCPR 2014"
)
# name: (package, file, classes that are right, credit). The classes are our reading of the picture, by the
# nearest that ImageNet has. It has none for the flower, which is no daisy, nor for the astronaut.
_PACKAGED: dict[str, tuple[str, str, tuple[int, ...], str]] = {
    "coffee": ("skimage", "data/coffee.png", (967, 968), f"Rachel Michetti, Pikolo Espresso Bar; {_CC0}"),
    "stereo_motorcycle": ("skimage", "data/motorcycle_left.png", (665, 670), _MIDDLEBURY),
    "chelsea": ("skimage", "data/chelsea.png", (281, 282, 285), f"Stefan van der Walt; {_CC0}"),
    "flower": ("sklearn", "datasets/images/flower.jpg", (), f"flickr.com/photos/vultilion; {_BY}"),
    "china": ("sklearn", "datasets/images/china.jpg", (698,), f"flickr.com/photos/danielbuechele; {_BY}"),
    "camera": ("skimage", "data/camera.png", (872,), f"Lav Varshney; {_CC0}"),
    "rocket": ("skimage", "data/rocket.jpg", (657, 744), "SpaceX, DSCOVR on Falcon 9; public domain"),
    "grace_hopper": (
        "matplotlib", "mpl-data/sample_data/grace_hopper.jpg", (652,), "US Navy, Grace Hopper; public domain",
    ),
    "astronaut": ("skimage", "data/astronaut.png", (), "NASA, Eileen Collins; public domain"),
    "clock": ("skimage", "data/clock_motion.png", (892,), "Stefan van der Walt; public domain"),
}  # fmt: skip


def photos() -> list[Entry]:
    """Ten photographs inside installed packages, which are not imported for it."""
    return [
        Entry(name, _package(package) / file, labels, credit, packaged=True)
        for name, (package, file, labels, credit) in _PACKAGED.items()
    ]


def _package(name: str) -> Path:
    spec = find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise ImageError(f"the package {name}, which holds files that are needed here, is not installed")
    return Path(next(iter(spec.submodule_search_locations)))


def _data_home(known: str) -> Path | None:
    home = os.environ.get("XAI_DATA_HOME")
    return Path(home) / known if home else None


def samples(fetch: bool, folder: Path | None) -> list[Entry]:
    """The ImageNet samples of data/registry: in `$XAI_DATA_HOME`, else in `folder` or pooch's cache."""
    if not REGISTRY.is_file():
        raise ImageError(f"the list {REGISTRY} is missing; install from a clone, with pip install -e .")
    home, store = _data_home(SAMPLES), _store(SAMPLES, folder)
    entries = []
    for row in csv.DictReader(REGISTRY.read_text(encoding="utf-8").splitlines()):
        here = home is not None and os.path.lexists(home / row["file"])
        path = (home if home is not None and here else store) / row["file"]
        name, label = Path(row["file"]).stem.partition("_")[2], int(row["class_index"])
        credit = f"ImageNet, {row['wnid']}, for non-commercial research and education only; {row['url']}"
        entries.append(Entry(name, path, (label,), credit, row["sha256"], row["url"], fetch))
    return entries


def brain_mri(fetch: bool, folder: Path | None) -> list[Entry]:
    """The brain scans of data/registry, in the list's order; in `$XAI_DATA_HOME` also their copy of 224 pixels."""
    home, store = _data_home(scans.SCANS), _store(scans.SCANS, folder)
    entries = []
    rows: Any = scans.table().itertuples()
    for row in rows:
        here = home is not None and os.path.lexists(home / row.path)
        path = (home if home is not None and here else store) / row.path
        original = not here or path.stat().st_size == row.bytes
        checksum, url = row.sha256 if original else row.copy_sha256, scans.URL + urllib.parse.quote(row.path)
        entries.append(Entry(row.name, path, (row.label,), scans.CREDIT, checksum, url, fetch, known=scans.SCANS))
    return entries


def _store(known: str, folder: Path | None) -> Path:
    import pooch

    return (folder or Path(pooch.os_cache("xai-lib"))) / known


def files(paths: Sequence[Path]) -> list[Entry]:
    """Files as they are given, folders with all pictures below them; a file met twice counts once."""
    found: dict[Path, Path] = {}
    for path in paths:
        if not os.path.lexists(path):
            raise ImageError(f"no file or folder {printable(path)!r} (paths start from {Path.cwd()})")
        found |= {file.absolute(): file for file in (pictures_below(path) if path.is_dir() else [path])}
    named = zip(_unique_names(list(found)), found.values(), strict=True)
    return [Entry(name, file, _label(file)) for name, file in named]


def pictures_below(folder: Path) -> list[Path]:
    """Pictures in a folder and below, linked folders once; one that cannot be opened stands for itself.

    Raises `ImageError` where there are none.
    """
    pictures: list[Path] = []
    closed: list[Path] = []
    others, seen = 0, {os.path.realpath(folder)}

    def note(error: OSError) -> None:
        closed.append(Path(error.filename))

    for here, below, inside in os.walk(folder, onerror=note, followlinks=True):
        fresh = {os.path.realpath(Path(here, name)): name for name in sorted(below) if name[0] != "."}
        below[:] = [name for real, name in fresh.items() if real not in seen]
        seen.update(fresh)
        wanted = [name for name in inside if Path(name).suffix.lower() in SUFFIXES and name[0] != "."]
        others += len(inside) - len(wanted)
        pictures += [Path(here, name) for name in wanted]
    if not pictures + closed:
        raise ImageError(
            f"{printable(folder)}: no pictures in this folder or below, and {others} other files; "
            f"expected names that end in {', '.join(sorted(SUFFIXES))}"
        )
    return sorted(pictures + closed)


def _unique_names(paths: Sequence[Path]) -> list[str]:
    """Stems; where two are the same, paths below the common folder, with suffixes only if needed."""
    root = os.path.commonpath([path.parent for path in paths]) if paths else ""
    below = [path.relative_to(root) for path in paths]
    full = [path.as_posix() for path in below]
    choices = ([path.stem for path in below], [path.with_suffix("").as_posix() for path in below])
    unique = (names for names in choices if len(set(names)) == len(names))
    return [printable(name) for name in next(unique, full)]


def _label(path: Path) -> tuple[int, ...]:
    wnid = path.absolute().parent.name
    return (_synsets()[wnid],) if re.fullmatch(r"n\d{8}", wnid) and wnid in _synsets() else ()


@cache
def _synsets() -> dict[str, int]:
    """Class index of each WordNet id, from timm's list: the order of torchvision's and timm's networks."""
    lines = (_package("timm") / "data" / "_info" / "imagenet_synsets.txt").read_text().split()
    return {wnid: index for index, wnid in enumerate(lines)}


def nearest(name: str, known: Sequence[str]) -> str:
    """The end of an error about an unknown name: the known names like it, or some known names."""
    if near := difflib.get_close_matches(name, known, 3, 0.5):
        return f"the nearest: {', '.join(near)}"
    return f"known: {', '.join(known[:12])}{' ...' if len(known) > 12 else ''}"
