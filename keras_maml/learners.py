"""The paper's networks, as plain Keras models."""

from collections.abc import Sequence

import keras
from keras import layers

from keras_maml.validation import check_integer
from keras_maml.validation import check_seed
from keras_maml.validation import layer_seed

__all__ = ["conv4", "mlp"]


def mlp(
    input_shape: Sequence[int] = (1,),
    hidden_units: Sequence[int] = (40, 40),
    outputs: int = 1,
    *,
    batch_normalization: bool = False,
    kernel_stddev: float = 0.01,
    seed: int = 0,
    name: str = "mlp",
) -> keras.Model:
    """A fully connected network, by default the paper's for the sinusoid.

    Args:
        input_shape: tuple of ints, the shape of one example. The network
            flattens an example of several axes. Defaults to `(1,)`.
        hidden_units: tuple of ints, the hidden layers' sizes. Defaults to
            `(40, 40)`.
        outputs: int, the size of the output, which is linear. Defaults to `1`.
        batch_normalization: bool. Whether to normalise before each ReLU, with
            an offset and no scale, as in the paper's non-convolutional Omniglot
            network. Defaults to `False`.
        kernel_stddev: float, standard deviation of the truncated normal
            distribution of the kernels. Defaults to `0.01`.
        seed: int, the seed of the kernels' initial values. Defaults to `0`.
        name: string.

    Returns:
        A `keras.Sequential` from `(batch, *input_shape)` to
        `(batch, outputs)`.

    Raises:
        ValueError: if a size is not a positive integer or `seed` is not an
            integer between 0 and 2**32 - 1.

    Example:

    ```python
    sinusoid_learner = keras_maml.learners.mlp()
    omniglot_learner = keras_maml.learners.mlp(
        (28, 28, 1), (256, 128, 64, 64), outputs=5, batch_normalization=True
    )
    ```

    Reference:
        Finn et al., 2017, sections 5.1 (1-40-40-1) and 5.2 (256-128-64-64).
        The released code draws from TensorFlow's truncated normal, which cuts
        at two standard deviations and does not rescale. Keras's does the same.
    """
    input_shape = [check_integer("input_shape", size) for size in input_shape]
    hidden_units = [
        check_integer("hidden_units", size) for size in hidden_units
    ]
    outputs = check_integer("outputs", outputs)
    seed = check_seed(seed)

    def dense(units, index, **kwargs):
        initializer = keras.initializers.TruncatedNormal(
            stddev=kernel_stddev, seed=layer_seed(seed, index)
        )
        return layers.Dense(units, kernel_initializer=initializer, **kwargs)

    model = keras.Sequential(name=name)
    model.add(keras.Input(input_shape))
    if len(input_shape) > 1:
        model.add(layers.Flatten())
    for i, units in enumerate(hidden_units):
        model.add(dense(units, i, name=f"dense{i + 1}"))
        if batch_normalization:
            model.add(layers.BatchNormalization(scale=False, name=f"bn{i + 1}"))
        model.add(layers.ReLU())
    model.add(dense(outputs, len(hidden_units), name="head"))
    return model


def conv4(
    input_shape: Sequence[int] = (28, 28, 1),
    n_way: int | None = 5,
    *,
    filters: int = 64,
    max_pool: bool = False,
    head_stddev: float | None = None,
    seed: int = 0,
    name: str = "conv4",
) -> keras.Model:
    """The paper's network of four convolutions, strided or max-pooled.

    The strided form is for Omniglot: four times a 3×3 convolution of stride 2,
    batch normalisation and ReLU, then the mean over the remaining pixels. The
    max-pooled form is for mini-ImageNet, with `filters=32`: the convolutions
    have stride 1, a 2×2 max-pooling follows each ReLU, and all remaining pixels
    are features. In both forms, a linear layer gives the logits.

    Args:
        input_shape: tuple `(height, width, channels)`. Defaults to
            `(28, 28, 1)`.
        n_way: int, the number of classes of a task. `None` leaves out the
            linear layer, for `head_init="prototypes"`. Defaults to `5`.
        filters: int, the number of filters of each convolution. Defaults to
            `64`.
        max_pool: bool. Whether to build the max-pooled form. Defaults to
            `False`.
        head_stddev: float, standard deviation of the normal distribution of
            the linear layer's kernel. Defaults to the paper's: `1.0` for the
            strided form, Xavier (Glorot uniform) for the max-pooled form. A
            smaller value, such as `0.1`, trains much faster.
        seed: int, the seed of the kernels' initial values. Defaults to `0`.
        name: string.

    Returns:
        A `keras.Sequential` from `(batch, height, width, channels)` to logits
        `(batch, n_way)`, or to features if `n_way` is `None`.

    Raises:
        ValueError: if `input_shape` does not have three axes, is too small for
            four poolings, a size is not a positive integer or `seed` is not an
            integer between 0 and 2**32 - 1.

    Example:

    ```python
    omniglot_learner = keras_maml.learners.conv4(n_way=20)
    mini_imagenet_learner = keras_maml.learners.conv4(
        (84, 84, 3), n_way=5, filters=32, max_pool=True
    )
    ```

    Reference:
        Finn et al., 2017, section 5.2, after Vinyals et al., 2016. As in the
        released code, the convolutions start from Xavier's distribution, and
        batch normalisation has an offset and no scale.
    """
    input_shape = tuple(input_shape)
    if len(input_shape) != 3:
        raise ValueError(
            "`input_shape` must be (height, width, channels). "
            f"Received: input_shape={input_shape}"
        )
    input_shape = [check_integer("input_shape", size) for size in input_shape]
    if n_way is not None:
        n_way = check_integer("n_way", n_way)
    filters = check_integer("filters", filters)
    seed = check_seed(seed)
    if max_pool and min(input_shape[:2]) < 16:
        raise ValueError(
            "With `max_pool=True`, `input_shape` must be at least 16 by 16: "
            "each of the four poolings halves it. "
            f"Received: input_shape={input_shape}"
        )
    model = keras.Sequential(name=name)
    model.add(keras.Input(input_shape))
    for i in range(4):
        model.add(
            layers.Conv2D(
                filters,
                3,
                strides=1 if max_pool else 2,
                padding="same",
                kernel_initializer=keras.initializers.GlorotUniform(
                    layer_seed(seed, i)
                ),
                name=f"conv{i + 1}",
            )
        )
        model.add(layers.BatchNormalization(scale=False, name=f"bn{i + 1}"))
        model.add(layers.ReLU(name=f"relu{i + 1}"))
        if max_pool:
            model.add(layers.MaxPooling2D(2, name=f"pool{i + 1}"))
    if max_pool:
        model.add(layers.Flatten(name="flatten"))
    else:
        model.add(layers.GlobalAveragePooling2D(name="mean"))
    if n_way is None:
        return model
    initializer = _head_initializer(max_pool, head_stddev, layer_seed(seed, 4))
    model.add(layers.Dense(n_way, kernel_initializer=initializer, name="head"))
    return model


def _head_initializer(max_pool, stddev, seed):
    if max_pool and stddev is None:
        return keras.initializers.GlorotUniform(seed)
    return keras.initializers.RandomNormal(
        stddev=1.0 if stddev is None else stddev, seed=seed
    )
