"""The file that `Resume` writes, and how a new one takes its place.

A file holds, one after another:

1. a line of ASCII, `keras_maml Resume 1`. The number is the version of this
   form;
2. a line of JSON, `{"state": ..., "arrays": [[dtype, shape], ...]}`. In the
   state, `{"array": i}` stands for array number `i`. NaN and infinity are
   written `NaN` and `Infinity`;
3. the elements of each array, little-endian, the last axis fastest;
4. 32 bytes, the SHA-256 of everything before.

A new file is written beside the old one and takes its place when it is whole.
The one before stays as `<path>.previous`. So there is a whole file at any time.
As long as a run lasts, it holds a lock on `<path>.lock`. The empty file stays:
another run may have opened it, whose lock would not be on a new one.
"""

import contextlib
import hashlib
import json
import math
import os
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow as tf

try:
    import fcntl
except ImportError:  # Windows.
    fcntl = None  # type: ignore[assignment]

VERSION = 1
# The default of `max_bytes`: 16 GiB.
MAX_BYTES = 2**34
_MAGIC = b"keras_maml Resume "
_HASH_SIZE = hashlib.sha256().digest_size


class CheckpointFile:
    """A state on disk, and the state before.

    Args:
        path: string, the path of the file.
        max_bytes: int, the largest file that is read.
    """

    def __init__(self, path: str, max_bytes: int = MAX_BYTES) -> None:
        self.path = path
        self.max_bytes = max_bytes
        self.previous = path + ".previous"
        self._new = path + ".new"
        # A damaged file must not take the place of the one before.
        self._is_whole = False

    def load(self) -> Any:
        """Returns the last whole state, or `None` if there is no file.

        Raises:
            ValueError: if a file is not one of these, or of a later version,
                or if no file is whole.
        """
        try:
            state = read(self.path, self.max_bytes)
            self._is_whole = state is not None
        except DamagedFileError as error:
            state = read(self.previous, self.max_bytes)
            if state is None:
                raise
            warnings.warn(
                f"{error} The one before, {self.previous!r}, is used.",
                stacklevel=2,
            )
        # Without a file, a writer was killed between its two renamings.
        if state is None:
            state = read(self.previous, self.max_bytes)
        return state

    def save(self, state: Any) -> None:
        """Writes a state.

        Raises:
            OSError: if the state cannot be written. The files are as before.
        """
        with self._naming_the_file():
            try:
                with open(self._new, "wb") as file:
                    _write(file, state)
                    file.flush()
                    os.fsync(file.fileno())
                if self._is_whole:
                    os.replace(self.path, self.previous)
                os.replace(self._new, self.path)
            except OSError:
                with contextlib.suppress(OSError):
                    os.remove(self._new)
                raise
            self._is_whole = True
            _sync_folder(self.path)

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keeps other runs away from the file.

        Raises:
            OSError: if no file can be written there.
            ValueError: if another run has the lock.
        """
        with self._naming_the_file():
            os.makedirs(os.path.dirname(self.path) or ".", exist_ok=True)
            file = open(self.path + ".lock", "w")
        with file:
            if fcntl is not None:
                self._lock(file)
            yield

    def _lock(self, file):
        try:
            # The system takes the lock back from a process that was killed.
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ValueError(
                "Another run uses this checkpoint. Wait for its end, or choose "
                f"another `path`. Received: path={self.path!r}"
            ) from error
        except OSError:
            # A file system without locks.
            pass

    @contextlib.contextmanager
    def _naming_the_file(self):
        try:
            yield
        except OSError as error:
            raise type(error)(
                error.errno,
                f"`Resume` cannot write its checkpoint ({error.strerror}). "
                "What it wrote before is as it was. Make room, or choose "
                "another `path`",
                self.path,
            ) from error


class DamagedFileError(ValueError):
    """A file of this kind that is not whole."""


def read(path: str, max_bytes: int = MAX_BYTES) -> Any:
    """Returns the state in a file, or `None` if there is no file.

    Raises:
        DamagedFileError: if the file is not whole.
        ValueError: if it is another kind of file, of a later version, or
            larger than `max_bytes`.
    """
    if not os.path.exists(path):
        return None
    if not os.path.isfile(path):
        raise ValueError(
            f"`path` must name a file of `Resume`. Received: path={path!r}"
        )
    with open(path, "rb") as file:
        length = os.fstat(file.fileno()).st_size
        if length > max_bytes:
            raise ValueError(
                f"{path!r} is larger than `max_bytes`. If you trust the file "
                f"and have the memory, raise `max_bytes`. Received: a file of "
                f"{length} bytes and max_bytes={max_bytes}"
            )
        # It may grow meanwhile.
        content = file.read(length)
    _check_version(path, content)
    body, digest = content[:-_HASH_SIZE], content[-_HASH_SIZE:]
    if hashlib.sha256(body).digest() != digest:
        raise _damaged(path)
    try:
        return _parsed(body)
    except (
        ArithmeticError,
        AttributeError,
        LookupError,
        RecursionError,
        TypeError,
        ValueError,
    ) as error:
        # Someone made it so: the sum is right.
        raise _damaged(path) from error


def _parsed(body):
    _, header, data = body.split(b"\n", 2)
    header = json.loads(header)
    arrays = []
    start = 0
    for name, shape in header["arrays"]:
        if any(size < 0 for size in shape):
            raise ValueError("numpy would guess the size")
        dtype = np.dtype(tf.as_dtype(name).as_numpy_dtype)
        array = np.frombuffer(
            data, dtype.newbyteorder("<"), math.prod(shape), start
        )
        start += array.nbytes
        arrays.append(array.reshape(shape).astype(dtype))
    return _with_arrays(header["state"], arrays)


def _check_version(path, content):
    start = _MAGIC + str(VERSION).encode() + b"\n"
    if content.startswith(start):
        return
    # A lost end, or blocks that were never written.
    if start.startswith(content) or not any(content):
        raise _damaged(path)
    if content.startswith(_MAGIC):
        later = content[len(_MAGIC) :].split(b"\n")[0][:20]
        raise ValueError(
            f"{path!r} was written by a later version of keras_maml. Use that "
            "version, or choose another `path`. Received: a file of form "
            f"{later.decode(errors='replace')}, where this version reads form "
            f"{VERSION}"
        )
    raise ValueError(
        f"{path!r} is not a checkpoint of `Resume`. Choose another `path`, or "
        f"remove the file. Received: a file that starts with {content[:20]!r}"
    )


def _damaged(path):
    return DamagedFileError(
        f"The checkpoint {path!r} is damaged: a part of it is missing or has "
        "changed. To begin anew, remove it."
    )


def _write(file, state):
    arrays: list[np.ndarray] = []
    state = _without_arrays(state, arrays)
    header = {
        "state": state,
        "arrays": [[tf.as_dtype(a.dtype).name, a.shape] for a in arrays],
    }
    digest = hashlib.sha256()
    for part in (
        _MAGIC + str(VERSION).encode() + b"\n",
        json.dumps(header).encode("ascii") + b"\n",
        *(a.astype(a.dtype.newbyteorder("<")).tobytes() for a in arrays),
    ):
        digest.update(part)
        file.write(part)
    file.write(digest.digest())


def _without_arrays(value, arrays):
    """Moves the arrays of a structure into a list."""
    if value is None or isinstance(value, (bool, int, float, str)):
        # Numpy's own floats are floats too, and would come back as such.
        if not isinstance(value, np.generic):
            return value
    if isinstance(value, dict):
        if "array" in value or not all(isinstance(key, str) for key in value):
            raise ValueError(
                'The keys of a state must be strings, and not "array". '
                f"Received: {list(value)}"
            )
        return {k: _without_arrays(v, arrays) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_arrays(v, arrays) for v in value]
    array = np.asarray(value)
    try:
        is_numeric = tf.as_dtype(array.dtype).is_numpy_compatible
    except TypeError:
        is_numeric = False
    if not is_numeric or array.dtype.kind in "OSU":
        raise ValueError(
            "A state must consist of numbers, strings, None, lists, dicts and "
            f"arrays of numbers. Received: {value!r} (of type {type(value)})"
        )
    arrays.append(array)
    return {"array": len(arrays) - 1}


def _with_arrays(value, arrays):
    if isinstance(value, dict):
        if "array" in value:
            array = arrays[value["array"]]
            # A scalar of numpy, where one was given.
            return array[()] if array.ndim == 0 else array
        return {k: _with_arrays(v, arrays) for k, v in value.items()}
    if isinstance(value, list):
        return [_with_arrays(v, arrays) for v in value]
    return value


def _sync_folder(path):
    """Makes the renaming outlast a power failure, where the system can."""
    with contextlib.suppress(OSError):
        folder = os.open(os.path.dirname(path) or ".", os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
