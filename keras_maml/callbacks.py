"""Callbacks for meta-training."""

from typing import Any

import keras
import tensorflow as tf

from keras_maml.meta_gradients import FirstOrder
from keras_maml.validation import check_integer

__all__ = ["FirstOrderUntil", "PreAdaptationMetrics"]


class PreAdaptationMetrics(keras.callbacks.Callback):
    """Logs what the model knows of tasks before it has adapted to them.

    In few-shot classification the accuracy before adaptation must be chance,
    1 / n_way: the labels are drawn anew in each episode. If it is above, labels
    leak, and the accuracy after adaptation means nothing.

    At the end of each epoch the logs get, evaluated with θ itself,
    `pre_loss` and `pre_<metric>` for the compiled loss and metrics on the
    query sets, and `support_loss` for the compiled loss on the support sets.
    Name it before callbacks that read the logs.

    Args:
        dataset: finite `tf.data.Dataset` of meta-batches `(x, y)`.

    Raises:
        ValueError: if `dataset` is something else or has no end.

    Example:

    ```python
    glyphs = keras_maml.tasks.Glyphs(split="validation")
    callback = keras_maml.callbacks.PreAdaptationMetrics(
        glyphs.batch(8, count=8)
    )
    meta_model = keras_maml.MetaModel(keras_maml.learners.conv4(filters=4))
    meta_model.compile(
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    history = meta_model.fit(
        keras_maml.tasks.Glyphs().batch(8),
        steps_per_epoch=1,
        callbacks=[callback],
        verbose=0,
    ).history
    print(history["pre_accuracy"])  # about 0.2
    ```
    """

    def __init__(self, dataset: tf.data.Dataset) -> None:
        super().__init__()
        if not isinstance(dataset, tf.data.Dataset) or (
            dataset.cardinality() == tf.data.INFINITE_CARDINALITY
        ):
            raise ValueError(
                "`dataset` must be a finite `tf.data.Dataset` of meta-batches. "
                "A task distribution takes `batch(tasks, count=...)`. "
                f"Received: dataset={dataset!r}"
            )
        self.dataset = dataset
        self.support_dataset = dataset.map(_support_as_query)
        self._test_function: Any = None

    def on_train_begin(self, logs: dict | None = None) -> None:
        # Another loss or learner may have been compiled since.
        self._test_function = None

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        before = self._evaluate(self.dataset)
        support = self._evaluate(self.support_dataset)
        if logs is not None:
            logs.update({f"pre_{name}": v for name, v in before.items()})
            logs["support_loss"] = support["loss"]

    def _evaluate(self, dataset):
        # The model's own `evaluate` with no inner steps. Its traced function
        # is put aside, and this callback's kept, so that neither is traced
        # again in each epoch.
        model = self.model
        aside = model.evaluation_steps, model.test_function
        model.evaluation_steps, model.test_function = 0, self._test_function
        try:
            logs = model.evaluate(dataset, verbose=0, return_dict=True)
            self._test_function = model.test_function
        finally:
            model.evaluation_steps, model.test_function = aside
        return logs


def _support_as_query(x, *unused):
    x = {**x, "query_x": x["support_x"]}
    # Rows of padding do not count here either.
    weight = [x["support_weight"]] if "support_weight" in x else []
    return x, x["support_y"], *weight


class FirstOrderUntil(keras.callbacks.Callback):
    """Meta-trains in first order until an epoch, and exactly from then on.

    The training step is traced once more, when the order changes.

    Args:
        epoch: int, at least 1, the first epoch in the model's own order.

    Raises:
        ValueError: if `epoch` is not a positive integer; in `fit`, if the
            model's `meta_gradient` is not `SecondOrder`.

    Example:

    ```python
    meta_model = keras_maml.MetaModel(keras_maml.learners.mlp())
    meta_model.compile(optimizer="adam", loss="mse")
    meta_model.fit(
        keras_maml.tasks.Sinusoid().batch(4),
        steps_per_epoch=1,
        epochs=2,
        callbacks=[keras_maml.callbacks.FirstOrderUntil(1)],
        verbose=0,
    )
    ```

    Reference:
        Antoniou et al., 2019, "How to train your MAML", section 4,
        derivative-order annealing.
    """

    def __init__(self, epoch: int) -> None:
        super().__init__()
        self.epoch = check_integer("epoch", epoch)

    def on_train_begin(self, logs: dict | None = None) -> None:
        if not self.model.meta_gradient.second_order:
            raise ValueError(
                "`FirstOrderUntil` needs a model whose `meta_gradient` is "
                "`SecondOrder`. Received: "
                f"meta_gradient={self.model.meta_gradient!r}"
            )

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        self._set(FirstOrder() if epoch < self.epoch else None)

    def on_train_end(self, logs: dict | None = None) -> None:
        self._set(None)

    def _set(self, meta_gradient):
        # Beside the setting and not in it: that is what is saved.
        state = self.model.meta_state
        if type(state.meta_gradient_for_now) is not type(meta_gradient):
            state.meta_gradient_for_now = meta_gradient
            self.model.make_train_function(force=True)
