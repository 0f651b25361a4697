"""The losses and gradients of the tasks of one meta-batch."""

from typing import Any
from typing import NamedTuple

import keras
import tensorflow as tf

from keras_maml import devices
from keras_maml.engine import bad_tasks
from keras_maml.engine import functional
from keras_maml.engine import inner_forms
from keras_maml.engine import learner_state
from keras_maml.engine.compiled_loss import compiled_loss
from keras_maml.engine.replicas import number_of_replicas
from keras_maml.engine.step_forms import compiles_whole_step


class StepResult(NamedTuple):
    """The result of a `MetaStep`.

    With `bad_tasks="skip"`, all fields are of the tasks that are not left out.

    Attributes:
        x: dict of tensors, the inputs of the tasks.
        y_pred: structure of tensors `(T, Q, ...)`, the predictions.
        y, sample_weight: the targets of these predictions, and their weights
            or `None`.
        mean: dict of means over tasks: `"loss"`, and in training
            `"gradients"` (a `Theta`) and `"state"`.
        count: scalar, the number of tasks.
        healthy: bool tensor, `False` if a task is not finite. Then the step
            must change nothing.
        bad_task: the first bad task, see `bad_tasks.describe`. `None` if it
            has to be looked for.
    """

    x: dict[str, Any]
    y_pred: Any
    y: Any
    sample_weight: Any
    mean: dict[str, Any]
    count: tf.Tensor
    healthy: tf.Tensor
    bad_task: tf.Tensor | None


class MetaStep:
    """The computation of `train_step` and `test_step` on one meta-batch.

    Args:
        meta_model: a built `MetaModel`.
        tasks: dict of `"x"`, the inputs of the meta-batch, `"number"`, the
            numbers of the tasks, and optionally `"episode"`, the numbers of
            their episodes.
        y: structure of tensors, the query targets.
        sample_weight: the weights of the query targets, or `None`.
        training: bool. Whether to compute gradients.
    """

    def __init__(self, meta_model, tasks, y, sample_weight, training):
        self._model = meta_model
        self._state = meta_model.meta_state
        self._training = training
        self._tasks = {**tasks, "y": y}
        if sample_weight is not None:
            self._tasks["sample_weight"] = sample_weight
        self._theta = self._state.theta()
        self._task_learner = self._state.task_learner(
            training=training, support_y=tasks["x"]["support_y"]
        )
        # The sums over tasks that must be finite. A scaled gradient that
        # overflows is the business of its optimizer.
        self._checked = ["probes", "loss", "state"]
        if not isinstance(
            meta_model.optimizer, keras.optimizers.LossScaleOptimizer
        ):
            self._checked.append("gradients")
        # The weight of the query loss after each inner step, or `None`.
        self._step_weights = None
        if training and meta_model.inner_steps:
            self._step_weights = meta_model.outer_loss.weights(
                meta_model.inner_steps, meta_model.optimizer.iterations
            )

    def run(self):
        """Runs all tasks.

        The map over tasks also computes the gradient of each task, so that a
        task frees its memory before the next task starts.

        Returns:
            A `StepResult`.
        """
        bad_task = None
        skips = self._model.bad_tasks == "skip"
        # On a CPU, compiling pays only for many steps of one size.
        as_one = self._training or bool(devices.accelerators())
        if compiles_whole_step(self._model) and not tf.executing_eagerly():
            if skips:
                raise ValueError(
                    '`bad_tasks="skip"` needs meta-batches whose size changes, '
                    "which XLA cannot compile. Compile the model with "
                    '`jit_compile="auto"`, or pass `bad_tasks="raise"`. '
                    "Received: jit_compile=True"
                )
            each, total = self._map(self._good_task, as_one=as_one)
            each = {**each, **self._targets()}
            healthy = tf.math.is_finite(total["count"])
            healthy &= tf.reduce_all(each["finite"])
            bad_task = bad_tasks.describe(
                each["finite"], self._tasks.get("episode")
            )
        else:
            each, total = self._map(
                self._task, as_one=as_one, xla_fn=self._xla_task
            )
            each = {**each, **self._targets()}
            healthy = tf.math.is_finite(total["count"])
            if skips:
                each["x"] = self._tasks["x"]
                each, total = tf.cond(
                    healthy, lambda: (each, total), self._without_bad
                )
                healthy = tf.math.is_finite(total["count"])
        # A NaN would stay in the metrics of a step that cannot fail.
        all_tasks = tf.cast(tf.shape(self._tasks["number"])[0], tf.float32)
        count = tf.where(healthy, total.pop("count"), all_tasks)
        mean = tf.nest.map_structure(
            lambda t: tf.math.divide_no_nan(t, tf.cast(count, t.dtype)), total
        )
        if self._training:
            # Context parameters start from 0 in each task.
            weights = mean["gradients"].weights
            for i in self._task_learner.context:
                weights[i] = tf.zeros_like(weights[i])
        functional.set_masks(each["y_pred"], each["masks"])
        return StepResult(
            each.get("x", self._tasks["x"]),
            each["y_pred"],
            each["y"],
            each.get("sample_weight"),
            mean,
            count,
            healthy,
            bad_task,
        )

    def find_bad(self):
        """Returns the first `BadTask`. Runs eagerly, one task at a time."""
        episodes = self._tasks.get("episode")
        for i in range(len(self._tasks["number"])):
            task = tf.nest.map_structure(lambda t, i=i: t[i], self._tasks)
            _, adapted, summed = self._run_task(task)
            finite = self._finite_parts(task, adapted, summed).numpy()
            if not finite.all():
                return bad_tasks.BadTask(
                    i,
                    bad_tasks.PARTS[finite.argmin()],
                    -1 if episodes is None else int(episodes[i]),
                    self._model.distribute_strategy.num_replicas_in_sync,
                )
        return bad_tasks.BadTask(-1, "mean over tasks")

    def stop_unless_healthy(self, result):
        """Stops a step that can fail.

        Args:
            result: the `StepResult` of this replica.

        Returns:
            A tensor, to be read before anything changes.
        """
        healthy = result.healthy
        if self._model.bad_tasks == "skip" and number_of_replicas() == 1:
            # Else nothing is left to take the mean of.
            healthy &= result.count > 0
        if tf.executing_eagerly():
            if not healthy:
                raise self.find_bad().error(self._model.bad_tasks)
            return healthy

        def stop():
            self._state.bad_tasks.keep_batch(self._tasks, fail=True)
            return False

        return tf.cond(healthy, lambda: True, stop)

    def report_unless(self, healthy, result):
        """Has `BadTasks` report a step that cannot fail.

        Args:
            healthy: bool scalar, the same on all replicas. Whether the step
                may change anything.
            result: the `StepResult` of this replica.

        Returns:
            A bool tensor. If it is `False`, nothing must change.
        """
        known = self._state.bad_tasks
        if not known.is_read:
            raise ValueError(
                "A step that XLA compiles as a whole cannot stop at a bad "
                "task. `fit`, `evaluate` and `train_on_batch` look for one "
                "after the step. For a loop of your own, compile the model "
                "with `jit_compile=False`. Received: jit_compile=True"
            )
        if result.bad_task is not None:
            return known.keep_report(healthy, result.bad_task)

        def keep():
            known.keep_batch(self._tasks, fail=False)
            return True

        is_bad_here = ~result.healthy
        if self._model.bad_tasks == "skip":
            # All tasks of all replicas are bad.
            is_bad_here |= ~healthy
        tf.cond(is_bad_here, keep, lambda: False)
        return known.keep_report(healthy)

    # -- All tasks

    def _map(self, fn, **kwargs):
        return self._model.map_tasks(
            fn, self._tasks, finish=self._finish, **kwargs
        )

    def _finish(self, total):
        """Makes the count of tasks NaN, if one of them is not finite."""
        finite = bad_tasks.all_finite(
            [total[key] for key in self._checked if key in total]
        )
        # The sum of the probes means nothing.
        total = {k: v for k, v in total.items() if k != "probes"}
        total["count"] = tf.where(finite, total["count"], float("nan"))
        return total

    def _targets(self):
        return {
            key: self._tasks[key]
            for key in ("y", "sample_weight")
            if key in self._tasks
        }

    def _without_bad(self):
        """Runs all tasks again, and returns the results of the good ones."""
        each, total = self._map(self._good_task)
        good = tf.reduce_all(each.pop("finite"), -1)
        each = tf.nest.map_structure(
            lambda t: tf.boolean_mask(t, good),
            {**each, **self._targets(), "x": self._tasks["x"]},
        )
        return each, total

    # -- One task

    def _task(self, task):
        """Returns one task's outputs, and what is summed over tasks."""
        return self._summary(task, self._sources)

    def _xla_task(self, task):
        # TensorFlow's kernels for CPUs may turn NaN into 0 on the way to a
        # loss, so what a loss depends on is looked at too. XLA's do not, so
        # only the data are, which a loss of the user may do the same to.
        return self._summary(task, self._data)

    def _summary(self, task, sources):
        outputs, adapted, summed = self._run_task(task)
        # Masks are attached to tensors, and stacking tasks makes new tensors.
        each = {"y_pred": outputs, "masks": functional.masks(outputs)}
        summed["count"] = tf.ones([])
        summed["probes"] = bad_tasks.probe(
            [adapted.losses, sources(task, adapted)]
        )
        return each, summed

    def _good_task(self, task):
        """Returns the results of a good task, and zeros for a bad one."""
        outputs, adapted, summed = self._run_task(task)
        finite = self._finite_parts(task, adapted, summed)
        is_good = tf.reduce_all(finite)
        summed["count"] = tf.ones([])
        each = {
            "y_pred": outputs,
            "masks": functional.masks(outputs),
            "finite": finite,
        }
        return each, tf.nest.map_structure(
            lambda t: tf.where(is_good, t, tf.zeros_like(t)), summed
        )

    def _finite_parts(self, task, adapted, summed):
        """Returns whether each of `bad_tasks.PARTS` is finite."""
        support, query, weights = self._sources(task, adapted)
        gradients = summed.get("gradients", ())
        parts = [
            [support, adapted.losses],
            [query, summed["loss"]],
            [weights, gradients if "gradients" in self._checked else ()],
            summed.get("state", ()),
        ]
        return tf.stack([bad_tasks.all_finite(part) for part in parts])

    def _sources(self, task, adapted):
        """Returns what a task's support loss, query loss and gradient need."""
        return (*self._data(task), bad_tasks.moved(adapted))

    def _data(self, task, adapted=None):
        del adapted
        return (
            bad_tasks.learned_from(task["x"]),
            [task["x"]["query_x"], task["y"]],
        )

    def _run_task(self, task):
        return self._gradient(task) if self._training else self._loss(task)

    def _loss(self, task):
        """Returns one task's outputs, the `AdaptedTask`, and the loss."""
        adapted = self._adapt(self._theta, task)
        loss, output = self._query_loss(adapted, task)
        return output.outputs, adapted, {"loss": loss}

    def _gradient(self, task):
        """Returns the same as `_loss`, with the gradients and the state."""
        adapted_tasks = []

        def adapt(theta):
            adapted_tasks.append(self._adapt(theta, task))
            return adapted_tasks[-1]

        loss, output, gradients = self._state.meta_gradient(
            self._theta,
            adapt,
            lambda adapted: self._outer_loss(adapted, task),
            self._model.optimizer.scale_loss,
            self._weight(task),
        )
        state = learner_state.averageable_state(
            self._model.learner, output.state
        )
        summed = {"loss": loss, "gradients": gradients, "state": state}
        return output.outputs, adapted_tasks[0], summed

    def _adapt(self, theta, task):
        meta_gradient = self._state.meta_gradient
        watch = None
        if self._step_weights is not None:

            def watch(adapted):
                return self._query_loss(adapted, task)[0]

        return self._task_learner.adapt(
            theta,
            task,
            second_order=meta_gradient.second_order,
            rematerialize=meta_gradient.rematerialize,
            trace_once=inner_forms.may_trace_once(self._model),
            watch=watch,
        )

    def _outer_loss(self, adapted, task):
        """Returns the loss that the outer loop minimises, and the output."""
        loss, output = self._query_loss(adapted, task)
        if self._step_weights is not None:
            # The inner loop watches the loss after step i before step i + 1.
            last_loss = [tf.cast(loss, keras.backend.floatx())]
            losses = tf.concat([adapted.watched[1:], last_loss], 0)
            loss = tf.tensordot(self._step_weights, losses, 1)
        return loss, output

    def _query_loss(self, adapted, task):
        """Returns the compiled loss of a task's queries, and the output."""
        output = self._task_learner.predict(adapted, task["x"]["query_x"])
        return compiled_loss(self._model, task, output, self._training), output

    def _weight(self, task):
        """Returns the `weight` argument of `MetaGradient`."""
        weights = tf.nest.flatten(task.get("sample_weight"))
        floatx = keras.backend.floatx()
        means = [
            tf.reduce_mean(tf.cast(weight, floatx))
            for weight in weights
            if weight is not None
        ]
        return tf.add_n(means) / len(means) if means else tf.ones([], floatx)
