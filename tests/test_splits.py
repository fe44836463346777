"""Groups of twins against a slow search, and splits that keep them together."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xai_lib.images import ImageError, splits

FEW_BITS = st.integers(0, 2**64 - 1).flatmap(lambda a: st.lists(st.integers(0, 63), max_size=6).map(
    lambda flips: f"{a ^ sum({1 << f for f in flips}):016x}"))  # fmt: skip
NEAR_ZERO = st.lists(st.integers(0, 7), max_size=7).map(lambda flips: f"{sum({1 << f for f in flips}):016x}")


def slow_groups(names: list[str], pixels: list[str], phashes: list[str] | None, distance: int) -> list[str]:
    """The least name that is spread from picture to picture until nothing changes."""
    least = list(names)
    while True:
        before = list(least)
        for i in range(len(names)):
            for j in range(len(names)):
                apart = bin(int(phashes[i], 16) ^ int(phashes[j], 16)).count("1") if phashes else 65
                if phashes and min(bin(int(phashes[k], 16)).count("1") for k in (i, j)) < 16:
                    apart = 65  # of images without structure
                if pixels[i] == pixels[j] or apart <= distance:
                    least[i] = min(least[i], least[j])
        if before == least:
            return least


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("abcdefgh"), FEW_BITS | NEAR_ZERO), max_size=14), st.integers(-1, 6), st.randoms())
def test_twins_are_what_a_slow_search_finds(rows: list[tuple[str, str]], distance: int, order: object) -> None:
    names = [f"{i:02}" for i in range(len(rows))]
    order.shuffle(names)  # type: ignore[attr-defined]
    pixels, phashes = [row[0] for row in rows], [row[1] for row in rows]
    assert splits.twins(names, pixels, phashes, distance) == slow_groups(names, pixels, phashes, distance)
    assert splits.twins(names, pixels) == slow_groups(names, pixels, None, 0)


@settings(max_examples=40, deadline=None)
@given(st.lists(FEW_BITS | NEAR_ZERO, max_size=12), st.integers(0, 64))
def test_near_pairs(phashes: list[str], distance: int) -> None:
    slow = [
        (i, j) for i in range(len(phashes)) for j in range(i + 1, len(phashes))
        if bin(int(phashes[i], 16) ^ int(phashes[j], 16)).count("1") <= distance
    ]  # fmt: skip
    assert splits.near(phashes, distance) == slow


def test_many_equal_hashes_are_cheap() -> None:
    n = 20_000  # as pairs: two hundred million
    names, pixels = [f"{i:05}" for i in range(n)], [str(i) for i in range(n)]
    assert set(splits.twins(names, pixels, ["0f" * 8] * n)) == {"00000"}
    assert splits.twins(names, pixels, ["8" + "0" * 15] * n) == names, "the hash of flat images says nothing"


def test_groups_are_of_rows_whatever_their_names() -> None:
    names, pixels, phashes = ["a", "a", "b", "a"], ["1", "2", "1", "3"], ["0f" * 8, "f0" * 8, "33" * 8, "f0" * 7 + "f1"]
    assert splits.twins(names, pixels) == ["a", "a (2)", "a", "a (3)"]
    assert splits.twins(names, pixels, phashes) == ["a", "a (2)", "a", "a (2)"]
    assert splits.twins([*names, "a (2)"], [*pixels, "4"]) == ["a", "a (2)", "a", "a (3)", "a (2) (2)"]


@pytest.mark.parametrize("phash", ["xyz", "1" * 17, None])
def test_what_is_no_hash(phash: str) -> None:
    with pytest.raises(ImageError, match="expected perceptual hashes of 64 bits as hexadecimal text"):
        splits.twins(["a", "b"], ["1", "2"], ["0" * 16, phash])
    with pytest.raises(ImageError, match="twins: 2 names, 1 checksums and the perceptual hashes must be as many"):
        splits.twins(["a", "b"], ["1"])


SHARES = st.lists(st.integers(1, 9), min_size=1, max_size=5).map(lambda w: {f"part {i}": x / sum(w) for i, x in enumerate(w)})


@settings(max_examples=60, deadline=None)
@given(st.lists(st.text("abcé ", max_size=3), max_size=30), SHARES, st.integers(0, 3))
def test_a_group_has_one_part_whoever_else_there_is(groups: list[str], shares: dict[str, float], seed: int) -> None:
    parts = splits.by_group(groups, shares, seed)
    assert len(parts) == len(groups) and set(parts) <= set(shares)
    by_name: dict[str, str] = {}
    assert all(by_name.setdefault(group, part) == part for group, part in zip(groups, parts, strict=True))
    assert [splits.by_group([group], shares, seed)[0] for group in groups] == parts
    assert splits.by_group(groups[::-1], shares, seed) == parts[::-1]


def test_shares_hold_on_average_and_seeds_differ() -> None:
    groups, shares = [str(i) for i in range(4000)], {"train": 0.7, "validation": 0.1, "test": 0.2}
    first, second = (splits.by_group(groups, shares, seed) for seed in (0, 1))
    for parts in (first, second):
        counts = Counter(parts)
        for name, share in shares.items():  # four deviations of a binomial
            assert abs(counts[name] - 4000 * share) < 4 * np.sqrt(4000 * share * (1 - share))
    same = np.mean(np.array(first) == np.array(second))
    assert abs(same - (0.49 + 0.01 + 0.04)) < 0.05, "as two draws that know nothing of each other"


@pytest.mark.parametrize("shares", [{}, {"a": 0.5}, {"a": 1.5, "b": -0.5}, {"a": 1.0, "b": 0.0}])
def test_shares_that_cannot_be(shares: dict[str, float]) -> None:
    with pytest.raises(ImageError, match="by_group: expected positive shares of sum 1, found {"):
        splits.by_group(["a"], shares)
