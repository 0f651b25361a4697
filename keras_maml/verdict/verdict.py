"""Verdict: whether to adapt, in words and numbers."""

import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any

from keras_maml.evaluation import report_file
from keras_maml.evaluation.comparison import Comparison
from keras_maml.evaluation.evaluation_report import EvaluationReport
from keras_maml.verdict import verdict_picture
from keras_maml.verdict import verdict_text
from keras_maml.verdict.decision import decide

_KIND = "keras_maml.Verdict"
_VERSION = 1


class Verdict:
    """Whether to adapt to each task, and what that gains.

    `keras_maml.should_i_adapt` makes a verdict. It depends on the reports
    alone:

    - Of the candidates that adapt, the best one on validation tasks is compared
      with the pooled model on test tasks, by a paired test. The answer is
      `"yes"` if it takes away at least 5 % of the pooled model's error, and
      p < 0.05. If only p is missing, the answer is `"unclear"`, and otherwise
      `"no"`. The error is the metric, or one less the metric if high values
      are good.
    - The choice is the first candidate, in the order of `reports`, that the
      best one does not beat in the same sense. A candidate that diverged on a
      test task is not chosen as the best.

    Args:
        reports: dict from a candidate to its `EvaluationReport`, the simplest
            one first.
        facts: dict, the arguments of `should_i_adapt`.

    Attributes:
        reports: see above.
        facts: see above.
        answer: `"yes"`, `"no"` or `"unclear"`.
        choice: string, the candidate to use.
        best: string, the best candidate that adapts, on validation tasks.
        gains: dict from a candidate to the share of the pooled model's error
            that it takes away, at most 1.
        comparisons: dict from a candidate that adapts to its `Comparison` with
            the pooled model. Only the p of `best` is of one hypothesis.
        model: a compiled `MetaModel` of `choice`, trained on the training
            tasks of the last fold. `None` after `load`. If the choice is not
            to adapt, `model.learner` is the pooled model.

    Example:

    ```python
    reports = {}
    for name, losses in {
        "pooled": [1.0, 2.0, 3.0],
        "maml": [0.5, 1.2, 1.9],
    }.items():
        reports[name] = keras_maml.EvaluationReport(
            {"loss": [losses]}, name=name, facts={"error": 1.0, "skipped": 0}
        )
    verdict = keras_maml.Verdict(reports)
    print(verdict.answer, verdict.choice)  # yes maml
    print(verdict.sentences()[0])
    ```
    """

    def __init__(
        self,
        reports: Mapping[str, EvaluationReport],
        facts: Mapping | None = None,
    ) -> None:
        self.reports = dict(reports)
        if "pooled" not in self.reports or len(self.reports) < 2:
            raise ValueError(
                '`reports` must have "pooled" and another candidate. '
                f"Received: reports of {list(self.reports)}"
            )
        self.facts = dict(facts or {})
        decision = decide(self.reports)
        self.answer: str = decision.answer
        self.choice: str = decision.choice
        self.best: str = decision.best
        self.gains: dict[str, float] = decision.gains
        self.comparisons: dict[str, Comparison] = decision.comparisons
        self.model: Any = None

    def sentences(self) -> list[str]:
        """Returns the verdict in words, the most important ones first."""
        return verdict_text.sentences(self)

    def to_markdown(self) -> str:
        """Returns the verdict as text, with a table."""
        return verdict_text.markdown(self)

    def plot(self, path: str | os.PathLike[str] | None = None) -> object:
        """Draws the errors of all candidates, and those of single tasks.

        Args:
            path: path of the picture. Its ending tells the format. Defaults
                to `None`: nothing is written.

        Returns:
            A `matplotlib.figure.Figure`.

        Raises:
            ImportError: if matplotlib is not installed.
        """
        return verdict_picture.draw(self, path)

    def to_json(self, path: str | os.PathLike[str]) -> None:
        """Writes the verdict to a file, which `load` reads.

        Args:
            path: path of the file.
        """
        content = {
            "kind": _KIND,
            "version": _VERSION,
            "facts": self.facts,
            "reports": {
                name: report_file.fields_of(report)
                for name, report in self.reports.items()
            },
        }
        text = json.dumps(content)
        pathlib.Path(path).write_text(text, encoding="utf-8")

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "Verdict":
        """Returns the verdict in a file.

        Args:
            path: path of a file that `to_json` wrote.

        Raises:
            ValueError: if the file holds no verdict.
        """
        content = report_file.content_of(path, _KIND, _VERSION)
        reports = {
            name: EvaluationReport(**report_file.arguments_of(path, fields))
            for name, fields in content["reports"].items()
        }
        return cls(reports, content["facts"])

    def __str__(self) -> str:
        return self.to_markdown()
