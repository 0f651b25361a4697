"""Runs the Python that the documentation shows: docstrings and pages."""

import doctest
import importlib
import inspect
import pathlib
import pkgutil
import re
import textwrap

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_maml

CHECKOUT = pathlib.Path(__file__).absolute().parent.parent
BLOCK = re.compile(r"^( *)```python\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)


def python_blocks(text):
    """The text's fenced Python blocks, however far they are indented."""
    return [textwrap.dedent(code) for _, code in BLOCK.findall(text)]


def modules():
    yield keras_maml
    for info in pkgutil.walk_packages(keras_maml.__path__, "keras_maml."):
        yield importlib.import_module(info.name)


def docstrings():
    """Yields (name, docstring) of all that is public and defined here."""
    for module in modules():
        yield module.__name__, module.__doc__
        for name, value in vars(module).items():
            if getattr(value, "__module__", None) != module.__name__:
                continue
            if name.startswith("_"):
                continue
            path = f"{module.__name__}.{name}"
            yield path, value.__doc__
            if inspect.isclass(value):
                for attribute, member in vars(value).items():
                    if not attribute.startswith("_"):
                        yield f"{path}.{attribute}", member.__doc__


DOCSTRINGS = {name: text or "" for name, text in docstrings()}
FENCED = [name for name, text in DOCSTRINGS.items() if python_blocks(text)]
OMNIGLOT = [
    name
    for name in FENCED
    if 'from_tfds("omniglot"' in re.sub(r"\s", "", DOCSTRINGS[name])
]
# Their examples train for some seconds.
TRAINING = (
    "keras_maml.callbacks.",
    "keras_maml.rl.meta_policy_search.",
    "keras_maml.serving.",
    "keras_maml.verdict.",
)
PROMPTED = [name for name, text in DOCSTRINGS.items() if ">>> " in text]
PAGES = {
    str(path.relative_to(CHECKOUT)): path.read_text(encoding="utf-8")
    for path in [*CHECKOUT.glob("*.md"), *CHECKOUT.glob("docs/**/*.md")]
}


@pytest.fixture
def names(tmp_path, monkeypatch):
    """What an example may use without importing it, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return {"keras": keras, "keras_maml": keras_maml, "np": np, "tf": tf}


def run_fenced(path, names):
    for block in python_blocks(DOCSTRINGS[path]):
        exec(compile(block, f"<{path}>", "exec"), names)


@pytest.mark.parametrize(
    "path",
    [
        pytest.param(
            path, marks=[pytest.mark.slow] if path.startswith(TRAINING) else []
        )
        for path in FENCED
        if path not in OMNIGLOT
    ],
)
def test_fenced_example(path, names):
    run_fenced(path, names)


@pytest.mark.omniglot
@pytest.mark.parametrize("path", OMNIGLOT)
def test_fenced_omniglot_example(path, names, omniglot_data_dir, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", omniglot_data_dir)
    run_fenced(path, names)


@pytest.mark.parametrize("path", PROMPTED)
def test_prompted_example(path, names):
    examples = doctest.DocTestParser().get_doctest(
        DOCSTRINGS[path], names, path, None, 0
    )
    report = []
    failed, _ = doctest.DocTestRunner().run(examples, out=report.append)
    assert not failed, "".join(report)


@pytest.mark.parametrize(
    "page",
    [
        # The README is what a newcomer runs first. All pages take a minute.
        pytest.param(page, marks=[pytest.mark.slow][page == "README.md" :])
        for page, text in PAGES.items()
        if python_blocks(text)
    ],
)
def test_page(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {}
    for block in python_blocks(PAGES[page]):
        exec(compile(block, f"<{page}>", "exec"), names)


def test_pages_with_code_are_found():
    assert {"README.md", "docs/guide.md"} <= {
        page for page, text in PAGES.items() if python_blocks(text)
    }


def test_every_public_callable_has_an_example():
    public = [getattr(keras_maml, name) for name in keras_maml.__all__]
    paths = {
        f"{value.__module__}.{value.__qualname__}"
        for value in public
        if callable(value)
    }
    assert paths <= {*FENCED, *PROMPTED}


def test_python_blocks():
    text = (
        "Text.\n\n    ```python\n    a = 1\n    if a:\n        b = 2\n    ```\n"
        "```sh\nnot python\n```\n```python\nc = 3\n```\n"
    )
    assert python_blocks(text) == ["a = 1\nif a:\n    b = 2\n", "c = 3\n"]
