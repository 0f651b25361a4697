"""One meta-batch: each task's loss and gradient, and their means."""

import keras
import tensorflow as tf

from keras_maml.engine import contract
from keras_maml.engine import functional
from keras_maml.engine import learner_state


class MetaStep:
    """What `train_step` and `test_step` compute of one meta-batch.

    Args:
        meta_model: a built `MetaModel`.
        tasks: dict of `"x"` and `"number"`, see `MetaTrainer`.
        y: the query targets.
        sample_weight: their weights, or `None`.
        training: bool.
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

        Each task's gradient is taken inside the map over tasks, so that its
        graph is gone before the next one needs memory.

        Returns:
            A tuple `(y_pred, mean)`: predictions `(T, Q, ...)`, and a dict of
            means over tasks: `"loss"`, and in training `"gradients"` (a
            `Theta`) and `"state"`; and `"count"`, the number of tasks.
        """
        run_task = self._gradient if self._training else self._loss
        (y_pred, masks), mean = self._model.map_tasks(
            run_task, self._tasks, self._training
        )
        functional.set_masks(y_pred, masks)
        mean["count"] = tf.shape(self._tasks["number"])[0]
        if self._training:
            # The outer loop never moves what each task starts from 0.
            weights = mean["gradients"].weights
            for i in self._task_learner.context:
                weights[i] = tf.zeros_like(weights[i])
        return y_pred, mean

    def _loss(self, task):
        """One task's outputs, and its loss."""
        loss, output = self._query_loss(self._adapt(self._theta, task), task)
        return _outputs(output), {"loss": loss}

    def _gradient(self, task):
        """One task's outputs; its loss, gradients and new state."""
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
        """The loss that the outer loop descends, and the learner's output."""
        loss, output = self._query_loss(adapted, task)
        if self._step_weights is not None:
            # The loss after step i was watched before step i + 1.
            last = [tf.cast(loss, keras.backend.floatx())]
            losses = tf.concat([adapted.watched[1:], last], 0)
            loss = tf.tensordot(self._step_weights, losses, 1)
        return loss, output

    def _query_loss(self, adapted, task):
        """The compiled loss of a task's queries, and the learner's output.

        The learner's own losses are those of the adapted weights. Keras has
        divided its compiled losses by the number of replicas.
        """
        output = self._task_learner.predict(adapted, task["x"]["query_x"])
        self._state.task_losses = [
            loss / number_of_replicas() for loss in output.losses
        ]
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
        return loss, output

    def _weight(self, task):
        """How much a task counts where its loss is not what is derived."""
        weights = tf.nest.flatten(task.get("sample_weight"))
        floatx = keras.backend.floatx()
        means = [
            tf.reduce_mean(tf.cast(weight, floatx))
            for weight in weights
            if weight is not None
        ]
        mean = tf.add_n(means) / len(means) if means else tf.ones([], floatx)
        return mean / number_of_replicas()


def number_of_replicas():
    """The replicas that train in step."""
    return tf.distribute.get_strategy().num_replicas_in_sync


def unpack(data):
    """A meta-batch `(x, y, sample_weight)` in the contract's form."""
    x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
    x = contract.check_inputs(x)
    y, sample_weight = contract.check_targets(x, y, sample_weight)
    return x, y, sample_weight


def _outputs(output):
    # Where tasks are stacked, their masks would be lost.
    return output.outputs, functional.masks(output.outputs)
