"""The table: the state that each cell must have, and what each kind of refusal must say."""

from __future__ import annotations

REASONS: dict[str, tuple[str, str]] = {}
EXPECTED: dict[str, dict[str, str]] = {}
