"""One pass over episodes against what Keras and `call` say of each."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_maml
from tests.sample_models import class_batch
from tests.sample_models import regression_batch
from tests.sample_models import regression_model
from tests.sample_models import small_mlp

LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def classifier(**settings):
    meta_model = keras_maml.MetaModel(
        small_mlp(2, 3, batch_norm=True), inner_optimizer=0.5, **settings
    )
    meta_model.compile(
        loss=LOSS,
        metrics=["accuracy"],
        weighted_metrics=[keras.metrics.SparseTopKCategoricalAccuracy(2)],
    )
    return meta_model


def evaluate(meta_model, batches, **kwargs):
    return keras_maml.evaluate_episodes(
        meta_model, batches, verbose=0, **kwargs
    )


def test_scores_of_regression():
    meta_model = regression_model(evaluation_steps=2)
    # The last meta-batch of a dataset may be smaller.
    batches = [regression_batch(tasks=3), regression_batch(tasks=2, seed=1)]
    report = evaluate(meta_model, batches, tasks=list("abaca"))
    assert report.scores.keys() == {"loss", "mae"}
    assert report.metric == "mae"
    for steps in range(3):
        errors = np.concatenate(
            [meta_model(x, inner_steps=steps) - y for x, y in batches]
        )[..., 0]
        for metric, expected in (
            ("loss", np.square(errors).mean(1)),
            ("mae", np.abs(errors).mean(1)),
        ):
            np.testing.assert_allclose(
                report.values(metric, steps), expected, rtol=1e-5
            )
    assert report.episodes.tolist() == [0, 1, 2, 3, 4]
    assert report.name == meta_model.learner.name
    assert report.summary().tasks95 is not None
    assert report.facts["seconds"] > 0
    assert (report.facts["skipped"], report.facts["copies"]) == (0, 0)
    assert report.calibration() is None
    # Before adaptation, all is measured at θ.
    check_sensitivity(report, meta_model, batches[0])


def check_sensitivity(report, meta_model, batch):
    x, _ = batch
    learner = meta_model.learner
    with tf.GradientTape() as tape:
        predictions = learner(x["support_x"][1])
        loss = tf.reduce_mean(tf.square(predictions - x["support_y"][1]))
    norm = tf.linalg.global_norm(
        tape.gradient(loss, learner.trainable_variables)
    )
    assert report.facts["gradient_norm"][1] == pytest.approx(norm.numpy(), 1e-5)
    change = report.values("loss", 1)[1] - report.values("loss", 0)[1]
    # A step of gradient descent with the rate 0.1.
    assert report.facts["loss_change"][1] == pytest.approx(
        change / (0.1 * norm.numpy()), 1e-4
    )


def test_scores_of_a_classifier_with_weights():
    meta_model = classifier(inner_steps=2)
    x, y = class_batch(tasks=4, q_query=3)
    weight = np.ones(y.shape, "float32")
    weight[:, :4] = 0
    # An episode of padding.
    weight[3] = 0
    report = evaluate(meta_model, [(x, y, weight)])
    assert report.episodes.tolist() == [0, 1, 2]
    for task in range(3):
        one = tf.nest.map_structure(
            lambda t, i=task: t[i : i + 1], (x, y, weight)
        )
        logs = meta_model.test_on_batch(*one, return_dict=True)
        meta_model.reset_metrics()
        assert logs.keys() == report.scores.keys()
        for name, value in logs.items():
            assert report.values(name)[task] == pytest.approx(value, 1e-5)
    [alarm] = [a for a in report.alarms() if "`weighted_metrics`" in a]
    assert "In 3 episodes, copies" in alarm
    check_classes(report, meta_model, x, y, weight > 0)
    check_statistics(report, meta_model, x, y)


def check_classes(report, meta_model, x, y, counts):
    logits = meta_model({**x, "query_x": x["query_x"]}, inner_steps=0)
    # Rows that count take the place of those without weight, also in the
    # statistics of batch normalization.
    for task in range(3):
        filled = x["query_x"][task].copy()
        filled[:4] = filled[4:8]
        one = {k: v[task : task + 1] for k, v in x.items()}
        one["query_x"] = filled[None]
        logits = meta_model(one, inner_steps=0)[0].numpy()[counts[task]]
        right = logits.argmax(-1) == y[task][counts[task]]
        assert report.facts["before"][task] == pytest.approx(right.mean())
    np.testing.assert_allclose(report.facts["chance"], 1 / 3)
    calibration = report.calibration(0)
    assert calibration.weight.sum() == counts[:3].sum()
    share = np.nansum(calibration.weight * calibration.accuracy) / counts.sum()
    assert share == pytest.approx(np.mean(report.facts["before"]))


def check_statistics(report, meta_model, x, y):
    assert report.facts["normalization"] == "transductive"
    assert report.facts["other_statistics"] == "support"
    other = report.facts["other_scores"]["accuracy"]
    meta_model.normalization = "support"
    logits = meta_model(x).numpy()[:3]
    # Each query is predicted on its own: those that count come last. The first
    # ones are copies of them, which the metric counts as well.
    rows = [4, 5, 6, 7, 4, 5, 6, 7, 8]
    right = (logits.argmax(-1) == y[:3])[:, rows]
    np.testing.assert_allclose(other, right.mean(1), rtol=1e-6)


def test_numbers_and_names_of_episodes():
    labels = np.repeat(np.arange(6), 4)
    pool = keras_maml.tasks.from_arrays(
        np.random.default_rng(0).normal(size=(24, 2)), labels
    )
    episodes = pool.episodes(n_way=3, k_shot=1, q_query=2, seed=1)
    meta_model = keras_maml.MetaModel(small_mlp(2, 3), inner_steps=0)
    meta_model.compile(loss=LOSS)
    report = evaluate(meta_model, episodes.batch(2, count=5, start=62))
    assert report.episodes.tolist() == [62, 63, 64, 65, 66]
    assert report.tasks == [
        tuple(episodes.classes(number)) for number in range(62, 67)
    ]
    again = evaluate(meta_model, episodes.batch(3, count=3, start=64))
    comparison = keras_maml.compare(report, again)
    assert (comparison.episodes, comparison.difference) == (3, 0)
    # Other targets have other checksums.
    assert len(set(report.checksums)) == 5


def test_groups_of_a_table():
    table = keras_maml.tasks.from_table(
        {
            "arm": np.repeat(["a left", "a right", "b left", "c left"], 8),
            "person": np.repeat(["a", "a", "b", "c"], 8),
            "x": np.arange(32.0) / 32,
            "y": np.arange(32.0) % 5 / 5,
        },
        task="arm",
        target="y",
        features=["x"],
        group="person",
        support=3,
        query=3,
    )
    meta_model = keras_maml.MetaModel(small_mlp(1, 1), inner_steps=0)
    meta_model.compile(loss="mse")
    report = evaluate(meta_model, table.batch(2, count=4))
    assert sorted(report.groups) == [("a",), ("a",), ("b",), ("c",)]
    assert report.independent[0] == "groups"
    assert report.summary().tasks95 is not None


def test_progress(capsys):
    sines = keras_maml.tasks.Sinusoid()
    keras_maml.evaluate_episodes(
        regression_model(), sines.batch(3, count=5), verbose=2
    )
    line = capsys.readouterr().out
    assert line.startswith("5/5 - ")
    assert "loss: " in line


@pytest.mark.parametrize("normalization", ["per_step", "moving"])
def test_statistics_that_have_no_other(normalization):
    meta_model = classifier(normalization=normalization, inner_steps=2)
    x, y = class_batch()
    meta_model(x)
    rng = np.random.default_rng(0)
    for variable in meta_model.weights:
        if "per_step_scale" in variable.path:
            variable.assign(rng.normal(size=variable.shape))
    report = evaluate(meta_model, [(x, y)])
    assert "other_scores" not in report.facts
    for steps in range(3):
        logits = meta_model(x, inner_steps=steps).numpy()
        np.testing.assert_allclose(
            report.values("accuracy", steps), (logits.argmax(-1) == y).mean(1)
        )


def test_several_answers_are_no_class():
    loss = keras.losses.BinaryCrossentropy(from_logits=True)
    meta_model = keras_maml.MetaModel(
        small_mlp(2, 3), inner_steps=1, inner_loss=loss
    )
    meta_model.compile(loss=loss)
    x, y = class_batch()
    x["support_y"], y = (
        np.eye(3, dtype="float32")[labels] for labels in (x["support_y"], y)
    )
    report = evaluate(meta_model, [(x, y)])
    assert report.calibration() is None
    assert report.alarms() == []
    x = {key: values[0] for key, values in x.items()}
    with pytest.raises(ValueError, match="one class for each example"):
        keras_maml.conformal_prediction(meta_model, **x, miscoverage=0.5)


def test_bad_episodes():
    x, y = regression_batch(tasks=3)
    x["support_x"][1, 0] = np.nan
    with pytest.raises(ValueError, match="1 such tasks of 3, .* task 1"):
        evaluate(regression_model(), [(x, y)])
    report = evaluate(regression_model(bad_tasks="skip"), [(x, y)])
    assert report.episodes.tolist() == [0, 2]
    assert report.facts["skipped"] == 1


@pytest.mark.parametrize(
    ("episodes", "kwargs", "message"),
    [
        ([], {}, "`episodes` holds no meta-batch"),
        (keras_maml.tasks.Sinusoid().batch(2), {}, "`episodes` must be finite"),
        ([regression_batch()], {"inner_steps": -1}, "`inner_steps` must be"),
        ([regression_batch()], {"tasks": ["a"]}, "`tasks` must have a name"),
    ],
)
def test_wrong_arguments(episodes, kwargs, message):
    with pytest.raises(ValueError, match=message):
        evaluate(regression_model(inner_steps=0), episodes, **kwargs)


def test_models_that_are_not_compiled():
    meta_model = keras_maml.MetaModel(small_mlp())
    with pytest.raises(ValueError, match="`meta_model` must be compiled"):
        evaluate(meta_model, [regression_batch()])


class Vector(keras.metrics.Metric):
    def update_state(self, y_true, y_pred, sample_weight=None):
        pass

    def result(self):
        return tf.zeros(2)


def test_metrics_that_are_no_number():
    meta_model = keras_maml.MetaModel(small_mlp())
    meta_model.compile(loss="mse", metrics=[Vector(name="vector")])
    with pytest.raises(ValueError, match="the metric 'vector' of shape"):
        evaluate(meta_model, [regression_batch()])
