"""setup.py: read without TensorFlow, and with nothing left undeclared."""

import ast
import json
import pathlib
import re
import subprocess
import sys

import pytest

from keras_maml import version

CHECKOUT = pathlib.Path(__file__).absolute().parent.parent
# Where a module's name is not its distribution's.
DISTRIBUTIONS = {"PIL": "pillow", "absl": "absl-py"}


def normalized(name):
    return re.sub(r"[-_.]+", "-", name).lower()


def imported(folder):
    """The top-level modules that the folder's files import, at any depth."""
    names = set()
    for path in (CHECKOUT / folder).glob("**/*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                names.add(node.module)
    names = {name.partition(".")[0] for name in names}
    return {
        normalized(DISTRIBUTIONS.get(name, name))
        for name in names - set(sys.stdlib_module_names)
    }


@pytest.fixture(scope="module")
def declared():
    """What setup.py hands to setuptools, got with TensorFlow out of reach."""
    script = (
        "import json, runpy, sys, setuptools\n"
        "for name in ('tensorflow', 'keras', 'numpy'):\n"
        "    sys.modules[name] = None\n"
        "setuptools.setup = lambda **given: print(json.dumps(given))\n"
        "runpy.run_path('setup.py')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=CHECKOUT,
        check=True,
        capture_output=True,
        text=True,
    )
    return json.loads(done.stdout)


def distributions(requirements):
    return {
        normalized(re.match(r"[\w.-]+", requirement)[0])
        for requirement in requirements
    }


def test_version(declared):
    assert declared["version"] == version.__version__
    module = (CHECKOUT / "MODULE.bazel").read_text(encoding="utf-8")
    assert f'version = "{version.__version__}"' in module
    assert f"## [{version.__version__}]" in (
        CHECKOUT / "CHANGELOG.md"
    ).read_text(encoding="utf-8")


def test_classifiers_name_the_pythons_that_are_tested(declared):
    named = re.findall(
        r"Python :: (3\.\d+)", "\n".join(declared["classifiers"])
    )
    assert declared["python_requires"] == f">={named[0]}"
    text = (CHECKOUT / "README.md").read_text(encoding="utf-8")
    assert f"Python {named[0]} to {named[-1]}" in text


def test_tools_are_pinned_and_bounds_are_lower_bounds(declared):
    extras = declared["extras_require"]
    # `.ci/lower_bounds` installs these with == in the place of >=.
    bounds = {*declared["install_requires"], *extras["tests"]}
    assert all(re.search(r">=[\d.]+$", bound) for bound in bounds)
    tools = {*extras["dev"], *extras["docs"]} - bounds
    assert all(re.search(r"==[\d.]+$", tool) for tool in tools)


def test_package_is_whole_and_typed(declared):
    folders = {
        ".".join(path.parent.relative_to(CHECKOUT).parts)
        for path in CHECKOUT.glob("keras_maml/**/*.py")
    }
    assert set(declared["packages"]) == folders
    assert (CHECKOUT / "keras_maml" / "py.typed").exists()
    assert declared["package_data"]["keras_maml"] == ["py.typed"]


def test_library_imports_only_what_is_declared(declared):
    required = distributions(declared["install_requires"])
    extras = declared["extras_require"]
    optional = distributions(
        extras["litert"] + extras["plots"] + extras["rl"] + extras["tables"]
    )
    assert imported("keras_maml") - {"keras-maml"} <= required | optional


def test_examples_and_tests_import_only_what_is_declared(declared):
    allowed = distributions(declared["install_requires"])
    allowed |= distributions(declared["extras_require"]["tests"])
    allowed |= {"keras-maml", "examples", "benchmarks", "tests"}
    # `benchmarks/peer.py` runs where the other libraries are.
    peers = {
        "jax",
        "metalearn",
        "peers",
        "torch",
        "torch-common",
        "workloads",
        "parallel-metalearn",
    }
    assert imported("benchmarks") <= allowed | peers
    for folder in ("examples", "tests"):
        assert imported(folder) <= allowed


def test_bazel_knows_the_same_packages(declared):
    required = distributions(declared["install_requires"])
    required |= distributions(declared["extras_require"]["tests"])
    for name in ("BUILD", "WORKSPACE", "third_party/requirements_lock.txt"):
        text = normalized((CHECKOUT / name).read_text(encoding="utf-8"))
        assert not [package for package in required if package not in text]
