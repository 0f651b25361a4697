"""The mean score over tasks, and its confidence interval."""

from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Sequence

import keras
import numpy as np
import tensorflow as tf

from keras_maml.engine import contract
from keras_maml.engine import weightless
from keras_maml.evaluation.finite_tasks import check_finite
from keras_maml.evaluation.finite_tasks import check_finite_dataset
from keras_maml.task_scores import TaskScores


def evaluate_tasks(
    meta_model: keras.Model,
    dataset: Iterable[tuple],
    metric: Callable[[tf.Tensor, tf.Tensor], tf.Tensor],
    inner_steps: Sequence[int] | None = None,
) -> dict[int, TaskScores]:
    """Scores adapted models task by task, for several numbers of inner steps.

    Args:
        meta_model: a `MetaModel`.
        dataset: finite iterable of meta-batches `(x, y)` or
            `(x, y, sample_weight)`, as for `evaluate`.
        metric: function `(y_true, y_pred)` of tensors `(T, Q, ...)` that
            returns a tensor `(T, Q)`, such as
            `keras.metrics.sparse_categorical_accuracy`.
        inner_steps: list of ints, the numbers of inner steps. 0 gives the
            score before adaptation. Defaults to `evaluation_steps` of the
            model.

    Returns:
        A dict from each number of steps to its `TaskScores`.

    Raises:
        ValueError: if the dataset is infinite or empty, if it does not hold
            meta-batches, if `metric` is not a function that returns a value
            for each query, or if a task is not finite, unless the model has
            `bad_tasks="skip"`. Then such tasks are left out, and counted in
            `TaskScores.skipped`.

    Example:

    ```python
    sines = keras_maml.tasks.Sinusoid(seed=1)
    meta_model = keras_maml.MetaModel(
        keras_maml.learners.mlp(), inner_loss="mse"
    )
    scores = keras_maml.evaluate_tasks(
        meta_model,
        sines.batch(10, count=20),
        keras.losses.mean_squared_error,
        inner_steps=[0, 1],
    )
    print(f"{scores[1].mean:.2f} ± {scores[1].ci95:.2f}")
    ```

    To get all compiled metrics, intervals over tasks, calibration and so on in
    one pass, call `evaluate_episodes`. This function needs no compiled model.

    Reference:
        Finn et al., 2017, tables 1 and 2: mean ± 1.96 σ / √(tasks).
    """
    _check_arguments(dataset, metric)
    if inner_steps is None:
        steps = meta_model.evaluation_steps
        inner_steps = [meta_model.inner_steps if steps is None else steps]

    @tf.function(reduce_retracing=True, autograph=False)
    def scores(x, y, weight=None):
        results = []
        x = contract.check_inputs(x)
        y, weight = contract.check_targets(x, y, weight)
        x, y = weightless.filled(x, y, weight)
        finite = _finite_tasks([x, y])
        for steps in inner_steps:
            predictions = meta_model(x, inner_steps=steps)
            results.append(_mean_over_queries(metric, y, predictions, weight))
            finite &= _finite_tasks([predictions, results[-1]])
        return results, finite

    collected = [scores(*batch) for batch in dataset]
    if not collected:
        raise ValueError(
            f"`dataset` holds no meta-batch. Received: dataset={dataset}"
        )
    finite = np.concatenate([batch_finite for _, batch_finite in collected])
    check_finite(finite, meta_model.bad_tasks == "skip")
    return {
        steps: TaskScores(
            np.concatenate([batch[i] for batch, _ in collected])[finite],
            int((~finite).sum()),
        )
        for i, steps in enumerate(inner_steps)
    }


def _check_arguments(dataset, metric):
    check_finite_dataset("dataset", dataset)
    if not callable(metric) or isinstance(metric, keras.metrics.Metric):
        raise ValueError(
            "`metric` must be a function `(y_true, y_pred)`, such as "
            "`keras.metrics.sparse_categorical_accuracy`. "
            f"Received: metric={metric!r}"
        )


def _mean_over_queries(metric, y, predictions, weight):
    """Returns the weighted mean of the metric for each task, `(T,)`."""
    values = metric(y, predictions)
    if len(values.shape) < 2:
        raise ValueError(
            "`metric` must return a value for each query, of shape "
            f"(tasks, query). Received: metric={metric!r}, which "
            f"returned values of shape {values.shape}"
        )
    weights = tf.ones_like(values)
    if weight is not None:
        weights *= tf.cast(weight, values.dtype)
    axes = list(range(1, len(values.shape)))
    return tf.math.divide_no_nan(
        tf.reduce_sum(values * weights, axes), tf.reduce_sum(weights, axes)
    )


def _finite_tasks(structure):
    """Returns whether all floats of each task are finite, `(T,)`."""
    tensors = tf.nest.flatten(structure)
    # Token ids and labels are no floats.
    finite = [tf.fill(tf.shape(tensors[0])[:1], True)]
    for tensor in tensors:
        if tensor.dtype.is_floating:
            axes = list(range(1, tensor.shape.rank))
            finite.append(tf.reduce_all(tf.math.is_finite(tensor), axes))
    return tf.reduce_all(tf.stack(finite), 0)
