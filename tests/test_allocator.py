"""Freed memory stays with the process: measured in page faults, in a fresh process."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from xai_lib.allocator import keep_freed_memory

FAULTS = """
import resource
import torch
from xai_lib.allocator import keep_freed_memory
print(keep_freed_memory() if {keep} else None)
torch.set_num_threads(1)
for _ in range(30):  # 64 MiB; the first rounds take the pages, the last finds them again or not
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.empty(2**26, dtype=torch.uint8).fill_(1)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def last_round(keep: bool, **environment: str) -> tuple[str, int]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    said = subprocess.run(
        [sys.executable, "-c", FAULTS.format(keep=keep)], env=clean | environment, capture_output=True, text=True, check=True
    )
    kept, faults = said.stdout.split()
    return kept, int(faults)


@pytest.mark.skipif(not keep_freed_memory(), reason="the C library is not GNU's, or MALLOC_... is set")
def test_a_large_block_is_paid_for_once() -> None:
    kept, faults = last_round(keep=True)
    assert kept == "True" and faults < 100
    assert last_round(keep=False)[1] > 1000  # otherwise the measurement says nothing


def test_the_users_own_setting_stands() -> None:
    assert last_round(keep=True, MALLOC_TRIM_THRESHOLD_="131072")[0] == "False"
