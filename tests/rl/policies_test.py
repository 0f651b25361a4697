"""The policies that the library makes."""

import keras
import numpy as np
import pytest

from keras_maml import rl


def test_gaussian():
    environment = rl.PointNavigation(observe_goal=True)
    policy = rl.mlp_policy(environment, (7, 5), initial_std=0.5, seed=3)
    assert [tuple(w.shape) for w in policy.get_weights()] == [
        (4, 7),
        (7,),
        (7, 5),
        (5,),
        (5, 2),
        (2,),
        (2,),
    ]
    outputs = policy(np.ones((6, 4)))
    np.testing.assert_allclose(
        outputs["log_std"], np.log(0.5) * np.ones((6, 2))
    )
    again = rl.mlp_policy(environment, (7, 5), initial_std=0.5, seed=3)
    other = rl.mlp_policy(environment, (7, 5), initial_std=0.5, seed=4)
    for a, b in zip(policy.get_weights(), again.get_weights()):
        np.testing.assert_array_equal(a, b)
    assert np.any(policy.get_weights()[0] != other.get_weights()[0])


def test_categorical():
    policy = rl.mlp_policy(rl.TabularMDP(3, 4), ())
    assert policy(np.eye(3)).shape == (3, 4)


def test_observations_of_several_axes_are_flattened():
    environment = rl.GoalVelocity()
    environment.observation_shape = (2, 3)
    assert (
        rl.mlp_policy(environment, (4,)).count_params() == 6 * 4 + 4 + 4 + 1 + 1
    )


def test_log_std_is_saved_and_never_vanishes(tmp_path):
    environment = rl.GoalVelocity()
    policy = rl.mlp_policy(environment, (4,))
    policy.get_layer("log_std").log_std.assign([-100.0])
    policy.save(tmp_path / "policy.keras")
    loaded = keras.models.load_model(tmp_path / "policy.keras")
    outputs = loaded(np.zeros((1, 2)))
    assert float(outputs["log_std"][0, 0]) == pytest.approx(np.log(1e-6))
    assert float(loaded.get_layer("log_std").log_std[0]) == -100.0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"environment": "navigation"}, "`environment` must be"),
        ({"hidden_units": (0,)}, "`hidden_units`"),
        ({"initial_std": 0}, "`initial_std`"),
        ({"seed": -1}, "`seed`"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        rl.mlp_policy(**{"environment": rl.GoalVelocity(), **settings})
    with pytest.raises(ValueError, match="`initial`"):
        rl.LogStd(initial=np.inf)
