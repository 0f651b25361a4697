"""The loss that the inner loop of one task minimises."""

import tensorflow as tf

from keras_maml.engine import seeds
from keras_maml.engine.adapted_task import AdaptedTask


class SupportLoss:
    """The support loss of one task, in the form that `inner_loop` needs.

    The loss is a function of the number of the step, of `moving`, of the
    learner's state and of `frozen`. `moving` is the list of adapted weights,
    followed by the weights of a head that starts from prototypes.

    Args:
        task_learner: a `TaskLearner`.
        theta: a `Theta` of tensors.
        support: dict, the inputs of one task without `"query_x"`.
        head: tuple of tensors, the first head if it starts from prototypes.
        derive_data: bool. Whether the support data need gradients.

    Attributes:
        moving: list of tensors, the start of the inner loop.
        frozen: dict of tensors that the inner loop does not change, but that
            the support loss depends on and that may need gradients.
    """

    def __init__(self, task_learner, theta, support, head, derive_data):
        self._task_learner = task_learner
        self._support = support
        self._flat_support = tf.nest.flatten(support)
        self._derived_positions = [
            i
            for i, tensor in enumerate(self._flat_support)
            if derive_data and tensor.dtype.is_floating
        ]
        start = [theta.weights[i] for i in task_learner.positions]
        self._adapted_count = len(start)
        self.moving = start + list(head)
        self.frozen = {
            "weights": self._without_adapted(theta.weights),
            "data": [self._flat_support[i] for i in self._derived_positions],
            "scales": theta.scales,
            "start": start if task_learner.support_term else [],
        }

    def __call__(self, number, moving, state, frozen):
        learner = self._task_learner
        support = learner.inner_batch(
            number, self._support_with(frozen["data"])
        )
        loss, state = self._loss(number, moving, state, frozen, support)
        if learner.support_term:
            adapted = moving[: self._adapted_count]
            term = learner.support_term(adapted, frozen["start"])
            loss += tf.cast(term, loss.dtype)
        return loss, state

    def on_whole_support_set(self, weights, state):
        """Returns the loss of all support examples, without `support_term`.

        Args:
            weights: list of tensors, one for each trainable variable.
            state: the learner's state.
        """
        learner = self._task_learner
        moving = [weights[i] for i in learner.positions]
        frozen = {**self.frozen, "weights": self._without_adapted(weights)}
        state = seeds.fork(learner.learner, state, seeds.SUPPORT_AFTER_ADAPTING)
        support = self._support_with(frozen["data"])
        return self._loss(learner.steps, moving, state, frozen, support)[0]

    def task_at(self, number, moving, state, frozen):
        """Returns the `AdaptedTask` before step `number`."""
        positions = self._task_learner.positions
        adapted = iter(moving[: self._adapted_count])
        others = iter(frozen["weights"])
        width = self._adapted_count + len(frozen["weights"])
        return AdaptedTask(
            weights=[
                next(adapted if i in positions else others)
                for i in range(width)
            ],
            head=tuple(moving[self._adapted_count :]),
            scales=frozen["scales"],
            state=state,
            step=number,
            support_x=self._support["support_x"],
            positions=positions,
        )

    def _loss(self, number, moving, state, frozen, support):
        learner = self._task_learner
        output = learner.call(
            self.task_at(number, moving, state, frozen),
            number,
            support["support_x"],
            learner.batch_statistics,
        )
        loss = learner.support_loss(
            support["support_y"],
            output.outputs,
            support.get("support_weight"),
        )
        loss += sum(tf.cast(term, loss.dtype) for term in output.losses)
        return loss, output.state

    def _support_with(self, data):
        """Returns the support set with the tensors of `frozen["data"]`."""
        flat = list(self._flat_support)
        for i, tensor in zip(self._derived_positions, data, strict=True):
            flat[i] = tensor
        return tf.nest.pack_sequence_as(self._support, flat)

    def _without_adapted(self, weights):
        positions = self._task_learner.positions
        return [w for i, w in enumerate(weights) if i not in positions]
