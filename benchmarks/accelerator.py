"""Times the forms of a meta-batch, and peers, on the GPU of this machine.

    python -m benchmarks.accelerator --peak_tflops=67
    python -m benchmarks.accelerator --peers_python=PYTHON --peers_dir=DIR
    python -m benchmarks.accelerator --only_count

Prints a table: the milliseconds of a step, the memory of the GPU, and the share
of the GPU's peak by number of tasks. Without a GPU, it says so and ends.
`--only_count` needs none: it counts the operations that a step launches.
"""

import json
import math
import os
import pathlib
import subprocess
import sys

from absl import app
from absl import flags

# Names of our forms, and the engines of `benchmarks.run`.
FORMS = {
    "loop": "loop_kernels",
    "vectorized": "vectorized_kernels",
    "one program": "vectorized_xla",
}
PEERS = ["jax_vmap", "torchfunc_vmap"]

FLAGS = flags.FLAGS
flags.DEFINE_string("peers_python", None, "The peers' Python interpreter.")
flags.DEFINE_string("peers_dir", None, "The folder of the peers' modules.")
flags.DEFINE_list("workloads", ["sine5", "omni5w1s"], "What is timed.")
flags.DEFINE_list("tasks", ["8", "32", "128", "512"], "Sizes of meta-batches.")
flags.DEFINE_float("seconds", 8.0, "About how long each run times steps.")
flags.DEFINE_float(
    "peak_tflops",
    None,
    "What the GPU computes at most, in 10¹² operations a second in the "
    "precision of the runs, for the share of it.",
)
flags.DEFINE_bool("only_count", False, "Count operations, and time nothing.")


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"Arguments that are not flags: {argv[1:]}")
    if (FLAGS.peers_python is None) != (FLAGS.peers_dir is None):
        raise app.UsageError("--peers_python and --peers_dir go together.")
    if FLAGS.only_count:
        print_counts()
        return
    card = gpu()
    if card is None:
        sys.exit(
            "This benchmark needs a GPU that TensorFlow can use, and found "
            "none. To count what a step would launch, pass --only_count."
        )
    print(f"{card}\n")
    print("| workload | tasks | form | step | tasks/s | memory | of the peak |")
    print("|---|---|---|---|---|---|---|")
    for workload in FLAGS.workloads:
        for tasks in map(int, FLAGS.tasks):
            for name, command in commands(workload, tasks):
                line = run(command)
                print(row(workload, tasks, name, line), flush=True)


def gpu():
    """The name, driver and memory of the GPU, or `None`.

    In a process of its own, because TensorFlow would keep the memory.
    """
    program = (
        "import tensorflow as tf\n"
        "print(len(tf.config.list_physical_devices('GPU')))\n"
    )
    found = output_of(sys.executable, "-c", program)
    if found.split()[-1] == "0":
        return None
    fields = "--query-gpu=name,driver_version,memory.total"
    return output_of("nvidia-smi", fields, "--format=csv,noheader")


def output_of(*command):
    """What a command prints."""
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
    ).stdout.strip()


def commands(workload, tasks):
    """Yields the name of a form or a peer, and the command that times it."""
    for name, engine in FORMS.items():
        yield (
            name,
            [
                *(sys.executable, "-m", "benchmarks.run"),
                f"--workload={workload}",
                f"--engine={engine}",
                f"--tasks={tasks}",
                f"--max_seconds={FLAGS.seconds}",
                "--steps=1000",
                "--steps_per_execution=1",
            ],
        )
    if FLAGS.peers_python is None:
        return
    program = pathlib.Path(__file__).parent / "peer.py"
    changes = json.dumps({"meta_batch": tasks})
    for peer in PEERS:
        arguments = [FLAGS.peers_dir, peer, workload, str(FLAGS.seconds)]
        arguments += ["gpu", changes]
        yield peer, [FLAGS.peers_python, str(program), *arguments]


def run(command):
    """The JSON line that a command prints, or `None` if it failed."""
    environment = {
        **os.environ,
        "TF_CPP_MIN_LOG_LEVEL": "3",
        # So that the memory in use is what a step needs.
        "TF_FORCE_GPU_ALLOW_GROWTH": "true",
    }
    result = subprocess.run(
        command, capture_output=True, text=True, env=environment, check=False
    )
    lines = [line for line in result.stdout.splitlines() if line[:1] == "{"]
    if result.returncode or not lines:
        print(" ".join(command), result.stderr[-2000:], file=sys.stderr)
        return None
    return json.loads(lines[-1])


def row(workload, tasks, name, line):
    """A row of the table; dashes for a run that failed, as out of memory."""
    if line is None:
        return f"| {workload} | {tasks} | {name} | – | – | – | – |"
    seconds = line["median_s_per_step"]
    share = "–"
    if FLAGS.peak_tflops is not None:
        share = arithmetic(workload, tasks) / seconds / FLAGS.peak_tflops
        share = f"{100 * share / 1e12:.1f} %"
    return (
        f"| {workload} | {tasks} | {name} | {1e3 * seconds:.2f} ms | "
        f"{tasks / seconds:.0f} | {line['peak_device_mb']:.0f} MiB | {share} |"
    )


def arithmetic(name, tasks):
    """The additions and multiplications of a second-order step.

    An inner step takes three products of each layer on the support set, and
    six on the way back; the query set takes three.
    """
    from benchmarks import workloads

    workload = workloads.WORKLOADS[name]
    ways = workload.n_way or 1
    products = 0
    for layer in workloads.make_learner(workload).layers:
        if not hasattr(layer, "kernel"):
            continue
        places = math.prod(layer.output.shape[1:-1])
        products += places * math.prod(layer.kernel.shape)
    examples = ways * (
        9 * workload.inner_steps * workload.support + 3 * workload.query
    )
    return 2.0 * tasks * examples * products


# -- What a step launches

# These compute nothing, or are gone when TensorFlow has optimised the graph.
_FREE = {
    "Const",
    "Identity",
    "IdentityN",
    "NoOp",
    "Placeholder",
    "ReadVariableOp",
    "Reshape",
    "Shape",
    "StopGradient",
}


def print_counts():
    """Prints a table of the operations that a step launches, by form."""
    from benchmarks import workloads

    print("| workload | form | launched by the host | in one program |")
    print("|---|---|---|---|")
    for name in FLAGS.workloads:
        workload = workloads.WORKLOADS[name]
        for form in ("loop", "vectorized"):
            step, batch = make_step(workload, form, jit_compile=False)
            graph = step.get_concrete_function(batch).graph
            count = operations(graph, workload.tasks)
            print(f"| {name} | {form} | {count:,} | – |", flush=True)
        step, batch = make_step(workload, "vectorized", jit_compile=True)
        show = step.experimental_get_compiler_ir(batch)
        count = instructions(show(stage="optimized_hlo"))
        print(f"| {name} | one program | 1 | {count:,} |", flush=True)


def make_step(workload, form, jit_compile):
    """The step of a form, a `tf.function`, and a meta-batch."""
    import keras
    import tensorflow as tf

    import keras_maml
    from benchmarks import workloads
    from keras_maml import devices

    meta_model = keras_maml.MetaModel(
        workloads.make_learner(workload),
        inner_optimizer=workload.inner_rate,
        inner_steps=workload.inner_steps,
        task_map=form,
        # One chunk: on a CPU, this is the number of chunks at a time.
        task_parallelism=workload.tasks if devices.accelerators() else 1,
    )
    meta_model.compile(
        "adam",
        keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        if workload.n_way
        else "mse",
        jit_compile=jit_compile,
    )
    batch = workloads.make_meta_batch(workload, seed=0)
    meta_model.make_train_function()
    # As in `fit`, which looks for bad tasks after a step.
    meta_model.meta_state.bad_tasks.is_read = True
    step = tf.function(
        meta_model.train_step, autograph=False, jit_compile=jit_compile
    )
    return step, batch


def operations(graph, tasks):
    """How often a step calls an operation, its loops being over tasks."""
    from keras_maml import tensorflow_internals

    total = 0
    for operation in graph.get_operations():
        called = tensorflow_internals.called_graphs(operation)
        inside = sum(operations(each, tasks) for each in called)
        if "While" in operation.type:
            inside *= tasks
        total += inside + (not called and operation.type not in _FREE)
    return total


def instructions(program):
    """The instructions of a compiled program that are calls of a kernel."""
    entry = program[program.index("\nENTRY") :]
    kernels = (" fusion(", " dot(", " custom-call(", " call(", " convolution(")
    return sum(entry.count(kernel) for kernel in kernels)


if __name__ == "__main__":
    app.run(main)
