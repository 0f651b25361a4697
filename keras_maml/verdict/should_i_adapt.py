"""should_i_adapt: whether adapting to each task is worth its while."""

import os
from collections.abc import Callable
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from keras_maml.engine import contract
from keras_maml.engine import learner_checks
from keras_maml.evaluation.evaluate_episodes import evaluate_episodes
from keras_maml.evaluation.evaluation_report import EvaluationReport
from keras_maml.validation import check_choice
from keras_maml.validation import check_integer
from keras_maml.validation import check_range
from keras_maml.validation import check_seed
from keras_maml.verdict import candidates as candidates_lib
from keras_maml.verdict import verdict_text
from keras_maml.verdict.parts import parts_of
from keras_maml.verdict.plan import Plan
from keras_maml.verdict.results import Results
from keras_maml.verdict.training import remove_files
from keras_maml.verdict.verdict import Verdict

# How often a training looks at validation tasks.
_ROUNDS = 5
# Between the numbers of two folds' episodes.
_NEXT_FOLD = 1 << 42


def should_i_adapt(
    learner: keras.Model | Callable[[Any], keras.Model],
    tasks: Any,
    *,
    loss: str | keras.Loss,
    metrics: Sequence[str | keras.Metric] = (),
    candidates: Sequence[str] | None = None,
    budget: int = 7000,
    trials: int = 4,
    meta_batch_size: int = 16,
    inner_steps: int = 3,
    most_steps: int = 50,
    outer_rates: tuple[float, float] = (3e-4, 3e-2),
    inner_rates: tuple[float, float] = (3e-3, 1.0),
    normalization: str = "support",
    episodes: int = 200,
    folds: int | None = None,
    folder: str | os.PathLike[str] | None = None,
    seed: int = 0,
    verbose: int = 1,
) -> Verdict:
    """Compares adapting to each task with not adapting, on held-out tasks.

    There are up to six candidates, all of the same learner with the same first
    weights:

    - `"pooled"`: one model for all tasks, which does not adapt. Keras's `fit`
      trains it on the rows of the same episodes, support and query alike, as
      one would without this library. A meta-batch is one batch of rows, so it
      sees each label that MAML sees, and batch normalization mixes tasks.
    - `"own"`: a model of each task's own, trained from the first weights on
      the support set alone, by up to `most_steps` steps of Adam.
    - `"fine-tuned"`: the pooled model after up to `most_steps` steps of
      gradient descent on the support set.
    - `"prototypes"`: the nearest class mean in a space of learned features;
      for classes as integers, if the last layer of the learner is `Dense`.
    - `"anil"`, `"maml"`: meta-trained with `inner_steps`. In the test they may
      take up to three times as many.

    The budget counts gradient evaluations, each on one meta-batch. A step of
    the pooled model and of prototypes is one. A step of MAML or ANIL with K
    inner steps counts 2K + 1: K inner gradients, K derivatives of these, and
    the outer gradient. So MAML takes fewer steps, at about the same cost.

    Each candidate gets the same number of trials. The trials of a training try
    an outer rate of Adam (which falls to 0 along a cosine), and an inner rate
    if there is one. The trials of the own model try ten times the outer rates,
    and those of the fine-tuned model the inner rates, with every number of
    steps. Validation tasks choose the trial, the
    best of five rounds of a training, and the number of steps. Test tasks
    choose nothing.

    Args:
        learner: a Keras model of one task; or a function of the training
            tasks that returns one, such as to scale inputs by the training
            tasks alone. All candidates start from copies of its weights.
        tasks: a distribution whose episodes share nothing, such as
            `tasks.Sinusoid`; a `TableTasks`, of which 60 % of the tasks are
            for training, 20 % for validation and 20 % for the test; a tuple of
            training, validation and test tasks; or a list of such tuples, one
            for each fold, without a test task in common.
        loss: as for `compile`.
        metrics: list, as for `compile`. The first one decides, and the loss
            without any. Rows of weight 0 do not count.
        candidates: list of names of candidates, with `"pooled"`. Defaults to
            all.
        budget: int, the gradient evaluations of a training. Defaults to
            `7000`.
        trials: int, the trials of each candidate. Defaults to `4`.
        meta_batch_size: int, the tasks of a meta-batch. Defaults to `16`.
        inner_steps: int, of MAML and ANIL in training. Defaults to `3`.
        most_steps: int, of the own and the fine-tuned model. Defaults to `50`.
        outer_rates: pair of floats, between which trials try the rates of
            Adam. Defaults to `(3e-4, 3e-2)`.
        inner_rates: pair of floats, between which trials try the rates of
            gradient descent on a support set. If the learner's last layer
            multiplies its outputs by s, and the loss is a squared error,
            divide them by s². Defaults to `(3e-3, 1.0)`.
        normalization: as in `MetaModel`, of the candidates that adapt. The
            pooled model uses moving averages. The fine-tuned model tries
            both. Defaults to `"support"`.
        episodes: int, the number of test episodes in all. Defaults to `200`.
        folds: int, to test on each task of a table once: the candidates are
            trained `folds` times, without a part of the tasks. Use it for
            tables of few tasks. Defaults to `None`: one split.
        folder: path of a folder, with which an interrupted call goes on.
            Defaults to `None`: nothing is written.
        seed: int, of the split. Defaults to `0`.
        verbose: int, 0 for silence, 1 for a line for each candidate.

    Returns:
        A `Verdict`.

    Raises:
        ValueError: if an argument does not have the form above, if no trial
            of a candidate is finite, or if `folder` holds results of other
            arguments, tasks or learners. A learner is known by the configs
            of its layers, the shapes of their weights, and the weights that
            do not train. Give a learner that starts from other weights
            another folder.

    Example:

    ```python
    verdict = keras_maml.should_i_adapt(
        keras_maml.learners.mlp(hidden_units=(8,)),
        keras_maml.tasks.Sinusoid(),
        loss="mse",
        candidates=["pooled", "own"],
        budget=5,  # far too small: see docs/should_i_adapt.md
        trials=1,
        most_steps=5,
        episodes=20,
        verbose=0,
    )
    print(verdict.answer)  # "yes", "no" or "unclear"
    print(verdict)
    ```

    Reference:
        On why to ask: Miranda et al., 2023, "Is Pre-training Truly Better Than
        Meta-Learning?"; Raghu et al., 2020, on ANIL; Snell et al., 2017, on
        prototypes.
    """
    plan = Plan(
        loss,
        list(metrics),
        _check_candidates(candidates),
        check_integer("budget", budget),
        check_integer("trials", trials),
        _ROUNDS,
        check_integer("meta_batch_size", meta_batch_size),
        check_integer("inner_steps", inner_steps),
        check_integer("most_steps", most_steps),
        _check_rates("outer_rates", outer_rates),
        _check_rates("inner_rates", inner_rates),
        check_integer("episodes", episodes, minimum=2),
        min(100, max(20, episodes // 2)),
        normalization,
    )
    check_seed(seed)
    if folds is not None:
        check_integer("folds", folds, minimum=2)
    plan.main_metric()
    parts = parts_of(tasks, folds, seed)
    facts = {**plan.facts(), "folds": len(parts), "seed": seed}
    results = Results(folder, facts)
    reports: dict[str, list[EvaluationReport]] = {}
    for number, part in enumerate(parts):
        fold = _make_fold(plan, learner, part, results, f"fold_{number}")
        count = episodes // len(parts) + (number < episodes % len(parts))
        made = _run(fold, results, count, verbose)
        for name, (report, _) in made.items():
            reports.setdefault(name, []).append(report)
    joined = {name: _joined(several) for name, several in reports.items()}
    verdict = Verdict(joined, facts)
    verdict.model = _exportable(made[verdict.choice][1], fold)
    return verdict


def _check_candidates(names):
    if names is None:
        return list(candidates_lib.NAMES)
    for name in names:
        check_choice("candidates", name, candidates_lib.NAMES)
    if "pooled" not in names or len(set(names)) < 2:
        raise ValueError(
            '`candidates` must have "pooled" and another name. '
            f"Received: candidates={names!r}"
        )
    return [name for name in candidates_lib.NAMES if name in names]


def _check_rates(name, value):
    low, high = check_range(name, value)
    if low <= 0:
        raise ValueError(
            f"`{name}` must be above 0. Received: {name}={value!r}"
        )
    return low, high


def _make_fold(plan, learner, parts, results, name):
    """Returns a fold, of which results may know another learner or tasks."""
    fold = candidates_lib.Fold(
        plan, _learner_of_fold(learner, parts), parts, results.prefix(name)
    )
    results.check(f"{name}_made_of", fold.facts())
    return fold


def _learner_of_fold(learner, parts):
    if not isinstance(learner, keras.Model) and callable(learner):
        learner = learner(parts.train.tasks)
    learner_checks.check_model(learner)
    if not learner.built:
        x, *_ = parts.train.tasks.episode(0)
        learner(x["query_x"])
    return learner


def _run(fold, results, count, verbose):
    """Returns the report and the `Candidate` of each name."""
    made = {}
    for name in candidates_lib.names_for(fold.plan, fold.learner):
        path = None if fold.path is None else f"{fold.path}_{name}"
        saved = results.read(path)
        if saved is None:
            candidate = candidates_lib.make(name, fold, made)
            report = _tested(fold, name, candidate, count)
            results.write(path, report, candidate.weights)
            if path is not None:
                remove_files(path, fold.plan)
        else:
            report, weights = saved
            candidate = candidates_lib.Candidate.of(report, weights)
        made[name] = report, candidate
        if verbose:
            print(verdict_text.progress(report), flush=True)
    return made


def _tested(fold, name, candidate, count):
    """Scores a candidate on the test tasks, after its last inner step."""
    report = evaluate_episodes(
        candidate.make(fold),
        fold.parts.test.batch(fold.plan.meta_batch_size, count),
        inner_steps=candidate.settings.steps,
        name=name,
        verbose=0,
    )
    facts = {
        key: report.facts[key]
        for key in ("seconds", "skipped", "bins")
        if key in report.facts
    }
    if "bins" in facts:
        facts["bins"] = facts["bins"][-1:]
    return EvaluationReport(
        {metric: values[-1:] for metric, values in report.scores.items()},
        report.episodes,
        name=name,
        directions=report.directions,
        tasks=report.tasks,
        groups=report.groups,
        checksums=report.checksums,
        facts={**facts, **candidate.facts()},
    )


def _exportable(candidate, fold):
    """Returns the model of a candidate, which knows the form of its inputs."""
    model = candidate.make(fold)
    x, *_ = next(iter(fold.parts.train.batch(1, count=1)))
    model.meta_state.input_signature = contract.input_signature(
        contract.check_inputs(x), model.learner
    )
    return model


def _joined(reports):
    """Returns one report of those of several folds."""
    first = reports[0]
    episodes = [r.episodes + i * _NEXT_FOLD for i, r in enumerate(reports)]
    facts = {
        "seconds": float(np.mean([r.facts["seconds"] for r in reports])),
        "skipped": sum(r.facts["skipped"] for r in reports),
        "error": float(np.mean([r.facts["error"] for r in reports])),
        "settings": [r.facts["settings"] for r in reports],
        "training_steps": first.facts["training_steps"],
        "training_seconds": sum(r.facts["training_seconds"] for r in reports),
        "search_seconds": sum(r.facts["search_seconds"] for r in reports),
        "improves": sum(r.facts["improves"] for r in reports),
    }
    if "bins" in first.facts:
        facts["bins"] = sum(np.asarray(r.facts["bins"]) for r in reports)
    tasks = groups = None
    if first.tasks is not None:
        tasks = [names for report in reports for names in report.tasks]
    if any(report.groups is not None for report in reports):
        # Folds part groups. One in which no tasks share any knows of none.
        groups = [n for r in reports for n in r.groups or r.tasks]
    return EvaluationReport(
        {
            metric: np.concatenate([r.scores[metric] for r in reports], 1)
            for metric in first.scores
        },
        np.concatenate(episodes),
        name=first.name,
        directions=first.directions,
        tasks=tasks,
        groups=groups,
        checksums=np.concatenate([r.checksums for r in reports]),
        facts=facts,
    )
