"""Several processes end at the weights and the logs of one device."""

import json
import os
import pathlib
import signal
import socket
import subprocess
import sys

import keras
import numpy as np
import pytest

from tests import several_workers
from tests.replicas_test import assert_equal

CHECKOUT = pathlib.Path(__file__).absolute().parent.parent


def start(workers, *job):
    """Starts the workers of a job."""
    cluster = {"worker": free_addresses(workers)}
    tasks = [{"type": "worker", "index": index} for index in range(workers)]
    return [
        subprocess.Popen(
            [
                sys.executable,
                "-W",
                "error::UserWarning",
                "-m",
                several_workers.__name__,
                *job,
            ],
            cwd=CHECKOUT,
            env=os.environ
            | {"TF_CONFIG": json.dumps({"cluster": cluster, "task": task})},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for task in tasks
    ]


def free_addresses(number):
    """Addresses of ports that nobody uses at the moment."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(number)]
    addresses = [f"127.0.0.1:{s.getsockname()[1]}" for s in sockets]
    for one in sockets:
        one.close()
    return addresses


def results(processes, timeout=200):
    """What the processes print; they end in any case."""
    try:
        outputs = [
            process.communicate(timeout=timeout) for process in processes
        ]
    finally:
        for process in processes:
            process.kill()
    for process, (_, errors) in zip(processes, outputs, strict=True):
        assert process.returncode == 0, errors[-3000:]
    return [json.loads(printed) for printed, _ in outputs]


def assert_workers_equal_one_device(job, workers):
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    alone = several_workers.JOBS[job](None)
    for one in results(start(workers, job)):
        assert_equal(alone, one)


@pytest.mark.slow
def test_two_workers_train_as_one_device():
    assert_workers_equal_one_device("few_steps", 2)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [2, 4])
@pytest.mark.parametrize("job", ["streams", "others"])
def test_workers_train_evaluate_and_predict_as_one_device(job, workers):
    assert_workers_equal_one_device(job, workers)


@pytest.mark.slow
@pytest.mark.parametrize("killed", [0, 1])
def test_workers_go_on_after_one_was_killed(killed, tmp_path):
    unbroken = results(start(2, "resumed", str(tmp_path / "unbroken")))
    path = str(tmp_path / "broken")
    workers = start(2, "resumed", path, str(killed), "7")
    try:
        assert workers[killed].wait(timeout=120) == -signal.SIGKILL
        # It does not wait for the other for ever.
        survivor = workers[1 - killed]
        assert survivor.wait(timeout=60) not in (0, -signal.SIGKILL)
        assert "Collective ops is aborted" in survivor.stderr.read()
    finally:
        for worker in workers:
            worker.kill()
            worker.communicate()
    for one, other in zip(
        results(start(2, "resumed", path)), unbroken, strict=True
    ):
        assert (one.pop("steps"), other.pop("steps")) == (6, 12)
        # The workers' shares of a metric are added up in another order.
        for key in ("history", "logs"):
            np.testing.assert_allclose(one.pop(key), other.pop(key), rtol=1e-14)
        assert one == other
    # The chief alone writes; others would have left files of their own.
    assert {p.name.split(".")[0] for p in tmp_path.iterdir()} == {
        "broken",
        "unbroken",
    }
