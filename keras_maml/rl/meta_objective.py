"""The outer loss of a meta-batch of tasks, as a function of θ."""

import functools

import tensorflow as tf

from keras_maml.engine import task_map
from keras_maml.exact.conjugate_gradient import dot
from keras_maml.exact.gradients import dense_gradients


class MetaObjective:
    """Means over tasks of what an outer update needs, with trajectories fixed.

    For weights θ other than those that acted, the inner loop is taken again on
    the same trajectories, and ratios of probabilities make up for actions that
    the old adapted policy has drawn.

    Args:
        task_learner: a `TaskLearner` of the policy.
        actions: the space of actions.
        meta_gradient: a `MetaGradient`.
        ratio_loss: function `(ratio, advantages)` of tensors that returns what
            each step of the last trajectories loses.
        parallelism: int, as in `map_tasks`.
    """

    def __init__(
        self,
        task_learner,
        actions,
        meta_gradient,
        ratio_loss,
        parallelism,
    ):
        self._task_learner = task_learner
        self._actions = actions
        self._meta_gradient = meta_gradient
        self._ratio_loss = ratio_loss
        self._parallelism = parallelism
        # Each is traced once and called many times in an update. Not inlined:
        # TensorFlow would optimise every call anew.
        function = functools.partial(
            tf.function,
            autograph=False,
            experimental_attributes={"_noinline": True},
        )
        self.losses = function(self._losses)
        self.gradient = function(self._gradient)
        self.kl_product = function(self._kl_product)

    def _losses(self, theta, batch):
        """The loss, and how far the adapted policies have gone.

        Args:
            theta: a `Theta` of tensors.
            batch: dict of tensors, whose first axis is the task: `"support"`
                and `"query"`.

        Returns:
            A tuple `(loss, kl)` of scalars; `kl` is the mean over tasks and
            steps of KL(old ‖ new).
        """

        def fn(task):
            return (), self._task_losses(self._adapt(theta, task), task)

        return self._map(fn, batch)

    def _gradient(self, theta, batch):
        """Returns `(loss, gradients)`, a scalar and a `Theta`."""

        def fn(task):
            loss, _, gradients = self._meta_gradient(
                theta,
                lambda theta: self._adapt(theta, task),
                lambda adapted: self._task_losses(adapted, task),
                lambda loss: loss,
            )
            return (), (loss, gradients)

        return self._map(fn, batch)

    def _kl_product(self, theta, vector, batch):
        """The Hessian of the KL with respect to θ, times a `Theta`."""

        def fn(task):
            with tf.GradientTape(watch_accessed_variables=False) as outer:
                outer.watch(theta)
                with tf.GradientTape(watch_accessed_variables=False) as inner:
                    inner.watch(theta)
                    _, kl = self._task_losses(self._adapt(theta, task), task)
                along = dot(dense_gradients(inner, kl, theta), vector)
            return (), dense_gradients(outer, along, theta)

        return self._map(fn, batch)

    def _adapt(self, theta, task):
        return self._task_learner.adapt(
            theta,
            _inputs(task),
            second_order=self._meta_gradient.second_order,
            rematerialize=self._meta_gradient.rematerialize,
        )

    def _task_losses(self, adapted, task):
        query = task["query"]
        valid = query["valid"]
        output = self._task_learner.predict(adapted, query["observations"])
        outputs = like(query["log_probs"], output.outputs)
        log_probs = self._actions.log_prob(outputs, query["actions"])
        # Where no step was taken the ratio is 1, and must not overflow.
        ratio = tf.exp((log_probs - query["log_probs"]) * valid)
        loss = mean(self._ratio_loss(ratio, query["advantages"]), valid)
        # As everywhere, the policy's regularisers count.
        loss += sum(tf.cast(t, loss.dtype) for t in output.losses)
        return loss, mean(self._actions.kl(query["outputs"], outputs), valid)

    def _map(self, fn, batch):
        return task_map.map_tasks(fn, batch, parallelism=self._parallelism)[1]


def mean(values, valid):
    """The mean over the steps that were taken, where `valid` is 1."""
    return tf.reduce_sum(tf.where(valid > 0, values, 0)) / tf.reduce_sum(valid)


def like(tensor, outputs):
    """A policy's outputs in the dtype of `tensor`."""
    return tf.nest.map_structure(lambda t: tf.cast(t, tensor.dtype), outputs)


def _inputs(task):
    return {"x": task["support"]}
