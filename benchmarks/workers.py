"""Times the steps of one process and of two that share each meta-batch.

    python -m benchmarks.workers
    python -m benchmarks.workers --workload=omni5w1s --seconds=20

Each process has one core to itself. Prints the rows of docs/scaling.md: what a
step computes and sums, its time, and the efficiency of two processes, which is
the time of one process over twice the time of two.
"""

import json
import math
import os
import socket
import statistics
import subprocess
import sys
import time

from absl import app
from absl import flags

FLAGS = flags.FLAGS
flags.DEFINE_multi_string("workload", None, "By default all five.")
flags.DEFINE_float("seconds", 10.0, "How long each run times steps.")
flags.DEFINE_integer("runs", 3, "Runs of each, of which the best counts.")
flags.DEFINE_bool("worker", False, "Whether this process is one that trains.")


def multiplications(learner):
    """Returns the multiplications of the learner for one example."""
    from keras import layers

    total = 0
    for layer in learner.layers:
        if isinstance(layer, layers.Conv2D):
            # Each position of the output multiplies the whole kernel.
            total += math.prod(layer.output.shape[1:3]) * math.prod(
                layer.kernel.shape
            )
        elif isinstance(layer, layers.Dense):
            total += math.prod(layer.kernel.shape)
    return total


def floating_point_operations(workload, learner):
    """Returns the additions and multiplications of a step, roughly.

    A forward pass over an example takes f = 2 operations a multiplication. Its
    gradient takes 2f more. An inner step is a forward pass and a gradient, 3f
    for each support example. The derivative of each of its products is two
    products, 6f. The queries take a forward pass and a gradient, 3f.
    """
    ways = workload.n_way or 1
    support = 9 * workload.inner_steps * workload.support * ways
    query = 3 * workload.query * ways
    return workload.tasks * (support + query) * 2 * multiplications(learner)


def train():
    """Trains as one worker, or alone; prints the seconds of a step."""
    import tensorflow as tf

    import keras_maml

    keras_maml.configure_threads()
    # Before anything else of TensorFlow.
    strategy = tf.distribute.get_strategy()
    if "TF_CONFIG" in os.environ:
        strategy = tf.distribute.MultiWorkerMirroredStrategy()
    import keras

    from benchmarks import workloads

    workload = workloads.WORKLOADS[FLAGS.workload[0]]
    with strategy.scope():
        meta_model = keras_maml.MetaModel(
            workloads.make_learner(workload),
            inner_optimizer=workload.inner_rate,
            inner_steps=workload.inner_steps,
        )
        meta_model.compile(
            keras.optimizers.Adam(1e-3),
            loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True)
            if workload.n_way
            else "mse",
        )
    batch = workloads.make_meta_batch(workload, seed=1)
    ends = []

    class Times(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            ends.append(time.perf_counter())

    def fit(steps):
        ends.clear()
        meta_model.fit(
            tf.data.Dataset.from_tensors(batch).repeat(),
            steps_per_epoch=steps,
            callbacks=[Times()],
            shuffle=False,
            verbose=0,
        )
        return [b - a for a, b in zip(ends, ends[1:])]

    # All workers must take the same number of steps.
    guess = statistics.median(fit(12)[2:])
    if strategy.num_replicas_in_sync > 1:
        guess = float(os.environ["BENCHMARK_SECONDS_PER_STEP"])
    steps = fit(max(20, round(FLAGS.seconds / guess)))
    learner = meta_model.learner
    print(
        json.dumps(
            {
                "seconds": statistics.median(steps),
                "weights": learner.count_params(),
                "operations": floating_point_operations(workload, learner),
            }
        )
    )


def run(workload, workers, seconds_per_step):
    """Returns what the first of so many processes prints."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(workers)]
    addresses = [f"127.0.0.1:{s.getsockname()[1]}" for s in sockets]
    for one in sockets:
        one.close()
    cores = sorted(os.sched_getaffinity(0))
    processes = []
    for index in range(workers):
        env = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
        if workers > 1:
            env["BENCHMARK_SECONDS_PER_STEP"] = str(seconds_per_step)
            env["TF_CONFIG"] = json.dumps(
                {
                    "cluster": {"worker": addresses},
                    "task": {"type": "worker", "index": index},
                }
            )
        # A process inherits the cores of the one that starts it.
        os.sched_setaffinity(0, [cores[index]])
        processes.append(
            subprocess.Popen(
                [
                    *(sys.executable, "-m", "benchmarks.workers", "--worker"),
                    f"--workload={workload}",
                    f"--seconds={FLAGS.seconds}",
                ],
                env=env,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
    os.sched_setaffinity(0, cores)
    try:
        outputs = [process.communicate(timeout=600) for process in processes]
    finally:
        for process in processes:
            process.kill()
    if any(process.returncode for process in processes):
        raise RuntimeError("\n".join(errors[-3000:] for _, errors in outputs))
    return json.loads(outputs[0][0].splitlines()[-1])


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"Arguments that are not flags: {argv[1:]}")
    if FLAGS.worker:
        return train()
    names = FLAGS.workload or [
        *("sine1", "sine5", "omni5w1s", "omni20w1s", "mini5w1s")
    ]
    print(
        "| workload | weights | kB summed | MFLOP | one, ms | two, ms | eff. |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for name in names:
        one, two = [], []
        for _ in range(FLAGS.runs):
            one.append(run(name, 1, None))
            two.append(run(name, 2, one[0]["seconds"]))
        alone, shared = (min(r["seconds"] for r in runs) for runs in (one, two))
        figures = one[0]
        print(
            f"| `{name}` | {figures['weights']:,} "
            f"| {figures['weights'] * 4 / 1e3:,.0f} "
            f"| {figures['operations'] / 1e6:,.0f} "
            f"| {alone * 1e3:.2f} | {shared * 1e3:.2f} "
            f"| {alone / shared / 2:.0%} |",
            flush=True,
        )
        spread = [
            [round(r["seconds"] * 1e3, 2) for r in runs] for runs in (one, two)
        ]
        print(f"{name}: runs {spread}", file=sys.stderr, flush=True)
    return None


if __name__ == "__main__":
    app.run(main)
