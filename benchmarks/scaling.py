"""How time and memory grow with tasks, inner steps and width.

    python -m benchmarks.scaling

Runs `benchmarks.run` for each size, and writes the table and the picture of
docs/performance.md.
"""

import json
import os
import pathlib
import subprocess
import sys

from absl import app
from absl import flags

from benchmarks import report

# A size: the flag, the workloads, the values, and other flags.
SIZES = {
    "tasks": ("tasks", ["sine5", "omni5w1s"], [8, 16, 32, 64, 128, 256], []),
    "inner steps": (
        "inner_steps",
        ["sine5", "omni20w1s"],
        [1, 2, 5, 10, 20],
        [],
    ),
    "inner steps, rematerialised": (
        "inner_steps",
        ["sine5", "omni20w1s"],
        [1, 2, 5, 10, 20, 100],
        ["--rematerialize"],
    ),
    "width": ("width", ["sine5", "omni5w1s"], [16, 32, 64, 128], []),
}
# More would take minutes a step.
LARGEST = {("inner steps, rematerialised", "omni20w1s"): 20}

FLAGS = flags.FLAGS
flags.DEFINE_float("seconds", 5.0, "About how long each size times steps.")
flags.DEFINE_string("docs", "docs", "The folder of performance.md.")


def run(workload, flag, value, others):
    """The line that `benchmarks.run` prints for one size."""
    steps = 1000 if workload.startswith("sine") else 20
    output = subprocess.run(
        [
            sys.executable,
            "-m",
            "benchmarks.run",
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
    results = {}
    rows = [
        "| size | workload | value | step | memory growth | first step |",
        "|---|---|---|---|---|---|",
    ]
    for name, (flag, workloads, values, others) in SIZES.items():
        for workload in workloads:
            for value in values:
                if value > LARGEST.get((name, workload), value):
                    continue
                line = run(workload, flag, value, others)
                step = line["median_s_per_step"]
                growth = line["peak_rss_mb"] - line["start_rss_mb"]
                results.setdefault(name, {}).setdefault(workload, []).append(
                    (value, step, growth)
                )
                rows.append(
                    f"| {name} | {workload} | {value} | "
                    f"{report.seconds(step)} | {growth:.0f} MiB | "
                    f"{line['compile_s'] + step:.1f} s |"
                )
                print(rows[-1], flush=True)
    docs = pathlib.Path(FLAGS.docs)
    report.replace(docs / "performance.md", "scaling", "\n".join(rows))
    report.plot_scaling(results, docs / "images" / "scaling.png")


if __name__ == "__main__":
    app.run(main)
