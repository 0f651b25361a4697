"""The form of the file, and that there is a whole one at any time."""

import hashlib
import os
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from keras_maml.callbacks import checkpoint_file
from keras_maml.callbacks.checkpoint_file import CheckpointFile

STATE = {
    "numbers": [1, -2.5, float("inf"), True, None, "é\n"],
    "empty": {},
    "arrays": {
        "f": np.linspace(0, 1, 6, dtype="float32").reshape(2, 3),
        "u": np.array([1, 2**32 - 1], "uint32"),
        "i": np.int64(-3),
        "b": np.array([True, False]),
        "h": np.array([1.5], tf.bfloat16.as_numpy_dtype),
        "none": np.zeros([0, 2]),
        "turned": np.arange(6).reshape(2, 3).T,
    },
}


@pytest.fixture
def file(tmp_path):
    return CheckpointFile(str(tmp_path / "a.resume"))


def test_states_come_back(file):
    assert file.load() is None
    file.save(STATE)
    loaded = CheckpointFile(file.path).load()
    assert loaded["numbers"] == STATE["numbers"]
    assert loaded["empty"] == {}
    for name, array in STATE["arrays"].items():
        assert loaded["arrays"][name].dtype == array.dtype
        np.testing.assert_array_equal(loaded["arrays"][name], array)


def test_the_form_is_as_it_is_written_down(file):
    file.save({"a": np.array([1, 2], "int16")})
    with open(file.path, "rb") as opened:
        content = opened.read()
    first, second, rest = content.split(b"\n", 2)
    assert first == b"keras_maml Resume 1"
    assert second == (
        b'{"state": {"a": {"array": 0}}, "arrays": [["int16", [2]]]}'
    )
    assert rest[:4] == b"\1\0\2\0"
    assert rest[4:] == hashlib.sha256(content[:-32]).digest()


@pytest.mark.parametrize(
    "state", [{"a": object()}, {"a": np.array(["x"])}, {1: 2}, {"array": 1}]
)
def test_what_cannot_be_kept_is_refused(file, state):
    file.save(1)
    with pytest.raises(ValueError, match="A state must|The keys of a state"):
        file.save(state)
    assert CheckpointFile(file.path).load() == 1


def test_the_one_before_is_kept(file):
    for state in (1, 2, 3):
        file.save(state)
    assert checkpoint_file.read(file.path) == 3
    assert checkpoint_file.read(file.previous) == 2
    assert sorted(os.listdir(os.path.dirname(file.path))) == [
        "a.resume",
        "a.resume.previous",
    ]


def test_a_lock_is_there_for_all_runs(file):
    fcntl = pytest.importorskip("fcntl")
    with file.locked():
        # Another run opens the file now, and locks it as soon as it is free.
        other = open(file.path + ".lock")
    with other:
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        with pytest.raises(ValueError, match="Another run"), file.locked():
            pass
    with file.locked():
        pass


def test_a_writer_may_be_killed_between_its_two_renamings(file):
    file.save(1)
    os.replace(file.path, file.previous)
    again = CheckpointFile(file.path)
    assert again.load() == 1
    again.save(2)
    assert checkpoint_file.read(file.previous) == 1
    assert checkpoint_file.read(file.path) == 2


@pytest.mark.parametrize("length", [0, 7, 20, 60, -1])
def test_a_truncated_file_gives_way_and_stays_behind_no_good_one(file, length):
    file.save({"a": np.arange(9)})
    file.save({"b": np.arange(9)})
    with open(file.path, "rb") as opened:
        content = opened.read()
    with open(file.path, "wb") as opened:
        opened.write(content[:length])
    again = CheckpointFile(file.path)
    with pytest.warns(
        UserWarning, match=r"a\.resume' is damaged.*previous', is"
    ):
        assert list(again.load()) == ["a"]
    again.save(3)
    assert list(checkpoint_file.read(file.previous)) == ["a"]
    os.remove(file.previous)
    with open(file.path, "wb") as opened:
        opened.write(content[:length])
    with pytest.raises(ValueError, match=r"a\.resume' is damaged.*remove it"):
        CheckpointFile(file.path).load()


def test_a_changed_byte_is_noticed(file):
    file.save({"a": np.zeros(1000)})
    with open(file.path, "r+b") as opened:
        opened.seek(500)
        opened.write(b"\1")
    with pytest.raises(ValueError, match="damaged"):
        file.load()


def sealed(text):
    return text + hashlib.sha256(text).digest()


@pytest.mark.parametrize(
    "header",
    [
        b"no json",
        b"[]",
        b'{"state": {"array": 0}, "arrays": []}',
        b'{"state": {"array": 0}, "arrays": [["int8", [99999999999]]]}',
        b'{"state": {"array": 0}, "arrays": [["int8", [-1, 3]]]}',
        # Terabytes, and more than any machine can count.
        b'{"state": {"array": 0}, "arrays": [["float32", [1000000, 1000000]]]}',
        b'{"state": {"array": 0}, "arrays": [["int8", [1%s]]]}' % (b"0" * 40),
        b'{"state": {"array": 0}, "arrays": [["variant", [1]]]}',
        b'{"state": ' + b"[" * 100_000 + b"]" * 100_000 + b', "arrays": []}',
        b'{"state": {"array": 0}, "arrays": [["object", [1]]]}',
        b'{"state": {"array": 0}, "arrays": [["string", [1]]]}',
    ],
)
def test_a_forged_file_is_refused(file, header):
    with open(file.path, "wb") as opened:
        opened.write(sealed(b"keras_maml Resume 1\n" + header + b"\n" + b"123"))
    with pytest.raises(ValueError, match="damaged"):
        file.load()


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"keras_maml Resume 2\n...", "later version.*form 2"),
        (b"PK\3\4 something of the user's", "not a checkpoint of `Resume`"),
    ],
)
def test_later_and_foreign_files_are_refused(file, content, match):
    file.save(1)
    with open(file.path, "wb") as opened:
        opened.write(content)
    with pytest.raises(ValueError, match=match):
        CheckpointFile(file.path).load()
    with open(file.path, "rb") as opened:
        assert opened.read() == content


def test_a_file_above_max_bytes_is_not_read(file):
    file.save(1)
    # A hole takes no room on the disk.
    os.truncate(file.path, 2**40)
    with pytest.raises(ValueError, match="`max_bytes`.*Received: .*bytes and"):
        CheckpointFile(file.path).load()
    with pytest.raises(ValueError, match=f"{2**40} bytes and max_bytes=1000"):
        CheckpointFile(file.path, max_bytes=1000).load()


def test_a_folder_and_a_pipe_are_no_files(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe"):
        with pytest.raises(ValueError, match="must name a file"):
            CheckpointFile(str(path)).load()


@pytest.mark.slow
def test_a_file_that_grows_too_large_leaves_the_one_before(file):
    file.save(1)
    program = f"""
import resource
import numpy as np
from keras_maml.callbacks.checkpoint_file import CheckpointFile
file = CheckpointFile({file.path!r})
assert file.load() == 1
resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
file.save(np.zeros(10_000))
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
    )
    assert (
        "`Resume` cannot write its checkpoint (File too large)" in done.stderr
    )
    assert f"'{file.path}'" in done.stderr.splitlines()[-1]
    assert CheckpointFile(file.path).load() == 1
    assert os.listdir(os.path.dirname(file.path)) == ["a.resume"]
