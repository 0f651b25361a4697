"""Tasks from a table."""

from collections.abc import Callable
from collections.abc import Sequence
from typing import Any

import numpy as np

from keras_maml.tasks import columns as columns_lib
from keras_maml.tasks.cut_rules import TaskCuts
from keras_maml.tasks.draw_rules import AtRandom
from keras_maml.tasks.labelled_examples import check_examples
from keras_maml.tasks.table_examples import TableExamples
from keras_maml.tasks.table_examples import Targets
from keras_maml.tasks.table_settings import Size
from keras_maml.tasks.table_settings import TableSettings
from keras_maml.tasks.table_tasks import TableTasks
from keras_maml.tasks.task_rows import TaskRows
from keras_maml.validation import check_choice

KINDS = ("regression", "classification")


def from_table(
    data: Any,
    *,
    task: str,
    target: str,
    features: str | Sequence[str] | None = None,
    categories: Sequence[str] = (),
    support: Size,
    query: Size,
    kind: str | None = None,
    group: str | None = None,
    order: str | None = None,
    cut: str = "random",
    balance: str | None = None,
    missing: str = "raise",
    preprocess: Callable | None = None,
    too_few: str = "raise",
    seed: int = 0,
) -> TableTasks:
    """Makes tasks of a table: one row an example, one column the task.

    Sets of unequal size, `(least, most)`, are padded; see `TableTasks`. A task
    takes as many support rows as it has, up to the most, and leaves at least
    the least of `query`.

    Args:
        data: a pandas DataFrame, the path of a CSV or Parquet file, or a dict
            of arrays. Parquet needs pandas. A CSV file starts with the names of
            its columns.
        task: str. The column that names the task: person, machine, shop.
        target: str. The column to predict.
        features: list of strings, the columns of the inputs, `(columns,)`, as
            float32. Or one string: then the array of this column, of shape
            `(rows, *input_shape)`, is the input, as in `ClassPool`. Defaults to
            `None`: all columns without another use.
        categories: list of strings, columns of names. If there are any, inputs
            are a dict: `"numbers"` has the other features, and each of these
            columns is an int32 code for an `Embedding`, of shape `()`, from 1
            to the number of names. 0 is missing. Defaults to none.
        support: int, the support rows of a task; or `(least, most)`, with
            `None` as the most for all.
        query: int or `(least, most)`, the query rows of a task. `(1, None)` is
            all other rows.
        kind: `"regression"` or `"classification"`. Defaults to `None`: names
            and booleans are classes, numbers with fractions are not, and for
            whole numbers you must say.
        group: str. A column that is the same for all rows of a task. Tasks of
            one group, such as two arms of a person, never stand on two sides
            of a split. Defaults to `None`: each task is its own group.
        order: str. The column of the time: numbers, dates, or text such as
            "2026-11-26 09:30" (ISO 8601). Then all support rows come before
            all query rows. The support set is what came last before a moment,
            and query rows are of any later time. Rows of the same time are
            never parted. Defaults to `None`: rows at random.
        cut: with `order`, the moment. `"random"` is any that leaves enough rows
            on both sides; `"first"` is as soon as the support set is full, as
            for somebody new. Needs `order`. Defaults to `"random"`.
        balance: `"classes"` takes `support` and `query` rows of each class that
            a task has, so that sizes are those of a class. Defaults to `None`:
            classes have their natural shares.
        missing: what happens to missing numbers in features. `"raise"` names
            their columns. `"keep"` leaves NaN for `preprocess`, see
            `TableTasks.fill_missing`. Defaults to `"raise"`. Missing tasks,
            targets, groups and times always raise.
        preprocess: function of inputs with leading axes `(tasks, rows)`, such
            as a Keras layer. It works on each episode. Defaults to `None`.
        too_few: `"raise"` names the tasks that have too few rows;
            `"leave_out"` leaves them out, and names them in
            `TableTasks.left_out`. Defaults to `"raise"`.
        seed: int. See `TaskDistribution`. Defaults to `0`.

    Returns:
        A `TableTasks`.

    Raises:
        ValueError: If the table cannot be read or lacks a column, if a column
            does not hold what it must or lacks values, if tasks have too few
            rows, or if another argument does not have the form above.

    Example:

    >>> import numpy as np
    >>> from keras_maml import tasks
    >>> rng = np.random.default_rng(0)
    >>> ratings = {
    ...     "person": np.repeat(np.arange(20), 25),
    ...     "length": rng.normal(size=500),
    ...     "year": rng.normal(size=500),
    ...     "rating": rng.normal(size=500),
    ... }
    >>> table = tasks.from_table(
    ...     ratings, task="person", target="rating", support=10, query=15
    ... )
    >>> train, validation, test = table.split(0.7, 0.1, 0.2)
    >>> x, y = train.episode(0)
    >>> x["support_x"].shape, x["support_y"].shape, y.shape
    ((10, 2), (10, 1), (15, 1))
    """
    check_choice("missing", missing, ("raise", "keep"))
    columns = columns_lib.read_columns(data)

    def column(argument, name):
        return columns_lib.take(columns, argument, name)

    task_column = column("task", task)
    targets = make_targets(target, column("target", target), kind)
    check_balance(balance, targets)
    check_features(features, categories, target)
    used = {task, target, group, order, *categories}
    if features is None:
        features = [name for name in columns if name not in used]
    codes = {
        name: _codes(name, column("categories", name)) for name in categories
    }
    x = _inputs(columns, features, codes, missing)
    names, tasks, groups = make_groups(
        columns_lib.keys("task", task, task_column),
        None
        if group is None
        else columns_lib.keys("group", group, column("group", group)),
    )
    count = len(tasks)
    rows = TaskRows(
        tasks,
        np.zeros(count, int) if balance is None else targets.values.numpy(),
        np.zeros(count, int)
        if order is None
        else _ranks(order, column("order", order)),
        names,
        groups,
    )
    rule = _at_random if order is None else _task_cuts
    settings = TableSettings(support, query, cut, too_few, preprocess, seed)
    return TableTasks(TableExamples(x, codes, targets), rows, rule, settings)


def make_targets(name: str, column: np.ndarray, kind: str | None) -> Targets:
    """Returns the targets of a column; see `from_table`."""
    check_choice("kind", kind, (None, *KINDS))
    if kind is None:
        kind = _guessed_kind(name, column)
    if kind == "classification":
        values = columns_lib.keys("target", name, column)
        distinct, codes = np.unique(values, return_inverse=True)
        return Targets(codes.astype("int32"), [str(v) for v in distinct])
    values = columns_lib.numbers("target", name, column)
    if not np.isfinite(values).all():
        raise ValueError(
            "`target` must be a finite number in each row. Received: column "
            f"{name!r} without one in {(~np.isfinite(values)).sum()} rows, the "
            f"first of them row {np.isfinite(values).argmin()}"
        )
    values = values.astype("float32").reshape(len(values), -1)
    return Targets(values, None)


def check_balance(balance: str | None, targets: Targets) -> None:
    """Raises a ValueError if `balance` is unknown, or there are no classes."""
    check_choice("balance", balance, (None, "classes"))
    if balance is not None and targets.class_names is None:
        raise ValueError(
            "`balance` needs classes, and this is a regression. Received: "
            f"balance={balance!r}"
        )


def check_features(
    features: str | Sequence[str] | None, categories: Sequence[str], target: str
) -> None:
    """Raises a ValueError if the target is among the inputs."""
    names = [features] if isinstance(features, str) else features or ()
    if target in (*names, *categories):
        raise ValueError(
            "`features` and `categories` must not hold the target. Received: "
            f"target={target!r}, features={features!r}, "
            f"categories={categories!r}"
        )


def check_no_cut(cut: str) -> None:
    """Raises a ValueError if there is a cut without a time to be cut."""
    if cut != "random":
        raise ValueError(
            f"`cut` needs `order`. Received: cut={cut!r} and order=None"
        )


def make_groups(
    tasks: np.ndarray, groups: np.ndarray | None
) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Returns the names of the tasks, the task of each row, and the groups.

    Raises:
        ValueError: If a task is in two groups.
    """
    distinct, first, codes = np.unique(
        tasks, return_index=True, return_inverse=True
    )
    names = [str(name) for name in distinct]
    if groups is None:
        return names, codes, np.arange(len(names))
    of_task = groups[first]
    wrong = groups != of_task[codes]
    if wrong.any():
        row = wrong.argmax()
        raise ValueError(
            "`group` must be the same in all rows of a task. Received: task "
            f"{names[codes[row]]!r} in the groups "
            f"{str(of_task[codes[row]])!r} and {str(groups[row])!r}"
        )
    return names, codes, of_task


def _guessed_kind(name, column):
    if column.dtype.kind == "b":
        return "classification"
    try:
        values = columns_lib.numbers("target", name, column)
    except ValueError:
        parsed = columns_lib.parsed(column)
        if parsed.any():
            raise ValueError(
                f"`kind` must say what column {name!r} holds, in which "
                f"{parsed.sum()} of {len(parsed)} values are numbers. "
                "Received: kind=None"
            ) from None
        return "classification"
    if (values[np.isfinite(values)] % 1 == 0).all():
        raise ValueError(
            f"`kind` must say whether the whole numbers of column {name!r} are "
            'classes. Pass kind="classification" or kind="regression". '
            "Received: kind=None"
        )
    return "regression"


def _codes(name, column):
    """Returns the distinct names of a column, and the code of each row."""
    missing = columns_lib.missing_keys(column)
    codes = np.zeros(len(column), "int32")
    distinct = []
    if not missing.all():
        present = columns_lib.keys("categories", name, column[~missing])
        distinct, found = np.unique(present, return_inverse=True)
        codes[~missing] = found + 1
    return [str(value) for value in distinct], codes


def _inputs(columns, features, codes, missing):
    """Returns the array of numbers, or `None` if there is none."""
    if isinstance(features, str):
        array = columns_lib.take(columns, "features", features)
        return check_examples(array)
    names = [name for name in features if name not in codes]
    if not names and not codes:
        raise ValueError(
            "`features` must name at least one column. Received: "
            f"features={features!r} of columns {sorted(columns)}"
        )
    if not names:
        return None
    parts = [columns_lib.take(columns, "features", name) for name in names]
    widths = [1 if part.ndim == 1 else part.shape[-1] for part in parts]
    x = np.empty((len(parts[0]), sum(widths)), "float32")
    ends = np.cumsum(widths)
    lacking = []
    for name, part, end, width in zip(names, parts, ends, widths):
        values = columns_lib.numbers("features", name, part)
        with np.errstate(over="ignore"):  # Found below.
            x[:, end - width : end] = values.reshape(len(x), -1)
        place = x[:, end - width : end]
        if np.isinf(place).any():
            raise ValueError(
                "`features` must be finite in float32. Received: column "
                f"{name!r} with infinity in row "
                f"{np.isinf(place).any(1).argmax()}"
            )
        count = int(np.isnan(place).any(1).sum())
        if count:
            lacking.append(f"{name!r} in {count} rows")
    if lacking and missing == "raise":
        raise ValueError(
            "`features` lack values. Leave out these columns or rows, or pass "
            'missing="keep" and see `TableTasks.fill_missing`. Received: '
            f"nothing for {', '.join(lacking)} of {len(x)}"
        )
    return x


def _ranks(name, column):
    """Returns the place of each row's time in the order of all times."""
    return np.unique(
        columns_lib.times("order", name, column), return_inverse=True
    )[1]


def _at_random(rows, support, query, cut):
    check_no_cut(cut)
    return AtRandom(rows, support, query)


def _task_cuts(rows, support, query, cut):
    return TaskCuts(rows, support, query, cut == "first")
