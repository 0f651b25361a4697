"""Meta-gradients that do not go through the inner loop: Reptile and iMAML."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_maml
from keras_maml.exact.conjugate_gradient import conjugate_gradient
from keras_maml.meta_gradients import Implicit
from keras_maml.meta_gradients import Reptile
from tests.meta_gradients_test import dense_learner
from tests.meta_gradients_test import library_gradient
from tests.meta_gradients_test import regression_tasks
from tests.meta_gradients_test import use
from tests.oracle import relative_error
from tests.sample_models import regression_batch
from tests.sample_models import regression_model
from tests.sample_models import small_mlp


def test_conjugate_gradient_solves():
    rng = np.random.default_rng(0)
    root = rng.standard_normal((5, 5))
    matrix = tf.constant(root @ root.T + np.eye(5))
    target = tf.constant(rng.standard_normal(5))

    def product(parts):
        image = tf.linalg.matvec(matrix, tf.concat(parts, 0))
        return [image[:2], image[2:]]

    solution = conjugate_gradient(product, [target[:2], target[2:]], 5)
    expected = np.linalg.solve(matrix, target)
    np.testing.assert_allclose(tf.concat(solution, 0), expected, rtol=1e-8)
    # Nothing goes wrong where there is nothing to solve.
    zeros = [tf.zeros(2), tf.zeros(3)]
    for value in conjugate_gradient(lambda v: v, zeros, 3):
        np.testing.assert_array_equal(value, tf.zeros_like(value))


def quadratic_model(**kwargs):
    learner = keras.Sequential(
        [keras.Input((3,)), keras.layers.Dense(1, use_bias=False)]
    )
    return keras_maml.MetaModel(learner, **kwargs)


def quadratic_tasks():
    rng = np.random.default_rng(0)
    x_s, x_q = rng.standard_normal((2, 2, 7, 3))
    y_s, y_q = rng.standard_normal((2, 2, 7, 1))
    return {"support_x": x_s, "support_y": y_s, "query_x": x_q}, y_q


def test_implicit_has_the_closed_form_on_a_quadratic():
    # The minimum of mean((Xφ − y)²) + λ/2 ‖φ − θ‖² is (H + λI)⁻¹(c + λθ), and
    # dφ/dθ = (I + H/λ)⁻¹.
    use("float64")
    strength = 1.5
    meta_model = quadratic_model(
        inner_optimizer=0.1,
        inner_steps=400,
        meta_gradient=Implicit(strength, cg_steps=3),
    )
    x, y = quadratic_tasks()
    theta = meta_model.learner.get_weights()[0]
    expected = np.zeros((3, 1))
    for t in range(2):
        x_s, y_s, x_q = (x[k][t] for k in ("support_x", "support_y", "query_x"))
        h_s, c_s = 2 * x_s.T @ x_s / 7, 2 * x_s.T @ y_s / 7
        h_q, c_q = 2 * x_q.T @ x_q / 7, 2 * x_q.T @ y[t] / 7
        best = np.linalg.solve(
            h_s + strength * np.eye(3), c_s + strength * theta
        )
        gradient = h_q @ best - c_q
        expected += np.linalg.solve(np.eye(3) + h_s / strength, gradient) / 2
    _, (actual,) = library_gradient(meta_model, x, y)
    np.testing.assert_allclose(actual, expected, rtol=1e-8)


@pytest.mark.parametrize("adapt", ["all", "head"])
def test_implicit_agrees_with_the_unrolled_gradient(adapt):
    # Of the same inner problem, taken to its end.
    use("float64")
    keras.utils.set_random_seed(0)
    x, y = regression_tasks("float64", tasks=2)
    learner = small_mlp(inputs=3, outputs=2)

    class Proximal(keras_maml.meta_gradients.SecondOrder):
        def support_term(self, weights, start):
            return Implicit(2.0).support_term(weights, start)

    gradients = []
    for meta_gradient in (Proximal(), Implicit(2.0, cg_steps=12)):
        meta_model = keras_maml.MetaModel(
            learner,
            inner_optimizer=0.2,
            inner_steps=100,
            meta_gradient=meta_gradient,
            adapted_weights=adapt,
            task_map="loop",
        )
        gradients.append(library_gradient(meta_model, x, y)[1])
    assert relative_error(gradients[1], gradients[0]) < 1e-7


def test_implicit_does_not_depend_on_the_path():
    use("float64")
    x, y = quadratic_tasks()
    gradients = []
    for optimizer, steps in ((0.1, 400), (0.05, 900)):
        meta_model = quadratic_model(
            inner_optimizer=optimizer,
            inner_steps=steps,
            meta_gradient=Implicit(1.5, cg_steps=3),
            task_map="loop",
        )
        meta_model.learner.set_weights([np.ones((3, 1))])
        gradients.append(library_gradient(meta_model, x, y)[1])
    np.testing.assert_allclose(*gradients, rtol=1e-8)
    # Nor is anything of the path kept: a tape sees the end alone.
    assert not Implicit().through_inner_loop


def test_the_proximal_term_holds_at_evaluation():
    x, _ = regression_batch(tasks=1)
    support = x["support_x"][0], x["support_y"][0]
    theta = regression_model()
    free = regression_model(inner_steps=50)
    held = regression_model(inner_steps=50, meta_gradient=Implicit(10.0))
    for model in (free, held):
        model.learner.set_weights(theta.learner.get_weights())

    def distance(model):
        adapted = model.adapt(*support).get_weights()
        return sum(
            np.sum((a - b) ** 2)
            for a, b in zip(adapted, theta.learner.get_weights())
        )

    assert 0 < distance(held) < 0.5 * distance(free)


def test_reptile_is_the_way_to_the_adapted_weights():
    x, y = regression_batch(tasks=2)
    meta_model = regression_model(inner_steps=3, meta_gradient=Reptile())
    _, gradients = library_gradient(meta_model, x, y)
    theta = meta_model.learner.get_weights()
    adapted = [
        meta_model.adapt(x["support_x"][t], x["support_y"][t]).get_weights()
        for t in range(2)
    ]
    for i, gradient in enumerate(gradients):
        mean = (adapted[0][i] + adapted[1][i]) / 2
        np.testing.assert_allclose(
            gradient, theta[i] - mean, rtol=1e-5, atol=1e-7
        )


def test_reptile_with_one_step_is_joint_training():
    # θ ← θ − εα ∇ mean_i L_i(θ): gradient descent on all tasks' data.
    x, y = regression_batch(tasks=2)
    meta_model = regression_model(inner_optimizer=0.1, meta_gradient=Reptile())
    joint = keras.models.clone_model(meta_model.learner)
    joint.set_weights(meta_model.learner.get_weights())
    meta_model.compile(keras.optimizers.SGD(0.5), loss="mse")
    joint.compile(keras.optimizers.SGD(0.05), loss="mse")
    meta_model.fit(x, y, batch_size=2, verbose=0)
    joint.fit(
        np.concatenate(x["support_x"]),
        np.concatenate(x["support_y"]),
        batch_size=100,
        verbose=0,
    )
    for a, b in zip(meta_model.learner.get_weights(), joint.get_weights()):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)


def test_reptile_takes_the_mean_weight_of_two_outputs():
    x, y = regression_batch(tasks=1)
    inputs = keras.Input((1,))
    hidden = keras.layers.Dense(3, activation="tanh")(inputs)
    outputs = [keras.layers.Dense(1)(hidden), keras.layers.Dense(1)(hidden)]

    def inner_loss(y_true, y_pred):
        return tf.square(y_true - y_pred[0]) + tf.square(y_true - y_pred[1])

    meta_model = keras_maml.MetaModel(
        keras.Model(inputs, outputs),
        inner_loss=inner_loss,
        meta_gradient=Reptile(),
    )
    meta_model.compile(
        keras.optimizers.SGD(1.0), loss=["mse", "mse"], run_eagerly=True
    )
    start = meta_model.learner.get_weights()
    adapted = meta_model.adapt(x["support_x"][0], x["support_y"][0])
    goal = adapted.get_weights()
    one = np.ones((1, 5), "float32")
    meta_model.train_on_batch(x, [y, y], sample_weight=[one, 0.5 * one])
    for a, b, new in zip(start, goal, meta_model.learner.get_weights()):
        np.testing.assert_allclose(new, a + 0.75 * (b - a), rtol=1e-5)


def test_reptile_s_outer_step_follows_a_schedule():
    x, y = regression_batch(tasks=1)
    support = x["support_x"][0], x["support_y"][0]
    meta_model = regression_model(meta_gradient=Reptile())
    schedule = keras.optimizers.schedules.PolynomialDecay(1.0, 2, 0.0)
    meta_model.compile(keras.optimizers.SGD(schedule), loss="mse")
    for rate in (1.0, 0.5, 0.0):
        before = meta_model.learner.get_weights()
        adapted = meta_model.adapt(*support).get_weights()
        meta_model.fit(x, y, batch_size=1, verbose=0)
        for old, goal, new in zip(
            before, adapted, meta_model.learner.get_weights(), strict=True
        ):
            np.testing.assert_allclose(
                new, old + rate * (goal - old), rtol=1e-5, atol=1e-6
            )


@pytest.mark.parametrize(
    "meta_gradient",
    [
        "reptile",
        pytest.param(
            Implicit(cg_steps=2), id="implicit", marks=pytest.mark.slow
        ),
    ],
)
def test_a_scaled_loss_leads_to_the_same_step(meta_gradient):
    results = []
    for scale in (None, 64.0):
        keras.utils.set_random_seed(0)
        meta_model = regression_model(meta_gradient=meta_gradient)
        optimizer = keras.optimizers.SGD(0.5)
        if scale is not None:
            optimizer = keras.optimizers.LossScaleOptimizer(
                optimizer, initial_scale=scale
            )
        meta_model.compile(optimizer, loss="mse", run_eagerly=True)
        meta_model.train_on_batch(*regression_batch(tasks=2))
        results.append(meta_model.learner.get_weights())
    for plain, scaled in zip(*results, strict=True):
        np.testing.assert_allclose(scaled, plain, rtol=1e-4, atol=1e-6)


def test_each_step_takes_the_next_examples():
    x, _ = regression_batch(tasks=1, support=5)
    support_x, support_y = x["support_x"][0], x["support_y"][0]
    meta_model = regression_model(
        inner_optimizer=0.1, inner_steps=3, inner_batch_size=2
    )
    adapted = meta_model.adapt(support_x, support_y)
    by_hand = keras.models.clone_model(meta_model.learner)
    by_hand.set_weights(meta_model.learner.get_weights())
    by_hand.compile(keras.optimizers.SGD(0.1), loss="mse")
    for rows in ([0, 1], [2, 3], [4, 0]):
        by_hand.train_on_batch(support_x[rows], support_y[rows])
    for a, b in zip(adapted.get_weights(), by_hand.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)


def test_a_small_support_set_is_used_whole():
    x, _ = regression_batch(tasks=1, support=5)
    support = x["support_x"][0], x["support_y"][0]
    whole = regression_model(inner_steps=2)
    batched = regression_model(inner_steps=2, inner_batch_size=5)
    batched.learner.set_weights(whole.learner.get_weights())
    for a, b in zip(
        whole.adapt(*support).get_weights(),
        batched.adapt(*support).get_weights(),
        strict=True,
    ):
        np.testing.assert_allclose(a, b, rtol=1e-6)


@pytest.mark.parametrize(
    # Each step of conjugate gradients is a graph like the one before.
    "meta_gradient",
    ["reptile", pytest.param(Implicit(cg_steps=2), id="implicit")],
)
def test_trains_in_every_engine(meta_gradient):
    x, y = regression_tasks("float32")
    results = []
    for task_map in ("loop", "vectorized"):
        keras.utils.set_random_seed(0)
        meta_model = keras_maml.MetaModel(
            dense_learner(),
            inner_steps=2,
            meta_gradient=meta_gradient,
            task_map=task_map,
        )
        results.append(library_gradient(meta_model, x, y)[1])
    assert relative_error(results[1], results[0]) < 1e-4
