"""What Keras's losses ask of targets. A user's own loss may ask anything."""

from typing import NamedTuple

import keras

_losses = keras.losses

# A value of the target for each value of the output.
_ELEMENTWISE = (
    _losses.BinaryCrossentropy,
    _losses.BinaryFocalCrossentropy,
    _losses.CategoricalCrossentropy,
    _losses.CategoricalFocalCrossentropy,
    _losses.CategoricalHinge,
    _losses.CosineSimilarity,
    _losses.Hinge,
    _losses.Huber,
    _losses.KLDivergence,
    _losses.LogCosh,
    _losses.MeanAbsoluteError,
    _losses.MeanAbsolutePercentageError,
    _losses.MeanSquaredError,
    _losses.MeanSquaredLogarithmicError,
    _losses.Poisson,
    _losses.SquaredHinge,
    _losses.binary_crossentropy,
    _losses.binary_focal_crossentropy,
    _losses.categorical_crossentropy,
    _losses.categorical_focal_crossentropy,
    _losses.categorical_hinge,
    _losses.cosine_similarity,
    _losses.hinge,
    _losses.huber,
    _losses.kl_divergence,
    _losses.log_cosh,
    _losses.mean_absolute_error,
    _losses.mean_absolute_percentage_error,
    _losses.mean_squared_error,
    _losses.mean_squared_logarithmic_error,
    _losses.poisson,
    _losses.squared_hinge,
)


class LossRule(NamedTuple):
    """What a loss asks of its targets.

    Attributes:
        sparse: bool. Whether the targets are integers that number the values
            of the output's last axis. Otherwise, targets and outputs have the
            same shape, apart from a last axis of length 1.
        ignore_class: int, a label that does not count, or `None`.
    """

    sparse: bool
    ignore_class: int | None = None


def rule_of(loss):
    """Returns the `LossRule` of one loss of Keras, or `None` of others.

    Args:
        loss: a loss name, a `keras.losses.Loss`, a function
            `(y_true, y_pred)`, or `None`.
    """
    if isinstance(loss, str):
        loss = _losses.get(loss)
    if loss is _losses.sparse_categorical_crossentropy:
        return LossRule(sparse=True)
    # A subclass may do something else.
    if type(loss) is _losses.SparseCategoricalCrossentropy:
        return LossRule(sparse=True, ignore_class=loss.ignore_class)
    kind = type(loss) if isinstance(loss, keras.Loss) else loss
    is_elementwise = any(kind is known for known in _ELEMENTWISE)
    return LossRule(sparse=False) if is_elementwise else None


def rules_of(loss, count):
    """Returns the rules of the losses of `count` outputs, in their flat order.

    Args:
        loss: what the model was compiled with: one loss, or a structure.
        count: int.

    Returns:
        A list of `LossRule`s and `None`.
    """
    if not isinstance(loss, list | tuple | dict):
        return [rule_of(loss)] * count
    losses = keras.tree.flatten(loss)
    if len(losses) != count:
        # Several losses of one output, or a mistake that Keras names.
        return [None] * count
    return [rule_of(one) for one in losses]
