"""The losses and gradients of the tasks of one meta-batch."""

import keras
import tensorflow as tf

from keras_maml.engine import contract
from keras_maml.engine import functional
from keras_maml.engine import learner_state
from keras_maml.engine.replicas import number_of_replicas


class MetaStep:
    """The computation of `train_step` and `test_step` on one meta-batch.

    Args:
        meta_model: a built `MetaModel`.
        tasks: dict of `"x"`, the inputs of the meta-batch, and `"number"`, the
            numbers of the tasks.
        y: structure of tensors, the query targets.
        sample_weight: the weights of the query targets, or `None`.
        training: bool. Whether to compute gradients.
    """

    def __init__(self, meta_model, tasks, y, sample_weight, training):
        self._model = meta_model
        self._state = meta_model.meta_state
        self._training = training
        self._tasks = {**tasks, "y": y}
        if sample_weight is not None:
            self._tasks["sample_weight"] = sample_weight
        self._theta = self._state.theta()
        self._task_learner = self._state.task_learner(
            training=training, support_y=tasks["x"]["support_y"]
        )
        # The weight of the query loss after each inner step, or `None`.
        self._step_weights = None
        if training and meta_model.inner_steps:
            self._step_weights = meta_model.outer_loss.weights(
                meta_model.inner_steps, meta_model.optimizer.iterations
            )

    def run(self):
        """Runs all tasks.

        The map over tasks also computes the gradient of each task, so that a
        task frees its memory before the next task starts.

        Returns:
            A tuple `(y_pred, mean)`. `y_pred` are the predictions
            `(T, Q, ...)`. `mean` is a dict of means over tasks: `"loss"`, and
            in training `"gradients"` (a `Theta`) and `"state"`. It also holds
            `"count"`, the number of tasks.
        """
        run_task = self._gradient if self._training else self._loss
        (y_pred, masks), mean = self._model.map_tasks(
            run_task, self._tasks, self._training
        )
        functional.set_masks(y_pred, masks)
        mean["count"] = tf.shape(self._tasks["number"])[0]
        if self._training:
            # Context parameters start from 0 in each task.
            weights = mean["gradients"].weights
            for i in self._task_learner.context:
                weights[i] = tf.zeros_like(weights[i])
        return y_pred, mean

    def _loss(self, task):
        """Returns one task's outputs, and its loss."""
        loss, output = self._query_loss(self._adapt(self._theta, task), task)
        return _outputs(output), {"loss": loss}

    def _gradient(self, task):
        """Returns one task's outputs, and its loss, gradients and state."""
        loss, output, gradients = self._state.meta_gradient(
            self._theta,
            lambda theta: self._adapt(theta, task),
            lambda adapted: self._outer_loss(adapted, task),
            self._model.optimizer.scale_loss,
            self._weight(task),
        )
        state = learner_state.averageable_state(
            self._model.learner, output.state
        )
        return _outputs(output), {
            "loss": loss,
            "gradients": gradients,
            "state": state,
        }

    def _adapt(self, theta, task):
        meta_gradient = self._state.meta_gradient
        watch = None
        if self._step_weights is not None:

            def watch(adapted):
                return self._query_loss(adapted, task)[0]

        return self._task_learner.adapt(
            theta,
            task,
            second_order=meta_gradient.second_order,
            rematerialize=meta_gradient.rematerialize,
            watch=watch,
        )

    def _outer_loss(self, adapted, task):
        """Returns the loss that the outer loop minimises, and the output."""
        loss, output = self._query_loss(adapted, task)
        if self._step_weights is not None:
            # The inner loop watches the loss after step i before step i + 1.
            last_loss = [tf.cast(loss, keras.backend.floatx())]
            losses = tf.concat([adapted.watched[1:], last_loss], 0)
            loss = tf.tensordot(self._step_weights, losses, 1)
        return loss, output

    def _query_loss(self, adapted, task):
        """Returns the compiled loss of a task's queries, and the output."""
        output = self._task_learner.predict(adapted, task["x"]["query_x"])
        self._state.task_losses = output.losses
        try:
            loss = self._model.compute_loss(
                x=task["x"],
                y=task["y"],
                y_pred=output.outputs,
                sample_weight=task.get("sample_weight"),
                training=self._training,
            )
        finally:
            self._state.task_losses = None
        # Keras divides it by the number of replicas, to sum over them. Here
        # the mean over the tasks of all replicas follows.
        return loss * number_of_replicas(), output

    def _weight(self, task):
        """Returns the `weight` argument of `MetaGradient`."""
        weights = tf.nest.flatten(task.get("sample_weight"))
        floatx = keras.backend.floatx()
        means = [
            tf.reduce_mean(tf.cast(weight, floatx))
            for weight in weights
            if weight is not None
        ]
        return tf.add_n(means) / len(means) if means else tf.ones([], floatx)


def check_reduction(loss):
    """Raises `ValueError` if replicas would make a loss larger.

    Keras divides the mean of a loss by the number of replicas, and a sum by
    nothing.

    Args:
        loss: what the model was compiled with.
    """
    if number_of_replicas() == 1:
        return
    for one_loss in tf.nest.flatten(loss):
        if getattr(one_loss, "reduction", None) == "sum":
            raise ValueError(
                'A loss with `reduction="sum"` grows with the number of '
                "replicas, and so would each step. Use "
                '"sum_over_batch_size". '
                f"Received: loss={one_loss!r} and {number_of_replicas()} "
                "replicas"
            )


def unpack(data):
    """Checks a meta-batch, and returns `(x, y, sample_weight)`."""
    x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
    x = contract.check_inputs(x)
    y, sample_weight = contract.check_targets(x, y, sample_weight)
    return x, y, sample_weight


def _outputs(output):
    # Masks are attached to tensors, and stacking tasks makes new tensors.
    return output.outputs, functional.masks(output.outputs)
