"""Every cell of the table is as `expected` says, and the package's copy of the table says the same."""

from __future__ import annotations

import json

import pytest

from tests.contract.__main__ import DOCS, table
from tests.contract.cells import METHODS, row
from tests.contract.expected import EXPECTED, REASONS
from tests.contract.zoo import ZOO
from xai_lib.cards.networks import FILE, WORKS, Contract


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("network", ZOO)
def test_every_method_is_right_or_refuses_in_words(network: str) -> None:
    assert row(network) == EXPECTED[network]


def test_the_table_is_complete() -> None:
    assert len(ZOO) >= 24 and list(EXPECTED) == list(ZOO)
    for name, states in EXPECTED.items():
        assert sorted(states) == METHODS, name
        assert all(s == WORKS or s.removeprefix("refuses: ") in REASONS for s in states.values()), name


def test_four_cells_of_five_work() -> None:
    states = [state for states in EXPECTED.values() for state in states.values()]
    assert states.count(WORKS) >= 0.8 * len(states)


def test_docs_and_package_have_the_same_table() -> None:
    found = table()
    assert json.loads(FILE.read_text(encoding="utf-8")) == vars(found), "python -m tests.contract"
    assert DOCS.read_text(encoding="utf-8") == found.markdown() == Contract.read().markdown()
