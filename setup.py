"""Packaging of keras_maml."""

import pathlib
import re

import setuptools

HERE = pathlib.Path(__file__).parent


def read_version() -> str:
    """Reads the version as text: importing it would import TensorFlow."""
    text = (HERE / "keras_maml" / "version.py").read_text(encoding="utf-8")
    return re.search(r'^__version__ = "([^"]+)"$', text, re.MULTILINE)[1]


# Lower bounds: the oldest releases that the tests have passed with, all at once
# (their own deprecation warnings let through). There are no upper bounds: they
# would only keep users from the releases that fix things.
INSTALL_REQUIRES = [
    "absl-py>=2.1",
    # tensorflow-datasets imports it and does not declare it for Python >= 3.9.
    "importlib_resources>=6.0",
    "keras>=3.12",
    "numpy>=2.0.2",
    "tensorflow>=2.20",
    # 4.9.9 fails with today's protobuf.
    "tensorflow-datasets>=4.9.10",
]

PLOTS = ["matplotlib>=3.10"]
TENSORBOARD = [*PLOTS, "tensorboard>=2.20"]
TABLES = ["pandas>=2.2", "pyarrow>=17.0"]
RL = ["gymnasium[mujoco]>=1.1.1", "mujoco>=3.3"]
# The converter is TensorFlow's. The interpreter tells whether a file runs.
LITERT = ["ai-edge-litert>=2.1.0", "flatbuffers>=24.3.25"]
TESTS = [
    *LITERT,
    *TENSORBOARD,
    *RL,
    # Older ones warn of their own random generators.
    "hypothesis>=6.140",
    "Pillow>=10.0",
    "pytest>=8.0",
    "pytest-xdist>=3.8",
    "scipy>=1.15",
]
# Pinned, so that a new release of a tool never turns a finished change red.
DOCS = [
    "mkdocs==1.6.1",
    "mkdocs-material==9.8.2",
    "mkdocstrings[python]==1.0.8",
    "mkdocstrings-python==2.0.11",
]
DEV = [
    *TESTS,
    *DOCS,
    "build==1.6.1",
    "import-linter==2.17",
    "mypy==2.4.1",
    "pre-commit==4.7.0",
    "ruff==0.17.6",
    "twine==7.0.0",
]

setuptools.setup(
    name="keras-maml",
    version=read_version(),
    description="Gradient-based meta-learning for Keras 3 on TensorFlow.",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    author="The keras_maml authors",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=setuptools.find_packages(include=["keras_maml", "keras_maml.*"]),
    package_data={"keras_maml": ["py.typed"]},
    install_requires=INSTALL_REQUIRES,
    extras_require={
        "litert": LITERT,
        "plots": PLOTS,
        "tables": TABLES,
        "tensorboard": TENSORBOARD,
        "rl": RL,
        "tests": TESTS,
        "docs": DOCS,
        "dev": DEV,
    },
    classifiers=[
        "Development Status :: 3 - Alpha",
        "Intended Audience :: Science/Research",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Typing :: Typed",
    ],
)
