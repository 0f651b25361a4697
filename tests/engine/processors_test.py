"""The number of processors that a process may use."""

import os

import pytest

from keras_maml.engine import processors


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """Eight processors, and a folder of cgroups without limits."""
    monkeypatch.setattr(processors, "_CGROUPS", tmp_path)
    monkeypatch.setattr(processors, "_GROUPS_OF_PROCESS", tmp_path / "groups")
    monkeypatch.setattr(
        os, "sched_getaffinity", lambda _: set(range(8)), raising=False
    )
    return tmp_path


@pytest.mark.parametrize(
    ("limit", "expected"),
    [
        ("max 100000", 8),
        ("200000 100000", 2),
        ("150000 100000", 2),
        ("50000 100000", 1),
        ("1600000 100000", 8),
        ("no numbers", 8),
    ],
)
def test_affinity_and_quota_count(machine, limit, expected):
    assert processors.available_processors() == 8
    (machine / "cpu.max").write_text(limit)
    assert processors.available_processors() == expected


def test_a_nested_group_of_the_process_counts(machine):
    (machine / "groups").write_text("0::/user.slice/training\n")
    folder = machine / "user.slice" / "training"
    folder.mkdir(parents=True)
    (folder / "cpu.max").write_text("300000 100000")
    assert processors.available_processors() == 3


def test_groups_of_the_first_version_count(machine):
    (machine / "groups").write_text("4:memory:/\n3:cpu,cpuacct:/docker/a\n")
    folder = machine / "cpu" / "docker" / "a"
    folder.mkdir(parents=True)
    (folder / "cpu.cfs_period_us").write_text("100000\n")
    (folder / "cpu.cfs_quota_us").write_text("-1\n")
    assert processors.available_processors() == 8
    (folder / "cpu.cfs_quota_us").write_text("250000\n")
    assert processors.available_processors() == 3


def test_without_affinity_all_processors_count(machine, monkeypatch):
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert processors.available_processors() == 1
