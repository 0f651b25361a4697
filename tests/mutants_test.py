"""The list of mutants is true of the code, and their runner tells fates."""

import subprocess
import sys

import pytest

from tests.mutants import MUTANTS
from tests.mutants import runner
from tests.mutants.runner import Mutant


def test_every_mutant_applies():
    assert [m.problem() for m in MUTANTS if m.problem()] == []
    assert len(set(MUTANTS)) == len(MUTANTS) >= 60


def test_every_part_has_mutants():
    rooms = {mutant.file.partition("/")[0] for mutant in MUTANTS}
    rooms |= {mutant.file for mutant in MUTANTS}
    assert rooms > {
        "adaptation.py",
        "callbacks",
        "engine",
        "exact",
        "inner_optimizers",
        "meta_gradients.py",
        "outer_loss.py",
        "rl",
        "tasks",
    }


@pytest.fixture
def project(tmp_path):
    """A package of one function, and its tests."""
    (tmp_path / "keras_maml").mkdir()
    (tmp_path / "tests").mkdir()
    (tmp_path / "pyproject.toml").write_text(
        '[tool.pytest.ini_options]\npythonpath = ["."]\n'
    )
    (tmp_path / "keras_maml" / "half.py").write_text(
        "def half(x):\n    return x / 2\n\n\ndef twice(x):\n    return x + x\n"
    )
    (tmp_path / "tests" / "half_test.py").write_text(
        "from keras_maml.half import half\n\n\n"
        "def test_half():\n    assert half(2) == 1\n\n\n"
        "def test_zero():\n    assert half(0) == 0\n\n\n"
        "def test_wrong():\n    assert half(2) == 2\n"
    )
    return tmp_path


def mutant(wrong, test="test_half", line="x / 2"):
    return Mutant("half.py", line, wrong, f"half_test.py::{test}")


def test_fates(project):
    mutants = {
        mutant("x / 3"): runner.KILLED,
        mutant("x / 3", "test_zero"): runner.SURVIVED,
        mutant("x /"): "pytest could not run the test",
        mutant("y", line="x + y"): "does not apply: half.py holds this text 0",
        mutant("y", line="x"): "does not apply: half.py holds this text 5",
        mutant("x / 2"): "does not apply: half.py: nothing is wrong",
        mutant("x / 3", "test_none"): "does not apply: There is no test",
    }
    source = project / "keras_maml" / "half.py"
    before = source.read_text()
    fates = list(runner.results_of(mutants, jobs=2, root=project))
    assert len(fates) == len(mutants)
    for one, fate, _ in fates:
        assert fate.startswith(mutants[one]), one
    # The files themselves are as they were.
    assert source.read_text() == before
    # A test that fails by itself would kill them all.
    assert runner.check_tests([mutant("x / 3")], project) is None
    assert runner.check_tests([mutant("x / 3", "test_wrong")], project)


def test_a_part_that_is_not_there_is_an_error():
    finished = subprocess.run(
        [sys.executable, "-m", "tests.mutants", "--only=nothing.py"],
        cwd=runner.CHECKOUT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode == 2
    assert "names no mutant" in finished.stderr
