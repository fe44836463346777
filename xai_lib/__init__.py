"""Five papers on explaining image classifiers, each reproduced by one notebook over this package.

Importing the package is cheap: torch is loaded by the modules that compute with it.
"""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("xai-lib")
except PackageNotFoundError:  # used from a source tree that was not installed
    __version__ = "0+unknown"
