"""Predictions for one task with a stated coverage."""

from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import ArrayLike

from keras_maml.engine import contract
from keras_maml.engine import seeds
from keras_maml.engine import targets
from keras_maml.engine.class_predictions import class_predictions
from keras_maml.evaluation import folds as folds_lib


class ConformalPrediction(NamedTuple):
    """Predictions for the queries of one task, and how sure they are.

    Attributes:
        prediction: array, what the model says that is adapted to the whole
            support set: values `(Q, ...)`, or probabilities `(Q, classes)`.
        low, high: arrays `(Q, ...)`, the ends of an interval for each value.
            `None` for classes.
        sets: bool array `(Q, classes)`, whether a class is in the set of a
            query. `None` for values.
        coverage: float, the expected share of intervals or sets that hold the
            truth, at least `1 - miscoverage`.
        guarantee: float, the share that theorems guarantee for any learner and
            any data whose support examples and queries can be exchanged, if
            folds have one size. It is below `coverage`, and says nothing if it
            is negative. `None` for classes, whose folds depend on the labels.

    Example:

    ```python
    sines = keras_maml.tasks.Sinusoid(k_shot=19, q_query=5)
    meta_model = keras_maml.MetaModel(
        keras_maml.learners.mlp(), inner_loss="mse"
    )
    x, y = sines.episode(0)
    result = keras_maml.conformal_prediction(meta_model, **x)
    print((result.low < y) & (y < result.high))  # nine of ten are true
    ```
    """

    prediction: np.ndarray
    low: np.ndarray | None
    high: np.ndarray | None
    sets: np.ndarray | None
    coverage: float
    guarantee: float | None


def conformal_prediction(
    meta_model: keras.Model,
    support_x: ArrayLike,
    support_y: ArrayLike,
    query_x: ArrayLike,
    *,
    miscoverage: float = 0.1,
    folds: int | None = None,
    inner_steps: int | None = None,
) -> ConformalPrediction:
    """Learns one task, and predicts with intervals or sets of classes.

    The model adapts once for each fold, without the support examples of the
    fold, and predicts these examples and the queries. How far such predictions
    are from the truth on the left-out examples says how far they may be on the
    queries. Learners with `BatchNormalization` predict as the model that
    `adapt` returns.

    The expected coverage is an average over tasks, support sets and queries
    that come from one distribution. For a single task, and for a single class
    or region of inputs, coverage may be lower or higher.

    Args:
        meta_model: a `MetaModel` of one output. If its inner loss, or else its
            compiled loss, is a cross-entropy of Keras, it predicts classes.
        support_x: array `(S, *input_shape)`.
        support_y: array `(S, ...)`. Values of several numbers get an interval
            for each number.
        query_x: array `(Q, *input_shape)`.
        miscoverage: float, the share of queries whose truth may lie outside,
            at least `1 / (S + 1)`.
        folds: int, the number of folds. Each example is in one fold. For
            classes, a fold takes as many examples of each class as of any
            other, if it can. Defaults to one fold for each example, or 10 of
            more than 50 examples. For classes, defaults to the size of the
            smallest class.
        inner_steps: int, the number of inner steps. Defaults to
            `evaluation_steps` of the model.

    Returns:
        A `ConformalPrediction`.

    Raises:
        ValueError: if an argument does not have the form above, if a class has
            one support example only, or if a prediction is not finite.

    Example:

    ```python
    meta_model = keras_maml.MetaModel(
        keras_maml.learners.mlp(), inner_loss="mse"
    )
    x, y = keras_maml.tasks.Sinusoid(k_shot=9, q_query=2).episode(0)
    result = keras_maml.conformal_prediction(meta_model, **x)
    print(result.low, y, result.high)
    ```

    Reference:
        Barber et al., 2021, "Predictive inference with the jackknife+", eq. 11
        and theorems 1 and 4; Vovk, 2015, "Cross-conformal predictors". For
        classes, the score is one less the probability of a class. Deviation:
        folds hold all classes, so the theorems do not apply to them.
    """
    x = contract.check_support(support_x, support_y)
    x["query_x"] = contract.tensors("query_x", query_x)
    x = tf.nest.map_structure(lambda t: t[tf.newaxis], x)
    x = contract.check_inputs(x)
    if not meta_model.built:
        meta_model.build(tf.nest.map_structure(lambda t: tuple(t.shape), x))
    x, _ = targets.checked(meta_model, x)
    loss = meta_model.inner_loss
    classes = class_predictions(
        getattr(meta_model, "loss", None) if loss is None else loss
    )
    values = x["support_y"][0].numpy()
    if classes is not None and values.size != (
        values.shape[0] * (values.shape[-1] if classes.kind == "one_hot" else 1)
    ):
        raise ValueError(
            "`support_y` must have one class for each example. Received: "
            f"support_y of shape {values.shape}"
        )
    labels = None if classes is None else classes.support_labels(values)
    fold_of = folds_lib.assign(len(values), labels, folds)
    rank = folds_lib.rank(len(values), miscoverage)
    outputs = fold_outputs(meta_model, x, fold_of, inner_steps)
    if not (tf.is_tensor(outputs) and np.isfinite(outputs).all()):
        raise ValueError(
            "`meta_model` must have one output, and finite predictions. "
            f"Received: predictions {outputs!r}"
        )
    if classes is None:
        return intervals(outputs[0].numpy(), values, fold_of, rank)
    probabilities = classes.probabilities(outputs[0]).numpy()
    return sets(probabilities, labels, fold_of, rank)


def fold_outputs(meta_model, x, fold_of, inner_steps=None):
    """Returns the predictions of models that are adapted without a fold.

    Args:
        meta_model: a built `MetaModel`.
        x: dict of tensors, the inputs of T tasks.
        fold_of: integer array `(S,)`, the fold of each support example.
        inner_steps: int, or `None`.

    Returns:
        A tensor `(T, K + 1, S + Q, ...)`: the predictions of all support
        examples and queries, by K models that leave out one of K folds, and by
        the model of the whole support set.
    """
    count = tf.shape(tf.nest.flatten(x)[0])[0]
    number = fold_of.max() + 1
    kept = np.concatenate(
        [fold_of != np.arange(number)[:, None], np.ones((1, len(fold_of)))]
    ).astype(keras.backend.floatx())
    rows = number + 1

    def repeated(tensor):
        return tf.repeat(tensor, rows, axis=0)

    both = tf.nest.map_structure(
        lambda s, q: tf.concat([s, tf.cast(q, s.dtype)], 1),
        x["support_x"],
        x["query_x"],
    )
    tasks = {
        "support_x": tf.nest.map_structure(repeated, x["support_x"]),
        "support_y": repeated(x["support_y"]),
        "query_x": tf.nest.map_structure(repeated, both),
        "support_weight": tf.tile(tf.constant(kept), [count, 1]),
    }
    tasks, _ = targets.checked(meta_model, tasks)
    # Neither the other queries nor the support examples may inform a query.
    statistics = meta_model.normalization
    if statistics == "transductive":
        statistics = "support"
    learner = meta_model.meta_state.task_learner(
        training=False,
        steps=inner_steps,
        support_y=tasks["support_y"],
        normalization=statistics,
    )
    theta = meta_model.meta_state.theta()

    def outputs(task):
        adapted = learner.adapt(theta, task)
        return learner.predict(adapted, task["x"]["query_x"]).outputs, ()

    numbers = seeds.task_numbers(count * rows)
    values, _ = meta_model.map_tasks(outputs, {"x": tasks, "number": numbers})
    return tf.nest.map_structure(
        lambda t: tf.reshape(t, tf.concat([[count, rows], tf.shape(t)[1:]], 0)),
        values,
    )


def intervals(outputs, support_y, fold_of, rank):
    """Returns the `ConformalPrediction` of values.

    Args:
        outputs: array `(K + 1, S + Q, ...)`, see `fold_outputs`.
        support_y: array `(S, ...)`.
        fold_of: integer array `(S,)`.
        rank: a `folds.Rank`.
    """
    count = len(support_y)
    if support_y.size != outputs[-1, :count].size:
        raise ValueError(
            "`support_y` must have a value for each output of the learner, or "
            "the loss must be a cross-entropy of Keras. Received: support_y of "
            f"shape {support_y.shape} and outputs of shape "
            f"{outputs[-1, :count].shape}"
        )
    # Targets may lack a last axis of length 1, or have one.
    support_y = support_y.reshape(count, *outputs.shape[2:])
    left_out = outputs[fold_of, np.arange(count)]
    residuals = np.abs(support_y - left_out)[:, np.newaxis]
    queries = outputs[fold_of, count:]
    low = np.sort(queries - residuals, 0)[count - rank.position]
    high = np.sort(queries + residuals, 0)[rank.position - 1]
    return ConformalPrediction(
        outputs[-1, count:],
        low,
        high,
        None,
        rank.coverage,
        rank.guarantee(fold_of),
    )


def sets(probabilities, labels, fold_of, rank):
    """Returns the `ConformalPrediction` of classes.

    Args:
        probabilities: array `(K + 1, S + Q, classes)`.
        labels: integer array `(S,)`.
        fold_of: integer array `(S,)`.
        rank: a `folds.Rank`.
    """
    count = len(labels)
    left_out = probabilities[fold_of, np.arange(count), labels]
    queries = probabilities[fold_of, count:]
    # Of how many examples the truth is more probable than this class here.
    worse = np.sum(queries < left_out[:, np.newaxis, np.newaxis], 0)
    return ConformalPrediction(
        probabilities[-1, count:],
        None,
        None,
        worse < rank.position,
        rank.coverage,
        None,
    )
