"""Settings of the process."""

import json
import os
import subprocess
import sys

import pytest
import tensorflow as tf

from keras_maml.engine import cpu_settings

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="`malloc` has settings on Linux only."
)

# Fills most of a thread's heap. Each further block needs another heap.
PROGRAM = """
import ctypes
import json
import resource
import sys
import threading

libc = ctypes.CDLL(None)
for parameter, size in json.loads(sys.argv[1]).items():
    assert libc.mallopt(int(parameter), size) == 1
libc.malloc.restype = ctypes.c_void_p
libc.malloc.argtypes = [ctypes.c_size_t]
libc.free.argtypes = [ctypes.c_void_p]

def block(mebibytes):
    address = libc.malloc(mebibytes * 2**20)
    ctypes.memset(address, 1, mebibytes * 2**20)
    return address

def page_faults():
    return resource.getrusage(resource.RUSAGE_THREAD).ru_minflt

def run():
    # From now on, blocks as large as this one come from heaps.
    libc.free(block(31))
    kept = [block(1) for _ in range(60)]
    libc.free(block(6))
    before = page_faults()
    for _ in range(10):
        libc.free(block(6))
    print(page_faults() - before)

thread = threading.Thread(target=run)
thread.start()
thread.join()
"""


def page_faults(settings):
    process = subprocess.run(
        [sys.executable, "-c", PROGRAM, json.dumps(settings)],
        env={k: v for k, v in os.environ.items() if "MALLOC" not in k},
        capture_output=True,
        text=True,
        check=True,
    )
    return int(process.stdout)


@pytest.mark.skipif(
    not hasattr(cpu_settings.ctypes.CDLL(None), "mallopt"),
    reason="The C library has no settings of `malloc`.",
)
def test_freed_memory_stays_for_the_next_step():
    assert page_faults({}) > 10_000
    assert page_faults(cpu_settings._MALLOC_SETTINGS) < 100


@pytest.mark.parametrize("variable", [None, "MALLOC_ARENA_MAX"])
def test_the_environment_decides_about_malloc(variable, monkeypatch):
    calls = []

    class Library:
        def mallopt(self, parameter, size):
            calls.append((parameter, size))

    for name in cpu_settings._MALLOC_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    if variable:
        monkeypatch.setenv(variable, "1")
    monkeypatch.setattr(cpu_settings.ctypes, "CDLL", lambda name: Library())
    for name in ("inter_op", "intra_op"):
        monkeypatch.setattr(
            tf.config.threading,
            f"set_{name}_parallelism_threads",
            lambda number: None,
        )
    cpu_settings.configure_threads()
    expected = [] if variable else list(cpu_settings._MALLOC_SETTINGS.items())
    assert calls == expected
