"""Reports: what they say, and what they are in a file and in a picture."""

import json
import sys

import numpy as np
import pytest

from keras_maml import EvaluationReport

RANDOM = np.random.default_rng(0)
TASKS = [f"person {i % 12}" for i in range(36)]


def classifier(before=0.2, tasks=TASKS):
    """The report of 36 episodes of a classifier with two inner steps."""
    accuracy = np.linspace(0.2, 0.9, 3)[:, None] + RANDOM.uniform(0, 0.1, 36)
    bins = np.zeros((3, 15, 3))
    bins[:, 12] = [100, 85, 70]
    return EvaluationReport(
        {"loss": 1 - accuracy, "accuracy": accuracy},
        range(100, 136),
        name="watch",
        directions={"accuracy": "up"},
        tasks=tasks,
        checksums=range(36),
        facts={
            "before": before + RANDOM.uniform(-0.1, 0.1, 36),
            "chance": np.full(36, 0.2),
            "bins": bins,
            "normalization": "transductive",
            "other_statistics": "support",
            "other_scores": {"accuracy": accuracy[-1] - 0.25},
            "gradient_norm": np.full(36, 2.0),
            "loss_change": np.full(36, -0.5),
            "seconds": 0.0125,
            "skipped": 2,
        },
    )


def test_summary():
    report = EvaluationReport({"mae": [[1.0, 2.0, 6.0], [0.0, 0.0, 0.0]]})
    assert report.steps == 1
    assert report.metric == "mae"
    summary = report.summary(inner_steps=0)
    assert summary.mean == 3
    assert summary.ci95 == pytest.approx(
        (3 - 4.302653 * np.sqrt(7 / 3), 3 + 4.302653 * np.sqrt(7 / 3))
    )
    assert summary.tasks95 is None
    assert report.summary().bootstrap95 == (0, 0)
    assert report.values("mae", 0).tolist() == [1, 2, 6]


def test_the_interval_over_tasks_is_wider_if_episodes_are_alike():
    of_task = np.repeat(RANDOM.normal(size=8), 20)
    scores = [of_task + 0.01 * RANDOM.normal(size=160)]
    tasks = np.repeat(list("abcdefgh"), 20).tolist()
    summary = EvaluationReport({"loss": scores}, tasks=tasks).summary()
    width, over_tasks = (
        ends[1] - ends[0] for ends in (summary.ci95, summary.tasks95)
    )
    assert over_tasks > 4 * width
    # The tasks of a group are one, and each of them may be there once.
    names = [str(i) for i in range(160)]
    report = EvaluationReport({"loss": scores}, tasks=names, groups=tasks)
    assert report.summary().tasks95 == summary.tasks95
    assert "95 % over 8 groups" in str(report)
    with pytest.raises(ValueError, match="`groups` must have a value for each"):
        EvaluationReport({"loss": scores}, tasks=names, groups=tasks[1:])


def test_worst_decile():
    report = classifier()
    means = report.scores["accuracy"][2].reshape(3, 12).mean(0)
    [worst] = report.worst()
    assert worst.score == pytest.approx(means.min())
    number = int(means.argmin())
    assert worst.names == (f"person {number}",)
    assert worst.episodes == [100 + number + 12 * i for i in range(3)]
    assert len(report.worst(0.5)) == 6
    [worst] = report.worst(metric="loss")
    assert worst.names == (f"person {number}",)


def test_worst_episodes():
    classes = [("a", str(i)) for i in range(36)]
    worst = classifier(tasks=classes).worst(metric="loss")
    assert len(worst) == 4
    assert worst[0].score >= worst[1].score
    assert worst[0].names == classes[worst[0].episodes[0] - 100]
    twice = EvaluationReport(
        {"loss": [[1.0, 2.0]]}, tasks=[("a", "b"), ("a", "b")]
    )
    assert [task.score for task in twice.worst(1.0)] == [2, 1]
    report = EvaluationReport({"own": [[1.0, 2.0]]}, [7, 9])
    with pytest.raises(ValueError, match="`metric` must be a metric of which"):
        report.worst()


def test_alarm():
    assert classifier(before=0.2).alarms() == []
    [alarm] = classifier(before=0.3).alarms()
    assert "labels leak" in alarm
    assert "1 / N is 0.2 (p < 0.0001)" in alarm
    assert EvaluationReport({"loss": [[1.0]]}).alarms() == []


def test_markdown():
    text = classifier(before=0.3).to_markdown()
    for part in (
        "# Scores of watch\n\n36 episodes of 12 tasks. 2 episodes not finite",
        "| 95 % over 12 tasks |",
        "| accuracy | 2 | ",
        "**Alarm.** Before adaptation",
        "with `support`. The gap is 0.25 (0.25 to 0.25).",
        "inner steps: 0.15, 0.15, 0.15.",
        "support gradient is 2, and the query loss changes by -0.5 for",
        "One adaptation takes 12.5 ms",
        "The worst tenth by accuracy, after 2 inner steps:",
    ):
        assert part in text
    assert str(classifier().metric) == "accuracy"
    plain = str(EvaluationReport({"own": [[1.0]]}, name="one"))
    assert plain.startswith("# Scores of one\n\n1 episode.\n")
    assert "| own | 0 | 1 | unknown | unknown |" in plain


def test_file(tmp_path):
    report = classifier()
    report.to_json(tmp_path / "report.json")
    loaded = EvaluationReport.load(tmp_path / "report.json")
    assert str(loaded) == str(report)
    for metric, values in report.scores.items():
        np.testing.assert_array_equal(loaded.scores[metric], values)
    np.testing.assert_array_equal(loaded.checksums, report.checksums)
    assert loaded.tasks == report.tasks
    np.testing.assert_array_equal(loaded.facts["bins"], report.facts["bins"])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("no", "is not JSON"),
        ("[]", "holds no report of version 1"),
        (json.dumps({"kind": "keras_maml.EvaluationReport"}), "of version 1"),
        (
            json.dumps({"kind": "keras_maml.EvaluationReport", "version": 1}),
            "lacks",
        ),
    ],
)
def test_files_without_a_report(content, message, tmp_path):
    path = tmp_path / "report.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=message):
        EvaluationReport.load(path)


def test_picture(tmp_path):
    figure = classifier().plot(tmp_path / "report.png")
    assert (tmp_path / "report.png").stat().st_size > 1000
    steps, episodes, calibration = figure.axes
    assert steps.get_xlabel() == "inner steps"
    assert steps.get_ylabel() == "query accuracy"
    labels = [text.get_text() for text in steps.get_legend().texts]
    assert labels == ["95 % over tasks", "95 % over episodes", "mean", "1 / N"]
    assert episodes.get_ylabel() == "episodes"
    assert calibration.get_xlabel() == "confidence (probability)"
    [curve] = [
        line for line in calibration.lines if "after" in line.get_label()
    ]
    assert curve.get_xdata().tolist() == [0.85]
    assert curve.get_ydata().tolist() == [0.7]
    assert len(EvaluationReport({"loss": [[1.0, 2.0]]}).plot().axes) == 2


def test_picture_without_matplotlib(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"keras-maml\[plots\]"):
        classifier().plot()


@pytest.mark.parametrize(
    ("scores", "kwargs", "message"),
    [
        ({"loss": [1.0, 2.0]}, {}, r"`scores` must have finite values"),
        ({"loss": [[]]}, {}, r"`scores` must have finite values"),
        ({"loss": [[np.nan]]}, {}, r"`scores` must have finite values"),
        ({"a": [[1.0]], "b": [[1.0, 2.0]]}, {}, "arrays of one shape"),
        ({}, {}, "arrays of one shape"),
        ({"a": [[1.0]]}, {"episodes": [1, 2]}, "`episodes` must have a value"),
        ({"a": [[1.0]]}, {"tasks": []}, "`tasks` must have a value"),
        ({"a": [[1.0]]}, {"checksums": []}, "`checksums` must have a value"),
        ({"a": [[1.0, 2]]}, {"episodes": [3, 3]}, "must be different numbers"),
        ({"a": [[1.0]]}, {"tasks": [7]}, "`tasks` must hold a string"),
        ({"a": [[1.0]]}, {"tasks": [("a", 7)]}, "`tasks` must hold a string"),
    ],
)
def test_what_is_no_report(scores, kwargs, message):
    with pytest.raises(ValueError, match=message):
        EvaluationReport(scores, **kwargs)


def test_no_such_metric():
    report = EvaluationReport({"loss": [[1.0], [2.0]]})
    with pytest.raises(ValueError, match="`metric` must be one of"):
        report.summary("mae")
    with pytest.raises(ValueError, match="`inner_steps` must be an integer"):
        report.summary(inner_steps=2)
