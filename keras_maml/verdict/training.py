"""Training: a model that is trained again and again, at other rates."""

import os

import keras
import numpy as np
import tensorflow as tf

from keras_maml.callbacks.resume import Resume
from keras_maml.meta_model import MetaModel
from keras_maml.verdict.best_round import BestRound
from keras_maml.verdict.rates import CosineRate

# A program of XLA takes seconds to compile, so only long trainings gain.
_LONG = 500


class Training:
    """The training of a candidate. Each run starts from the same weights.

    Args:
        plan: a `Plan`.
        model: a `MetaModel`, or another Keras model, which is trained on rows.
        learner: the Keras model whose weights count.
        dataset_at: function of an int n that returns the training data behind
            n steps.
        validation: a finite dataset.
        gradients: int, the gradient evaluations of a step.
        inner_rate: `AssignedRate`, or `None`.
        loss: the loss. Defaults to that of the plan.
    """

    def __init__(
        self,
        plan,
        model,
        learner,
        dataset_at,
        validation,
        gradients,
        inner_rate=None,
        loss=None,
    ):
        self._plan = plan
        self._model = model
        self._learner = learner
        self._dataset_at = dataset_at
        self._validation = validation
        self._inner_rate = inner_rate
        self._start = learner.get_weights()
        self.steps = plan.steps_of_a_round(gradients)
        self._outer_rate = CosineRate(self.steps * plan.rounds)
        model.compile(
            optimizer=keras.optimizers.Adam(self._outer_rate),
            loss=loss or plan.loss,
            weighted_metrics=plan.new_metrics(),
        )
        if isinstance(model, MetaModel) and self.steps * plan.rounds < _LONG:
            model.task_map = "loop"

    def run(self, trial, path=None):
        """Trains from the first weights.

        Args:
            trial: int, the number of the trial, which determines the rates.
            path: path of a file with which a run goes on, or `None`.

        Returns:
            A `BestRound`.
        """
        outer, inner = self._plan.rates(trial)
        self._outer_rate.value.assign(outer)
        if self._inner_rate is not None:
            self._inner_rate.value.assign(inner)
        self._learner.set_weights(self._start)
        for variable in self._model.optimizer.variables:
            variable.assign(tf.zeros_like(variable))
        best = BestRound(self._learner, *self._plan.main_metric())
        try:
            self._fit(best, path)
        except ValueError as error:
            # At such a rate, the training of all tasks diverges.
            if "finite" not in str(error):
                raise
        return best

    def _fit(self, best, path):
        arguments = {
            "x": self._dataset_at(0),
            "epochs": self._plan.rounds,
            "steps_per_epoch": self.steps,
            "validation_data": self._validation,
            "callbacks": [best],
            "shuffle": False,
            "verbose": 0,
        }
        if path is None:
            self._model.fit(**arguments)
            return
        resume = Resume(path, dataset_at=self._dataset_at)
        resume.fit(self._model, **arguments)


class Search:
    """The trials of a training.

    Args:
        training: a `Training`.
        plan: a `Plan`.
        path: prefix of the files of runs, or `None`.

    Attributes:
        best: the `BestRound` of the best trial.
        trial: int, its number.
        seconds: float, the time of all trials.
    """

    def __init__(self, training, plan, path=None):
        runs = []
        for trial in range(plan.trials):
            file = None if path is None else f"{path}.trial_{trial}.resume"
            runs.append(training.run(trial, file))
        self.trial = int(np.argmin([run.best for run in runs]))
        self.best = runs[self.trial]
        self.seconds = sum(run.seconds for run in runs)
        if self.best.weights is None:
            raise ValueError(
                "`tasks` must hold finite numbers, and `outer_rates` and "
                "`inner_rates` must have rates at which training does not "
                "diverge. Received: none of "
                f"{plan.trials} trainings was finite"
            )


def remove_files(path, plan):
    """Removes the files of a search that is complete."""
    for trial in range(plan.trials):
        for end in ("", ".previous", ".lock"):
            file = f"{path}.trial_{trial}.resume{end}"
            if os.path.exists(file):
                os.remove(file)
