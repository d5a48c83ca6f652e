"""What this machine has that a process may use; nothing heavy is imported for it."""

import importlib
import os
import shutil
import subprocess
import sys
from contextlib import suppress
from pathlib import Path


def find_own_modules() -> None:
    """Let Python find modules of the working directory, after all that is installed: a file there hides nothing."""
    if "" not in sys.path and str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))
    importlib.invalidate_caches()


def cores() -> list[int]:
    """Numbers of the CPU cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


SWEEP_CORES = "STPL_SWEEP_CORES"
"""Variable in which a worker of a sweep, which may use a share of the cores, finds those of all its workers."""


def sweep_cores() -> list[int]:
    """Numbers of the CPU cores for work that all workers of a sweep wait for; without a sweep, `cores`."""
    given = os.environ.get(SWEEP_CORES)
    return [int(number) for number in given.split(",")] if given else cores()


def visible_gpus() -> list[str]:
    """Names of the GPUs as `CUDA_VISIBLE_DEVICES` takes them: those it names already, or all that the driver lists."""
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    if given is not None:
        return [name for name in given.split(",") if name and name != "-1"]
    if shutil.which("nvidia-smi") is None:
        return []
    with suppress(OSError, subprocess.SubprocessError):
        call = ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"]
        return subprocess.run(call, capture_output=True, text=True, check=True, timeout=30).stdout.split()
    return []


def free_memory() -> int:
    """Bytes of the host's memory that a process may still take, within the limits of its control group."""
    free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    with suppress(OSError, ValueError, StopIteration):
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        free = 1024 * int(next(line.split()[1] for line in lines if line.startswith("MemAvailable:")))
    for limit, used in (
        ("memory.max", "memory.current"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
    ):
        with suppress(OSError, ValueError):
            folder = Path("/sys/fs/cgroup")
            left = int((folder / limit).read_text()) - int((folder / used).read_text())
            free = min(free, left + _reclaimable((folder / used).parent / "memory.stat"))
    return max(0, free)


def _reclaimable(statistics: Path) -> int:
    """Bytes that a control group uses to remember files, and gives back when they are needed."""
    with suppress(OSError, ValueError):
        lines = (line.split() for line in statistics.read_text(encoding="ascii").splitlines())
        return next((int(value) for name, value in lines if name in ("inactive_file", "total_inactive_file")), 0)
    return 0
