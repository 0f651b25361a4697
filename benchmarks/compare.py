"""Times this library and its peers in turn; writes docs/performance.md's table.

    python -m benchmarks.compare
    python -m benchmarks.compare --peers_python=PYTHON --peers_dir=DIR

`DIR` holds the peers' runner, `run.py`, which `PYTHON` can run; its command
line and output are those of `benchmarks.run`, with `--peer` in the place of
`--engine`. Without the two flags only this library is timed.

Each round runs every workload once with every library, so that what else the
machine does falls on all of them. A figure is the median of its rounds.
"""

import collections
import json
import os
import pathlib
import statistics
import subprocess
import sys

from absl import app
from absl import flags

from benchmarks import report

WORKLOADS = ["sine1", "sine5", "omni5w1s", "omni20w1s", "mini5w1s"]
OURS = "keras_maml"
# Those that were the fastest or the smallest in a run of all of them.
DENSE_PEERS = ["jax_vmap", "jax_map", "learn2learn", "parallel_metalearn"]
CONV_PEERS = [
    "jax_map_im2col",
    "torchfunc_vmap",
    "torchopt",
    "learn2learn",
    "parallel_metalearn",
]

FLAGS = flags.FLAGS
flags.DEFINE_string("peers_python", None, "The peers' Python interpreter.")
flags.DEFINE_string("peers_dir", None, "The folder of the peers' `run.py`.")
flags.DEFINE_integer("rounds", 3, "How often all is run.", lower_bound=1)
flags.DEFINE_list("workloads", WORKLOADS, "What is timed.")
flags.DEFINE_float("seconds", 8.0, "About how long each run times steps.")
flags.DEFINE_string("results", None, "A file for the lines of all the runs.")
flags.DEFINE_string(
    "docs", "docs", "The folder of performance.md and its pictures."
)
flags.DEFINE_bool(
    "only_report", False, "Run nothing: read the file of --results."
)


def commands(workload, first_order):
    """Yields the name of a library and the command that times it."""
    # Steps of microseconds need many for a median.
    steps = 3000 if workload.startswith("sine") else 100
    common = [
        f"--workload={workload}",
        f"--steps={steps}",
        f"--max_seconds={FLAGS.seconds}",
    ]
    if first_order:
        common.append("--first_order")
    yield OURS, [sys.executable, "-m", "benchmarks.run", *common]
    if FLAGS.peers_python is None:
        return
    peers = DENSE_PEERS if workload.startswith("sine") else CONV_PEERS
    runner = str(pathlib.Path(FLAGS.peers_dir) / "run.py")
    for peer in peers:
        if peer == "parallel_metalearn":
            changes = json.dumps({"first_order": first_order})
            arguments = [FLAGS.peers_dir, peer, workload, str(FLAGS.seconds)]
            program = str(pathlib.Path(__file__).parent / "peer.py")
            command = [program, *arguments, "cpu", changes]
        else:
            command = [runner, f"--peer={peer}", *common]
        yield peer, [FLAGS.peers_python, *command]


def run(command):
    """The JSON line that a command prints, or `None` if it failed."""
    environment = {
        **os.environ,
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "PEERS_PYTHON": FLAGS.peers_python or "",
    }
    result = subprocess.run(
        command, capture_output=True, text=True, env=environment, check=False
    )
    lines = [line for line in result.stdout.splitlines() if line[:1] == "{"]
    if result.returncode or not lines:
        print(" ".join(command), result.stderr[-2000:], file=sys.stderr)
        return None
    return json.loads(lines[-1])


def measure():
    """Runs everything; returns the lines, each a dict."""
    lines = []
    for number in range(FLAGS.rounds):
        for workload in FLAGS.workloads:
            for first_order in (False, True):
                for name, command in commands(workload, first_order):
                    line = run(command)
                    if line is None:
                        continue
                    line["round"] = number
                    lines.append(line)
                    print(
                        number,
                        workload,
                        "first order" if first_order else "second order",
                        name,
                        line["median_s_per_step"],
                        flush=True,
                    )
                    if FLAGS.results:
                        pathlib.Path(FLAGS.results).write_text(
                            "\n".join(map(json.dumps, lines)) + "\n"
                        )
    return lines


def summarize(lines):
    """Medians over rounds, by `(workload, first_order)` and library.

    Raises:
        ValueError: if two libraries did not compute the same first loss.
    """
    groups = collections.defaultdict(lambda: collections.defaultdict(list))
    for line in lines:
        key = line["workload"], line["first_order"]
        groups[key][line["peer"]].append(line)
    summary = {}
    for key, libraries in groups.items():
        summary[key] = {}
        losses = {
            name: [line["first_loss"] for line in runs]
            for name, runs in libraries.items()
        }
        every = [loss for values in losses.values() for loss in values]
        if not max(every) - min(every) < 1e-3:
            raise ValueError(f"Not the same work on {key}: {losses}")
        for name, runs in libraries.items():
            summary[key][name] = {
                "seconds": statistics.median(
                    r["median_s_per_step"] for r in runs
                ),
                "growth": statistics.median(
                    r["peak_rss_mb"] - r["start_rss_mb"] for r in runs
                ),
                "compile": statistics.median(r["compile_s"] for r in runs),
            }
    return summary


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"Arguments that are not flags: {argv[1:]}")
    if (FLAGS.peers_python is None) != (FLAGS.peers_dir is None):
        raise app.UsageError("--peers_python and --peers_dir go together.")
    if FLAGS.only_report and FLAGS.results is None:
        raise app.UsageError("--only_report reads the file of --results.")
    if FLAGS.only_report:
        text = pathlib.Path(FLAGS.results).read_text()
        lines = list(map(json.loads, text.splitlines()))
    else:
        lines = measure()
    summary = summarize(lines)
    docs = pathlib.Path(FLAGS.docs)
    report.replace(
        docs / "performance.md", "ratios", report.ratio_table(summary, OURS)
    )
    report.plot_ratios(summary, OURS, docs / "images" / "performance.png")


if __name__ == "__main__":
    app.run(main)
