"""`kill -9`, at random moments and in the middle of a write."""

import os
import pathlib
import random
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from tests import resumed_training

CHECKOUT = pathlib.Path(__file__).absolute().parents[2]


def start(*arguments):
    return subprocess.Popen(
        [
            sys.executable,
            "-m",
            "tests.resumed_training",
            *map(str, arguments),
        ],
        cwd=CHECKOUT,
        env={**os.environ, "PYTHONPATH": str(CHECKOUT)},
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process):
    _, errors = process.communicate()
    assert process.returncode == 0, errors


def changed(path, before):
    return path.exists() and path.stat().st_ino != before


def kill(process, path, delay, in_a_write):
    """Kills a process some time after it has saved for the first time.

    Returns:
        Whether it had not ended before, and whether it was in a write.
    """
    before = path.stat().st_ino if path.exists() else None
    while not changed(path, before) and process.poll() is None:
        time.sleep(0.005)
    time.sleep(delay)
    new = path.with_name(path.name + ".new")
    while in_a_write and not new.exists() and process.poll() is None:
        pass
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    return process.returncode == -signal.SIGKILL, new.exists()


def assert_same(result, wanted):
    assert result.keys() == wanted.keys()
    for name, value in wanted.items():
        np.testing.assert_array_equal(result[name], value, name)


@pytest.mark.slow
def test_a_killed_run_goes_on(tmp_path):
    path, result = tmp_path / "run.resume", tmp_path / "result.npz"
    process = start("eager", result, path)
    killed, _ = kill(process, path, 0.05, in_a_write=True)
    assert killed
    finish(start("eager", result, path))
    small = {"epochs": 2, "steps_per_epoch": 8}
    wanted = resumed_training.train("eager", **small)
    assert_same(dict(np.load(result)), wanted)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "kills"),
    [
        ("conv4", 20),
        ("maml_plus_plus", 20),
        ("dropout", 20),
        ("policy_search", 20),
        ("replicas", 5),
    ],
)
def test_many_kills(tmp_path, kind, kills):
    path, result = tmp_path / "run.resume", tmp_path / "result.npz"
    rng = random.Random(kind)
    writes = 0
    for i in range(kills):
        killed, in_a_write = kill(
            start(kind, result, path),
            path,
            rng.uniform(0, 0.3),
            in_a_write=rng.random() < 0.5,
        )
        assert killed, f"The run was over after {i} kills"
        writes += in_a_write
    finish(start(kind, result, path))
    finish(start(kind, tmp_path / "unbroken.npz"))
    wanted = dict(np.load(tmp_path / "unbroken.npz"))
    result = dict(np.load(result))
    if kind == "replicas":
        # Replicas share what a metric has counted before.
        for name in [n for n in wanted if n.startswith("history")]:
            np.testing.assert_allclose(
                result.pop(name), wanted.pop(name), rtol=1e-5
            )
    assert_same(result, wanted)
    print(f"{kind}: {kills} kills, {writes} of them in a write")
    assert writes >= kills // 5
