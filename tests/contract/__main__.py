"""`python -m tests.contract` writes the table into the package, docs/networks.md and the cards;
`python -m tests.contract NETWORK ...` prints the states that these networks have now."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from tests.contract.expected import EXPECTED, REASONS
from tests.contract.zoo import ZOO
from xai_lib.cards import networks, rendering

DOCS = Path(__file__).parents[2] / "docs" / "networks.md"


def table() -> networks.Contract:
    """What `EXPECTED` says, for the package."""
    states = {
        name: {method: state.removeprefix("refuses: ") for method, state in EXPECTED[name].items()} for name in ZOO
    }
    met = {state for row in states.values() for state in row.values()}
    reasons = {key: reason.words for key, reason in REASONS.items() if key in met}
    return networks.Contract({name: awkward for name, (awkward, _) in ZOO.items()}, reasons, states)


def _lines(part: dict[str, object]) -> str:
    """A line for each network or reason."""
    return ",\n".join(f" {json.dumps(key)}: {json.dumps(value, ensure_ascii=False)}" for key, value in part.items())


def write() -> None:
    found = table()
    parts = [f"{json.dumps(key)}: {{\n{_lines(part)}\n}}" for key, part in vars(found).items()]
    networks.FILE.write_text("{\n" + ",\n".join(parts) + "\n}\n", encoding="utf-8")
    DOCS.parent.mkdir(exist_ok=True)
    DOCS.write_text(found.markdown(), encoding="utf-8")
    rendering.write()


def show(names: list[str]) -> None:
    from tests.contract.cells import row

    for name in names:
        for method, state in row(name).items():
            print(f"{name:32} {method:22} {state}")


if __name__ == "__main__":
    show(sys.argv[1:]) if sys.argv[1:] else write()
