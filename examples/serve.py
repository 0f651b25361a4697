"""Learns a new task with an exported model, and only with TensorFlow.

The SavedModel of a MetaModel takes the support set and the queries of a task.
It adapts to the support set and predicts the queries. This program imports
neither keras_maml nor Keras. Without `--data`, it makes a new sine wave for the
model of sinusoid.py.

    python examples/serve.py
    python examples/serve.py --saved_model=... --data=task.npz
"""

import os
import time

# Hides TensorFlow's start-up messages; must come before its import.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import tensorflow as tf
from absl import app
from absl import flags
from absl import logging

FLAGS = flags.FLAGS

flags.DEFINE_string(
    "saved_model",
    "outputs/sinusoid/saved_model",
    "Folder that `MetaModel.export` wrote. The other examples write one.",
)
flags.DEFINE_string(
    "data",
    None,
    "A .npz file with the arrays support_x, support_y and query_x of one task, "
    "and query_y if it is known. By default the program makes a sine wave.",
)
flags.DEFINE_integer(
    "k_shot",
    10,
    "Points of the sine wave to learn from; any number.",
    lower_bound=1,
)
flags.DEFINE_integer("seed", 0, "Seed of the sine wave.", lower_bound=0)

INPUTS = ("support_x", "support_y", "query_x")


def load(path):
    """Returns the function of a SavedModel that adapts and predicts."""
    if not tf.saved_model.contains_saved_model(path):
        raise app.UsageError(
            f"There is no SavedModel in {path!r}. `python examples/sinusoid.py`"
            " writes one to outputs/sinusoid/saved_model; --saved_model names "
            "another folder."
        )
    function = tf.saved_model.load(path).signatures["serving_default"]
    specs = function.structured_input_signature[1]
    if sorted(specs) != sorted(INPUTS):
        raise app.UsageError(
            f"The SavedModel in {path!r} takes {sorted(specs)}. This program "
            f"needs a SavedModel that takes {sorted(INPUTS)}."
        )
    return function, {name: specs[name] for name in INPUTS}


def print_signature(function, specs):
    shapes = {**specs, **function.structured_outputs}
    for name, spec in shapes.items():
        axes = ["any" if size is None else str(size) for size in spec.shape]
        arrow = "in " if name in specs else "out"
        print(f"  {arrow} {name:12s} {spec.dtype.name:8s} {' × '.join(axes)}")


def make_sine(k_shot, seed):
    """Makes a sine wave as in the paper's tasks, with 10 queries."""
    random = np.random.default_rng(seed)
    amplitude = random.uniform(0.1, 5.0)
    phase = random.uniform(0.0, np.pi)
    print(f"Task: y = {amplitude:.2f} sin(x - {phase:.2f})")
    support_x = random.uniform(-5.0, 5.0, [k_shot, 1])
    query_x = np.linspace(-5.0, 5.0, 10)[:, None]
    return {
        "support_x": support_x,
        "support_y": amplitude * np.sin(support_x - phase),
        "query_x": query_x,
        "query_y": amplitude * np.sin(query_x - phase),
    }


def takes_sines(specs):
    """Returns whether the model maps one number to one number."""
    return all(
        spec.shape.is_compatible_with([1, 1, 1]) and spec.dtype.is_floating
        for spec in specs.values()
    )


def load_data(path):
    with np.load(path) as data:
        task = {name: data[name] for name in data.files}
    known = {*INPUTS, "query_y"}
    if not set(INPUTS) <= set(task) <= known:
        raise app.UsageError(
            f"{path!r} must hold {', '.join(INPUTS)} and may hold query_y. It "
            f"holds {', '.join(task) or 'nothing'}."
        )
    return task


def check_task(task, specs):
    """Turns a task's arrays into the tensors that the SavedModel takes."""
    if len(task["support_x"]) != len(task["support_y"]):
        raise app.UsageError(
            "support_x and support_y must hold the same number of examples. "
            f"They hold {len(task['support_x'])} and {len(task['support_y'])}."
        )
    tensors = {}
    for name, spec in specs.items():
        value = np.asarray(task[name])[None]
        if not spec.shape.is_compatible_with(value.shape):
            raise app.UsageError(
                f"{name} of one task must have the shape {spec.shape[1:]}, "
                f"where None is any number. It has the shape {value.shape[1:]}."
            )
        tensors[name] = tf.constant(value, spec.dtype)
    return tensors


def predict(function, tensors):
    """Adapts to one task, and returns the predictions for its queries."""
    [outputs] = function(**tensors).values()
    return outputs[0].numpy()


def report(task, specs, outputs):
    """Prints the predictions, and their score if the truth is known.

    Returns:
        The accuracy for integer targets, and otherwise the mean squared error.
        `None` if the truth is unknown or has another shape.
    """
    classify = specs["support_y"].dtype.is_integer
    predicted = np.argmax(outputs, axis=-1) if classify else outputs
    truth = task.get("query_y")
    columns = {"predicted": predicted}
    if truth is not None:
        columns["truth"] = truth
    print_columns(columns)
    if np.shape(truth) != predicted.shape:
        return None
    if classify:
        score = float(np.mean(predicted == truth))
        print(f"Accuracy: {100 * score:.1f} % of {len(truth)} queries")
        return score
    score = float(np.mean(np.square(predicted - truth)))
    constant = np.mean(np.square(np.mean(task["support_y"], axis=0) - truth))
    print(
        f"Mean squared error: {score:.3f}; of the support set's mean as the "
        f"prediction: {constant:.3f}"
    )
    return score


def print_columns(columns, rows=20):
    """Prints arrays side by side, with one row for each query."""
    print("query" + "".join(f"{name:>16}" for name in columns))
    for number, values in enumerate(list(zip(*columns.values()))[:rows]):
        cells = [np.array2string(np.squeeze(v), precision=3) for v in values]
        print(f"{number:5d}" + "".join(f"{cell:>16}" for cell in cells))


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"Unknown arguments: {argv[1:]}")
    logging.set_verbosity(logging.ERROR)
    function, specs = load(FLAGS.saved_model)
    print(f"{FLAGS.saved_model}:")
    print_signature(function, specs)
    if FLAGS.data is None:
        if not takes_sines(specs):
            raise app.UsageError(
                "This model does not learn sine waves. Pass a task in --data."
            )
        task = make_sine(FLAGS.k_shot, FLAGS.seed)
    else:
        task = load_data(FLAGS.data)
    tensors = check_task(task, specs)
    predict(function, tensors)  # The first call also prepares the graph.
    started = time.time()
    outputs = predict(function, tensors)
    milliseconds = 1000 * (time.time() - started)
    print(
        f"Adapted to {len(task['support_x'])} support examples, predicted "
        f"{len(outputs)} queries: {milliseconds:.1f} ms"
    )
    report(task, specs, outputs)


if __name__ == "__main__":
    app.run(main)
