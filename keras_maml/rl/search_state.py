"""What a meta-policy search knows and Keras must not see."""

from typing import Any

import keras

from keras_maml.rl.environments.environment import TaskSampler
from keras_maml.rl.policy_learner import PolicyLearner


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
        collectors: dict, from settings to the traced function of `collect`.
    """

    def __init__(self, learner: PolicyLearner) -> None:
        self.learner = learner
        self.sampler: TaskSampler | None = None
        self.traced_settings: tuple | None = None
        self.trackers: dict[str, keras.metrics.Mean] = {}
        self.collectors: dict[tuple, Any] = {}
