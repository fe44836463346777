"""The one base of every error that is meant for a user."""


class XaiError(Exception):
    """Base of all errors of this package that say what was expected, what was found and what to do next.

    Each kind is a subclass, defined in the module that raises it. The command line prints the message alone.
    """
