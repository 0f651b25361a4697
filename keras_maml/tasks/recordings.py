"""Tasks from recordings: windows of signals of unequal length."""

import functools
from collections.abc import Callable
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from keras_maml.tasks import columns as columns_lib
from keras_maml.tasks.cut_rules import CellCuts
from keras_maml.tasks.recording_rule import ByRecording
from keras_maml.tasks.table_settings import Size
from keras_maml.tasks.table_settings import TableSettings
from keras_maml.tasks.table_tasks import TableTasks
from keras_maml.tasks.tables import check_balance
from keras_maml.tasks.tables import check_features
from keras_maml.tasks.tables import check_no_cut
from keras_maml.tasks.tables import make_groups
from keras_maml.tasks.tables import make_targets
from keras_maml.tasks.task_rows import TaskRows
from keras_maml.tasks.window_examples import WindowExamples
from keras_maml.validation import check_choice
from keras_maml.validation import check_integer

_OF_EACH = ("task", "target", "group")


def from_recordings(
    recordings: Any,
    *,
    task: ArrayLike | str,
    target: ArrayLike | str,
    length: int,
    step: int | None = None,
    support: Size,
    query: Size,
    recording: str | None = None,
    features: Sequence[str] | None = None,
    kind: str | None = None,
    group: ArrayLike | str | None = None,
    order: str | None = None,
    cut: str = "random",
    balance: str | None = None,
    preprocess: Callable | None = None,
    too_few: str = "raise",
    seed: int = 0,
) -> TableTasks:
    """Makes tasks of recordings, each of one person and with one label.

    A recording becomes windows. Windows overlap if `step` is below `length`,
    and windows of one recording are alike anyway. So a recording of an episode
    is either in the support set or in the query set. The exception is
    `order="time"`, for people of whom there is one recording of each kind: then
    each recording gives its part before a moment to the support set, and its
    part after it to the query set, and windows that reach over are left out.

    Args:
        recordings: list of arrays of shape `(samples, channels)`; or a table as
            in `from_table`, of which each row is a sample.
        task: array of strings or integers, the person of each recording; of a
            table, the name of a column.
        target: array, the label or number of each recording; of a table, the
            name of a column.
        length: int. The samples of a window. A shorter recording is an error.
        step: int. From window to window. Defaults to `length`.
        support: as in `from_table`, the windows of a task; with `balance`, of
            each class; with `order`, of each recording.
        query: as `support`.
        recording: str. Of a table, the column that names the recordings; its
            rows are in the order of time.
        features: list of strings. Of a table, the columns of the channels.
            Defaults to `None`: all columns without another use.
        kind: see `from_table`. Defaults to `None`.
        group: as `task`; see `from_table`. Defaults to `None`.
        order: `"time"` or `None`, see above. Defaults to `None`.
        cut: see `from_table`. Defaults to `"random"`.
        balance: see `from_table`. Defaults to `None`.
        preprocess: see `from_table`. Defaults to `None`.
        too_few: see `from_table`. A cell of too few windows or of a single
            recording is too few. Defaults to `"raise"`.
        seed: int. See `TaskDistribution`. Defaults to `0`.

    Returns:
        A `TableTasks` with inputs of shape `(length, channels)`.

    Raises:
        ValueError: If a recording is too short, of other channels or not
            finite; if there is not one task, target and group for each; if
            `balance` and `order` are both given; or see `from_table`.

    Example:

    >>> import numpy as np
    >>> from keras_maml import tasks
    >>> rng = np.random.default_rng(0)
    >>> signals = [rng.normal(size=(150 + i, 3)) for i in range(12)]
    >>> table = tasks.from_recordings(
    ...     signals,
    ...     task=np.repeat(["ann", "bob", "eve"], 4),
    ...     target=["walk", "sit"] * 6,
    ...     length=50, step=25, support=2, query=3, balance="classes",
    ... )
    >>> x, y = table.episode(0)
    >>> x["support_x"].shape, y.tolist()
    ((4, 50, 3), [0, 0, 0, 1, 1, 1])
    """
    check_choice("order", order, (None, "time"))
    if order is not None and balance is not None:
        raise ValueError(
            '`balance` is of no use with `order="time"`, where each recording '
            f"gives windows to both sets. Received: balance={balance!r}"
        )
    length = check_integer("length", length)
    step = check_integer("step", length if step is None else step)
    given = task, target, group
    if recording is None:
        name = "target"
        signal, lengths, of_each = _of_list(recordings, *given, features)
    else:
        name = str(target)
        signal, lengths, of_each = _of_table(
            recordings, recording, *given, features
        )
    _check_each(of_each, len(lengths))
    people, labels, groups = of_each.values()
    targets = make_targets(name, labels, kind)
    check_balance(balance, targets)
    if groups is not None:
        groups = columns_lib.keys("group", "group", groups)
    people = columns_lib.keys("task", "task", people)
    names, people, groups = make_groups(people, groups)
    _check_signal(signal, lengths, length)
    starts, of_window = _windows(lengths, length, step)
    targets = targets.of(of_window)
    count = len(starts)
    cells = np.zeros(count, int) if balance is None else targets.values.numpy()
    rule: Callable = _separate_recordings
    if order is not None:
        cells = _place_within(people)[of_window]
        rule = functools.partial(_pieces, -(-length // step) - 1)
    rows = TaskRows(
        people[of_window], cells, np.arange(count), names, groups, of_window
    )
    settings = TableSettings(support, query, cut, too_few, preprocess, seed)
    examples = WindowExamples(signal, starts, length, targets)
    return TableTasks(examples, rows, rule, settings)


def _separate_recordings(rows, support, query, cut):
    check_no_cut(cut)
    return ByRecording(rows, support, query)


def _pieces(gap, rows, support, query, cut):
    return CellCuts(rows, support, query, cut == "first", gap)


def _check_each(of_each, count):
    for argument, values in of_each.items():
        if values is not None and values.shape[:1] != (count,):
            raise ValueError(
                f"`{argument}` must have a value for each of the {count} "
                f"recordings. Received: {argument} of shape {values.shape}"
            )


def _of_list(recordings, task, target, group, features):
    """Returns the signal, the lengths, and the facts of each recording."""
    if features is not None:
        raise ValueError(
            "`features` needs a table and `recording`. Received: "
            f"features={features!r} and recording=None"
        )
    arrays = [np.asarray(array) for array in recordings]
    if not arrays:
        raise ValueError(
            "`recordings` must hold at least one recording. "
            f"Received: recordings={recordings!r}"
        )
    shapes = {array.shape[1:] for array in arrays}
    if len(shapes) != 1 or any(
        a.ndim != 2 or a.dtype.kind not in "biuf" for a in arrays
    ):
        raise ValueError(
            "`recordings` must be arrays of numbers, (samples, channels), of "
            "the same channels. Received: recordings of shapes (samples, "
            f"*{sorted(shapes)})"
        )
    of_each = {
        argument: None if value is None else np.asarray(value)
        for argument, value in zip(_OF_EACH, (task, target, group))
    }
    lengths = np.array([len(array) for array in arrays])
    signal = np.concatenate(arrays).astype("float32", copy=False)
    return signal, lengths, of_each


def _of_table(data, recording, task, target, group, features):
    """As `_of_list`, of a table."""
    check_features(features, (), str(target))
    columns = columns_lib.read_columns(data)
    marks = columns_lib.keys(
        "recording",
        recording,
        columns_lib.take(columns, "recording", recording),
    )
    _, first, codes = np.unique(marks, return_index=True, return_inverse=True)
    order = np.argsort(codes, kind="stable")
    if features is None:
        used = {recording, task, target, group}
        features = [name for name in columns if name not in used]
    signal = np.stack(
        [
            columns_lib.numbers(
                "features", name, columns_lib.take(columns, "features", name)
            )[order].astype("float32")
            for name in features
        ],
        axis=-1,
    )
    of_each = {}
    for argument, name in zip(_OF_EACH, (task, target, group)):
        if argument == "group" and name is None:
            of_each[argument] = None
            continue
        values = columns_lib.take(columns, argument, name)
        changes = values[first][codes] != values
        if changes.any():
            raise ValueError(
                f"`{argument}` must be the same in all rows of a recording. "
                f"Received: {argument}={name!r}, which changes within "
                f"{str(marks[changes.argmax()])!r}"
            )
        of_each[argument] = values[first]
    return signal, np.bincount(codes), of_each


def _check_signal(signal, lengths, length):
    if (lengths < length).any():
        short = lengths.argmin()
        raise ValueError(
            "`length` must not exceed any recording's samples. Received: "
            f"length={length}, but recording {short} of {lengths[short]}"
        )
    finite = np.isfinite(signal).all(1)
    if not finite.all():
        bad = np.searchsorted(np.cumsum(lengths), finite.argmin(), "right")
        raise ValueError(
            "`recordings` must not hold NaN or infinity. Received: such values "
            f"in recording {bad}"
        )


def _windows(lengths, length, step):
    """Returns the first sample and the recording of each window."""
    counts = (lengths - length) // step + 1
    of_window = np.repeat(np.arange(len(lengths)), counts)
    number = np.arange(counts.sum()) - np.repeat(
        np.cumsum(counts) - counts, counts
    )
    begins = np.cumsum(lengths) - lengths
    return (begins[of_window] + number * step).astype("int32"), of_window


def _place_within(people):
    """Returns the number of each recording among those of its person."""
    order = np.argsort(people, kind="stable")
    counts = np.bincount(people)
    place = np.empty(len(people), int)
    place[order] = np.arange(len(people)) - np.repeat(
        np.cumsum(counts) - counts, counts
    )
    return place
