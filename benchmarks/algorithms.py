"""Trains every named algorithm on Omniglot with one budget; writes a page.

    python -m benchmarks.algorithms --minutes=20 --data_dir=DIR

Runs `examples/omniglot.py --algorithm=...` for each, and writes the table and
the picture of docs/algorithms.md. What the file of --results already holds is
not run again: after an interruption, the same command goes on. To run an
algorithm anew, take its line out.
"""

import json
import pathlib
import subprocess
import sys

from absl import app
from absl import flags

from benchmarks import report
from keras_maml import algorithms

CHECKOUT = pathlib.Path(__file__).absolute().parent.parent

FLAGS = flags.FLAGS
flags.DEFINE_list("algorithms", algorithms.__all__, "What is trained.")
flags.DEFINE_float(
    "minutes",
    20.0,
    "Of training for each, on all cores, by processor time.",
    lower_bound=0.0,
)
flags.DEFINE_integer("n_way", 20, "Classes of an episode.", lower_bound=2)
flags.DEFINE_integer("test_episodes", 600, "Of held-out classes.")
flags.DEFINE_integer("seed", 0, "Of weights and episodes.", lower_bound=0)
flags.DEFINE_string("data_dir", None, "The folder of the TFDS datasets.")
flags.DEFINE_string(
    "results", "docs/algorithms.jsonl", "The file of the results."
)
flags.DEFINE_string(
    "output_dir", "outputs/algorithms", "Gets the models and their pictures."
)
flags.DEFINE_string(
    "docs", "docs", "The folder of algorithms.md and its pictures."
)


def asked():
    """The flags by which a result of this comparison is known."""
    return {
        "n_way": FLAGS.n_way,
        "k_shot": 1,
        "minutes": FLAGS.minutes,
        "seed": FLAGS.seed,
        "test_episodes": FLAGS.test_episodes,
    }


def finished(path):
    """The results of this comparison so far, by algorithm."""
    if not path.exists():
        return {}
    lines = map(json.loads, path.read_text().splitlines())
    return {
        line["algorithm"]: line for line in lines if line["flags"] == asked()
    }


def run(name, path):
    command = [sys.executable, str(CHECKOUT / "examples" / "omniglot.py")]
    command += [f"--{flag}={value}" for flag, value in asked().items()]
    command += [f"--algorithm={name}", f"--results={path}", "--progress=line"]
    command.append(f"--output_dir={pathlib.Path(FLAGS.output_dir) / name}")
    if FLAGS.data_dir is not None:
        command.append(f"--data_dir={FLAGS.data_dir}")
    subprocess.run(command, check=True)


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"Arguments that are not flags: {argv[1:]}")
    path = pathlib.Path(FLAGS.results).absolute()
    path.parent.mkdir(parents=True, exist_ok=True)
    for name in FLAGS.algorithms:
        if name not in finished(path):
            run(name, path)
    results = finished(path)
    docs = pathlib.Path(FLAGS.docs)
    report.replace(
        docs / "algorithms.md", "results", report.accuracy_table(results)
    )
    report.plot_accuracy(results, docs / "images" / "algorithms.png")


if __name__ == "__main__":
    app.run(main)
