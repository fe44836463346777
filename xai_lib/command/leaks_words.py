"""What the leak detector found, in words: for the terminal and for the page."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

    from xai_lib.leaks import Leaks


def percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def cells(table: pd.DataFrame) -> list[list[str]]:
    """`Leaks.table` as text: verdict, what, where, how many, interval, the commonest class's accuracy."""
    rows = [["", "what", "where", "pictures", "share", "95 % interval", "commonest class"]]
    each: Any = table.itertuples()
    for row in each:
        tree = row.commonest == row.commonest  # copies have neither interval nor rival
        between = f"{100 * row.low:.1f} to {percent(row.high)}" if tree else ""
        what = f"class told by {row.leak}" if tree else row.leak
        rows.append(
            ["LEAK" if row.found else "-", what, row.where, f"{row.count} of {row.of}", percent(row.share), between,
             percent(row.commonest) if tree else ""]
        )  # fmt: skip
    return rows


def rules(table: pd.DataFrame) -> list[str]:
    """The most telling question of each shortcut that was found."""
    found = table[table["rule"].fillna("") != ""].drop_duplicates("leak")
    return [f"{leak}: {rule}" for leak, rule in zip(found["leak"], found["rule"], strict=True)]


def verdict(found: Leaks) -> str:
    table = found.table()
    kinds = list(dict.fromkeys(table.loc[table["found"].astype(bool), "leak"]))
    return f"leak found: {', '.join(kinds)}" if kinds else "no leak found"
