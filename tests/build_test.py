"""Checks that Bazel knows every file: BUILD is read as Python, its subset."""

import pathlib

import pytest

CHECKOUT = pathlib.Path(__file__).absolute().parent.parent
# The main of every py_test, and so among the sources of each.
RUNNER = "tests/bazel_main.py"


class Build:
    """What a BUILD file declares, got by running it.

    Attributes:
        targets: dict. Rule name to the list of its targets' attributes.
    """

    def __init__(self, path):
        self.root = path.parent
        self.targets = {"py_binary": [], "py_library": [], "py_test": []}
        names = {rule: self._recorder(rule) for rule in self.targets}
        names["glob"] = self._glob
        for ignored in ("exports_files", "licenses", "load", "package"):
            names[ignored] = lambda *args, **kwargs: None
        exec(
            compile(path.read_text(encoding="utf-8"), str(path), "exec"), names
        )

    def _recorder(self, rule):
        return lambda **attributes: self.targets[rule].append(attributes)

    def _glob(self, include, exclude=()):
        def match(patterns):
            return {
                str(path.relative_to(self.root))
                for pattern in patterns
                for path in self.root.glob(pattern)
                if path.is_file()
            }

        return sorted(match(include) - match(exclude))

    def sources(self, rule):
        """All `srcs` of the rule's targets, in order, repetitions kept."""
        return [
            source
            for target in self.targets[rule]
            for source in target.get("srcs", [])
            if source != RUNNER
        ]


def files(pattern):
    return sorted(
        str(path.relative_to(CHECKOUT)) for path in CHECKOUT.glob(pattern)
    )


@pytest.fixture(scope="module")
def build():
    return Build(CHECKOUT / "BUILD")


@pytest.mark.parametrize(
    ("rule", "pattern"),
    [("py_test", "tests/**/*_test.py"), ("py_binary", "examples/**/*.py")],
)
def test_each_file_has_one_target(build, rule, pattern):
    assert sorted(build.sources(rule)) == files(pattern)


def test_every_module_is_in_the_library(build):
    [library] = [
        target
        for target in build.targets["py_library"]
        if target["name"] == "keras_maml"
    ]
    assert library["srcs"] == files("keras_maml/**/*.py")


def test_every_test_helper_is_in_a_library(build):
    helpers = set(files("tests/**/*.py")) - set(files("tests/**/*_test.py"))
    assert helpers - {RUNNER} <= set(build.sources("py_library"))


def test_each_test_runs_its_own_file(build):
    for target in build.targets["py_test"]:
        [path] = target["args"]
        assert target["main"] == RUNNER
        assert target["srcs"] == [path, RUNNER]
        assert target["name"] + ".py" == path


def test_a_missing_target_is_noticed(tmp_path):
    (tmp_path / "BUILD").write_text(
        'load("@rules_python//python:defs.bzl", "py_test")\n'
        '[py_test(name = t, srcs = [t]) for t in ["a_test.py"]]\n'
        'py_library(name = "lib", srcs = glob(["*.py"], exclude = ["b.py"]))\n'
    )
    for name in ("a_test.py", "b.py", "c.py"):
        (tmp_path / name).touch()
    build = Build(tmp_path / "BUILD")
    assert build.sources("py_test") == ["a_test.py"]
    assert build.sources("py_library") == ["a_test.py", "c.py"]
