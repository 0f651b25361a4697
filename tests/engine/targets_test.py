"""Targets that do not fit the learner's outputs or the loss."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_maml
from keras_maml.engine import loss_rules
from keras_maml.engine import targets
from tests.sample_models import assert_same
from tests.sample_models import class_batch
from tests.sample_models import regression_batch
from tests.sample_models import small_mlp
from tests.sample_models import theta

X, Y = class_batch()


def cross_entropy(**kwargs):
    return keras.losses.SparseCategoricalCrossentropy(
        from_logits=True, **kwargs
    )


def classifier(learner=None, loss=None, **kwargs):
    compiled = {
        key: kwargs.pop(key)
        for key in ("jit_compile", "run_eagerly")
        if key in kwargs
    }
    meta_model = keras_maml.MetaModel(learner or small_mlp(2, 3), **kwargs)
    meta_model.compile("sgd", loss or cross_entropy(), **compiled)
    return meta_model


def with_label(labels, label, task=1):
    changed = labels.astype(np.result_type(labels, np.asarray(label)))
    changed[task, 2] = label
    return changed


def support(label, **kwargs):
    return {**X, "support_y": with_label(X["support_y"], label), **kwargs}


def dataset(x, y):
    # Of a known number of tasks, which vectorizing needs.
    return tf.data.Dataset.from_tensors((x, y))


FORMS = {
    "eager": {"run_eagerly": True},
    "loop": {"task_map": "loop"},
    "vectorized": {"task_map": "vectorized"},
    "the whole step by XLA": {"task_map": "loop", "jit_compile": True},
}


@pytest.mark.parametrize("form", FORMS)
def test_one_message_in_every_form(form):
    meta_model = classifier(**FORMS[form])
    before = theta(meta_model)
    bad, bad_y = support(7), with_label(Y, -1)
    for call, name, label in (
        (lambda: meta_model.fit(dataset(bad, Y), verbose=0), "support_y", 7),
        (lambda: meta_model.fit(dataset(X, bad_y), verbose=0), "y", -1),
        (lambda: meta_model.evaluate(bad, Y, verbose=0), "support_y", 7),
        (lambda: meta_model.evaluate(X, bad_y, verbose=0), "y", -1),
        (lambda: meta_model.predict(bad, verbose=0), "support_y", 7),
    ):
        with pytest.raises((ValueError, tf.errors.InvalidArgumentError)) as e:
            call()
        message = str(e.value).replace("[", "").replace("]", "")
        assert (
            f"`{name}` must hold class labels, integers from 0 to 2, because "
            "the learner has 3 outputs. Rows of weight 0 may hold any label. "
            f"Received: {name} with the label {label} in task 1"
        ) in message
    assert_same(theta(meta_model), before, rtol=0)


def test_in_call_adapt_and_evaluate_tasks():
    meta_model = classifier()
    bad = support(3)
    with pytest.raises(ValueError, match="label 3 in task 1"):
        meta_model(bad)
    with pytest.raises(ValueError, match="label 3 in task 0"):
        meta_model.adapt(bad["support_x"][1], bad["support_y"][1])
    with pytest.raises(tf.errors.InvalidArgumentError, match="class labels"):
        keras_maml.evaluate_tasks(
            meta_model, [(bad, Y)], keras.metrics.sparse_categorical_accuracy
        )


@pytest.mark.parametrize("label", [0.5, 1.5, np.nan, np.inf, 3.0])
def test_floats_that_are_no_class(label):
    meta_model = classifier()
    x = support(np.float32(label))
    with pytest.raises(ValueError, match=f"the label {label}"):
        meta_model(x)
    x["support_y"] = X["support_y"].astype("float32")
    np.testing.assert_array_equal(meta_model(x), meta_model(X))


@pytest.mark.parametrize("dtype", ["uint8", "int64", "bool"])
def test_labels_of_any_type(dtype):
    meta_model = classifier()
    x = {**X, "support_y": (X["support_y"] % 2).astype(dtype)}
    expected = meta_model({**x, "support_y": x["support_y"].astype("int32")})
    np.testing.assert_array_equal(meta_model(x), expected)


@pytest.mark.parametrize("form", ["eager", "loop"])
def test_rows_of_weight_zero_hold_any_label(form):
    weight = np.ones((3, 6), "float32")
    weight[1, 2] = 0
    y_weight = np.ones(Y.shape, "float32")
    y_weight[1, 2] = 0
    results = []
    for label in (0, -1):
        meta_model = classifier(**FORMS[form])
        x = support(label, support_weight=weight)
        y = with_label(Y, label)
        meta_model.fit(x, y, sample_weight=y_weight, shuffle=False, verbose=0)
        loss = meta_model.evaluate(x, y, sample_weight=y_weight, verbose=0)
        one = [x[k][1] for k in ("support_x", "support_y")]
        model = meta_model.adapt(*one, support_weight=weight[1])
        results.append([loss, *theta(meta_model), *model.get_weights()])
    assert_same(*results, rtol=1e-6)
    with pytest.raises(ValueError, match="label -1 in task 1"):
        meta_model(support(-1))


def test_labels_that_keras_ignores():
    meta_model = classifier(loss=cross_entropy(ignore_class=-1))
    assert np.isfinite(meta_model(support(-1))).all()
    meta_model.evaluate(support(-1), with_label(Y, -1), verbose=0)
    with pytest.raises(ValueError, match="the label -2"):
        meta_model(support(-2))
    meta_model = classifier(loss=cross_entropy(ignore_class=255))
    with pytest.raises(ValueError, match="the label 254"):
        meta_model(support(254))


@pytest.mark.parametrize(
    "loss",
    [
        "sparse_categorical_crossentropy",
        keras.losses.sparse_categorical_crossentropy,
        cross_entropy(),
        [cross_entropy()],
    ],
)
def test_every_name_of_the_loss(loss):
    for kwargs in ({"loss": loss}, {"loss": "mse", "inner_loss": loss}):
        with pytest.raises(ValueError, match="the label 9"):
            classifier(**kwargs)(support(9))


# These take targets of several shapes, or are bases and functions that are no
# losses.
UNRULED = {
    "CTC",
    "CategoricalGeneralizedCrossEntropy",
    "Circle",
    "Dice",
    "Loss",
    "Tversky",
    "categorical_generalized_cross_entropy",
    "circle",
    "ctc",
    "deserialize",
    "dice",
    "get",
    "serialize",
    "tversky",
}


def test_the_losses_of_keras_have_rules():
    names = [name for name in dir(keras.losses) if not name.startswith("_")]
    unruled = set()
    for name in names:
        loss = getattr(keras.losses, name)
        if isinstance(loss, type):
            # Not made, because some of them need arguments.
            loss = object.__new__(loss)
            loss.ignore_class = None
        if loss_rules.rule_of(loss) is None:
            unruled.add(name)
    assert unruled <= UNRULED


def test_a_loss_of_ones_own_may_take_any_label():
    # Here, −1 and 1 for two classes.
    def loss(y_true, y_pred):
        return tf.nn.relu(1.0 - y_true[:, None] * y_pred)

    x = {**X, "support_y": np.sign(X["support_y"] - 0.5)}
    assert np.isfinite(classifier(inner_loss=loss)(x)).all()


X1, Y1 = regression_batch()


def two(array):
    return np.concatenate([array, array], -1)


@pytest.mark.parametrize(
    ("outputs", "loss", "reshape"),
    [
        # Wrong: values would be repeated along an axis.
        (1, "mse", two),
        (2, "mse", lambda y: y),
        (5, keras.losses.Huber(), lambda y: y[..., 0]),
        (3, "categorical_crossentropy", lambda y: y),
        (3, cross_entropy(), lambda y: two(np.zeros_like(y, "int32"))),
    ],
)
def test_targets_that_keras_would_repeat(outputs, loss, reshape):
    learner = small_mlp(1, outputs)
    meta_model = classifier(learner, loss, inner_loss=lambda y, p: p)
    with pytest.raises(ValueError, match="`y` must have") as error:
        meta_model.evaluate(X1, reshape(Y1), verbose=0)
    shape = ("examples", *reshape(Y1).shape[2:])
    shape = f"({', '.join(map(str, shape))})"
    assert f"Received: y, for one task, of shape {shape}" in str(error.value)
    x = {**X1, "support_y": reshape(X1["support_y"])}
    with pytest.raises(ValueError, match="`support_y` must have"):
        classifier(learner, loss)(x)


def gaussian(y_true, y_pred):
    mean, log_variance = tf.unstack(y_pred, axis=-1)
    error = tf.square(y_true[..., 0] - mean)
    return log_variance + error * tf.exp(-log_variance)


@pytest.mark.parametrize(
    ("outputs", "loss", "reshape"),
    [
        (1, "mse", lambda y: y[..., 0]),
        (1, keras.losses.mean_absolute_error, lambda y: y[..., None]),
        (2, "mse", two),
        (2, gaussian, lambda y: y),
        (3, cross_entropy(), lambda y: np.zeros_like(y, "int32")),
    ],
)
def test_targets_that_fit(outputs, loss, reshape):
    meta_model = classifier(small_mlp(1, outputs), loss)
    x = {**X1, "support_y": reshape(X1["support_y"])}
    meta_model.evaluate(x, reshape(Y1), verbose=0)


def test_labels_of_the_steps_of_a_sequence():
    learner = keras.Sequential([keras.Input((None, 2)), keras.layers.Dense(4)])
    meta_model = classifier(learner)
    x = {
        "support_x": np.ones((2, 3, 5, 2), "float32"),
        "support_y": np.full((2, 3, 5), 3),
        "query_x": np.ones((2, 1, 5, 2), "float32"),
    }
    y = np.full((2, 1, 5), 3)
    meta_model.evaluate(x, y, verbose=0)
    with pytest.raises(ValueError, match="label 4 in task 1"):
        meta_model({**x, "support_y": with_label(x["support_y"], 4)})
    with pytest.raises(ValueError, match="one class label for each vector"):
        meta_model({**x, "support_y": x["support_y"][..., 0]})


class Widths(keras.Model):
    """Tells its outputs to nobody before a call."""

    def __init__(self):
        super().__init__()
        self.a = keras.layers.Dense(3)
        self.b = keras.layers.Dense(1)

    def call(self, inputs):
        return {"a": self.a(inputs), "b": self.b(inputs)}


def test_several_outputs_of_a_learner_that_only_a_call_tells():
    meta_model = classifier(
        Widths(),
        {"a": cross_entropy(), "b": "mse"},
        inner_loss=lambda y, p: p["b"],
    )
    y = {"a": Y, "b": np.zeros((*Y.shape, 1), "float32")}
    # Its targets may be anything, because the inner loss is one's own.
    x = support(-5)
    meta_model.evaluate(x, y, verbose=0)
    bad = {**y, "a": with_label(Y, 3)}
    errors = ValueError, tf.errors.InvalidArgumentError
    with pytest.raises(errors, match="`y` must hold class labels"):
        meta_model.evaluate(x, bad, verbose=0)
    with pytest.raises(errors, match="`y` must have a value"):
        meta_model.evaluate(x, {**y, "b": two(y["b"])}, verbose=0)
    weights = {"a": np.zeros(Y.shape), "b": np.ones(Y.shape)}
    loss = meta_model.evaluate(x, bad, sample_weight=weights, verbose=0)
    assert np.isfinite(loss).all()
    # Known from the first call on.
    assert len(meta_model.meta_state.output_shapes) == 1


def test_an_output_without_weights_beside_one_with_weights():
    def loss(without):
        keras.utils.set_random_seed(0)
        meta_model = classifier(
            Widths(),
            {"a": cross_entropy(), "b": "mse"},
            inner_loss=lambda y, p: tf.reduce_mean(p["b"], -1),
        )
        y = {"a": with_label(Y, 7), "b": np.zeros((*Y.shape, 1), "float32")}
        weights = {"a": np.float32(Y == y["a"]), "b": without}
        return meta_model.train_on_batch(support(0), y, weights)

    assert loss(None) == pytest.approx(loss(np.ones(Y.shape)))


@pytest.mark.parametrize("form", ["dict", "list"])
def test_outputs_in_any_order(form):
    inputs = keras.Input((2,))
    outputs = {
        "z": keras.layers.Dense(3)(inputs),
        "a": keras.layers.Dense(1)(inputs),
    }
    loss = {"z": cross_entropy(), "a": "mse"}
    y = {"z": Y, "a": np.zeros((*Y.shape, 1), "float32")}
    bad = {**y, "z": Y + 1}
    if form == "list":
        outputs, loss, y, bad = (
            list(each.values()) for each in (outputs, loss, y, bad)
        )
    learner = keras.Model(inputs, outputs)
    meta_model = classifier(learner, loss, inner_loss=lambda y, p: p)
    y, bad = tf.nest.map_structure(tf.convert_to_tensor, (y, bad))
    targets.checked(meta_model, X, y)
    with pytest.raises(ValueError, match="integers from 0 to 2.* label 3"):
        targets.checked(meta_model, X, bad)


def test_prototypes_take_labels_from_zero():
    learner = keras.Sequential([keras.Input((2,)), keras.layers.Dense(4)])
    meta_model = classifier(learner, head_init="prototypes")
    message = "integers of at least 0.* label -1 in task 1"
    with pytest.raises(ValueError, match=message):
        meta_model(support(-1))
    # A label of padding makes no class.
    weight = np.ones((3, 6), "float32")
    weight[1, 2] = 0
    for label in (-1, 200):
        outputs = meta_model(support(label, support_weight=weight))
        assert outputs.shape == (3, 6, 3)
    with pytest.raises(
        tf.errors.InvalidArgumentError, match="the largest label in"
    ):
        meta_model.evaluate(X, with_label(Y, 3), verbose=0)


def test_a_width_that_the_trace_does_not_know():
    meta_model = classifier(small_mlp(), "mse")

    @tf.function(input_signature=[tf.TensorSpec((None, None, None))])
    def checked(y):
        return targets.checked(meta_model, X1, y)[1]

    np.testing.assert_array_equal(checked(Y1), Y1)
    with pytest.raises(tf.errors.InvalidArgumentError, match="`y` must have"):
        checked(two(Y1))


def test_a_loss_without_labels_adds_no_operations():
    meta_model = classifier(small_mlp(), "mse")
    checked = tf.function(lambda x, y: targets.checked(meta_model, x, y))
    graph = checked.get_concrete_function(X1, Y1).graph
    assert {op.type for op in graph.get_operations()} <= {
        "Placeholder",
        "Const",
        "Identity",
        "NoOp",
    }
