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
    while isinstance(loss, (list, tuple, dict)) and len(loss) == 1:
        (loss,) = loss.values() if isinstance(loss, dict) else loss
    if isinstance(loss, (list, tuple, dict)):
        raise ValueError(
            "A learner with several outputs needs `inner_loss`, one function "
            "(y_true, y_pred) of all of them, since `compile` got "
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
        # The mask that Keras's own losses would heed.
        mask = getattr(y_pred, "_keras_mask", None)
        y_true, y_pred = _as_keras_does(y_true, y_pred, dtype)
        values = tf.convert_to_tensor(function(y_true, y_pred))
        weights = [
            tf.convert_to_tensor(w) for w in (weight, mask) if w is not None
        ]
        if not weights:
            return (tf.reduce_sum if reduce_sum else tf.reduce_mean)(values)
        total_weight = tf.ones_like(values)
        for w in weights:
            if w.shape.rank > values.shape.rank:
                raise ValueError(
                    "`support_weight` and masks need a loss for each example "
                    "(and each masked step). The inner loss returns values of "
                    f"shape {values.shape} for weights of shape {w.shape}. "
                    f"Received: {loss!r}"
                )
            more_axes = [1] * (values.shape.rank - w.shape.rank)
            total_weight *= tf.reshape(
                tf.cast(w, values.dtype), tf.concat([tf.shape(w), more_axes], 0)
            )
        total = tf.reduce_sum(values * total_weight)
        if reduce_sum:
            return total
        return tf.math.divide_no_nan(total, tf.reduce_sum(total_weight))

    return support_loss


def _as_keras_does(y_true, y_pred, dtype):
    """What `compile` does to the arguments of a loss before it is called.

    Both become the loss's dtype, and a trailing axis of length 1 that only
    one of them has is put on or taken off the targets.
    """
    y_true, y_pred = tf.nest.map_structure(
        lambda t: tf.cast(t, dtype), (y_true, y_pred)
    )
    if tf.is_tensor(y_true) and tf.is_tensor(y_pred):
        more = y_pred.shape.rank - y_true.shape.rank
        if more == 1 and y_pred.shape[-1] == 1:
            y_true = y_true[..., tf.newaxis]
        elif more == -1 and y_true.shape[-1] == 1:
            y_true = tf.squeeze(y_true, -1)
    return y_true, y_pred
