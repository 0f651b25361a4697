"""The steps that `fit`, `evaluate` and `predict` call."""

import functools
import warnings
from typing import Any

import keras
import tensorflow as tf

from keras_maml import devices
from keras_maml import keras_distribution
from keras_maml import keras_internals
from keras_maml import tensorflow_internals
from keras_maml.engine import bad_tasks
from keras_maml.engine import contract
from keras_maml.engine import fit_arguments
from keras_maml.engine import graph_passes
from keras_maml.engine import learner_checks
from keras_maml.engine import learner_state
from keras_maml.engine import meta_step
from keras_maml.engine import replicas
from keras_maml.engine import run_time_checks
from keras_maml.engine import seeds
from keras_maml.engine import step_forms
from keras_maml.engine import targets
from keras_maml.engine import task_forms
from keras_maml.engine import task_map
from keras_maml.engine import weightless
from keras_maml.engine import workers
from keras_maml.engine.around_fit import around_fit
from keras_maml.engine.building import build_outside_trace
from keras_maml.engine.meta_state import MetaState


class MetaTrainer(
    keras_internals.AutoJitCompile,
    keras_distribution.BuiltFromOneReplica,
    keras_distribution.OfSeveralWorkers,
    keras_internals.CheckedData,
    keras_internals.NoDefaultSignature,
):
    """The steps of a `MetaModel`, as `Trainer` has them in Keras."""

    meta_state: MetaState

    # Keras's own methods, with arguments that are checked first.

    @functools.wraps(keras.Model.fit)
    def fit(self, *args, **kwargs):
        bound = fit_arguments.checked(keras.Model.fit, (self, *args), kwargs)
        shuffle = bound.arguments.get("shuffle", True)
        workers.check_data(self, bound.arguments, shuffle)
        with around_fit(self, bound.arguments):
            return super().fit(*bound.args[1:], **bound.kwargs)

    @functools.wraps(keras.Model.evaluate)
    def evaluate(self, *args, **kwargs):
        bound = fit_arguments.checked(
            keras.Model.evaluate, (self, *args), kwargs
        )
        workers.check_data(self, bound.arguments)
        return super().evaluate(*bound.args[1:], **bound.kwargs)

    @functools.wraps(keras.Model.predict)
    def predict(self, *args, **kwargs):
        bound = fit_arguments.checked(
            keras.Model.predict, (self, *args), kwargs
        )
        workers.check_data(self, bound.arguments)
        self.is_predicting = True
        try:
            return super().predict(*bound.args[1:], **bound.kwargs)
        finally:
            self.is_predicting = False

    def distributed_dataset(self, dataset, strategy):
        return workers.distributed_dataset(dataset, strategy)

    def call(
        self,
        inputs: dict[str, Any],
        training: bool = False,
        inner_steps: int | None = None,
    ) -> Any:
        """Adapts to each task's support set and predicts its queries.

        The predictions are differentiable with respect to θ.

        Args:
            inputs: dict of tensors, the `x` of a meta-batch.
            training: bool, the `training` argument of the learner.
            inner_steps: int, the number of gradient steps on each support
                set. Defaults to the model's `inner_steps` if `training`, and
                to its `evaluation_steps` otherwise.

        Returns:
            The learner's outputs, `(T, Q, ...)`. They are NaN for a task whose
            support set or adapted weights are not finite.
        """
        tasks = self._tasks(contract.check_inputs(inputs))
        tasks["x"], _ = targets.checked(self, tasks["x"])
        theta = self.meta_state.theta()
        task_learner = self.meta_state.task_learner(
            training=training,
            steps=inner_steps,
            support_y=tasks["x"]["support_y"],
        )

        def task_outputs(task):
            adapted = task_learner.adapt(theta, task, derive_data=True)
            output = task_learner.predict(adapted, task["x"]["query_x"])
            outputs = bad_tasks.nan_if_bad(task["x"], adapted, output.outputs)
            return outputs, ()

        # An exported model must not depend on the devices here.
        as_one = self.is_predicting and bool(devices.accelerators())
        return self.map_tasks(task_outputs, tasks, as_one=as_one)[0]

    def train_step(self, data):
        result, check, logs = self._step(data, training=True)
        # Nothing changes before it is known that no task is bad.
        if step_forms.steps_can_fail(self):
            with tensorflow_internals.changes_after(check):
                self._update(result.mean)
        else:
            keras_distribution.run_if(check, self._update, result.mean)
        return logs

    def test_step(self, data):
        return self._step(data, training=False)[-1]

    def make_train_function(self, force=False):
        # `fit` calls this first. An interrupted `fit` may have left the
        # gradient of `FirstOrderUntil`.
        if not force and self.meta_state.meta_gradient_for_now is not None:
            self.meta_state.meta_gradient_for_now = None
            force = True
        before = self.train_function
        super().make_train_function(force)
        if self.train_function is not before:
            self.train_function = self._reporting(self.train_function, True)
        return self.train_function

    def make_test_function(self, force=False):
        before = self.test_function
        super().make_test_function(force)
        if self.test_function is not before:
            self.test_function = self._reporting(self.test_function, False)
        return self.test_function

    @property
    def whole_steps_may_compile(self):
        # See the error of `MetaStep.run`.
        return self.bad_tasks != "skip"

    @property
    def metrics(self):
        skipped = self.meta_state.skipped_tasks
        return super().metrics + ([] if skipped is None else [skipped])

    @property
    def losses(self):
        """The learner's regularisers and `add_loss` terms.

        While a task is traced, these are the losses at its adapted weights.
        """
        task_losses = self.meta_state.task_losses
        return super().losses if task_losses is None else task_losses

    def map_tasks(self, fn, tasks, as_one=False, xla_fn=None, **kwargs):
        """Runs `fn` on every task of a meta-batch, see `task_map.map_tasks`.

        Args:
            fn: see `task_map.map_tasks`.
            tasks: see `task_map.map_tasks`.
            as_one: bool. Whether several tasks may run as one program, which
                takes long to compile.
            xla_fn: function that takes the place of `fn` if XLA runs chunks
                of a light learner's tasks.
            **kwargs: see `task_map.map_tasks`.
        """
        jit_compile = task_forms.compiles_chunks(self)
        is_light = task_forms.is_light(self.learner)
        takes_xla_fn = xla_fn is not None and is_light and jit_compile

        def run(form):
            return task_map.map_tasks(
                xla_fn if form != "loop" and takes_xla_fn else fn,
                tasks,
                parallelism=task_forms.parallelism(self)
                if as_one
                else self.task_parallelism,
                form=form,
                jit_compile=jit_compile,
                **kwargs,
            )

        if not as_one:
            return run("loop")
        if self.task_map != "auto":
            return run(self.task_map)
        form = task_forms.chosen(self, tasks["number"].shape[0])
        if form != "loop":
            try:
                return run(form)
            except Exception as error:
                # The user's loss, regulariser or activation may be the reason.
                if devices.accelerators():
                    warnings.warn(
                        'With `task_map="auto"`, a loop of small kernels runs '
                        f"the tasks: {error}",
                        stacklevel=2,
                    )
        return run("loop")

    def checked_data(self, data):
        """Returns `data`, to be read after the checks that XLA would drop."""
        if self.distribute_strategy.num_replicas_in_sync > 1:
            raise ValueError(
                "XLA cannot compile a step of several replicas as a whole. "
                'Compile the model with `jit_compile="auto"`. '
                "Received: jit_compile=True and "
                f"{self.distribute_strategy.num_replicas_in_sync} replicas"
            )
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        x = contract.check_inputs(x)
        if y is not None:
            y, sample_weight = contract.check_targets(x, y, sample_weight)
        self._build_for(x)
        checks = targets.checked(self, x, y, sample_weight)
        return run_time_checks.after(tf.nest.flatten(checks), data)

    def _step(self, data, training):
        """Runs the tasks of a meta-batch.

        Returns:
            A tuple `(result, check, logs)`: a `StepResult`, what one of
            `stop_unless_healthy` and `report_unless` of `MetaStep` returns,
            and the logs. Means and logs are over the tasks of all replicas.
        """
        replicas.check_losses(self)
        x, y, sample_weight = contract.unpack(data)
        tasks = {**self._tasks(x), **contract.episode_numbers(data)}
        tasks["x"], y_checked = targets.checked(
            self, tasks["x"], y, sample_weight
        )
        if training:
            self._prepare_optimizer()
        step = meta_step.MetaStep(
            self, tasks, y_checked, sample_weight, training
        )
        result = step.run()
        metrics = keras_internals.unbuilt_metrics(self)
        if metrics is not None:
            build_outside_trace(metrics, result.y, result.y_pred)
        fails = step_forms.steps_can_fail(self)
        check = step.stop_unless_healthy(result) if fails else None
        with tensorflow_internals.changes_after(check):
            logs = self._update_metrics(result, tasks)
        counts = dict.fromkeys(result.mean, result.count)
        if training:
            counts["state"] = weightless.count(
                result.count, result.sample_weight
            )
        sums = (
            replicas.metric_values(self.metrics),
            tf.cast(~result.healthy, tf.float32),
        )
        mean, counts, (values, bad_replicas) = replicas.mean_over_tasks(
            result.mean, counts, sums
        )
        if training and result.sample_weight is not None:
            mean["state"] = learner_state.kept_unless(
                counts["state"] > 0,
                self.learner,
                mean["state"],
                self.meta_state.statistics,
            )
        if not fails:
            healthy = result.healthy
            if replicas.number_of_replicas() > 1:
                healthy = bad_replicas == 0
            if self.bad_tasks == "skip":
                # Else nothing is left to take the mean of.
                healthy &= counts["loss"] > 0
            check = step.report_unless(healthy, result)
        # A metric of one replica knows nothing of the others.
        logs |= replicas.with_metric_values(
            self.metrics, values, self.get_metrics_result
        )
        return result._replace(mean=mean), check, logs

    def _update_metrics(self, result, tasks):
        """Updates the metrics of this replica, and returns the logs."""
        keras_internals.loss_tracker(self).update_state(
            result.mean["loss"], sample_weight=result.count
        )
        if self.meta_state.skipped_tasks is not None:
            all_tasks = tf.shape(tasks["number"])[0]
            self.meta_state.skipped_tasks.update_state(
                tf.cast(all_tasks, result.count.dtype) - result.count
            )
        return self.compute_metrics(
            result.x,
            result.y,
            result.y_pred,
            sample_weight=result.sample_weight,
        )

    def _update(self, mean):
        """Takes the outer step."""
        optimizer = self.optimizer
        steps_before = None
        if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
            steps_before = tf.identity(optimizer.iterations)
        # Keras builds the optimizer of a loaded model in this order.
        variables = map(id, tf.nest.flatten(self.meta_state.variables()))
        gradients = tf.nest.flatten(mean["gradients"])
        gradients = dict(zip(variables, gradients, strict=True))
        if self.trainable_variables:
            if replicas.number_of_replicas() > 1:
                optimizer = keras_distribution.without_summing(optimizer)
            optimizer.apply_gradients(
                (gradients[id(v)], v) for v in self.trainable_variables
            )
        else:
            # As Keras does.
            warnings.warn(
                "The model does not have any trainable weights.", stacklevel=2
            )
        has_stepped = None
        if steps_before is not None and self.trainable_variables:
            # The optimizer leaves out a step whose scaled gradient overflows.
            has_stepped = self.optimizer.iterations > steps_before
        learner_state.assign_state(
            self.learner,
            mean["state"],
            self.meta_state.statistics,
            has_stepped,
        )

    def _reporting(self, function, training):
        """Returns a traced step that says which task is bad."""
        with self.distribute_strategy.scope():
            self.meta_state.bad_tasks.build_report(
                not step_forms.traced_steps_can_fail(self)
            )

        def find(batch):
            batch = dict(batch)
            y, sample_weight = batch.pop("y"), batch.pop("sample_weight", None)
            return meta_step.MetaStep(
                self, batch, y, sample_weight, training
            ).find_bad()

        return self.meta_state.bad_tasks.reporting(
            graph_passes.for_large_graphs(function, self.learner),
            find,
            self.bad_tasks,
        )

    def _prepare_optimizer(self):
        if learner_checks.is_half(self.learner) and not isinstance(
            self.optimizer, keras.optimizers.LossScaleOptimizer
        ):
            raise ValueError(
                "A learner in `mixed_float16` needs a scaled loss. Compile the "
                "model with `keras.optimizers.LossScaleOptimizer(optimizer)`. "
                f"Received: optimizer={self.optimizer!r}"
            )
        # The optimizer's variables include the scale of the loss.
        if not self.optimizer.built:
            build_outside_trace(self.optimizer, self.trainable_variables)

    def _tasks(self, x):
        """Returns the inputs and the numbers of the tasks."""
        self._build_for(x)
        self.meta_state.input_signature = contract.input_signature(
            x, self.learner
        )
        first_input = tf.nest.flatten(x)[0]
        count = first_input.shape[0] or tf.shape(first_input)[0]
        return {"x": x, "number": seeds.task_numbers(count)}

    def _build_for(self, x):
        if not self.built:
            # `fit` reaches this point without a call of the model.
            self.build(tf.nest.map_structure(lambda t: tuple(t.shape), x))
