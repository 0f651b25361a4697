"""Settings: all that makes the model of a candidate, but its weights."""

from typing import Any
from typing import NamedTuple

import keras

from keras_maml import keras_internals
from keras_maml.engine.learner_copy import copy_learner
from keras_maml.inner_optimizers import SGD
from keras_maml.inner_optimizers import Adam
from keras_maml.meta_model import MetaModel


class Settings(NamedTuple):
    """The settings of a candidate.

    Attributes:
        steps: int, the inner steps on a new task.
        inner_optimizer: `"sgd"` or `"adam"`.
        inner_rate: float, or an `AssignedRate`.
        outer_rate: float, the rate of the training, or `None`.
        adapted_weights: as in `MetaModel`.
        normalization: as in `MetaModel`.
        head_init: as in `MetaModel`.
    """

    steps: int = 0
    inner_optimizer: str = "sgd"
    inner_rate: Any = 0.01
    outer_rate: float | None = None
    adapted_weights: str = "all"
    normalization: str = "moving"
    head_init: str | None = None

    def make(
        self, learner: keras.Model, plan: Any, training_steps: int = 0
    ) -> MetaModel:
        """Returns a compiled `MetaModel`.

        Args:
            learner: a Keras model, which is not copied.
            plan: a `Plan`.
            training_steps: int, the inner steps of training.
        """
        rule = {"sgd": SGD, "adam": Adam}[self.inner_optimizer]
        meta_model = MetaModel(
            learner,
            inner_optimizer=rule(self.inner_rate),
            inner_steps=training_steps,
            evaluation_steps=self.steps,
            adapted_weights=self.adapted_weights,
            normalization=self.normalization,
            head_init=self.head_init,
            bad_tasks="skip",
        )
        meta_model.compile(
            loss=self.loss(plan), weighted_metrics=plan.new_metrics()
        )
        return meta_model

    def loss(self, plan: Any) -> Any:
        """Returns the loss; that of prototypes is of logits."""
        if self.head_init is None:
            return plan.loss
        return keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def learner_of(settings: Settings, learner: keras.Model) -> keras.Model:
    """Returns a copy of a learner, without its head for prototypes."""
    copy = copy_learner(learner, {})
    return features(copy) if settings.head_init else copy


def features(learner: keras.Model) -> keras.Model | None:
    """Returns the part of a model below its last layer.

    Returns:
        `None` if the last layer is no `Dense` layer, or if Keras does not know
        what is below it.
    """
    layers = keras_internals.all_layers(learner, include_self=False)
    last = learner.layers[-1] if layers else None
    if not isinstance(last, keras.layers.Dense):
        return None
    try:
        body = keras.Model(learner.inputs, last.input)
    except (AttributeError, ValueError):
        return None
    return body if body.trainable_variables else None
