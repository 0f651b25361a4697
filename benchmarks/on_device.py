"""Measures LiteRT files of adaptable models; writes docs/on_device.md's tables.

    python -m benchmarks.on_device --data_dir=DIR

It exports each network to --output_dir, unless its file is there, and measures
it in a process of its own, on one core. It also trains the papers' network on
Omniglot for --train_steps steps, unless its file is there, and tells the
accuracy of the file with weights of each type.
"""

import json
import os
import pathlib
import subprocess
import sys

# Hides TensorFlow's start-up messages; must come before its import.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf
from absl import app
from absl import flags

import keras_maml
from benchmarks import report
from benchmarks import resource_variables
from keras_maml import learners
from keras_maml import tasks
from keras_maml.serving import litert_file

CHECKOUT = pathlib.Path(__file__).absolute().parent.parent
STEPS = 3
RATE = 0.4

FLAGS = flags.FLAGS
flags.DEFINE_list("networks", None, "What is measured. Defaults to all.")
flags.DEFINE_integer("train_steps", 1000, "Outer steps.", lower_bound=1)
flags.DEFINE_integer("episodes", 600, "For the accuracy.", lower_bound=1)
flags.DEFINE_integer("repeats", 100, "Timed calls.", lower_bound=1)
flags.DEFINE_string("data_dir", None, "The folder of the TFDS datasets.")
flags.DEFINE_string("output_dir", "outputs/on_device", "Gets the files.")
flags.DEFINE_string("page", "docs/on_device.md", "Gets the tables.")


def conv4(**settings):
    return learners.conv4(head_stddev=0.1, **settings)


def separable():
    layers = keras.layers
    blocks = []
    for filters, stride in ((32, 1), (64, 2), (64, 2)):
        blocks += [
            layers.DepthwiseConv2D(3, stride, padding="same", use_bias=False),
            layers.BatchNormalization(),
            layers.ReLU(6.0),
            layers.Conv2D(filters, 1, use_bias=False),
            layers.BatchNormalization(),
            layers.ReLU(6.0),
        ]
    return keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            layers.Conv2D(32, 3, strides=2, padding="same"),
            *blocks,
            layers.GlobalAveragePooling2D(),
            layers.Dense(5),
        ]
    )


def layer_norm_mlp():
    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            layers.Flatten(),
            layers.Dense(64),
            layers.LayerNormalization(),
            layers.ReLU(),
            layers.Dense(5),
        ]
    )


def gru():
    layers = keras.layers
    return keras.Sequential(
        [keras.Input((16, 6)), layers.GRU(32), layers.Dense(5)]
    )


def mobilenet():
    return keras.applications.MobileNetV2(
        (96, 96, 3), 0.35, include_top=False, weights=None, pooling="avg"
    )


# A name to the learner, the shape of an example, and the settings.
NETWORKS = {
    "mlp": (learners.mlp, (1,), {"inner_steps": 1}),
    "mlp, layer normalisation": (layer_norm_mlp, (28, 28, 1), {}),
    "conv4": (conv4, (28, 28, 1), {}),
    "conv4, head only": (
        conv4,
        (28, 28, 1),
        {"adapted_weights": "head", "normalization": "moving"},
    ),
    "conv4, max-pooled": (lambda: conv4(max_pool=True), (28, 28, 1), {}),
    "depthwise-separable": (separable, (28, 28, 1), {}),
    "GRU": (gru, (16, 6), {}),
    "MobileNetV2, prototypes": (
        mobilenet,
        (96, 96, 3),
        {
            "inner_steps": 0,
            "head_init": "prototypes",
            "normalization": "moving",
        },
    ),
}


def make(name):
    """Returns a `MetaModel`, and the signature of a 5-way 1-shot task."""
    learner, shape, settings = NETWORKS[name]
    keras.utils.set_random_seed(0)
    regression = name == "mlp"
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    meta_model = keras_maml.MetaModel(
        learner(),
        inner_optimizer=0.01 if regression else RATE,
        inner_loss="mse" if regression else loss,
        **{"inner_steps": STEPS, **settings},
    )
    support = 10 if regression else 5
    label_shape = (1,) if regression else ()
    return meta_model, {
        "support_x": tf.TensorSpec((1, support, *shape), tf.float32),
        "support_y": tf.TensorSpec(
            (1, support, *label_shape), tf.float32 if regression else tf.int32
        ),
        "query_x": tf.TensorSpec((1, 1, *shape), tf.float32),
    }


def write(name, path):
    meta_model, signature = make(name)
    prototypes = {} if meta_model.head_init is None else {"n_way": 5}
    meta_model.export(
        path,
        format="litert",
        verbose=False,
        input_signature=signature,
        **prototypes,
    )


def measure(path, *extra):
    """Returns what a process of its own measures of a file."""
    command = [sys.executable, "-m", "benchmarks.on_device_client", str(path)]
    command += [f"--repeats={FLAGS.repeats}", *extra]
    done = subprocess.run(
        command, check=True, capture_output=True, text=True, cwd=CHECKOUT
    )
    return json.loads(done.stdout.splitlines()[-1])


def speed_table(folder):
    rows = [
        "| learner | file | operations (kinds) | adaptation | prediction "
        "| memory |",
        "|---|---|---|---|---|---|",
    ]

    def milliseconds(value):
        return "does not run" if value is None else f"{value:.3g} ms"

    def add(name, line, path, signature="adapt"):
        names = litert_file.operations(path.read_bytes())[signature]
        rows.append(
            f"| {name} | {line['bytes'] / 1000:.0f} kB "
            f"| {sum(names.values())} ({len(names)}) "
            f"| {milliseconds(line['adapt_ms'])} "
            f"| {milliseconds(line['predict_ms'])} "
            f"| {line['memory_mb']:.0f} MB |"
        )
        print(rows[-1], flush=True)

    for name in FLAGS.networks or NETWORKS:
        path = folder / f"{name.replace(', ', '_').replace(' ', '_')}.tflite"
        if not path.exists():
            write(name, path)
        add(name, measure(path), path)
        if name in ("mlp", "conv4"):
            path = path.with_suffix(".flex.tflite")
            if not path.exists():
                meta_model, signature = make(name)
                resource_variables.export(meta_model, signature, path)
            steps = make(name)[0].inner_steps
            line = measure(path, f"--resource_variables={steps}")
            add(f"{name}, TensorFlow's recipe", line, path, "train")
    return "\n".join(rows)


def trained(folder, characters):
    """Returns the trained network of the papers, and its seconds."""
    path = folder / "omniglot.keras"
    if not path.exists():
        meta_model = keras_maml.MetaModel(
            conv4(),
            inner_optimizer=RATE,
            inner_steps=1,
            evaluation_steps=STEPS,
        )
        meta_model.compile(
            optimizer=keras.optimizers.Adam(1e-3),
            loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            metrics=["accuracy"],
        )
        episodes = characters[0].episodes(5, 1, 5, rotations=True, seed=0)
        meta_model.fit(
            episodes.batch(16), steps_per_epoch=FLAGS.train_steps, verbose=2
        )
        meta_model.save(path)
    return keras.models.load_model(path)


def accuracy_table(folder):
    characters = tasks.from_tfds(
        "omniglot",
        splits=["train", "test"],
        data_dir=FLAGS.data_dir,
        preprocess=tasks.preprocess_omniglot,
    ).split(1100, 100, 423, seed=0)
    meta_model = trained(folder, characters)
    pool = characters[-1].episodes(5, 1, 5, rotations=True, seed=1)
    x, y = [], []
    for number in range(FLAGS.episodes):
        inputs, targets = pool.episode(number)
        x.append({key: np.asarray(value) for key, value in inputs.items()})
        y.append(np.asarray(targets))
    x = {key: np.stack([each[key] for each in x]) for key in x[0]}
    np.savez(folder / "episodes.npz", **x, query_y=np.stack(y))
    expected = meta_model.predict(x, batch_size=50, verbose=0)
    np.save(folder / "expected.npy", expected)
    rows = [
        "| weights | file | accuracy | median difference of logits | largest |",
        "|---|---|---|---|---|",
        f"| `MetaModel.predict` | | {accuracy(expected, y)} | | |",
    ]
    for weight_type in litert_file.WEIGHT_TYPES:
        path = folder / f"omniglot_{weight_type}.tflite"
        meta_model.export(
            path,
            format="litert",
            verbose=False,
            weight_type=weight_type,
            input_signature={
                key: tf.TensorSpec((1, *value.shape[1:]), value.dtype)
                for key, value in x.items()
            },
        )
        actual = predicted(path, folder)
        difference = np.abs(actual - expected)
        rows.append(
            f"| {weight_type} | {path.stat().st_size / 1000:.0f} kB "
            f"| {accuracy(actual, y)} | {np.median(difference):.1g} "
            f"| {difference.max():.1g} |"
        )
    return "\n".join(rows)


def predicted(path, folder):
    measure(path, f"--episodes={folder / 'episodes.npz'}")
    return np.load(folder / "episodes.predicted.npy")


def accuracy(logits, labels):
    right = (np.argmax(logits, -1) == np.stack(labels)).mean(1)
    interval = 1.96 * right.std() / len(right) ** 0.5
    return f"{100 * right.mean():.2f} ± {100 * interval:.2f} %"


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"Arguments that are not flags: {argv[1:]}")
    folder = pathlib.Path(FLAGS.output_dir).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    page = pathlib.Path(FLAGS.page)
    if FLAGS.data_dir is not None:
        table = accuracy_table(folder)
        print(table)
        report.replace(page, "accuracy", table)
    report.replace(page, "speed", speed_table(folder))


if __name__ == "__main__":
    app.run(main)
