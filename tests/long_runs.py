"""What grows in a long run: `python -m tests.long_runs NAME`, one JSON line.

A process of its own for each run, so that its memory is its own.
"""

import gc
import json
import queue
import resource
import sys
import threading
import tracemalloc

import keras
import numpy as np

import keras_maml
from keras_maml import rl
from tests.sample_models import regression_batch
from tests.sample_models import small_mlp

# Steps, fits, calls: the first of them warm up.
COUNTS = {
    "steps": 20_000,
    "fits": 100,
    "adapts": 5_000,
    "predicts": 500,
    "evaluations": 300,
    "episodes": 10_000,
    "collects": 60,
}


def meta_model():
    model = keras_maml.MetaModel(small_mlp(), task_map="loop")
    model.compile("adam", loss="mse")
    return model


def run_steps(count):
    """`fit` in epochs of 500 steps over a stream."""
    model = meta_model()
    stream = keras_maml.tasks.Sinusoid(5, 5, seed=0).batch(2)
    for _ in range(count // 500):
        model.fit(stream, steps_per_epoch=500, verbose=0)
        yield 500


def run_fits(count):
    """As many `fit`s of one model, of 5 steps."""
    model = meta_model()
    stream = keras_maml.tasks.Sinusoid(5, 5, seed=0).batch(2)
    for _ in range(count):
        model.fit(stream, steps_per_epoch=5, verbose=0)
        yield 1


def run_adapts(count):
    model = meta_model()
    x, _ = regression_batch(tasks=1)
    for _ in range(count):
        adapted = model.adapt(x["support_x"][0], x["support_y"][0])
        adapted(x["query_x"][0])
        yield 1


def run_predicts(count):
    """Every call with another number of support examples and of queries."""
    model = meta_model()
    for i in range(count):
        x, _ = regression_batch(tasks=2, support=2 + i, query=1 + i % 7)
        model.predict(x, verbose=0)
        yield 1


def run_evaluations(count):
    model = meta_model()
    batches = keras_maml.tasks.Sinusoid(5, 5, seed=0).batch(2, count=4)
    for _ in range(count):
        keras_maml.evaluate_tasks(
            model, batches, keras.losses.mean_squared_error
        )
        yield 1


def run_episodes(count):
    """One pass of `evaluate_episodes`, in a thread that waits for batches."""
    model = meta_model()
    batches: queue.Queue = queue.Queue(1)
    thread = threading.Thread(
        target=lambda: keras_maml.evaluate_episodes(
            model, iter(batches.get, None), inner_steps=5, verbose=0
        )
    )
    thread.start()
    for batch in keras_maml.tasks.Sinusoid(5, 5, seed=0).batch(20, count):
        batches.put(batch)
        yield 20
    batches.put(None)
    thread.join()


def run_collects(count):
    """`collect` of a policy search whose settings change each time."""
    environment = rl.PointNavigation(horizon=2)
    search = rl.MetaPolicySearch(
        rl.mlp_policy(environment, hidden_units=(4,)), environment, episodes=2
    )
    tasks = environment.tasks(2, seed=0).sample(0)
    for i in range(count):
        search.discount = 0.5 + i / (2 * count)
        search.collect(tasks)
        yield 1


def resident_mib():
    with open("/proc/self/statm") as statm:
        pages = int(statm.read().split()[1])
    return pages * resource.getpagesize() / 2**20


def measure(name, count, is_traced=True):
    """Returns the growth from a fifth of a run to its end.

    Args:
        name: key of `COUNTS`.
        count: int, steps, fits or calls.
        is_traced: bool. Whether Python's memory is measured, which makes all
            else slow; else it is 0.
    """
    done, marks = 0, []
    if is_traced:
        tracemalloc.start()
    run = {
        "steps": run_steps,
        "fits": run_fits,
        "adapts": run_adapts,
        "predicts": run_predicts,
        "evaluations": run_evaluations,
        "episodes": run_episodes,
        "collects": run_collects,
    }[name]
    for some in run(count):
        done += some
        if done * 5 >= count * (len(marks) + 1):
            gc.collect()
            marks.append(
                (
                    done,
                    round(resident_mib(), 1),
                    round(tracemalloc.get_traced_memory()[0] / 2**20, 2),
                    len(gc.get_objects()),
                )
            )
    tracemalloc.stop()
    columns = ("done", "resident_mib", "python_mib", "objects")
    return {"run": name, **dict(zip(columns, map(list, zip(*marks))))}


if __name__ == "__main__":
    keras.utils.set_random_seed(0)
    np.random.default_rng(0)
    name = sys.argv[1]
    count = int(sys.argv[2]) if len(sys.argv) > 2 else COUNTS[name]
    print(json.dumps(measure(name, count)))
