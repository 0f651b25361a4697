"""PolicyLearner: a policy acts in tasks, adapts to them, and acts again."""

import keras
import numpy as np
import tensorflow as tf

from keras_maml.engine import functional
from keras_maml.engine import learner_checks
from keras_maml.engine import normalization
from keras_maml.engine import seeds
from keras_maml.engine import task_map
from keras_maml.engine.processors import available_processors
from keras_maml.rl import advantages as advantages_lib
from keras_maml.rl.baseline import linear_baseline
from keras_maml.rl.meta_objective import MetaObjective
from keras_maml.rl.meta_objective import cast_outputs
from keras_maml.rl.roll_out import roll_out
from keras_maml.rl.surrogates import SURROGATES
from keras_maml.rl.trajectories import Trajectories


class PolicyLearner:
    """Acting and adapting, as functions of θ.

    It has no weights. It reads the settings of the search in each call.

    An experience holds what losses need of the roll-outs in T tasks: a dict of
    tensors `(T, N · H, ...)`. The steps of all N episodes share one axis, since
    policies have one axis of examples.

    Args:
        search: a `MetaPolicySearch`.
    """

    def __init__(self, search):
        self._search = search

    def act(self, theta, tasks, inner_steps, episodes, seed):
        """Acts in tasks after 0, 1, ... inner steps.

        Each inner step adapts to the roll-outs after the steps before.

        Args:
            theta: a `Theta` of tensors.
            tasks: structure of tensors `(T, ...)`.
            inner_steps: int.
            episodes: int, N, the episodes in each task and roll-out.
            seed: a `StatelessSeed`.

        Returns:
            A list of tuples `(trajectories, experience)`.
        """
        environment = self._search.environment
        history: list = []
        weights = None
        for number in range(inner_steps + 1):
            if number:
                support = support_of([e for _, e in history])
                weights = self._adapt_all(theta, support, number, episodes)
            policies = self._policies(theta, weights)
            trajectories = roll_out(
                environment,
                policies,
                tasks,
                episodes,
                tf.random.experimental.stateless_fold_in(seed, number),
            )
            trajectories = trajectories._replace(
                rewards=tf.debugging.assert_all_finite(
                    trajectories.rewards, "The environment's `rewards`"
                ),
                observations=tf.debugging.assert_all_finite(
                    trajectories.observations, "The environment's observations"
                ),
            )
            history.append(
                (trajectories, self._experience(trajectories, policies))
            )
        return history

    def adapt(self, trajectories):
        """Takes one inner step for each of several roll-outs in one task.

        Args:
            trajectories: list of `Trajectories` of tensors `(N, H, ...)`. The
                policy that is adapted to the first i ones drew the next one.

        Returns:
            A tuple of a `TaskLearner` and the `AdaptedTask`.
        """
        theta = self._search.meta_model.meta_state.theta()
        episodes = trajectories[0].rewards.shape[0]
        experiences: list = []
        weights = None
        for roll_out_of_task in trajectories:
            if experiences:
                _, adapted = self._adapt_one(theta, experiences, episodes)
                weights = [w[tf.newaxis] for w in adapted.weights]
            experiences.append(
                self._experience(
                    Trajectories(*(t[tf.newaxis] for t in roll_out_of_task)),
                    self._policies(theta, weights),
                )
            )
        return self._adapt_one(theta, experiences, episodes)

    def objective(self, meta_gradient, ratio_loss):
        """The `MetaObjective` for the search's number of inner steps."""
        search = self._search
        return MetaObjective(
            self.task_learner(search.inner_steps, search.episodes),
            search.environment.actions,
            meta_gradient,
            ratio_loss,
            self._parallelism(),
        )

    def task_learner(self, steps, episodes):
        """A `TaskLearner` whose step i descends the surrogate of roll-out i."""
        search = self._search
        horizon = search.environment.horizon
        surrogate = SURROGATES[search.surrogate]

        def support_loss(y_true, y_pred, weight):
            log_probs = search.environment.actions.log_prob(
                cast_outputs(y_true["log_probs"], y_pred), y_true["actions"]
            )
            names = ("log_probs", "advantages", "valid")
            by_episode = (
                tf.reshape(t, [-1, horizon])
                for t in (log_probs, *(y_true[name] for name in names))
            )
            return surrogate(*by_episode)

        return search.meta_model.meta_state.task_learner(
            training=False,
            steps=steps,
            support_loss=support_loss,
            inner_batch_size=horizon * episodes,
        )

    def _parallelism(self):
        # A loop over tasks, not one vectorized program: a task's many steps
        # keep TensorFlow's kernels busy, which are faster than XLA's.
        parallelism = self._search.meta_model.task_parallelism
        return parallelism or available_processors()

    def _policies(self, theta, weights):
        """A function from observations `(T, M, ...)` to outputs.

        Args:
            theta: a `Theta` of tensors.
            weights: list of tensors `(T, ...)`, the adapted weights of each
                task, or `None` for the policy at θ.
        """
        policy = self._search.policy

        def call(weights, observations):
            outputs = functional.call_learner(
                policy, weights, {}, observations, training=False
            ).outputs
            return tf.nest.map_structure(
                lambda t: tf.cast(t, tf.float32), outputs
            )

        def at_theta(observations):
            shape = observations.shape[:2]
            outputs = call(
                theta.weights,
                tf.reshape(observations, [-1, *observations.shape[2:]]),
            )
            return tf.nest.map_structure(
                lambda t: tf.reshape(t, [*shape, *t.shape[1:]]), outputs
            )

        def at_weights(observations):
            return tf.vectorized_map(
                lambda task: call(*task), (weights, observations)
            )

        return at_theta if weights is None else at_weights

    def _experience(self, trajectories, policies):
        search = self._search
        valid = trajectories.valid
        rewards = trajectories.rewards * valid
        values = linear_baseline(
            trajectories.observations,
            advantages_lib.discounted_sums(rewards, search.discount),
            valid,
        )
        advantages = advantages_lib.generalized_advantages(
            rewards, values, valid, search.discount, search.gae_lambda
        )
        experience = {
            "observations": trajectories.observations,
            "actions": trajectories.actions,
            "advantages": advantages_lib.standardized(advantages, valid),
            "valid": valid,
        }
        experience = {
            key: tf.reshape(value, [value.shape[0], -1, *value.shape[3:]])
            for key, value in experience.items()
        }
        experience["outputs"] = policies(experience["observations"])
        experience["log_probs"] = search.environment.actions.log_prob(
            experience["outputs"], experience["actions"]
        )
        return experience

    def _adapt_all(self, theta, support, steps, episodes):
        task_learner = self.task_learner(steps, episodes)

        def fn(task):
            return task_learner.adapt(
                theta, {"x": task}, second_order=False
            ).weights, ()

        return task_map.map_tasks(fn, support, parallelism=self._parallelism())[
            0
        ]

    def _adapt_one(self, theta, experiences, episodes):
        task_learner = self.task_learner(len(experiences), episodes)
        support = tf.nest.map_structure(lambda t: t[0], support_of(experiences))
        return task_learner, task_learner.adapt(
            theta, {"x": support}, second_order=False
        )


def support_of(experiences):
    """The support set of K roll-outs, `(T, K · N · H, ...)`."""

    def join(key):
        return tf.concat([experience[key] for experience in experiences], 1)

    return {
        "support_x": join("observations"),
        "support_y": {
            key: join(key)
            for key in ("actions", "log_probs", "advantages", "valid")
        },
    }


def check_policy(policy, environment):
    """Raises `ValueError` if a policy does not fit an environment."""
    if not isinstance(policy, keras.Model):
        raise ValueError(
            "`policy` must be a Keras model. "
            f"Received: policy={policy!r} (of type {type(policy)})"
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
    if normalization.batch_normalization_layers(policy) or seeds.seed_positions(
        policy
    ):
        raise ValueError(
            "`policy` must not have layers with batch normalisation or "
            "dropout: the probabilities of actions would depend on more than "
            f"the observation. Received: policy={policy!r}"
        )
    if learner_checks.is_half(policy):
        raise ValueError(
            "`policy` must not compute in float16, in which ratios of "
            "probabilities overflow; `mixed_bfloat16` works. "
            f"Received: policy={policy!r}"
        )


def check_tasks(environment, tasks):
    """Tasks as tensors `(T, ...)`, or a `ValueError` if they do not fit."""
    drawn = environment.tasks(1).sample(0)

    def check(example, values):
        values = np.asarray(values, example.dtype.as_numpy_dtype)
        if not values.ndim or values.shape[1:] != tuple(example.shape[1:]):
            raise ValueError(f"{values.shape} is not (T, *{example.shape[1:]})")
        return tf.convert_to_tensor(values)

    try:
        checked = keras.tree.map_structure_up_to(drawn, check, drawn, tasks)
        counts = {t.shape[0] for t in tf.nest.flatten(checked)}
        if len(counts) > 1 or 0 in counts:
            raise ValueError(f"there are {sorted(counts)} tasks")
    except (TypeError, ValueError) as error:
        raise ValueError(
            "`tasks` must have the form of `environment.tasks(1).sample(0)`, "
            f"with any number of tasks: {drawn!r}. "
            f"Received: tasks={tasks!r} ({error})"
        ) from error
    return checked
