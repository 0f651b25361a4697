"""Reports in files."""

import json
import pathlib

import numpy as np

_VERSION = 1
_KIND = "keras_maml.EvaluationReport"
_FIELDS = (
    "scores",
    "episodes",
    "name",
    "directions",
    "tasks",
    "groups",
    "checksums",
    "facts",
)


def write(report, path):
    """Writes a report to a JSON file."""
    text = json.dumps({"kind": _KIND, "version": _VERSION, **fields_of(report)})
    pathlib.Path(path).write_text(text, encoding="utf-8")


def read(path):
    """Returns the arguments of the report in a file.

    Raises:
        ValueError: if the file holds no report of this version.
    """
    return arguments_of(path, content_of(path, _KIND, _VERSION))


def fields_of(report):
    """Returns the arguments of a report in the form of JSON."""
    return {field: _plain(getattr(report, field)) for field in _FIELDS}


def content_of(path, kind, version):
    """Returns the content of a JSON file, a dict.

    Raises:
        ValueError: if the file holds nothing of this kind and version.
    """
    text = pathlib.Path(path).read_text(encoding="utf-8")
    try:
        content = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(
            "`path` must be a file that `to_json` wrote. "
            f"Received: path={str(path)!r}, which is not JSON: {error}"
        ) from None
    is_kind = isinstance(content, dict) and content.get("kind") == kind
    if not is_kind or content.get("version") != version:
        name = "report" if kind == _KIND else "verdict"
        raise ValueError(
            "`path` must be a file that `to_json` wrote. "
            f"Received: path={str(path)!r}, which holds no {name} of version "
            f"{version}"
        )
    return content


def arguments_of(path, content):
    """Returns the arguments of a report from its fields.

    Raises:
        ValueError: if a field is missing.
    """
    missing = [field for field in _FIELDS if field not in content]
    if missing:
        raise ValueError(
            "`path` must be a file that `to_json` wrote. "
            f"Received: path={str(path)!r}, which lacks {missing}"
        )
    fields = {field: content[field] for field in _FIELDS}
    return {**fields, "facts": _with_arrays(fields["facts"])}


def _with_arrays(facts):
    if isinstance(facts, dict):
        return {name: _with_arrays(value) for name, value in facts.items()}
    return np.asarray(facts) if isinstance(facts, list) else facts


def _plain(value):
    """Returns a structure of Python's own numbers, lists and dicts."""
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    if isinstance(value, np.ndarray) and value.ndim:
        return [_plain(entry) for entry in value]
    if isinstance(value, np.float32):
        # The shortest text that is this number, not the nearest double.
        return float(str(value))
    return value.item() if isinstance(value, np.generic) else value
