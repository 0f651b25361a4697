"""MetaPolicySearch: a policy that adapts to a task by its own experience."""

import os
import types
from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from keras_maml import functional
from keras_maml import normalization
from keras_maml import task_map
from keras_maml.meta_model import MetaModel
from keras_maml.rl import advantages as advantages_lib
from keras_maml.rl.baseline import linear_baseline
from keras_maml.rl.environment import Environment
from keras_maml.rl.environment import TaskSampler
from keras_maml.rl.environment import check_environment
from keras_maml.rl.meta_objective import MetaObjective
from keras_maml.rl.outer_updates import TRPO
from keras_maml.rl.outer_updates import OuterUpdate
from keras_maml.rl.roll_out import roll_out
from keras_maml.rl.surrogates import SURROGATES
from keras_maml.rl.trajectories import Trajectories
from keras_maml.rl.trajectories import check_trajectories
from keras_maml.validation import check_integer
from keras_maml.validation import check_number
from keras_maml.validation import check_seed

# Of what the random numbers are that a seed gives.
_TRAINING, _ACTING = 0, 1

# Tasks at a time. One after another, not as one: their many steps are work
# enough for TensorFlow's kernels, which are faster than XLA's.
_PARALLELISM = os.cpu_count() or 1


@keras.saving.register_keras_serializable(package="keras_maml")
class MetaPolicySearch(keras.Model):
    """Searches for a policy from which new tasks are learned in a few steps.

    In each iteration of `fit` the policy acts in every task of a meta-batch,
    takes `inner_steps` policy-gradient steps on what it has seen there, each
    followed by new roll-outs, and the outer update moves θ so that the adapted
    policies would have done better. The inner loop is that of `MetaModel`,
    with all its settings.

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
        adapt: which weights adapt, as in `MetaModel`. Defaults to `"all"`.
        surrogate: the loss that an inner step descends. `"lvc"`,
            low-variance curvature; `"dice"`, whose second derivatives are
            unbiased and vary most; `"score_function"`, that of MAML's code,
            which leaves out how the weights choose the data. The policy
            gradient is the same. Defaults to `"lvc"`.
        outer_update: a `keras_maml.rl.TRPO` or `keras_maml.rl.PPO`. Defaults
            to `TRPO()`.
        episodes: int, those in each task before each inner step, and after
            the last one. Defaults to `20`.
        discount: float above 0 and at most 1, γ. Defaults to `0.99`.
        gae_lambda: float from 0 to 1, λ. Defaults to `1.0`.
        seed: int, of actions and environments: with the seed of the tasks it
            determines a training run. Defaults to `0`.
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
        adapt: Any = "all",
        surrogate: str = "lvc",
        outer_update: OuterUpdate | None = None,
        episodes: int = 20,
        discount: float = 0.99,
        gae_lambda: float = 1.0,
        seed: int = 0,
        name: str | None = None,
        **kwargs: Any,
    ) -> None:
        check_environment(environment)
        _check_policy(policy, environment)
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
        self.discount = check_number("discount", discount, above=0)
        self.gae_lambda = check_number("gae_lambda", gae_lambda, minimum=0)
        for key in ("discount", "gae_lambda"):
            if getattr(self, key) > 1:
                raise ValueError(
                    f"`{key}` must be at most 1. "
                    f"Received: {key}={getattr(self, key)!r}"
                )
        self.seed = check_seed(seed)
        # What is learned, and how the inner loop goes.
        self.meta_model = MetaModel(
            policy,
            inner_optimizer=inner_optimizer,
            inner_steps=inner_steps,
            meta_gradient=meta_gradient,
            adapt=adapt,
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
        self._untracked = types.SimpleNamespace(sampler=None, act={})
        # So that `fit` may be called at once, and keeps the optimizer's state.
        self.compile(optimizer=outer_update.optimizer(), jit_compile=False)
        if self.optimizer is not None:
            self.optimizer.build(self.meta_model._outer_variables())
        self.built = True

    @property
    def policy(self) -> keras.Model:
        """The policy, whose weights are θ."""
        return self.meta_model.learner

    @property
    def inner_steps(self) -> int:
        """The policy-gradient steps in a task."""
        return self.meta_model.inner_steps

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
        if self._untracked.sampler is not task_sampler:
            self._untracked.sampler = task_sampler
            self.train_function = None
        return super().fit(
            # A tick for each; its value means nothing.
            tf.data.Dataset.counter(),
            epochs=iterations,
            steps_per_epoch=1,
            shuffle=False,
            **kwargs,
        )

    def train_step(self, data):
        tasks = self._untracked.sampler.sample(self.iteration.value)
        theta = self.meta_model._theta()
        seed = self._iteration_seed(self.iteration.value)
        experience = self._act(
            theta, tasks, self.inner_steps, self.episodes, seed
        )
        logs = {
            f"return_{i}": tf.reduce_mean(
                tf.reduce_sum(trajectories.rewards, -1)
            )
            for i, (trajectories, _) in enumerate(experience)
        }
        steps = [step for _, step in experience]
        # Without inner steps nobody looks at the support sets.
        batch = {"query": steps[-1], "support": _support(steps[:-1] or steps)}
        objective = MetaObjective(
            self._task_learner(self.inner_steps),
            self.environment.actions,
            self.meta_model.meta_gradient,
            self.outer_update.ratio_loss,
            _PARALLELISM,
        )
        logs |= self.outer_update.update(
            objective, batch, self.meta_model._outer_variables(), self.optimizer
        )
        self.iteration.assign_add(1)
        return logs

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
        if episodes is not None:
            check_integer("episodes", episodes, minimum=2)
        tasks = tf.nest.map_structure(tf.convert_to_tensor, tasks)
        # Traced once: that takes longer than to run it.
        key = (inner_steps, episodes)
        if key not in self._untracked.act:
            self._untracked.act[key] = tf.function(
                lambda tasks, seed: [
                    trajectories
                    for trajectories, _ in self._act(
                        self.meta_model._theta(), tasks, *key, seed
                    )
                ],
                autograph=False,
            )
        seed = tf.constant([seed, _ACTING], tf.int64)
        return [
            Trajectories(*(t.numpy() for t in trajectories))
            for trajectories in self._untracked.act[key](tasks, seed)
        ]

    def _act(self, theta, tasks, inner_steps, episodes, seed):
        """Roll-outs after 0, 1, ... inner steps, each from the ones before.

        Returns:
            A list of tuples `(trajectories, step)`: `step` is a dict of
            tensors `(T, ...)`, what the losses of these roll-outs need.
        """
        width = len(self.policy.trainable_variables)
        episodes = episodes or self.episodes
        experience: list = []
        weights = None
        for number in range(inner_steps + 1):
            if number:
                support = _support([step for _, step in experience])
                weights = self._adapt_all(theta, support, number, episodes)
            act = self._acting(theta[:width], weights)

            trajectories = roll_out(
                self.environment,
                act,
                tasks,
                episodes,
                tf.random.experimental.stateless_fold_in(seed, number),
            )
            finite = tf.debugging.assert_all_finite
            trajectories = trajectories._replace(
                rewards=finite(
                    trajectories.rewards, "The environment's `rewards`"
                ),
                observations=finite(
                    trajectories.observations, "The environment's observations"
                ),
            )
            experience.append((trajectories, self._step(trajectories, act)))
        return experience

    def _acting(self, theta, weights):
        """A function from observations `(T, N, ...)` to outputs.

        Of the policy at θ, or at each task's own `weights`.
        """

        def call(weights, observations):
            return functional.call_learner(
                self.policy, weights, {}, observations, training=False
            ).outputs

        def act_by_theta(observations):
            shape = observations.shape[:2]
            outputs = call(
                theta, tf.reshape(observations, [-1, *observations.shape[2:]])
            )
            return tf.nest.map_structure(
                lambda t: tf.reshape(t, [*shape, *t.shape[1:]]), outputs
            )

        def act_by_weights(observations):
            return tf.vectorized_map(
                lambda task: call(*task), (weights, observations)
            )

        return act_by_theta if weights is None else act_by_weights

    def _step(self, trajectories, act):
        """What losses need to know of trajectories `(T, N, H, ...)`."""
        valid = trajectories.valid
        rewards = trajectories.rewards * valid
        values = linear_baseline(
            trajectories.observations,
            advantages_lib.discounted_sums(rewards, self.discount),
            valid,
        )
        advantages = advantages_lib.standardized(
            advantages_lib.generalized_advantages(
                rewards, values, valid, self.discount, self.gae_lambda
            ),
            valid,
        )
        # The steps of all episodes in a row, for policies that know no other
        # axis than one of examples.
        count = valid.shape[0]
        step = {
            "observations": trajectories.observations,
            "actions": trajectories.actions,
            "advantages": advantages,
            "valid": valid,
        }
        step = {
            key: tf.reshape(value, [count, -1, *value.shape[3:]])
            for key, value in step.items()
        }
        step["outputs"] = act(step["observations"])
        step["log_probs"] = self.environment.actions.log_prob(
            step["outputs"], step["actions"]
        )
        return step

    def _adapt_all(self, theta, support, steps, episodes):
        task_learner = self._task_learner(steps, episodes)

        def fn(task):
            adapted = task_learner.adapt(theta, {"x": task}, False)
            return adapted.weights, ()

        return task_map.map_tasks(fn, support, parallelism=_PARALLELISM)[0]

    def _task_learner(self, steps, episodes=None):
        surrogate = SURROGATES[self.surrogate]
        horizon = self.environment.horizon

        def support_loss(y_true, y_pred, weight):
            log_probs = self.environment.actions.log_prob(
                y_pred, y_true["actions"]
            )
            names = ("log_probs", "advantages", "valid")
            return surrogate(
                *(
                    tf.reshape(t, [-1, horizon])
                    for t in (log_probs, *(y_true[name] for name in names))
                )
            )

        task_learner = self.meta_model._task_learner(
            None, training=False, steps=steps, support_loss=support_loss
        )
        # Step i descends the loss of the episodes before step i.
        task_learner.inner_batch_size = horizon * (episodes or self.episodes)
        return task_learner

    def _iteration_seed(self, iteration):
        return tf.random.experimental.stateless_fold_in(
            tf.constant([self.seed, _TRAINING], tf.int64), iteration
        )

    def _check_sampler(self, task_sampler):
        if (
            not isinstance(task_sampler, TaskSampler)
            or task_sampler.environment is not self.environment
        ):
            raise ValueError(
                "`task_sampler` must be one of this model's environment: "
                "`meta_policy.environment.tasks(20)`. "
                f"Received: task_sampler={task_sampler!r}"
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
        if not arrays or len({a.rewards.shape[0] for a in arrays}) > 1:
            raise ValueError(
                "`trajectories` must hold at least one `Trajectories`, all "
                "with the same number of episodes. Received: "
                f"{[a.rewards.shape[0] for a in arrays]} episodes"
            )
        task_learner, adapted = self._adapt_one(
            [Trajectories(*map(tf.convert_to_tensor, a)) for a in arrays]
        )
        return functional.clone(
            self.policy,
            task_learner.values(adapted),
        )

    def _adapt_one(self, trajectories):
        """The adapted policy of one task, from tensors `(N, H, ...)`."""
        theta = self.meta_model._theta()
        width = len(self.policy.trainable_variables)
        episodes = trajectories[0].rewards.shape[0]
        weights = None
        steps: list = []
        for one in trajectories:
            if steps:
                _, adapted = self._adapted(theta, steps, episodes)
                weights = [w[tf.newaxis] for w in adapted.weights]
            act = self._acting(theta[:width], weights)
            with_task = Trajectories(*(t[tf.newaxis] for t in one))
            steps.append(self._step(with_task, act))
        return self._adapted(theta, steps, episodes)

    def _adapted(self, theta, steps, episodes):
        task_learner = self._task_learner(len(steps), episodes)
        support = tf.nest.map_structure(lambda t: t[0], _support(steps))
        return task_learner, task_learner.adapt(theta, {"x": support}, False)

    def export(
        self,
        filepath,
        format="tf_saved_model",
        verbose=None,
        input_signature=None,
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
            input_signature: not used; shapes are the environment's.

        Raises:
            ValueError: if `format` is another one, or there is an
                `input_signature`.
        """
        if format != "tf_saved_model" or input_signature is not None:
            raise ValueError(
                'Only `format="tf_saved_model"` can hold the inner loop, with '
                "the environment's shapes. Received: "
                f"format={format!r}, input_signature={input_signature!r}"
            )
        environment = self.environment
        steps = (self.episodes, environment.horizon)
        seen = environment.observation_shape
        query = tf.TensorSpec((None, *seen), tf.float32, "query_observations")

        def act(query_observations):
            return self.policy(query_observations)

        def serve(observations, actions, rewards, valid, query_observations):
            task_learner, adapted = self._adapt_one(
                [Trajectories(observations, actions, rewards, valid)]
            )
            return task_learner.predict(adapted, query_observations).outputs

        archive = keras.export.ExportArchive()
        archive.track(self)
        archive.add_endpoint(
            "serve",
            serve,
            input_signature=[
                tf.TensorSpec((*steps, *seen), tf.float32, "observations"),
                tf.TensorSpec(
                    (*steps, *environment.actions.shape),
                    environment.actions.dtype,
                    "actions",
                ),
                tf.TensorSpec(steps, tf.float32, "rewards"),
                tf.TensorSpec(steps, tf.float32, "valid"),
                query,
            ],
        )
        archive.add_endpoint("act", act, input_signature=[query])
        archive.write_out(filepath, verbose=verbose)

    # -- Saving

    def get_config(self):
        serialize = keras.saving.serialize_keras_object
        inner = self.meta_model.get_config()
        return {
            "policy": inner["learner"],
            "environment": serialize(self.environment),
            "inner_optimizer": inner["inner_optimizer"],
            "inner_steps": inner["inner_steps"],
            "meta_gradient": inner["meta_gradient"],
            "adapt": inner["adapt"],
            "surrogate": self.surrogate,
            "outer_update": serialize(self.outer_update),
            "episodes": self.episodes,
            "discount": self.discount,
            "gae_lambda": self.gae_lambda,
            "seed": self.seed,
            "name": self.name,
        }

    @classmethod
    def from_config(cls, config, custom_objects=None):
        return cls(
            **{
                key: keras.saving.deserialize_keras_object(
                    value, custom_objects=custom_objects
                )
                if isinstance(value, dict)
                else value
                for key, value in config.items()
            }
        )

    # It is compiled from the start, with what its settings ask for.

    def get_compile_config(self):
        return None


def _support(steps):
    """The support sets of all steps, behind one another."""

    def join(key):
        return tf.concat([step[key] for step in steps], 1)

    return {
        "support_x": join("observations"),
        "support_y": {
            key: join(key)
            for key in ("actions", "log_probs", "advantages", "valid")
        },
    }


def _check_policy(policy, environment):
    if not isinstance(policy, keras.Model):
        raise ValueError(
            "`policy` must be a Keras model. "
            f"Received: policy={policy!r} (of type {type(policy)})"
        )
    if (
        normalization.batch_normalization_layers(policy)
        or policy.built
        and functional.seed_positions(policy)
    ):
        raise ValueError(
            "`policy` must not have layers with batch normalisation or "
            "dropout: the probabilities of actions would depend on more than "
            f"what is observed. Received: policy={policy!r}"
        )
    shape = tuple(environment.observation_shape)
    try:
        outputs = policy(keras.KerasTensor((None, *shape)))
    except Exception as error:
        raise ValueError(
            "`policy` does not take the environment's observations, of shape "
            f"{shape}. Received: policy={policy!r}, which failed with: {error}"
        ) from error
    environment.actions.check(outputs)
