"""The learner on one task: adapts to a support set and predicts queries."""

from typing import Any
from typing import NamedTuple

import tensorflow as tf

from keras_maml import adaptation
from keras_maml import functional
from keras_maml import normalization as normalization_lib
from keras_maml.inner_loop import UNROLLED_STEPS
from keras_maml.inner_loop import inner_loop


class AdaptedTask(NamedTuple):
    """The learner after a task's inner loop.

    Attributes:
        weights: list of tensors, one for each of the learner's trainable
            variables, adapted or not.
        state: dict, the learner's state (see `functional.LearnerOutput`).
        support_x: the support inputs.
    """

    weights: list
    state: dict
    support_x: Any


class TaskLearner:
    """Pure functions of θ, for one task at a time.

    Args:
        learner: a built Keras model.
        support_loss: function `(y_true, y_pred, weight)`, see
            `inner_loss.resolve`.
        inner_optimizer: an `InnerOptimizer`.
        steps: int, the gradient steps of the inner loop.
        adapt: the `adapt` argument of `MetaModel`.
        normalization: one of `normalization.MODES`.
        training: bool, what the learner's layers are told.
    """

    def __init__(
        self,
        learner,
        *,
        support_loss,
        inner_optimizer,
        steps,
        adapt,
        normalization,
        training,
    ):
        self.learner = learner
        self.support_loss = support_loss
        self.inner_optimizer = inner_optimizer
        self.steps = steps
        self.positions = adaptation.adapted_positions(learner, adapt)
        self.normalization = normalization
        self.training = training
        self.batch_norms = normalization_lib.batch_normalization_layers(learner)

    def adapt(
        self,
        theta,
        task,
        second_order=True,
        rematerialize=False,
        data_derivatives=False,
    ):
        """Runs the inner loop on the support set of one task.

        Args:
            theta: list of tensors, one for each trainable variable.
            task: dict of `"x"`, the inputs of one task, and optionally
                `"index"`, its number in the meta-batch, from which the task
                gets random seeds of its own.
            second_order: bool, as in `inner_loop`.
            rematerialize: bool. Whether a derivative computes each inner step
                anew.
            data_derivatives: bool. Whether the support data are to be derived
                for, not θ alone.

        Returns:
            An `AdaptedTask`.
        """
        x = task["x"]
        state = {}
        if "index" in task:
            state = functional.task_seeds(self.learner, task["index"])

        data = {key: value for key, value in x.items() if key != "query_x"}
        flat_data = tf.nest.flatten(data)
        derived = [
            i
            for i, tensor in enumerate(flat_data)
            if data_derivatives and tensor.dtype.is_floating
        ]
        frozen = [t for i, t in enumerate(theta) if i not in self.positions]
        width = len(frozen)

        def merge(adapted, frozen):
            adapted, frozen = iter(adapted), iter(frozen)
            return [
                next(adapted if i in self.positions else frozen)
                for i in range(len(theta))
            ]

        def support_loss(adapted, state, frozen):
            flat = list(flat_data)
            for i, tensor in zip(derived, frozen[width:]):
                flat[i] = tensor
            support = tf.nest.pack_sequence_as(data, flat)
            output = self._call(
                merge(adapted, frozen[:width]),
                state,
                support["support_x"],
                self._batch_statistics(),
            )
            loss = self.support_loss(
                support["support_y"],
                output.outputs,
                support.get("support_weight"),
            )
            loss += sum(tf.cast(t, loss.dtype) for t in output.losses)
            return loss, output.state

        adapted = inner_loop(
            support_loss,
            [theta[i] for i in self.positions],
            state,
            frozen + [flat_data[i] for i in derived],
            optimizer=self.inner_optimizer,
            steps=self.steps,
            second_order=second_order,
            unrolled_steps=(
                1
                if rematerialize or self.steps > UNROLLED_STEPS
                else self.steps
            ),
        )
        return AdaptedTask(
            merge(adapted.weights, frozen), adapted.state, x["support_x"]
        )

    def predict(self, adapted, query_x):
        """The adapted learner's `LearnerOutput` on queries."""
        if self.normalization != "support" or not self.batch_norms:
            return self._call(
                adapted.weights,
                adapted.state,
                query_x,
                self._batch_statistics(),
            )
        stored = self.support_statistics(adapted)
        output = self._call(
            adapted.weights, {**adapted.state, **stored}, query_x, False
        )
        # Averages that the inner loop updated are not to be overwritten by the
        # statistics that stood in for them here.
        kept = {i: v for i, v in adapted.state.items() if i in stored}
        other = {i: v for i, v in output.state.items() if i not in stored}
        return output._replace(state={**other, **kept})

    def values(self, adapted):
        """What an ordinary copy of the learner needs to predict as adapted.

        Returns:
            A dict from the `id` of a variable of the learner to its value.
        """
        values = {
            id(variable): value
            for variable, value in zip(
                self.learner.trainable_variables, adapted.weights
            )
        }
        if self.normalization != "moving":
            variables = self.learner.non_trainable_variables
            for i, value in self.support_statistics(adapted).items():
                values[id(variables[i])] = value
        return values

    def support_statistics(self, adapted):
        """Statistics of the support set under the adapted weights.

        Returns:
            A state dict that holds them as the "moving" statistics of every
            batch normalisation layer in use.
        """
        if not self.batch_norms:
            return {}
        with normalization_lib.batch_statistics(self.batch_norms, momentum=0.0):
            state = functional.call_learner(
                self.learner,
                adapted.weights,
                adapted.state,
                adapted.support_x,
                training=self.training,
            ).state
        statistics = {
            id(variable)
            for layer in self.batch_norms
            for variable in (layer.moving_mean, layer.moving_variance)
            if layer.trainable
        }
        return {
            i: state[i]
            for i, variable in enumerate(self.learner.non_trainable_variables)
            # A layer that was not called has none.
            if id(variable) in statistics and i in state
        }

    def _batch_statistics(self):
        """What to force on batch normalisation; `None` leaves it to Keras."""
        return None if self.normalization == "moving" else True

    def _call(self, weights, state, x, use_batch_statistics):
        with normalization_lib.batch_statistics(
            self.batch_norms, use_batch_statistics
        ):
            return functional.call_learner(
                self.learner, weights, state, x, training=self.training
            )
