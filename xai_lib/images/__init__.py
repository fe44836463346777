"""Where photographs come from: a known set, a file, a folder, as a lazy sequence of named pictures.

```python
photos = images.load("photos")           # real photographs inside the installed packages: no network
photos["coffee"].pixels                  # (400, 600, 3) uint8
photos.batch(classifier)                 # (10, 3, 224, 224) float32, 0..1; row i is photos.loaded_names[i]
images.load("my/holiday")                # every picture in a folder and below
images.load("mri-phantoms")              # drawn brain slices, whose tumours' masks are known; not clinical
images.load("critters", size=64)         # drawn animals and bottles, whose masks are known
```
"""

from __future__ import annotations

import base64
import html
import io
import os
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

import numpy as np
from PIL import Image

from xai_lib.images import scans, sources, splits
from xai_lib.images.decoding import ImageError
from xai_lib.images.scans import SCANS
from xai_lib.images.sources import CRITTERS, PHANTOMS, SAMPLES, Drawn, Entry, MissingPhotograph

if TYPE_CHECKING:
    from torch import Tensor

    from xai_lib.images.labelled import Labelled

__all__ = ["ImageError", "Images", "MissingPhotograph", "Photo", "View", "load", "load_labelled", "names", "scans", "splits"]

STRIP = 16  # ratio of the sides beyond which only the middle is resized
SHOWN = 24  # thumbnails in Jupyter


@dataclass(frozen=True)
class View:
    """How a network wants to see a picture: resized, then cropped at the centre, as torchvision's presets do.

    `size`: side of the crop, pixels. `resize`: shorter side before the crop, pixels. `interpolation`:
    Pillow's, antialiased. `squash`: the whole picture is made a square of `size`, whatever its shape, and nothing
    is cropped (as brain scans are read in paper 4); `resize` then has no effect.
    """

    size: int = 224
    resize: int = 256
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    squash: bool = False

    def __post_init__(self) -> None:
        if not 1 <= self.size <= self.resize:
            raise ImageError(
                f"a view needs 1 <= size <= resize, found size={self.size}, resize={self.resize}"
            )
        if self.interpolation not in ("bilinear", "bicubic"):
            raise ImageError(f"interpolation must be 'bilinear' or 'bicubic', found {self.interpolation!r}")

    def apply(self, pixels: np.ndarray, channels: int = 3) -> Tensor:
        """`(H, W, 3)` uint8 to `(channels, size, size)` float32, 0..1, not normalised: exactly k/255.

        `channels`: 3, or 1 for the luminance (ITU-R 601, as Pillow's "L"). Raises `ImageError` for other numbers.
        Any picture from 1×1 on. Of a strip longer than 16 times its width only the middle is resized: the
        crop needs no more, and the whole would not fit in memory.
        """
        if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype != np.uint8 or not pixels.size:
            raise ImageError(f"expected pixels (H, W, 3) uint8, found {pixels.shape} {pixels.dtype}")
        if channels not in (1, 3):
            raise ImageError(
                f"expected a network of 3 channels, or of 1 for luminance, found {channels}: images are RGB; make its tensors "
                "(N, channels, H, W) in 0..1 yourself and pass them to the explainers in Python"
            )
        cropped = self._cropped(pixels)
        return _tensor(cropped if channels == 3 else np.array(Image.fromarray(cropped).convert("L"))[..., None])

    def apply_mask(self, mask: np.ndarray) -> Tensor:
        """`(H, W)` bool to `(size, size)` bool, by the same geometry: true where at least half of a pixel is."""
        import torch

        if mask.ndim != 2 or mask.dtype != np.bool_ or not mask.size:
            raise ImageError(f"expected a mask (H, W) bool, found {mask.shape} {mask.dtype}")
        return torch.from_numpy(self._cropped(mask.astype(np.uint8) * 255) >= 128)

    def _cropped(self, pixels: np.ndarray) -> np.ndarray:
        how = Image.Resampling[self.interpolation.upper()]
        if self.squash:
            return np.array(Image.fromarray(pixels).resize((self.size, self.size), how))
        picture = Image.fromarray(_middle(pixels))
        short = min(picture.size)
        width, height = (int(self.resize * side / short) for side in picture.size)
        resized = picture.resize((width, height), how)
        left, top = round((width - self.size) / 2), round((height - self.size) / 2)
        return np.array(resized.crop((left, top, left + self.size, top + self.size)))


def _middle(pixels: np.ndarray) -> np.ndarray:
    height, width = pixels.shape[:2]
    down, across = (max(0, (side - STRIP * min(height, width)) // 2) for side in (height, width))
    return np.ascontiguousarray(pixels[down : height - down, across : width - across])


def _tensor(pixels: np.ndarray) -> Tensor:
    import torch

    return torch.from_numpy(pixels).permute(2, 0, 1).contiguous().float().div(255)


@dataclass(frozen=True, eq=False)
class Photo:
    """A photograph, read.

    `pixels`: `(H, W, 3)` uint8, sRGB, upright, native size. `label`: its ImageNet class, 0..999, or None;
    `labels`: all classes that are right for it, `label` first. `credit`: origin and licence, empty for a
    user's own. `source`: the file that it was read from. Of a scan and a drawn phantom `label` is its place in
    `phantoms.CLASSES`, of a critter in `critters.CLASSES`. `mask` `(H, W)` bool shows a phantom's lesion or the
    critter; None for photographs.
    """

    name: str
    pixels: np.ndarray = field(repr=False)
    label: int | None = None
    labels: tuple[int, ...] = ()
    credit: str = ""
    source: Path | None = None
    mask: np.ndarray | None = field(default=None, repr=False)

    @property
    def image(self) -> Tensor:
        """`(3, H, W)` float32, 0..1."""
        return _tensor(self.pixels)

    def _repr_png_(self) -> bytes:
        return _thumbnail(self.pixels, "PNG", 512)


class Images:
    """A lazy sequence of named images: each is read when it is asked for, and not kept.

    `images["coffee"]` and `images[3]` are a `Photo`, or raise `ImageError`; `images[2:5]` and `images.select(names)` are
    `Images`. Several may have one name; a number then distinguishes them. Iterating gives
    `(name, image (3, H, W) float32 0..1, label)`. Iterating and `batch` leave a bad file out, warn of it by name and note it in
    `failures` (name to reason).
    """

    def __init__(self, entries: Iterable[Entry | Drawn]) -> None:
        self._entries = list(entries)
        self._rows: dict[str, list[int]] = {}
        for row, entry in enumerate(self._entries):
            self._rows.setdefault(entry.name, []).append(row)
        self.failures: dict[str, str] = {}
        self._failed: set[int] = set()

    @property
    def names(self) -> tuple[str, ...]:
        """All names, also of files that turn out to be bad."""
        return tuple(entry.name for entry in self._entries)

    @property
    def labels(self) -> tuple[int | None, ...]:
        """The class of each name (ImageNet's, or `CLASSES` of `phantoms` or `critters`), None where it is not known."""
        return tuple(_first(entry.labels) for entry in self._entries)

    @property
    def loaded_names(self) -> tuple[str, ...]:
        """Names without those that failed; after `batch`, exactly its rows."""
        return tuple(entry.name for row, entry in enumerate(self._entries) if row not in self._failed)

    @property
    def sources(self) -> list[Path]:
        """Files that the pictures are read from; those inside installed packages are not listed."""
        return [entry.path for entry in self._entries if entry.path and not entry.packaged]

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, name: object) -> bool:
        return name in self._rows

    def __iter__(self) -> Iterator[tuple[str, Tensor, int | None]]:
        for photo in self._readable():
            yield photo.name, photo.image, photo.label

    @overload
    def __getitem__(self, key: str | int) -> Photo: ...
    @overload
    def __getitem__(self, key: slice) -> Images: ...
    def __getitem__(self, key: str | int | slice) -> Photo | Images:
        if isinstance(key, slice):
            return Images(self._entries[key])
        return _read(self._entry(key) if isinstance(key, str) else self._entries[key])

    def select(self, names: Iterable[str]) -> Images:
        """The images of these names, in this order. Raises `ImageError` for a name that is unknown or belongs to several."""
        return Images([self._entry(name) for name in ([names] if isinstance(names, str) else names)])

    def batch(self, view: Viewer = None) -> Tensor:
        """All readable images, `(N, channels, size, size)` float32, 0..1, not normalised; row i is `loaded_names[i]`.

        `view`: the classifier they are for, whose `view` and `channels` (3, or 1 for luminance) count; or a `View`, with
        three channels; `View()` if not given; a number is the side of the crop, with 256/224 of it as the shorter side before.
        Raises `ImageError` when there are image files but none can be read.
        """
        import torch

        view, channels = _view(view)
        rows = [view.apply(photo.pixels, channels) for photo in self._readable()]
        if self._entries and not rows:
            reason = next(iter(self.failures.values()))
            raise ImageError(f"none of {len(self)} photographs can be read; the first: {reason}")
        return torch.stack(rows) if rows else torch.empty(0, channels, view.size, view.size)

    def viewed(self, view: Viewer = None) -> Iterator[tuple[str, Tensor, int | None]]:
        """Name, picture as `batch` gives it, and label of each readable photograph, one at a time."""
        view, channels = _view(view)
        for photo in self._readable():
            yield photo.name, view.apply(photo.pixels, channels), photo.label

    def masks(self, view: Viewer = None) -> Tensor:
        """The true masks of drawn phantoms or critters, `(N, size, size)` bool, by the geometry of `batch` and row by row.

        All False for "no_tumour". Raises `ImageError` for photographs, whose truth nobody knows.
        """
        import torch

        view, rows = _view(view)[0], []
        for photo in self._readable():
            if photo.mask is None:
                raise ImageError(f"{photo.name!r} has no mask; only drawn pictures have: load({PHANTOMS!r})")
            rows.append(view.apply_mask(photo.mask))
        return torch.stack(rows) if rows else torch.empty(0, view.size, view.size, dtype=torch.bool)

    def _readable(self) -> Iterator[Photo]:
        for row, entry in enumerate(self._entries):
            name = entry.name
            if row == self._rows[name][0]:  # of an earlier reading
                self.failures.pop(name, None)
            self._failed.discard(row)
            try:
                photo = _read(entry)
            except MissingPhotograph:
                raise
            except ImageError as error:
                self.failures[name] = str(error)
                self._failed.add(row)
                warnings.warn(f"left out {name!r}: {error}", stacklevel=3)
            else:
                yield photo

    def _entry(self, name: str) -> Entry | Drawn:
        rows = self._rows.get(name, [])
        if not rows:
            raise ImageError(f"no photograph is called {name!r}; {sources.nearest(name, self.names)}")
        if len(rows) > 1:
            raise ImageError(f"{len(rows)} images are called {name!r}; ask for one by its number: {', '.join(map(str, rows))}")
        return self._entries[rows[0]]

    def __repr__(self) -> str:
        return f"Images({len(self)}: {', '.join(self.names[:8])}{', ...' if len(self) > 8 else ''})"

    def _repr_html_(self) -> str:
        figures = "".join(_figure(entry) for entry in self._entries[:SHOWN])
        more = f"<p>and {len(self) - SHOWN} more</p>" if len(self) > SHOWN else ""
        return f'<div style="display:flex;flex-wrap:wrap;gap:8px">{figures}</div>{more}'


def load(
    name_or_path: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
    *,
    download: bool = False,
    cache: str | os.PathLike[str] | None = None,
    per_class: int = 10,
    size: int = 224,
    seed: int = 0,
) -> Images:
    """The photographs of a known set, of a file, of a folder and those below it, or of a list of files and
    folders.

    `"photos"`: ten photographs inside installed packages. `"imagenet-samples"`: 200 of ImageNet's, one a
    class, out of the choice of github.com/EliSchwartz/imagenet-sample-images, under ImageNet's terms:
    non-commercial research and education only. They are looked for in `$XAI_DATA_HOME/imagenet-samples`, then
    in the folder of that name in `cache` (if not given, pooch's cache of "xai-lib"); with `download=True`
    each is fetched into the latter when it is read. All must have the checksum of data/registry. A known name
    goes before a file of that name: write "./photos", or give a `Path`, for the file.

    `"brain-mri"`: 3264 brain scans of four classes (Bhuvaji et al.), found in the same way; `scans.table()` says which are
    training and test, which copy one another, and their original sizes. Not clinical. In `$XAI_DATA_HOME` the originals or
    copies whose longest side is 224 pixels will do.

    `"mri-phantoms"`: brain slices drawn when they are asked for, by `xai_lib.phantoms`; synthetic, not
    clinical data. `per_class` of each of the four classes, squares of `size` pixels, from `seed`, all three
    of which concern drawn sets alone. `glioma-0003` is the same picture whatever else is drawn.

    `"critters"`: animals and bottles of eight classes, drawn likewise by `xai_lib.critters`, which also gives
    their parts and parameters, and many at once.

    In folders, files with a picture's suffix are taken in sorted order, hidden ones left out. A name is the
    file's stem, or its path below the folder where two stems are the same. A file whose own folder has the
    name of one of ImageNet's WordNet ids (n02123394) gets that class, as in an ILSVRC validation set sorted
    into folders. In the flat one (ILSVRC2012_val_00000001.JPEG ...) there are no labels: the ground truth of
    the development kit counts classes in another order than the networks do.

    Embedded colour profiles are converted to sRGB, which the usual evaluation on ImageNet leaves out; of the
    known photographs that changes rocket and 27 of the 200.

    Raises `ImageError`: an unknown name (with the nearest ones), a folder without pictures.
    """
    if not isinstance(name_or_path, str | os.PathLike):
        return Images(sources.files([Path(path) for path in name_or_path]))
    if name_or_path == "photos":
        return Images(sources.photos())
    if name_or_path == SAMPLES:
        return Images(sources.samples(download, Path(cache) if cache is not None else None))
    if name_or_path == SCANS:
        return Images(sources.brain_mri(download, Path(cache) if cache is not None else None))
    if name_or_path == PHANTOMS:
        return Images(sources.drawn(PHANTOMS, per_class, size, seed))
    if name_or_path == CRITTERS:
        return Images(sources.drawn(CRITTERS, per_class, size, seed))
    if isinstance(name_or_path, str) and not os.path.lexists(name_or_path):
        raise ImageError(
            f"no set of photographs, file or folder is called {name_or_path!r} "
            f"(paths start from {Path.cwd()}); {sources.nearest(name_or_path, names())}"
        )
    return Images(sources.files([Path(name_or_path)]))


def load_labelled(
    folder: str | os.PathLike[str],
    classes: Sequence[str] | None = None,
    splits: Sequence[str] | None = None,
    least: int = 2,
) -> Labelled:
    """A user's own pictures in folders named after their classes: `folder/CLASS/*.jpg` or `folder/SPLIT/CLASS/*.jpg`.

    `classes`: the names there must be, whose order gives the labels; if not given, those found, in alphabetical order.
    `splits`: those there must be. `least`: pictures that each class needs in each split. A picture that turns out to be
    damaged is left out with a warning when it is read, as by all `Images`.

    Raises `ImageError`, which names the folder: other classes than wanted or than in the other splits, a missing split, a
    class with fewer pictures than `least`, pictures outside of class folders.
    """
    from xai_lib.images import labelled

    return labelled.load(Path(folder), classes, splits, least)


def names() -> list[str]:
    """The known sets."""
    return ["photos", SAMPLES, SCANS, PHANTOMS, CRITTERS]


def _first(labels: tuple[int, ...]) -> int | None:
    return labels[0] if labels else None


Viewer = View | int | Any | None  #: a view, the side of a crop, or a classifier, which has `view` and `channels`


def _view(view: Viewer) -> tuple[View, int]:
    """The view, and the number of channels that the network takes."""
    if isinstance(view, int):
        return View(int(view), round(view * 256 / 224)), 3
    view = View() if view is None else view
    return (view, 3) if isinstance(view, View) else (view.view, int(getattr(view, "channels", 3)))


def _read(entry: Entry | Drawn) -> Photo:
    pixels, mask = entry.read()
    return Photo(entry.name, pixels, _first(entry.labels), entry.labels, entry.credit, entry.path, mask)


def _thumbnail(pixels: np.ndarray, kind: str, side: int) -> bytes:
    small, buffer = Image.fromarray(pixels), io.BytesIO()
    small.thumbnail((side, side))
    small.save(buffer, kind)
    return buffer.getvalue()


def _figure(entry: Entry | Drawn) -> str:
    name = html.escape(entry.name)
    try:
        data = base64.b64encode(_thumbnail(entry.pixels(), "JPEG", 128)).decode()
        body = f'<img src="data:image/jpeg;base64,{data}" alt="{name}">'
    except ImageError as error:
        body = f"<em>{html.escape(str(error))}</em>"
    start = f'<figure style="margin:0;max-width:160px" title="{html.escape(entry.credit)}">'
    return f"{start}{body}<figcaption>{name}</figcaption></figure>"
