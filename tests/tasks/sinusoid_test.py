import math

import numpy as np
import pytest

from keras_maml import tasks


def fit(x, y):
    """Amplitude and phase of each task, by least squares on its points."""
    basis = np.concatenate([np.sin(x), np.cos(x)], axis=-1).astype("float64")
    # A·sin(x − φ) = (A cos φ) sin x − (A sin φ) cos x.
    cos, sin = (np.linalg.pinv(basis) @ y)[..., 0].T
    return np.hypot(cos, sin), np.arctan2(-sin, cos), basis


def draw(sinusoid, count):
    x, y = next(sinusoid.batch(count, count=count).as_numpy_iterator())
    return (
        np.concatenate([x["support_x"], x["query_x"]], axis=1),
        np.concatenate([x["support_y"], y], axis=1),
    )


def test_parameters_are_those_of_the_points():
    sinusoid = tasks.Sinusoid(k_shot=5, q_query=3)
    for index in (0, 64, 1000):
        x, y = sinusoid.episode(index)
        true = sinusoid.parameters(index)
        for inputs, targets in (
            (x["support_x"], x["support_y"]),
            (x["query_x"], y),
        ):
            np.testing.assert_allclose(
                targets,
                true["amplitude"] * np.sin(inputs - true["phase"]),
                atol=1e-5,
            )


def test_ranges_of_the_paper():
    x, y = draw(tasks.Sinusoid(), 4000)
    amplitude, phase, _ = fit(x, y)
    for values, low, high in (
        (amplitude, 0.1, 5.0),
        (phase, 0.0, math.pi),
        (x, -5.0, 5.0),
    ):
        assert low - 1e-3 <= values.min() < low + 0.01 * (high - low)
        assert high - 0.01 * (high - low) < values.max() <= high + 1e-3
        # Uniform: each tenth of the range holds a tenth, give or take 4 σ.
        share = np.histogram(values, 10, (low - 1e-3, high + 1e-3))[0]
        share = share / values.size
        assert np.abs(share - 0.1).max() < 4 * math.sqrt(0.09 / values.size)
    assert abs(np.corrcoef(amplitude, phase)[0, 1]) < 4 / math.sqrt(4000)


def test_own_ranges():
    sinusoid = tasks.Sinusoid(
        amplitude=(2, 2), phase=(-1.0, -0.5), x_range=(1, 2)
    )
    x, y = draw(sinusoid, 100)
    amplitude, phase, _ = fit(x, y)
    np.testing.assert_allclose(amplitude, 2.0, rtol=1e-3)
    assert (-1.001 < phase).all()
    assert (phase < -0.499).all()
    assert (x >= 1).all()
    assert (x < 2).all()


def test_noise_is_on_support_and_query():
    x, y = draw(tasks.Sinusoid(20, 20, noise=0.5), 500)
    *_, basis = fit(x, y)
    residual = y - basis @ (np.linalg.pinv(basis) @ y)
    for part in (residual[:, :20], residual[:, 20:]):
        # Two of the forty degrees of freedom went into the fit.
        assert part.std() == pytest.approx(0.5 * math.sqrt(38 / 40), rel=0.02)


def test_points_of_support_and_query_differ():
    x, _ = draw(tasks.Sinusoid(5, 5), 100)
    assert len(np.unique(x)) == x.size
