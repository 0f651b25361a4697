"""A slow meta-step: nested tapes, one task after another, nothing shared.

It knows what the documentation of `MetaModel` promises, and uses none of the
library's code.
"""

from typing import NamedTuple

import numpy as np
import tensorflow as tf

from tests.fuzz.plain_implicit import dense
from tests.fuzz.plain_implicit import implicit_gradient


class Step(NamedTuple):
    """The result of a meta-batch.

    Attributes:
        loss: float, the mean outer loss.
        gradients: list of arrays, for weights, learned rates, and the scales
            of each step. `None` without training.
        state: dict of arrays, the new statistics by `id(variable)`.
        predictions: array `(T, Q, ...)`.
    """

    loss: float
    gradients: list | None
    state: dict
    predictions: np.ndarray


class PlainMaml:
    """Runs meta-batches as a `MetaModel` with the settings of a case should.

    Args:
        network: a `Network`.
        meta_model: the `MetaModel`, whose variables are read.
        settings: `cases.Settings`.
    """

    def __init__(self, network, meta_model, settings):
        self.network = network
        self.model = meta_model
        self.settings = settings
        self.norms = [
            layer
            for block, layer in network.pairs
            if block.startswith("batch_norm") and layer.trainable
        ]

    # -- What a case asks for

    def train(self, x, y, sample_weight=None):
        return self._mean(x, y, sample_weight, training=True)

    def evaluate(self, x, y, sample_weight=None):
        return self._mean(x, y, sample_weight, training=False)

    def adapted_predictions(self, x, task):
        """Returns what the model that `adapt` returns says of the queries."""
        run = _Task(
            self, _row(x, task), None, None, False, self._classes(x, task)
        )
        run.adapt()
        values = run.values(run.last_row())
        if self.settings.normalization in ("transductive", "support"):
            values = {**values, **run.support_statistics()}
        outputs = self.network.forward(
            values, run.x["query_x"], batch_statistics=False
        )[0]
        return run.with_head(outputs).numpy()

    def _classes(self, x, task=None):
        labels = x["support_y"] if task is None else x["support_y"][task]
        return int(np.max(labels)) + 1

    def _mean(self, x, y, sample_weight, training):
        losses, gradients, states, predictions = [], [], [], []
        classes = self._classes(x)
        for t in range(len(y)):
            weight = None if sample_weight is None else sample_weight[t]
            run = _Task(self, _row(x, t), y[t], weight, training, classes)
            loss, gradient = run.run()
            losses.append(float(loss))
            gradients.append(gradient)
            states.append(run.state)
            predictions.append(run.outputs.numpy())
        state = {key: np.mean([s[key] for s in states], 0) for key in states[0]}
        if sample_weight is not None and not np.any(sample_weight):
            # No task counts, so the old state stays.
            state = {}
        total = None
        if training:
            total = [np.mean(each, 0) for each in zip(*gradients)]
        return Step(np.mean(losses), total, state, np.stack(predictions))


class _Task:
    """One task of a meta-batch."""

    def __init__(self, plain, x, y, sample_weight, training, classes):
        self.plain = plain
        self.settings = plain.settings
        self.network = plain.network
        model = plain.model
        self.floatx = model.learner.variable_dtype
        as_tensor = tf.convert_to_tensor
        self.x = tf.nest.map_structure(as_tensor, x)
        self.y = None if y is None else as_tensor(y)
        self.sample_weight = sample_weight
        self.training = training
        self.classes = classes
        self.variables = list(model.learner.trainable_variables)
        self.weights = [tf.convert_to_tensor(v) for v in self.variables]
        self.rates = [
            tf.convert_to_tensor(v) for v in model.meta_state.parameters
        ]
        self.scales = [tf.convert_to_tensor(v) for v in model.meta_state.scales]
        # The statistics of each step, or of all.
        self.state = {}
        self.head = ()
        self.steps = self.settings.inner_steps
        if not training and self.settings.evaluation_steps is not None:
            self.steps = self.settings.evaluation_steps
        per_step = self.settings.normalization == "per_step"
        self.scaled = []
        if per_step:
            self.scaled = _scaled(self.variables, plain.norms)
            self.state = _stacked_statistics(model, plain.norms)
        self.positions = [
            i
            for i in self.settings.positions(model.learner)
            if i not in self.scaled
        ]

    # -- The whole task

    def run(self):
        """Returns the outer loss and its gradient."""
        theta = [*self.weights, *self.rates, *self.scales]
        start = list(self.weights)
        with tf.GradientTape() as tape:
            tape.watch(theta)
            self.adapt()
            loss = self.outer_loss()
        if not self.training:
            return loss, None
        kind = self.settings.meta_gradient
        if kind == "reptile":
            share = 1.0
            if self.sample_weight is not None:
                share = float(np.mean(self.sample_weight))
            gradients = [tf.zeros_like(w) for w in theta]
            for i in self.positions:
                gradients[i] = (start[i] - self.weights[i]) * share
        elif kind == "implicit":
            gradients = implicit_gradient(self)
        else:
            gradients = tape.gradient(loss, theta)
        gradients = [
            np.zeros(w.shape) if g is None else g.numpy()
            for g, w in zip(map(dense, gradients), theta)
        ]
        for i in self.settings.context(self.plain.model.learner):
            gradients[i] = np.zeros_like(gradients[i])
        return loss, gradients

    def adapt(self):
        """Moves `self.weights` and the head to the end of the inner loop."""
        for i in self.settings.context(self.plain.model.learner):
            self.weights[i] = tf.zeros_like(self.weights[i])
        self.start = [self.weights[i] for i in self.positions]
        if self.settings.head_init:
            self.head = self.prototypes()
        rule = self.settings.rule()
        slots = None
        self.watched = []
        for number in range(self.steps):
            if self.training and self.settings.outer_loss and number:
                self.watched.append(self.query_loss(number)[0])
            moving = [self.weights[i] for i in self.positions] + list(self.head)
            with tf.GradientTape() as tape:
                tape.watch(moving)
                self.put(moving)
                loss, new = self.support_loss(number)
                if self.settings.meta_gradient == "implicit":
                    loss += self.proximal()
            gradients = [
                tf.zeros_like(w) if g is None else dense(g)
                for g, w in zip(tape.gradient(loss, moving), moving)
            ]
            if self.settings.meta_gradient != "second_order":
                gradients = [tf.stop_gradient(g) for g in gradients]
            new_weights, slots = rule(
                gradients, slots, moving, number, self.rates
            )
            self.put(new_weights)
            self.keep(new, number)

    def outer_loss(self):
        loss, new = self.query_loss(self.steps)
        if self.settings.normalization != "support":
            self.keep(new, self.last_row())
        if not (self.training and self.settings.outer_loss and self.steps):
            return loss
        weights = self.settings.outer_weights(
            self.steps, int(self.plain.model.optimizer.iterations)
        )
        return sum(
            weight * each
            for weight, each in zip(weights, [*self.watched, loss])
        )

    # -- Its parts

    def put(self, moving):
        count = len(self.positions)
        for i, weight in zip(self.positions, moving):
            self.weights[i] = weight
        self.head = tuple(moving[count:])

    def last_row(self, steps=None):
        return max((self.steps if steps is None else steps) - 1, 0)

    def values(self, row):
        """The values of all variables at a step."""
        values = dict(zip(map(id, self.variables), self.weights))
        for i, stacked in zip(self.scaled, self.scales):
            values[id(self.variables[i])] = _at(stacked, row)
        per_step = self.settings.normalization == "per_step"
        for key, value in self.state.items():
            values[key] = _at(value, row) if per_step else value
        return values

    def keep(self, new, row):
        """Keeps the statistics that a forward pass has updated."""
        new = {key: tf.stop_gradient(value) for key, value in new.items()}
        if self.settings.normalization != "per_step":
            self.state.update(new)
        elif self.training:
            for key, value in new.items():
                rows = tf.unstack(self.state[key])
                rows[min(row, len(rows) - 1)] = value
                self.state[key] = tf.stack(rows)

    def with_head(self, features):
        if not self.head:
            return features
        kernel, bias = self.head
        return features @ kernel + bias

    def uses_batch(self, is_query):
        if self.settings.normalization == "moving":
            return False
        if self.settings.normalization == "per_step" and is_query:
            return self.training
        return not (is_query and self.settings.normalization == "support")

    def support_loss(self, number, whole=False):
        x, y, weight = (
            self.x[key] if key in self.x else None
            for key in ("support_x", "support_y", "support_weight")
        )
        size = self.settings.inner_batch_size
        count = y.shape[0]
        if size is not None and size < count and not whole:
            rows = [(number * size + i) % count for i in range(size)]
            x, y, weight = tf.nest.map_structure(
                lambda t: None if t is None else tf.gather(t, rows),
                (x, y, weight),
            )
        values = self.values(number)
        outputs, new = self.network.forward(
            values, x, batch_statistics=self.uses_batch(False)
        )
        each = self.settings.inner_losses(y, self.with_head(outputs))
        weight = tf.ones_like(each) if weight is None else weight
        weight = tf.cast(weight, each.dtype)
        loss = tf.reduce_sum(each * weight)
        if not self.settings.inner_sums:
            # An inner batch may have no row that counts.
            loss = tf.math.divide_no_nan(loss, tf.reduce_sum(weight))
        return loss + self.network.regularization(values), new

    def query_loss(self, steps):
        row = self.last_row(steps)
        values = self.values(row)
        if self.settings.normalization == "support":
            values = {**values, **self.support_statistics()}
        outputs, new = self.network.forward(
            values, self.x["query_x"], batch_statistics=self.uses_batch(True)
        )
        self.outputs = self.with_head(outputs)
        each = self.settings.query_losses(self.y, self.outputs)
        if self.sample_weight is not None:
            each *= tf.cast(self.sample_weight, each.dtype)
        loss = (
            tf.reduce_sum(each) if self.settings.sums else tf.reduce_mean(each)
        )
        return loss + self.network.regularization(values), new

    def support_statistics(self):
        return self.network.forward(
            self.values(self.last_row()),
            self.x["support_x"],
            batch_statistics=True,
            momentum=0.0,
        )[1]

    def proximal(self):
        pairs = zip(self.positions, self.start)
        squares = [tf.reduce_sum((self.weights[i] - s) ** 2) for i, s in pairs]
        return 0.5 * self.settings.proximal * tf.add_n(squares)

    def prototypes(self):
        features = self.network.forward(
            self.values(0),
            self.x["support_x"],
            batch_statistics=self.uses_batch(False),
        )[0]
        labels = tf.reshape(self.x["support_y"], [-1]).numpy()
        weight = self.x.get("support_weight", tf.ones([len(labels)]))
        kernel, bias = [], []
        for k in range(self.classes):
            members = tf.cast(weight, features.dtype) * (labels == k)
            total = tf.reduce_sum(members)
            if total > 0:
                mean = tf.linalg.matvec(features, members, transpose_a=True)
                mean /= total
                kernel.append(2 * mean)
                bias.append(-tf.reduce_sum(mean**2))
            else:
                kernel.append(tf.zeros([features.shape[1]], features.dtype))
                bias.append(tf.constant(-1e9, features.dtype))
        return tf.stack(kernel, 1), tf.stack(bias)


def _scaled(variables, norms):
    scales = {id(v) for n in norms if n.scale for v in (n.gamma, n.beta)}
    return [i for i, v in enumerate(variables) if id(v) in scales]


def _stacked_statistics(model, norms):
    keys = {id(v) for n in norms for v in (n.moving_mean, n.moving_variance)}
    variables = model.learner.non_trainable_variables
    return {
        id(variables[i]): tf.convert_to_tensor(stacked)
        for i, stacked in model.meta_state.statistics.items()
        if id(variables[i]) in keys
    }


def _at(stacked, row):
    return stacked[min(row, stacked.shape[0] - 1)]


def _row(x, task):
    return tf.nest.map_structure(lambda t: t[task], x)
