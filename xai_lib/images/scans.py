"""The brain tumour scans of paper 4: 3264 files of four classes, listed in data/registry with the checksum of each.

Bhuvaji et al., "Brain Tumor Classification (MRI)"; no licence is stated: for research alone, not clinical. The list also has
the originals' width and height, a checksum of the decoded pixels and a perceptual hash, which tell what copies what.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pandas as pd

from xai_lib.images.decoding import ImageError

SCANS = "brain-mri"
FOLDERS = ("glioma_tumor", "meningioma_tumor", "no_tumor", "pituitary_tumor")  #: the data set's classes, by label
REGISTRY = Path(__file__).resolve().parents[2] / "data" / "registry" / f"{SCANS}.csv"
URL = "https://raw.githubusercontent.com/SartajBhuvaji/Brain-Tumor-Classification-DataSet/master/"
CREDIT = "Brain Tumor Classification (MRI), Bhuvaji et al. 2020; research use, not clinical"


@cache
def table() -> pd.DataFrame:
    """A row a scan, in the list's order, which is that of the paths.

    Columns: `name` (path without suffix), `label` (0..3, the place in `FOLDERS` and in `phantoms.CLASSES`), `split`
    ("Training" or "Testing"), `width`, `height` (pixels, of the original), `pixels` (checksum of the decoded original: equal
    for exact twins), `phash` (64-bit perceptual hash, hexadecimal), `path`, `bytes`, `sha256` (of the original),
    `copy_sha256` (of the copy whose longest side is 224 pixels).
    """
    if not REGISTRY.is_file():
        raise ImageError(f"the list {REGISTRY} is missing; install from a clone, with pip install -e .")
    found = pd.read_csv(REGISTRY, dtype={"phash": str})
    parts = found["path"].str.split("/")
    found["name"] = found["path"].str.rpartition(".")[0]
    found["split"], found["label"] = parts.str[0], parts.str[1].map({name: i for i, name in enumerate(FOLDERS)})
    return found
