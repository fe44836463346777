"""All awkward networks, by name: what is awkward, and how to make one."""

from __future__ import annotations

from tests.contract import architectures, behaviour, forms, library
from tests.contract.subject import ZOO, Subject, entry

__all__ = ["ZOO", "Subject", "architectures", "behaviour", "entry", "forms", "library"]
