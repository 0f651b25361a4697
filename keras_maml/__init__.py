"""Gradient-based meta-learning (MAML and its family) for Keras 3."""

from keras_maml import inner_optimizers
from keras_maml import learners
from keras_maml import meta_gradients
from keras_maml import tasks
from keras_maml.meta_model import MetaModel
from keras_maml.version import __version__

__all__ = [
    "MetaModel",
    "__version__",
    "inner_optimizers",
    "learners",
    "meta_gradients",
    "tasks",
]
