"""Verdicts: what follows from reports, in words, files and pictures."""

import json
import sys

import numpy as np
import pytest

from keras_maml import EvaluationReport
from keras_maml import Verdict

PEOPLE = [f"person {i // 4}" for i in range(48)]
NAMES = ("pooled", "own", "fine-tuned", "prototypes", "anil", "maml")


def verdict(gains, noise=0.02, validation=None, skipped=(), tasks=PEOPLE):
    """A verdict on candidates that lower an error of 0.5 by `gains`."""
    rng = np.random.default_rng(0)
    base = 0.5 + 0.1 * np.repeat(rng.uniform(-1, 1, 12), 4)
    bins = np.zeros((1, 15, 3))
    bins[:, 12] = [100, 85, 70]
    reports = {}
    for name, gain in gains.items():
        accuracy = 1 - base + gain + noise * rng.normal(size=48)
        error = -gain if validation is None else validation[name]
        reports[name] = EvaluationReport(
            {"loss": [1 - accuracy], "accuracy": [accuracy]},
            name=name,
            directions={"accuracy": "up"},
            tasks=tasks,
            facts={
                "error": error,
                "skipped": 3 if name in skipped else 0,
                "seconds": 0.0125,
                "training_seconds": 10.0,
                "search_seconds": 40.0,
                "training_steps": 100,
                "improves": int(name == "maml"),
                "settings": [{"steps": 3, "inner_rate": 0.1}],
                "bins": bins,
            },
        )
    facts = {"budget": 700, "meta_batch_size": 16, "trials": 4}
    return Verdict(reports, facts)


def gains(*values):
    return dict(zip(NAMES, values))


def test_it_says_to_adapt():
    found = verdict(gains(0, 0.02, 0.2, 0.1, 0.15, 0.25))
    assert (found.answer, found.choice, found.best) == ("yes", "maml", "maml")
    assert found.gains["maml"] == pytest.approx(0.5, abs=0.05)
    assert found.comparisons["maml"].p_value < 1e-4
    assert "pooled" not in found.comparisons
    text = str(found)
    assert "**Adapt: use MAML.**" in text
    assert "on 12 of 12 tasks." in text
    assert "the model for all tasks, fine-tuned 8" in text
    assert "The expected calibration error is 0.15" in text
    assert "takes 12.5 ms" in text
    assert "The training of MAML still improved" in text


def test_a_simpler_candidate_that_is_as_good_is_chosen():
    found = verdict(gains(0, 0.02, 0.25, 0.1, 0.15, 0.251))
    assert (found.choice, found.best) == ("fine-tuned", "maml")
    assert (
        "fine-tune it. MAML is not shown to be better." in found.sentences()[0]
    )
    found = verdict(gains(0, 0.25, 0.25, 0.1, 0.15, 0.25))
    assert found.choice == "own"
    assert "no other is shown to be better" in found.sentences()[0]


def test_a_candidate_that_another_one_beats_is_not_chosen():
    # Validation tasks like the model of one's own best, test tasks do not.
    errors = dict.fromkeys(NAMES, 0.0) | {"own": -1.0}
    found = verdict(gains(0, 0.1, 0.2, 0, 0, 0.2), validation=errors)
    assert (found.answer, found.best) == ("yes", "own")
    assert found.choice == "fine-tuned"


def test_it_says_not_to_adapt():
    # Certain, but too little.
    found = verdict(gains(0, -0.2, 0.01, -0.3, 0.0, 0.01), noise=0.001)
    assert (found.answer, found.choice) == ("no", "pooled")
    assert found.comparisons[found.best].p_value < 1e-4
    first = found.sentences()[0]
    assert first.startswith("Do not adapt: use one model for all tasks. ")
    assert first.endswith("takes away 2.0 % of its error.")


def test_it_says_that_it_does_not_know():
    found = verdict(gains(0, 0, 0, 0, 0, 0.45), noise=1.0)
    assert found.gains["maml"] > 0.05
    assert (found.answer, found.choice) == ("unclear", "pooled")


def test_validation_tasks_choose_the_candidate_of_the_test():
    errors = dict.fromkeys(NAMES, 0.0) | {"anil": -1.0}
    found = verdict(gains(0, 0, 0.1, 0, 0, 0.3), validation=errors)
    assert found.best == "anil"
    assert found.answer == "no"


def test_a_candidate_that_diverges_is_not_chosen():
    found = verdict(gains(0, 0, 0, 0, 0, 0.3), skipped=["maml"])
    assert found.answer == "no"
    assert "MAML diverged on 3 test episodes" in str(found)


def test_people_who_are_not_helped_are_named():
    found = verdict(gains(0, 0, 0, 0, 0, 0.3), noise=0)
    scores = found.reports["maml"].scores["accuracy"]
    scores[0, 8:12] -= 0.4
    assert "on 11 of 12 tasks. It does not help person 2." in str(
        Verdict(found.reports)
    )


def test_it_says_if_no_step_helps():
    found = verdict(gains(0, 0.1))
    found.reports["own"].facts["settings"] = [{"steps": 0, "inner_rate": 0.1}]
    assert "tasks chose 0 inner steps for a model of each" in str(
        Verdict(found.reports)
    )


def test_episodes_without_names():
    found = verdict(gains(0, 0.1), tasks=None)
    assert "of 48 episodes." in str(found)
    # Of several classes each, which other episodes share.
    classes = [(f"class {i % 6}", "class 6") for i in range(48)]
    assert "of 48 episodes." in str(verdict(gains(0, 0.1), tasks=classes))


def test_tasks_of_one_episode_have_names():
    names = [f"person {i}" for i in range(48)]
    found = verdict(gains(0, 0.1), noise=0.05, tasks=names)
    assert " of 48 tasks. It does not help person " in str(found)
    legend = found.plot().axes[1].get_legend()
    assert "one task;" in legend.texts[1].get_text()


def test_a_file_holds_it(tmp_path):
    found = verdict(gains(0, 0.02, 0.2, 0.1, 0.15, 0.25))
    path = tmp_path / "verdict.json"
    found.to_json(path)
    assert str(Verdict.load(path)) == str(found)
    found.reports["maml"].to_json(path)
    with pytest.raises(ValueError, match="which holds no verdict"):
        Verdict.load(path)
    path.write_text("{")
    with pytest.raises(ValueError, match="which is not JSON"):
        Verdict.load(path)
    found.to_json(path)
    content = json.loads(path.read_text())
    del content["reports"]["maml"]["scores"]
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match="which lacks"):
        Verdict.load(path)


def test_it_needs_something_to_compare():
    with pytest.raises(ValueError, match="`reports` must have"):
        verdict({"pooled": 0.0})
    with pytest.raises(ValueError, match="`reports` must have"):
        verdict({"own": 0.0, "maml": 0.1})


def test_a_picture(tmp_path):
    pytest.importorskip("matplotlib")
    found = verdict(gains(0, 0.02, 0.2, 0.1, 0.15, 0.25))
    figure = found.plot(tmp_path / "verdict.png")
    assert len(figure.axes) == 3
    assert (tmp_path / "verdict.png").stat().st_size > 1000
    for axes in figure.axes:
        assert axes.get_xlabel()
        assert axes.get_legend() is not None
    ticks = [t.get_text() for t in figure.axes[0].get_yticklabels()]
    assert ticks[-1] == "MAML"


def test_a_picture_needs_matplotlib(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"keras-maml\[plots\]"):
        verdict(gains(0, 0.1)).plot()
