"""MetaModel: a Keras model that learns each task from its support set."""

from collections.abc import Callable
from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from keras_maml import adaptation
from keras_maml import inner_optimizers
from keras_maml import keras_internals
from keras_maml import meta_gradients
from keras_maml import outer_loss as outer_loss_lib
from keras_maml import serving
from keras_maml.engine import combinations
from keras_maml.engine import contract
from keras_maml.engine import inner_loss as inner_loss_lib
from keras_maml.engine import normalization as normalization_lib
from keras_maml.engine import task_map as task_map_lib
from keras_maml.engine.learner_copy import copy_learner
from keras_maml.engine.meta_state import MetaState
from keras_maml.engine.meta_trainer import MetaTrainer
from keras_maml.inner_optimizers import InnerOptimizer
from keras_maml.meta_gradients import MetaGradient
from keras_maml.outer_loss import OuterLoss
from keras_maml.settings import deserialized
from keras_maml.validation import check_choice
from keras_maml.validation import check_integer


@keras.saving.register_keras_serializable(package="keras_maml")
class MetaModel(MetaTrainer, keras.Model):
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
        inner_optimizer: float, the rate α of plain gradient descent; a name
            such as `"adam"`, an object of `keras_maml.inner_optimizers` or the
            config of one. Defaults to `0.01`.
        inner_steps: int, gradient steps on the support set while training.
            Defaults to `1`.
        meta_gradient: `"second_order"`, `"first_order"`, `"reptile"`,
            `"implicit"`, an object of `keras_maml.meta_gradients` or the
            config of one. Defaults to `"second_order"`.
        adapted_weights: which weights move in the inner loop. `"all"`
            trainable ones; `"head"`, the last layer that has some; `"body"`,
            all but those; `"context"`, those of `ContextParameters` layers;
            `"lora"`, those that a layer's `enable_lora` added (`save` is
            refused then); a list of layers or layer names, which reads as the
            names; or a function that takes a variable and returns a bool. The
            others are trained by the outer loop alone. Defaults to `"all"`.
        outer_loss: which inner steps' query losses count: `"last_step"`, an
            object of `keras_maml.outer_loss` or the config of one. Defaults to
            `"last_step"`.
        head_init: `None`, or `"prototypes"`: the learner gives features, and
            each task gets a linear head of its own, as wide as the
            meta-batch's largest label plus one, that starts from the mean
            features of its classes and adapts with the rest. Defaults to
            `None`.
        inner_batch_size: int, the support examples of each inner step: the
            next ones of the support set, in turn. So it should come shuffled,
            as that of `keras_maml.tasks` does; rows of padding count as
            examples here. A support set that is not larger is used whole, as
            always by default.
        inner_loss: the support loss: a name, a `keras.losses.Loss` or a
            function `(y_true, y_pred)`. `None` means the compiled loss.
            Defaults to `None`.
        normalization: which statistics `BatchNormalization` layers use on the
            query set. `"transductive"`: the query set's own, as the paper's
            code does, so that the queries of a task inform one another;
            `"support"`: the support set's under the adapted weights, so that
            each query is predicted on its own; `"per_step"`: moving averages
            of each inner step's own, and the query set's while training. All
            three use the support set's own in the inner loop, whatever
            `training` a layer is called with. `"moving"`: as Keras does, the
            batch's while training and the moving averages otherwise, in the
            inner loop too. Under `"per_step"` scales and shifts are each
            step's own as well, and the outer loop alone trains them. A layer
            with `trainable=False` uses its moving averages in any case.
            Defaults to `"transductive"`.
        evaluation_steps: int, inner steps in `evaluate`, `predict`, `adapt`
            and `export`; 0 predicts with θ. Defaults to `inner_steps`.
        task_map: how the tasks of a meta-batch are computed in training.
            `"loop"`: one after another, several at a time; `"vectorized"`:
            as one, in chunks of up to 32 compiled by XLA, many times faster
            for small dense learners. The latter needs operations that allow
            it and a known number of tasks (a dataset batched with
            `drop_remainder=True`), and takes some seconds to compile.
            `"auto"`: vectorized where that is possible and the learner
            consists of dense layers and others as light. Defaults to
            `"auto"`.
        task_parallelism: int, the number of tasks, or chunks, that may run at
            the same time, each with its own memory. Defaults to the number of
            CPU cores.
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

    Settings are read when a step is traced: after changing an attribute,
    compile again.

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
        inner_optimizer: float | str | dict | InnerOptimizer = 0.01,
        inner_steps: int = 1,
        meta_gradient: str | dict | MetaGradient = "second_order",
        adapted_weights: str | Sequence[str | keras.Layer] | Callable = "all",
        outer_loss: str | dict | OuterLoss = "last_step",
        head_init: str | None = None,
        inner_batch_size: int | None = None,
        inner_loss: str | keras.Loss | Callable | None = None,
        normalization: str = "transductive",
        evaluation_steps: int | None = None,
        task_map: str = "auto",
        task_parallelism: int | None = None,
        name: str | None = None,
        **kwargs: Any,
    ) -> None:
        _check_learner(learner)
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
        adapted_weights = adaptation.get(adapted_weights)
        # An unknown loss name is an error now, not at the first step.
        if inner_loss is not None:
            inner_loss_lib.resolve(inner_loss, None)
        # The learner's layers carry the precision policy: fast weights, losses
        # and gradients stay in the variables' own.
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
        self.meta_state = MetaState(self, adapted_weights)
        # XLA needs to know how wide a head is.
        self.supports_jit = head_init is None
        self.learner = learner
        combinations.check(self)
        if learner.built:
            self.meta_state.build()
            self.built = True

    @property
    def adapted_weights(self) -> str | list[str] | Callable:
        """Which weights move in the inner loop."""
        # By name: Keras would save layers that it finds in an attribute.
        given = self.meta_state.adapted_weights
        if isinstance(given, (list, tuple)):
            return [e if isinstance(e, str) else e.name for e in given]
        return given

    # -- What Keras calls

    def build(self, input_shape):
        """Builds the learner from the shapes of a meta-batch's inputs."""
        if not self.learner.built:
            # A symbolic call also builds a subclassed model that has no
            # `build` of its own.
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
        support_x: Any,
        support_y: Any,
        inner_steps: int | None = None,
        support_weight: Any = None,
    ) -> keras.Model:
        """Learns one task.

        Args:
            support_x: array of shape `(S, *input_shape)`.
            support_y: array of shape `(S, ...)`.
            inner_steps: int, gradient steps on the support set. Defaults to
                `evaluation_steps`.
            support_weight: array of shape `(S,)`, optional.

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
        x = contract.check_support(support_x, support_y, support_weight)
        if not self.built:
            self.build(
                {
                    "query_x": tf.nest.map_structure(
                        lambda t: (1, *t.shape), x["support_x"]
                    )
                }
            )
        # Not traced: one task is over before a trace would pay, and a trace
        # would have to be renewed with each loss, frozen layer and size.
        task_learner = self.meta_state.task_learner(
            training=False, steps=inner_steps, support_y=x["support_y"]
        )
        adapted = task_learner.adapt(self.meta_state.theta(), {"x": x})
        return copy_learner(
            self.learner,
            task_learner.values(adapted),
            adapted.head,
            x["support_x"],
        )

    # -- Saving

    def save_own_variables(self, store):
        lora = [
            v.path
            for v in self.learner.trainable_variables
            if keras_internals.is_lora(v)
        ]
        if lora:
            raise ValueError(
                "Keras merges LoRA weights into the kernels when it saves "
                "them, and zeros are what it loads: the model could not adapt "
                "any more. Keep `get_weights()` for `set_weights()`, or use "
                f"`export`. Received: a learner with {lora}"
            )
        super().save_own_variables(store)

    def export(
        self,
        filepath,
        format="tf_saved_model",
        verbose=None,
        input_signature=None,
        **kwargs,
    ):
        """Writes a SavedModel that adapts and predicts without this library.

        Its `serve` endpoint, and `serving_default` signature, take
        `support_x`, `support_y` and `query_x` of any number of tasks and
        examples and give what `predict` gives.

        Args:
            filepath: path of the SavedModel.
            format: `"tf_saved_model"`, the one format that can hold the inner
                loop.
            verbose: bool. Whether to print a message.
            input_signature: dict of `"support_x"`, `"support_y"` and
                `"query_x"` to a `tf.TensorSpec`, `keras.KerasTensor` or
                `keras.InputSpec`. Defaults to the shapes and dtypes of the
                last meta-batch, with any number of tasks and examples.
            **kwargs: none; Keras has some for its other formats.

        Raises:
            ValueError: if `format` is another one, there are further
                arguments, or there is neither an `input_signature` nor has a
                meta-batch been seen.
        """
        check_choice("format", format, ("tf_saved_model",))
        if kwargs:
            raise ValueError(
                '`format="tf_saved_model"` takes no further arguments. '
                f"Received: {kwargs}"
            )
        serving.export(
            self,
            filepath,
            input_signature or self.meta_state.input_signature,
            verbose,
        )

    def get_config(self):
        serialize = keras.saving.serialize_keras_object
        adapted_weights = self.adapted_weights
        if callable(adapted_weights):
            adapted_weights = serialize(adapted_weights)
        return {
            **super().get_config(),
            "learner": serialize(self.learner),
            "inner_optimizer": serialize(self.inner_optimizer),
            "inner_steps": self.inner_steps,
            "meta_gradient": serialize(self.meta_gradient),
            "adapted_weights": adapted_weights,
            "outer_loss": serialize(self.outer_loss),
            "head_init": self.head_init,
            "inner_batch_size": self.inner_batch_size,
            "inner_loss": serialize(self.inner_loss),
            "normalization": self.normalization,
            "evaluation_steps": self.evaluation_steps,
            "task_map": self.task_map,
            "task_parallelism": self.task_parallelism,
            # Not an argument: what `export` needs to know of the data.
            "signature": serialize(self.meta_state.input_signature),
        }

    @classmethod
    def from_config(cls, config, custom_objects=None):
        config = deserialized(config, custom_objects)
        signature = config.pop("signature", None)
        if "adapt" in config:  # Saved by 0.1.
            config["adapted_weights"] = config.pop("adapt")
        model = cls(**config)
        model.meta_state.input_signature = signature
        return model


def _check_learner(learner):
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
