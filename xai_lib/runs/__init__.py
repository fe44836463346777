"""Headless execution: what a notebook leaves behind, one run of it, the batch, the report, the `xai` command.

This package knows notebooks as files and nothing of what they compute. A notebook needs one name of it::

    from xai_lib import runs
    results = runs.Results(output_dir)
"""

from xai_lib.runs.publication import publish
from xai_lib.runs.results import Results

__all__ = ["Results", "publish"]
