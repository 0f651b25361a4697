"""How a meta-policy search is trained: what `fit` does."""

from collections.abc import Sequence

import keras
import tensorflow as tf

from keras_maml import keras_internals
from keras_maml.engine.around_fit import around_fit
from keras_maml.rl.environments.environment import TaskSampler
from keras_maml.rl.policy_learner import support_of
from keras_maml.streams import counter
from keras_maml.validation import check_integer

# Tells the random numbers of training from others of the same seed.
_TRAINING = 0


class PolicyTrainer(keras.Model):
    """The training of `MetaPolicySearch`, whose base class this is."""

    def fit(
        self,
        task_sampler: TaskSampler,
        epochs: int = 1,
        steps_per_epoch: int = 1,
        initial_epoch: int = 0,
        callbacks: Sequence[keras.callbacks.Callback] | None = None,
        verbose: str | int = "auto",
    ) -> keras.callbacks.History:
        """Meta-trains. Each step draws tasks, acts in them and moves θ once.

        The logs are means over the steps of an epoch. `return_0`, `return_1`,
        ... are the mean returns, not discounted, after 0, 1, ... inner steps.
        The outer update adds its own logs.

        Seeds and the number of earlier steps determine the tasks and the
        random numbers of a step. So training can be interrupted: with
        `keras_maml.callbacks.Resume`, or with a further `fit` of a saved and
        loaded model, it continues with the same results.

        Args:
            task_sampler: a `TaskSampler`, such as `environment.tasks(20)`.
            epochs: int, the epoch to stop before. Defaults to `1`.
            steps_per_epoch: int, the meta-batches of an epoch. Defaults to
                `1`.
            initial_epoch: int, the epoch to start at. Defaults to `0`.
            callbacks: list of Keras callbacks.
            verbose: as in `keras.Model.fit`. Defaults to `"auto"`.

        Returns:
            Keras's `History`.

        Raises:
            ValueError: if the tasks are of another environment, an argument is
                not of that form or there are several replicas.
        """
        check_integer("epochs", epochs)
        check_integer("steps_per_epoch", steps_per_epoch)
        check_integer("initial_epoch", initial_epoch, minimum=0)
        self._prepare_training(task_sampler)
        arguments = {
            # One element a step; its value means nothing.
            "x": counter(),
            "epochs": epochs,
            "steps_per_epoch": steps_per_epoch,
            "initial_epoch": initial_epoch,
            "callbacks": callbacks,
            "verbose": verbose,
            "shuffle": False,
        }
        with around_fit(self, arguments):
            return super().fit(**arguments)

    def train_step(self, data):
        state = self.search_state
        iteration = self.iteration.value
        history = state.learner.act(
            self.meta_state.theta(),
            state.sampler.sample(iteration),
            self.inner_steps,
            self.episodes,
            tf.random.experimental.stateless_fold_in(
                tf.constant([self.seed, _TRAINING], tf.int64), iteration
            ),
        )
        logs = {
            f"return_{i}": tf.reduce_mean(
                tf.reduce_sum(trajectories.rewards, -1)
            )
            for i, (trajectories, _) in enumerate(history)
        }
        experiences = [experience for _, experience in history]
        logs |= self.outer_update.update(
            state.learner.objective(
                self.meta_state.meta_gradient,
                self.outer_update.ratio_loss,
            ),
            {
                "query": experiences[-1],
                # Without inner steps nobody looks at the support sets.
                "support": support_of(experiences[:-1] or experiences),
            },
            self.meta_state.variables(),
            self.outer_optimizer,
        )
        self.iteration.assign_add(1)
        return self._epoch_means(logs)

    @property
    def metrics(self):
        # Keras logs these at the end of an epoch if their names are the logs'.
        return list(self.search_state.trackers.values())

    def train_on_batch(self, *args, **kwargs):
        """Not available: a step draws its own data."""
        raise NotImplementedError(
            "`MetaPolicySearch` draws its own data. To train, call `fit`."
        )

    def test_on_batch(self, *args, **kwargs):
        """Not available: an evaluation draws its own data."""
        raise NotImplementedError(
            "`MetaPolicySearch` draws its own data. To evaluate, call "
            "`evaluate`."
        )

    def _prepare_training(self, task_sampler):
        """Checks the tasks, and forgets a trace of other settings."""
        self._check_sampler(task_sampler)
        if not self.trainable_variables:
            raise ValueError(
                "`MetaPolicySearch` has nothing to train. "
                f"Received: trainable={self.trainable}"
            )
        replicas = tf.distribute.get_strategy().num_replicas_in_sync
        if replicas > 1:
            raise ValueError(
                "`MetaPolicySearch` trains on one device: every replica would "
                f"act in the same tasks. Received: {replicas} replicas"
            )
        state = self.search_state
        settings = self._settings()
        if (
            state.sampler is not task_sampler
            or state.traced_settings != settings
            or self.meta_state.meta_gradient_for_now is not None
        ):
            state.sampler, state.traced_settings = task_sampler, settings
            self.meta_state.meta_gradient_for_now = None
            names = [f"return_{i}" for i in range(self.inner_steps + 1)]
            names += self.outer_update.log_names
            # Made here: variables that a trace makes cost a second trace.
            state.trackers = {name: keras.metrics.Mean(name) for name in names}
            self.train_function = None
        keras_internals.start_at_first_epoch(self)

    def _check_sampler(self, task_sampler):
        environment = getattr(task_sampler, "environment", None)
        if not isinstance(task_sampler, TaskSampler) or (
            environment is not self.environment
            and (type(environment), environment.get_config())
            != (type(self.environment), self.environment.get_config())
        ):
            raise ValueError(
                "`task_sampler` must be one of this model's environment, "
                f"{self.environment!r}, such as "
                "`meta_policy.environment.tasks(20)`. "
                f"Received: task_sampler={task_sampler!r} of {environment!r}"
            )

    def _settings(self):
        """What a trace depends on."""
        return (
            self.episodes,
            self.surrogate,
            self.discount,
            self.gae_lambda,
            self.inner_steps,
            self.meta_gradient,
            self.outer_update,
            self.meta_model.inner_optimizer,
            *(id(v) for v in self.policy.trainable_variables),
        )

    def _epoch_means(self, logs):
        """The means of logs over the steps of the epoch so far."""
        trackers = self.search_state.trackers
        if set(logs) != set(trackers):
            raise ValueError(
                "`outer_update.log_names` must name what its `update` returns. "
                f"Received: log_names={self.outer_update.log_names} where the "
                f"logs are {list(logs)}"
            )
        for name, value in logs.items():
            trackers[name].update_state(value)
        return {name: tracker.result() for name, tracker in trackers.items()}
