"""Checks that a dataset ends, and that its tasks are finite."""

import tensorflow as tf


def check_finite_dataset(argument, dataset):
    """Raises `ValueError` if an argument is an endless dataset."""
    if (
        isinstance(dataset, tf.data.Dataset)
        and dataset.cardinality() == tf.data.INFINITE_CARDINALITY
    ):
        raise ValueError(
            f"`{argument}` must be finite. To make a finite dataset, call "
            f"`batch(tasks, count=...)`. Received: {argument}={dataset}"
        )


def check_finite(finite, skips):
    """Raises `ValueError` unless enough tasks are finite to go on."""
    if finite.any() if skips else finite.all():
        return
    remedy = (
        'To leave out such tasks, pass `bad_tasks="skip"` to the `MetaModel`.'
    )
    if skips:
        remedy = "No task of the dataset is left."
    raise ValueError(
        "What a task depends on, its predictions or its score are not "
        f"finite. {remedy} Received: "
        f"{(~finite).sum()} such tasks of {finite.size}, the first of "
        f"them task {finite.argmin()} of the dataset"
    )
