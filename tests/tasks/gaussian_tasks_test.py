import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_maml import tasks

# Of (μ_1, μ_2, log σ_1, log σ_2).
DENSITIES = np.array(
    [
        [4.0, 1.0, 0.3, 0.0],
        [1.0, 1.0, 0.0, 0.0],
        [0.3, 0.0, 0.25, 0.1],
        [0.0, 0.0, 0.1, 0.1],
    ]
)
# Of (w_1, w_2, b).
LINES = np.array([[1.0, 0.5, 0.0], [0.5, 2.0, -1.0], [0.0, -1.0, 3.0]])


def draw(source, count):
    x, y = next(source.batch(count, count=count).as_numpy_iterator())
    return x["support_x"], x["support_y"], x["query_x"], y


def assert_covariance(samples, expected):
    """Checks mean 0 and the covariance, each entry to 4 standard errors."""
    count = len(samples)
    deviation = np.sqrt(np.diag(expected))
    assert (abs(samples.mean(axis=0)) < 4 * deviation / np.sqrt(count)).all()
    error = abs(np.cov(samples.T) - expected)
    bound = np.outer(deviation, deviation) * np.sqrt(2 / count)
    assert (error < 4 * bound).all()


def test_densities_have_the_parameters_that_p_gives_them():
    source = tasks.GaussianTasks(1000, 1, covariance=DENSITIES)
    x, y, query_x, _ = draw(source, 2000)
    assert (x == 1).all()
    assert (query_x == 1).all()
    estimates = np.concatenate([y.mean(axis=1), np.log(y.std(axis=1))], axis=1)
    assert_covariance(estimates, DENSITIES)
    for index in (0, 1999):
        true = source.parameters(index)
        scale = np.exp(true["log_sigma"]) / np.sqrt(1000)
        assert (abs(y[index].mean(axis=0) - true["mean"]) < 4 * scale).all()
        error = np.log(y[index].std(axis=0)) - true["log_sigma"]
        assert (abs(error) < 4 / np.sqrt(2000)).all()


def test_points_of_a_density_are_gaussian():
    source = tasks.GaussianTasks(1, 4000)
    true, (_, y) = source.parameters(3), source.episode(3)
    standard = (y - true["mean"]) / np.exp(true["log_sigma"])
    assert_covariance(standard, np.eye(2))
    assert np.mean(standard**4) == pytest.approx(3.0, abs=0.4)


def test_lines_have_the_parameters_that_p_gives_them():
    source = tasks.GaussianTasks(
        50, 1, kind="regression", covariance=LINES, noise=0.01
    )
    x, y, *_ = draw(source, 2000)
    assert_covariance(x.reshape(-1, 2), np.eye(2))
    basis = np.concatenate([x, np.ones_like(x[..., :1])], axis=-1)
    estimates = (np.linalg.pinv(basis) @ y)[..., 0]
    assert_covariance(estimates, LINES)
    for index in (0, 1999):
        true = source.parameters(index)
        np.testing.assert_allclose(
            estimates[index], [*true["weights"], true["bias"]], atol=0.02
        )


def test_noise_of_a_regression():
    source = tasks.GaussianTasks(
        2000, 2000, kind="regression", dimension=1, noise=0.3
    )
    x, y = source.episode(0)
    true = source.parameters(0)
    for inputs, targets in (
        (x["support_x"], x["support_y"]),
        (x["query_x"], y),
    ):
        residual = targets - inputs @ true["weights"][:, None] - true["bias"]
        assert residual.std() == pytest.approx(0.3, rel=0.07)


def test_defaults_of_p():
    assert np.array_equal(
        tasks.GaussianTasks(dimension=3).covariance,
        np.diag([4.0, 4.0, 4.0, 0.25, 0.25, 0.25]),
    )
    assert np.array_equal(
        tasks.GaussianTasks(kind="regression", dimension=3).covariance,
        np.eye(4),
    )


def test_singular_covariance_fixes_a_parameter():
    source = tasks.GaussianTasks(covariance=np.diag([1.0, 1.0, 0.0, 0.0]))
    parameters = source.parameters(5)
    np.testing.assert_allclose(parameters["log_sigma"], 0.0, atol=1e-6)
    assert (parameters["mean"] != 0).all()


def test_negative_log_likelihood_by_hand():
    loss = tasks.GaussianTasks.negative_log_likelihood(
        np.array([[1.0, -2.0], [0.0, 0.0]], "float32"),
        np.array([[0.5, 1.0, 0.2, -0.3], [0.0, 0.0, 0.0, 0.0]], "float32"),
    )
    by_hand = (
        0.5 * (0.5 / np.exp(0.2)) ** 2
        + 0.5 * (3.0 / np.exp(-0.3)) ** 2
        + 0.2
        - 0.3
        + np.log(2 * np.pi)
    )
    np.testing.assert_allclose(loss, [by_hand, np.log(2 * np.pi)], rtol=1e-6)


def test_negative_log_likelihood_is_least_at_the_sample_moments():
    y = np.random.default_rng(0).normal(size=(50, 2)) * [1.0, 3.0] + 2.0
    best = tf.Variable(np.concatenate([y.mean(0), np.log(y.std(0))]))
    with tf.GradientTape() as tape:
        predictions = tf.tile(best[None], [50, 1])
        loss = tf.reduce_mean(
            tasks.GaussianTasks.negative_log_likelihood(y, predictions)
        )
    np.testing.assert_allclose(tape.gradient(loss, best), 0.0, atol=1e-12)


def test_negative_log_likelihood_is_saved_with_a_model(tmp_path):
    model = keras.Sequential([keras.Input([1]), keras.layers.Dense(4)])
    model.compile(loss=tasks.GaussianTasks.negative_log_likelihood)
    x, y = np.ones([3, 1], "float32"), np.zeros([3, 2], "float32")
    model.train_on_batch(x, y)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert loaded.evaluate(x, y, verbose=0) == pytest.approx(
        model.evaluate(x, y, verbose=0)
    )
