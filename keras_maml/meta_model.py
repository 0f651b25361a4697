"""MetaModel: a Keras model that learns each task from its support set."""

from collections.abc import Sequence
from os import PathLike
from typing import Any

import keras
import tensorflow as tf
from numpy.typing import ArrayLike

from keras_maml import adaptation
from keras_maml import inner_optimizers
from keras_maml import keras_internals
from keras_maml import meta_gradients
from keras_maml import outer_loss as outer_loss_lib
from keras_maml import saved_layers
from keras_maml import saving
from keras_maml.adaptation import AdaptedWeights
from keras_maml.adaptation import VariableFilter
from keras_maml.engine import bad_tasks as bad_tasks_lib
from keras_maml.engine import combinations
from keras_maml.engine import contract
from keras_maml.engine import inner_loss as inner_loss_lib
from keras_maml.engine import learner_checks
from keras_maml.engine import normalization as normalization_lib
from keras_maml.engine import targets
from keras_maml.engine import task_map as task_map_lib
from keras_maml.engine.inner_loss import LossFunction
from keras_maml.engine.learner_copy import copy_learner
from keras_maml.engine.meta_state import MetaState
from keras_maml.engine.meta_trainer import MetaTrainer
from keras_maml.inner_optimizers import InnerOptimizer
from keras_maml.meta_gradients import MetaGradient
from keras_maml.outer_loss import OuterLoss
from keras_maml.serving import litert
from keras_maml.serving import saved_model
from keras_maml.validation import check_choice
from keras_maml.validation import check_integer


@keras.saving.register_keras_serializable(package="keras_maml")
class MetaModel(saving.SavedOrRefused, MetaTrainer, keras.Model):
    """Wraps any Keras model to find weights from which tasks are learned fast.

    `fit` meta-trains. For each task of a meta-batch, the inner loop takes
    `inner_steps` gradient steps on the support set. The compiled optimizer
    then minimises the mean loss of the adapted models on their query sets.
    `evaluate` and `predict` adapt in the same way. `compile`, callbacks,
    metrics, `save` and so on work as in any Keras model.

    A meta-batch is `(x, y)` or `(x, y, sample_weight)`. The shapes use
    T = tasks, S = support examples of a task, Q = query examples of a task:

    - `x["support_x"]`: `(T, S, *input_shape)`, `x["support_y"]`: `(T, S, ...)`
    - `x["query_x"]`: `(T, Q, *input_shape)`, `y`: `(T, Q, ...)`
    - `x["support_weight"]`, optional: `(T, S)`, 0 for rows of padding
    - `sample_weight`, optional: `(T, Q)`, or `(T, 1)` for one weight per task

    Copies of others take the place of rows and tasks of weight 0. `metrics`
    count the copies too, and `weighted_metrics` leave them out.

    Args:
        learner: a Keras model (Sequential, Functional or subclassed) of one
            task. Its weights are θ.
        inner_optimizer: float, the rate α of plain gradient descent; or a
            name such as `"adam"`, an object of `keras_maml.inner_optimizers`,
            or its config. Defaults to `0.01`.
        inner_steps: int, the number of gradient steps on the support set in
            training. Defaults to `1`.
        meta_gradient: `"second_order"`, `"first_order"`, `"reptile"`,
            `"implicit"`, an object of `keras_maml.meta_gradients`, or its
            config. Defaults to `"second_order"`.
        adapted_weights: the weights that move in the inner loop. The outer
            loop alone trains the other weights. Defaults to `"all"`.

            - `"all"`: all trainable weights.
            - `"head"`: the last layer with trainable weights.
            - `"body"`: all trainable weights except the head.
            - `"context"`: the weights of `ContextParameters` layers.
            - `"lora"`: the weights that `enable_lora` added. `save` raises.
            - A list of layers or layer names. The attribute holds the names.
            - A function that takes a variable and returns a bool. `save` needs
              one with `keras.saving.register_keras_serializable`.
        outer_loss: the inner steps whose query losses count: `"last_step"`,
            an object of `keras_maml.outer_loss`, or its config. Defaults to
            `"last_step"`.
        head_init: `"prototypes"` or `None`. With `"prototypes"`, the learner
            outputs features, and each task gets a linear head. The head
            starts from the mean features of the classes and adapts with the
            learner. Its width is the largest label of the meta-batch plus
            one. Defaults to `None`.
        inner_batch_size: int, the number of support examples of an inner
            step. Each step takes the next examples of the support set, which
            should be shuffled; `keras_maml.tasks` shuffles it. Rows of
            padding count as examples. Defaults to the whole support set.
        inner_loss: the support loss: a name, a `keras.losses.Loss` or a
            function `(y_true, y_pred)`. Defaults to the compiled loss.
        normalization: the statistics that `BatchNormalization` layers use.
            The inner loop uses the statistics of the support set, except with
            `"moving"`. A layer with `trainable=False` always uses its moving
            averages. Defaults to `"transductive"`.

            - `"transductive"`, the default: on the query set, the statistics
              of the query set. The queries of a task then inform one another.
              The prediction for a query depends on the other queries in the
              same call. Choose `"support"` when queries come one by one, as
              in production.
            - `"support"`: on the query set, the statistics of the support set
              under the adapted weights. Each query is predicted on its own.
            - `"per_step"`: on the query set, the statistics of the query set
              in training, and otherwise moving averages. Each inner step has
              its own moving averages, scales and shifts. Only the outer loop
              trains the scales and shifts.
            - `"moving"`: the moving averages that the learner came with, in
              both loops, in training too. `fit` does not change them, so
              choose it for a pretrained learner alone: those of a new learner
              normalize nothing.
        evaluation_steps: int, the number of inner steps in `evaluate`,
            `predict`, `adapt` and `export`. With 0, the model predicts with
            θ. Defaults to `inner_steps`.
        task_map: how training computes the tasks of a meta-batch. Defaults to
            `"auto"`.

            - `"loop"`: each task by itself, several tasks at a time.
            - `"vectorized"`: chunks of tasks as one XLA program, of up to 32
              tasks on a CPU. Small dense learners become many times faster.
              The program takes some seconds to compile. All operations must
              be vectorizable, as those of nearly all of Keras's layers are,
              and the number of tasks must be known: batch the dataset with
              `drop_remainder=True`.
            - `"compiled"`: as `"vectorized"`, but the program goes over the
              tasks of its chunk one by one. With second order and several
              inner steps, it is the fastest form for dense layers of about
              64 to 400 units.
            - `"auto"`: on a CPU, what is expected to be the fastest of these
              forms if the learner consists of dense and similarly cheap
              layers, and otherwise `"loop"`. On a GPU or TPU,
              `"vectorized"`, or `"loop"` if that is impossible.
        task_parallelism: int, the number of tasks, or of chunks, that run at
            the same time. Each needs its own memory. Defaults to the number
            of CPU cores. On a GPU or TPU, the number of tasks of a vectorized
            chunk, which defaults to as many as fit half of the memory.
        bad_tasks: what a step does with a task whose support loss, query loss,
            gradient or new state is not finite, or the data that they are
            computed from: a dataset imputes missing values before the learner
            gets them. `"raise"` raises a `ValueError` that names the task,
            before θ or the optimizer changes. `"skip"` leaves the task out of
            all means and metrics, and counts it in the metric
            `skipped_tasks`; it raises if no task is left. Defaults to
            `"raise"`.
        name: string, the name of the model.
        **kwargs: arguments of `keras.Model`.

    Raises:
        ValueError: if an argument does not have the form above.

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

    A traced step keeps the settings of its trace. To change a setting, assign
    the attribute and call `compile` again.

    The loss of a task includes the learner's regularisers and `add_loss`
    terms, in the inner loop and in the outer loop, as in any Keras model.
    Regularisers see the adapted weights.

    Reference:
        Finn et al., 2017, "Model-Agnostic Meta-Learning for Fast Adaptation of
        Deep Networks", Algorithms 1 and 2. Deviation: the outer loss is the
        mean over tasks, as in the released code. Algorithm 2 has the sum.
    """

    def __init__(
        self,
        learner: keras.Model,
        *,
        inner_optimizer: float | str | dict | InnerOptimizer = 0.01,
        inner_steps: int = 1,
        meta_gradient: str | dict | MetaGradient = "second_order",
        adapted_weights: AdaptedWeights = "all",
        outer_loss: str | dict | OuterLoss = "last_step",
        head_init: str | None = None,
        inner_batch_size: int | None = None,
        inner_loss: str | keras.Loss | LossFunction | None = None,
        normalization: str = "transductive",
        evaluation_steps: int | None = None,
        task_map: str = "auto",
        task_parallelism: int | None = None,
        bad_tasks: str = "raise",
        name: str | None = None,
        **kwargs: Any,
    ) -> None:
        learner_checks.check_model(learner)
        check_integer("inner_steps", inner_steps, minimum=0)
        for argument, value, minimum in (
            ("evaluation_steps", evaluation_steps, 0),
            ("task_parallelism", task_parallelism, 1),
            ("inner_batch_size", inner_batch_size, 1),
        ):
            if value is not None:
                check_integer(argument, value, minimum)
        check_choice("head_init", head_init, (None, "prototypes"))
        check_choice("normalization", normalization, normalization_lib.MODES)
        check_choice("task_map", task_map, task_map_lib.MODES)
        check_choice("bad_tasks", bad_tasks, bad_tasks_lib.MODES)
        adapted_weights = adaptation.get(adapted_weights)
        # To raise for an unknown loss name now, not at the first step.
        if inner_loss is not None:
            inner_loss_lib.resolve(inner_loss, None)
        # Only the learner's layers follow the precision policy. Adapted
        # weights, losses and gradients keep the dtype of the variables.
        kwargs.setdefault("dtype", keras.backend.floatx())
        super().__init__(name=name, **kwargs)
        keras_internals.leave_inputs_alone(self)
        self.inner_optimizer = inner_optimizers.get(inner_optimizer)
        self.inner_steps = inner_steps
        self.meta_gradient = meta_gradients.get(meta_gradient)
        self.outer_loss = outer_loss_lib.get(outer_loss)
        self.head_init = head_init
        self.inner_batch_size = inner_batch_size
        self.inner_loss = inner_loss
        self.normalization = normalization
        self.evaluation_steps = evaluation_steps
        self.task_map = task_map
        self.task_parallelism = task_parallelism
        self.bad_tasks = bad_tasks
        self.meta_state = MetaState(self, adapted_weights)
        # XLA needs a head of a known width.
        self.supports_jit = head_init is None
        self.learner = learner
        combinations.check(self)
        if learner.built:
            self.meta_state.build()
            self.built = True

    @property
    def adapted_weights(self) -> str | list | VariableFilter:
        """The weights that move in the inner loop."""
        # Names, because Keras would save layers that are an attribute.
        given = self.meta_state.adapted_weights
        if not isinstance(given, (list, tuple)):
            return given
        return [getattr(entry, "name", entry) for entry in given]

    # -- What Keras calls

    def build(self, input_shape):
        """Builds the learner from the shapes of a meta-batch's inputs."""
        if not self.learner.built:
            # A symbolic call also builds a subclassed model without `build`.
            self.learner(
                keras.tree.map_shape_structure(
                    lambda shape: keras.KerasTensor((None, *shape[2:])),
                    input_shape["query_x"],
                )
            )
        self.meta_state.build()
        self.built = True

    # -- One task

    def adapt(
        self,
        support_x: ArrayLike | Sequence | dict[str, Any],
        support_y: ArrayLike | Sequence | dict[str, Any],
        inner_steps: int | None = None,
        support_weight: ArrayLike | None = None,
    ) -> keras.Model:
        """Learns one task, and returns an ordinary Keras model of it.

        The returned model normalises with stored statistics. With
        `normalization="transductive"` or `"support"`, these are the
        statistics of the support set under the adapted weights. Under
        `"transductive"`, a learner with `BatchNormalization` therefore
        predicts otherwise than `predict`. To use the statistics of the
        queries, call the returned model with `training=True`.

        Args:
            support_x: array of shape `(S, *input_shape)`.
            support_y: array of shape `(S, ...)`.
            inner_steps: int, the number of gradient steps on the support set.
                Defaults to `evaluation_steps`.
            support_weight: array of shape `(S,)`, the weight of each example.
                Defaults to `None`: all examples count the same.

        Returns:
            A new, uncompiled Keras model with the learner's architecture and
            the adapted weights. This `MetaModel` and θ stay unchanged.

        Raises:
            ValueError: if the support set does not have this form, if Keras
                cannot copy the learner, if there is no inner loss, or if the
                support set or the adapted weights are not finite.
        """
        x = contract.check_support(support_x, support_y, support_weight)
        if not self.built:
            shapes = tf.nest.map_structure(
                lambda t: (1, *t.shape), x["support_x"]
            )
            self.build({"query_x": shapes})
        x = targets.checked_support(self, x)
        # Eager: to trace a graph takes longer than to adapt to one task.
        task_learner = self.meta_state.task_learner(
            training=False, steps=inner_steps, support_y=x["support_y"]
        )
        adapted = task_learner.adapt(self.meta_state.theta(), {"x": x})
        bad_tasks_lib.check_adapted(x, adapted)
        return copy_learner(
            self.learner,
            task_learner.values(adapted),
            adapted.head,
            x["support_x"],
        )

    # -- Saving

    def save_own_variables(self, store):
        saving.refuse_lora(self.learner)
        super().save_own_variables(store)

    def export(
        self,
        filepath: str | PathLike[str],
        format: str = "tf_saved_model",
        verbose: bool | None = None,
        input_signature: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Writes a model that adapts and predicts without this library.

        Its signature `adapt` returns named weights, which `predict` takes. See
        docs/serving.md and, for a LiteRT file, docs/on_device.md.

        Args:
            filepath: path, such as `"models/sines/1"` or `"sines.tflite"`.
            format: `"tf_saved_model"`, or `"litert"` (extra `[litert]`).
            verbose: bool. Whether to print a message.
            input_signature: dict from `"support_x"`, `"support_y"` and
                `"query_x"` to a `tf.TensorSpec`, `keras.KerasTensor` or
                `keras.InputSpec`. Defaults to the shapes and dtypes of the
                last meta-batch, with any number of tasks and examples. LiteRT
                needs all sizes of one task, and takes `"support_weight"`.
            **kwargs: with LiteRT, `weight_type` and `n_way`: see the page.

        Raises:
            ValueError: if an argument is wrong, if `input_signature` is missing
                and there was no meta-batch, or if LiteRT cannot run a layer.
        """
        signature = input_signature or self.meta_state.input_signature
        write = litert.export if format == "litert" else saved_model.export
        write(self, filepath, signature, verbose, format=format, **kwargs)

    def get_config(self):
        serialize = keras.saving.serialize_keras_object
        learner = serialize(self.learner)
        return {
            **super().get_config(),
            "learner": learner,
            "inner_optimizer": serialize(self.inner_optimizer),
            "inner_steps": self.inner_steps,
            "meta_gradient": serialize(self.meta_gradient),
            "adapted_weights": adaptation.get_config(
                self.meta_state.adapted_weights, self.learner, learner
            ),
            "outer_loss": serialize(self.outer_loss),
            "head_init": self.head_init,
            "inner_batch_size": self.inner_batch_size,
            "inner_loss": serialize(self.inner_loss),
            "normalization": self.normalization,
            "evaluation_steps": self.evaluation_steps,
            "task_map": self.task_map,
            "task_parallelism": self.task_parallelism,
            "bad_tasks": self.bad_tasks,
            # No arguments. `export` needs the signature after loading.
            "signature": serialize(self.meta_state.input_signature),
            "selection": self.meta_state.selection(),
        }

    @classmethod
    def from_config(cls, config, custom_objects=None):
        config, selection = saved_layers.read_config(
            config, "learner", custom_objects
        )
        signature = config.pop("signature", None)
        model = cls(**config)
        model.meta_state.input_signature = signature
        model.meta_state.expect_selection(selection)
        return model
