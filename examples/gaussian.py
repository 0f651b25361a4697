"""A distribution over distributions: whole densities from a handful of points.

A draw from a zero-mean Gaussian P is the parameters of a distribution p_i, and
draws from p_i are its points. The example meta-trains a network: a few gradient
steps on points of an unseen p_i estimate the parameters of p_i. At the end, a
table compares these estimates with those of classical statistics, and a picture
shows P, some p_i, their points and the estimates.

    python examples/gaussian.py
    python examples/gaussian.py --k_shot=10 --iterations=20000

To go on with a run that was interrupted, repeat the command.
"""

import glob
import os
import time

# Before TensorFlow is imported: its start-up messages are no news here.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf
from absl import app
from absl import flags
from absl import logging

import keras_maml
from keras_maml import tasks

FLAGS = flags.FLAGS

flags.DEFINE_integer(
    "k_shot", 5, "Points of a distribution to learn from.", lower_bound=1
)
flags.DEFINE_integer(
    "q_query",
    20,
    "Points of a distribution to judge the estimate by.",
    lower_bound=1,
)
flags.DEFINE_integer(
    "iterations",
    4_000,
    "Training steps, rounded up to fill 20 epochs of whole hundreds.",
    lower_bound=1,
)
flags.DEFINE_integer(
    "meta_batch_size", 25, "Tasks of a training step.", lower_bound=1
)
flags.DEFINE_float(
    "inner_rate", 0.05, "Learning rate of the inner loop.", lower_bound=0.0
)
flags.DEFINE_integer(
    "inner_steps",
    5,
    "Gradient steps on a support set, in training and in the test.",
    lower_bound=1,
)
flags.DEFINE_float(
    "learning_rate",
    2e-3,
    "Adam's learning rate at the start; it falls to 0 along a cosine.",
    lower_bound=0.0,
)
flags.DEFINE_enum(
    "meta_gradient",
    "second_order",
    ["second_order", "first_order"],
    "MAML, or its first-order approximation.",
)
flags.DEFINE_integer("test_tasks", 200, "Unseen tasks.", lower_bound=2)
flags.DEFINE_integer(
    "seed", 0, "Of weights and tasks.", lower_bound=0, upper_bound=2**32 - 1
)
flags.DEFINE_string(
    "output_dir", "outputs/gaussian", "Gets the picture and the models."
)
flags.DEFINE_enum(
    "progress", "bar", ["bar", "line"], "A bar, or a line an epoch."
)

# A run goes on if it has the same values of these.
TRAINING_FLAGS = (
    "k_shot",
    "q_query",
    "iterations",
    "meta_batch_size",
    "inner_rate",
    "inner_steps",
    "learning_rate",
    "meta_gradient",
    "seed",
)
# Tasks are numbered. Training takes them from 0 on and never comes this far.
TEST_START = 1 << 41


def make_model(config):
    """A network whose output, for the input 1, is the estimate of (μ, log σ).

    Four numbers without hidden layers would do as an estimate, but hidden
    layers let the network learn what a gradient step changes.
    """
    return keras_maml.MetaModel(
        keras_maml.learners.mlp(outputs=4, kernel_stddev=0.1, seed=config.seed),
        inner_optimizer=config.inner_rate,
        inner_steps=config.inner_steps,
        meta_gradient=config.meta_gradient,
    )


def resume(config, name):
    """Saves a run, and lets it go on if it was interrupted."""
    return keras_maml.callbacks.Resume(
        os.path.join(config.output_dir, f"{name}.resume"),
        settings={flag: getattr(config, flag) for flag in TRAINING_FLAGS},
    )


def forget_runs(config):
    """Removes what `resume` saved: the next run begins anew."""
    for path in glob.glob(os.path.join(config.output_dir, "*.resume*")):
        os.remove(path)


def train(config):
    """Meta-trains; returns the model and the tasks."""
    keras.utils.set_random_seed(config.seed)
    gaussians = tasks.GaussianTasks(
        config.k_shot, config.q_query, seed=config.seed
    )
    meta_model = make_model(config)
    steps_per_call = min(config.iterations, 100)
    calls = -(-config.iterations // steps_per_call)
    epochs = min(20, calls)
    steps_per_epoch = steps_per_call * -(-calls // epochs)
    meta_model.compile(
        optimizer=keras.optimizers.Adam(
            keras.optimizers.schedules.CosineDecay(
                config.learning_rate, epochs * steps_per_epoch
            )
        ),
        loss=tasks.GaussianTasks.negative_log_likelihood,
        # Starting such a step by itself takes longer than the step.
        steps_per_execution=steps_per_call,
    )
    meta_model.fit(
        gaussians.batch(config.meta_batch_size),
        steps_per_epoch=steps_per_epoch,
        epochs=epochs,
        callbacks=[resume(config, "run")],
        shuffle=False,
        verbose=1 if config.progress == "bar" else 2,
    )
    return meta_model, gaussians


def estimate(meta_model, x, steps):
    """The model's (μ, log σ) of each task after some inner steps."""
    outputs = tf.function(
        lambda x: meta_model(x, inner_steps=steps), autograph=False
    )(x)
    return outputs[:, 0].numpy()


def maximum_likelihood(points):
    """The points' own mean and log standard deviation."""
    deviation = np.std(points, axis=1)
    return np.concatenate(
        [np.mean(points, axis=1), np.log(np.maximum(deviation, 1e-3))], axis=-1
    )


def posterior_mode(points, covariance):
    """The likeliest (μ, log σ), given the points and P.

    Alternates between μ and log σ: each step solves for one exactly, given the
    other. P must have independent parameters.
    """
    points = np.asarray(points, "float64")
    variance_mean, variance_log = np.split(np.diag(covariance), 2)
    count = points.shape[1]
    log_sigma = np.zeros(points[:, 0].shape)
    for _ in range(100):
        precision = np.exp(-2.0 * log_sigma)
        mean = np.sum(points, axis=1) * precision
        mean /= count * precision + 1.0 / variance_mean
        squares = np.sum(np.square(points - mean[:, None]), axis=1)
        low, high = np.full_like(mean, -20.0), np.full_like(mean, 20.0)
        for _ in range(40):
            log_sigma = (low + high) / 2
            slope = count - squares * np.exp(-2.0 * log_sigma)
            slope += log_sigma / variance_log
            low = np.where(slope < 0, log_sigma, low)
            high = np.where(slope < 0, high, log_sigma)
    return np.concatenate([mean, log_sigma], axis=-1)


def true_parameters(gaussians, count):
    """The true (μ, log σ) of the first unseen tasks, `(count, 4)`."""
    return np.stack(
        [
            np.concatenate(list(gaussians.parameters(TEST_START + i).values()))
            for i in range(count)
        ]
    )


def compare(meta_model, gaussians, count):
    """Estimates the parameters of unseen tasks in several ways.

    Returns:
        Dict from the way to two `TaskScores`: the negative log-likelihood of
        the query points, and the distance of the parameters from the true ones.
    """
    x, y = next(iter(gaussians.batch(count, count=count, start=TEST_START)))
    points = x["support_y"].numpy()
    truth = true_parameters(gaussians, count)
    ways = {"mean of P": np.zeros_like(truth)}
    for steps in range(meta_model.inner_steps + 1):
        name = f"MAML, {steps} step{'' if steps == 1 else 's'}"
        ways[name] = estimate(meta_model, x, steps)
    ways["maximum likelihood"] = maximum_likelihood(points)
    ways["posterior mode, P known"] = posterior_mode(
        points, gaussians.covariance
    )
    ways["truth"] = truth
    return {
        name: (
            keras_maml.TaskScores(nats_per_point(y, parameters)),
            keras_maml.TaskScores(np.linalg.norm(parameters - truth, axis=-1)),
        )
        for name, parameters in ways.items()
    }


def nats_per_point(y, parameters):
    """The negative log-likelihood of points, `(tasks,)`."""
    parameters = np.asarray(parameters, "float32")[:, None]
    nats = tasks.GaussianTasks.negative_log_likelihood(y, parameters)
    return np.mean(nats, axis=1)


def draw(meta_model, gaussians, path, count=4):
    """Draws P, some p_i, their points, and the estimates before and after."""
    import matplotlib.pyplot as plt

    x, query = next(iter(gaussians.batch(count, count=count, start=TEST_START)))
    support, query = x["support_y"].numpy(), query.numpy()
    truth = true_parameters(gaussians, count)
    colors = [f"C{i}" for i in range(count)]
    figure, axes = plt.subplots(
        2, 2, figsize=(9, 9.6), sharex=True, sharey=True, layout="constrained"
    )
    for axis in axes.flat:
        draw_prior(axis, gaussians.covariance)
        draw_densities(axis, truth, colors, "-")
        for points, color in zip(support, colors):
            axis.plot(*points.T, "o", color=color, markersize=4)
    tasks_axis, before, after, likelihood = axes.flat

    tasks_axis.set_title("P, some tasks $p_i$ and their points")
    for points, color in zip(query, colors):
        axis = tasks_axis
        axis.plot(*points.T, "o", color=color, markersize=4, fillstyle="none")
    before.set_title("Before adaptation, one estimate for all")
    # This estimate belongs to no task, so it has no task's colour.
    draw_densities(before, estimate(meta_model, x, 0)[:1], ["black"], "--")
    steps = meta_model.inner_steps
    after.set_title(f"After {steps} gradient step{'s' * (steps != 1)}")
    draw_densities(after, estimate(meta_model, x, steps), colors, "--")
    likelihood.set_title("Maximum likelihood")
    draw_densities(likelihood, maximum_likelihood(support), colors, "--")

    for axis in axes[-1]:
        axis.set_xlabel("$y_1$")
    for axis in axes[:, 0]:
        axis.set_ylabel("$y_2$")
    draw_legend(figure, tasks_axis)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def draw_prior(axis, covariance):
    """Draws P over the means, in grey, out to 1, 2 and 3 deviations."""
    sigma = np.sqrt(np.diag(covariance)[:2])
    for deviations in (1, 2, 3):
        style = {"facecolor": "0.5", "alpha": 0.13, "linewidth": 0}
        ellipse(axis, np.zeros(2), sigma, deviations, **style)
    limit = 3.7 * np.max(sigma)
    axis.set(xlim=(-limit, limit), ylim=(-limit, limit), box_aspect=1)


def draw_densities(axis, parameters, colors, line):
    """Draws densities of these (μ, log σ), `(tasks, 4)`, at 2 deviations."""
    for (*mean, a, b), color in zip(parameters, colors):
        style = {"edgecolor": color, "fill": False, "linestyle": line}
        ellipse(axis, mean, np.exp([a, b]), 2, **style, linewidth=1.8)


def draw_legend(figure, axis):
    """Explains the lines and points, below the panels."""
    style = {"color": "0.3", "markersize": 4}
    entries = {
        "P, over the means (1, 2, 3 σ)": axis.fill(
            [], [], color="0.5", alpha=0.4, linewidth=0
        )[0],
        "$p_i$, a task (2 σ)": axis.plot([], [], "-", **style)[0],
        "its estimate (2 σ)": axis.plot([], [], "--", **style)[0],
        "support points, which give the estimate": axis.plot(
            [], [], "o", **style
        )[0],
        "query points, which judge it": axis.plot(
            [], [], "o", **style, fillstyle="none"
        )[0],
    }
    figure.legend(
        entries.values(),
        entries.keys(),
        loc="outside lower center",
        ncols=2,
        frameon=False,
    )


def ellipse(axis, mean, sigma, deviations, **style):
    from matplotlib import patches

    width, height = 2 * deviations * sigma
    axis.add_patch(patches.Ellipse(mean, width, height, **style))


def print_table(comparison):
    print(f"{'estimate of (μ, log σ)':25}{'nats a point':>16}{'error':>18}")
    for name, (nats, error) in comparison.items():
        print(
            f"{name:25}{nats.mean:8.3f} ± {nats.ci95:.3f}"
            f"{error.mean:10.3f} ± {error.ci95:.3f}"
        )


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"Unknown arguments: {argv[1:]}")
    logging.set_verbosity(logging.ERROR)
    keras_maml.configure_threads()
    started = time.time()
    meta_model, gaussians = train(FLAGS)
    comparison = compare(meta_model, gaussians, FLAGS.test_tasks)
    minutes = (time.time() - started) / 60
    print(
        f"\n{FLAGS.k_shot} points each of {FLAGS.test_tasks} unseen "
        f"distributions, mean ± 95 % CI; {minutes:.1f} minutes in all.\n"
        "Nats: negative log-likelihood of other points. Error: distance from "
        "the true (μ, log σ)."
    )
    print_table(comparison)
    os.makedirs(FLAGS.output_dir, exist_ok=True)
    picture = os.path.join(FLAGS.output_dir, "estimates.png")
    draw(meta_model, gaussians, picture)
    model_path = os.path.join(FLAGS.output_dir, "meta_model.keras")
    meta_model.save(model_path)
    exported = os.path.join(FLAGS.output_dir, "saved_model")
    meta_model.export(exported, verbose=False)
    print(f"Picture: {picture}\nModel: {model_path}\nSavedModel: {exported}")
    forget_runs(FLAGS)


if __name__ == "__main__":
    app.run(main)
