"""Where tasks come from."""

from keras_maml.tasks.class_pool import ClassPool
from keras_maml.tasks.episodes import Episodes
from keras_maml.tasks.fill_missing import FillMissing
from keras_maml.tasks.gaussian_tasks import GaussianTasks
from keras_maml.tasks.glyphs import Glyphs
from keras_maml.tasks.preprocessing import preprocess_omniglot
from keras_maml.tasks.recordings import from_recordings
from keras_maml.tasks.sinusoid import Sinusoid
from keras_maml.tasks.sources import from_arrays
from keras_maml.tasks.sources import from_folder
from keras_maml.tasks.table_tasks import TableTasks
from keras_maml.tasks.tables import from_table
from keras_maml.tasks.task_distribution import TaskDistribution
from keras_maml.tasks.tfds_source import from_tfds

__all__ = [
    "ClassPool",
    "Episodes",
    "FillMissing",
    "GaussianTasks",
    "Glyphs",
    "preprocess_omniglot",
    "Sinusoid",
    "from_arrays",
    "from_folder",
    "from_recordings",
    "from_table",
    "TableTasks",
    "TaskDistribution",
    "from_tfds",
]
