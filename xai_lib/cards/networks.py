"""On which awkward networks a method works, and why it refuses the others, as the contract tests found.

`python -m tests.contract` writes `methods/networks.json` from the table that `tests/contract` holds every cell to; this
module reads and renders it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

FILE = Path(__file__).parent / "methods" / "networks.json"
WORKS = "works"


@dataclass(frozen=True)
class Contract:
    """The table.

    `networks`: what is awkward about each; `reasons`: each kind of refusal in words; `states`: "works" or a key of `reasons`,
    by network and method.
    """

    networks: Mapping[str, str]
    reasons: Mapping[str, str]
    states: Mapping[str, Mapping[str, str]]

    @classmethod
    def read(cls) -> Contract:
        """The table that comes with the package."""
        return cls(**json.loads(FILE.read_text(encoding="utf-8")))

    @property
    def methods(self) -> list[str]:
        return list(next(iter(self.states.values())))

    def works_on(self, method: str) -> str:
        """How many networks a method explains, in words."""
        found = [row[method] for row in self.states.values()]
        return f"right on {found.count(WORKS)} of {len(found)} awkward networks, refuses the others in words (docs/networks.md)"

    def refusals(self, method: str) -> list[str]:
        """Each kind of refusal with the networks that meet it."""
        met: dict[str, list[str]] = {}
        for network, row in self.states.items():
            if row[method] != WORKS:
                met.setdefault(row[method], []).append(network)
        return [f"refuses {self.reasons[key]}: {', '.join(names)}" for key, names in met.items()]

    def markdown(self) -> str:
        """The whole table: rows networks, columns methods, refusals by number."""
        order = {key: i for i, key in enumerate(self.reasons, 1)}
        cells = [state for row in self.states.values() for state in row.values()]
        lines = [
            "<!-- written by `python -m tests.contract`; changes by hand are lost -->",
            "# Awkward networks",
            "",
            f"Every explainer on {len(self.states)} networks that break software of this kind, {len(cells)} combinations: "
            f"{cells.count(WORKS)} give the right answer ({cells.count(WORKS) / len(cells):.0%}), the others refuse with a "
            "message that says what was found and what to do. `tests/contract` checks each cell: a map against a computation "
            "by hand in float64, a functionally equal network, captum, completeness or conservation; a refusal against the "
            "words that it must contain. ✓: right; a number: refused, for the reason below.",
            "",
            f"| network | {' | '.join(f'`{m}`' for m in self.methods)} |",
            f"|---|{'---|' * len(self.methods)}",
        ]
        for network, row in self.states.items():
            marks = ["✓" if row[m] == WORKS else str(order[row[m]]) for m in self.methods]
            lines.append(f"| {network} | {' | '.join(marks)} |")
        lines += ["", "## Reasons for refusals", "", *(f"{i}. Refuses {self.reasons[key]}." for key, i in order.items())]
        lines += ["", "## What is awkward about each network", "", "| network | what is awkward |", "|---|---|"]
        lines += [f"| {name} | {what} |" for name, what in self.networks.items()]
        return "\n".join(lines) + "\n"
