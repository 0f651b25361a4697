"""What AdaptationCurves writes, and when."""

import importlib.util

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.util import event_pb2

import keras_maml
from keras_maml.callbacks import AdaptationCurves
from keras_maml.callbacks import episode_picture
from keras_maml.callbacks.gradient_cosine import gradient_cosine
from keras_maml.engine.class_predictions import class_predictions
from tests.sample_models import class_batch
from tests.sample_models import regression_batch
from tests.sample_models import regression_model

BATCH = regression_batch(tasks=3)


def dataset(batch):
    return tf.data.Dataset.from_tensors(batch)


def read(folder):
    """All values in a folder of runs: by run, tag and epoch."""
    found = {}
    for path in folder.glob("*/*"):
        for record in tf.data.TFRecordDataset(str(path)):
            event = event_pb2.Event.FromString(record.numpy())
            for value in event.summary.value:
                key = path.parent.name, value.tag, event.step
                found[key] = tf.make_ndarray(value.tensor)
    return found


def test_what_is_written(tmp_path, monkeypatch):
    # It has a test of its own, and takes long to trace.
    monkeypatch.setattr(
        "keras_maml.callbacks.adaptation_curves.gradient_cosine",
        lambda *_: tf.constant(0.75),
    )
    rate = keras_maml.inner_optimizers.LearnedRate(
        0.1, per="variable", per_step=True
    )
    meta_model = regression_model(
        inner_optimizer=keras_maml.inner_optimizers.SGD(rate)
    )
    curves = AdaptationCurves(tmp_path, dataset(BATCH), share=1e9)
    meta_model.fit(
        *BATCH, batch_size=3, epochs=2, callbacks=[curves], verbose=0
    )
    values = read(tmp_path)
    x, y = BATCH
    for steps in range(2):
        predictions = meta_model(x, inner_steps=steps).numpy()
        run = f"after_{steps}_steps"
        assert values[run, "query_loss", 1] == pytest.approx(
            np.square(predictions - y).mean(), 1e-5
        )
        assert (run, "query_mae", 1) in values
    learner = meta_model.learner
    distances = []
    for task in range(3):
        adapted = meta_model.adapt(x["support_x"][task], x["support_y"][task])
        pairs = zip(adapted.get_weights()[2:], learner.get_weights()[2:])
        distances.append(np.sqrt(sum(np.sum((a - b) ** 2) for a, b in pairs)))
    layer = learner.layers[-1].kernel.path.rpartition("/")[0]
    norm = values["adaptation", f"update_norm/{layer}", 1]
    assert norm == pytest.approx(np.mean(distances), 1e-4)
    name = f"inner_rate/{learner.layers[0].kernel.path}/step_0"
    assert values["adaptation", name, 1] == pytest.approx(
        meta_model.meta_state.parameters[0].numpy()[0]
    )
    width, height, png = values["adaptation", "episode", 1]
    assert (int(width), int(height)) == (840, 360)
    assert png.startswith(b"\x89PNG")


def test_cosine_of_the_two_gradients():
    # Without the inner step, both are one gradient.
    meta_model = regression_model(inner_steps=0)
    meta_model.build({"query_x": (1, 5, 1)})
    assert float(gradient_cosine(meta_model, *BATCH)) == pytest.approx(1)
    gradients = []
    meta_model = regression_model(inner_steps=1, inner_optimizer=0.3)
    meta_model.build({"query_x": (1, 5, 1)})
    cosine = float(gradient_cosine(meta_model, *BATCH))
    theta = meta_model.learner.get_weights()
    for meta_gradient in ("first_order", "second_order"):
        meta_model = regression_model(
            inner_steps=1, inner_optimizer=0.3, meta_gradient=meta_gradient
        )
        meta_model.compile(keras.optimizers.SGD(1.0), loss="mse")
        meta_model.learner.set_weights(theta)
        meta_model.train_on_batch(*BATCH)
        moved = meta_model.learner.get_weights()
        gradients.append(
            np.concatenate([(a - b).ravel() for a, b in zip(theta, moved)])
        )
    first, second = gradients
    expected = first @ second / np.linalg.norm(first) / np.linalg.norm(second)
    assert 0.3 < expected < 0.999
    assert cosine == pytest.approx(expected, 1e-4)


def test_the_share_of_the_time(tmp_path, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(
        "keras_maml.callbacks.adaptation_curves.time.perf_counter",
        lambda: clock[0],
    )
    curves = AdaptationCurves(tmp_path, dataset(BATCH))
    written = []

    def record():
        written.append(curves._epoch)
        clock[0] += 2 if len(written) == 1 else 0.1
        curves._expected = 2 if len(written) == 1 else 0.1
        curves._spent += curves._expected

    monkeypatch.setattr(curves, "_record", record)
    curves.on_train_begin()
    clock[0] += 3
    curves.on_train_batch_end(0)
    for epoch in range(100):
        clock[0] += 10
        curves.on_epoch_end(epoch)
    curves.on_train_end()
    # 3 of 63 seconds are expected, and more than that of 53 are not.
    assert written[0] == 5
    assert curves._spent <= 0.05 * (clock[0] - curves._spent)
    assert len(written) > 20


@pytest.mark.parametrize("kind", ["classes", "values"])
def test_pictures_of_other_episodes(kind):
    if kind == "classes":
        x, y = class_batch()
        classes = class_predictions("sparse_categorical_crossentropy")
        outputs = np.full((3, 6, 3), 1 / 3, "float32")
    else:
        x, y = regression_batch()
        x = {key: np.repeat(value, 2, -1) for key, value in x.items()}
        outputs, classes = np.zeros((3, 5, 1), "float32"), None
    episode = {
        **{key: value[0] for key, value in x.items()},
        "query_y": y[0],
        "outputs": outputs,
        "support_loss": np.ones(2),
        "query_loss": np.ones(3),
    }
    assert episode_picture.draw(episode, classes).startswith(b"\x89PNG")


def test_what_is_missing(monkeypatch, tmp_path):
    with pytest.raises(ValueError, match="`episodes` must be a"):
        AdaptationCurves(tmp_path, [BATCH])
    with pytest.raises(ValueError, match="`share` must be"):
        AdaptationCurves(tmp_path, dataset(BATCH), share=0)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"keras-maml\[tensorboard\]"):
        AdaptationCurves(tmp_path, dataset(BATCH))
