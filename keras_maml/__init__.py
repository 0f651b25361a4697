"""Gradient-based meta-learning (MAML and its family) for Keras 3."""

from keras_maml import algorithms
from keras_maml import callbacks
from keras_maml import inner_optimizers
from keras_maml import learners
from keras_maml import meta_gradients
from keras_maml import outer_loss
from keras_maml import rl
from keras_maml import serving
from keras_maml import tasks
from keras_maml.context import ContextParameters
from keras_maml.engine.cpu_settings import configure_threads
from keras_maml.evaluation import evaluate_tasks
from keras_maml.meta_model import MetaModel
from keras_maml.task_scores import TaskScores
from keras_maml.version import __version__

__all__ = [
    "ContextParameters",
    "MetaModel",
    "TaskScores",
    "__version__",
    "algorithms",
    "callbacks",
    "configure_threads",
    "evaluate_tasks",
    "inner_optimizers",
    "learners",
    "meta_gradients",
    "outer_loss",
    "rl",
    "serving",
    "tasks",
]
