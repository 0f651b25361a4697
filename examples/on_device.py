"""Adapts an exported model to new users on a device.

The program meta-trains on sine waves and exports one .tflite file. A process of
its own then plays the device. It imports LiteRT's interpreter and NumPy, and
neither TensorFlow nor Keras nor keras_maml. For each user, it learns a sine
wave from a few points, saves the user's weights as a .npz file, loads them
back, and predicts.

    python examples/on_device.py
    python examples/on_device.py --tflite=outputs/on_device/sinusoid.tflite

Needs `pip install "keras-maml[litert]"`; the device, `pip install
ai-edge-litert`.
"""

import os
import pathlib
import subprocess
import sys
import time

import numpy as np
from absl import app
from absl import flags

FLAGS = flags.FLAGS

flags.DEFINE_string(
    "tflite",
    None,
    "A file that `MetaModel.export` wrote, of a model of sine waves. By "
    "default, the program trains a model and writes one.",
)
flags.DEFINE_integer("iterations", 3000, "Meta-training steps.", lower_bound=1)
flags.DEFINE_integer("users", 3, "Sine waves to learn.", lower_bound=1)
flags.DEFINE_integer("seed", 0, "Of weights and waves.", lower_bound=0)
flags.DEFINE_string("output_dir", "outputs/on_device", "Gets the files.")
flags.DEFINE_bool("device", False, "Play the device, with --tflite.")

K_SHOT = 10
QUERIES = 50
SIGNATURES = ("adapt", "adapt_and_predict", "predict")


# -- On the device


class Device:
    """An adaptable model on a device.

    Args:
        path: path of a .tflite file.

    Raises:
        ValueError: if the file does not hold such a model.
    """

    def __init__(self, path):
        from ai_edge_litert.interpreter import Interpreter

        try:
            interpreter = Interpreter(str(path), num_threads=1)
        except ValueError as error:
            raise ValueError(
                f"`path` must be a LiteRT file. Received: path={str(path)!r}"
            ) from error
        found = sorted(interpreter.get_signature_list())
        if found != sorted(SIGNATURES):
            raise ValueError(
                "`path` must be a file that `MetaModel.export` wrote, with the "
                f"signatures {SIGNATURES}. Received: path={str(path)!r} with "
                f"the signatures {found}"
            )
        self._interpreter = interpreter

    def adapt(self, support_x, support_y):
        """Returns a user's weights, a dict of arrays."""
        return self._call("adapt", support_x=support_x, support_y=support_y)

    def predict(self, query_x, weights):
        """Returns predictions with a user's weights."""
        return self._call("predict", query_x=query_x, **weights)["predictions"]

    def _call(self, signature, **arrays):
        runner = self._interpreter.get_signature_runner(signature)
        wanted = runner.get_input_details()
        if set(wanted) != set(arrays):
            raise ValueError(
                f"`{signature}` takes {sorted(wanted)}. "
                f"Received: {sorted(arrays)}"
            )
        for name, detail in wanted.items():
            array, shape = arrays[name], tuple(detail["shape"].tolist())
            if array.shape != shape or array.dtype != detail["dtype"]:
                dtype = np.dtype(detail["dtype"]).name
                raise ValueError(
                    f"`{name}` must have the shape {shape} and the dtype "
                    f"{dtype}. Received: {name} of shape {array.shape} and "
                    f"dtype {array.dtype.name}"
                )
            if not np.isfinite(array).all():
                raise ValueError(
                    f"`{name}` must hold finite numbers. "
                    f"Received: {name} with NaN or an infinite number"
                )
        return runner(**arrays)


def sine_wave(rng):
    """Returns a function of x with an amplitude and a phase of its own."""
    amplitude, phase = rng.uniform(0.1, 5.0), rng.uniform(0.0, np.pi)
    return lambda x: (amplitude * np.sin(x - phase)).astype("float32")


def play_device(path, folder, users, seed):
    """Learns each user's wave, and prints a table."""
    device = Device(path)
    rng = np.random.default_rng(seed)
    print("user | kB of weights | ms to adapt | error of 0 | error")
    for user in range(users):
        wave = sine_wave(rng)
        x = rng.uniform(-5.0, 5.0, (1, K_SHOT, 1)).astype("float32")
        query = np.linspace(-5, 5, QUERIES, dtype="float32").reshape(1, -1, 1)
        start = time.perf_counter()
        weights = device.adapt(x, wave(x))
        milliseconds = 1000 * (time.perf_counter() - start)
        file = pathlib.Path(folder) / f"user_{user}.npz"
        np.savez(file, **weights)
        with np.load(file) as saved:
            loaded = {name: saved[name] for name in saved.files}
        after = device.predict(query, loaded)
        errors = [np.mean((y - wave(query)) ** 2) for y in (0.0, after)]
        print(
            f"{user} | {file.stat().st_size / 1000:.0f} | {milliseconds:.2f} | "
            f"{errors[0]:.2f} | {errors[1]:.2f}"
        )
    others = {"tensorflow", "keras", "keras_maml"} & set(sys.modules)
    print(f"Imported of TensorFlow, Keras and keras_maml: {sorted(others)}")


# -- Where the model comes from


def train_and_export(path, iterations, seed):
    """Meta-trains on sine waves, and writes a LiteRT file."""
    # Hides TensorFlow's start-up messages; must come before its import.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import tensorflow as tf

    import keras_maml

    waves = keras_maml.tasks.Sinusoid(k_shot=K_SHOT, q_query=K_SHOT, seed=seed)
    meta_model = keras_maml.MetaModel(
        keras_maml.learners.mlp(seed=seed),
        inner_optimizer=0.01,
        evaluation_steps=10,
    )
    meta_model.compile(optimizer="adam", loss="mse")
    meta_model.fit(
        waves.batch(25),
        steps_per_epoch=iterations,
        verbose=2,
    )
    meta_model.export(
        path,
        format="litert",
        input_signature={
            "support_x": tf.TensorSpec((1, K_SHOT, 1), "float32"),
            "support_y": tf.TensorSpec((1, K_SHOT, 1), "float32"),
            "query_x": tf.TensorSpec((1, QUERIES, 1), "float32"),
        },
    )


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"Arguments that are not flags: {argv[1:]}")
    folder = pathlib.Path(FLAGS.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    if FLAGS.device:
        if FLAGS.tflite is None:
            raise app.UsageError("--device needs --tflite.")
        play_device(FLAGS.tflite, folder, FLAGS.users, FLAGS.seed)
        return
    path = FLAGS.tflite
    if path is None:
        path = folder / "sinusoid.tflite"
        train_and_export(path, FLAGS.iterations, FLAGS.seed)
    subprocess.run(
        [
            *(sys.executable, __file__, "--device", f"--tflite={path}"),
            *(f"--users={FLAGS.users}", f"--seed={FLAGS.seed}"),
            f"--output_dir={folder}",
        ],
        check=True,
    )


if __name__ == "__main__":
    app.run(main)
