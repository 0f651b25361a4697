"""Tasks whose losses, gradient or new state are not finite.

One such task would make θ NaN. A step looks at the sums over its tasks, which
are finite only if each task is. If a sum is not, a second run looks at each
task. Healthy steps therefore cost no more.
"""

import functools
from typing import Any
from typing import NamedTuple

import keras
import tensorflow as tf

from keras_maml.exact.constants import constant

MODES = ("raise", "skip")

# What is looked at in a task, in this order.
PARTS = ("support loss", "query loss", "gradient", "new state")

# The part of a task that this process does not see.
_ELSEWHERE = "loss, gradient or new state"

# Numbers of a report: task, episode, and the position of its part in `PARTS`.
_NO_REPORT = (-1, -1, -1)
_TASK_ELSEWHERE = (-1, -1, len(PARTS))


class BadTasks:
    """What is known of the bad tasks of a model's last step.

    Attributes:
        batch: the meta-batch that stopped a step, or `None`.
        report: variable of three ints, for steps that cannot fail: the index
            and episode of a bad task, and the position of its part in `PARTS`.
            `None` if steps can fail.
        is_read: bool. Whether the step runs, or is traced, in a function that
            reads the report.
    """

    def __init__(self):
        self.batch = None
        self.report = None
        self.is_read = False

    def build_report(self, is_needed):
        """Makes or drops the variable, which a trace cannot make."""
        if not is_needed:
            self.report = None
        elif self.report is None:
            self.report = tf.Variable(
                _NO_REPORT,
                dtype=tf.int64,
                trainable=False,
                aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA,
            )

    def keep_report(self, healthy, bad_task=_TASK_ELSEWHERE):
        """Keeps the first bad task in the report.

        Args:
            healthy: bool scalar, the same on all replicas. Whether a step has
                no bad task.
            bad_task: what `describe` returns.

        Returns:
            A bool tensor, whether this step and the steps before it, since
            somebody has looked, have no bad task.
        """
        before = tf.convert_to_tensor(self.report)
        report = tf.where(
            healthy | (before[-1] >= 0), before, tf.cast(bad_task, tf.int64)
        )
        self.report.assign(report)
        return report[-1] < 0

    def keep_batch(self, tasks, fail):
        """Keeps a meta-batch for `reporting`, in a graph.

        Args:
            tasks: structure of tensors.
            fail: bool. Whether the step fails then.
        """
        flat = tf.nest.flatten(tasks)

        def keep(*values):
            # Of a replica's bad meta-batches, the first one.
            if self.batch is None:
                self.batch = tf.nest.pack_sequence_as(tasks, values)
            if fail:
                raise ValueError("A task of this meta-batch is not finite.")

        tf.py_function(keep, flat, [])

    def reporting(self, function, find, mode):
        """Wraps a traced step, so that a bad task raises `ValueError`.

        Args:
            function: a function, made by Keras.
            find: function of a meta-batch that returns a `BadTask`.
            mode: string, one of `MODES`.
        """

        @functools.wraps(function)
        def step(*args, **kwargs):
            self.batch = None
            self.is_read = True
            try:
                logs = function(*args, **kwargs)
                bad_task = self._read_report(find)
            except tf.errors.OpError:
                self._forget_report()
                if self.batch is None:
                    raise
                # TensorFlow's error shows the whole graph.
                raise find(self._pop_batch()).error(mode) from None
            finally:
                self.is_read = False
            if bad_task is not None:
                self._forget_report()
                raise bad_task.error(mode)
            return logs

        return step

    def _read_report(self, find):
        """Returns the `BadTask` of the report, or `None`."""
        if self.report is None:
            return None
        index, episode, part = self.report.numpy().tolist()
        if part < 0:
            return None
        if self.batch is not None:
            return find(self._pop_batch())
        return BadTask(index, (*PARTS, _ELSEWHERE)[part], episode)

    def _forget_report(self):
        if self.report is not None:
            self.report.assign(_NO_REPORT)

    def _pop_batch(self):
        batch, self.batch = self.batch, None
        return batch


class BadTask(NamedTuple):
    """A task with a number that is not finite.

    Attributes:
        task: int, the index in the meta-batch, or -1: all tasks together.
        part: string, what is not finite.
        episode: int, the number of the episode, or -1 if unknown.
        replicas: int, the number of replicas that share the meta-batch. Then
            `task` is the index in the part of one of them.
    """

    task: int
    part: str
    episode: int = -1
    replicas: int = 1

    def error(self, mode):
        """Returns the `ValueError` that stops a step, in one of `MODES`."""
        name = "all tasks of the meta-batch together"
        if self.part == _ELSEWHERE:
            name = "a task of another replica"
        if self.task >= 0:
            name = f"task {self.task} of the meta-batch"
            if self.replicas > 1:
                name = f"task {self.task} of one replica's part of a meta-batch"
        if self.episode >= 0:
            name += f", episode {self.episode},"
        remedy = 'To leave out such tasks, pass `bad_tasks="skip"`.'
        if mode == "skip":
            remedy = "`bad_tasks` would leave no task of the meta-batch."
        return ValueError(
            f"The {self.part} of {name} is not finite. The step has changed "
            "neither θ nor the optimizer. Look for data that are NaN or "
            "infinite (a learner gets none: impute missing values in the "
            "dataset), and for learning rates that are too high. "
            f'{remedy} Received: bad_tasks="{mode}" and {self}'
        )


def describe(finite, episodes):
    """Returns the first bad task of a meta-batch, as in a report.

    Args:
        finite: bool tensor `(T, parts)`, see `PARTS`.
        episodes: integer tensor `(T,)`, or `None`.
    """
    is_bad = tf.reduce_any(~finite, -1)
    index = tf.argmax(is_bad)
    episode = tf.constant(-1, tf.int64)
    if episodes is not None:
        episode = tf.cast(tf.gather(episodes, index), tf.int64)
    # Not `finite[index]`: XLA would try to compute where a slice begins while
    # it compiles, and with it the whole step.
    part = tf.argmin(tf.cast(tf.gather(finite, index), tf.int32))
    # Another replica may have the bad task.
    return tf.where(
        tf.reduce_any(is_bad),
        tf.stack([index, episode, part]),
        tf.constant(_TASK_ELSEWHERE, tf.int64),
    )


def all_finite(structure: Any) -> tf.Tensor:
    """Returns whether all floats of a structure of tensors are finite."""
    # One long vector: XLA takes long for a result of each tensor.
    flat = constant((-1,), tf.int32)
    finite = [
        tf.reshape(tf.math.is_finite(tensor), flat)
        for tensor in tf.nest.flatten(structure)
        if tensor.dtype.is_floating
    ]
    return tf.reduce_all(tf.concat(finite, 0)) if finite else tf.constant(True)


def probe(structure: Any) -> tf.Tensor:
    """Returns a scalar that is not finite if a float in a structure is not.

    Cheaper than `all_finite`, and not exact: the sum of finite numbers near
    the largest one may be infinite.
    """
    floatx = keras.backend.floatx()
    # One long vector, as in `all_finite`.
    flat = constant((-1,), tf.int32)
    values = [
        tf.reshape(tf.cast(tensor, floatx), flat)
        for tensor in tf.nest.flatten(structure)
        if tensor.dtype.is_floating
    ]
    return tf.reduce_sum(tf.concat([*values, [0.0]], 0))


def check_adapted(x, adapted):
    """Raises `ValueError` if a task has not been learned.

    Args:
        x: dict of tensors, the support set of the task.
        adapted: an `AdaptedTask`, of eager tensors.
    """
    if not all_finite(learned_from(x)):
        raise ValueError(
            "The support set is not finite. Look for NaN and infinite numbers "
            "in `support_x` and `support_y`. Received: support_x="
            f"{x['support_x']!r} and support_y={x['support_y']!r}"
        )
    if not all_finite(moved(adapted)):
        raise ValueError(
            "The adapted weights are not finite: the inner loop has diverged. "
            "Lower the inner learning rate, or take fewer inner steps. "
            f"Received: inner_steps={adapted.step} and the support losses "
            f"{adapted.losses}"
        )


def nan_if_bad(x, adapted, outputs):
    """Returns the outputs of a task, or NaN if it has not been learned.

    TensorFlow's kernels may turn NaN into 0 on the way to an output, which
    would look like a prediction.
    """
    sources = probe([learned_from(x), moved(adapted)])
    is_good = tf.math.is_finite(tf.stop_gradient(sources))

    def nan_unless_good(tensor):
        if not tensor.dtype.is_floating:
            return tensor
        return tf.where(is_good, tensor, tf.cast(float("nan"), tensor.dtype))

    return tf.nest.map_structure(nan_unless_good, outputs)


def learned_from(x):
    """Returns the data of a support set."""
    return [x["support_x"], x["support_y"]]


def moved(adapted):
    """Returns the weights that the inner loop has moved."""
    return [adapted.head, [adapted.weights[i] for i in adapted.positions]]
