"""What a meta-policy search knows and Keras must not see."""

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from keras_maml.rl.environments.environment import TaskSampler
from keras_maml.rl.policy_learner import PolicyLearner

# A trace takes megabytes.
_MAX_COLLECTORS = 8


class SearchState:
    """The part of a `MetaPolicySearch` that is not saved.

    Keras tracks and saves what it finds in the attributes of a model. It does
    not look into this object.

    Args:
        learner: a `PolicyLearner`.

    Attributes:
        learner: the `PolicyLearner`, which acts and adapts.
        sampler: the `TaskSampler` of the last `fit`.
        traced_settings: tuple, the settings that the training step was traced
            with.
        trackers: dict, from the name of a log to its mean over the epoch.
        collectors: dict, from settings to the traced function of `collect`:
            those that were used last.
    """

    def __init__(self, learner: PolicyLearner) -> None:
        self.learner = learner
        self.sampler: TaskSampler | None = None
        self.traced_settings: tuple | None = None
        self.trackers: dict[str, keras.metrics.Mean] = {}
        self.collectors: dict[tuple, Any] = {}

    def collector(self, settings: tuple, function: Callable) -> Callable:
        """Returns the traced function of `collect` for some settings.

        Tracing takes longer than acting, so the last few are kept.

        Args:
            settings: tuple, what a trace depends on.
            function: what to trace, if these settings are new.
        """
        collectors = self.collectors
        traced = collectors.pop(settings, None)
        if traced is None:
            traced = tf.function(function, autograph=False)
        # The one that was not used for longest is the first.
        collectors[settings] = traced
        while len(collectors) > _MAX_COLLECTORS:
            del collectors[next(iter(collectors))]
        return traced
