"""The candidates of a verdict, from the simplest to the most laborious."""

import time
from typing import Any
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf

from keras_maml.engine.class_predictions import class_predictions
from keras_maml.engine.episode_scorer import EpisodeScorer
from keras_maml.engine.normalization import batch_normalization_layers
from keras_maml.meta_model import MetaModel
from keras_maml.verdict import rows
from keras_maml.verdict.learner_facts import learner_facts
from keras_maml.verdict.rates import AssignedRate
from keras_maml.verdict.settings import Settings
from keras_maml.verdict.settings import features
from keras_maml.verdict.settings import learner_of
from keras_maml.verdict.training import Search
from keras_maml.verdict.training import Training

# In the order of how much they ask of their user.
NAMES = ("pooled", "own", "fine-tuned", "prototypes", "anil", "maml")

# Adam trains the own model in few steps, so by larger rates than others.
_FEW_STEPS = 10


class Candidate(NamedTuple):
    """A candidate that has been trained and tuned.

    Attributes:
        settings: `Settings`.
        weights: list of arrays, the weights of the learner.
        error: float, on validation tasks; small is good.
        seconds: float, the time of the training that was chosen.
        search_seconds: float, the time of all trials.
        training_steps: int, the steps of a training.
        improves: bool. Whether the last round was the best by far.
    """

    settings: Settings
    weights: list
    error: float
    seconds: float = 0.0
    search_seconds: float = 0.0
    training_steps: int = 0
    improves: bool = False

    def facts(self) -> dict:
        """Returns what a report says of the candidate."""
        return {
            "settings": self.settings._asdict(),
            "error": self.error,
            "training_seconds": self.seconds,
            "search_seconds": self.search_seconds,
            "training_steps": self.training_steps,
            "improves": int(self.improves),
        }

    @classmethod
    def of(cls, report: Any, weights: list) -> "Candidate":
        """Returns the candidate of a report and its weights."""
        facts = report.facts
        return cls(
            Settings(**facts["settings"]),
            weights,
            facts["error"],
            facts["training_seconds"],
            facts["search_seconds"],
            facts["training_steps"],
            bool(facts["improves"]),
        )

    def make(self, fold: "Fold") -> MetaModel:
        """Returns the candidate as a compiled `MetaModel`."""
        learner = learner_of(self.settings, fold.learner)
        learner.set_weights(self.weights)
        return self.settings.make(learner, fold.plan)


class Fold(NamedTuple):
    """What candidates are made of.

    Attributes:
        plan: a `Plan`.
        learner: a built Keras model.
        parts: `Parts`.
        path: a prefix of files, or `None`.
    """

    plan: Any
    learner: keras.Model
    parts: Any
    path: str | None = None

    def facts(self) -> dict:
        """Returns by what one knows the tasks and the learner again."""
        return {
            "tasks": [part.checksum() for part in self.parts],
            "learner": learner_facts(self.learner),
        }

    def validation(self) -> tf.data.Dataset:
        """Returns the validation tasks."""
        return self.parts.validation.batch(
            self.plan.meta_batch_size, self.plan.validation_episodes
        )


def is_classification(plan: Any) -> bool:
    """Returns whether there can be prototypes."""
    predictions = class_predictions(plan.loss)
    return predictions is not None and predictions.kind == "sparse"


def names_for(plan: Any, learner: keras.Model) -> list[str]:
    """Returns the names of the candidates that a learner has."""
    has_prototypes = is_classification(plan) and features(learner) is not None
    names = plan.candidates
    return [n for n in names if n != "prototypes" or has_prototypes]


def pooled(fold: Fold) -> Candidate:
    """One model for all tasks: Keras's `fit` on the rows of all tasks."""
    plan = fold.plan
    settings = Settings()
    learner = learner_of(settings, fold.learner)

    def dataset_at(steps):
        data = fold.parts.train.batch(plan.meta_batch_size, after=steps)
        return data.map(rows.all_rows)

    training = Training(
        plan,
        learner,
        learner,
        dataset_at,
        fold.validation().map(rows.query_rows),
        gradients=1,
    )
    return _searched(fold, "pooled", settings, training)


def prototypes(fold: Fold) -> Candidate:
    """Prototypes: features in which a class is its nearest mean."""
    settings = Settings(
        normalization=fold.plan.normalization, head_init="prototypes"
    )
    return _meta_trained(fold, "prototypes", settings, 0)


def maml(fold: Fold) -> Candidate:
    """MAML: weights from which all others are learned fast."""
    return _with_best_steps(fold, "maml", "all")


def anil(fold: Fold) -> Candidate:
    """ANIL: as MAML, but the head alone adapts."""
    return _with_best_steps(fold, "anil", "head")


def own(fold: Fold) -> Candidate:
    """A model of each task's own, from the first weights, on its support."""
    settings = Settings(
        inner_optimizer="adam", normalization=fold.plan.normalization
    )
    rates = [_FEW_STEPS * outer for outer, _ in _rates(fold.plan)]
    return _tuned(fold, [settings], fold.learner.get_weights(), rates)


def fine_tuned(fold: Fold, start: Candidate) -> Candidate:
    """The pooled model, fine-tuned at its best rate and number of steps."""
    settings = [Settings()]
    if batch_normalization_layers(fold.learner):
        settings.append(Settings(normalization=fold.plan.normalization))
    rates = [inner for _, inner in _rates(fold.plan)]
    tuned = _tuned(fold, settings, start.weights, rates)
    return tuned._replace(
        seconds=start.seconds,
        search_seconds=tuned.search_seconds + start.search_seconds,
        training_steps=start.training_steps,
        improves=start.improves,
    )


def make(name: str, fold: Fold, made: dict[str, tuple]) -> Candidate:
    """Trains and tunes a candidate.

    Args:
        name: string, one of `NAMES`.
        fold: a `Fold`.
        made: dict of reports and candidates, those before this one.
    """
    if name == "fine-tuned":
        return fine_tuned(fold, made["pooled"][1])
    functions = (pooled, own, prototypes, anil, maml)
    return {f.__name__: f for f in functions}[name](fold)


def _rates(plan):
    """Returns the outer and the inner rate of each trial."""
    return [plan.rates(trial) for trial in range(plan.trials)]


def _with_best_steps(fold, name, adapted_weights):
    plan = fold.plan
    settings = Settings(
        steps=plan.inner_steps,
        adapted_weights=adapted_weights,
        normalization=plan.normalization,
    )
    candidate = _meta_trained(fold, name, settings, plan.inner_steps)
    # A model that was trained for a few steps may gain by some more.
    learner = learner_of(settings, fold.learner)
    learner.set_weights(candidate.weights)
    meta_model = candidate.settings.make(learner, plan)
    path = _Path(fold, meta_model, 3 * plan.inner_steps)
    steps, error = path.best()
    return candidate._replace(
        settings=candidate.settings._replace(steps=steps), error=error
    )


def _meta_trained(fold, name, settings, inner_steps):
    plan = fold.plan
    rate = AssignedRate()
    learner = learner_of(settings, fold.learner)
    meta_model = settings._replace(inner_rate=rate).make(
        learner, plan, inner_steps
    )

    def dataset_at(steps):
        return fold.parts.train.batch(plan.meta_batch_size, after=steps)

    training = Training(
        plan,
        meta_model,
        learner,
        dataset_at,
        fold.validation(),
        # Each inner gradient is differentiated once more.
        gradients=2 * inner_steps + 1,
        inner_rate=rate,
        loss=settings.loss(plan),
    )
    return _searched(fold, name, settings, training)


def _searched(fold, name, settings, training):
    path = None if fold.path is None else f"{fold.path}_{name}"
    search = Search(training, fold.plan, path)
    outer, inner = fold.plan.rates(search.trial)
    return Candidate(
        settings._replace(outer_rate=outer, inner_rate=inner),
        search.best.weights,
        search.best.best,
        search.best.seconds,
        search.seconds,
        training.steps * fold.plan.rounds,
        search.best.improves,
    )


def _tuned(fold, settings, weights, rates):
    """Tries rates and numbers of inner steps on validation tasks.

    Args:
        fold: a `Fold`.
        settings: list of `Settings` to try.
        weights: list of arrays, where inner loops start.
        rates: list of floats, the rate of each trial.
    """
    begin = time.perf_counter()
    tried = []
    for setting in settings:
        learner = learner_of(setting, fold.learner)
        learner.set_weights(weights)
        rate = AssignedRate()
        meta_model = setting._replace(inner_rate=rate).make(learner, fold.plan)
        path = _Path(fold, meta_model, fold.plan.most_steps)
        for value in rates:
            rate.value.assign(value)
            steps, error = path.best()
            chosen = setting._replace(steps=steps, inner_rate=value)
            tried.append(Candidate(chosen, weights, error))
    best = min(tried, key=lambda candidate: candidate.error)
    return best._replace(search_seconds=time.perf_counter() - begin)


class _Path:
    """The errors of a model on validation tasks, after each inner step."""

    def __init__(self, fold, meta_model, steps):
        self._fold = fold
        self._scorer = EpisodeScorer(meta_model, steps)
        self._function = tf.function(
            self._scorer, reduce_retracing=True, autograph=False
        )

    def best(self):
        """Returns the best number of steps, and its error."""
        scores = []
        for batch in self._fold.validation():
            x, y, weight = keras.utils.unpack_x_y_sample_weight(batch)
            scores.append(self._function(x, y, weight)["scores"].numpy())
        metric, direction = self._fold.plan.main_metric()
        column = self._scorer.names.index(metric)
        means = np.concatenate(scores)[..., column].mean(0, dtype=np.float64)
        errors = means if direction == "down" else -means
        errors = np.where(np.isfinite(errors), errors, np.inf)
        steps = int(np.argmin(errors))
        return steps, float(errors[steps])
