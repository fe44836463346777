"""The `xai` command as a whole: notebooks headless (`xai_lib.runs`), and what a user does without a notebook."""

from xai_lib.command import explain, grade, leaks  # noqa: F401  # join the app
from xai_lib.runs.command import app, main

__all__ = ["app", "main"]
