"""Environment steps per second: inside the graph, and in gymnasium.

    python -m benchmarks.rl_environments

Rolls the paper's policy out in 2D navigation, in turns as an environment of
TensorFlow operations and as a gymnasium environment in a `SyncVectorEnv`. The
goals are too far away for an episode to end early.
"""

import time

import gymnasium
import numpy as np
import tensorflow as tf
from absl import app
from absl import flags

import keras_maml
from keras_maml import rl

FLAGS = flags.FLAGS
flags.DEFINE_integer("tasks", 20, "Goals at a time.", lower_bound=1)
flags.DEFINE_integer("episodes", 20, "Episodes toward each.", lower_bound=2)
flags.DEFINE_integer("horizon", 100, "Steps of an episode.", lower_bound=1)
flags.DEFINE_integer("rounds", 5, "Measurements of each.", lower_bound=1)


class Navigation(gymnasium.Env):
    """2D navigation, written for gymnasium."""

    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (2,))
    action_space = gymnasium.spaces.Box(-1.0, 1.0, (2,))
    goal = np.zeros(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.position = np.zeros(2, np.float32)
        return self.position, {}

    def step(self, action):
        self.position = self.position + 0.1 * action
        away = self.position - self.goal
        there = bool(np.all(np.abs(away) < 0.01))
        return self.position, -float(np.hypot(*away)), there, False, {}


class GymnasiumNavigation(rl.GymnasiumEnvironment):
    """The tasks of `PointNavigation`."""

    def make_vector_env(self, num_envs):
        return gymnasium.vector.SyncVectorEnv([Navigation] * num_envs)

    def sample_tasks(self, count, seed):
        return rl.PointNavigation().sample_tasks(count, seed)


def make_search(environment):
    return rl.MetaPolicySearch(
        rl.mlp_policy(environment), environment, episodes=FLAGS.episodes
    )


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"Arguments that are not flags: {argv[1:]}")
    keras_maml.configure_threads()
    searches = {
        "in the graph": make_search(rl.PointNavigation(FLAGS.horizon)),
        "gymnasium": make_search(GymnasiumNavigation(FLAGS.horizon)),
    }
    goals = 100.0 * tf.ones([FLAGS.tasks, 2])
    count = FLAGS.tasks * FLAGS.episodes * FLAGS.horizon
    speeds: dict[str, list] = {name: [] for name in searches}
    first = [
        search.collect(goals, inner_steps=0)[0].rewards
        for search in searches.values()
    ]
    # The same seeds, policies and rules: the same episodes.
    np.testing.assert_allclose(*first, rtol=1e-3)
    for number in range(FLAGS.rounds):
        for name, search in searches.items():
            start = time.perf_counter()
            search.collect(goals, inner_steps=0, seed=number)
            speeds[name].append(count / (time.perf_counter() - start))
    medians = {name: np.median(values) for name, values in speeds.items()}
    for name, speed in medians.items():
        print(f"{name:14s}{speed:12,.0f} environment steps a second")
    ratio = medians["in the graph"] / medians["gymnasium"]
    print(f"ratio         {ratio:12.1f}")


if __name__ == "__main__":
    app.run(main)
