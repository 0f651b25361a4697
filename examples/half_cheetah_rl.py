"""Half-cheetah: a robot that learns from a few trials where to run.

Meta-trains a policy for MuJoCo's half-cheetah (or ant) that runs as it is
rewarded, forward or backward or at a velocity, after one policy-gradient step
on 20 episodes. Compares it with a policy that is trained on all goals at once
and then adapted in the same way. Prints a table of returns and draws the
learning curves. Needs gymnasium and MuJoCo: the extra `[rl]`.

    python examples/half_cheetah_rl.py --task=direction
    python examples/half_cheetah_rl.py --task=velocity --iterations=100

A run takes hours. To resume one that was interrupted, repeat the command.
"""

import os
import time

# Before TensorFlow is imported: its start-up messages are no news here.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
from absl import app
from absl import flags
from absl import logging

import keras_maml
from keras_maml import rl

FLAGS = flags.FLAGS

ENVIRONMENTS = {
    "direction": rl.HalfCheetahDirection,
    "velocity": rl.HalfCheetahVelocity,
    "ant_direction": rl.AntDirection,
}

flags.DEFINE_enum(
    "task", "direction", sorted(ENVIRONMENTS), "What differs between tasks."
)
flags.DEFINE_integer(
    "iterations", 200, "Outer steps of meta-training.", lower_bound=1
)
flags.DEFINE_integer(
    "pretraining_iterations",
    200,
    "Outer steps of the policy for all goals.",
    lower_bound=0,
)
flags.DEFINE_integer(
    "meta_batch_size",
    10,
    "Tasks of an outer step; 40 in the paper.",
    lower_bound=1,
)
flags.DEFINE_integer(
    "episodes", 20, "Episodes in a task before each step.", lower_bound=2
)
flags.DEFINE_integer("horizon", 200, "Steps of an episode.", lower_bound=1)
flags.DEFINE_list(
    "hidden_units", ["100", "100"], "Sizes of the policy's hidden layers."
)
flags.DEFINE_float(
    "inner_rate", 0.1, "Learning rate of the inner steps.", lower_bound=0.0
)
flags.DEFINE_float(
    "max_kl", 0.01, "Trust region of an outer step.", lower_bound=0.0
)
flags.DEFINE_integer("test_steps", 3, "Inner steps of the test.", lower_bound=1)
flags.DEFINE_integer("test_tasks", 40, "Tasks of the test.", lower_bound=2)
flags.DEFINE_integer("seed", 0, "Of weights, tasks and actions.", lower_bound=0)
flags.DEFINE_string(
    "output_dir", "outputs/half_cheetah_rl", "Gets models and pictures."
)


# A run goes on if it has the same values of these.
TRAINING_FLAGS = (
    "task",
    "meta_batch_size",
    "episodes",
    "horizon",
    "hidden_units",
    "inner_rate",
    "max_kl",
    "seed",
)


def make_search(config, inner_steps):
    """A search; without inner steps, it trains one policy for all goals."""
    environment = ENVIRONMENTS[config.task](config.horizon)
    return rl.MetaPolicySearch(
        rl.mlp_policy(
            environment,
            [int(units) for units in config.hidden_units],
            seed=config.seed,
        ),
        environment,
        inner_optimizer=config.inner_rate,
        inner_steps=inner_steps,
        outer_update=rl.TRPO(max_kl=config.max_kl),
        episodes=config.episodes,
        seed=config.seed,
    )


def train(config, name, iterations, inner_steps, callbacks=()):
    """Trains a search, or goes on.

    A run that is complete is loaded, and trained further for more iterations.

    Returns:
        A tuple of the search, and the returns of its iterations.
    """
    search = make_search(config, inner_steps)
    folder = os.path.join(config.output_dir, config.task, name)
    history = search.fit(
        search.environment.tasks(config.meta_batch_size, seed=config.seed),
        epochs=iterations,
        verbose=2,
        callbacks=[
            *callbacks,
            keras_maml.callbacks.Resume(
                os.path.join(folder, "run.resume"),
                settings={f: getattr(config, f) for f in TRAINING_FLAGS},
            ),
        ],
    )
    search.save(os.path.join(folder, "model.keras"))
    return search, history.history


def held_out_tasks(config, split="test"):
    """Tasks of another seed than the training's."""
    environment = ENVIRONMENTS[config.task](config.horizon)
    tasks = environment.tasks(config.test_tasks, seed=config.seed + 1)
    return tasks.sample(("test", "validation").index(split))


def draw(curves, title, path):
    """Draws returns against iterations; `curves` maps labels to returns."""
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(6, 3.8))
    for label, returns in curves.items():
        axis.plot(1 + np.arange(len(returns)), returns, label=label)
    axis.set_xlabel("iteration")
    axis.set_ylabel("mean return of the training tasks")
    axis.set_title(title)
    axis.grid(alpha=0.3)
    axis.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"Unknown arguments: {argv[1:]}")
    logging.set_verbosity(logging.ERROR)
    keras_maml.configure_threads()
    started = time.time()
    searches = {"MAML": train(FLAGS, "maml", FLAGS.iterations, 1)}
    if FLAGS.pretraining_iterations:
        searches["pretrained"] = train(
            FLAGS, "pretrained", FLAGS.pretraining_iterations, 0
        )
    curves = {}
    for name, (_, history) in searches.items():
        curves[f"{name}, before adaptation"] = history["return_0"]
        if "return_1" in history:
            curves[f"{name}, after 1 step"] = history["return_1"]
    folder = os.path.join(FLAGS.output_dir, FLAGS.task)
    picture = os.path.join(folder, "training.png")
    draw(curves, f"{FLAGS.task}, {FLAGS.meta_batch_size} tasks a step", picture)

    searches["untrained"] = make_search(FLAGS, 1), None
    scores = {}
    unseen_tasks = held_out_tasks(FLAGS)
    for name, (search, _) in searches.items():
        scores[name] = rl.evaluate_returns(
            search, unseen_tasks, FLAGS.test_steps
        )
    minutes = (time.time() - started) / 60
    print(
        f"\n{FLAGS.task}, {FLAGS.test_tasks} tasks, {FLAGS.iterations} "
        f"iterations, {minutes:.1f} minutes this time:"
    )
    print("mean return ± 95 % CI after so many inner steps")
    steps = range(FLAGS.test_steps + 1)
    print(" " * 12 + "".join(f"{i:>16d}" for i in steps))
    for name, row in scores.items():
        cells = (f"{s.mean:.1f} ± {s.ci95:.1f}" for s in row.values())
        print(f"{name:12s}" + "".join(f"{cell:>16s}" for cell in cells))
    exported = os.path.join(folder, "saved_model")
    searches["MAML"][0].export(exported, verbose=False)
    print(f"Picture: {picture}\nSavedModel: {exported}")


if __name__ == "__main__":
    app.run(main)
