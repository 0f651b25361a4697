"""2D navigation: a policy that finds a new goal after some trial episodes.

A point in the plane is rewarded for being near a goal that it does not see.
Meta-trains a policy that goes to a new goal after one policy-gradient step on
20 episodes. Compares it with a policy trained on all goals at once, and with an
oracle that sees the goal. Prints a table of returns on held-out goals, and
draws paths and the course of training.

    python examples/navigation_rl.py
    python examples/navigation_rl.py --iterations=20 --nobaselines

To resume a run that was interrupted, repeat the command.
"""

import json
import os
import time

# Before TensorFlow is imported: its start-up messages are no news here.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from absl import app
from absl import flags
from absl import logging

import keras_maml
from keras_maml import rl

FLAGS = flags.FLAGS

flags.DEFINE_integer(
    "iterations", 150, "Outer steps of meta-training.", lower_bound=1
)
flags.DEFINE_integer(
    "baseline_iterations",
    100,
    "Outer steps of the two policies to compare with.",
    lower_bound=1,
)
flags.DEFINE_bool(
    "baselines", True, "Whether to train the pretrained policy and the oracle."
)
flags.DEFINE_integer(
    "meta_batch_size", 20, "Goals of an outer step.", lower_bound=1
)
flags.DEFINE_integer(
    "episodes", 20, "Episodes toward a goal before each step.", lower_bound=2
)
flags.DEFINE_integer("horizon", 100, "Steps of an episode.", lower_bound=1)
flags.DEFINE_list(
    "hidden_units", ["100", "100"], "Sizes of the policy's hidden layers."
)
flags.DEFINE_float(
    "inner_rate", 0.1, "Learning rate of the first inner step.", lower_bound=0.0
)
flags.DEFINE_float(
    "rate_decay",
    0.5,
    "Each further inner step of the test multiplies the rate by it.",
    lower_bound=0.0,
)
flags.DEFINE_integer("test_steps", 3, "Inner steps of the test.", lower_bound=1)
flags.DEFINE_integer("test_goals", 40, "Held-out goals.", lower_bound=2)
flags.DEFINE_float(
    "max_kl", 0.01, "Trust region of an outer step.", lower_bound=0.0
)
flags.DEFINE_enum(
    "surrogate",
    "lvc",
    ["dice", "lvc", "score_function"],
    "What an inner step descends, see MetaPolicySearch.",
)
flags.DEFINE_integer("seed", 0, "Of weights, goals and actions.", lower_bound=0)
flags.DEFINE_string(
    "output_dir", "outputs/navigation_rl", "Gets models and pictures."
)
flags.DEFINE_enum(
    "progress", "bar", ["bar", "line"], "Keras's lines, or shorter ones."
)


# A run goes on if it has the same values of these.
TRAINING_FLAGS = (
    "meta_batch_size",
    "episodes",
    "horizon",
    "hidden_units",
    "inner_rate",
    "max_kl",
    "surrogate",
    "seed",
)


def make_search(config, inner_steps, observe_goal=False):
    """A search; without inner steps, it trains one policy for all goals."""
    environment = rl.PointNavigation(
        horizon=config.horizon, observe_goal=observe_goal
    )
    policy = rl.mlp_policy(
        environment,
        [int(units) for units in config.hidden_units],
        seed=config.seed,
    )
    rates = keras.optimizers.schedules.ExponentialDecay(
        config.inner_rate, decay_steps=1, decay_rate=config.rate_decay
    )
    return rl.MetaPolicySearch(
        policy,
        environment,
        inner_optimizer=keras_maml.inner_optimizers.SGD(rates),
        inner_steps=inner_steps,
        surrogate=config.surrogate,
        outer_update=rl.TRPO(max_kl=config.max_kl),
        episodes=config.episodes,
        seed=config.seed,
    )


class Progress(keras.callbacks.Callback):
    """A short line for every tenth iteration."""

    def on_epoch_end(self, epoch, logs=None):
        if epoch % 10 == 9:
            values = [f"{k} {float(v):.4g}" for k, v in logs.items()]
            print(f"iteration {epoch + 1}: {', '.join(values)}", flush=True)


def train(
    config, name, iterations, inner_steps, callbacks=(), observe_goal=False
):
    """Trains a search, or goes on; returns it and its returns.

    A run that is complete is loaded, and trained further for more iterations.
    """
    search = make_search(config, inner_steps, observe_goal)
    folder = os.path.join(config.output_dir, name)
    bar = config.progress == "bar"
    history = search.fit(
        search.environment.tasks(config.meta_batch_size, seed=config.seed),
        epochs=iterations,
        verbose=2 if bar else 0,
        callbacks=[
            *callbacks,
            keras_maml.callbacks.Resume(
                os.path.join(folder, "run.resume"),
                settings={f: getattr(config, f) for f in TRAINING_FLAGS},
            ),
            *([] if bar else [Progress()]),
        ],
    )
    search.save(os.path.join(folder, "model.keras"))
    return search, history.history


def held_out_tasks(config, split="test"):
    """Goals of another seed than the training's."""
    environment = rl.PointNavigation(config.horizon)
    tasks = environment.tasks(config.test_goals, seed=config.seed + 1)
    return tasks.sample(("test", "validation").index(split)).numpy()


def draw_paths(search, goals, path):
    """Draws episodes toward some goals, before and after one step."""
    import matplotlib.pyplot as plt

    before, after = search.collect(goals, inner_steps=1)
    figure, axes = plt.subplots(
        2, len(goals), figsize=(2.6 * len(goals), 5.6), squeeze=False
    )
    for row, (title, trajectories) in zip(
        axes, (("before", before), ("after 1 step", after))
    ):
        for axis, goal, seen, valid in zip(
            row, goals, trajectories.observations, trajectories.valid
        ):
            for one, taken in zip(seen[:5], valid[:5]):
                one = one[taken == 1]
                axis.plot(one[:, 0], one[:, 1], lw=1, alpha=0.8)
            axis.plot(0, 0, "k.", ms=8)
            axis.plot(*goal, "r*", ms=13, mec="white", zorder=3)
            axis.set_xlim(-0.7, 0.7)
            axis.set_ylim(-0.7, 0.7)
            axis.set_aspect("equal")
            axis.set_title(title, fontsize=9)
            axis.tick_params(labelsize=7)
    figure.suptitle("Five episodes toward each goal (star), from the origin")
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)


def draw_training(histories, path):
    """Draws returns against iterations."""
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(6, 3.8))
    for label, history, column in histories:
        returns = history[column]
        axis.plot(1 + np.arange(len(returns)), returns, label=label)
    axis.set_xlabel("iteration")
    axis.set_ylabel("mean return of the training goals")
    axis.set_yscale("symlog", linthresh=1)
    ticks = [-100, -50, -20, -10, -5, -2, -1, -0.5]
    axis.set_yticks(ticks, [str(tick) for tick in ticks])
    axis.grid(alpha=0.3)
    axis.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)


def print_table(rows, minutes):
    """Prints returns by policy and number of inner steps."""
    print(
        f"\n2D navigation, {FLAGS.test_goals} held-out goals, "
        f"{FLAGS.iterations} iterations, {minutes:.1f} minutes in all:"
    )
    steps = range(FLAGS.test_steps + 1)
    print("mean return ± 95 % CI after so many inner steps")
    print(" " * 12 + "".join(f"{i:>15d}" for i in steps))
    for name, scores in rows.items():
        cells = (f"{s.mean:.1f} ± {s.ci95:.1f}" for s in scores.values())
        print(f"{name:12s}" + "".join(f"{cell:>15s}" for cell in cells))


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"Unknown arguments: {argv[1:]}")
    logging.set_verbosity(logging.ERROR)
    keras_maml.configure_threads()
    started = time.time()
    goals = held_out_tasks(FLAGS)
    search, history = train(FLAGS, "maml", FLAGS.iterations, inner_steps=1)
    rows = {"MAML": rl.evaluate_returns(search, goals, FLAGS.test_steps)}
    histories = [
        ("MAML, before adaptation", history, "return_0"),
        ("MAML, after 1 step", history, "return_1"),
    ]
    if FLAGS.baselines:
        pretrained, history = train(
            FLAGS, "pretrained", FLAGS.baseline_iterations, inner_steps=0
        )
        histories.append(("pretrained on all goals", history, "return_0"))
        rows["pretrained"] = rl.evaluate_returns(
            pretrained, goals, FLAGS.test_steps
        )
        oracle, history = train(
            FLAGS,
            "oracle",
            FLAGS.baseline_iterations,
            inner_steps=0,
            observe_goal=True,
        )
        histories.append(("oracle, sees the goal", history, "return_0"))
        rows["oracle"] = rl.evaluate_returns(oracle, goals, 0)
    untrained = make_search(FLAGS, inner_steps=1)
    rows["untrained"] = rl.evaluate_returns(untrained, goals, FLAGS.test_steps)

    print_table(rows, (time.time() - started) / 60)
    folder = FLAGS.output_dir
    with open(os.path.join(folder, "returns.json"), "w") as file:
        json.dump(
            {
                name: {i: [s.mean, s.ci95] for i, s in scores.items()}
                for name, scores in rows.items()
            },
            file,
        )
    paths = os.path.join(folder, "paths.png")
    draw_paths(search, goals[:4], paths)
    training = os.path.join(folder, "training.png")
    draw_training(histories, training)
    exported = os.path.join(folder, "saved_model")
    search.export(exported, verbose=False)
    print(f"Pictures: {paths}, {training}\nSavedModel: {exported}")


if __name__ == "__main__":
    app.run(main)
