"""How a meta-batch is run: what `fit`, `evaluate` and `predict` call."""

from concurrent.futures import ThreadPoolExecutor

import keras
import tensorflow as tf

from keras_maml import keras_internals
from keras_maml.engine import contract
from keras_maml.engine import learner_checks
from keras_maml.engine import learner_state
from keras_maml.engine import meta_step
from keras_maml.engine import seeds
from keras_maml.engine import task_map
from keras_maml.engine.processors import available_processors


class MetaTrainer(keras_internals.AutoJitCompile):
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
        tasks = self._tasks(contract.check_inputs(inputs))
        theta = self.meta_state.theta()
        task_learner = self.meta_state.task_learner(
            training=training,
            steps=inner_steps,
            support_y=tasks["x"]["support_y"],
        )

        def task_outputs(task):
            adapted = task_learner.adapt(theta, task, derive_data=True)
            output = task_learner.predict(adapted, task["x"]["query_x"])
            return output.outputs, ()

        return self.map_tasks(task_outputs, tasks)[0]

    def train_step(self, data):
        mean, logs = self._step(data, training=True)
        # In the order in which Keras builds a loaded model's optimizer.
        variables = map(id, tf.nest.flatten(self.meta_state.variables()))
        gradients = dict(
            zip(variables, tf.nest.flatten(mean["gradients"]), strict=True)
        )
        self.optimizer.apply_gradients(
            (gradients[id(v)], v) for v in self.trainable_variables
        )
        learner_state.assign_state(
            self.learner,
            mean["state"],
            mean["count"],
            self.meta_state.statistics,
        )
        return logs

    def test_step(self, data):
        return self._step(data, training=False)[1]

    def make_train_function(self, force=False):
        # `fit` begins with this: what `FirstOrderUntil` left behind in one
        # that was interrupted must not go on in the next.
        if not force and self.meta_state.meta_gradient_for_now is not None:
            self.meta_state.meta_gradient_for_now = None
            force = True
        return super().make_train_function(force)

    @property
    def losses(self):
        """The learner's own losses: in a task's step, at its weights."""
        in_task = self.meta_state.task_losses
        return super().losses if in_task is None else in_task

    def map_tasks(self, fn, tasks, training=False):
        """Runs `fn` on every task of a meta-batch, see `task_map.map_tasks`."""
        parallelism = self.task_parallelism or available_processors()

        def run(vectorize):
            return task_map.map_tasks(
                fn,
                tasks,
                parallelism=parallelism,
                vectorize=vectorize,
                jit_compile=self.jit_compile is not False,
            )

        # To compile pays where steps are many and of one size.
        if not training or self.task_map == "loop":
            return run(vectorize=False)
        if self.task_map == "vectorized":
            return run(vectorize=True)
        if (
            not tasks["number"].shape[0]
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

    def _step(self, data, training):
        """The means over the tasks of a meta-batch, and the logs."""
        x, y, sample_weight = meta_step.unpack(data)
        tasks = self._tasks(x)
        if training:
            self._prepare_optimizer()
        step = meta_step.MetaStep(self, tasks, y, sample_weight, training)
        y_pred, mean = step.run()
        metrics = keras_internals.unbuilt_metrics(self)
        if metrics is not None:
            _build(metrics, y, y_pred)
        keras_internals.loss_tracker(self).update_state(
            mean["loss"] * meta_step.number_of_replicas(),
            sample_weight=mean["count"],
        )
        logs = self.compute_metrics(x, y, y_pred, sample_weight=sample_weight)
        return mean, logs

    def _prepare_optimizer(self):
        if learner_checks.is_half(self.learner) and not isinstance(
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

    def _tasks(self, x):
        """What the map over tasks runs over: inputs, and a number a task."""
        if not self.built:
            # `fit` reaches this point without a call of the model.
            self.build(tf.nest.map_structure(lambda t: tuple(t.shape), x))
        self.meta_state.input_signature = contract.input_signature(
            x, self.learner
        )
        first = tf.nest.flatten(x)[0]
        count = first.shape[0] or tf.shape(first)[0]
        return {"x": x, "number": seeds.task_numbers(count)}


def _build(owner, *args):
    """Makes the variables of metrics or an optimizer outside the trace.

    TensorFlow traces a function in which variables were made a second time,
    which takes as long as the first. A thread of its own is outside, where
    `tf.init_scope` is not: the trace watches variables made there as well.
    Under a distribution strategy Keras has built them by now.
    """
    if tf.distribute.has_strategy():
        owner.build(*args)
        return
    with tf.init_scope():
        # Where the caller's `tf.device`, if any, puts variables.
        device = tf.zeros([]).device

    def build():
        with tf.device(device):
            owner.build(*args)

    with ThreadPoolExecutor(1) as thread:
        thread.submit(build).result()
