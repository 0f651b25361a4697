"""The support loss, which the inner loop minimises."""

from collections.abc import Callable
from typing import Any
from typing import TypeAlias

import keras
import tensorflow as tf

from keras_maml import keras_internals

# `(y_true, y_pred)` to the loss of each example.
LossFunction: TypeAlias = Callable[[Any, Any], tf.Tensor]


class UnweighableLossError(ValueError):
    """Raised if a weight meets a loss that has no value for each example."""


def resolve(inner_loss, compiled_loss):
    """Returns the function of `inner_loss`, or else of the compiled loss.

    Under `tf.distribute`, a `keras.losses.Loss` divides its result by the
    number of replicas, which would shorten the inner step. The returned
    function therefore calls the unreduced loss and reduces the result.

    Args:
        inner_loss: a loss name, a `keras.losses.Loss`, a function
            `(y_true, y_pred)`, or `None`.
        compiled_loss: the `loss` argument of `compile`, or `None`.

    Returns:
        A function `(y_true, y_pred, weight)` that returns a scalar. The scalar
        is the mean loss of the examples, weighted if `weight` is not `None`.
        If the loss object has `reduction="sum"`, it is the sum.

    Raises:
        ValueError: if both arguments are `None`, or if there are several
            losses, one for each output.
    """
    loss = compiled_loss if inner_loss is None else inner_loss
    if loss is None:
        raise ValueError(
            "There is no loss for the inner loop. Pass `inner_loss`, or "
            "compile the model with a `loss`. Received: inner_loss=None"
        )
    while isinstance(loss, (list, tuple, dict)) and len(loss) == 1:
        (loss,) = loss.values() if isinstance(loss, dict) else loss
    if isinstance(loss, (list, tuple, dict)):
        raise ValueError(
            "A learner with several outputs needs `inner_loss`, one function "
            "(y_true, y_pred) of all outputs, because `compile` got "
            f"several losses. Received: inner_loss={inner_loss!r}, "
            f"loss={loss!r}"
        )
    loss = keras.losses.get(loss)
    reduce_sum = False
    function, dtype = loss, keras.backend.floatx()
    if isinstance(loss, keras.losses.Loss):
        reduce_sum = loss.reduction == "sum"
        function, dtype = loss.call, loss.dtype

    def support_loss(y_true, y_pred, weight):
        # Keras's losses use the mask that a layer attached to its output.
        mask = keras_internals.get_mask(y_pred)
        y_true, y_pred = _as_keras_does(y_true, y_pred, dtype)
        values = tf.convert_to_tensor(function(y_true, y_pred))
        weights = [
            tf.convert_to_tensor(w) for w in (weight, mask) if w is not None
        ]
        if not weights:
            return (tf.reduce_sum if reduce_sum else tf.reduce_mean)(values)
        total_weight = tf.ones_like(values)
        for factor in weights:
            missing_axes = values.shape.rank - factor.shape.rank
            if missing_axes < 0:
                raise UnweighableLossError(
                    "`support_weight` and masks need a loss for each example "
                    "(and each masked step). The inner loss returns values of "
                    f"shape {values.shape} for weights of shape "
                    f"{factor.shape}. Received: inner_loss={loss!r}"
                )
            shape = tf.concat([tf.shape(factor), [1] * missing_axes], 0)
            total_weight *= tf.reshape(tf.cast(factor, values.dtype), shape)
        total = tf.reduce_sum(values * total_weight)
        if reduce_sum:
            return total
        return tf.math.divide_no_nan(total, tf.reduce_sum(total_weight))

    return support_loss


def _as_keras_does(y_true, y_pred, dtype):
    """Prepares the arguments of a loss as a compiled Keras model does.

    Both arguments get the dtype of the loss. If only one of them has a
    trailing axis of length 1, the targets gain or lose this axis.
    """
    y_true, y_pred = tf.nest.map_structure(
        lambda t: tf.cast(t, dtype), (y_true, y_pred)
    )
    if tf.is_tensor(y_true) and tf.is_tensor(y_pred):
        missing_axes = y_pred.shape.rank - y_true.shape.rank
        if missing_axes == 1 and y_pred.shape[-1] == 1:
            y_true = y_true[..., tf.newaxis]
        elif missing_axes == -1 and y_true.shape[-1] == 1:
            y_true = tf.squeeze(y_true, -1)
    return y_true, y_pred
