"""Times one .tflite file on one core, with neither TensorFlow nor Keras.

    python -m benchmarks.on_device_client FILE

Prints a line of JSON. `benchmarks.on_device` runs it. A file of TensorFlow's
recipe needs TensorFlow's interpreter, with --resource_variables.
"""

import argparse
import json
import os
import pathlib
import re
import time

import numpy as np


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", type=pathlib.Path)
    parser.add_argument("--repeats", type=int, default=100)
    parser.add_argument("--episodes", type=pathlib.Path)
    parser.add_argument("--resource_variables", type=int)
    arguments = parser.parse_args()
    os.sched_setaffinity(0, list(os.sched_getaffinity(0))[:1])
    if arguments.resource_variables is not None:
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
        import tensorflow as tf

        Interpreter = tf.lite.Interpreter
    else:
        from ai_edge_litert.interpreter import Interpreter
    interpreter = Interpreter(str(arguments.file), num_threads=1)
    if arguments.episodes:
        predict(interpreter, arguments.episodes)
        line = {}
    else:
        line = timed(interpreter, arguments)
    # Unlike `ru_maxrss`, it does not count the parent's memory.
    status = pathlib.Path("/proc/self/status").read_text()
    line["memory_mb"] = int(re.search(r"VmHWM:\s*(\d+) kB", status)[1]) / 1000
    line["bytes"] = arguments.file.stat().st_size
    print(json.dumps(line))


def predict(interpreter, path):
    with np.load(path) as data:
        x = {name: data[name] for name in data.files if name != "query_y"}
    adapt = interpreter.get_signature_runner("adapt")
    predict = interpreter.get_signature_runner("predict")
    results = []
    for task in range(len(x["query_x"])):
        task = {name: array[task : task + 1] for name, array in x.items()}
        query = task.pop("query_x")
        weights = adapt(**task)
        results.append(predict(query_x=query, **weights)["predictions"])
    np.save(path.with_suffix(".predicted.npy"), np.concatenate(results))


def timed(interpreter, arguments):
    rng = np.random.default_rng(0)

    def inputs(runner, given):
        return {
            name: given[name]
            if name in given
            else np.arange(np.prod(detail["shape"]))
            .reshape(detail["shape"])
            .astype(detail["dtype"])
            if detail["dtype"] == np.int32
            else rng.standard_normal(detail["shape"]).astype(detail["dtype"])
            for name, detail in runner.get_input_details().items()
        }

    def milliseconds(runner, values):
        times = []
        for _ in range(arguments.repeats):
            start = time.perf_counter()
            runner(**values)
            times.append(time.perf_counter() - start)
        # Other programs of the machine can only make a call slower.
        return 1000 * min(times)

    if arguments.resource_variables:
        # TensorFlow 2.21's package for Python has no Flex for its interpreter.
        train = interpreter.get_signature_runner("train")
        try:
            train(**inputs(train, {}))
        except RuntimeError as error:
            return {"adapt_ms": None, "predict_ms": None, "error": str(error)}
        times = []
        for _ in range(arguments.repeats):
            start = time.perf_counter()
            for _ in range(arguments.resource_variables):
                train(**inputs(train, {}))
            times.append(time.perf_counter() - start)
        predict = interpreter.get_signature_runner("predict")
        return {
            "adapt_ms": 1000 * min(times),
            "predict_ms": milliseconds(predict, inputs(predict, {})),
        }
    adapt = interpreter.get_signature_runner("adapt")
    support = inputs(adapt, {})
    predict = interpreter.get_signature_runner("predict")
    query = inputs(predict, adapt(**support))
    return {
        "adapt_ms": milliseconds(adapt, support),
        "predict_ms": milliseconds(predict, query),
    }


if __name__ == "__main__":
    main()
