"""Policies as plain Keras models."""

import math
from collections.abc import Sequence

import keras
import tensorflow as tf
from keras import layers

from keras_maml.rl.actions import DiscreteActions
from keras_maml.rl.environments.environment import Environment
from keras_maml.rl.environments.environment import check_environment
from keras_maml.validation import check_integer
from keras_maml.validation import check_number
from keras_maml.validation import check_seed
from keras_maml.validation import layer_seed


def mlp_policy(
    environment: Environment,
    hidden_units: Sequence[int] = (100, 100),
    *,
    activation: str = "relu",
    initial_std: float = 1.0,
    seed: int = 0,
    name: str = "policy",
) -> keras.Model:
    """A fully connected policy for an environment, as in the paper.

    Any other Keras model with the same inputs and outputs is a policy too.

    Args:
        environment: the `Environment` to act in.
        hidden_units: tuple of ints, the hidden layers' sizes. Defaults to
            `(100, 100)`.
        activation: the hidden layers' activation. Defaults to `"relu"`.
        initial_std: float above 0, the initial standard deviation of each
            entry of a continuous action. It is learned and does not depend on
            the observation. Defaults to `1.0`.
        seed: int from 0 to 2³² − 1, for the initial weights. Defaults to `0`.
        name: string.

    Returns:
        A functional Keras model from `(batch, *observation_shape)` to the
        outputs that `environment.actions` asks for.

    Raises:
        ValueError: if an argument is not of that form.

    Example:

    ```python
    policy = keras_maml.rl.mlp_policy(keras_maml.rl.PointNavigation())
    outputs = policy(np.zeros((1, 2)))  # "mean" and "log_std", each (1, 2)
    ```

    Reference:
        Finn et al., 2017, section 5.3: two hidden layers of 100, ReLU.
    """
    check_environment(environment)
    for units in hidden_units:
        check_integer("hidden_units", units)
    check_number("initial_std", initial_std, above=0)
    check_seed(seed)
    actions = environment.actions
    x = h = keras.Input(environment.observation_shape)
    if len(environment.observation_shape) != 1:
        h = layers.Flatten()(h)
    for index, units in enumerate(hidden_units):
        h = _dense(units, layer_seed(seed, index), activation=activation)(h)
    last_seed = layer_seed(seed, len(hidden_units))
    if isinstance(actions, DiscreteActions):
        outputs: tf.Tensor | dict = _dense(actions.count, last_seed)(h)
    else:
        mean = _dense(actions.size, last_seed, name="mean")(h)
        log_std = LogStd(math.log(initial_std), name="log_std")(mean)
        outputs = {"mean": mean, "log_std": log_std}
    return keras.Model(x, outputs, name=name)


def _dense(units, seed, **kwargs):
    initializer = keras.initializers.GlorotUniform(seed)
    return layers.Dense(units, kernel_initializer=initializer, **kwargs)


@keras.saving.register_keras_serializable(package="keras_maml")
class LogStd(layers.Layer):
    """A learned log standard deviation of each action, for all observations.

    Args:
        initial: float, the initial value. Defaults to `0.0`.
        **kwargs: arguments of `keras.layers.Layer`.

    Call arguments:
        inputs: tensor `(..., size)`. The output has the same shape.

    Example:

    ```python
    mean = keras.Input((2,))
    log_std = keras_maml.rl.LogStd(initial=-1.0)(mean)
    ```
    """

    # A policy must not become deterministic: its steps would be infinite.
    _LEAST = math.log(1e-6)

    def __init__(self, initial: float = 0.0, **kwargs: object) -> None:
        super().__init__(**kwargs)
        self.initial = check_number("initial", initial)

    def build(self, input_shape):
        self.log_std = self.add_weight(
            shape=(input_shape[-1],),
            initializer=keras.initializers.Constant(self.initial),
            name="log_std",
        )

    def call(self, inputs):
        log_std = keras.ops.maximum(self.log_std, self._LEAST)
        return keras.ops.broadcast_to(log_std, keras.ops.shape(inputs))

    def get_config(self):
        return {**super().get_config(), "initial": self.initial}
