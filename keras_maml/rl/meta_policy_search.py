"""MetaPolicySearch: a policy that adapts to a task by its own experience."""

from collections.abc import Callable
from collections.abc import Sequence

import keras
import tensorflow as tf

from keras_maml import saved_layers
from keras_maml.engine.learner_copy import copy_learner
from keras_maml.engine.meta_state import MetaState
from keras_maml.inner_optimizers import InnerOptimizer
from keras_maml.meta_gradients import MetaGradient
from keras_maml.meta_model import MetaModel
from keras_maml.rl import outer_updates
from keras_maml.rl import policy_serving
from keras_maml.rl.environments.environment import Environment
from keras_maml.rl.environments.environment import Tasks
from keras_maml.rl.environments.environment import check_environment
from keras_maml.rl.outer_updates import OuterUpdate
from keras_maml.rl.policy_learner import PolicyLearner
from keras_maml.rl.policy_learner import check_policy
from keras_maml.rl.policy_learner import check_tasks
from keras_maml.rl.policy_trainer import PolicyTrainer
from keras_maml.rl.search_state import SearchState
from keras_maml.rl.surrogates import check_surrogate
from keras_maml.rl.trajectories import Trajectories
from keras_maml.rl.trajectories import check_trajectories
from keras_maml.rl.trajectories import mean_returns
from keras_maml.saving import SavedOrRefused
from keras_maml.validation import check_integer
from keras_maml.validation import check_number
from keras_maml.validation import check_seed

# Tells the random numbers of acting from others of the same seed.
_ACTING = 1


@keras.saving.register_keras_serializable(package="keras_maml")
class MetaPolicySearch(SavedOrRefused, PolicyTrainer):
    """Searches for a policy from which new tasks are learned in a few steps.

    In each step of `fit` the policy acts in every task of a meta-batch. It
    takes `inner_steps` policy-gradient steps on what it experienced there, and
    acts again after each. Then the outer update moves θ so that the adapted
    policies do better. The inner loop is `MetaModel`'s: `inner_optimizer`,
    `inner_steps`, `meta_gradient` and `adapted_weights` mean the same, and
    `callbacks.FirstOrderUntil` works.

    Advantages tell how good an action was: generalised advantage estimation
    over a linear baseline, which is fitted to the episodes of each task. The
    advantages of a task have mean 0 and standard deviation 1.

    Args:
        policy: any Keras model from observations `(batch,
            *observation_shape)` to the outputs that `environment.actions` asks
            for. `keras_maml.rl.mlp_policy` makes one.
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
        surrogate: the loss of an inner step. All three have the policy
            gradient as their gradient and differ in second derivatives.
            `"lvc"`: low-variance curvature. `"dice"`: unbiased for given
            advantages, with the largest variance. `"score_function"`: the loss
            in MAML's code, which ignores that the weights choose the data.
            Defaults to `"lvc"`.
        outer_update: `"trpo"`, `"ppo"`, a `keras_maml.rl.TRPO` or
            `keras_maml.rl.PPO`, or the config of one. Defaults to `"trpo"`.
        episodes: int, the episodes in each task before each inner step, and
            after the last one. Defaults to `20`.
        discount: float above 0 and at most 1, γ. Defaults to `0.99`.
        gae_lambda: float from 0 to 1, λ. Defaults to `1.0`.
        seed: int from 0 to 2³² − 1, for actions and environments. Together
            with the seed of the tasks it determines a training run. Defaults
            to `0`.
        task_parallelism: int, as in `MetaModel`. Defaults to the number of CPU
            cores.
        name: string.
        **kwargs: arguments of `keras.Model`.

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
    meta_policy.fit(environment.tasks(4, seed=0), epochs=2, verbose=0)

    goal = environment.tasks(1, seed=1).sample(0)
    trajectories = meta_policy.collect(goal, inner_steps=0)[0]
    policy = meta_policy.adapt(
        keras_maml.rl.Trajectories(*(array[0] for array in trajectories))
    )
    ```

    Reference:
        Finn et al., 2017, Algorithm 3 and section 5.3. Deviation: the default
        surrogate is from Rothfuss et al., 2019; `"score_function"` is the
        paper's.
    """

    def __init__(
        self,
        policy: keras.Model,
        environment: Environment,
        *,
        inner_optimizer: float | str | dict | InnerOptimizer = 0.1,
        inner_steps: int = 1,
        meta_gradient: str | dict | MetaGradient = "second_order",
        adapted_weights: str | Sequence | Callable = "all",
        surrogate: str = "lvc",
        outer_update: str | dict | OuterUpdate = "trpo",
        episodes: int = 20,
        discount: float = 0.99,
        gae_lambda: float = 1.0,
        seed: int = 0,
        task_parallelism: int | None = None,
        name: str | None = None,
        **kwargs: object,
    ) -> None:
        check_environment(environment)
        check_policy(policy, environment)
        check_surrogate(surrogate)
        outer_update = outer_updates.get(outer_update)
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
        # θ and the settings of the inner loop.
        self.meta_model = MetaModel(
            policy,
            inner_optimizer=inner_optimizer,
            inner_steps=inner_steps,
            meta_gradient=meta_gradient,
            adapted_weights=adapted_weights,
            task_parallelism=task_parallelism,
        )
        _check_meta_gradient(self.meta_model.meta_gradient, meta_gradient)
        self.iteration = self.add_weight(
            shape=(), dtype="int64", trainable=False, name="iteration"
        )
        self.search_state = SearchState(PolicyLearner(self))
        self.outer_optimizer = outer_update.optimizer()
        if self.outer_optimizer is not None:
            self.outer_optimizer.build(
                tf.nest.flatten(self.meta_state.variables())
            )
        # `fit` needs a compiled model. The outer update is not a Keras loss.
        self.supports_jit = False
        self.compile(optimizer=None, jit_compile=False)
        self.built = True

    @property
    def policy(self) -> keras.Model:
        """The policy, whose weights are θ."""
        return self.meta_model.learner

    @property
    def meta_state(self) -> MetaState:
        """The state of the `MetaModel` inside."""
        return self.meta_model.meta_state

    @property
    def inner_steps(self) -> int:
        """The policy-gradient steps in a task."""
        return self.meta_model.inner_steps

    @property
    def meta_gradient(self) -> MetaGradient:
        """How the outer loss is differentiated."""
        return self.meta_model.meta_gradient

    def call(self, inputs, training=False):
        """The outputs of the policy before it adapts to a task."""
        return self.policy(inputs, training=training)

    # -- Acting

    def collect(
        self,
        tasks: Tasks,
        inner_steps: int | None = None,
        episodes: int | None = None,
        seed: int = 0,
    ) -> list[Trajectories]:
        """Acts in tasks, before adaptation and after each inner step.

        Args:
            tasks: structure of arrays `(T, ...)`, such as
                `environment.tasks(20, seed=1).sample(0)`.
            inner_steps: int. Defaults to the model's.
            episodes: int, the episodes in each task before and after each
                inner step. Defaults to the model's.
            seed: int from 0 to 2³² − 1. Defaults to `0`.

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
        state = self.search_state
        collector = state.collector(
            (inner_steps, episodes, self._settings()),
            lambda tasks, seed: [
                trajectories
                for trajectories, _ in state.learner.act(
                    self.meta_state.theta(), tasks, inner_steps, episodes, seed
                )
            ],
        )
        seed = tf.constant([seed, _ACTING], tf.int64)
        return [
            Trajectories(*(t.numpy() for t in trajectories))
            for trajectories in collector(tasks, seed)
        ]

    def evaluate(
        self,
        tasks: Tasks,
        inner_steps: int | None = None,
        episodes: int | None = None,
        seed: int = 0,
    ) -> dict[str, float]:
        """Acts in tasks and returns mean returns, before and after adaptation.

        For confidence intervals, call `keras_maml.rl.evaluate_returns`.

        Args:
            tasks: as in `collect`.
            inner_steps: as in `collect`.
            episodes: as in `collect`.
            seed: as in `collect`.

        Returns:
            A dict of `return_0`, `return_1`, ...: the mean returns, not
            discounted, after 0, 1, ... `inner_steps` steps.
        """
        collected = self.collect(tasks, inner_steps, episodes, seed)
        return {
            f"return_{i}": float(mean_returns(trajectories).mean())
            for i, trajectories in enumerate(collected)
        }

    # -- One task

    def adapt(
        self, trajectories: Trajectories | Sequence[Trajectories]
    ) -> keras.Model:
        """Learns one task from episodes in it.

        Args:
            trajectories: the `Trajectories` that the policy drew in one task.
                For several inner steps, a list of as many `Trajectories` with
                the same number of episodes: the policy drew the first ones,
                the policy after one step the second ones, and so on.

        Returns:
            A separate Keras model: a policy with the adapted weights. θ does
            not change.

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
        task_learner, adapted = self.search_state.learner.adapt(
            [Trajectories(*map(tf.convert_to_tensor, a)) for a in arrays]
        )
        return copy_learner(self.policy, task_learner.values(adapted))

    def export(
        self,
        filepath,
        format="tf_saved_model",
        verbose=None,
        input_signature=None,
        **kwargs,
    ):
        """Writes a SavedModel that adapts and acts without this library.

        The `serve` endpoint, and the `serving_default` signature, take the
        fields of a `Trajectories` that the policy at θ drew in one task, with
        the model's number of `episodes` and H the horizon: `observations`
        `(episodes, H, *observation_shape)`, `actions`, `rewards` and `valid`.
        They also take `query_observations` `(Q, *observation_shape)`, and
        return the policy's outputs there after one inner step. The `act`
        endpoint takes `query_observations` alone and returns the outputs
        before that step.

        Args:
            filepath: path of the SavedModel.
            format: `"tf_saved_model"`.
            verbose: bool. Whether to print a message.
            input_signature: `None`. The environment gives the shapes.
            **kwargs: nothing. Keras has them for other formats.

        Raises:
            ValueError: if an argument cannot be honoured.
        """
        policy_serving.export(
            self,
            filepath,
            verbose,
            format=format,
            input_signature=input_signature,
            **kwargs,
        )

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
            "selection": inner["selection"],
        }

    @classmethod
    def from_config(cls, config, custom_objects=None):
        config, selection = saved_layers.read_config(
            config, "policy", custom_objects
        )
        model = cls(**config)
        model.meta_state.expect_selection(selection)
        return model

    def get_compile_config(self):
        # The constructor compiles.
        return None


def _check_meta_gradient(meta_gradient, received):
    if not meta_gradient.through_inner_loop:
        raise ValueError(
            '`meta_gradient` must be "second_order", "first_order" or an '
            "object of these kinds: the others do not differentiate what "
            "adapted policies do. "
            f"Received: meta_gradient={received!r}"
        )
