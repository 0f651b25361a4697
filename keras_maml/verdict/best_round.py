"""BestRound: keeps the weights of the best round of a training."""

import time

import keras
import numpy as np


class BestRound(keras.callbacks.Callback):
    """Looks at the validation tasks after each round.

    The callback goes on with a run that `Resume` has loaded.

    Args:
        learner: the Keras model whose weights are kept.
        metric: string, the metric that decides.
        direction: `"up"` or `"down"`.

    Attributes:
        scores: list of floats, the metric after each round.
        losses: list of floats, the validation loss after each round.
        weights: list of arrays, the weights of the best round, or `None`.
        seconds: float, the time of the rounds.
    """

    def __init__(self, learner, metric, direction):
        super().__init__()
        self._learner = learner
        self._key = f"val_{metric}"
        self._sign = 1 if direction == "down" else -1
        self.scores = []
        self.losses = []
        self.weights = None
        self.seconds = 0.0

    @property
    def errors(self):
        """The scores, as numbers of which small ones are good."""
        errors = self._sign * np.asarray(self.scores, np.float64)
        return np.where(np.isfinite(errors), errors, np.inf)

    @property
    def best(self):
        """The smallest error. Infinite if no round was finite."""
        return float(min(self.errors, default=np.inf))

    @property
    def improves(self):
        """Whether the last round lowered the loss by more than 5 %."""
        losses = self.losses
        return (
            len(losses) > 1
            and self.best == self.errors[-1]
            and losses[-1] < 0.95 * min(losses[:-1])
        )

    def on_epoch_begin(self, epoch, logs=None):
        self._begin = time.perf_counter()

    def on_epoch_end(self, epoch, logs=None):
        before = self.best
        self.scores.append(float(logs[self._key]))
        self.losses.append(float(logs["val_loss"]))
        if self.best < before:
            self.weights = self._learner.get_weights()
        self.seconds += time.perf_counter() - self._begin

    def get_state(self):
        return {
            "scores": self.scores,
            "losses": self.losses,
            "weights": self.weights or [],
            "seconds": self.seconds,
        }

    def set_state(self, state):
        self.scores = list(state["scores"])
        self.losses = list(state["losses"])
        self.weights = list(state["weights"]) or None
        self.seconds = state["seconds"]
