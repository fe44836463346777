"""Phantoms: the same bytes for the same numbers, lesions as in textbooks, one factor at a time, and no class by a trick."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
import time
from functools import cache

import numpy as np
import pytest
import torch
from scipy import ndimage

from xai_lib import images, phantoms
from xai_lib.images import ImageError, View
from xai_lib.phantoms import CLASSES, Drawing, Phantom, PhantomError, phantom
from xai_lib.phantoms.anatomy import PLANES, canvas, inside_skull
from xai_lib.phantoms.lesions import SELLA

SIZE = 128
LESIONS = [kind for kind in CLASSES if kind != "no_tumour"]


@cache
def drawn(kind: str, index: int, size: int = SIZE) -> tuple[Phantom, Drawing]:
    one = phantom(kind, index)
    return one, one.draw(size)


def grey(drawing: Drawing) -> np.ndarray:
    return drawing.pixels[..., 0].astype(float)


# the same bytes


def test_order_number_and_company_do_not_matter() -> None:
    names = [(kind, index) for kind in CLASSES for index in (0, 4)]
    one = {name: phantom(*name).draw(64).pixels.tobytes() for name in names}
    np.random.seed(1)
    state = np.random.get_state()[1].tobytes()
    again = {name: phantom(*name).draw(64).pixels.tobytes() for name in reversed(names)}
    assert one == again and len(set(one.values())) == len(names)
    assert np.random.get_state()[1].tobytes() == state
    assert phantom("glioma", 4) == phantom("glioma", 4) != phantom("glioma", 4, seed=1)


def test_another_process_with_other_threads_draws_the_same() -> None:
    code = (
        "import hashlib; from xai_lib.phantoms import CLASSES, phantom; "
        "print(hashlib.sha256(b''.join(phantom(k, 1, 5).draw(224).pixels.tobytes() for k in CLASSES)).hexdigest())"
    )
    found = []
    for threads in ("1", "2"):
        changed = os.environ | {"OMP_NUM_THREADS": threads, "OPENBLAS_NUM_THREADS": threads}
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=changed)
        found.append(done.stdout)
    assert found[0] == found[1]


def test_no_head_comes_twice() -> None:
    """Neither within a class nor across: a twin in two classes or two splits would be a leak."""
    heads = [phantom(kind, index, seed).anatomy for kind in CLASSES for index in range(9) for seed in (0, 1)]
    assert len(set(heads)) == len({head.folds for head in heads}) == len(heads)


@pytest.mark.parametrize("kind", CLASSES)
def test_size_changes_the_grain_alone(kind: str) -> None:
    for index in range(3):
        (_, small), (_, large) = drawn(kind, index, 96), drawn(kind, index, 192)
        assert large.pixels.shape == (192, 192, 3) and large.mask.shape == (192, 192)
        halved = grey(large).reshape(96, 2, 96, 2).mean((1, 3))
        assert np.corrcoef(halved.ravel(), grey(small).ravel())[0, 1] > 0.93
        if kind != "no_tumour":
            coarse = large.mask.reshape(96, 2, 96, 2).mean((1, 3)) > 0.5
            assert (coarse & small.mask).sum() / (coarse | small.mask).sum() > 0.85


# as in textbooks


def test_pictures_are_grey_bytes_and_masks_bool() -> None:
    for kind in CLASSES:
        for index in range(6):
            one, drawing = drawn(kind, index)
            assert one.kind == kind and one.anatomy.plane == PLANES[index % 3]
            assert drawing.pixels.dtype == np.uint8 and drawing.mask.dtype == drawing.oedema.dtype == bool
            assert (drawing.pixels == drawing.pixels[..., :1]).all() and np.ptp(drawing.pixels) > 120
            assert drawing.mask.any() == (kind != "no_tumour") and drawing.oedema.any() == (kind == "glioma")
            assert not (drawing.mask & drawing.oedema).any()
            assert ndimage.label(drawing.mask, np.ones((3, 3)))[1] == (kind != "no_tumour")


@pytest.mark.parametrize("kind", LESIONS)
def test_every_lesion_lies_where_its_kind_grows(kind: str) -> None:
    for index in range(30):
        one = phantom(kind, index, seed=7)
        assert one.lesion is not None
        place = canvas(one.anatomy, 72)
        _, mask, _ = one._signal(72)
        depth = -inside_skull(one.anatomy, place.u, place.v)
        pixel = 2 / 72
        assert 0.003 < mask.mean() < 0.06
        if kind == "glioma":
            assert depth[mask].min() > -pixel and np.median(depth[mask]) > 0.1
        if kind == "meningioma":
            assert -pixel < depth[mask].min() < 1.5 * pixel
        if kind == "pituitary":
            u, v = place.u[mask].mean(), place.v[mask].mean()
            assert np.hypot(u - SELLA[one.anatomy.plane][0], v - SELLA[one.anatomy.plane][1]) < 0.05
            assert one.anatomy.plane == "sagittal" or abs(u) < 0.05


def test_kinds_differ_in_size_shape_and_inside() -> None:
    from skimage.measure import regionprops

    area, solidity, spread, contrast = ({kind: [] for kind in LESIONS} for _ in range(4))
    for kind in LESIONS:
        for index in range(9):
            one, drawing = drawn(kind, index)
            healthy = grey(one.without_lesion().draw(SIZE))
            inside = grey(drawing)[ndimage.binary_erosion(drawing.mask)]
            area[kind].append(drawing.mask.sum())
            solidity[kind].append(regionprops(drawing.mask.astype(int))[0].solidity)
            spread[kind].append(inside.std() / inside.mean())
            contrast[kind].append(inside.mean() - healthy[drawing.mask].mean())
            if kind == "glioma":  # dark inside and around, bright between
                core = ndimage.distance_transform_edt(drawing.mask) > 0.8 * ndimage.distance_transform_edt(drawing.mask).max()
                rim = drawing.mask ^ ndimage.binary_erosion(drawing.mask, iterations=3)
                assert grey(drawing)[core].mean() < grey(drawing)[rim].mean()
                assert grey(drawing)[drawing.oedema].mean() < healthy[drawing.oedema].mean()
    assert max(area["pituitary"]) < np.median(area["meningioma"])
    assert max(solidity["glioma"]) < min(np.mean(solidity["pituitary"]), np.mean(solidity["meningioma"]))
    assert min(spread["glioma"]) > 2 * max(np.mean(spread["meningioma"]), np.mean(spread["pituitary"]))
    assert min(contrast["meningioma"]) > 20 and min(contrast["pituitary"]) > 20


# one factor at a time


@pytest.mark.parametrize("kind", LESIONS)
def test_only_what_the_lesion_touches_changes(kind: str) -> None:
    one, drawing = drawn(kind, 1)
    assert one.lesion is not None
    healthy = one.without_lesion().draw(SIZE)
    changed = grey(drawing) != grey(healthy)
    reach = ndimage.binary_dilation(drawing.mask | drawing.oedema, iterations=round(0.6 * one.lesion.radius * SIZE))
    assert changed[drawing.mask].mean() > 0.85 and not changed[~reach].any()


@pytest.mark.parametrize("kind", LESIONS)
def test_moved_resized_brightened_reshaped(kind: str) -> None:
    one, drawing = drawn(kind, 2)
    assert one.lesion is not None
    u, v = one.lesion.centre
    moved = one.with_lesion(centre=(0.05, -0.15)).draw(SIZE)
    start = one.with_lesion(centre=(-0.05, -0.15)).draw(SIZE)
    step = np.subtract(ndimage.center_of_mass(moved.mask), ndimage.center_of_mass(start.mask))
    assert np.hypot(*step) == pytest.approx(0.1 * one.anatomy.scale * SIZE / 2, rel=0.12)
    assert moved.mask.sum() == pytest.approx(start.mask.sum(), rel=0.06)
    inner = one.with_lesion(centre=(0.05, -0.15), radius=0.5 * one.lesion.radius).draw(256)
    outer = one.with_lesion(centre=(0.05, -0.15)).draw(256)
    assert outer.mask.sum() / inner.mask.sum() == pytest.approx(4, rel=0.1)
    bright = one.with_lesion(intensity=one.lesion.intensity + 0.1).draw(SIZE)
    assert np.array_equal(bright.mask, drawing.mask)
    difference = grey(bright) - grey(drawing)
    assert difference[drawing.mask].mean() > 3 and difference.min() >= 0
    shaped = one.with_lesion(irregularity=one.lesion.irregularity + 0.15).draw(SIZE)
    common = (shaped.mask & drawing.mask).sum() / (shaped.mask | drawing.mask).sum()
    assert 0.4 < common < 0.97
    assert one == phantom(kind, 2) and one.lesion.centre == (u, v)  # nothing was changed in place


def test_what_cannot_be_drawn_is_refused() -> None:
    with pytest.raises(PhantomError, match="no class of phantoms is called 'glimoa'; nearest: glioma"):
        phantom("glimoa")
    with pytest.raises(PhantomError, match="index: expected a whole number from 0, found -1"):
        phantom("glioma", -1)
    with pytest.raises(PhantomError, match="seed: expected a whole number from 0, found 0.5"):
        phantom("glioma", 0, 0.5)  # type: ignore[arg-type]
    with pytest.raises(PhantomError, match="size: expected a whole number from 32, found 16"):
        phantom("glioma").draw(16)
    with pytest.raises(PhantomError, match="no lesion to change"):
        phantom("no_tumour").with_lesion(radius=0.2)
    with pytest.raises(PhantomError, match="a lesion has no field 'radus'; nearest: radius"):
        phantom("glioma").with_lesion(radus=0.2)
    with pytest.raises(PhantomError, match=r"no pixel of 64x64 shows the lesion at \(5, 5\)"):
        phantom("glioma").with_lesion(centre=(5, 5)).draw(64)
    with pytest.raises(dataclasses.FrozenInstanceError):
        phantom("glioma").gain = 2  # type: ignore[misc]


# no class by a trick

EACH = 60


@pytest.fixture(scope="module")
def measured() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Statistics that need not know where a lesion is; those of its region; classes. Phantoms of 72 pixels."""
    plain, region, classes = [], [], []
    for label, kind in enumerate(CLASSES):
        for index in range(EACH):
            one = phantom(kind, index, seed=11)
            drawing = one.draw(72)
            picture = grey(drawing)
            inner = np.zeros_like(drawing.mask)
            inner[4:-4, 4:-4] = True
            ends = slice(8), slice(-8, None)
            corners = np.stack([picture[down, across] for down in ends for across in ends])
            border = picture[~inner]
            named = picture.mean(), picture.std(), border.mean(), border.std(), corners.mean(), corners.std()
            plain.append([*picture.shape, *named, np.median(picture), picture.max(), np.mean(picture > 128)])
            where = ndimage.center_of_mass(drawing.mask) if drawing.mask.any() else (0, 0)
            inside = picture[drawing.mask] if drawing.mask.any() else np.zeros(1)
            region.append([drawing.mask.sum(), *where, inside.mean(), inside.std()])
            classes.append(label)
    return np.array(plain), np.array(region), np.array(classes)


def accuracies(features: np.ndarray, classes: np.ndarray) -> list[float]:
    """Of a forest and of a linear model, cross-validated; chance is 0.25, with a standard error of 0.028 at 240 pictures."""
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold, cross_val_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    folds = StratifiedKFold(5, shuffle=True, random_state=0)
    models = RandomForestClassifier(100, random_state=0), make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    return [float(cross_val_score(model, features, classes, cv=folds).mean()) for model in models]


def test_size_mean_deviation_and_border_do_not_tell_the_class(measured: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    plain, region, classes = measured
    assert np.unique(plain[:, :2]).tolist() == [72]
    assert max(accuracies(plain[:, :8], classes)) < 0.25 + 3 * 0.028
    assert min(accuracies(region, classes)) > 0.85  # the same models, told where to look


@pytest.mark.parametrize("column", range(2, 11))
def test_no_single_statistic_tells_the_class(measured: tuple[np.ndarray, np.ndarray, np.ndarray], column: int) -> None:
    plain, _, classes = measured
    assert max(accuracies(plain[:, [column]], classes)) < 0.25 + 4 * 0.028


def test_planes_do_not_tell_the_class() -> None:
    planes = {kind: [phantom(kind, index).anatomy.plane for index in range(6)] for kind in CLASSES}
    assert len({tuple(row) for row in planes.values()}) == 1


# as a sequence of pictures


def test_phantoms_are_images() -> None:
    started = time.process_time()
    many = images.load("mri-phantoms", per_class=500)
    assert len(many) == 2000 and time.process_time() - started < 1  # nothing is drawn yet
    few = images.load("mri-phantoms", per_class=2, size=64, seed=3)
    assert few.names == tuple(f"{kind}-{index:04}" for kind in CLASSES for index in range(2))
    assert few.labels == (0, 0, 1, 1, 2, 2, 3, 3) and few.sources == []
    for name, image, label in few:
        kind, index = name.split("-")
        drawing, photo = phantom(kind, int(index), 3).draw(64), few[name]
        assert np.array_equal(photo.pixels, drawing.pixels) and np.array_equal(photo.mask, drawing.mask)
        assert torch.equal(image, photo.image) and label == photo.label == CLASSES.index(kind)
        assert "synthetic" in photo.credit and "not clinical" in photo.credit and photo.source is None
    more = images.load("mri-phantoms", per_class=5, size=64, seed=3)
    assert np.array_equal(more["pituitary-0001"].pixels, few["pituitary-0001"].pixels)
    assert "pituitary-0001" in few._repr_html_()


def test_masks_go_the_way_of_the_pictures() -> None:
    few = images.load("mri-phantoms", per_class=1, size=160)
    exact = few.masks(View(160, 160))
    assert torch.equal(exact, torch.stack([torch.from_numpy(few[name].mask) for name in few.names]))
    for view in (View(224, 256), View(64, 80, "bicubic"), 96, None):
        masks, batch = few.masks(view), few.batch(view)
        assert masks.dtype == torch.bool and masks.shape == (4, *batch.shape[2:]) and not masks[2].any()
        chosen = view if isinstance(view, View) else View(224 if view is None else view, 256 if view is None else 110)
        for name, mask in zip(few.names, masks, strict=True):
            painted = (few[name].mask[..., None] * np.uint8([255, 255, 255])).astype(np.uint8)
            assert torch.equal(mask, chosen.apply(painted)[0] >= 128 / 255)
    assert images.load("mri-phantoms", per_class=1)[0:0].masks(32).shape == (0, 32, 32)


def test_what_has_no_mask_or_no_sense_is_refused() -> None:
    with pytest.raises(ImageError, match="'coffee' has no mask; only drawn pictures have"):
        images.load("photos").select(["coffee"]).masks()
    with pytest.raises(ImageError, match="mri-phantoms: per_class: expected a whole number from 1, found 0"):
        images.load("mri-phantoms", per_class=0)
    with pytest.raises(ImageError, match="mri-phantoms: size: expected a whole number from 32, found 8"):
        images.load("mri-phantoms", size=8)
    with pytest.raises(ImageError, match="mri-phantoms: seed: expected a whole number from 0, found -1"):
        images.load("mri-phantoms", seed=-1)
    with pytest.raises(ImageError, match=r"expected a mask \(H, W\) bool, found \(4, 4\) float64"):
        View().apply_mask(np.ones((4, 4)))
    assert set(phantoms.__all__) <= set(dir(phantoms))
