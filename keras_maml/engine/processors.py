"""How many processors this process may use."""

import os
import pathlib

_CGROUP_LIMIT = pathlib.Path("/sys/fs/cgroup/cpu.max")


def available_processors() -> int:
    """Processors that affinity and the cgroup's quota leave to this process.

    Returns:
        An int of at least 1. A quota of 1.5 processors counts as 2.
    """
    if hasattr(os, "sched_getaffinity"):
        count = len(os.sched_getaffinity(0))
    else:
        count = os.cpu_count() or 1
    return max(1, min(count, _quota(count)))


def _quota(otherwise):
    try:
        quota, period = _CGROUP_LIMIT.read_text(encoding="utf-8").split()
        return -(-int(quota) // int(period))
    except (OSError, ValueError, ZeroDivisionError):
        # There is no such file, or it says "max".
        return otherwise
