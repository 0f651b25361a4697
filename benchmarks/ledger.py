"""Runs a row of the ledger, which puts our number beside a paper's.

    python -m benchmarks.ledger omniglot_20way_1shot --data_dir=DIR --minutes=90

Trains what the row says, by the functions of an example, and appends a line to
docs/results.jsonl. To go on with a run that was stopped or killed, repeat the
command. A run that --minutes or --stop_after stops is scored on validation
tasks only. The test tasks are looked at once: when the run is complete, or with
--last.

`python -m benchmarks.ledger_table` makes the table of docs/results.md.
"""

import argparse
import datetime
import importlib
import json
import os
import pathlib
import platform
import subprocess
import sys
import time

# Hides TensorFlow's start-up messages; must come before its import.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
from absl import logging

import keras_maml
from benchmarks.ledger_rows import ROWS
from keras_maml.engine.processors import available_processors

CHECKOUT = pathlib.Path(__file__).absolute().parent.parent
RESULTS = CHECKOUT / "docs" / "results.jsonl"
# What decides about a run. Its results may have changes.
CODE = ("keras_maml", "examples", "benchmarks")


class OutOfTime(Exception):
    """Interrupts a run; `Resume` goes on with it later."""


def united(names, name):
    """Returns the names, with this one."""
    return names if name in names else [*names, name]


class Stopwatch(keras.callbacks.Callback):
    """Counts the time of training, over all parts of a run, and ends a part.

    Args:
        minutes: float, the time of this part. `None` lets it end by itself.
        stop_after: int, the training steps of the run. `None` as above.
        iterations: a function that maps the model to its training steps.
        commit: string, the commit of this part.
        machine: string, what this part runs on.
    """

    def __init__(self, minutes, stop_after, iterations, commit, machine):
        super().__init__()
        self.limit = float("inf") if minutes is None else minutes
        self.stop_after = float("inf") if stop_after is None else stop_after
        self.iterations = iterations
        self.earlier = {
            "minutes": 0.0,
            "processor_minutes": 0.0,
            "commits": [],
            "machines": [],
        }
        self.commit, self.machine = commit, machine
        self.has_begun = False

    def on_train_begin(self, logs=None):
        self.start = time.monotonic(), time.process_time()

    def on_train_batch_begin(self, batch, logs=None):
        # Not at the end of a batch: `Resume` saves there, after this callback.
        minutes = (time.monotonic() - self.start[0]) / 60
        if self.has_begun and minutes > self.limit:
            raise OutOfTime
        if self.iterations(self.model) >= self.stop_after:
            raise OutOfTime
        self.has_begun = True

    def get_state(self):
        now = time.monotonic(), time.process_time()
        minutes, processor = (
            (end - begin) / 60 for end, begin in zip(now, self.start)
        )
        return {
            "minutes": self.earlier["minutes"] + minutes,
            "processor_minutes": self.earlier["processor_minutes"] + processor,
            "commits": united(self.earlier["commits"], self.commit),
            "machines": united(self.earlier["machines"], self.machine),
        }

    def set_state(self, state):
        # A state of before the machines were counted.
        self.earlier = {**self.earlier, **state}


class Supervised:
    """What rows of supervised tasks have in common."""

    def end(self, model):
        """Ends a training that was interrupted, as `fit` does at its end."""
        model.optimizer.finalize_variable_values(model.trainable_variables)

    def iterations(self, model):
        return int(model.optimizer.iterations)


class Omniglot(Supervised):
    """The row's network of examples/omniglot.py."""

    def __init__(self, example, config, row):
        self.example, self.config = example, config
        self.tasks = example.load_tasks(config)

    def train(self, stopwatch):
        train_tasks, validation_tasks, _ = self.tasks
        return self.example.train(
            self.config, train_tasks, validation_tasks, [stopwatch]
        )[0]

    def scores(self, model, split):
        tasks = self.tasks[("train", "validation", "test").index(split)]
        return self.example.evaluate(self.config, model, tasks)


class Sinusoid(Supervised):
    """The row's network of examples/sinusoid.py."""

    def __init__(self, example, config, row):
        self.example, self.config, self.part = example, config, row.part
        self.sines = keras_maml.tasks.Sinusoid(
            config.k_shot, config.k_shot, seed=config.seed
        )

    def train(self, stopwatch):
        keras.utils.set_random_seed(self.config.seed)
        train = {
            "meta-trained": self.example.meta_train,
            "pretrained": self.example.pretrain,
        }[self.part]
        return train(self.config, self.sines, [stopwatch])

    def scores(self, model, split):
        if self.part == "pretrained":
            model = self.example.fine_tuned(self.config, model, self.sines)
        start = {
            "validation": self.example.VALIDATION_START,
            "test": self.example.TEST_START,
        }[split]
        tasks = self.sines.batch(100, count=self.config.test_tasks, start=start)
        return self.example.scores_of(model, tasks)


class Policy:
    """The row's policy of examples/navigation_rl.py or half_cheetah_rl.py."""

    def __init__(self, example, config, row):
        self.example, self.config, self.part = example, config, row.part

    def train(self, stopwatch):
        return self.example.train(
            self.config,
            self.part,
            self.config.iterations,
            inner_steps={"maml": 1, "pretrained": 0}[self.part],
            callbacks=[stopwatch],
        )[0]

    def end(self, model):
        """The outer update has no state."""

    def iterations(self, model):
        return int(model.iteration)

    def scores(self, model, split):
        tasks = self.example.held_out_tasks(self.config, split)
        return keras_maml.rl.evaluate_returns(
            model, tasks, self.config.test_steps
        )


EXPERIMENTS = {
    "omniglot": Omniglot,
    "sinusoid": Sinusoid,
    "navigation_rl": Policy,
    "half_cheetah_rl": Policy,
}


def commit():
    """Returns the commit of the code, with a `+` if the code has changed."""

    def git(*arguments):
        return subprocess.run(
            ["git", *arguments], cwd=CHECKOUT, capture_output=True, text=True
        ).stdout.strip()

    changed = git("status", "--porcelain", "--", *CODE)
    return git("rev-parse", "--short", "HEAD") + ("+" if changed else "")


def machine():
    """Returns the cores that this process may use, as a text."""
    model, vectors = platform.processor() or platform.machine(), ""
    path = pathlib.Path("/proc/cpuinfo")
    if path.exists():
        lines = path.read_text("utf-8").splitlines()
        about = dict(map(str.strip, x.split(":", 1)) for x in lines if ":" in x)
        model = about.get("model name", model)
        vectors = " with AVX-512" * (
            "avx512f" in about.get("flags", "").split()
        )
    return f"{available_processors()} × {model}{vectors}"


def is_tested(arguments):
    """Returns whether this run has looked at its test tasks."""
    if not arguments.results.exists():
        return False
    lines = map(json.loads, arguments.results.read_text("utf-8").splitlines())
    this = arguments.row, arguments.seed, all_flags(arguments)
    return any(
        this == (line["row"], line["seed"], line.get("flags", this[-1]))
        and "test" in line
        for line in lines
    )


def all_flags(arguments):
    """Returns the flags of the example, of the row and further ones."""
    return " ".join([*ROWS[arguments.row].flags.split(), *arguments.flags])


def configure(arguments):
    """Imports the row's example, and sets its flags."""
    row = ROWS[arguments.row]
    example = importlib.import_module(f"examples.{row.example}")
    folder = pathlib.Path(arguments.work_dir) / arguments.row
    argv = [row.example, *row.flags.split(), f"--seed={arguments.seed}"]
    argv += [f"--output_dir={folder / str(arguments.seed)}"]
    if "progress" in example.FLAGS:
        argv.append("--progress=line")
    if arguments.data_dir is not None and "data_dir" in example.FLAGS:
        argv.append(f"--data_dir={arguments.data_dir}")
    unknown = example.FLAGS(argv + arguments.flags)[1:]
    if unknown:
        raise SystemExit(f"Unknown arguments: {unknown}")
    return row, example


def run(arguments):
    """Trains and scores a row.

    Returns:
        A dict, the line of the ledger.
    """
    row, example = configure(arguments)
    experiment = EXPERIMENTS[row.example](example, example.FLAGS, row)
    stopwatch = Stopwatch(
        arguments.minutes,
        arguments.stop_after,
        experiment.iterations,
        commit(),
        machine(),
    )
    is_complete = True
    try:
        model = experiment.train(stopwatch)
    except OutOfTime:
        model = stopwatch.model
        experiment.end(model)
        is_complete = False
    # Before the scoring, which is no training.
    time_taken = stopwatch.get_state()
    iterations = experiment.iterations(model)
    if arguments.stop_after is not None and iterations > arguments.stop_after:
        raise SystemExit(
            "The run is beyond --stop_after. To begin anew, give another "
            f"--work_dir. Received: --stop_after={arguments.stop_after}, after "
            f"{iterations} training steps"
        )
    splits = ["validation"]
    if is_complete or arguments.last:
        splits.append("test")
    return {
        "row": arguments.row,
        "seed": arguments.seed,
        "command": command(arguments, None if is_complete else iterations),
        "flags": all_flags(arguments),
        **{split: as_json(experiment.scores(model, split)) for split in splits},
        "iterations": iterations,
        "of": iterations if is_complete else example.FLAGS.iterations,
        "paper": row.paper,
        "source": row.source,
        "paper_iterations": row.paper_iterations,
        **time_taken,
        "date": datetime.date.today().isoformat(),
    }


def as_json(scores):
    """Returns means and 95 % intervals, by the number of inner steps.

    They are `None` where a task is not finite.
    """
    return {
        steps: [None, None] if score.skipped else [score.mean, score.ci95]
        for steps, score in scores.items()
    }


def command(arguments, stop_after):
    """Returns the command of a row, without folders.

    Of a run that was stopped, it has the training steps instead of the time.
    """
    words = ["python -m benchmarks.ledger", arguments.row]
    if arguments.seed:
        words.append(f"--seed={arguments.seed}")
    if stop_after is not None:
        words.append(f"--stop_after={stop_after}")
        words += ["--last"] * arguments.last
    return " ".join(words + arguments.flags)


def parse(argv):
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.ledger",
        description=__doc__.partition("\n\n")[0],
        epilog="Further flags are those of the row's example.",
        allow_abbrev=False,
    )
    parser.add_argument("row", choices=ROWS, metavar="ROW")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--data_dir", help="The folder of the TFDS datasets.")
    parser.add_argument(
        "--work_dir", default="outputs/ledger", help="Keeps runs under way."
    )
    parser.add_argument(
        "--minutes", type=float, help="After which the run is interrupted."
    )
    parser.add_argument(
        "--stop_after",
        type=int,
        help="The training steps after which the run is interrupted.",
    )
    parser.add_argument(
        "--last",
        action="store_true",
        help="Looks at the test tasks even if the run is interrupted.",
    )
    parser.add_argument("--results", type=pathlib.Path, default=RESULTS)
    arguments, arguments.flags = parser.parse_known_args(argv)
    if arguments.stop_after is not None and arguments.stop_after < 1:
        parser.error(
            "--stop_after must be positive. Received: "
            f"--stop_after={arguments.stop_after}"
        )
    return arguments


def main(argv):
    arguments = parse(argv)
    if is_tested(arguments):
        raise SystemExit(
            f"{arguments.results} has a test score of this row and seed. To "
            "run it anew, take its line out. "
            f"Received: row={arguments.row}, seed={arguments.seed}"
        )
    logging.set_verbosity(logging.ERROR)
    line = run(arguments)
    with open(arguments.results, "a", encoding="utf-8") as file:
        file.write(json.dumps(line, ensure_ascii=False) + "\n")
    print(json.dumps(line, ensure_ascii=False))


if __name__ == "__main__":
    keras_maml.configure_threads()
    main(sys.argv[1:])
