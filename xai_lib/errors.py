"""The one base of every error that is meant for a user, and the sentence that helps with a misspelt name."""

import difflib
import numbers
from collections.abc import Sequence


class XaiError(Exception):
    """Base of all errors of this package that say what was expected, what was found and what to do next.

    Each kind is a subclass, defined in the module that raises it. The command line prints the message alone.
    """

    exit_code = 2  #: of the command line: 2 for a wrong question, 3 for a held profile, 1 for what failed on the way


def whole(name: str, value: object, least: int, error: type[XaiError]) -> None:
    """Raise `error` unless `value`, called `name`, is a whole number from `least`; True and False are none."""
    if not isinstance(value, numbers.Integral) or isinstance(value, bool) or value < least:
        raise error(f"{name}: expected a whole number from {least}, found {value!r}")


def nearest(name: str, known: Sequence[str], shown: int = 12) -> str:
    """The known names nearest to `name`, or the first few of all if none is near."""
    close = difflib.get_close_matches(name.lower(), known, n=5, cutoff=0.5)
    return f"nearest: {', '.join(close)}" if close else f"known: {', '.join(known[:shown])}{' …' * (len(known) > shown)}"
