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
from keras_maml.evaluation.comparison import Comparison
from keras_maml.evaluation.comparison import compare
from keras_maml.evaluation.conformal import ConformalPrediction
from keras_maml.evaluation.conformal import conformal_prediction
from keras_maml.evaluation.evaluate_episodes import evaluate_episodes
from keras_maml.evaluation.evaluate_tasks import evaluate_tasks
from keras_maml.evaluation.evaluation_report import EvaluationReport
from keras_maml.meta_model import MetaModel
from keras_maml.task_scores import TaskScores
from keras_maml.verdict.should_i_adapt import should_i_adapt
from keras_maml.verdict.verdict import Verdict
from keras_maml.version import __version__

__all__ = [
    "Comparison",
    "ConformalPrediction",
    "ContextParameters",
    "EvaluationReport",
    "MetaModel",
    "TaskScores",
    "Verdict",
    "__version__",
    "algorithms",
    "callbacks",
    "compare",
    "configure_threads",
    "conformal_prediction",
    "evaluate_episodes",
    "evaluate_tasks",
    "inner_optimizers",
    "learners",
    "meta_gradients",
    "outer_loss",
    "rl",
    "serving",
    "should_i_adapt",
    "tasks",
]
