"""Which pictures are copies of one another, and splits in which no picture has a copy on the other side."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

import numpy as np

from xai_lib.images.decoding import ImageError

NEAR = 4  #: bits of 64 in which two perceptual hashes may differ; at 6 chains of unlike scans begin to form


def twins(names: Sequence[str], pixels: Sequence[str], phashes: Sequence[str] | None = None, distance: int = NEAR) -> list[str]:
    """The group of each picture, named after its first member in alphabetical order.

    Pictures of the same `pixels` (any checksum of the decoded picture) are in one group, and with `phashes` (64 bits,
    hexadecimal) also those that a chain of pictures joins, each at most `distance` bits from the next.
    """
    if len({len(names), len(pixels), len(phashes if phashes is not None else names)}) > 1:
        raise ImageError(f"twins: {len(names)} names, {len(pixels)} checksums and the perceptual hashes must be as many")
    names, root = list(names), list(range(len(names)))

    def find(i: int) -> int:
        while root[i] != i:
            root[i] = i = root[root[i]]
        return i

    first: dict[str, int] = {}
    pairs = [(first.setdefault(p, i), i) for i, p in enumerate(pixels)]
    if phashes is not None and distance >= 0:
        alike: dict[str, int] = {}  # equal hashes once: a thousand empty pictures make half a million pairs
        pairs += [(alike.setdefault(h, i), i) for i, h in enumerate(phashes)]
        rows = list(alike.values())
        pairs += [(rows[a], rows[b]) for a, b in near(list(alike), distance)]
    for a, b in pairs:
        root[find(b)] = find(a)
    label: dict[int, str] = {}
    for i in sorted(range(len(names)), key=lambda i: names[i]):
        label.setdefault(find(i), names[i])
    return [label[find(i)] for i in range(len(names))]


def near(phashes: Sequence[str], distance: int = NEAR) -> list[tuple[int, int]]:
    """Pairs `(i, j)`, `i < j`, whose 64-bit hashes (hexadecimal) differ in at most `distance` bits."""
    bits = as_bits(phashes)
    found = []
    for i in range(len(bits) - 1):
        close = np.flatnonzero(np.bitwise_count(bits[i] ^ bits[i + 1 :]) <= distance)
        found += [(i, i + 1 + int(j)) for j in close]
    return found


def as_bits(phashes: Sequence[str]) -> np.ndarray:
    """Hexadecimal hashes of 64 bits as `(N,)` uint64; raises `ImageError` for what is none."""
    try:
        return np.array([int(h, 16) for h in phashes], dtype=np.uint64)
    except (TypeError, ValueError, OverflowError) as error:
        raise ImageError(f"expected perceptual hashes of 64 bits as hexadecimal text: {error}") from None


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
