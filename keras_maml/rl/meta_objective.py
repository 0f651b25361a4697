"""The outer loss of a meta-batch of tasks, as a function of θ."""

import tensorflow as tf

from keras_maml import keras_internals
from keras_maml.engine import task_map
from keras_maml.exact.conjugate_gradient import dot
from keras_maml.exact.gradients import dense_gradients


class MetaObjective:
    """The outer loss, its gradient and KL products, for fixed trajectories.

    All are means over tasks. Each call takes the inner steps again, from the
    θ that it gets. Ratios of probabilities correct for the actions, which the
    old adapted policies drew.

    Args:
        task_learner: a `TaskLearner` of the policy.
        actions: the space of actions.
        meta_gradient: a `MetaGradient`.
        ratio_loss: function `(ratio, advantages)` of tensors that returns the
            loss of each step of the last trajectories.
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
        # An update calls each many times. TensorFlow would optimise every
        # inlined call anew.
        self.losses = keras_internals.out_of_line(self._losses)
        self.gradient = keras_internals.out_of_line(self._gradient)
        self.kl_product = keras_internals.out_of_line(self._kl_product)

    def _losses(self, theta, batch):
        """The loss, and the KL divergence from the old adapted policies.

        Args:
            theta: a `Theta` of tensors.
            batch: dict of `"support"` and `"query"`, with tensors whose first
                axis is the task.

        Returns:
            A tuple `(loss, kl)` of scalars. `kl` is the mean of KL(old ‖ new)
            over tasks and steps.
        """

        def fn(task):
            return (), self._task_losses(self._adapt(theta, task), task)

        return self._map(fn, batch)

    def _gradient(self, theta, batch):
        """Returns `(loss, gradients)`: a scalar and a list, as θ is."""

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
        """The Hessian of the KL with respect to θ, times `vector`, a list."""

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
        outputs = cast_outputs(query["log_probs"], output.outputs)
        log_probs = self._actions.log_prob(outputs, query["actions"])
        # Ratios after the end of an episode do not count, but could overflow.
        ratio = tf.exp((log_probs - query["log_probs"]) * valid)
        loss = mean(self._ratio_loss(ratio, query["advantages"]), valid)
        # The policy's regularisers count, as in `MetaModel`.
        loss += sum(tf.cast(t, loss.dtype) for t in output.losses)
        return loss, mean(self._actions.kl(query["outputs"], outputs), valid)

    def _map(self, fn, batch):
        """Returns the means over tasks of what `fn` returns second."""
        _, total = task_map.map_tasks(fn, batch, parallelism=self._parallelism)
        count = tf.shape(tf.nest.flatten(batch)[0])[0]
        return tf.nest.map_structure(
            lambda t: t / tf.cast(count, t.dtype), total
        )


def mean(values, valid):
    """The mean over the steps that were taken, where `valid` is 1."""
    return tf.reduce_sum(tf.where(valid > 0, values, 0)) / tf.reduce_sum(valid)


def cast_outputs(tensor, outputs):
    """Casts a policy's outputs to the dtype of `tensor`."""
    return tf.nest.map_structure(lambda t: tf.cast(t, tensor.dtype), outputs)


def _inputs(task):
    return {"x": task["support"]}
