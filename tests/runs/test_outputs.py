"""What cells print is bounded, and what a terminal would show of it is kept."""

import random

import pytest

from xai_lib.runs.outputs import HEAD, TAIL, Printed


def kept(*texts: str) -> str:
    printed = Printed()
    for text in texts:
        printed.add(text)
    return printed.text


@pytest.mark.parametrize(
    ("texts", "shown"),
    [
        (["one\n", "two"], "one\ntwo"),
        (["on", "e\ntw", "o\n"], "one\ntwo\n"),
        (["10 %\r", "20 %\r", "100 %\n", "done"], "100 %\ndone"),
        (["10 %\r20 %\r"], "20 %"),
        (["windows\r\n", "lines\r\n"], "windows\nlines\n"),
        (["\n\n"], "\n\n"),
        ([""], ""),
    ],
)
def test_what_a_terminal_shows(texts: list[str], shown: str) -> None:
    assert kept(*texts) == shown


def test_it_does_not_matter_how_the_text_is_cut_up() -> None:
    text = "".join(random.Random(0).choices(["a", "bc", "\n", "\r", "\r\n"], k=3000))
    whole = kept(text)
    for seed in range(5):
        cuts = sorted(random.Random(seed).choices(range(len(text)), k=200))
        parts = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
        assert kept(*parts) == whole


def test_beginning_and_end_are_kept_and_what_lies_between_is_counted() -> None:
    lines = [f"line {i}\n" for i in range(200_000)]
    text = kept(*lines)
    assert text.startswith("line 0\nline 1\n") and text.endswith("line 199999\n")
    head, rest = text.split("\n[... ")
    count, tail = rest.split(" characters left out ...]\n")
    assert len(head) == HEAD and TAIL - 20 <= len(tail) <= TAIL + 20
    assert len(head) + int(count.replace(",", "")) + len(tail) == sum(map(len, lines))


def test_a_line_without_end_is_cut_too() -> None:
    text = kept(*["x" * 1_000_000] * 50)
    assert len(text) < HEAD + 2 * TAIL + 100 and "characters left out" in text
