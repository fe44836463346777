"""Parameters: what a cell may say, and what is refused, by text."""

import pytest

from xai_lib.runs.parameters import ParameterError, parse_cell, parse_options, parse_text, read, resolve

CELL = """
"What a reader may change."
runs: int = 5  # how often
rate = 0.5     # a share, 0 to 1
photographs: list = ["coffee"]  # names
networks: list[str] = [
    "a",
]
sizes = [1, 2.5]
device: str = "auto"
limit: int | None = None
quick = False
output_dir: str = ""
"""


def test_types_defaults_and_comments_of_a_cell() -> None:
    found = parse_cell(CELL, "nb")
    assert {name: entry.type for name, entry in found.items()} == {
        "runs": "int",
        "rate": "float",
        "photographs": "list[str]",
        "networks": "list[str]",
        "sizes": "list[float]",
        "device": "str",
        "limit": "int | None",
        "quick": "bool",
        "output_dir": "str",
    }
    assert found["rate"].comment == "a share, 0 to 1"
    assert found["sizes"].default == [1.0, 2.5]


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("runs=7", 7),
        ("rate=1", 1.0),
        ("rate=1e-3", 0.001),
        ("device=cpu", "cpu"),
        ("device=1", "1"),
        ("limit=3", 3),
        ("limit=null", None),
        ("quick=true", True),
        ('photographs=["a", "b"]', ["a", "b"]),
        ("photographs=[a, b]", ["a", "b"]),
        ("photographs=coffee,flower", ["coffee", "flower"]),
        ("photographs=1.png", ["1.png"]),
        ("sizes=1,2", [1.0, 2.0]),
        ("device=a=b", "a=b"),
    ],
)
def test_values_from_the_command_line(option: str, value: object) -> None:
    name = option.partition("=")[0]
    values = resolve("nb", parse_cell(CELL, "nb"), {}, "default", parse_options([option]))
    assert values[name] == value and type(values[name]) is type(value)


def test_command_line_over_profile_over_cell_and_output_dir_is_the_runners() -> None:
    values = resolve("nb", parse_cell(CELL, "nb"), {"runs": 6, "rate": 1}, "default", {"runs": "7"})
    assert (values["runs"], values["rate"], values["device"]) == (7, 1.0, "auto")
    assert "output_dir" not in values


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("runs=many", r"nb: parameter 'runs': expected int, found 'many' \(str\)\. Its default is 5"),
        ("runs=1.5", r"expected int, found 1\.5 \(float\)"),
        ("runs=true", r"expected int, found True \(bool\)"),
        ("quick=1", r"expected bool, found 1 \(int\)"),
        ("rate=high", r"expected float, found 'high' \(str\)"),
        ("limit=x", r"expected int \| None, found 'x' \(str\)"),
        ("photographs=[1]", r"expected list\[str\], found 1 \(int\)"),
        (
            "photographs=[]",
            r"expected list\[str\] of at least one item, found \[\]\. Its default is \['coffee'\]",
        ),
        (
            "rnus=5",
            r"nb has no parameter 'rnus'; did you mean 'runs'\? It takes: runs \(int\), rate \(float\), ",
        ),
        ("output_dir=x", r"nb has no parameter 'output_dir'"),
        ("runs", r"-p wants NAME=VALUE, found 'runs'"),
    ],
)
def test_what_the_command_line_may_not_say(option: str, message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        resolve("nb", parse_cell(CELL, "nb"), {}, "default", parse_options([option]))


def test_a_wrong_profile_is_named() -> None:
    with pytest.raises(
        ParameterError, match=r"nb \(profile paper\): parameter 'runs': expected int, found 'x'"
    ):
        resolve("nb", parse_cell(CELL, "nb"), {"runs": "x"}, "paper", {})


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("a = f()", r"nb: line 1 of the parameters cell: 'a' must be a plain literal .*, found 'f\(\)'"),
        ("a = {1, 2}", r"'a' must be a plain literal .*, found '\{1, 2\}'"),
        ("import os", r"line 1 of the parameters cell must read 'name = literal', found 'import os'"),
        ("a = b = 1", r"must read 'name = literal', found 'a = b = 1'"),
        ("a: int", r"must read 'name = literal', found 'a: int'"),
        ("a = 1\na = 2", r"the parameters cell sets 'a' twice"),
        ("a: int = 'x'", r"'a' is annotated int: expected int, found 'x' \(str\)"),
        (
            "a: Path = 'x'",
            r"'a' is annotated Path: 'Path' is no type for a parameter; use int, float, str, bool",
        ),
        ("a = ", r"nb: the parameters cell is no Python: invalid syntax"),
    ],
)
def test_what_a_cell_may_not_say(source: str, message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        parse_cell(source, "nb")


@pytest.mark.parametrize(("count", "found"), [(0, "none is"), (2, "2 are")])
def test_exactly_one_cell_is_tagged(count: int, found: str) -> None:
    cell = {"cell_type": "code", "metadata": {"tags": ["parameters"]}, "source": "a = 1"}
    with pytest.raises(
        ParameterError, match=f"nb: exactly one code cell must be tagged 'parameters', {found}"
    ):
        read({"cells": [cell] * count}, "nb")


def test_text_in_quotes_is_unquoted() -> None:
    assert parse_text('"a b"', "str") == "a b"
