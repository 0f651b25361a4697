"""Several processes end at the weights and the logs of one device."""

import json
import os
import pathlib
import socket
import subprocess
import sys

import keras
import pytest

from tests import several_workers
from tests.replicas_test import assert_equal

CHECKOUT = pathlib.Path(__file__).absolute().parent.parent


def start(job, workers):
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
    for one in results(start([job], workers)):
        assert_equal(alone, one)


def test_two_workers_train_as_one_device():
    assert_workers_equal_one_device("few_steps", 2)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [2, 4])
@pytest.mark.parametrize("job", ["streams", "others"])
def test_workers_train_evaluate_and_predict_as_one_device(job, workers):
    assert_workers_equal_one_device(job, workers)
