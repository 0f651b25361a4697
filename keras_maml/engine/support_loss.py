"""The loss that the inner loop of one task descends."""

import tensorflow as tf

from keras_maml.engine import seeds
from keras_maml.engine.adapted_task import AdaptedTask


class SupportLoss:
    """The support loss of one task, as `inner_loop` takes it.

    It is a function of the number of the step, of `moving` (the weights that
    adapt, then those of a head from prototypes), of the learner's state and of
    `frozen`.

    Args:
        task_learner: a `TaskLearner`.
        theta: a `Theta` of tensors.
        support: dict, the inputs of one task without `"query_x"`.
        head: tuple of tensors, where a head from prototypes starts.
        derive_data: bool. Whether the support data are to be derived for.

    Attributes:
        moving: list of tensors, what the inner loop starts from.
        frozen: dict of tensors that stay as they are: all else that the
            support loss depends on and that may be derived for.
    """

    def __init__(self, task_learner, theta, support, head, derive_data):
        self._task_learner = task_learner
        self._support = support
        self._flat_support = tf.nest.flatten(support)
        self._derived = [
            i
            for i, tensor in enumerate(self._flat_support)
            if derive_data and tensor.dtype.is_floating
        ]
        start = [theta.weights[i] for i in task_learner.positions]
        self._count = len(start)
        self.moving = start + list(head)
        self.frozen = {
            "weights": self._without_adapted(theta.weights),
            "data": [self._flat_support[i] for i in self._derived],
            "scales": theta.scales,
            "start": start if task_learner.support_term else [],
        }

    def __call__(self, number, moving, state, frozen):
        learner = self._task_learner
        support = learner.inner_batch(number, self._with(frozen["data"]))
        loss, state = self._loss(number, moving, state, frozen, support)
        if learner.support_term:
            adapted = moving[: self._count]
            term = learner.support_term(adapted, frozen["start"])
            loss += tf.cast(term, loss.dtype)
        return loss, state

    def of_the_whole_set(self, weights, state):
        """The loss of all support examples, without the added term.

        Args:
            weights: list like `Theta.weights`.
            state: the learner's state.
        """
        learner = self._task_learner
        moving = [weights[i] for i in learner.positions]
        frozen = {**self.frozen, "weights": self._without_adapted(weights)}
        state = seeds.fork(learner.learner, state, seeds.SUPPORT_AFTER_ADAPTING)
        support = self._with(frozen["data"])
        return self._loss(learner.steps, moving, state, frozen, support)[0]

    def task_at(self, number, moving, state, frozen):
        """The `AdaptedTask` before step `number`."""
        positions = self._task_learner.positions
        adapted = iter(moving[: self._count])
        others = iter(frozen["weights"])
        width = self._count + len(frozen["weights"])
        return AdaptedTask(
            weights=[
                next(adapted if i in positions else others)
                for i in range(width)
            ],
            head=tuple(moving[self._count :]),
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
        loss += sum(tf.cast(t, loss.dtype) for t in output.losses)
        return loss, output.state

    def _with(self, derived):
        """The support set with these tensors in the place of its own."""
        flat = list(self._flat_support)
        for i, tensor in zip(self._derived, derived, strict=True):
            flat[i] = tensor
        return tf.nest.pack_sequence_as(self._support, flat)

    def _without_adapted(self, weights):
        positions = self._task_learner.positions
        return [w for i, w in enumerate(weights) if i not in positions]
