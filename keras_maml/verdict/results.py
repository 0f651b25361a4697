"""Results in a folder, so that an interrupted verdict goes on."""

import json
import os
import pathlib

import numpy as np

from keras_maml.evaluation.evaluation_report import EvaluationReport


class Results:
    """What is known of candidates that are complete.

    Args:
        folder: path of a folder, or `None`: then nothing is kept.
        facts: dict in the form of JSON, which must be the same when a run goes
            on.

    Raises:
        ValueError: if the folder holds results of other facts.
    """

    def __init__(self, folder, facts):
        self._folder = None
        if folder is None:
            return
        self._folder = pathlib.Path(folder)
        self._folder.mkdir(parents=True, exist_ok=True)
        self.check("plan", facts)

    def check(self, name, facts):
        """Writes facts, or compares them with those that are there.

        Args:
            name: string, what the facts are about.
            facts: see `Results`.
        """
        if self._folder is None:
            return
        path = self._folder / f"{name}.json"
        facts = json.loads(json.dumps(facts))
        if not path.exists():
            _replace(path, lambda p: p.write_text(json.dumps(facts)))
            return
        there = json.loads(path.read_text())
        for argument in facts:
            if there.get(argument) != facts[argument]:
                raise ValueError(
                    "`folder` holds results of other arguments: "
                    f"`{argument}` was {there.get(argument)!r}. Choose another "
                    f"folder. Received: folder={str(self._folder)!r}, "
                    f"{argument}={facts[argument]!r}"
                )

    def prefix(self, name):
        """Returns the beginning of the paths of a fold, or `None`."""
        return None if self._folder is None else str(self._folder / name)

    def read(self, path):
        """Returns a report and weights, or `None` if there are none.

        Args:
            path: string without an ending, or `None`.
        """
        if path is None or not os.path.exists(f"{path}.json"):
            return None
        with np.load(f"{path}.npz", allow_pickle=False) as arrays:
            weights = [arrays[f"arr_{i}"] for i in range(len(arrays.files))]
        return EvaluationReport.load(f"{path}.json"), weights

    def write(self, path, report, weights):
        """Writes a report and weights. The report comes last."""
        if path is None:
            return
        _replace(f"{path}.npz", lambda p: _save(p, weights))
        _replace(f"{path}.json", report.to_json)


def _save(path, weights):
    with open(path, "wb") as file:
        np.savez(file, *weights)


def _replace(path, write):
    """Writes a file that takes the place of another when it is whole."""
    new = pathlib.Path(f"{path}.new")
    write(new)
    os.replace(new, path)
