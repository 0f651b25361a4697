"""The learner on one task: adapts to a support set and predicts queries."""

import tensorflow as tf

from keras_maml import adaptation
from keras_maml.engine import functional
from keras_maml.engine import inner_forms
from keras_maml.engine import learner_checks
from keras_maml.engine import normalization as normalization_lib
from keras_maml.engine import prototypes
from keras_maml.engine import seeds
from keras_maml.engine.adaptation_path import adaptation_path
from keras_maml.engine.adapted_task import AdaptedTask
from keras_maml.engine.inner_loop import inner_loop
from keras_maml.engine.support_loss import SupportLoss
from keras_maml.exact import built_in

# The scale of support losses in float16, which rounds numbers below 6e-8 to 0.
_HALF_SCALE = 1024.0


class TaskLearner:
    """Pure functions of θ, for one task at a time.

    Args:
        meta_model: a `MetaModel`, which gives the settings.
        support_loss: function `(y_true, y_pred, weight)`, see
            `inner_loss.resolve`.
        steps: int, the number of gradient steps of the inner loop.
        training: bool, the `training` argument of the learner.
        inner_batch_size: int, the number of support examples of a step, or
            `None` for all.
        n_way: int or tensor, the number of classes of a head that starts from
            prototypes. `None` if the learner includes the head.
        normalization: string, the statistics in the place of the model's
            `normalization`.

    Attributes:
        learner, support_loss, steps: see above.
        positions: list of ints, the trainable variables that adapt.
        context: list of ints, the trainable variables that are context
            parameters.
        support_term: function, see `MetaGradient.support_term`, or `None`.
    """

    def __init__(
        self,
        meta_model,
        *,
        support_loss,
        steps,
        training,
        inner_batch_size=None,
        n_way=None,
        normalization=None,
    ):
        state = meta_model.meta_state
        self.learner = meta_model.learner
        self.support_loss = support_loss
        self.steps = steps
        self.positions = state.positions()
        self.context = adaptation.context_positions(self.learner)
        self.support_term = meta_model.meta_gradient.support_term
        self._inner_optimizer = meta_model.inner_optimizer
        self._normalization = normalization or meta_model.normalization
        self._per_step_norm = state.per_step_norm
        self._statistics = state.statistics_values()
        # Read here, because XLA cannot read variables in a vectorized loop.
        self._fixed = {
            i: tf.convert_to_tensor(variable.value)
            for i, variable in enumerate(self.learner.non_trainable_variables)
        }
        self._inner_batch_size = inner_batch_size
        self._n_way = n_way
        self._training = training
        is_half = learner_checks.is_half(self.learner)
        self._loss_scale = _HALF_SCALE if is_half else 1.0
        self._batch_norms = normalization_lib.batch_normalization_layers(
            self.learner
        )

    @property
    def batch_statistics(self):
        """The argument `use` of `normalization.batch_statistics`."""
        return self._normalization != "moving"

    def adapt(
        self,
        theta,
        task,
        *,
        second_order=True,
        rematerialize=False,
        trace_once=False,
        derive_data=False,
        watch=None,
    ):
        """Runs the inner loop on the support set of one task.

        Args:
            theta: a `Theta` of tensors.
            task: dict of `"x"`, the inputs of one task, and optionally
                `"number"`, the number of the task, which determines its
                random seeds, and `"steps"`, an integer tensor, the number of
                inner steps in the place of `steps`. Then nothing may derive
                the result.
            second_order: bool, as in `inner_loop`.
            rematerialize: bool. Whether the backward pass computes each inner
                step again.
            trace_once: bool. Whether steps may be traced once, if there would
                be many operations. Then a graph of one derivative is fast to
                make, and one of several is not.
            derive_data: bool. Whether the support data need gradients, and
                not only θ.
            watch: optional function `(adapted)` that returns a scalar. It gets
                the `AdaptedTask` before each step but the first.

        Returns:
            An `AdaptedTask`.
        """
        theta, loss, state = self.start(theta, task, derive_data)
        steps = task.get("steps", self.steps)

        def watch_step(number, moving, state, frozen):
            state = seeds.fork(self.learner, state, seeds.QUERY_WHILE_ADAPTING)
            return watch(loss.task_at(number, moving, state, frozen))

        form = inner_forms.inner_form(
            self.learner,
            len(self.positions),
            steps,
            rematerialize,
            trace_once,
        )
        if form != "unrolled":
            state = {**self._fixed, **state}
        adapted = inner_loop(
            loss,
            loss.moving,
            state,
            loss.frozen,
            optimizer=self._inner_optimizer,
            parameters=theta.parameters,
            steps=steps,
            second_order=second_order,
            form=form,
            watch=watch and watch_step,
            loss_scale=self._loss_scale,
        )
        state = {
            i: value
            for i, value in adapted.state.items()
            if value is not self._fixed.get(i)
        }
        task_at_end = loss.task_at(steps, adapted.weights, state, loss.frozen)
        return task_at_end._replace(
            support_loss=lambda weights: loss.on_whole_support_set(
                weights, state
            ),
            losses=adapted.losses,
            watched=adapted.watched,
            loss_scale=self._loss_scale,
        )

    def start(self, theta, task, derive_data=False):
        """Returns what the inner loop of a task starts from.

        Args:
            theta: as in `adapt`.
            task: as in `adapt`.
            derive_data: as in `adapt`.

        Returns:
            A tuple `(theta, loss, state)`: the `Theta` that the task starts
            from, its `SupportLoss`, and the state that differs from the
            learner's.
        """
        theta = self.task_start(theta)
        state = dict(self._statistics)
        if "number" in task:
            state.update(seeds.task_seeds(self.learner, task["number"]))
        support = {k: v for k, v in task["x"].items() if k != "query_x"}
        head = self._first_head(theta, state, support)
        loss = SupportLoss(self, theta, support, head, derive_data)
        return theta, loss, state

    def path(self, theta, task, visit):
        """Takes the steps of the inner loop, and visits the learner in each.

        Nothing of it has a derivative.

        Args:
            theta: as in `adapt`.
            task: as in `adapt`.
            visit: function `(adapted)` that returns a dict of tensors. It gets
                the `AdaptedTask` before the first step, and after each.

        Returns:
            A tuple `(visits, steps, adapted)`: the results of `visit`, stacked
            to `(steps + 1, ...)`, the facts of each step (see
            `adaptation_path`), and the `AdaptedTask` after the last step.
        """
        theta, loss, state = self.start(theta, task)
        visits, steps, (moving, _, state) = adaptation_path(
            loss,
            {**self._fixed, **state},
            optimizer=self._inner_optimizer,
            parameters=theta.parameters,
            steps=self.steps,
            loss_scale=self._loss_scale,
            visit=lambda number, moving, state: visit(
                loss.task_at(number, moving, state, loss.frozen)
            ),
        )
        adapted = loss.task_at(self.steps, moving, state, loss.frozen)
        return visits, steps, adapted

    def predict(self, adapted, query_x):
        """Returns the adapted learner's `LearnerOutput` on queries."""
        with_statistics = self.with_query_statistics(adapted)
        output = self.predict_alone(with_statistics, query_x)
        # To keep the moving averages of the inner loop, not the statistics
        # that replaced them in this call.
        kept = adapted.state
        replaced = {
            i
            for i, value in with_statistics.state.items()
            if value is not kept.get(i)
        }
        averages = {i: v for i, v in kept.items() if i in replaced}
        state = {i: v for i, v in output.state.items() if i not in replaced}
        return output._replace(state={**state, **averages})

    def with_query_statistics(self, adapted):
        """Returns the task with the statistics that its queries use.

        The queries then need nothing of the support set any more.
        """
        if self._normalization != "support":
            return adapted
        statistics = self._support_statistics(adapted)
        return adapted._replace(state={**adapted.state, **statistics})

    def predict_alone(self, adapted, query_x):
        """As `predict`, of a task from `with_query_statistics`."""
        # The query set uses the per-step values of the last inner step.
        step = tf.maximum(adapted.step - 1, 0)
        use = self.batch_statistics
        if self._normalization == "per_step":
            # In training batch statistics, else the statistics of the step.
            use = None
        elif self._normalization == "support":
            use = False
        return self.call(adapted, step, query_x, use)

    def values(self, adapted):
        """Returns the values of the learner's variables in an adapted copy.

        Returns:
            A dict from the `id` of a variable of the learner to its value.
        """
        weights, state = adapted.weights, {}
        if self._per_step_norm is not None:
            step = max(adapted.step - 1, 0)
            weights = self._per_step_norm.weights_at(
                step, weights, adapted.scales
            )
            state = self._per_step_norm.state_at(step, adapted.state)
            state = {i: state[i] for i in self._per_step_norm.statistics}
        elif self._normalization != "moving":
            state = self._support_statistics(adapted)
        values = dict(zip(map(id, self.learner.trainable_variables), weights))
        variables = self.learner.non_trainable_variables
        for i, value in state.items():
            values[id(variables[i])] = value
        return values

    def call(self, task, step, x, use_batch_statistics):
        """Calls the learner with the weights and the state of a task.

        Args:
            task: an `AdaptedTask`.
            step: int or integer tensor, the step whose per-step values the
                learner uses.
            x: the input of the learner.
            use_batch_statistics: bool or `None`, the argument `use` of
                `normalization.batch_statistics`.

        Returns:
            A `LearnerOutput`.
        """
        weights, state = task.weights, task.state
        per_step = self._per_step_norm
        if per_step is not None:
            weights = per_step.weights_at(step, weights, task.scales)
            state = per_step.state_at(step, state)
        with normalization_lib.batch_statistics(
            self._batch_norms, use_batch_statistics
        ):
            output = functional.call_learner(
                self.learner,
                weights,
                state,
                x,
                training=self._training,
                fixed=self._fixed,
            )
        if per_step is not None:
            # As in Keras, only training updates the moving averages.
            step_state = output.state if self._training else {}
            stacked = per_step.put_state(step, step_state, task.state)
            output = output._replace(state={**output.state, **stacked})
        if task.head:
            output = output._replace(
                outputs=prototypes.apply_head(task.head, output.outputs)
            )
        return output

    def inner_batch(self, number, support):
        """Returns the support examples of one inner step, in turn."""
        if self._inner_batch_size is None:
            return support
        first_array = tf.nest.flatten(support)[0]
        count = first_array.shape[0]
        if count is not None and count <= self._inner_batch_size:
            return support
        count = tf.shape(first_array)[0]
        size = tf.minimum(self._inner_batch_size, count)
        rows = (number * size + tf.range(size)) % count
        return tf.nest.map_structure(lambda t: tf.gather(t, rows), support)

    def task_start(self, theta):
        """Returns θ with all context parameters set to 0."""
        weights = list(theta.weights)
        if built_in.is_required() and self.steps:
            # `built_in_ops` tells the weights that move from the others.
            for i in self.positions:
                weights[i] = tf.identity(weights[i])
        for i in self.context:
            weights[i] = tf.zeros_like(weights[i])
        return theta._replace(weights=weights)

    def _first_head(self, theta, state, support):
        """Returns the head made from prototypes, or `()` without prototypes."""
        if self._n_way is None:
            return ()
        task = AdaptedTask(
            theta.weights,
            (),
            theta.scales,
            seeds.fork(self.learner, state, seeds.PROTOTYPES),
            0,
            support["support_x"],
            self.positions,
        )
        features = self.call(
            task, 0, support["support_x"], self.batch_statistics
        ).outputs
        return prototypes.linear_head(
            features,
            support["support_y"],
            support.get("support_weight"),
            self._n_way,
        )

    def _support_statistics(self, adapted):
        """Computes statistics of the support set under the adapted weights.

        Returns:
            A state dict. The statistics replace the moving averages of each
            batch normalisation layer that was called.
        """
        if not self._batch_norms:
            return {}
        with normalization_lib.batch_statistics(
            self._batch_norms, momentum=0.0
        ):
            state = functional.call_learner(
                self.learner,
                adapted.weights,
                seeds.fork(
                    self.learner, adapted.state, seeds.SUPPORT_STATISTICS
                ),
                adapted.support_x,
                training=self._training,
                fixed=self._fixed,
            ).state
        statistics = {
            id(variable)
            for layer in self._batch_norms
            for variable in (layer.moving_mean, layer.moving_variance)
            if layer.trainable
        }
        return {
            i: state[i]
            for i, variable in enumerate(self.learner.non_trainable_variables)
            # A layer that was not called has no statistics.
            if id(variable) in statistics and i in state
        }
