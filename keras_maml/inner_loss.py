"""The support loss that the inner loop descends."""

import keras
import tensorflow as tf


def resolve(inner_loss, compiled_loss):
    """The function behind `inner_loss`, or else behind the compiled loss.

    A `keras.losses.Loss` object divides its result by the number of replicas
    under `tf.distribute`, which would shorten the inner step on more devices.
    So the unreduced loss is taken, and reduced here.

    Args:
        inner_loss: a loss name, a `keras.losses.Loss`, a function
            `(y_true, y_pred)`, or `None`.
        compiled_loss: what `compile` got as `loss`, or `None`.

    Returns:
        A function `(y_true, y_pred, weight)` that returns a scalar: the mean
        of the examples' losses, weighted if `weight` is not `None`; their sum
        if the loss object has `reduction="sum"`.

    Raises:
        ValueError: if both are `None`, or there is one loss for each of
            several outputs.
    """
    loss = compiled_loss if inner_loss is None else inner_loss
    if loss is None:
        raise ValueError(
            "There is no loss for the inner loop. Pass `inner_loss`, or "
            "compile the model with a `loss`. Received: inner_loss=None"
        )
    if isinstance(loss, (list, tuple, dict)):
        raise ValueError(
            "A learner with several outputs needs `inner_loss`, one function "
            "(y_true, y_pred) of all of them, since `compile` got "
            f"several losses. Received: inner_loss={inner_loss!r}, "
            f"loss={loss!r}"
        )
    loss = keras.losses.get(loss)
    reduce_sum = False
    if isinstance(loss, keras.losses.Loss):
        reduce_sum = loss.reduction == "sum"
        function = loss.call
    else:
        function = loss

    def support_loss(y_true, y_pred, weight):
        # The mask that Keras's own losses would heed.
        mask = getattr(y_pred, "_keras_mask", None)
        values = tf.convert_to_tensor(function(y_true, _float32(y_pred)))
        weights = [w for w in (weight, mask) if w is not None]
        if not weights:
            return (tf.reduce_sum if reduce_sum else tf.reduce_mean)(values)
        if values.shape.rank == 0:
            raise ValueError(
                "`support_weight` and masks need a loss for each example, and "
                f"the inner loss returns one scalar. Received: {loss!r}"
            )
        total_weight = tf.ones_like(values)
        for w in weights:
            more_axes = [1] * (values.shape.rank - w.shape.rank)
            total_weight *= tf.reshape(
                tf.cast(w, values.dtype), tf.concat([tf.shape(w), more_axes], 0)
            )
        total = tf.reduce_sum(values * total_weight)
        if reduce_sum:
            return total
        return tf.math.divide_no_nan(total, tf.reduce_sum(total_weight))

    return support_loss


def _float32(y_pred):
    """Half-precision predictions widened, as Keras's losses do."""
    return tf.nest.map_structure(
        lambda t: (
            tf.cast(t, tf.float32)
            if t.dtype in (tf.float16, tf.bfloat16)
            else t
        ),
        y_pred,
    )
