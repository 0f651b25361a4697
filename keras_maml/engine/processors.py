"""The number of processors that this process may use."""

import os
import pathlib

# The mount point of cgroups, and the file with this process's groups.
_CGROUPS = pathlib.Path("/sys/fs/cgroup")
_GROUPS_OF_PROCESS = pathlib.Path("/proc/self/cgroup")


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
    return max(1, min([count, *_quotas()]))


def _quotas():
    """Returns the quotas of this process's cgroups, rounded up."""
    found = []
    for folder in _folders():
        for files in (["cpu.max"], ["cpu.cfs_quota_us", "cpu.cfs_period_us"]):
            try:
                texts = [(folder / name).read_text("utf-8") for name in files]
                quota, period = map(int, " ".join(texts).split())
                found += [-(-quota // period)] if quota > 0 else []
            except (OSError, ValueError, ZeroDivisionError):
                # There is no such file, or it says "max".
                continue
    return found


def _folders():
    """Yields folders that may limit the process: cgroups v2 and v1."""
    yield _CGROUPS
    yield _CGROUPS / "cpu"
    try:
        lines = _GROUPS_OF_PROCESS.read_text("utf-8").splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers:
            yield _CGROUPS / path.lstrip("/")
        elif "cpu" in controllers.split(","):
            yield _CGROUPS / "cpu" / path.lstrip("/")
