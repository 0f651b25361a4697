"""EvaluationReport: what is known of a model's scores on many episodes."""

from collections.abc import Mapping
from collections.abc import Sequence
from os import PathLike
from typing import NamedTuple

import numpy as np

from keras_maml.evaluation import report_file
from keras_maml.evaluation import report_picture
from keras_maml.evaluation import report_text
from keras_maml.evaluation import statistics
from keras_maml.evaluation.calibration import Calibration
from keras_maml.validation import check_choice
from keras_maml.validation import check_integer


class ScoreSummary(NamedTuple):
    """The mean of a metric after a number of inner steps.

    Attributes:
        mean: float, the mean over episodes.
        ci95: tuple `(low, high)`, Student's 95 % interval over episodes.
        bootstrap95: tuple `(low, high)`, the BCa bootstrap's 95 % interval.
        tasks95: tuple `(low, high)`, the 95 % interval over the groups, tasks
            or classes that episodes share. `None` if they share none.
    """

    mean: float
    ci95: tuple[float, float]
    bootstrap95: tuple[float, float]
    tasks95: tuple[float, float] | None


class WorstTask(NamedTuple):
    """A task with a bad score.

    Attributes:
        score: float, the mean over the task's episodes.
        episodes: list of ints, their numbers.
        names: tuple of strings, the task; or the classes of the episode.
    """

    score: float
    episodes: list[int]
    names: tuple[str, ...]


class EvaluationReport:
    """The scores of a model on many episodes, and what follows from them.

    `keras_maml.evaluate_episodes` makes a report. To compare a model that is
    no `MetaModel`, make a report of its scores.

    Args:
        scores: dict from the name of a metric to its values, an array
            `(steps + 1, E)`, after 0, 1, ... inner steps in each of E
            episodes. A model that does not adapt has an array `(1, E)`.
        episodes: list of ints, `(E,)`, the numbers of the episodes. Defaults
            to 0, 1, ...
        name: string, how to call the model in texts.
        directions: dict from a metric to `"up"`, if higher values are better,
            or `"down"`. `"loss"` is always `"down"`.
        tasks: for each episode the name of its task, if several episodes share
            a task (a person, a machine); or a tuple of such names (classes).
        groups: for each episode the name of its task's group, if several tasks
            are one (a person's two arms). Then groups are independent, and
            tasks are not.
        checksums: list of ints, `(E,)`, a checksum of the targets of each
            episode. `compare` makes sure that they are equal.
        facts: dict of further facts, see `evaluate_episodes`.

    Attributes:
        scores, episodes, name, directions, tasks, groups, checksums, facts: see
            above.
        steps: int, the number of inner steps after which there are scores.
        metric: string, the metric that texts are about: the first one whose
            direction is known, before the loss.

    Raises:
        ValueError: if an argument does not have the form above, or if a score
            is not finite.

    Example:

    ```python
    report = keras_maml.EvaluationReport(
        {"accuracy": [[0.2, 0.2, 0.1, 0.3], [0.9, 0.7, 0.8, 0.8]]},
        directions={"accuracy": "up"},
        tasks=["Ann", "Ann", "Bob", "Cid"],
    )
    print(report.summary().mean)  # 0.8
    print(report.tasks[0])  # ("Ann",)
    ```
    """

    def __init__(
        self,
        scores: Mapping[str, Sequence],
        episodes: Sequence[int] | None = None,
        *,
        name: str = "model",
        directions: Mapping[str, str] | None = None,
        tasks: Sequence | None = None,
        groups: Sequence[str] | None = None,
        checksums: Sequence[int] | None = None,
        facts: Mapping | None = None,
    ) -> None:
        self.scores = {
            metric: _values(metric, values) for metric, values in scores.items()
        }
        self.steps, count = _shape(self.scores)
        if episodes is None:
            episodes = range(count)
        self.episodes = np.asarray(episodes, np.int64)
        self.name = name
        self.directions = {**(directions or {}), "loss": "down"}
        self.tasks = None
        if tasks is not None:
            self.tasks = [_names("tasks", names) for names in tasks]
        self.groups = None
        if groups is not None:
            self.groups = [_names("groups", name) for name in groups]
        self.checksums = None
        if checksums is not None:
            self.checksums = np.asarray(checksums, np.uint32)
        for argument in ("episodes", "tasks", "groups", "checksums"):
            values = getattr(self, argument)
            if values is not None and len(values) != count:
                raise ValueError(
                    f"`{argument}` must have a value for each of the {count} "
                    f"episodes. Received: {len(values)} values"
                )
        if len(np.unique(self.episodes)) < count:
            raise ValueError(
                "`episodes` must be different numbers: an episode that counts "
                f"twice says nothing new. Received: episodes={episodes!r}"
            )
        self.facts = dict(facts or {})
        self._summaries: dict | None = None

    @property
    def metric(self) -> str:
        for metric in self.scores:
            if metric != "loss" and self.directions.get(metric):
                return metric
        return "loss" if "loss" in self.scores else next(iter(self.scores))

    def summary(
        self, metric: str | None = None, inner_steps: int | None = None
    ) -> ScoreSummary:
        """Returns the mean of a metric, and its intervals.

        Args:
            metric: string. Defaults to `metric`, the main one.
            inner_steps: int. Defaults to `steps`, the last one.

        Raises:
            ValueError: if there is no such metric or number of steps.
        """
        metric, inner_steps = self.check(metric, inner_steps)
        if self._summaries is None:
            self._summaries = self._summarize()
        return self._summaries[metric, inner_steps]

    def values(
        self, metric: str | None = None, inner_steps: int | None = None
    ) -> np.ndarray:
        """Returns the values of a metric, `(E,)`; arguments as in `summary`."""
        metric, inner_steps = self.check(metric, inner_steps)
        return self.scores[metric][inner_steps]

    def worst(
        self, share: float = 0.1, metric: str | None = None
    ) -> list[WorstTask]:
        """Returns the tasks with the worst scores after the last inner step.

        Args:
            share: float, the share of all tasks. At least one is returned.
            metric: string, one whose direction is known. Defaults to the main
                one.

        Returns:
            A list of `WorstTask`, the worst one first. If each episode has one
            task, the scores are means over each task's episodes. Otherwise
            each episode counts as a task.

        Raises:
            ValueError: if there is no such metric, or if its direction is
                unknown.
        """
        metric, steps = self.check(metric, None)
        direction = self.directions.get(metric)
        if direction is None:
            raise ValueError(
                "`metric` must be a metric of which it is known whether high "
                f"values are good. Received: metric={metric!r}, known are "
                f"{self.directions}"
            )
        values = self.scores[metric][steps]
        tasks = [
            WorstTask(
                float(np.mean(values[rows], dtype=np.float64)),
                [int(number) for number in self.episodes[rows]],
                names,
            )
            for names, rows in self._rows_of_tasks()
        ]
        tasks.sort(key=lambda t: t.score, reverse=direction == "down")
        return tasks[: max(1, round(share * len(tasks)))]

    def calibration(self, inner_steps: int | None = None) -> Calibration | None:
        """Returns the `Calibration` of a classifier after some inner steps.

        Args:
            inner_steps: int. Defaults to `steps`, the last one.

        Returns:
            `None` if the model is no classifier.
        """
        _, inner_steps = self.check(None, inner_steps)
        sums = self.facts.get("bins")
        return (
            None if sums is None else Calibration.from_sums(sums[inner_steps])
        )

    def alarms(self) -> list[str]:
        """Returns a sentence for each reason to doubt the scores."""
        return report_text.alarms(self)

    def to_json(self, path: str | PathLike[str]) -> None:
        """Writes the report to a file, which `load` reads.

        Args:
            path: path of the file.
        """
        report_file.write(self, path)

    @classmethod
    def load(cls, path: str | PathLike[str]) -> "EvaluationReport":
        """Returns the report in a file.

        Args:
            path: path of a file that `to_json` wrote.

        Raises:
            ValueError: if the file holds no report.
        """
        return cls(**report_file.read(path))

    def to_markdown(self) -> str:
        """Returns the report as text, with tables."""
        return report_text.markdown(self)

    def plot(self, path: str | PathLike[str] | None = None) -> object:
        """Draws the scores by inner steps, the episodes and the calibration.

        Args:
            path: path of the picture. Its ending tells the format. Defaults
                to `None`: nothing is written.

        Returns:
            A `matplotlib.figure.Figure`.

        Raises:
            ImportError: if matplotlib is not installed.
        """
        return report_picture.draw(self, path)

    def check(
        self, metric: str | None, inner_steps: int | None
    ) -> tuple[str, int]:
        """Returns a metric and a number of steps of which there are scores.

        Raises:
            ValueError: if there are none.
        """
        if metric is None:
            metric = self.metric
        check_choice("metric", metric, tuple(self.scores))
        if inner_steps is None:
            inner_steps = self.steps
        return metric, check_integer("inner_steps", inner_steps, 0, self.steps)

    def __str__(self) -> str:
        return self.to_markdown()

    def _summarize(self):
        keys = [
            (metric, steps)
            for metric in self.scores
            for steps in range(self.steps + 1)
        ]
        columns = np.stack([self.scores[m][steps] for m, steps in keys], -1)
        bootstrap = statistics.bootstrap_intervals(columns)
        _, names = self.independent
        summaries = {}
        for i, key in enumerate(keys):
            estimate = statistics.mean_of(columns[:, i])
            tasks95 = None
            if names is not None:
                tasks95 = statistics.mean_over_groups(
                    columns[:, i], names
                ).interval()
            summaries[key] = ScoreSummary(
                estimate.mean,
                estimate.interval(),
                tuple(map(float, bootstrap[i])),
                tasks95,
            )
        return summaries

    @property
    def shared(self) -> str | None:
        """What several episodes share: `"tasks"`, `"classes"` or `None`."""
        if self.tasks is None or not _repeat(self.tasks):
            return None
        is_one = all(len(names) == 1 for names in self.tasks)
        return "tasks" if is_one else "classes"

    @property
    def independent(self) -> tuple[str | None, list | None]:
        """What an interval is over, if episodes are not independent.

        A word, and for each episode a tuple of names.
        """
        if self.groups is not None and _repeat(self.groups):
            return "groups", self.groups
        return (self.shared, self.tasks) if self.shared else (None, None)

    def _rows_of_tasks(self):
        """Returns pairs of a task's names and the rows of its episodes."""
        if self.tasks is None:
            return [((str(n),), [i]) for i, n in enumerate(self.episodes)]
        if self.shared != "tasks":
            return [(names, [i]) for i, names in enumerate(self.tasks)]
        rows: dict = {}
        for i, names in enumerate(self.tasks):
            rows.setdefault(names, []).append(i)
        return rows.items()


def _repeat(of_each):
    """Returns whether a name occurs in several episodes."""
    names = [name for names in of_each for name in names]
    return len(set(names)) < len(names)


def _names(argument, names):
    names = (names,) if isinstance(names, str) else names
    if not isinstance(names, Sequence) or not all(
        isinstance(name, str) for name in names
    ):
        raise ValueError(
            f"`{argument}` must hold a string, or a tuple of strings, for each "
            f"episode. Received: {names!r}"
        )
    return tuple(names)


def _values(metric, values):
    values = np.asarray(values, np.float32)
    if values.ndim != 2 or not values.size or not np.isfinite(values).all():
        raise ValueError(
            "`scores` must have finite values of shape (steps + 1, episodes), "
            f"of at least one episode. Received: {metric!r} with values of "
            f"shape {values.shape}"
        )
    return values


def _shape(scores):
    """Returns the number of steps and of episodes."""
    shapes = {values.shape for values in scores.values()}
    if len(shapes) != 1:
        raise ValueError(
            "`scores` must have arrays of one shape, (steps + 1, episodes). "
            f"Received: shapes {sorted(shapes)}"
        )
    [(rows, count)] = shapes
    return rows - 1, count
