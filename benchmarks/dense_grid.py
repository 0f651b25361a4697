"""Times dense networks of many sizes, beside peers; prints a table.

    python -m benchmarks.dense_grid --peers_python=PYTHON --peers_dir=DIR
    python -m benchmarks.dense_grid --networks=40-40:10:5:25 --seconds=5

A network is "units:points:inner steps:tasks", with layers of one width. Ours
run through `fit`, with what "auto" takes. `DIR` holds the peers' modules, see
`benchmarks/peer.py`. Memory is what a process grows by, until its peak, once
it has its framework, weights and data. Needs two quiet cores.
"""

import json
import os
import pathlib
import subprocess
import sys

from absl import app
from absl import flags

FLAGS = flags.FLAGS
flags.DEFINE_string("peers_python", None, "The peers' Python interpreter.")
flags.DEFINE_string("peers_dir", None, "The folder of the peers' modules.")
flags.DEFINE_list(
    "networks",
    [
        "20-20:10:5:25",
        "20-20-20-20:10:5:25",
        "40-40:10:1:25",
        "40-40:10:5:25",
        "40-40:10:10:25",
        "40-40:100:5:25",
        "64-64:200:3:8",
        "80-80:10:5:25",
        "128-128:20:5:25",
        "128-128:20:10:25",
        "256-256:100:5:8",
        "256-256-256:20:5:25",
        "512-512:10:1:25",
        "512-512-512-512:10:5:8",
    ],
    "What is timed.",
)
flags.DEFINE_list(
    "peers", ["jax_map", "jax_vmap", "torchfunc_vmap"], "What is beside it."
)
flags.DEFINE_bool("first_order", False, "First-order MAML.")
flags.DEFINE_float("seconds", 3.0, "About how long each is timed.")


def our_command(width, layers, points, inner_steps, tasks):
    return [
        *(sys.executable, "-m", "benchmarks.run", "--workload=sine5"),
        f"--width={width}",
        f"--layers={layers}",
        f"--support={points}",
        f"--query={points}",
        f"--inner_steps={inner_steps}",
        f"--tasks={tasks}",
        "--steps=100000",
        f"--max_seconds={FLAGS.seconds}",
        f"--steps_per_execution={100 if width < 100 else 1}",
        f"--{'' if FLAGS.first_order else 'no'}first_order",
    ]


def peer_command(peer, width, layers, points, inner_steps, tasks):
    changes = {
        "hidden": [width] * layers,
        "support": points,
        "query": points,
        "inner_steps": inner_steps,
        "meta_batch": tasks,
        "first_order": FLAGS.first_order,
    }
    program = str(pathlib.Path(__file__).parent / "peer.py")
    arguments = [FLAGS.peers_dir, peer, "sine5", str(FLAGS.seconds), "cpu"]
    return [FLAGS.peers_python, program, *arguments, json.dumps(changes)]


def run(command):
    """The JSON line that a command prints."""
    output = subprocess.run(
        command,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
    ).stdout
    lines = [line for line in output.splitlines() if line[:1] == "{"]
    return json.loads(lines[-1])


def row(network):
    """A row of the table.

    Raises:
        ValueError: if a peer did not compute the same first loss.
    """
    units, *sizes = network.split(":")
    widths = {int(width) for width in units.split("-")}
    if len(widths) != 1:
        raise app.UsageError(f"The layers differ in width: {network}")
    sizes = [widths.pop(), units.count("-") + 1, *map(int, sizes)]
    ours = run(our_command(*sizes))
    names = FLAGS.peers if FLAGS.peers_python else []
    peers = {name: run(peer_command(name, *sizes)) for name in names}
    for name, line in peers.items():
        losses = line["first_loss"], ours["first_loss"]
        if abs(losses[0] - losses[1]) > 1e-3 * max(1, abs(losses[1])):
            raise ValueError(f"Not the same work on {network}: {name} {losses}")
    lines = [ours, *peers.values()]
    times = [line["median_s_per_step"] for line in lines]
    cells = [
        *network.split(":"),
        *(f"{1e3 * seconds:.2f}" for seconds in times),
        f"{min(times[1:]) / times[0]:.2f}×" if peers else "",
        *(f"{x['peak_rss_mb'] - x['start_rss_mb']:.0f}" for x in lines),
    ]
    return f"| {' | '.join(cells)} |"


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"Arguments that are not flags: {argv[1:]}")
    if (FLAGS.peers_python is None) != (FLAGS.peers_dir is None):
        raise app.UsageError("--peers_python and --peers_dir go together.")
    names = ["ours", *(FLAGS.peers if FLAGS.peers_python else [])]
    columns = ["units", "points", "inner steps", "tasks"]
    columns += [f"{name}, ms" for name in names] + ["of the best peer"]
    columns += [f"{name}, MiB" for name in names]
    print(f"| {' | '.join(columns)} |")
    print("|---" * len(columns) + "|")
    for network in FLAGS.networks:
        print(row(network), flush=True)


if __name__ == "__main__":
    app.run(main)
