"""Update rules of the inner loop, and the losses, by their formulas.

Each rule is a function `(gradients, slots, weights, number, rates)` that
returns `(weights, slots)`; `slots` is `None` before the first step.
"""

import keras
import tensorflow as tf

from keras_maml import inner_optimizers

LIMIT = 0.3
DECAY = 0.2


def maker(name, rate):
    """Returns the library's object of a rule."""
    learned = {
        "learned": {},
        "learned_variable": {"per": "variable"},
        "learned_weight": {"per": "weight"},
        "learned_step": {"per": "variable", "per_step": True},
    }
    if name in learned:
        rates = inner_optimizers.LearnedRate(rate, **learned[name])
        return inner_optimizers.SGD(rates)
    if name == "schedule":
        schedule = keras.optimizers.schedules.ExponentialDecay(rate, 1, 0.5)
        return inner_optimizers.SGD(schedule)
    cls, arguments = {
        "sgd": ("SGD", {}),
        "momentum": ("SGD", {"momentum": 0.8}),
        "nesterov": ("SGD", {"momentum": 0.8, "nesterov": True}),
        "decay": ("SGD", {"weight_decay": DECAY}),
        "clipvalue": ("SGD", {"clipvalue": LIMIT}),
        "clipnorm": ("SGD", {"clipnorm": LIMIT}),
        "global_clipnorm": ("SGD", {"global_clipnorm": LIMIT}),
        "adam": ("Adam", {"epsilon": 1e-3}),
        "adamw": ("AdamW", {"epsilon": 1e-3, "weight_decay": DECAY}),
        "rmsprop": ("RMSprop", {"epsilon": 1e-3}),
        "centered": ("RMSprop", {"centered": True, "momentum": 0.5}),
        "adagrad": ("Adagrad", {}),
    }[name]
    if name == "centered":
        arguments["epsilon"] = 1e-2
    return getattr(inner_optimizers, cls)(rate, **arguments)


NAMES = (
    "sgd",
    "momentum",
    "nesterov",
    "decay",
    "clipvalue",
    "clipnorm",
    "global_clipnorm",
    "schedule",
    "adam",
    "adamw",
    "rmsprop",
    "centered",
    "adagrad",
    "learned",
    "learned_variable",
    "learned_weight",
    "learned_step",
)


def plain_rule(name, rate):
    """Returns the rule as a function, see above."""

    def update(gradients, slots, weights, number, rates):
        slots = slots or [{} for _ in weights]
        gradients = _clipped(name, gradients)
        new, new_slots = [], []
        for i, (g, slot, w) in enumerate(zip(gradients, slots, weights)):
            a = _rate(name, rate, rates, i, number)
            if name in ("decay", "adamw"):
                w = w * (1 - DECAY * a)
            step, slot = _step(name, g, slot, a, number + 1)
            new.append(w - step)
            new_slots.append(slot)
        return new, new_slots

    return update


def _rate(name, rate, rates, i, number):
    if name == "schedule":
        return rate * 0.5**number
    if name == "learned":
        return rates[0]
    if name in ("learned_variable", "learned_weight"):
        return rates[i]
    if name == "learned_step":
        return rates[i][min(number, rates[i].shape[0] - 1)]
    return rate


def _step(name, g, slot, a, count):
    """Returns what is subtracted from a weight, and its new slots."""
    zero = tf.zeros_like(g)
    if name in ("momentum", "nesterov"):
        v = 0.8 * slot.get("v", zero) + g * a
        return (0.8 * v + g * a if name == "nesterov" else v), {"v": v}
    if name in ("adam", "adamw"):
        m = 0.9 * slot.get("m", zero) + 0.1 * g
        s = 0.999 * slot.get("s", zero) + 0.001 * g**2
        # The step size of the paper's section 2, with its ε̂.
        size = a * (1 - 0.999**count) ** 0.5 / (1 - 0.9**count)
        return size * m / (_root(s) + 1e-3), {"m": m, "s": s}
    if name == "rmsprop":
        s = 0.9 * slot.get("s", zero) + 0.1 * g**2
        return a * g / tf.sqrt(s + 1e-3), {"s": s}
    if name == "centered":
        s = 0.9 * slot.get("s", zero) + 0.1 * g**2
        m = 0.9 * slot.get("m", zero) + 0.1 * g
        v = 0.5 * slot.get("v", zero) + a * g / tf.sqrt(s - m**2 + 1e-2)
        return v, {"s": s, "m": m, "v": v}
    if name == "adagrad":
        s = slot.get("s", zero + 0.1) + g**2
        return a * g / tf.sqrt(s + 1e-7), {"s": s}
    return a * g, {}


def _root(x):
    return tf.where(x > 0, tf.sqrt(tf.where(x > 0, x, 1)), 0)


def _clipped(name, gradients):
    if name == "clipvalue":
        return [tf.clip_by_value(g, -LIMIT, LIMIT) for g in gradients]
    norms = [_root(tf.reduce_sum(g**2)) for g in gradients]
    if name == "global_clipnorm":
        norms = [_root(sum(norm**2 for norm in norms))] * len(norms)
    elif name != "clipnorm":
        return gradients
    return [
        g * (LIMIT / tf.maximum(n, LIMIT)) for g, n in zip(gradients, norms)
    ]


# -- Losses of each example, `(y_true, y_pred)`


def brier(y_true, y_pred):
    """A loss of one's own, of class labels and scores."""
    labels = tf.cast(tf.reshape(y_true, [-1]), tf.int32)
    truth = tf.one_hot(labels, y_pred.shape[-1], dtype=y_pred.dtype)
    return tf.reduce_mean((tf.nn.softmax(y_pred) - truth) ** 2, -1)


def _elementwise(function):
    def loss(y_true, y_pred):
        if y_true.shape.rank < y_pred.shape.rank:
            y_true = y_true[:, tf.newaxis]
        y_true = tf.cast(y_true, y_pred.dtype)
        return tf.reduce_mean(function(y_pred - y_true), -1)

    return loss


def _sparse(y_true, y_pred):
    labels = tf.cast(tf.reshape(y_true, [-1]), tf.int32)
    return tf.nn.sparse_softmax_cross_entropy_with_logits(labels, y_pred)


def _categorical(y_true, y_pred):
    y_true = tf.cast(y_true, y_pred.dtype)
    return -tf.reduce_sum(y_true * tf.nn.log_softmax(y_pred), -1)


PLAIN_LOSSES = {
    "mse": _elementwise(tf.square),
    "log_cosh": _elementwise(lambda d: tf.math.log(tf.cosh(d))),
    "sparse": _sparse,
    "categorical": _categorical,
    "brier": brier,
}


def keras_loss(name, reduction="sum_over_batch_size"):
    """Returns a loss for `compile`."""
    losses = keras.losses
    if name == "sparse":
        return losses.SparseCategoricalCrossentropy(
            from_logits=True, reduction=reduction
        )
    if name == "categorical":
        return losses.CategoricalCrossentropy(
            from_logits=True, reduction=reduction
        )
    if name == "mse" and reduction == "sum":
        return losses.MeanSquaredError(reduction="sum")
    return {"brier": brier}.get(name, name)
