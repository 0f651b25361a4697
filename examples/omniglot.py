"""Few-shot classification: learns new characters from a few drawings.

This program meta-trains the paper's convolutional network: with prototypes,
with MAML or with another algorithm. The data are Omniglot, or generated glyphs,
which need no download. The program then tests the network on classes that were
not in training. It prints a table of accuracies and draws a picture of one
episode.

    python examples/omniglot.py --dataset=glyphs
    python examples/omniglot.py --n_way=20 --minutes=60 --meta_batch_size=8 \
        --learning_rate=3e-3 --schedule=average
    python examples/omniglot.py --algorithm=maml --iterations=10000

Prototypes are the default, since they learn most in the first hour on two cores
(docs/results.md).

To go on with a run that was interrupted, repeat the command.
"""

import glob
import json
import os
import time

# Hides TensorFlow's start-up messages; must come before its import.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from absl import app
from absl import flags
from absl import logging

import keras_maml
from keras_maml import tasks
from keras_maml.engine.processors import available_processors

FLAGS = flags.FLAGS

flags.DEFINE_enum(
    "dataset", "omniglot", ["omniglot", "glyphs"], "Where the classes are from."
)
flags.DEFINE_string(
    "data_dir",
    None,
    "Folder of the TFDS datasets. TFDS downloads Omniglot to this folder if it "
    "is missing. By default TFDS_DATA_DIR, or else the default of TFDS.",
)
flags.DEFINE_integer("n_way", 5, "Classes of an episode.", lower_bound=2)
flags.DEFINE_integer(
    "k_shot", 1, "Support examples of each class.", lower_bound=1
)
flags.DEFINE_integer(
    "q_query", 1, "Query examples of each class.", lower_bound=1
)
flags.DEFINE_enum(
    "algorithm",
    "prototypes",
    ["prototypes", *keras_maml.algorithms.__all__],
    "The algorithm. Prototypes are Proto-MAML without inner steps.",
)
flags.DEFINE_integer(
    "inner_steps",
    None,
    "Gradient steps on a support set in training. By default 1 for fewer than "
    "20 classes and 5 otherwise, as in the paper; 5 for first-order MAML, 10 "
    "for Reptile, 8 for iMAML and 0 for prototypes.",
    lower_bound=0,
)
flags.DEFINE_integer(
    "evaluation_steps",
    None,
    "Gradient steps in the test. By default 3 for fewer than 20 classes and 5 "
    "otherwise, as in the paper; 5 for first-order MAML, 50 for Reptile, 8 for "
    "iMAML and 0 for prototypes.",
    lower_bound=0,
)
flags.DEFINE_float(
    "inner_rate",
    None,
    "Learning rate of the inner loop. By default 2.0 for most algorithms. The "
    "paper has 0.4 (5-way) and 0.1 (20-way) for a loss that is a sum over "
    "classes. For the mean, which this program uses, both become 2.0.",
    lower_bound=0.0,
)
flags.DEFINE_enum(
    "network",
    "conv4",
    ["conv4", "dense"],
    "The paper's convolutional network, or its non-convolutional one.",
)
flags.DEFINE_float(
    "head_stddev",
    0.1,
    "Standard deviation of the last layer's initial weights. The paper's code "
    "has 1.0, with which training takes several times as long.",
    lower_bound=0.0,
)
flags.DEFINE_enum(
    "normalization",
    None,
    ["transductive", "support", "moving", "per_step"],
    "Statistics of batch normalisation, see MetaModel. By default the choice "
    "of the algorithm.",
)
flags.DEFINE_integer(
    "meta_batch_size",
    None,
    "Tasks of a training step. By default 32 for fewer than 20 classes and 16 "
    "otherwise, as in the paper.",
    lower_bound=1,
)
flags.DEFINE_integer(
    "iterations",
    200,
    "Training steps, rounded up to fill epochs of up to 500.",
    lower_bound=1,
)
flags.DEFINE_float(
    "minutes",
    None,
    "Replaces --iterations: the training time in minutes, if all cores are "
    "free. The number of steps follows from the processor time of a step, so "
    "other programs on the machine do not change it.",
    lower_bound=0.0,
)
flags.DEFINE_float(
    "learning_rate",
    None,
    "Outer learning rate at the start. By default 4e-3, of Adam; 1 for "
    "Reptile, which uses gradient descent.",
    lower_bound=0.0,
)
flags.DEFINE_enum(
    "schedule",
    "cosine",
    ["cosine", "average"],
    "The learning rate falls to 0, along a cosine (Reptile: along a line); or "
    "it is constant, and the trained weights are a moving average of those of "
    "the last steps. Such a run may end at any step.",
)
flags.DEFINE_integer(
    "test_episodes", 600, "Episodes of held-out classes.", lower_bound=2
)
flags.DEFINE_integer(
    "seed",
    0,
    "Seed of weights and episodes.",
    lower_bound=0,
    upper_bound=2**32 - 1,
)
flags.DEFINE_string(
    "output_dir", "outputs/omniglot", "Folder for the picture and the model."
)
flags.DEFINE_string(
    "results", None, "A file; the program appends the result as a JSON line."
)
flags.DEFINE_enum(
    "progress", "bar", ["bar", "line"], "A bar, or a line per epoch."
)

# A run goes on if it has the same values of these.
TRAINING_FLAGS = (
    "dataset",
    "n_way",
    "k_shot",
    "q_query",
    "algorithm",
    "inner_steps",
    "evaluation_steps",
    "inner_rate",
    "network",
    "head_stddev",
    "normalization",
    "meta_batch_size",
    "iterations",
    "minutes",
    "learning_rate",
    "schedule",
    "seed",
)
# Training, validation and test characters. The paper trains on 1,200 and tests
# on 423.
SPLIT = (1100, 100, 423)


# Inner rates, and inner steps in training and in the test, of algorithms that
# do not use the defaults. They learn fast at first (docs/results.md): Reptile's
# rate is five to ten times its paper's.
RATES = {
    "fomaml": 0.5,
    "reptile": 5e-3,
    "proto_maml": 0.5,
    "prototypes": 0.5,
    "cavia": 5.0,
}
STEPS = {
    "fomaml": (5, 5),
    "reptile": (10, 50),
    "imaml": (8, 8),
    "prototypes": (0, 0),
}
# Networks without a head.
HEADLESS = ("prototypes", "proto_maml")
# Of the average over steps: it covers about 200 of them.
MOMENTUM = 0.995
# Reptile has more examples of a class in training than in the test.
REPTILE_SHOTS = 10


def by_ways(n_way, few, many):
    """Returns the paper's setting for 5-way tasks or for 20-way tasks."""
    return few if n_way < 20 else many


def load_tasks(config):
    """Returns the distributions of training, validation and test tasks."""
    sizes = [(config.n_way, config.k_shot, config.q_query)] * 3
    if config.algorithm == "reptile":
        shots = max(REPTILE_SHOTS, config.k_shot)
        sizes[0] = (config.n_way, shots, config.q_query)
    if config.dataset == "glyphs":
        return [
            tasks.Glyphs(*size, split=split, seed=config.seed)
            for size, split in zip(sizes, ("train", "validation", "test"))
        ]
    characters = tasks.from_tfds(
        "omniglot",
        splits=["train", "test"],
        data_dir=config.data_dir,
        preprocess=tasks.preprocess_omniglot,
    )
    pools = characters.split(*SPLIT, seed=0)
    return [
        pool.episodes(*size, rotations=True, seed=config.seed)
        for size, pool in zip(sizes, pools)
    ]


def learner_with_context(n_way, seed, units=100, filters=64):
    """Returns a conv4 whose context parameters scale and shift features."""
    layers = keras.layers
    x = h = keras.Input((28, 28, 1))
    context = keras_maml.ContextParameters(units)(x)

    def from_context(i):
        initializer = keras.initializers.GlorotUniform(100 * seed + i)
        values = layers.Dense(filters, kernel_initializer=initializer)(context)
        return layers.Reshape((1, 1, filters))(values)

    for i in range(4):
        h = layers.Conv2D(
            filters,
            3,
            strides=2,
            padding="same",
            kernel_initializer=keras.initializers.GlorotUniform(seed + i),
        )(h)
        h = layers.BatchNormalization(scale=False)(h)
        scaled = layers.Multiply()([h, from_context(10 + i)])
        h = layers.Add()([h, scaled, from_context(20 + i)])
        h = layers.ReLU()(h)
    h = layers.GlobalAveragePooling2D()(h)
    h = layers.Concatenate()([h, context])
    return keras.Model(x, layers.Dense(n_way)(h))


def make_learner(config):
    """Returns the paper's network, without a head for prototypes."""
    if config.network == "dense":
        return keras_maml.learners.mlp(
            (28, 28, 1),
            (256, 128, 64, 64),
            config.n_way,
            batch_normalization=True,
            seed=config.seed,
        )
    return keras_maml.learners.conv4(
        n_way=None if config.algorithm in HEADLESS else config.n_way,
        head_stddev=config.head_stddev,
        seed=config.seed,
    )


def check_flags(config):
    """Refuses flags that do not go together."""
    name = config.algorithm
    if config.network == "dense" and name in ("cavia", *HEADLESS):
        raise app.UsageError(
            f"--algorithm={name} needs --network=conv4. Received: "
            "--network=dense, which --algorithm=maml takes"
        )
    if name == "prototypes" and (config.inner_steps or config.evaluation_steps):
        raise app.UsageError(
            "--algorithm=prototypes takes no inner steps; --algorithm=maml and "
            "--algorithm=proto_maml do. Received: "
            f"--inner_steps={config.inner_steps} "
            f"--evaluation_steps={config.evaluation_steps}"
        )
    normalization = config.normalization
    if normalization is None and name == "maml_plus_plus":
        normalization = "per_step"
    if config.schedule == "average" and normalization in ("moving", "per_step"):
        raise app.UsageError(
            "--schedule=average needs batch normalization by the statistics of "
            "a task. Running statistics follow the last weights, not their "
            "average. --schedule=cosine takes any. Received: "
            f"--algorithm={name}, --normalization={normalization}"
        )


def number_of_steps(config):
    """Returns the inner steps in training and in the test."""
    steps, evaluation_steps = STEPS.get(
        config.algorithm, by_ways(config.n_way, (1, 3), (5, 5))
    )
    if config.inner_steps is not None:
        steps = config.inner_steps
    if config.evaluation_steps is not None:
        evaluation_steps = config.evaluation_steps
    return steps, evaluation_steps


def inner_rate(config):
    """Returns the learning rate of the inner loop."""
    if config.inner_rate is not None:
        return config.inner_rate
    return RATES.get(config.algorithm, 2.0)


def outer_rate(config):
    """Returns the outer learning rate at the start."""
    if config.learning_rate is not None:
        return config.learning_rate
    return 1.0 if config.algorithm == "reptile" else 4e-3


def make_optimizer(config, iterations):
    """Returns the outer optimizer for this number of training steps."""
    schedules, rate = keras.optimizers.schedules, outer_rate(config)
    if config.algorithm == "reptile":
        optimizer = keras.optimizers.SGD
        falling = schedules.PolynomialDecay(rate, iterations, 0.0)
    else:
        optimizer = keras.optimizers.Adam
        falling = schedules.CosineDecay(rate, iterations)
    if config.schedule == "cosine":
        return optimizer(falling)
    return optimizer(rate, use_ema=True, ema_momentum=MOMENTUM)


def make_model(config, iterations):
    """Returns a model that is compiled for this number of training steps."""
    check_flags(config)
    name = config.algorithm
    if name == "cavia":
        learner = learner_with_context(config.n_way, config.seed)
    else:
        learner = make_learner(config)
    steps, evaluation_steps = number_of_steps(config)
    rate = inner_rate(config)
    settings = {"inner_steps": steps, "evaluation_steps": evaluation_steps}
    if config.normalization is not None:
        settings["normalization"] = config.normalization
    if name in ("meta_sgd", "maml_plus_plus"):
        settings["inner_rate"] = rate
    elif name == "reptile":
        settings["inner_optimizer"] = keras_maml.inner_optimizers.Adam(
            rate, beta_1=0.0
        )
        settings["inner_batch_size"] = by_ways(config.n_way, 10, 20)
    else:
        settings["inner_optimizer"] = rate
    if name == "maml_plus_plus":
        settings["annealing_iterations"] = max(iterations // 6, 1)
        for layer in learner.layers:
            if isinstance(layer, keras.layers.BatchNormalization):
                # Moving averages must follow the weights in tens of steps.
                layer.momentum = 0.9
    if name == "imaml":
        settings["proximal"] = 0.02
    make = {"prototypes": "proto_maml"}.get(name, name)
    meta_model = getattr(keras_maml.algorithms, make)(learner, **settings)
    meta_model.compile(
        optimizer=make_optimizer(config, iterations),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    return meta_model


class Times(keras.callbacks.Callback):
    """Records when training steps end, in wall time and processor time."""

    def __init__(self):
        super().__init__()
        self.ends = []
        self.processor = []

    def on_train_batch_end(self, batch, logs=None):
        self.ends.append(time.perf_counter())
        self.processor.append(time.process_time())

    # For a run that goes on after an interruption.

    def get_state(self):
        return {"ends": self.ends, "processor": self.processor}

    def set_state(self, state):
        self.ends, self.processor = state["ends"], state["processor"]


def median_step(ends):
    """Returns the median time of a step. The first step also traces."""
    return float(np.median(np.diff(ends)))


def resume(config, name):
    """Saves a run, and lets it go on if it was interrupted."""
    steps, evaluation_steps = number_of_steps(config)
    # Not `None`: another version of this program may have other defaults.
    defaults = {
        "inner_steps": steps,
        "evaluation_steps": evaluation_steps,
        "inner_rate": inner_rate(config),
        "meta_batch_size": meta_batch_size(config),
        "learning_rate": outer_rate(config),
    }
    flags_of_training = {f: getattr(config, f) for f in TRAINING_FLAGS}
    return keras_maml.callbacks.Resume(
        os.path.join(config.output_dir, f"{name}.resume"),
        settings=flags_of_training | defaults,
        save_freq=100,
    )


def forget_runs(config):
    """Removes what `resume` saved: the next run begins anew."""
    for path in glob.glob(os.path.join(config.output_dir, "*.resume*")):
        os.remove(path)


def count_iterations(config, stream):
    """Returns the number of training steps that fit into --minutes.

    A run that goes on keeps the number that it began with.
    """
    path = os.path.join(config.output_dir, "run.resume.iterations")
    if os.path.exists(path):
        with open(path) as file:
            return int(file.read())
    times = Times()
    make_model(config, 1).fit(
        stream, steps_per_epoch=12, callbacks=[times], shuffle=False, verbose=0
    )
    budget = 60 * config.minutes * available_processors()
    iterations = max(round(budget / median_step(times.processor)), 1)
    os.makedirs(config.output_dir, exist_ok=True)
    with open(path, "w") as file:
        file.write(str(iterations))
    return iterations


def meta_batch_size(config):
    """Returns the number of tasks of a training step."""
    if config.meta_batch_size is not None:
        return config.meta_batch_size
    return 5 if config.algorithm == "reptile" else by_ways(config.n_way, 32, 16)


def train(config, train_tasks, validation_tasks, callbacks=()):
    """Meta-trains a model.

    Returns:
        A tuple of the model and the `Times`.
    """
    meta_batch = meta_batch_size(config)
    stream = train_tasks.batch(meta_batch)
    iterations = config.iterations
    if config.minutes is not None:
        iterations = count_iterations(config, stream)
    keras.utils.set_random_seed(config.seed)
    epochs = -(-iterations // 500)
    steps_per_epoch = -(-iterations // epochs)
    meta_model = make_model(config, epochs * steps_per_epoch)
    times = Times()
    meta_model.fit(
        stream,
        steps_per_epoch=steps_per_epoch,
        epochs=epochs,
        validation_data=validation_tasks.batch(
            meta_batch, count=10 * meta_batch
        ),
        callbacks=[times, *callbacks, resume(config, "run")],
        shuffle=False,
        verbose=1 if config.progress == "bar" else 2,
    )
    return meta_model, times


def evaluate(config, meta_model, unseen_tasks):
    """Returns the scores on unseen tasks, by the number of inner steps."""
    return keras_maml.evaluate_tasks(
        meta_model,
        unseen_tasks.batch(meta_batch_size(config), count=config.test_episodes),
        keras.metrics.sparse_categorical_accuracy,
        inner_steps=sorted({0, 1, meta_model.evaluation_steps}),
    )


def draw_episode(meta_model, test_tasks, path):
    """Draws the support set and the queries with their predicted classes."""
    import matplotlib.pyplot as plt

    x, y = test_tasks.episode(0)
    logits = meta_model.predict({k: v[None] for k, v in x.items()}, verbose=0)
    predicted = np.argmax(logits[0], axis=-1)
    n_way = logits.shape[-1]
    support = [x["support_x"][x["support_y"] == c] for c in range(n_way)]
    queries = [np.flatnonzero(y == c) for c in range(n_way)]
    shots, asked = len(support[0]), len(queries[0])
    columns = shots + asked
    figure, axes = plt.subplots(
        n_way,
        columns,
        figsize=(1.1 * columns + 0.6, 1.3 * n_way),
        squeeze=False,
    )
    for c in range(n_way):
        for column, axis in enumerate(axes[c]):
            axis.set_xticks([])
            axis.set_yticks([])
            if column < shots:
                image = support[c][column]
                axis.set_title(f"class {c}", fontsize=8)
            else:
                query = queries[c][column - shots]
                image = x["query_x"][query]
                right = predicted[query] == c
                colour = "tab:green" if right else "tab:red"
                axis.set_title(
                    f"predicted {predicted[query]}", fontsize=8, color=colour
                )
                for spine in axis.spines.values():
                    spine.set_color(colour)
                    spine.set_linewidth(2)
            axis.imshow(image[..., 0], cmap="gray_r", vmin=0, vmax=1)
    figure.suptitle("Support set | queries", fontsize=10)
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)


def write_result(meta_model, scores, times):
    """Appends a line to the file of --results."""
    import resource  # Windows has none.

    result = {
        "algorithm": FLAGS.algorithm,
        "iterations": int(meta_model.optimizer.iterations),
        "seconds_per_step": median_step(times.ends)
        if len(times.ends) > 1
        else None,
        "accuracy": {steps: score.mean for steps, score in scores.items()},
        "ci95": {steps: score.ci95 for steps, score in scores.items()},
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "flags": {
            name: FLAGS[name].value
            for name in ("n_way", "k_shot", "minutes", "seed", "test_episodes")
        },
    }
    with open(FLAGS.results, "a") as file:
        file.write(json.dumps(result) + "\n")


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"Unknown arguments: {argv[1:]}")
    logging.set_verbosity(logging.ERROR)
    keras_maml.configure_threads()
    started = time.time()
    # Before the data are loaded, which takes a while.
    check_flags(FLAGS)
    *training_tasks, test_tasks = load_tasks(FLAGS)
    meta_model, times = train(FLAGS, *training_tasks)
    scores = evaluate(FLAGS, meta_model, test_tasks)
    minutes = (time.time() - started) / 60
    print(
        f"\n{FLAGS.algorithm}, {FLAGS.dataset}, {FLAGS.n_way}-way "
        f"{FLAGS.k_shot}-shot, "
        f"{FLAGS.test_episodes} test episodes of unseen classes, "
        f"{minutes:.1f} minutes in all:"
    )
    print("inner steps   accuracy (mean ± 95 % CI)")
    for steps, score in scores.items():
        print(
            f"{steps:11d}   {100 * score.mean:.2f} ± {100 * score.ci95:.2f} %"
        )
    if FLAGS.results is not None:
        write_result(meta_model, scores, times)
    os.makedirs(FLAGS.output_dir, exist_ok=True)
    picture = os.path.join(FLAGS.output_dir, "episode.png")
    draw_episode(meta_model, test_tasks, picture)
    model_path = os.path.join(FLAGS.output_dir, "meta_model.keras")
    meta_model.save(model_path)
    exported = os.path.join(FLAGS.output_dir, "saved_model")
    meta_model.export(exported, verbose=False)
    print(f"Picture: {picture}\nModel: {model_path}\nSavedModel: {exported}")
    forget_runs(FLAGS)


if __name__ == "__main__":
    app.run(main)
