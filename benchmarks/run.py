"""Times meta-training steps through `fit`; prints one JSON line.

    python -m benchmarks.run --workload=omni5w1s
    python -m benchmarks.run --workload=sine5 --engine=loop --first_order

A step is what a user gets from `meta_model.fit`: the input pipeline that hands
over a meta-batch, inner loop, meta-gradient and Adam. The line has the form of
the peer libraries' runner.
"""

import dataclasses
import json
import os
import statistics
import time

from absl import app
from absl import flags

WORKLOADS = ["sine1", "sine5", "omni5w1s", "omni20w1s", "mini5w1s"]
# What a user can choose: `task_map` of MetaModel, `jit_compile` of compile.
ENGINES = {
    "default": ("auto", "auto"),
    "loop": ("loop", "auto"),
    "loop_kernels": ("loop", False),
    "loop_xla": ("loop", True),
    "vectorized": ("vectorized", "auto"),
    "vectorized_kernels": ("vectorized", False),
    "vectorized_xla": ("vectorized", True),
}

FLAGS = flags.FLAGS
flags.DEFINE_enum("workload", None, WORKLOADS, "What is trained.")
flags.DEFINE_enum("engine", "default", list(ENGINES), "How it is run.")
flags.DEFINE_bool("first_order", False, "First-order MAML.")
flags.DEFINE_integer("steps", 20, "Steps to time.", lower_bound=1)
flags.DEFINE_float(
    "max_seconds", float("inf"), "Time no further step after so long."
)
flags.DEFINE_bool("rematerialize", False, "Of `SecondOrder`.")
flags.DEFINE_bool("configure_threads", True, "Call `configure_threads`.")
flags.DEFINE_integer("task_parallelism", None, "Of `MetaModel`.")
flags.DEFINE_integer("steps_per_execution", None, "Of `compile`.")
flags.DEFINE_integer("tasks", None, "Tasks of a meta-batch, for another size.")
flags.DEFINE_integer("inner_steps", None, "Inner steps, for another number.")
flags.DEFINE_integer("width", None, "Units or filters, for another width.")
flags.DEFINE_integer("layers", None, "Hidden dense layers.")
flags.DEFINE_integer("support", None, "Support examples (of each class).")
flags.DEFINE_integer("query", None, "Query examples (of each class).")


def memory(field):
    """`VmRSS`, what the process holds, or `VmHWM`, its peak; in MiB."""
    with open("/proc/self/status") as status:
        for line in status:
            if line.startswith(field + ":"):
                return int(line.split()[1]) / 1024
    raise KeyError(field)


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"Arguments that are not flags: {argv[1:]}")
    # Two cores, as the peers are given.
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:2])
    if FLAGS.workload == "mini5w1s":
        # What docs/performance.md advises for images of this size.
        os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")

    # TensorFlow reads the environment when it is imported.
    from benchmarks import workloads

    names = {f.name for f in dataclasses.fields(workloads.Workload)}
    changes = {name: FLAGS[name].value for name in names & set(FLAGS)}
    workload = dataclasses.replace(
        workloads.WORKLOADS[FLAGS.workload],
        **{k: v for k, v in changes.items() if v is not None},
    )
    meta_model = make_model(workload)
    batches = [workloads.make_meta_batch(workload, seed) for seed in (1, 2)]
    start_weights = meta_model.learner.get_weights()
    start_memory = memory("VmRSS")
    line = time_steps(meta_model, workload, batches)
    line["peak_rss_mb"] = round(memory("VmHWM"), 1)
    line["start_rss_mb"] = round(start_memory, 1)
    line.update(device_memory())
    # The loss of the first step alone, to be held against the peers'.
    meta_model.learner.set_weights(start_weights)
    meta_model.compile(optimizer="sgd", loss=meta_model.loss)
    first_loss = meta_model.train_on_batch(*batches[0])
    line["first_loss"] = round(float(first_loss), 5)
    print(json.dumps(line), flush=True)


def device_memory():
    """The most memory of a GPU that was in use, in MiB, if there is one."""
    import tensorflow as tf

    if not tf.config.list_physical_devices("GPU"):
        return {}
    peak = tf.config.experimental.get_memory_info("GPU:0")["peak"]
    return {"peak_device_mb": round(peak / 2**20, 1)}


def make_model(workload):
    """The compiled `MetaModel` of a workload, run as the flags say."""
    import keras

    import keras_maml
    from benchmarks import workloads

    if FLAGS.configure_threads:
        keras_maml.configure_threads()
    task_map, jit_compile = ENGINES[FLAGS.engine]
    meta_model = keras_maml.MetaModel(
        workloads.make_learner(workload),
        inner_optimizer=workload.inner_rate,
        inner_steps=workload.inner_steps,
        meta_gradient=keras_maml.meta_gradients.FirstOrder()
        if FLAGS.first_order
        else keras_maml.meta_gradients.SecondOrder(FLAGS.rematerialize),
        task_map=task_map,
        task_parallelism=FLAGS.task_parallelism,
    )
    meta_model.compile(
        optimizer=keras.optimizers.Adam(1e-3, epsilon=1e-8),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        if workload.n_way
        else "mse",
        jit_compile=jit_compile,
        steps_per_execution=workload.steps_per_execution,
    )
    return meta_model


def time_steps(meta_model, workload, batches):
    """Trains on two meta-batches in turn; returns the figures of a step."""
    import keras
    import tensorflow as tf

    dataset = tf.data.Dataset.from_tensors(batches[0])
    dataset = dataset.concatenate(tf.data.Dataset.from_tensors(batches[1]))
    # In place: a dataset that starts anew every other step costs 0.1 ms.
    dataset = dataset.repeat(100).cache()

    class Times(keras.callbacks.Callback):
        """When executions end."""

        ends = []
        processor = []

        def on_train_batch_end(self, batch, logs=None):
            self.ends.append(time.perf_counter())
            self.processor.append(time.process_time())
            over = self.ends[-1] - started > FLAGS.max_seconds
            # Two executions come before those that count.
            self.model.stop_training = over and len(self.ends) > 4

    # One execution compiles, one warms up.
    steps_per_execution = workload.steps_per_execution
    executions = 2 + max(3, -(-FLAGS.steps // steps_per_execution))
    started = time.perf_counter()
    meta_model.fit(
        dataset.repeat(),
        steps_per_epoch=executions * steps_per_execution,
        callbacks=[Times()],
        shuffle=False,
        verbose=0,
    )
    ends = Times.ends
    processor = Times.processor[-1] - Times.processor[1]
    seconds = [
        (end - start) / steps_per_execution
        for start, end in zip(ends[1:], ends[2:])
    ]
    median = statistics.median(seconds)
    timed = len(seconds) * steps_per_execution
    first = ends[0] - started
    return {
        "peer": "keras_maml",
        "engine": FLAGS.engine,
        "workload": FLAGS.workload,
        "first_order": FLAGS.first_order,
        "median_s_per_step": round(median, 6),
        "min_s": round(min(seconds), 6),
        "max_s": round(max(seconds), 6),
        "tasks_per_s": round(workload.tasks / median, 2),
        "compile_s": round(first - median * steps_per_execution, 3),
        "timed_steps": timed,
        "cpu_s_per_step": round(processor / timed, 6),
    }


if __name__ == "__main__":
    flags.mark_flag_as_required("workload")
    app.run(main)
