"""MetaModel: a Keras model that learns each task from its support set."""

import os
import types
from collections.abc import Callable
from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from keras_maml import adaptation
from keras_maml import contract
from keras_maml import functional
from keras_maml import inner_loss as inner_loss_lib
from keras_maml import inner_optimizers
from keras_maml import meta_gradients
from keras_maml import normalization as normalization_lib
from keras_maml import serving
from keras_maml import task_map
from keras_maml.inner_optimizers import InnerOptimizer
from keras_maml.meta_gradients import MetaGradient
from keras_maml.task_learner import TaskLearner


@keras.saving.register_keras_serializable(package="keras_maml")
class MetaModel(keras.Model):
    """Wraps any Keras model to find weights from which tasks are learned fast.

    `fit` meta-trains: for each task of a meta-batch the inner loop takes
    `inner_steps` gradient steps on the support set, and the compiled optimizer
    descends the mean, over tasks, of the adapted models' losses on their query
    sets. `evaluate` and `predict` adapt in the same way. Everything else is a
    Keras model's: `compile`, callbacks, metrics, `save`, and so on.

    One meta-batch is `(x, y)` or `(x, y, sample_weight)`, with letters
    T = tasks, S = support examples and Q = query examples of a task:

    - `x["support_x"]`: `(T, S, *input_shape)`, `x["support_y"]`: `(T, S, ...)`
    - `x["query_x"]`: `(T, Q, *input_shape)`, `y`: `(T, Q, ...)`
    - `x["support_weight"]`, optional: `(T, S)`, 0 for rows of padding
    - `sample_weight`, optional: `(T, Q)`, or `(T, 1)` for a weight a task

    Args:
        learner: a Keras model (Sequential, Functional or subclassed) of one
            task. Its weights are θ.
        inner_optimizer: float, the rate α of plain gradient descent, or an
            object of `keras_maml.inner_optimizers`. Defaults to `0.01`.
        inner_steps: int, gradient steps on the support set while training.
            Defaults to `1`.
        meta_gradient: `"second_order"`, `"first_order"` or an object of
            `keras_maml.meta_gradients`. Defaults to `"second_order"`.
        adapt: which weights move in the inner loop: `None` for every trainable
            one, a list of layers or layer names, or a function that takes a
            variable and returns a bool. The others are trained by the outer
            loop alone. Defaults to `None`.
        inner_loss: the support loss: a name, a `keras.losses.Loss` or a
            function `(y_true, y_pred)`. `None` means the compiled loss.
            Defaults to `None`.
        normalization: which statistics `BatchNormalization` layers use on the
            query set. `"transductive"`: the query set's own, as the paper's
            code does, so that the queries of a task inform one another;
            `"support"`: the support set's under the adapted weights, so that
            each query is predicted on its own; both use the support set's own
            in the inner loop. `"moving"`: as Keras does, the batch's while
            training and the moving averages otherwise. Defaults to
            `"transductive"`.
        evaluation_steps: int, inner steps in `evaluate`, `predict`, `adapt`
            and `export`; 0 predicts with θ. Defaults to `inner_steps`.
        task_parallelism: int, the number of tasks that may run at the same
            time, each with its own memory. Defaults to the number of CPU
            cores.
        name: string.
        **kwargs: of `keras.Model`.

    Raises:
        ValueError: if an argument is not of the form above.

    Example:

    ```python
    sines = keras_maml.tasks.Sinusoid(k_shot=10, q_query=10, seed=0)
    meta_model = keras_maml.MetaModel(
        keras_maml.learners.mlp(), inner_optimizer=0.01
    )
    meta_model.compile(optimizer="adam", loss="mse")
    meta_model.fit(sines.batch(25), steps_per_epoch=2, verbose=0)

    x, query_y = sines.episode(1_000_000)
    model = meta_model.adapt(x["support_x"], x["support_y"])
    predictions = model.predict(x["query_x"], verbose=0)  # (10, 1)
    ```

    A task's loss counts whatever Keras would count for the learner: the
    compiled loss and the learner's own (regularisers at the weights in use,
    `add_loss`), in the inner loop and in the outer one.

    Reference:
        Finn et al., 2017, "Model-Agnostic Meta-Learning for Fast Adaptation of
        Deep Networks", Algorithms 1 and 2. The outer loss is the mean over
        tasks, as in the released code; the algorithm's sum is that mean times
        the number of tasks.
    """

    def __init__(
        self,
        learner: keras.Model,
        *,
        inner_optimizer: float | InnerOptimizer = 0.01,
        inner_steps: int = 1,
        meta_gradient: str | MetaGradient = "second_order",
        adapt: Sequence[str | keras.Layer] | Callable | None = None,
        inner_loss: str | keras.Loss | Callable | None = None,
        normalization: str = "transductive",
        evaluation_steps: int | None = None,
        task_parallelism: int | None = None,
        name: str | None = None,
        **kwargs: Any,
    ) -> None:
        if not isinstance(learner, keras.Model):
            raise ValueError(
                "`learner` must be a Keras model. "
                f"Received: learner={learner!r} (of type {type(learner)})"
            )
        if isinstance(learner, MetaModel):
            raise ValueError(
                "`learner` must be the model of one task, not a `MetaModel`. "
                f"Received: learner={learner!r}"
            )
        _check_int("inner_steps", inner_steps, 0)
        if evaluation_steps is not None:
            _check_int("evaluation_steps", evaluation_steps, 0)
        if task_parallelism is not None:
            _check_int("task_parallelism", task_parallelism, 1)
        if normalization not in normalization_lib.MODES:
            raise ValueError(
                f"`normalization` must be one of {normalization_lib.MODES}. "
                f"Received: normalization={normalization!r}"
            )
        adaptation.check(adapt)
        # An unknown loss name is an error now, not at the first step.
        if inner_loss is not None:
            inner_loss_lib.resolve(inner_loss, None)
        # The learner's layers carry the precision policy: fast weights, losses
        # and gradients stay in the variables' own.
        kwargs.setdefault("dtype", keras.backend.floatx())
        super().__init__(name=name, **kwargs)
        # Targets and integer inputs reach the learner as they are.
        self._convert_input_args = False
        self._allow_non_tensor_positional_args = True
        self.inner_optimizer = inner_optimizers.get(inner_optimizer)
        self.inner_steps = inner_steps
        self.meta_gradient = meta_gradients.get(meta_gradient)
        self.inner_loss = inner_loss
        self.normalization = normalization
        self.evaluation_steps = evaluation_steps
        self.task_parallelism = task_parallelism
        self._adapt_selection = adapt
        # In a namespace, out of sight of Keras's tracking of attributes.
        self._cache = types.SimpleNamespace(functions={}, signature=None)
        self.learner = learner
        if learner.built:
            self._check_built()
            self.built = True

    # -- What Keras calls

    def build(self, input_shape):
        """Builds the learner from the shapes of a meta-batch's inputs."""
        if not self.learner.built:
            self.learner.build(
                keras.tree.map_shape_structure(
                    lambda shape: (None, *shape[2:]), input_shape["query_x"]
                )
            )
        self._check_built()
        self.built = True

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
        adapt, predict = self._inner(training, inner_steps)
        theta = self._theta()

        def task_outputs(task):
            return predict(adapt(theta, task, True), task).outputs, ()

        return self._map(task_outputs, self._tasks(inputs))[0]

    def train_step(self, data):
        mean, logs = self._step(data, training=True)
        self.optimizer.apply_gradients(
            zip(mean["gradients"], self.learner.trainable_variables)
        )
        functional.assign_state(self.learner, mean["state"])
        return logs

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
        if sample_weight is not None:
            tasks["sample_weight"] = sample_weight
        theta = self._theta()
        adapt, predict = self._inner(training)

        def query_loss(adapted, task):
            output = predict(adapted, task)
            return self._outer_loss(task, output, training), output

        def task_loss(task):
            loss, output = query_loss(adapt(theta, task, True), task)
            return output.outputs, {"loss": loss}

        def task_gradient(task):
            loss, output, gradients = self.meta_gradient(
                theta,
                lambda theta, second_order: adapt(theta, task, second_order),
                lambda adapted: query_loss(adapted, task),
                self.optimizer.scale_loss,
            )
            return output.outputs, {
                "loss": loss,
                "gradients": gradients,
                "state": functional.averageable_state(
                    self.learner, output.state
                ),
            }

        y_pred, mean = self._map(
            task_gradient if training else task_loss, tasks
        )
        self._loss_tracker.update_state(
            mean["loss"] * _replicas(),
            sample_weight=tf.shape(tasks["index"])[0],
        )
        logs = self.compute_metrics(
            tasks["x"], y, y_pred, sample_weight=sample_weight
        )
        return mean, logs

    # -- One task

    def adapt(
        self, support_x: Any, support_y: Any, inner_steps: int | None = None
    ) -> keras.Model:
        """Learns one task.

        Args:
            support_x: array of shape `(S, *input_shape)`.
            support_y: array of shape `(S, ...)`.
            inner_steps: int, gradient steps on the support set. Defaults to
                `evaluation_steps`.

        Returns:
            A Keras model of its own with the learner's architecture and the
            adapted weights, not compiled; this model and its θ are untouched.
            An ordinary model normalises with stored statistics: with
            `normalization="transductive"` or `"support"` they are those of
            the support set under the adapted weights. So it predicts as
            `predict` does, but for `BatchNormalization` under
            `"transductive"`; there calling it with `training=True` uses the
            statistics of the batch.

        Raises:
            ValueError: if the support set is not in that form, the learner
                cannot be copied or there is no inner loss.
        """
        steps = self._steps(False, inner_steps)
        x = contract.check_support(support_x, support_y)
        if not self.built:
            self.build(
                {
                    "query_x": tf.nest.map_structure(
                        lambda t: (1, *t.shape), x["support_x"]
                    )
                }
            )
        # A loss compiled anew asks for a new trace.
        key = (steps, id(getattr(self, "loss", None)))
        if key not in self._cache.functions:
            self._cache.functions[key] = tf.function(
                lambda x: self._adapted_values(x, steps),
                autograph=False,
                reduce_retracing=True,
            )
        weights, statistics = self._cache.functions[key](x)
        model = functional.clone(self.learner)
        for variable, value in zip(model.trainable_variables, weights):
            variable.assign(value)
        for i, value in statistics.items():
            model.non_trainable_variables[i].assign(value)
        return model

    def _adapted_values(self, x, steps):
        task_learner = self._task_learner(training=False)
        adapted = task_learner.adapt(self._theta(), x, steps=steps)
        if self.normalization == "moving":
            return adapted.weights, {}
        return adapted.weights, task_learner.support_statistics(adapted)

    # -- Pieces

    def _inner(self, training, steps=None):
        """The functions that adapt to a task and predict its queries."""
        task_learner = self._task_learner(training)
        steps = self._steps(training, steps)

        def adapt(theta, task, second_order):
            return task_learner.adapt(
                theta,
                task["x"],
                steps=steps,
                second_order=second_order,
                state=functional.task_seeds(self.learner, task["index"]),
            )

        def predict(adapted, task):
            return task_learner.predict(adapted, task["x"]["query_x"])

        return adapt, predict

    def _theta(self):
        return [
            tf.convert_to_tensor(v.value)
            for v in self.learner.trainable_variables
        ]

    def _task_learner(self, training):
        return TaskLearner(
            self.learner,
            support_loss=inner_loss_lib.resolve(
                self.inner_loss, getattr(self, "loss", None)
            ),
            inner_optimizer=self.inner_optimizer,
            adapt=self._adapt_selection,
            normalization=self.normalization,
            training=training,
        )

    def _steps(self, training, steps=None):
        if steps is not None:
            _check_int("inner_steps", steps, 0)
            return steps
        if training or self.evaluation_steps is None:
            return self.inner_steps
        return self.evaluation_steps

    def _outer_loss(self, task, output, training):
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
        self._cache.signature = serving.signature(x)
        count = tf.shape(tf.nest.flatten(x)[0])[0]
        context = tf.distribute.get_replica_context()
        replica = context.replica_id_in_sync_group if context else 0
        return {"x": x, "index": tf.range(count) + replica * count}

    def _map(self, fn, tasks):
        return task_map.map_tasks(
            fn, tasks, parallelism=self.task_parallelism or os.cpu_count() or 1
        )

    def _check_built(self):
        # Nothing to adapt is an error now, not in the middle of a trace.
        adaptation.adapted_positions(self.learner, self._adapt_selection)

    # -- Saving

    def export(
        self,
        filepath,
        format="tf_saved_model",
        verbose=None,
        input_signature=None,
    ):
        """Writes a SavedModel that adapts and predicts without this library.

        Its `serve` endpoint, and `serving_default` signature, take
        `support_x`, `support_y` and `query_x` of any number of tasks and
        examples and give what `predict` gives.

        Args:
            filepath: path of the SavedModel.
            format: `"tf_saved_model"`.
            verbose: bool. Whether to print a message.
            input_signature: dict of `"support_x"`, `"support_y"` and
                `"query_x"` to a `tf.TensorSpec`, `keras.KerasTensor` or
                `keras.InputSpec`. Defaults to the shapes and dtypes of the
                last meta-batch, with any number of tasks and examples.

        Raises:
            ValueError: if `format` is another one, or there is neither an
                `input_signature` nor has a meta-batch been seen.
        """
        if format != "tf_saved_model":
            raise ValueError(
                'Only `format="tf_saved_model"` can hold the inner loop. '
                f"Received: format={format!r}"
            )
        serving.export(
            self, filepath, input_signature or self._cache.signature, verbose
        )

    def get_config(self):
        serialize = keras.saving.serialize_keras_object
        adapt = self._adapt_selection
        if isinstance(adapt, (list, tuple)):
            adapt = [e if isinstance(e, str) else e.name for e in adapt]
        return {
            "learner": serialize(self.learner),
            "inner_optimizer": serialize(self.inner_optimizer),
            "inner_steps": self.inner_steps,
            "meta_gradient": serialize(self.meta_gradient),
            "adapt": serialize(adapt) if callable(adapt) else adapt,
            "inner_loss": serialize(self.inner_loss),
            "normalization": self.normalization,
            "evaluation_steps": self.evaluation_steps,
            "task_parallelism": self.task_parallelism,
            "name": self.name,
            # Not an argument: what `export` needs to know of the data.
            "signature": serialize(self._cache.signature),
        }

    @classmethod
    def from_config(cls, config, custom_objects=None):
        config = {
            key: keras.saving.deserialize_keras_object(
                value, custom_objects=custom_objects
            )
            for key, value in config.items()
        }
        signature = config.pop("signature", None)
        model = cls(**config)
        model._cache.signature = signature
        return model


def _replicas():
    return tf.distribute.get_strategy().num_replicas_in_sync


def _check_int(name, value, least):
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(
            f"`{name}` must be an integer of at least {least}. "
            f"Received: {name}={value!r}"
        )
