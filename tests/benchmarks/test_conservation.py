"""The table of what LRP conserves: its rows are what two small networks give."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch

ROOT = Path(__file__).parents[2]
SMALL = ("resnet18", "efficientnet_lite0")


@pytest.fixture(scope="module")
def bench() -> ModuleType:
    spec = importlib.util.spec_from_file_location("benchmark_conservation", ROOT / "benchmarks" / "conservation.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """As the script itself: several wait for each other when the machine is busy."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def readme(bench: ModuleType) -> dict[tuple[str, str, str], str]:
    """The cells of the first table, by rule, package and network."""
    text = (ROOT / "benchmarks" / "README.md").read_text(encoding="utf-8").partition(bench.BEGIN)[2].partition(bench.END)[0]
    lines = [[c.strip() for c in line.split("|")[1:-1]] for line in text.strip().split("\n\n")[0].splitlines()]
    found: dict[tuple[str, str, str], str] = {}
    rule = ""
    for first, whose, *cells in lines[2:]:
        rule = first or rule
        found |= {(rule, whose, name): cell for name, cell in zip(lines[0][2:], cells, strict=True)}
    return found


def agree(cell: str, value: float | str) -> bool:
    """Words are equal; numbers within an order of magnitude, or both no more than rounding."""
    if isinstance(value, str):
        return cell == f"*{value}*"
    said = float(cell)
    return max(said, value) <= 1e-9 or abs(math.log10(said / value)) <= 1


@pytest.mark.parametrize("name", SMALL)
def test_readme_says_what_our_rules_conserve(bench: ModuleType, readme: dict[tuple[str, str, str], str], name: str) -> None:
    model, x = bench.network(name), bench.inputs()
    found = {rule: bench.ours(model, row, x) for rule, row in bench.ROWS.items()}
    assert {r for r, v in found.items() if not agree(readme[r, "ours", name], v)} == set()
    assert all(found[f"{rule}, spread"] <= 1e-9 for rule in ("z⁺", "α2β1")) and found["ε, keep"] <= 1e-6


def test_readme_says_what_zennit_does(bench: ModuleType, readme: dict[tuple[str, str, str], str]) -> None:
    model, x = bench.network("resnet18"), bench.inputs()
    found, same = bench.of_zennit("resnet18", model, bench.ROWS["z⁺, keep"], x)
    assert agree(readme["z⁺, keep", "zennit", "resnet18"], found) and found > 1e-3
    assert same is model  # zennit put it back
    assert bench.of_zennit("resnet18", model, bench.ROWS["RAP"], x) == ("", model)


def test_a_network_that_zennit_leaves_changed_is_built_anew(bench: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    layer, x = torch.nn.Linear(12, 3).double(), torch.rand(1, 3, 2, 2).double()
    model = torch.nn.Sequential(torch.nn.Flatten(), layer)

    def spoilt(_: object) -> None:
        layer.weight.data.add_(1)
        raise KeyError("no rule")

    monkeypatch.setattr(bench, "network", lambda name: name)
    assert bench.of_zennit("fresh", model, bench.Row(None, spoilt), x) == ("KeyError", "fresh")


def test_the_table_has_every_network_and_rule(bench: ModuleType, readme: dict[tuple[str, str, str], str]) -> None:
    for name in bench.NETWORKS:
        assert {r for r, whose, n in readme if whose == "ours" and n == name} == set(bench.ROWS)
        assert ("ε", "captum", name) in readme
        assert float(readme["ε, keep", "ours", name]) <= 1e-6


def test_numbers_are_short(bench: ModuleType) -> None:
    shown = {0.0: "0", 3.2e-16: "3e-16", 0.123: "0.12", 12.3: "12", 243.4: "243", 5.1e15: "5e15", 0.0004: "4e-4"}
    assert {v: bench.number(v) for v in shown} == shown
    assert bench.number("TypeError") == "*TypeError*" and bench.number("") == "–"


def test_the_table_goes_between_the_markers(bench: ModuleType) -> None:
    assert bench.renew(f"a\n{bench.BEGIN}\nold\n{bench.END}\nb", "new") == f"a\n{bench.BEGIN}\nnew\n{bench.END}\nb"
    with pytest.raises(SystemExit, match="expected the lines"):
        bench.renew("a", "new")


def test_networks_by_family_conserve(bench: ModuleType) -> None:
    """68 convolutional networks; two of the quickest measured again, the table as it is written."""
    names = [n for family, some in bench.FAMILIES.items() if not family.startswith("transformers") for n in some]
    assert len(names) == len(set(names)) == 68
    table = (ROOT / "benchmarks" / "README.md").read_text(encoding="utf-8").partition(bench.OF_FAMILIES[0])[2]
    assert "| 68 of 68 | 68 of 68 |" in table
    for name in ("lcnet_050", "torchvision:shufflenet_v2_x0_5"):
        found = bench.family_measured(name)
        assert found["epsilon_plus"] <= 1e-6 and found["epsilon"] <= 1e-6
        assert f"| {name} |" in bench.family_table({name: found})
