"""The learner on one task: adapts to a support set and predicts queries."""

from collections.abc import Callable
from typing import Any
from typing import NamedTuple

import tensorflow as tf

from keras_maml import adaptation
from keras_maml.engine import functional
from keras_maml.engine import normalization as normalization_lib
from keras_maml.engine import prototypes
from keras_maml.engine.inner_loop import UNROLLED_STEPS
from keras_maml.engine.inner_loop import inner_loop

# float16 ends at 65504 and loses what is below 6e-8. A fixed scale, unlike the
# outer loop's: an overflow here would reach the state that tasks hand on.
_HALF_SCALE = 1024.0


class AdaptedTask(NamedTuple):
    """The learner after a task's inner loop.

    Attributes:
        weights: list of tensors, one for each of the learner's trainable
            variables, adapted or not.
        head: the kernel and bias of a head that started from prototypes, or
            an empty tuple.
        scales: list of tensors, the per-step scales of batch normalisation.
        state: dict, the learner's state (see `functional.LearnerOutput`).
        step: int or integer tensor, the number of inner steps taken.
        support_x: the support inputs.
        positions: list of ints, which of `weights` adapted.
        support_loss: function of a list like `weights`, the loss of the whole
            support set at these weights, without the proximal term.
        watched: as in `inner_loop.Adapted`.
        loss_scale: float, by which a support loss is multiplied before it is
            derived.
    """

    weights: list
    head: tuple
    scales: list
    state: dict
    step: Any
    support_x: Any
    positions: list
    support_loss: Callable | None = None
    watched: Any = None
    loss_scale: float = 1.0


class TaskLearner:
    """Pure functions of θ, for one task at a time.

    θ is a list of tensors: the learner's trainable weights, then what the
    inner optimizer has learned, then the per-step scales, if any.

    Args:
        learner: a built Keras model.
        support_loss: function `(y_true, y_pred, weight)`, see
            `inner_loss.resolve`.
        inner_optimizer: an `InnerOptimizer`.
        parameters: int, how many tensors of θ are the inner optimizer's.
        steps: int, the gradient steps of the inner loop.
        positions: list of ints, which trainable variables adapt.
        normalization: one of `normalization.MODES`.
        per_step_norm: a `PerStepNorm`, or `None`.
        statistics: dict, the per-step statistics by position in the state.
        proximal: float, the strength of the pull towards θ.
        inner_batch_size: int, the support examples of a step, or `None`.
        n_way: int or tensor, the classes of a head that starts from
            prototypes; `None` if the learner has a head of its own.
        training: bool, what the learner's layers are told.
    """

    def __init__(
        self,
        learner,
        *,
        support_loss,
        inner_optimizer,
        parameters,
        steps,
        positions,
        normalization,
        per_step_norm,
        statistics,
        proximal,
        inner_batch_size,
        n_way,
        training,
    ):
        self.learner = learner
        self.support_loss = support_loss
        self.inner_optimizer = inner_optimizer
        self.parameters = parameters
        self.steps = steps
        self.positions = positions
        self.context = adaptation.context_positions(learner)
        self.normalization = normalization
        self.per_step_norm = per_step_norm
        self.statistics = statistics
        self.proximal = proximal
        self.inner_batch_size = inner_batch_size
        self.n_way = n_way
        self.training = training
        self.loss_scale = _HALF_SCALE if functional.is_half(learner) else 1.0
        self.batch_norms = normalization_lib.batch_normalization_layers(learner)

    def adapt(
        self,
        theta,
        task,
        second_order=True,
        rematerialize=False,
        data_derivatives=False,
        watch=None,
    ):
        """Runs the inner loop on the support set of one task.

        Args:
            theta: list of tensors, see above.
            task: dict of `"x"`, the inputs of one task, and optionally
                `"index"`, its number in the meta-batch, from which the task
                gets random seeds of its own.
            second_order: bool, as in `inner_loop`.
            rematerialize: bool. Whether a derivative computes each inner step
                anew.
            data_derivatives: bool. Whether the support data are to be derived
                for, not θ alone.
            watch: optional function of the `AdaptedTask` before each step but
                the first, that returns a scalar.

        Returns:
            An `AdaptedTask`.
        """
        x = task["x"]
        theta = list(theta)
        width = len(self.learner.trainable_variables)
        for i in self.context:
            theta[i] = tf.zeros_like(theta[i])
        weights, rest = theta[:width], theta[width:]
        parameters, scales = rest[: self.parameters], rest[self.parameters :]
        state = dict(self.statistics)
        if "index" in task:
            state.update(functional.task_seeds(self.learner, task["index"]))

        data = {key: value for key, value in x.items() if key != "query_x"}
        flat_data = tf.nest.flatten(data)
        derived = [
            i
            for i, tensor in enumerate(flat_data)
            if data_derivatives and tensor.dtype.is_floating
        ]
        head = self._first_head(weights, scales, state, data)
        start = [weights[i] for i in self.positions]
        # Of what may be derived for, everything that stays as it is.
        frozen = {
            "weights": [
                w for i, w in enumerate(weights) if i not in self.positions
            ],
            "data": [flat_data[i] for i in derived],
            "scales": scales,
            "start": start if self.proximal else [],
        }

        def task_at(number, moving, state, frozen):
            own = iter(moving[: len(start)])
            others = iter(frozen["weights"])
            return AdaptedTask(
                weights=[
                    next(own if i in self.positions else others)
                    for i in range(width)
                ],
                head=tuple(moving[len(start) :]),
                scales=frozen["scales"],
                state=state,
                step=number,
                support_x=x["support_x"],
                positions=self.positions,
            )

        def support_loss(number, moving, state, frozen, bare=False):
            flat = list(flat_data)
            for i, tensor in zip(derived, frozen["data"]):
                flat[i] = tensor
            support = tf.nest.pack_sequence_as(data, flat)
            if not bare:
                support = self._inner_batch(number, support)
            output = self._call(
                task_at(number, moving, state, frozen),
                number,
                support["support_x"],
                self._batch_statistics(),
            )
            loss = self.support_loss(
                support["support_y"],
                output.outputs,
                support.get("support_weight"),
            )
            loss += sum(tf.cast(t, loss.dtype) for t in output.losses)
            for weight, origin in zip(moving, () if bare else frozen["start"]):
                distance = tf.reduce_sum(tf.square(weight - origin))
                loss += 0.5 * self.proximal * tf.cast(distance, loss.dtype)
            return loss, output.state

        adapted = inner_loop(
            support_loss,
            start + list(head),
            state,
            frozen,
            optimizer=self.inner_optimizer,
            parameters=parameters,
            steps=self.steps,
            second_order=second_order,
            unrolled_steps=(
                1
                if rematerialize or self.steps > UNROLLED_STEPS
                else self.steps
            ),
            watch=None if watch is None else lambda *at: watch(task_at(*at)),
            loss_scale=self.loss_scale,
        )
        result = task_at(self.steps, adapted.weights, adapted.state, frozen)

        def support_loss_at(weights):
            return support_loss(
                self.steps,
                [weights[i] for i in self.positions],
                adapted.state,
                {
                    **frozen,
                    "weights": [
                        w
                        for i, w in enumerate(weights)
                        if i not in self.positions
                    ],
                },
                bare=True,
            )[0]

        return result._replace(
            support_loss=support_loss_at,
            watched=adapted.watched,
            loss_scale=self.loss_scale,
        )

    def predict(self, adapted, query_x):
        """The adapted learner's `LearnerOutput` on queries."""
        # The query set belongs to the inner step that was the last.
        step = tf.maximum(adapted.step - 1, 0)
        if self.normalization == "per_step":
            # The batch's while training, those of the step otherwise.
            return self._call(adapted, step, query_x, None)
        if self.normalization != "support" or not self.batch_norms:
            return self._call(adapted, step, query_x, self._batch_statistics())
        stored = self.support_statistics(adapted)
        with_stored = adapted._replace(state={**adapted.state, **stored})
        output = self._call(with_stored, step, query_x, False)
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
        weights, state = adapted.weights, {}
        if self.per_step_norm is not None:
            step = max(adapted.step - 1, 0)
            weights = self.per_step_norm.weights_at(
                step, weights, adapted.scales
            )
            state = self.per_step_norm.state_at(step, adapted.state)
            state = {i: state[i] for i in self.per_step_norm.statistics}
        elif self.normalization != "moving":
            state = self.support_statistics(adapted)
        values = dict(zip(map(id, self.learner.trainable_variables), weights))
        variables = self.learner.non_trainable_variables
        for i, value in state.items():
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

    def _first_head(self, weights, scales, state, data):
        """The head that prototypes of the support set make, if wanted."""
        if self.n_way is None:
            return ()
        task = AdaptedTask(
            weights, (), scales, state, 0, data["support_x"], self.positions
        )
        features = self._call(
            task, 0, data["support_x"], self._batch_statistics()
        ).outputs
        return prototypes.linear_head(
            features,
            data["support_y"],
            data.get("support_weight"),
            self.n_way,
        )

    def _inner_batch(self, number, support):
        """The support examples of one inner step: the next ones, in turn."""
        if self.inner_batch_size is None:
            return support
        first = tf.nest.flatten(support)[0]
        count = first.shape[0]
        if count is not None and count <= self.inner_batch_size:
            return support
        count = tf.shape(first)[0]
        size = tf.minimum(self.inner_batch_size, count)
        rows = (number * size + tf.range(size)) % count
        return tf.nest.map_structure(lambda t: tf.gather(t, rows), support)

    def _batch_statistics(self):
        """What to force on batch normalisation; `None` leaves it to Keras."""
        return None if self.normalization == "moving" else True

    def _call(self, task, step, x, use_batch_statistics):
        weights, state = task.weights, task.state
        per_step = self.per_step_norm
        if per_step is not None:
            weights = per_step.weights_at(step, weights, task.scales)
            state = per_step.state_at(step, state)
        with normalization_lib.batch_statistics(
            self.batch_norms, use_batch_statistics
        ):
            output = functional.call_learner(
                self.learner, weights, state, x, training=self.training
            )
        if per_step is not None:
            # A task that is not trained on leaves the averages alone.
            new = output.state if self.training else {}
            output = output._replace(
                state={
                    **output.state,
                    **per_step.put_state(step, new, task.state),
                }
            )
        if task.head:
            output = output._replace(
                outputs=prototypes.apply_head(task.head, output.outputs)
            )
        return output
