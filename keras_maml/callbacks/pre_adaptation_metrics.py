"""PreAdaptationMetrics: how good θ is before it adapts."""

from collections.abc import Callable

import keras
import tensorflow as tf


class PreAdaptationMetrics(keras.callbacks.Callback):
    """Logs the loss and the metrics before adaptation.

    In few-shot classification, the accuracy before adaptation must be near
    1 / n_way, because each episode draws new labels. A higher accuracy
    shows that labels leak. The accuracy after adaptation then means nothing.

    At the end of each epoch, the callback evaluates θ without adaptation and
    adds three kinds of entries to the logs. `pre_loss` and `pre_<metric>` are
    the compiled loss and metrics on the query sets. `support_loss` is the
    compiled loss on the support sets. In `callbacks=[...]`, put this callback
    before callbacks that read the logs.

    Args:
        dataset: finite `tf.data.Dataset` of meta-batches `(x, y)`.

    Raises:
        ValueError: if `dataset` is not a `tf.data.Dataset` or is infinite.

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
                "To make a finite dataset, call `batch(tasks, count=...)`. "
                f"Received: dataset={dataset!r}"
            )
        self.dataset = dataset
        self.support_dataset = dataset.map(_support_as_query)
        self._test_function: Callable | None = None

    def on_train_begin(self, logs: dict | None = None) -> None:
        # `compile` may have changed the loss since the last trace.
        self._test_function = None

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        before = self._evaluate(self.dataset)
        support = self._evaluate(self.support_dataset)
        if logs is not None:
            logs.update({f"pre_{name}": before[name] for name in before})
            logs["support_loss"] = support["loss"]

    def _evaluate(self, dataset):
        # The model and this callback each keep their traced function, so that
        # neither is traced again in each epoch.
        model = self.model
        saved = model.evaluation_steps, model.test_function
        model.evaluation_steps, model.test_function = 0, self._test_function
        try:
            logs = model.evaluate(dataset, verbose=0, return_dict=True)
            self._test_function = model.test_function
        finally:
            model.evaluation_steps, model.test_function = saved
        return logs


def _support_as_query(x, *unused):
    x = {**x, "query_x": x["support_x"]}
    # Rows of padding do not count.
    weight = [x["support_weight"]] if "support_weight" in x else []
    return x, x["support_y"], *weight
