"""AdaptationCurves: what the inner loop does, in TensorBoard."""

import importlib.util
import os
import time
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_maml import adaptation
from keras_maml.callbacks import episode_picture
from keras_maml.callbacks.gradient_cosine import gradient_cosine
from keras_maml.engine.episode_scorer import EpisodeScorer
from keras_maml.inner_optimizers import LearnedRate
from keras_maml.meta_gradients import FirstOrder
from keras_maml.meta_gradients import SecondOrder
from keras_maml.validation import check_number


class AdaptationCurves(keras.callbacks.Callback):
    """Writes what the inner loop does to a few episodes, for TensorBoard.

    At the end of an epoch, the callback adapts to the episodes and writes:

    - `query_loss` and `query_<metric>` after 0, 1, ... inner steps, each in a
      run of its own, `after_0_steps` and so on, so that TensorBoard draws the
      curves of all steps into one chart.
    - `update_norm/<layer>`: how far the inner loop moves the weights of a
      layer, the mean over episodes of the distance from θ.
    - `inner_rate/<weight>`: the mean of each rate that the outer loop trains.
    - `gradient_cosine`: the cosine between the first-order meta-gradient of
      these episodes and the exact one. If it stays near 1, `"first_order"`
      does as well and takes less time. Only for models that use one of these.
    - `episode`: a picture of the first episode.

    The callback leaves out epochs, so that it takes a small share of the time.
    The first time costs most, because the callback traces its graph. If
    training is so short that the share never allows it, the callback writes
    once, at the end. Install `keras-maml[tensorboard]` and run
    `tensorboard --logdir LOG_DIR`.

    Args:
        log_dir: path of a folder.
        episodes: `tf.data.Dataset` of meta-batches, of which the first one is
            used. Four to ten episodes are enough.
        share: float, the largest share of the time of training. Pass a large
            number to write in every epoch. Defaults to `0.05`.

    Raises:
        ImportError: if TensorBoard or matplotlib is not installed.
        ValueError: if an argument does not have the form above.

    Example:

    ```python
    sines = keras_maml.tasks.Sinusoid()
    curves = keras_maml.callbacks.AdaptationCurves(
        "logs", keras_maml.tasks.Sinusoid(seed=1).batch(4, count=4)
    )
    meta_model = keras_maml.MetaModel(keras_maml.learners.mlp())
    meta_model.compile(optimizer="adam", loss="mse")
    meta_model.fit(
        sines.batch(4), steps_per_epoch=2, callbacks=[curves], verbose=0
    )
    ```
    """

    def __init__(
        self,
        log_dir: str | os.PathLike[str],
        episodes: tf.data.Dataset,
        share: float = 0.05,
    ) -> None:
        super().__init__()
        for module in ("tensorboard", "matplotlib"):
            if importlib.util.find_spec(module) is None:
                raise ImportError(
                    f"`AdaptationCurves` needs {module}. Install it with "
                    "`pip install 'keras-maml[tensorboard]'`."
                )
        if not isinstance(episodes, tf.data.Dataset):
            raise ValueError(
                "`episodes` must be a `tf.data.Dataset` of meta-batches. "
                f"Received: episodes={episodes!r}"
            )
        self.log_dir = os.fspath(log_dir)
        self.episodes = episodes
        self.share = check_number("share", share, above=0)
        self._writers: dict[str, Any] = {}

    def on_train_begin(self, logs: dict | None = None) -> None:
        # `compile` may have changed the loss since the last trace.
        self._batch = next(iter(self.episodes))
        self._function: Any = None
        self._start = time.perf_counter()
        self._epoch = 0
        self._spent = 0.0
        # What the next time will take. The first step traces a graph of about
        # the same size.
        self._expected = np.inf

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        if self._expected == np.inf:
            self._expected = time.perf_counter() - self._start

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        self._epoch = epoch
        training = time.perf_counter() - self._start - self._spent
        if self._spent + self._expected <= self.share * training:
            self._record()

    def on_train_end(self, logs: dict | None = None) -> None:
        if not self._spent and self._expected < np.inf:
            self._record()
        for writer in self._writers.values():
            writer.close()
        self._writers = {}

    def _record(self):
        start = time.perf_counter()
        if self._function is None:
            self._trace()
        values = tf.nest.map_structure(
            lambda t: t.numpy(), self._function(*self._batch)
        )
        self._write(values, self._epoch)
        self._expected = time.perf_counter() - start
        self._spent += self._expected

    def _trace(self):
        model = self.model
        steps = model.evaluation_steps
        if steps is None:
            steps = model.inner_steps
        self._scorer = EpisodeScorer(model, steps, self._visit)
        has_cosine = steps and isinstance(
            model.meta_gradient, SecondOrder | FirstOrder
        )

        def values(x, y, sample_weight=None):
            results = dict(self._scorer(x, y, sample_weight))
            if has_cosine:
                results["cosine"] = gradient_cosine(model, x, y, sample_weight)
            return results

        self._function = tf.function(values, autograph=False)

    def _visit(self, task, adapted, outputs):
        del task
        theta = self.model.meta_state.theta().weights
        context = adaptation.context_positions(self.model.learner)
        squares = []
        for i in adapted.positions:
            start = tf.zeros_like(theta[i]) if i in context else theta[i]
            squares.append(tf.reduce_sum((adapted.weights[i] - start) ** 2))
        return {"moved": tf.stack(squares), "outputs": outputs}

    # -- Writing

    def _writer(self, run):
        if run not in self._writers:
            self._writers[run] = tf.summary.create_file_writer(
                os.path.join(self.log_dir, run)
            )
        return self._writers[run]

    def _write(self, values, epoch):
        means = values["scores"].mean(0)
        for steps, row in enumerate(means):
            with self._writer(f"after_{steps}_steps").as_default(epoch):
                for name, mean in zip(self._scorer.names, row):
                    tf.summary.scalar(f"query_{name}", mean)
        with self._writer("adaptation").as_default(epoch):
            for layer, norm in self._update_norms(values["moved"][:, -1]):
                tf.summary.scalar(f"update_norm/{layer}", norm)
            for name, rate in self._rates():
                tf.summary.scalar(f"inner_rate/{name}", rate)
            if "cosine" in values:
                tf.summary.scalar("gradient_cosine", values["cosine"])
            png = self._picture(values)
            if png is not None:
                tf.summary.image("episode", tf.io.decode_png(png)[tf.newaxis])
        for writer in self._writers.values():
            writer.flush()

    def _update_norms(self, squares):
        """Yields the layers that adapt, and how far their weights move."""
        variables = self._adapted_variables()
        layers: dict[str, Any] = {}
        for i, variable in enumerate(variables):
            layer = variable.path.rpartition("/")[0]
            layers[layer] = layers.get(layer, 0) + squares[:, i]
        for layer, total in layers.items():
            yield layer, np.mean(np.sqrt(total))

    def _adapted_variables(self):
        learner = self.model.learner
        positions = self.model.meta_state.positions()
        return [learner.trainable_variables[i] for i in positions]

    def _rates(self):
        """Yields the names and the means of learned rates."""
        rate = getattr(self.model.inner_optimizer, "learning_rate", None)
        parameters = self.model.meta_state.parameters
        if not isinstance(rate, LearnedRate):
            return
        names = ["model"]
        if rate.per != "model":
            names = [v.path for v in self._adapted_variables()]
        for name, parameter in zip(names, parameters, strict=True):
            values = parameter.numpy()
            if not rate.per_step:
                yield name, values.mean()
                continue
            for step, row in enumerate(values):
                yield f"{name}/step_{step}", row.mean()

    def _picture(self, values):
        """Returns a PNG of the first episode, or `None` of several outputs."""
        x, y, *_ = self._batch
        if not isinstance(values["outputs"], np.ndarray):
            return None
        data = {key: x[key] for key in ("support_x", "support_y", "query_x")}
        episode = tf.nest.map_structure(
            lambda t: np.asarray(t[0]),
            {
                **data,
                "query_y": y,
                "outputs": values["outputs"],
                "support_loss": values["support_loss"],
                "query_loss": values["scores"][..., 0],
            },
        )
        return episode_picture.draw(episode, self._scorer.classes)
