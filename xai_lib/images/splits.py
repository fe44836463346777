"""Which images are copies of one another, and splits in which no image has a copy on the other side."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from xai_lib.images.decoding import ImageError
from xai_lib.images.duplicates import NEAR, Candidates, Look, as_bits, telling


def twins(
    names: Sequence[str],
    pixels: Sequence[str],
    phashes: Sequence[str] | None = None,
    distance: int = NEAR,
    looks: Sequence[Look] | None = None,
) -> list[str]:
    """The group of each image, named after its first member in alphabetical order; images are identified by row, not by name.

    Images of the same `pixels` (any checksum of the decoded image) are in one group, and with `phashes` (64 bits, hexadecimal)
    also those that a chain of images joins, each at most `distance` bits from the next. With `looks` (`measuring.measure`, a
    `look` each) a pair of the chain is also confirmed on the images themselves and may be mirrored or rotated by 90°; without
    them nothing but the hash speaks for it. A group whose name is taken already gets a number, as "a (2)".
    """
    counts = {len(names), len(pixels), len(phashes if phashes is not None else names), len(looks if looks is not None else names)}
    if len(counts) > 1:
        raise ImageError(f"twins: {len(names)} names, {len(pixels)} checksums and the perceptual hashes must be as many")
    names, root = list(names), list(range(len(names)))

    def find(i: int) -> int:
        while root[i] != i:
            root[i] = i = root[root[i]]
        return i

    first: dict[str, int] = {}
    for i, checksum in enumerate(pixels):
        root[find(i)] = find(first.setdefault(checksum, i))
    if phashes is not None and distance >= 0:
        for a, b in _near_rows(first, phashes, distance, looks, find):
            root[find(b)] = find(a)
    return _labels(names, pixels, [find(i) for i in range(len(names))])


def _near_rows(
    first: Mapping[str, int], phashes: Sequence[str], distance: int, looks: Sequence[Look] | None, find: Callable[[int], int]
) -> Iterator[tuple[int, int]]:
    """Pairs of rows that are near duplicates, without those that `find` knows to be in one group already."""
    rows = list(first.values())
    if looks is None:  # equal hashes once: a thousand of them would make half a million pairs
        alike: dict[str, int] = {}
        pairs = [(alike.setdefault(phash, i), i) for i, phash in enumerate(phashes)]
        rows = list(alike.values())
        yield from (pair for pair, tells in zip(pairs, telling(as_bits(phashes)), strict=True) if tells)
    near = Candidates([phashes[i] for i in rows], None if looks is None else [looks[i] for i in rows], distance)
    for a, i in enumerate(rows):
        for _, turn, b in near.of(a, a + 1):
            if find(i) != find(rows[b]) and near.confirmed(a, b, turn):
                yield i, rows[b]


def _labels(names: Sequence[str], pixels: Sequence[str], roots: Sequence[int]) -> list[str]:
    label: dict[int, str] = {}
    for i in sorted(range(len(names)), key=lambda i: (names[i], pixels[i])):
        if roots[i] not in label:
            name, number = names[i], 1
            while name in label.values():
                number += 1
                name = f"{names[i]} ({number})"
            label[roots[i]] = name
    return [label[r] for r in roots]


def near(phashes: Sequence[str], distance: int = NEAR) -> list[tuple[int, int]]:
    """Pairs `(i, j)`, `i < j`, whose 64-bit hashes (hexadecimal) differ in at most `distance` bits: proposed, not confirmed."""
    bits = as_bits(phashes)
    found = []
    for i in range(len(bits) - 1):
        close = np.flatnonzero(np.bitwise_count(bits[i] ^ bits[i + 1 :]) <= distance)
        found += [(i, i + 1 + int(j)) for j in close]
    return found


def by_group(groups: Sequence[str], shares: Mapping[str, float], seed: int = 0) -> list[str]:
    """The part of each picture, drawn for its group: members of a group are never apart.

    `shares` (part to share, of sum 1) hold on average: a group's part comes from a checksum of its name and the seed, so that
    it does not depend on which other pictures there are.
    """
    if not shares or min(shares.values()) <= 0 or abs(sum(shares.values()) - 1) > 1e-9:
        raise ImageError(f"by_group: expected positive shares of sum 1, found {dict(shares)}")
    ends = np.cumsum(list(shares.values()))
    return [list(shares)[min(int(np.searchsorted(ends, _place(g, seed), "right")), len(ends) - 1)] for g in groups]


def _place(group: str, seed: int) -> float:
    """A number in 0..1 that looks random and belongs to this group and seed."""
    return int.from_bytes(hashlib.blake2b(f"{seed} {group}".encode(), digest_size=6).digest()) / 2**48
