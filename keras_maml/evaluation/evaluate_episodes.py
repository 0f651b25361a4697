"""evaluate_episodes: everything about a model's scores, in one pass."""

import time
from collections.abc import Iterable
from collections.abc import Sequence

import keras
import numpy as np
import tensorflow as tf

from keras_maml import keras_internals
from keras_maml import streams
from keras_maml.engine import contract
from keras_maml.engine.episode_scorer import EpisodeScorer
from keras_maml.evaluation.episode_columns import EpisodeColumns
from keras_maml.evaluation.evaluation_report import EvaluationReport
from keras_maml.evaluation.finite_tasks import check_finite
from keras_maml.evaluation.finite_tasks import check_finite_dataset
from keras_maml.validation import check_integer

# Runs of which the median is the time of an adaptation.
_TIMED_RUNS = 10


def evaluate_episodes(
    meta_model: keras.Model,
    episodes: Iterable[tuple],
    *,
    inner_steps: int | None = None,
    tasks: Sequence | None = None,
    name: str | None = None,
    verbose: int = 1,
) -> EvaluationReport:
    """Scores a model on episodes, after every number of inner steps.

    One pass over the episodes gives all scores: the compiled loss and metrics
    after 0, 1, ... inner steps, in each episode. Memory grows by a few numbers
    for each episode.

    The `facts` of the report are a dict, in which E is the number of
    episodes:

    - `"seconds"`: float, the median time to adapt to one episode by itself
      and to predict its queries.
    - `"skipped"`: int, the number of episodes that are not finite and were
      left out, with `bad_tasks="skip"`.
    - `"copies"`: int, the number of episodes in which copies of other
      queries take the place of queries of weight 0, if the model has
      `metrics`, which count them.
    - `"normalization"`: string, the setting of the model. If the learner
      has trainable `BatchNormalization` and the setting is
      `"transductive"` or `"support"`: `"other_statistics"`, the other one
      of these, and `"other_scores"`, a dict from each metric to its
      `(E,)` values after the last step if the queries are normalized with
      it.
    - `"gradient_norm"`: `(E,)`, the norm of the support gradient at θ.
      `"loss_change"`: `(E,)`, the change of the query loss in the first
      inner step, over the distance that the weights move.
    - If the model classifies: `"before"`, `(E,)`, the share of right
      predictions before adaptation; `"chance"`, `(E,)`, 1 over the number
      of classes in the support set; `"bins"`, what `calibration` reads.

    Args:
        meta_model: a compiled `MetaModel`.
        episodes: finite iterable of meta-batches `(x, y)` or
            `(x, y, sample_weight)`, as for `evaluate`. A dataset that the
            `batch` of a task distribution has returned knows the numbers of
            its episodes, and the names of their tasks or classes. Otherwise
            the numbers are `x["episode"]`, or 0, 1, ...
        inner_steps: int, the largest number of inner steps. Defaults to
            `evaluation_steps` of the model.
        tasks: for each episode the name of its task, or a tuple of names, see
            `EvaluationReport`. Defaults to the names that `episodes` knows.
        name: string, how to call the model in texts. Defaults to the name of
            the learner.
        verbose: int, 0 for silence, 1 for a progress bar, 2 for a line.

    Returns:
        An `EvaluationReport`.

    Raises:
        ValueError: if the model is not compiled, if the episodes are infinite,
            none, or no meta-batches, if an argument does not have the form
            above, or if an episode is not finite, unless the model has
            `bad_tasks="skip"`.

    Example:

    ```python
    sines = keras_maml.tasks.Sinusoid(seed=1)
    meta_model = keras_maml.MetaModel(keras_maml.learners.mlp())
    meta_model.compile(optimizer="adam", loss="mse", metrics=["mae"])
    report = keras_maml.evaluate_episodes(
        meta_model, sines.batch(10, count=40), inner_steps=2, verbose=0
    )
    print(report)
    ```

    Reference:
        Finn et al., 2017, section 1, on sensitivity; Guo et al., 2017, on
        calibration; Lafargue et al., 2024, "Oops, I Sampled it Again", on
        intervals.
    """
    check_finite_dataset("episodes", episodes)
    if getattr(meta_model, "optimizer", None) is None:
        raise ValueError(
            "`meta_model` must be compiled with a loss and metrics. "
            f"Received: meta_model={meta_model!r}, which is not compiled"
        )
    if inner_steps is None:
        inner_steps = meta_model.evaluation_steps
    if inner_steps is None:
        inner_steps = meta_model.inner_steps
    check_integer("inner_steps", inner_steps, minimum=0)
    stream = streams.stream_of(episodes)
    scorer = EpisodeScorer(meta_model, inner_steps)
    columns = EpisodeColumns()
    first_batch = _run(scorer, episodes, stream, columns, verbose)
    if first_batch is None:
        raise ValueError(
            f"`episodes` holds no meta-batch. Received: episodes={episodes!r}"
        )
    arrays = columns.arrays()
    numbers, finite = arrays["episode"], arrays["finite"]
    check_finite(finite, meta_model.bad_tasks == "skip")
    groups = None
    if tasks is None and stream is not None:
        tasks = stream.task_names(numbers)
        groups = stream.group_names(numbers)
    if tasks is not None and len(tasks) != len(numbers):
        raise ValueError(
            f"`tasks` must have a name for each of the {len(numbers)} "
            f"episodes. Received: {len(tasks)} names"
        )
    keep = np.flatnonzero(finite & arrays["counts"])
    arrays = {key: value[keep] for key, value in arrays.items()}
    facts = _facts(scorer, arrays, meta_model.normalization)
    if columns.bins is not None:
        facts["bins"] = columns.bins
    facts["skipped"] = int((~finite).sum())
    if keras_internals.has_unweighted_metrics(meta_model):
        facts["copies"] = int((~arrays["complete"]).sum())
    facts["seconds"] = _seconds(meta_model, first_batch, inner_steps)
    return EvaluationReport(
        {n: arrays["scores"][..., i].T for i, n in enumerate(scorer.names)},
        numbers[keep],
        name=name or meta_model.learner.name,
        directions={k: v for k, v in scorer.directions.items() if v},
        tasks=None if tasks is None else [tasks[int(row)] for row in keep],
        groups=None if groups is None else [groups[int(row)] for row in keep],
        checksums=arrays["checksum"],
        facts=facts,
    )


def _run(scorer, episodes, stream, columns, verbose):
    """Scores all episodes into `columns`, and returns the first meta-batch."""
    function = tf.function(scorer, reduce_retracing=True, autograph=False)
    progress = keras.utils.Progbar(
        _count(episodes, stream), verbose=verbose, unit_name="episode"
    )
    first_batch = None
    for batch in episodes if stream is None else stream.numbered():
        x, y, weight = keras.utils.unpack_x_y_sample_weight(batch)
        if first_batch is None:
            first_batch = x, y, weight
        results = function(x, y, weight)
        columns.add({k: v.numpy() for k, v in results.items()}, x, y)
        means = columns.last_means()
        progress.update(
            columns.count, list(zip(scorer.names, means)), finalize=False
        )
    if first_batch is not None:
        progress.update(columns.count, finalize=True)
    return first_batch


def _count(episodes, stream):
    """Returns the number of episodes for the progress bar, if it is known."""
    return None if stream is None else stream.count


def _facts(scorer, arrays, normalization):
    facts = {"normalization": normalization}
    if scorer.steps:
        loss = arrays["scores"][..., scorer.names.index("loss")]
        length = arrays["step_length"][:, 0]
        # Weights that do not move change nothing.
        facts["loss_change"] = np.divide(
            loss[:, 1] - loss[:, 0],
            length,
            out=np.zeros_like(length),
            where=length > 0,
        )
        facts["gradient_norm"] = arrays["gradient_norm"][:, 0]
    if scorer.other_statistics is not None:
        facts["other_statistics"] = scorer.other_statistics
        facts["other_scores"] = {
            name: arrays["other"][:, i] for i, name in enumerate(scorer.names)
        }
    if scorer.classes is not None:
        facts["before"] = arrays["before"]
        facts["chance"] = 1 / arrays["n_way"]
    return facts


def _seconds(meta_model, batch, inner_steps):
    """Returns the median time to adapt to one episode, in seconds."""
    x = contract.check_inputs(batch[0])
    x = tf.nest.map_structure(lambda t: t[:1], x)
    adapt = tf.function(
        lambda x: meta_model(x, inner_steps=inner_steps), autograph=False
    )
    times = []
    for _ in range(_TIMED_RUNS + 1):
        start = time.perf_counter()
        tf.nest.map_structure(lambda t: t.numpy(), adapt(x))
        times.append(time.perf_counter() - start)
    # The first run traces.
    return float(np.median(times[1:]))
