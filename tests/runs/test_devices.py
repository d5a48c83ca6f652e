"""What a run sets for its process before the first step."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.slow

_CHURN = """
import resource
import torch
from stpl.runs.trainer import keep_freed_memory

keep_freed_memory()
torch.ones(48 << 20, dtype=torch.uint8)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    blocks = [torch.ones(size << 20, dtype=torch.uint8) for size in (24, 48)]
    del blocks
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(**environment: str) -> int:
    """Page faults of a process that gets and frees, twenty times, a block of the heap and one that glibc would map."""
    command = [sys.executable, "-W", "ignore", "-c", _CHURN]
    env = {**os.environ, **environment}
    return int(subprocess.run(command, capture_output=True, text=True, check=True, env=env).stdout)


@pytest.mark.long
@pytest.mark.skipif("CS_GNU_LIBC_VERSION" not in getattr(os, "confstr_names", ()), reason="the allocator of glibc")
def test_freed_memory_is_kept_unless_the_environment_decides() -> None:
    # Not compared with glibc's defaults, under which it is chance what lies at the heap's end and is given back.
    assert faults() < faults(MALLOC_TRIM_THRESHOLD_="131072") / 4
