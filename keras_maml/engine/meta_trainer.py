"""How a meta-batch is run: what `fit`, `evaluate` and `predict` call."""

import os
from concurrent.futures import ThreadPoolExecutor

import keras
import tensorflow as tf

from keras_maml import serving
from keras_maml.engine import contract
from keras_maml.engine import functional
from keras_maml.engine import inner_loss as inner_loss_lib
from keras_maml.engine import prototypes
from keras_maml.engine import task_map
from keras_maml.engine.task_learner import TaskLearner
from keras_maml.validation import check_integer


class MetaTrainer:
    """The steps of `MetaModel`, as `Trainer` holds those of `keras.Model`."""

    def call(self, inputs, training=False, inner_steps=None):
        """Adapts to each task's support set and predicts its queries.

        Differentiable with respect to θ.

        Args:
            inputs: dict of tensors, the `x` of a meta-batch.
            training: bool, told to the learner's layers.
            inner_steps: int, gradient steps on each support set. Defaults to
                the model's `inner_steps` if `training`, and to its
                `evaluation_steps` otherwise.

        Returns:
            The learner's outputs, `(T, Q, ...)`.
        """
        tasks = self._tasks(inputs)
        theta = self._theta()
        task_learner = self._task_learner(tasks["x"], training, inner_steps)

        def task_outputs(task):
            adapted = task_learner.adapt(theta, task, data_derivatives=True)
            output = task_learner.predict(adapted, task["x"]["query_x"])
            return output.outputs, ()

        return self._map(task_outputs, tasks)[0]

    def train_step(self, data):
        mean, logs = self._step(data, training=True)
        # In the order in which Keras builds a loaded model's optimizer.
        gradients = dict(
            zip(map(id, self._outer_variables()), mean["gradients"])
        )
        self.optimizer.apply_gradients(
            (gradients[id(v)], v) for v in self.trainable_variables
        )
        functional.assign_state(
            self.learner,
            mean["state"],
            mean["count"],
            self._untracked.outer.statistics,
        )
        return logs

    def make_train_function(self, force=False):
        # `fit` begins with this: what `FirstOrderUntil` left behind in one
        # that was interrupted must not go on in the next.
        if not force and self._untracked.meta_gradient is not None:
            self._untracked.meta_gradient = None
            force = True
        return super().make_train_function(force)

    def test_step(self, data):
        return self._step(data, training=False)[1]

    def _step(self, data, training):
        """Runs a meta-batch; returns the means over tasks, and the logs.

        Each task's gradient is taken inside the map over tasks, so that its
        graph is gone before the next one needs memory.
        """
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        tasks = self._tasks(x)
        y, sample_weight = contract.check_targets(tasks["x"], y, sample_weight)
        tasks["y"] = y
        if training:
            self._prepare_optimizer()
        if sample_weight is not None:
            tasks["sample_weight"] = sample_weight
        theta = self._theta()
        task_learner = self._task_learner(tasks["x"], training)
        meta_gradient = self._untracked.meta_gradient or self.meta_gradient
        step_weights = None
        if training and self.inner_steps:
            step_weights = self.outer_loss.weights(
                self.inner_steps, self.optimizer.iterations
            )
        floatx = keras.backend.floatx()

        def query_loss(adapted, task):
            output = task_learner.predict(adapted, task["x"]["query_x"])
            return self._compiled_loss(task, output, training), output

        def adapt(theta, task, *how):
            if step_weights is None:
                return task_learner.adapt(theta, task, *how)
            return task_learner.adapt(
                theta,
                task,
                *how,
                watch=lambda adapted: query_loss(adapted, task)[0],
            )

        def outer_loss(adapted, task):
            loss, output = query_loss(adapted, task)
            if step_weights is not None:
                # The loss after step i was had before step i + 1.
                losses = [adapted.watched[1:], [tf.cast(loss, floatx)]]
                loss = tf.tensordot(step_weights, tf.concat(losses, 0), 1)
            return loss, output

        def each(output):
            # Where tasks are stacked, their masks would be lost.
            return output.outputs, functional.masks(output.outputs)

        def task_loss(task):
            loss, output = query_loss(adapt(theta, task), task)
            return each(output), {"loss": loss}

        def task_gradient(task):
            loss, output, gradients = meta_gradient(
                theta,
                lambda theta, *how: adapt(theta, task, *how),
                lambda adapted: outer_loss(adapted, task),
                self.optimizer.scale_loss,
            )
            return each(output), {
                "loss": loss,
                "gradients": gradients,
                "state": functional.averageable_state(
                    self.learner, output.state
                ),
            }

        (y_pred, masks), mean = self._map(
            task_gradient if training else task_loss, tasks, training
        )
        functional.set_masks(y_pred, masks)
        if self._compile_metrics and not self._compile_metrics.built:
            _build(self._compile_metrics, y, y_pred)
        mean["count"] = tf.shape(tasks["index"])[0]
        if training:
            # The outer loop never moves what each task starts from 0.
            for i in task_learner.context:
                mean["gradients"][i] = tf.zeros_like(mean["gradients"][i])
        self._loss_tracker.update_state(
            mean["loss"] * _replicas(), sample_weight=mean["count"]
        )
        logs = self.compute_metrics(
            tasks["x"], y, y_pred, sample_weight=sample_weight
        )
        return mean, logs

    def _prepare_optimizer(self):
        if functional.is_half(self.learner) and not isinstance(
            self.optimizer, keras.optimizers.LossScaleOptimizer
        ):
            raise ValueError(
                "A learner in mixed_float16 needs a scaled loss. Compile with "
                "`keras.optimizers.LossScaleOptimizer(optimizer)`. "
                f"Received: optimizer={self.optimizer!r}"
            )
        # Before the loss, whose scale is a variable once it is built.
        if not self.optimizer.built:
            _build(self.optimizer, self.trainable_variables)

    def _theta(self):
        return [
            tf.convert_to_tensor(variable.value)
            for variable in self._outer_variables()
        ]

    def _outer_variables(self):
        """The variables of θ: what the outer loop trains."""
        own = self._untracked.outer
        return self.learner.trainable_variables + own.parameters + own.scales

    def _task_learner(self, x, training, steps=None, support_loss=None):
        self._untracked.outer.check(self)
        if steps is not None:
            check_integer("inner_steps", steps, minimum=0)
        elif training or self.evaluation_steps is None:
            steps = self.inner_steps
        else:
            steps = self.evaluation_steps
        return TaskLearner(
            self.learner,
            steps=steps,
            support_loss=support_loss
            or inner_loss_lib.resolve(
                self.inner_loss, getattr(self, "loss", None)
            ),
            inner_optimizer=self.inner_optimizer,
            parameters=len(self._untracked.outer.parameters),
            positions=self._untracked.outer.positions(self),
            normalization=self.normalization,
            per_step_norm=self._untracked.outer.per_step_norm,
            statistics={
                i: tf.convert_to_tensor(variable.value)
                for i, variable in self._untracked.outer.statistics.items()
            },
            proximal=self.meta_gradient.proximal,
            inner_batch_size=self.inner_batch_size,
            n_way=(
                None
                if self.head_init is None
                else prototypes.count_classes(x["support_y"])
            ),
            training=training,
        )

    def _compiled_loss(self, task, output, training):
        """The compiled loss of one task's queries and the learner's losses."""
        # `compute_loss` adds `self.losses`, which would be the regularisers at
        # θ; the override puts those of the adapted weights there. Keras's
        # compiled losses are divided by the replicas already.
        self._losses_override = [loss / _replicas() for loss in output.losses]
        try:
            return self._compute_loss(
                x=task["x"],
                y=task["y"],
                y_pred=output.outputs,
                sample_weight=task.get("sample_weight"),
                training=training,
            )
        finally:
            self._losses_override = []

    def _tasks(self, x):
        """What the map over tasks runs over: inputs, and an index a task."""
        x = contract.check_inputs(x)
        if not self.built:
            # `fit` reaches this point without a call of the model.
            self.build(tf.nest.map_structure(lambda t: tuple(t.shape), x))
        self._untracked.signature = serving.signature(x, self.learner)
        count = tf.shape(tf.nest.flatten(x)[0])[0]
        context = tf.distribute.get_replica_context()
        replica = context.replica_id_in_sync_group if context else 0
        return {"x": x, "index": tf.range(count) + replica * count}

    def _map(self, fn, tasks, training=False):
        def run(vectorize):
            return task_map.map_tasks(
                fn,
                tasks,
                parallelism=self.task_parallelism or os.cpu_count() or 1,
                vectorize=vectorize,
            )

        # To compile pays where steps are many and of one size.
        if not training or self.task_map == "loop":
            return run(vectorize=False)
        if self.task_map == "vectorized":
            return run(vectorize=True)
        if (
            not tasks["index"].shape[0]
            or not task_map.vectorizes(self.learner)
            # A head whose size is not known before is not for XLA.
            or self.head_init is not None
        ):
            return run(vectorize=False)
        try:
            return run(vectorize=True)
        except task_map.VectorizationError:
            # A loss, a regulariser or an activation of the user's own.
            return run(vectorize=False)


def _build(owner, *args):
    """Makes the variables of metrics or an optimizer outside the trace.

    TensorFlow traces a function in which variables were made a second time,
    which takes as long as the first. A thread of its own is outside, where
    `tf.init_scope` is not: the trace watches variables made there as well.
    Under a distribution strategy Keras has built them by now.
    """
    if tf.distribute.has_strategy():
        owner.build(*args)
    else:
        with ThreadPoolExecutor(1) as thread:
            thread.submit(owner.build, *args).result()


def _replicas():
    return tf.distribute.get_strategy().num_replicas_in_sync
