"""The number of processors that this process may use."""

import os
import pathlib

_CGROUP_LIMIT = pathlib.Path("/sys/fs/cgroup/cpu.max")


def available_processors() -> int:
    """Returns the number of processors that this process may use.

    The CPU affinity and the quota of the cgroup limit the number. A quota of
    1.5 processors counts as 2.

    Returns:
        An int of at least 1.
    """
    if hasattr(os, "sched_getaffinity"):
        count = len(os.sched_getaffinity(0))
    else:
        count = os.cpu_count() or 1
    return max(1, min(count, _quota(count)))


def _quota(default):
    try:
        quota, period = _CGROUP_LIMIT.read_text(encoding="utf-8").split()
        return -(-int(quota) // int(period))
    except (OSError, ValueError, ZeroDivisionError):
        # The file does not exist, or says "max".
        return default
