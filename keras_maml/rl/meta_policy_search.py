"""MetaPolicySearch: a policy that adapts to a task by its own experience."""

import types
from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from keras_maml.engine import functional
from keras_maml.meta_model import MetaModel
from keras_maml.rl import policy_serving
from keras_maml.rl.environments.environment import Environment
from keras_maml.rl.environments.environment import TaskSampler
from keras_maml.rl.environments.environment import check_environment
from keras_maml.rl.outer_updates import TRPO
from keras_maml.rl.outer_updates import OuterUpdate
from keras_maml.rl.policy_learner import PolicyLearner
from keras_maml.rl.policy_learner import check_policy
from keras_maml.rl.policy_learner import check_tasks
from keras_maml.rl.policy_learner import support_of
from keras_maml.rl.surrogates import SURROGATES
from keras_maml.rl.trajectories import Trajectories
from keras_maml.rl.trajectories import check_trajectories
from keras_maml.settings import deserialized
from keras_maml.validation import check_integer
from keras_maml.validation import check_number
from keras_maml.validation import check_seed

# Of what the random numbers of a seed are; others are in environment.py.
_TRAINING, _ACTING = 0, 1


@keras.saving.register_keras_serializable(package="keras_maml")
class MetaPolicySearch(keras.Model):
    """Searches for a policy from which new tasks are learned in a few steps.

    In each iteration of `fit` the policy acts in every task of a meta-batch,
    takes `inner_steps` policy-gradient steps on what it has seen there, each
    followed by new roll-outs, and the outer update moves θ so that the adapted
    policies would have done better. The inner loop is that of `MetaModel`:
    its `inner_optimizer`, `inner_steps`, `meta_gradient` and
    `adapted_weights` are settings here as well, and
    `callbacks.FirstOrderUntil` works.

    An episode's actions are judged by their advantages: generalised advantage
    estimation over a linear baseline that is fitted to each task's episodes,
    with mean 0 and standard deviation 1 in each task.

    Args:
        policy: any Keras model from observations `(batch,
            *observation_shape)` to the outputs that `environment.actions` asks
            for, such as that of `keras_maml.rl.mlp_policy`.
        environment: a `keras_maml.rl.Environment`.
        inner_optimizer: as in `MetaModel`. Defaults to `0.1`.
        inner_steps: int, the policy-gradient steps in a task. With 0 the
            policy is trained on all tasks at once, without adaptation.
            Defaults to `1`.
        meta_gradient: `"second_order"`, `"first_order"` or an object of
            `keras_maml.meta_gradients` of these two kinds. Defaults to
            `"second_order"`.
        adapted_weights: which weights adapt, as in `MetaModel`. Defaults to
            `"all"`.
        surrogate: the loss that an inner step descends. `"lvc"`,
            low-variance curvature; `"dice"`, whose second derivatives are
            unbiased for given advantages, and vary most; `"score_function"`,
            that of MAML's code, which leaves out how the weights choose the
            data. The policy gradient is the same. Defaults to `"lvc"`.
        outer_update: a `keras_maml.rl.TRPO` or `keras_maml.rl.PPO`. Defaults
            to `TRPO()`.
        episodes: int, those in each task before each inner step, and after
            the last one. Defaults to `20`.
        discount: float above 0 and at most 1, γ. Defaults to `0.99`.
        gae_lambda: float from 0 to 1, λ. Defaults to `1.0`.
        seed: int, of actions and environments: with the seed of the tasks it
            determines a training run. Defaults to `0`.
        task_parallelism: int, as in `MetaModel`. Defaults to the number of CPU
            cores.
        name: string.
        **kwargs: of `keras.Model`.

    Raises:
        ValueError: if an argument is not of that form, or the policy's inputs
            or outputs do not fit the environment.

    Example:

    ```python
    environment = keras_maml.rl.PointNavigation(horizon=10)
    meta_policy = keras_maml.rl.MetaPolicySearch(
        keras_maml.rl.mlp_policy(environment, hidden_units=(16,)),
        environment,
        episodes=5,
    )
    meta_policy.fit(environment.tasks(4, seed=0), iterations=2, verbose=0)

    goal = environment.sample_tasks(1, seed=(1, 2))
    trajectories = meta_policy.collect(goal, inner_steps=0)[0]
    policy = meta_policy.adapt(
        keras_maml.rl.Trajectories(*(t[0] for t in trajectories))
    )
    ```

    Reference:
        Finn et al., 2017, Algorithm 3 and section 5.3. Deviation: the default
        surrogate, of Rothfuss et al., 2019; `"score_function"` is the
        paper's.
    """

    def __init__(
        self,
        policy: keras.Model,
        environment: Environment,
        *,
        inner_optimizer: Any = 0.1,
        inner_steps: int = 1,
        meta_gradient: Any = "second_order",
        adapted_weights: Any = "all",
        surrogate: str = "lvc",
        outer_update: OuterUpdate | None = None,
        episodes: int = 20,
        discount: float = 0.99,
        gae_lambda: float = 1.0,
        seed: int = 0,
        task_parallelism: int | None = None,
        name: str | None = None,
        **kwargs: Any,
    ) -> None:
        check_environment(environment)
        check_policy(policy, environment)
        if surrogate not in SURROGATES:
            raise ValueError(
                f"`surrogate` must be one of {sorted(SURROGATES)}. "
                f"Received: surrogate={surrogate!r}"
            )
        outer_update = TRPO() if outer_update is None else outer_update
        if not isinstance(outer_update, OuterUpdate):
            raise ValueError(
                "`outer_update` must be a `keras_maml.rl.TRPO` or a "
                f"`keras_maml.rl.PPO`. Received: outer_update={outer_update!r}"
            )
        super().__init__(name=name, **kwargs)
        self.environment = environment
        self.surrogate = surrogate
        self.outer_update = outer_update
        self.episodes = check_integer("episodes", episodes, minimum=2)
        self.discount = check_number("discount", discount, above=0, maximum=1)
        self.gae_lambda = check_number(
            "gae_lambda", gae_lambda, minimum=0, maximum=1
        )
        self.seed = check_seed(seed)
        # What is learned, and how the inner loop goes.
        self.meta_model = MetaModel(
            policy,
            inner_optimizer=inner_optimizer,
            inner_steps=inner_steps,
            meta_gradient=meta_gradient,
            adapted_weights=adapted_weights,
            task_parallelism=task_parallelism,
        )
        if not self.meta_model.meta_gradient.through_inner_loop:
            raise ValueError(
                '`meta_gradient` must be "second_order", "first_order" or an '
                "object of these kinds: the others do not derive what adapted "
                f"policies do. Received: meta_gradient={meta_gradient!r}"
            )
        self.iteration = self.add_weight(
            shape=(), dtype="int64", trainable=False, name="iteration"
        )
        # Out of sight of Keras, which would track what is an attribute.
        self._untracked = types.SimpleNamespace(
            sampler=None,
            settings=None,
            act={},
            learner=PolicyLearner(self),
            # For a time in the place of the setting, see `FirstOrderUntil`.
            meta_gradient=None,
        )
        self.outer_optimizer = outer_update.optimizer()
        if self.outer_optimizer is not None:
            self.outer_optimizer.build(self.meta_model._outer_variables())
        # So that `fit` may be called at once; the outer update is no loss.
        self.supports_jit = False
        self.compile(optimizer=None, jit_compile=False)
        self.built = True

    @property
    def policy(self) -> keras.Model:
        """The policy, whose weights are θ."""
        return self.meta_model.learner

    @property
    def inner_steps(self) -> int:
        """The policy-gradient steps in a task."""
        return self.meta_model.inner_steps

    @property
    def meta_gradient(self) -> Any:
        """How the outer loss is derived."""
        return self.meta_model.meta_gradient

    def call(self, inputs, training=False):
        """What the policy gives before it adapts to anything."""
        return self.policy(inputs, training=training)

    # -- Training

    def fit(
        self, task_sampler: TaskSampler, iterations: int = 1, **kwargs: Any
    ) -> Any:
        """Meta-trains, with an epoch of Keras's `fit` for each iteration.

        The logs of an iteration are `return_0`, `return_1`, ...: the mean
        return, not discounted, after so many inner steps; and what the outer
        update reports. The tasks and random numbers of an iteration depend on
        seeds and on how many there have been, so training that was interrupted
        goes on as if it had not been: with
        `keras.callbacks.BackupAndRestore`, or by a further `fit` of a saved
        and loaded model.

        Args:
            task_sampler: where the tasks come from: `environment.tasks(20)`.
            iterations: int, how many to do. Defaults to `1`.
            **kwargs: of `keras.Model.fit`: `callbacks`, `verbose`.

        Returns:
            Keras's `History`.

        Raises:
            ValueError: if the tasks are of another environment, or
                `iterations` is not a positive integer.
        """
        self._check_sampler(task_sampler)
        check_integer("iterations", iterations)
        replicas = tf.distribute.get_strategy().num_replicas_in_sync
        if replicas > 1:
            raise ValueError(
                "`MetaPolicySearch` trains on one device: every replica would "
                f"act in the same tasks. Received: {replicas} replicas"
            )
        own = self._untracked
        settings = self._settings()
        if (
            own.sampler is not task_sampler
            or own.settings != settings
            or own.meta_gradient is not None
        ):
            own.sampler, own.settings = task_sampler, settings
            own.meta_gradient = None
            self.train_function = None
        # `BackupAndRestore` leaves behind where it has gone on.
        self._initial_epoch = None
        return super().fit(
            # A tick for each; its value means nothing.
            tf.data.Dataset.counter(),
            epochs=iterations,
            steps_per_epoch=1,
            shuffle=False,
            **kwargs,
        )

    def train_step(self, data):
        own = self._untracked
        iteration = self.iteration.value
        history = own.learner.act(
            self.meta_model._theta(),
            own.sampler.sample(iteration),
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
            own.learner.objective(
                own.meta_gradient or self.meta_gradient,
                self.outer_update.ratio_loss,
            ),
            {
                "query": experiences[-1],
                # Without inner steps nobody looks at the support sets.
                "support": support_of(experiences[:-1] or experiences),
            },
            self.meta_model._outer_variables(),
            self.outer_optimizer,
        )
        self.iteration.assign_add(1)
        return logs

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

    # -- Acting

    def collect(
        self,
        tasks: Any,
        inner_steps: int | None = None,
        episodes: int | None = None,
        seed: int = 0,
    ) -> list[Trajectories]:
        """Acts in tasks, before adaptation and after each inner step.

        Args:
            tasks: structure of arrays `(T, ...)`, as `sample_tasks` gives.
            inner_steps: int. Defaults to the model's.
            episodes: int, those in each task that are looked at at a time.
                Inner steps use as many. Defaults to the model's.
            seed: int. Defaults to `0`.

        Returns:
            A list of `Trajectories` of arrays `(T, N, H, ...)`: after 0, 1,
            ... `inner_steps` steps.

        Raises:
            ValueError: if an argument is not of that form.
        """
        if inner_steps is None:
            inner_steps = self.inner_steps
        check_integer("inner_steps", inner_steps, minimum=0)
        check_seed(seed)
        if episodes is None:
            episodes = self.episodes
        check_integer("episodes", episodes, minimum=2)
        tasks = check_tasks(self.environment, tasks)
        own = self._untracked
        # Traced once: that takes longer than to run it.
        key = (inner_steps, episodes, self._settings())
        if key not in own.act:
            own.act[key] = tf.function(
                lambda tasks, seed: [
                    trajectories
                    for trajectories, _ in own.learner.act(
                        self.meta_model._theta(),
                        tasks,
                        inner_steps,
                        episodes,
                        seed,
                    )
                ],
                autograph=False,
            )
        seed = tf.constant([seed, _ACTING], tf.int64)
        return [
            Trajectories(*(t.numpy() for t in trajectories))
            for trajectories in own.act[key](tasks, seed)
        ]

    def _check_sampler(self, task_sampler):
        given = getattr(task_sampler, "environment", None)
        if not isinstance(task_sampler, TaskSampler) or (
            given is not self.environment
            and (type(given), given.get_config())
            != (type(self.environment), self.environment.get_config())
        ):
            raise ValueError(
                "`task_sampler` must be one of this model's environment, "
                f"{self.environment!r}, such as "
                "`meta_policy.environment.tasks(20)`. "
                f"Received: task_sampler={task_sampler!r} of {given!r}"
            )

    # -- One task

    def adapt(
        self, trajectories: Trajectories | Sequence[Trajectories]
    ) -> keras.Model:
        """Learns one task from episodes in it.

        Args:
            trajectories: the `Trajectories` of one task that the policy drew;
                or a list of them, for an inner step each: of the policy, of
                what `adapt` made of the first ones, and so on. All with the
                same number of episodes.

        Returns:
            A Keras model of its own, a policy with the adapted weights; θ is
            untouched.

        Raises:
            ValueError: if the trajectories are empty, not finite, or do not
                fit the environment.
        """
        if isinstance(trajectories, Trajectories):
            trajectories = [trajectories]
        arrays = [check_trajectories(t, self.environment) for t in trajectories]
        if len({a.rewards.shape[0] for a in arrays}) != 1:
            raise ValueError(
                "`trajectories` must hold at least one `Trajectories`, all "
                "with the same number of episodes. Received: "
                f"{[a.rewards.shape[0] for a in arrays]} episodes"
            )
        task_learner, adapted = self._untracked.learner.adapt(
            [Trajectories(*map(tf.convert_to_tensor, a)) for a in arrays]
        )
        return functional.clone(self.policy, task_learner.values(adapted))

    def export(
        self,
        filepath,
        format="tf_saved_model",
        verbose=None,
        input_signature=None,
        **kwargs,
    ):
        """Writes a SavedModel that adapts and acts without this library.

        Its `serve` endpoint, and `serving_default` signature, take one task's
        `observations` `(episodes, H, *observation_shape)`, `actions`,
        `rewards` and `valid`, as in `Trajectories` and drawn by the policy at
        θ, with the model's number of `episodes`, H the horizon, and
        `query_observations` `(Q, *observation_shape)`. They give what the
        policy outputs there after one inner step. The `act` endpoint takes
        `query_observations` alone and gives what it outputs before.

        Args:
            filepath: path of the SavedModel.
            format: `"tf_saved_model"`.
            verbose: bool. Whether to print a message.
            input_signature: `None`. The environment gives the shapes.
            **kwargs: none. Keras's are for other formats.

        Raises:
            ValueError: if an argument cannot be honoured.
        """
        received = {
            "format": format,
            "input_signature": input_signature,
            **kwargs,
        }
        if received != {"format": "tf_saved_model", "input_signature": None}:
            raise ValueError(
                'Only `format="tf_saved_model"` can hold the inner loop, and '
                "the environment gives the shapes. Received: "
                + ", ".join(
                    f"{key}={value!r}" for key, value in received.items()
                )
            )
        policy_serving.export(self, filepath, verbose)

    # -- Saving

    def get_config(self):
        serialize = keras.saving.serialize_keras_object
        inner = self.meta_model.get_config()
        return {
            # Keras's own: name, dtype and trainable.
            **super().get_config(),
            "policy": inner["learner"],
            "environment": serialize(self.environment),
            "inner_optimizer": inner["inner_optimizer"],
            "inner_steps": inner["inner_steps"],
            "meta_gradient": inner["meta_gradient"],
            "adapted_weights": inner["adapted_weights"],
            "surrogate": self.surrogate,
            "outer_update": serialize(self.outer_update),
            "episodes": self.episodes,
            "discount": self.discount,
            "gae_lambda": self.gae_lambda,
            "seed": self.seed,
            "task_parallelism": inner["task_parallelism"],
        }

    @classmethod
    def from_config(cls, config, custom_objects=None):
        config = deserialized(config, custom_objects)
        if "adapt" in config:  # Saved by 0.1.
            config["adapted_weights"] = config.pop("adapt")
        return cls(**config)

    # It is compiled from the start, with what its settings ask for.

    def get_compile_config(self):
        return None
