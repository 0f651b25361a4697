"""Few-shot regression: learns a sine wave from a few points.

This program meta-trains the paper's network. It also pretrains the same network
on all tasks in the ordinary way, and compares both on new sine waves. It prints
a table of errors, draws a picture of one task, and exports a SavedModel that
learns new sine waves without this library (see serve.py).

    python examples/sinusoid.py
    python examples/sinusoid.py --k_shot=5

The settings of the paper are --inner_steps=1 --kernel_stddev=0.01
--learning_rate=1e-3. They learn more slowly, and for some seeds much more so.

To go on with a run that was interrupted, repeat the command.
"""

import glob
import os
import time

# Hides TensorFlow's start-up messages; must come before its import.
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
    "k_shot",
    10,
    "Support points of a task, and also the number of its query points.",
    lower_bound=1,
)
flags.DEFINE_integer(
    "iterations",
    50_000,
    "Training steps of each network, rounded up to 20 epochs of a multiple of "
    "100 steps.",
    lower_bound=1,
)
flags.DEFINE_integer(
    "meta_batch_size", 25, "Tasks of a training step.", lower_bound=1
)
flags.DEFINE_float(
    "inner_rate",
    0.01,
    "Learning rate of the inner loop, in training and in the test.",
    lower_bound=0.0,
)
flags.DEFINE_integer(
    "inner_steps",
    2,
    "Gradient steps on a support set in training. After long training with "
    "one, further steps in the test overshoot on some tasks.",
    lower_bound=0,
)
flags.DEFINE_float(
    "kernel_stddev",
    0.3,
    "Standard deviation of the initial weights. From the paper's 0.01, some "
    "seeds learn little in 10,000 steps.",
    lower_bound=0.0,
)
flags.DEFINE_float(
    "learning_rate",
    3e-3,
    "Adam's learning rate at the start; it falls to 0 along a cosine.",
    lower_bound=0.0,
)
flags.DEFINE_enum(
    "meta_gradient",
    "second_order",
    ["second_order", "first_order"],
    "MAML, or its first-order approximation.",
)
flags.DEFINE_bool(
    "learn_rates",
    False,
    "Whether to learn a rate for each weight, as Meta-SGD does.",
)
flags.DEFINE_integer("test_tasks", 600, "Unseen tasks.", lower_bound=2)
flags.DEFINE_integer(
    "seed",
    0,
    "Seed of weights and tasks.",
    lower_bound=0,
    upper_bound=2**32 - 1,
)
flags.DEFINE_string(
    "output_dir", "outputs/sinusoid", "Folder for the picture and the models."
)
flags.DEFINE_enum(
    "progress", "bar", ["bar", "line"], "A bar, or a line per epoch."
)

# A run goes on if it has the same values of these.
TRAINING_FLAGS = (
    "k_shot",
    "iterations",
    "meta_batch_size",
    "inner_rate",
    "inner_steps",
    "kernel_stddev",
    "learning_rate",
    "meta_gradient",
    "seed",
)
# Numbers of gradient steps in the test. The exported model takes the last one,
# unless rates are learned.
STEPS = [0, 1, 5, 10]
# Fine-tuning rates that the pretrained network tries.
RATES = [0.002, 0.005, 0.01, 0.02, 0.05]
# Numbers of tasks. Training starts at task 0 and never gets this far.
VALIDATION_START = 1 << 40
TEST_START = 1 << 41


def make_learner(config):
    return keras_maml.learners.mlp(
        kernel_stddev=config.kernel_stddev, seed=config.seed
    )


def make_model(config, learner, inner_rate):
    return keras_maml.MetaModel(
        learner,
        inner_optimizer=inner_rate,
        inner_steps=config.inner_steps,
        # Learned rates are for as many steps as in training.
        evaluation_steps=config.inner_steps
        if config.learn_rates
        else STEPS[-1],
        meta_gradient=config.meta_gradient,
        inner_loss="mse",
    )


def resume(config, name, dataset_at):
    """Saves a run, and lets it go on if it was interrupted."""
    return keras_maml.callbacks.Resume(
        os.path.join(config.output_dir, f"{name}.resume"),
        settings={flag: getattr(config, flag) for flag in TRAINING_FLAGS}
        | ({"learn_rates": True} if config.learn_rates else {}),
        dataset_at=dataset_at,
    )


def forget_runs(config):
    """Removes what `resume` saved: the next run begins anew."""
    for path in glob.glob(os.path.join(config.output_dir, "*.resume*")):
        os.remove(path)


def fit(model, dataset_at, config, name, callbacks):
    """Trains a network. Both networks get the same optimizer and steps.

    Args:
        model: the network, or its `MetaModel`.
        dataset_at: function of a number of steps, which returns the data that
            follow after them.
        config: the flags.
        name: string, the name of the run.
        callbacks: list of callbacks.
    """
    steps_per_call = min(config.iterations, 100)
    calls = -(-config.iterations // steps_per_call)
    epochs = min(20, calls)
    steps_per_epoch = steps_per_call * -(-calls // epochs)
    model.compile(
        optimizer=keras.optimizers.Adam(
            keras.optimizers.schedules.CosineDecay(
                config.learning_rate, epochs * steps_per_epoch
            )
        ),
        loss="mse",
        # To start one step takes longer than the step itself.
        steps_per_execution=steps_per_call,
        # A MetaModel calls XLA itself, once for each core.
        jit_compile="auto" if isinstance(model, keras_maml.MetaModel) else True,
    )
    # `callbacks=[...]` would do for a MetaModel, but not for an ordinary model.
    resume(config, name, dataset_at).fit(
        model,
        dataset_at(0),
        steps_per_epoch=steps_per_epoch,
        epochs=epochs,
        callbacks=list(callbacks),
        shuffle=False,
        verbose=1 if config.progress == "bar" else 2,
    )


def meta_train(config, sines, callbacks=()):
    """Finds weights from which one gradient step learns a task."""
    rate = config.inner_rate
    if config.learn_rates:
        rate = keras_maml.inner_optimizers.SGD(
            keras_maml.inner_optimizers.LearnedRate(rate, per="weight")
        )
    meta_model = make_model(config, make_learner(config), rate)
    tasks = config.meta_batch_size
    fit(
        meta_model,
        lambda steps: sines.batch(tasks, start=steps * tasks),
        config,
        "maml",
        callbacks,
    )
    return meta_model


def pretrain(config, sines, callbacks=()):
    """Fits one network to the points of all tasks."""

    def all_points(x, y):
        inputs = tf.concat([x["support_x"], x["query_x"]], axis=1)
        targets = tf.concat([x["support_y"], y], axis=1)
        return tf.reshape(inputs, [-1, 1]), tf.reshape(targets, [-1, 1])

    learner = make_learner(config)
    tasks = config.meta_batch_size
    fit(
        learner,
        lambda steps: sines.batch(tasks, start=steps * tasks).map(all_points),
        config,
        "pretrained",
        callbacks,
    )
    return learner


def fine_tuned(config, learner, sines):
    """Returns a `MetaModel` that fine-tunes the pretrained network.

    Its rate is the best of `RATES` on 200 validation tasks, averaged over
    `STEPS`.
    """
    validation_tasks = sines.batch(100, count=200, start=VALIDATION_START)
    models = [make_model(config, learner, rate) for rate in RATES]
    errors = []
    for model in models:
        # A rate with which a task diverges is too large, and no error.
        model.bad_tasks = "skip"
        scores = evaluate(model, validation_tasks, STEPS[1:]).values()
        model.bad_tasks = "raise"
        if any(score.skipped for score in scores):
            errors.append(np.inf)
        else:
            errors.append(np.mean([score.mean for score in scores]))
    best = np.argmin(errors)
    print(f"Fine-tuning rate of the pretrained network: {RATES[best]}")
    return models[best]


def scores_of(model, dataset):
    """Returns the scores after each of `STEPS`."""
    model.bad_tasks = "skip"
    scores = evaluate(model, dataset, STEPS)
    if any(score.skipped for score in scores.values()):
        # Many steps may diverge: what fewer steps reach still counts.
        scores = {n: evaluate(model, dataset, [n])[n] for n in STEPS}
    model.bad_tasks = "raise"
    return scores


def evaluate(model, dataset, steps):
    return keras_maml.evaluate_tasks(
        model, dataset, keras.losses.mean_squared_error, inner_steps=steps
    )


def train(config):
    """Trains both networks.

    Returns:
        A tuple of the tasks, a dict from the name of each network to its
        `MetaModel`, and a dict from each name to its scores on test tasks.
    """
    keras.utils.set_random_seed(config.seed)
    sines = tasks.Sinusoid(config.k_shot, config.k_shot, seed=config.seed)
    print("MAML")
    models = {"MAML": meta_train(config, sines)}
    print("Pretraining on all tasks")
    pretrained = pretrain(config, sines)
    models["pretrained on all tasks"] = fine_tuned(config, pretrained, sines)
    test_tasks = sines.batch(100, count=config.test_tasks, start=TEST_START)
    scores = {
        name: scores_of(model, test_tasks) for name, model in models.items()
    }
    return sines, models, scores


def print_table(scores):
    print("inner steps" + "".join(f"{name:>26}" for name in scores))
    for steps in STEPS:
        row = [as_text(score[steps]) for score in scores.values()]
        print(f"{steps:11d}" + "".join(f"{text:>26}" for text in row))


def as_text(score):
    if score.skipped:
        return "not finite"
    return f"{score.mean:.3f} ± {score.ci95:.3f}"


def draw_task(sines, models, path):
    """Draws the predictions of each network for one unseen task."""
    import matplotlib.pyplot as plt

    x, _ = sines.episode(TEST_START)
    truth = sines.parameters(TEST_START)
    grid = np.linspace(*sines.x_range, 201, dtype="float32")
    inputs = {
        "support_x": x["support_x"][None],
        "support_y": x["support_y"][None],
        "query_x": grid[None, :, None],
    }
    figure, axes = plt.subplots(
        1,
        len(models),
        figsize=(10, 4.2),
        sharex=True,
        sharey=True,
        layout="constrained",
    )
    colours = plt.get_cmap("viridis_r")(np.linspace(0.15, 0.95, len(STEPS)))
    for axis, (name, model) in zip(axes, models.items()):
        axis.plot(
            grid,
            truth["amplitude"] * np.sin(grid - truth["phase"]),
            color="tab:red",
            linewidth=2,
            label="truth",
        )
        for steps, colour in zip(STEPS, colours):
            curve = model(inputs, inner_steps=steps)[0, :, 0]
            axis.plot(
                grid,
                curve,
                color=colour,
                linestyle=":" if steps == 0 else "-",
                label=f"{steps} step{'' if steps == 1 else 's'}",
            )
        axis.plot(
            x["support_x"],
            x["support_y"],
            "^",
            color="black",
            markersize=7,
            label=f"the {len(x['support_x'])} support points",
        )
        rate = model.inner_optimizer.learning_rate
        if isinstance(rate, keras_maml.inner_optimizers.LearnedRate):
            rate_text = "learned inner rates"
        else:
            rate_text = f"inner rate {float(rate):g}"
        axis.set_title(f"{name[0].upper() + name[1:]} ({rate_text})")
        axis.set_xlabel("x")
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("y")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="outside lower center", ncols=len(labels)
    )
    figure.savefig(path, dpi=120)
    plt.close(figure)


def check_saved_model(path, meta_model, sines):
    """Adapts with the SavedModel, and compares the result with `predict`."""
    x, _ = sines.episode(TEST_START)
    x = {name: value[None] for name, value in x.items()}
    served = tf.saved_model.load(path).signatures["serving_default"]
    [prediction] = served(**{k: tf.constant(v) for k, v in x.items()}).values()
    expected = meta_model.predict(x, verbose=0)
    difference = np.max(np.abs(prediction - expected))
    if not difference < 1e-4:
        raise RuntimeError(
            "The SavedModel and the model predict different values. "
            f"Received: {path} with a difference of {difference}"
        )
    return difference


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"Unknown arguments: {argv[1:]}")
    logging.set_verbosity(logging.ERROR)
    keras_maml.configure_threads()
    started = time.time()
    sines, models, scores = train(FLAGS)
    minutes = (time.time() - started) / 60
    print(
        f"\nMean squared error, K = {FLAGS.k_shot}, {FLAGS.test_tasks} unseen "
        f"tasks, mean ± 95 % CI; {minutes:.1f} minutes in all:"
    )
    print_table(scores)
    os.makedirs(FLAGS.output_dir, exist_ok=True)
    picture = os.path.join(FLAGS.output_dir, "task.png")
    draw_task(sines, models, picture)
    model_path = os.path.join(FLAGS.output_dir, "meta_model.keras")
    models["MAML"].save(model_path)
    exported = os.path.join(FLAGS.output_dir, "saved_model")
    models["MAML"].export(exported, verbose=False)
    difference = check_saved_model(exported, models["MAML"], sines)
    print(
        f"Picture: {picture}\nModel: {model_path}\nSavedModel: {exported} "
        f"(loaded back, it adapts as `predict` does, to {difference:.0e})"
    )
    forget_runs(FLAGS)


if __name__ == "__main__":
    app.run(main)
