"""How many processors a process may use."""

import os

import pytest

from keras_maml.engine import processors


@pytest.mark.parametrize(
    ("limit", "expected"),
    [
        ("max 100000", 8),
        ("200000 100000", 2),
        ("150000 100000", 2),
        ("50000 100000", 1),
        ("1600000 100000", 8),
        ("no numbers", 8),
        (None, 8),
    ],
)
def test_affinity_and_quota_count(monkeypatch, tmp_path, limit, expected):
    path = tmp_path / "cpu.max"
    if limit is not None:
        path.write_text(limit)
    monkeypatch.setattr(processors, "_CGROUP_LIMIT", path)
    monkeypatch.setattr(
        os, "sched_getaffinity", lambda _: set(range(8)), raising=False
    )
    assert processors.available_processors() == expected


def test_without_affinity_all_processors_count(monkeypatch, tmp_path):
    monkeypatch.setattr(processors, "_CGROUP_LIMIT", tmp_path / "missing")
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert processors.available_processors() == 1
