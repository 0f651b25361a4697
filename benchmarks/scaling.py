"""How time and memory grow with tasks, inner steps and width.

    python -m benchmarks.scaling

Runs `benchmarks.run` for each size, and writes the table and the picture of
docs/performance.md.
"""

import collections
import json
import os
import pathlib
import subprocess
import sys

from absl import app
from absl import flags

from benchmarks import report

REMATERIALIZE = "--rematerialize"
# The flag that is varied, a workload, other flags, and the values.
SIZES = [
    ("tasks", "sine5", [], [8, 32, 64, 128, 256]),
    ("tasks", "omni5w1s", [], [8, 32, 64, 128, 256]),
    ("inner_steps", "sine5", [], [1, 2, 5, 10, 20]),
    ("inner_steps", "omni20w1s", [], [1, 2, 5, 10, 20]),
    ("inner_steps", "sine5", [REMATERIALIZE], [2, 5, 10, 20, 100]),
    ("inner_steps", "omni20w1s", [REMATERIALIZE], [2, 5, 10, 20]),
    ("width", "sine5", [], [20, 40, 80, 160]),
    ("width", "omni5w1s", [], [16, 32, 64, 128]),
]

FLAGS = flags.FLAGS
flags.DEFINE_float("seconds", 4.0, "About how long each size times steps.")
flags.DEFINE_string(
    "docs", "docs", "The folder of performance.md and its pictures."
)


def run(workload, flag, value, others):
    """The line that `benchmarks.run` prints for one size."""
    steps = 3000 if workload.startswith("sine") else 50
    output = subprocess.run(
        [
            *(sys.executable, "-m", "benchmarks.run"),
            f"--workload={workload}",
            f"--{flag}={value}",
            f"--steps={steps}",
            f"--max_seconds={FLAGS.seconds}",
            *others,
        ],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
    ).stdout
    return json.loads(output.splitlines()[-1])


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"Arguments that are not flags: {argv[1:]}")
    # By flag, then by the name of a curve: points of value, seconds, MiB.
    results = collections.defaultdict(dict)
    rows = [
        "| workload | size | step | memory growth | first step |",
        "|---|---|---|---|---|",
    ]
    for flag, workload, others, values in SIZES:
        name = workload + (", rematerialised" if others else "")
        points = results[flag].setdefault(name, [])
        for value in values:
            line = run(workload, flag, value, others)
            step = line["median_s_per_step"]
            growth = line["peak_rss_mb"] - line["start_rss_mb"]
            points.append((value, step, growth))
            rows.append(
                f"| {name} | `{' '.join([f'--{flag}={value}', *others])}` | "
                f"{report.seconds(step)} | {growth:.0f} MiB | "
                f"{line['compile_s'] + step:.1f} s |"
            )
            print(rows[-1], flush=True)
    docs = pathlib.Path(FLAGS.docs)
    report.replace(docs / "performance.md", "scaling", "\n".join(rows))
    report.plot_scaling(results, docs / "images" / "scaling.png")


if __name__ == "__main__":
    app.run(main)
