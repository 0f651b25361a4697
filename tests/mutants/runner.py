"""Runs the tests on copies of the package in which one line is wrong."""

import concurrent.futures
import dataclasses
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

CHECKOUT = pathlib.Path(__file__).resolve().parents[2]
PACKAGE = "keras_maml"
# What a test file needs beside the package.
_BESIDE = ("tests", "pyproject.toml")

KILLED = "killed"
SURVIVED = "survived"

# What pytest returns if all tests pass, and if some fail. It returns another
# number if it could not even collect them.
_PASSED, _FAILED = 0, 1


@dataclasses.dataclass(frozen=True)
class Mutant:
    """A fault that a person could make.

    Attributes:
        file: string, a path in `keras_maml/`.
        line: string, a text that occurs once in the file.
        wrong: string, the text in its place.
        test: string, the test that must notice: a path in `tests/`, and
            behind `::` the name of the test.
    """

    file: str
    line: str
    wrong: str
    test: str

    def __str__(self):
        wrong = " ".join(self.wrong.split())
        return f"{self.file}: {wrong or f'without {self.line.strip()}'}"

    def problem(self, root=CHECKOUT):
        """Returns why this is no mutant of the files in `root`, or `None`."""
        count = (root / PACKAGE / self.file).read_text("utf-8").count(self.line)
        if count != 1:
            return f"{self.file} holds this text {count} times: {self.line!r}"
        if self.line == self.wrong:
            return f"{self.file}: nothing is wrong in {self.line!r}"
        path, _, name = self.test.partition("::")
        name = name.partition("[")[0]
        path = root / "tests" / path
        if not path.is_file() or f"def {name}(" not in path.read_text("utf-8"):
            return f"There is no test {self.test}"
        return None

    def apply(self, root):
        """Makes the fault in the files of `root`."""
        path = root / PACKAGE / self.file
        text = path.read_text("utf-8")
        path.write_text(text.replace(self.line, self.wrong), "utf-8")


def result_of(mutant, root=CHECKOUT, timeout=600):
    """Returns what becomes of a mutant.

    Returns:
        A tuple of a string, `KILLED`, `SURVIVED` or what else happened, and of
        what pytest printed.
    """
    problem = mutant.problem(root)
    if problem is not None:
        return f"does not apply: {problem}", ""
    with tempfile.TemporaryDirectory() as folder:
        copy = _copied(root, folder)
        mutant.apply(copy)
        try:
            code, output = _run_tests(copy, [mutant.test], timeout)
        except subprocess.TimeoutExpired:
            return f"no end after {timeout} seconds", ""
    if code == _FAILED:
        return KILLED, output
    if code == _PASSED:
        return SURVIVED, output
    return f"pytest could not run the test, and returned {code}", output


def check_tests(mutants, root=CHECKOUT):
    """Returns what pytest prints if a test fails without a fault.

    Such a test would kill any mutant.

    Returns:
        A string, or `None` if all tests pass.
    """
    with tempfile.TemporaryDirectory() as folder:
        tests = sorted({mutant.test for mutant in mutants})
        code, output = _run_tests(_copied(root, folder), tests)
    return None if code == _PASSED else output


def results_of(mutants, jobs, root=CHECKOUT):
    """Yields each mutant with its `result_of`, as soon as it is known."""
    with concurrent.futures.ThreadPoolExecutor(jobs) as threads:
        futures = {
            threads.submit(result_of, mutant, root): mutant
            for mutant in mutants
        }
        for future in concurrent.futures.as_completed(futures):
            yield futures[future], *future.result()


def _copied(root, folder):
    copy = pathlib.Path(folder) / "copy"
    copy.mkdir()
    for name in (PACKAGE, *_BESIDE):
        source = root / name
        if source.is_dir():
            ignore = shutil.ignore_patterns("__pycache__")
            shutil.copytree(source, copy / name, ignore=ignore)
        else:
            shutil.copy(source, copy / name)
    return copy


def _run_tests(root, tests, timeout=None):
    finished = subprocess.run(
        [
            sys.executable,
            *("-B", "-m", "pytest", "-x", "-q", "--tb=short"),
            *("-p", "no:cacheprovider"),
            # A mutant may name a slow test, but a file means its quick ones.
            *(("-m", "") if any("::" in test for test in tests) else ()),
            *(f"tests/{test}" for test in tests),
        ],
        cwd=root,
        env={
            **os.environ,
            "PYTHONPATH": str(root),
            # To look for them takes a second.
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
        },
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=timeout,
        check=False,
    )
    return finished.returncode, finished.stdout
