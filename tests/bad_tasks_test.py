"""Tasks that are not finite stop a step, or are left out of it."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_maml
from keras_maml import tasks
from tests.sample_models import assert_same
from tests.sample_models import regression_batch
from tests.sample_models import small_mlp

FORMS = {
    "loop": {"task_map": "loop"},
    "vectorized": {"task_map": "vectorized"},
    "compiled": {"task_map": "loop", "jit_compile": True},
    "eager": {"task_map": "loop", "run_eagerly": True},
}
BAD = 2


class Counter(keras.layers.Layer):
    """Adds up what it sees in training, beyond what a float can hold."""

    def build(self, input_shape):
        self.total = self.add_weight(
            shape=(), initializer="zeros", trainable=False, name="total"
        )

    def call(self, x, training=False):
        if training:
            self.total.assign(self.total + 1e38 * tf.reduce_max(tf.abs(x)))
        return x


def root(y_true, y_pred):
    """A loss whose gradient is NaN where the prediction is right."""
    return tf.sqrt(tf.abs(y_true - y_pred))


def compiled_model(
    form="loop", learner=None, loss="mse", optimizer="adam", **kwargs
):
    settings = dict(FORMS[form])
    how = {k: settings.pop(k) for k in list(settings) if k != "task_map"}
    meta_model = keras_maml.MetaModel(
        small_mlp() if learner is None else learner, **settings, **kwargs
    )
    meta_model.compile(optimizer, loss, metrics=["mae"], **how)
    return meta_model


def batch_with(part, value=np.nan):
    x, y = regression_batch(tasks=4)
    {"support": x["support_x"], "query": y}[part][BAD, 0] = value
    return x, y


def without(batch, index):
    return tf.nest.map_structure(lambda a: np.delete(a, index, 0), batch)


def everything(meta_model):
    return [
        np.array(variable)
        for variable in (
            *meta_model.variables,
            *meta_model.optimizer.variables,
        )
    ]


def weights_of_a_step(meta_model, batch, start):
    """The weights after a step from `everything` that there was."""
    variables = [*meta_model.variables, *meta_model.optimizer.variables]
    for variable, value in zip(variables, start, strict=True):
        variable.assign(value)
    meta_model.train_on_batch(*batch)
    return meta_model.get_weights()


def assert_untouched(meta_model, before):
    # The optimizer of a first step is built before the step fails.
    for now, then in zip(everything(meta_model), before):
        np.testing.assert_array_equal(now, then)


@pytest.mark.parametrize("form", FORMS)
def test_a_bad_task_stops_the_step_before_anything_changes(form):
    meta_model = compiled_model(form)
    good = regression_batch(tasks=4)
    meta_model.train_on_batch(*good)
    for part in ("support", "query"):
        before = everything(meta_model)
        with pytest.raises(
            ValueError,
            match=f"{part} loss of task 2 of the meta-batch is not fin",
        ):
            meta_model.train_on_batch(*batch_with(part))
        assert_untouched(meta_model, before)
        # The model trains on.
        meta_model.train_on_batch(*good)
    assert meta_model.optimizer.iterations == 3


def test_a_gradient_that_is_not_finite_is_named():
    learner = small_mlp()
    learner.layers[-1].kernel.assign(tf.zeros_like(learner.layers[-1].kernel))
    meta_model = compiled_model(learner=learner, loss=root, inner_steps=0)
    before = everything(meta_model)
    x, y = regression_batch(tasks=4)
    y[BAD] = 0.0
    with pytest.raises(ValueError, match="The gradient of task 2"):
        meta_model.train_on_batch(x, y)
    assert_untouched(meta_model, before)


def test_a_state_that_is_not_finite_is_named():
    learner = keras.Sequential(
        [keras.Input((1,)), Counter(), keras.layers.Dense(1)]
    )
    meta_model = compiled_model(learner=learner, inner_optimizer=1e-12)
    x, y = regression_batch(tasks=4)
    x = {key: np.clip(value, -0.5, 0.5) for key, value in x.items()}
    x["query_x"][BAD, 0] = 5.0
    with pytest.raises(ValueError, match="The new state of task 2"):
        meta_model.train_on_batch(x, y)


@pytest.mark.parametrize("form", ["loop", "vectorized", "eager"])
def test_a_skipped_task_is_as_if_it_were_not_there(form):
    skipping = compiled_model(form, bad_tasks="skip")
    other = compiled_model(form)
    for part in ("support", "query"):
        for model in (skipping, other):
            model.reset_metrics()
        bad = batch_with(part)
        logs = skipping.train_on_batch(*bad, return_dict=True)
        expected = other.train_on_batch(*without(bad, BAD), return_dict=True)
        assert logs.pop("skipped_tasks") == 1
        for name, value in expected.items():
            np.testing.assert_allclose(logs[name], value, rtol=1e-5)
        assert_same(
            skipping.get_weights(), other.get_weights(), rtol=1e-5, atol=1e-6
        )


class ComparesInputs(keras_maml.MetaModel):
    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        del y_pred, sample_weight
        return {"difference": tf.reduce_max(tf.abs(x["query_x"] - y))}


@pytest.mark.parametrize("form", ["loop", "eager"])
@pytest.mark.parametrize("mode", ["skip", "raise"])
def test_metrics_get_the_inputs_that_belong_to_the_targets(mode, form):
    meta_model = ComparesInputs(small_mlp(), task_map="loop", bad_tasks=mode)
    meta_model.compile("sgd", "mse", run_eagerly=form == "eager")
    x, _ = batch_with("support") if mode == "skip" else regression_batch(4)
    # Row 1 of each task is replaced by a copy of another row.
    weight = np.array([[1, 0] + [1] * (x["query_x"].shape[1] - 2)] * 4, "f")
    logs = meta_model.train_on_batch(
        x, x["query_x"], sample_weight=weight, return_dict=True
    )
    assert logs["difference"] == 0


def test_skipped_tasks_are_counted_over_an_epoch():
    meta_model = compiled_model(bad_tasks="skip")
    x, y = batch_with("support", np.inf)
    logs = meta_model.fit(x, y, batch_size=2, epochs=2, verbose=0).history
    assert logs["skipped_tasks"] == [1, 1]
    assert np.isfinite(logs["loss"]).all()
    evaluated = meta_model.evaluate(x, y, verbose=0, return_dict=True)
    assert evaluated["skipped_tasks"] == 1


def test_a_meta_batch_of_bad_tasks_stops_also_where_tasks_are_skipped():
    meta_model = compiled_model(bad_tasks="skip")
    x, y = regression_batch(tasks=4)
    before = everything(meta_model)
    with pytest.raises(ValueError, match="query loss of task 0"):
        meta_model.train_on_batch(x, y * np.nan)
    assert_untouched(meta_model, before)


def test_xla_cannot_skip_tasks_of_a_whole_step():
    meta_model = compiled_model("compiled", bad_tasks="skip")
    with pytest.raises(ValueError, match='`bad_tasks="skip"` needs'):
        meta_model.train_on_batch(*regression_batch(tasks=4))


def test_where_keras_would_compile_whole_steps_tasks_are_skipped(monkeypatch):
    # As on a GPU.
    monkeypatch.setattr(
        keras.Model, "_resolve_auto_jit_compile", lambda self: True
    )
    assert compiled_model().jit_compile is True
    meta_model = compiled_model(bad_tasks="skip")
    logs = meta_model.train_on_batch(*batch_with("support"), return_dict=True)
    assert logs["skipped_tasks"] == 1


class Patchy(tasks.Sinusoid):
    """Sine waves of which episode 13 has no number."""

    def _draw(self, seed):
        drawn = super()._draw(seed)
        # `seed` is the seed of the distribution and the number of the block.
        is_bad = (tf.range(64) == 13) & (seed[1] == 0)
        for name, value in drawn.items():
            shape = [-1] + [1] * (value.shape.rank - 1)
            mask = tf.reshape(is_bad, shape)
            drawn[name] = tf.where(mask, value * np.nan, value)
        return drawn


@pytest.mark.parametrize("form", ["loop", "compiled"])
def test_the_number_of_the_episode_is_named(form):
    meta_model = compiled_model(form)
    patchy = Patchy(k_shot=3, q_query=3)
    with pytest.raises(ValueError, match="of task 1 .* episode 13,"):
        meta_model.fit(patchy.batch(4), steps_per_epoch=10, verbose=0)
    assert meta_model.optimizer.iterations == 3
    with pytest.raises(ValueError, match="of task 3 .* episode 13,"):
        meta_model.evaluate(patchy.batch(5, count=20, start=10), verbose=0)


def imputes(x):
    return tf.where(tf.math.is_nan(x), tf.zeros_like(x), x)


def hiding_learner():
    # As a `relu` does on some machines, the layer makes 0 of NaN. It is frozen,
    # so losses and gradients are finite.
    return keras.Sequential(
        [
            keras.Input((1,)),
            keras.layers.Dense(5, activation=imputes, trainable=False),
            keras.layers.Dense(1),
        ]
    )


def test_nan_that_a_frozen_layer_hides_is_found():
    meta_model = compiled_model(learner=hiding_learner())
    for part in ("support", "query"):
        x, y = regression_batch(tasks=4)
        x[f"{part}_x"][BAD, 0] = np.nan
        for call in (meta_model.train_on_batch, meta_model.test_on_batch):
            with pytest.raises(ValueError, match=f"{part} loss of task 2"):
                call(x, y)


@keras.saving.register_keras_serializable()
class Imputes(keras.layers.Layer):
    """Makes 0 of NaN."""

    def call(self, x):
        return imputes(x)


@pytest.mark.parametrize("layer", [Imputes(), keras.layers.Activation(imputes)])
@pytest.mark.parametrize("form", ["loop", "vectorized"])
def test_nan_that_a_layer_imputes_is_bad_in_every_form(form, layer):
    learner = keras.Sequential(
        [keras.Input((1,)), layer, keras.layers.Dense(1)]
    )
    meta_model = compiled_model(form, learner=learner)
    x, y = regression_batch(tasks=4)
    x["support_x"][BAD, 0] = np.nan
    with pytest.raises(ValueError, match="task 2 .*impute missing values in"):
        meta_model.train_on_batch(x, y)


@pytest.mark.parametrize("form", ["loop", "vectorized"])
def test_nan_that_a_loss_leaves_out_is_bad_in_every_form(form):
    def loss(y_true, y_pred):
        return tf.reduce_mean(tf.square(imputes(y_true - y_pred)), -1)

    meta_model = compiled_model(form, loss=loss)
    with pytest.raises(ValueError, match="query loss of task 2"):
        meta_model.train_on_batch(*batch_with("query"))


def test_a_metric_does_not_see_a_bad_task():
    seen = []

    def metric(y_true, y_pred):
        tf.py_function(lambda p: seen.append(p.numpy()), [y_pred], [])
        return y_pred

    meta_model = keras_maml.MetaModel(small_mlp(), task_map="loop")
    meta_model.compile("sgd", "mse", metrics=[metric])
    with pytest.raises(ValueError, match="support loss of task 2"):
        meta_model.train_on_batch(*batch_with("support"))
    assert not seen


def test_a_loop_of_the_users_own_fails_in_the_graph():
    meta_model = compiled_model()
    # Where nobody reads a report, also on replicas, the step fails.
    meta_model.meta_state.bad_tasks.build_report(True)
    step = tf.function(meta_model.train_step, autograph=False)
    with pytest.raises(tf.errors.InvalidArgumentError, match="not finite"):
        step(batch_with("support"))
    meta_model.compile("sgd", "mse", jit_compile=True)
    step = tf.function(meta_model.train_step, autograph=False)
    with pytest.raises(ValueError, match="`jit_compile=False`. Received"):
        step(batch_with("support"))


def test_an_inner_loop_that_diverges_is_found_in_first_order():
    meta_model = compiled_model(
        inner_optimizer=1e30, inner_steps=3, meta_gradient="first_order"
    )
    with pytest.raises(ValueError, match="of task 0 of the meta-batch is not"):
        meta_model.train_on_batch(*regression_batch(tasks=2))


@pytest.mark.parametrize("form", ["loop", "vectorized", "compiled"])
def test_rows_of_weight_0_may_hold_anything(form):
    x, y = regression_batch(tasks=4)
    x["support_weight"] = np.ones(x["support_y"].shape[:2], "float32")
    x["support_weight"][:, 0] = 0
    weight = np.ones(y.shape[:2], "float32")
    weight[:, 1] = 0
    meta_model = compiled_model(form)
    meta_model.train_on_batch(x, y, weight)
    start = everything(meta_model)
    clean = weights_of_a_step(meta_model, (x, y, weight), start)
    for array in (x["support_x"], x["support_y"]):
        array[:, 0] = np.nan
    for array in (x["query_x"], y):
        array[:, 1] = np.inf
    dirty = weights_of_a_step(meta_model, (x, y, weight), start)
    assert_same(clean, dirty, rtol=0)


def test_steps_of_weight_0_in_a_sequence_may_hold_anything():
    y = regression_batch(tasks=4)[1][:, :, np.newaxis] * np.ones((3, 1), "f")
    weight = np.ones(y.shape[:3], "float32")
    weight[BAD, 0, 1:] = 0
    y[BAD, 0, 1:] = np.nan
    zeros = np.zeros_like(y)
    x = {"support_x": zeros, "support_y": zeros, "query_x": zeros}
    learner = keras.Sequential([keras.Input((3, 1)), keras.layers.Dense(1)])
    loss = compiled_model(learner=learner).train_on_batch(x, y, weight)[0]
    expected = np.nan_to_num(y)[..., 0] ** 2 * weight
    np.testing.assert_allclose(loss, expected.mean(), rtol=1e-5)


@pytest.mark.parametrize("form", ["loop", "vectorized"])
def test_tasks_of_weight_0_may_hold_anything(form):
    x, y = regression_batch(tasks=4)
    weight = np.ones((4, 1), "float32")
    weight[BAD] = 0
    meta_model = compiled_model(form)
    meta_model.train_on_batch(x, y, weight)
    start = everything(meta_model)
    clean = weights_of_a_step(meta_model, (x, y, weight), start)
    for array in (*x.values(), y):
        array[BAD] = np.nan
    dirty = weights_of_a_step(meta_model, (x, y, weight), start)
    assert_same(clean, dirty, rtol=1e-6, atol=1e-7)
    loss = meta_model.evaluate(x, y, sample_weight=weight, verbose=0)[0]
    assert np.isfinite(loss)


def norm_learner():
    return keras.Sequential(
        [
            keras.Input((1,)),
            keras.layers.Dense(4),
            keras.layers.BatchNormalization(),
            keras.layers.Dense(1),
        ]
    )


@pytest.mark.parametrize("normalization", ["transductive", "per_step"])
def test_state_stays_where_the_optimizer_leaves_out_a_step(normalization):
    optimizer = keras.optimizers.LossScaleOptimizer(
        keras.optimizers.SGD(0.1), initial_scale=1e38
    )
    meta_model = compiled_model(
        learner=norm_learner(), optimizer=optimizer, normalization=normalization
    )
    before = meta_model.get_weights()
    batch = regression_batch(tasks=2)
    batch = batch[0], 100 * batch[1]
    meta_model.train_on_batch(*batch)
    assert optimizer.iterations == 0
    assert_same(meta_model.get_weights(), before, rtol=0)
    optimizer.dynamic_scale.assign(1.0)
    meta_model.train_on_batch(*batch)
    assert optimizer.iterations == 1
    name = "statistic" if normalization == "per_step" else "moving_mean"
    for variable, then in zip(meta_model.weights, before, strict=True):
        if name in variable.name:
            assert np.any(variable.numpy() != then), variable.path


def test_nan_data_are_bad_tasks_of_a_loss_scale_optimizer_too():
    optimizer = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.1))
    meta_model = compiled_model(learner=norm_learner(), optimizer=optimizer)
    before = meta_model.get_weights()
    with pytest.raises(ValueError, match="support loss of task 2"):
        meta_model.train_on_batch(*batch_with("support"))
    assert_same(meta_model.get_weights(), before, rtol=0)


def test_evaluate_tasks_names_or_leaves_out_bad_tasks():
    batches = [regression_batch(tasks=4), batch_with("support")]
    metric = keras.losses.mean_squared_error
    with pytest.raises(ValueError, match="1 such tasks of 8, .* task 6 of the"):
        keras_maml.evaluate_tasks(compiled_model(), batches, metric)
    skipping = compiled_model(bad_tasks="skip")
    [scores] = keras_maml.evaluate_tasks(skipping, batches, metric).values()
    assert scores.values.shape == (7,)
    assert scores.skipped == 1
    assert np.isfinite(scores.mean)


def test_evaluate_tasks_without_a_task_left():
    skipping = compiled_model(bad_tasks="skip")
    x, y = regression_batch(tasks=4)
    with pytest.raises(ValueError, match="No task of the dataset is left"):
        keras_maml.evaluate_tasks(
            skipping, [(x, y * np.nan)], keras.losses.mean_squared_error
        )


def test_evaluate_tasks_of_data_without_floats():
    learner = keras.Sequential(
        [keras.Input((), dtype="int32"), keras.layers.Embedding(5, 2)]
    )
    ids = np.arange(6).reshape(2, 3) % 5
    x = {"support_x": ids, "support_y": ids % 2, "query_x": ids}
    [scores] = keras_maml.evaluate_tasks(
        compiled_model(learner=learner, loss="sparse_categorical_crossentropy"),
        [(x, ids % 2)],
        keras.metrics.sparse_categorical_accuracy,
    ).values()
    assert scores.values.shape == (2,)


def test_adapt_refuses_what_is_not_finite():
    x, _ = batch_with("support")
    meta_model = compiled_model()
    with pytest.raises(ValueError, match="The support set is not finite"):
        meta_model.adapt(x["support_x"][BAD], x["support_y"][BAD])
    diverging = compiled_model(inner_optimizer=1e30, inner_steps=4)
    with pytest.raises(ValueError, match="inner loop has diverged"):
        diverging.adapt(x["support_x"][0], x["support_y"][0])


def test_predictions_of_a_bad_task_are_nan():
    x, _ = batch_with("support")
    predicted = compiled_model().predict(x, verbose=0)
    assert np.isnan(predicted[BAD]).all()
    assert np.isfinite(np.delete(predicted, BAD, 0)).all()


def test_predictions_are_nan_also_where_a_layer_hides_it():
    x, _ = regression_batch(tasks=4)
    x["support_x"][BAD, 0] = np.nan
    meta_model = compiled_model(learner=hiding_learner())
    predicted = meta_model.predict(x, verbose=0)
    assert np.isnan(predicted[BAD]).all()
    assert np.isfinite(np.delete(predicted, BAD, 0)).all()


def test_evaluate_tasks_looks_at_predictions_too():
    diverging = compiled_model(inner_optimizer=1e30, inner_steps=4)
    with pytest.raises(ValueError, match="4 such tasks of 4"):
        keras_maml.evaluate_tasks(
            diverging,
            [regression_batch(tasks=4)],
            keras.losses.mean_squared_error,
        )


def test_bad_tasks_is_saved_and_checked():
    meta_model = compiled_model(bad_tasks="skip")
    copy = keras_maml.MetaModel.from_config(meta_model.get_config())
    assert copy.bad_tasks == "skip"
    with pytest.raises(ValueError, match="`bad_tasks` must be one of"):
        keras_maml.MetaModel(small_mlp(), bad_tasks="ignore")


class OwnSteps(keras_maml.MetaModel):
    """Logs the number of the last episode, as a custom step may."""

    def train_step(self, data):
        last = tf.reduce_max(data[0]["episode"])
        return {"last": last, **super().train_step(data)}

    def compute_loss(self, x=None, **kwargs):
        assert sorted(x) == ["query_x", "support_x", "support_y"]
        return super().compute_loss(x=x, **kwargs)


def test_a_custom_step_finds_the_numbers_of_the_episodes():
    meta_model = OwnSteps(small_mlp(), task_map="loop")
    meta_model.compile("sgd", "mse")
    sines = tasks.Sinusoid(k_shot=5, q_query=5, seed=0)
    logs = meta_model.fit(sines.batch(4), steps_per_epoch=2, verbose=0)
    assert logs.history["last"] == [7]
