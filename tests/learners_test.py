"""The paper's networks, as the paper and its code describe them."""

import keras
import numpy as np
import pytest

from keras_maml import learners


def layer_names(model):
    return [type(layer).__name__ for layer in model.layers]


def test_sinusoid_network():
    model = learners.mlp()
    assert [w.shape for w in model.get_weights()] == [
        (1, 40),
        (40,),
        (40, 40),
        (40,),
        (40, 1),
        (1,),
    ]
    kernel = model.get_weights()[2]
    assert 0.005 < kernel.std() < 0.012
    # Truncated at two standard deviations.
    assert np.abs(kernel).max() <= 0.02 + 1e-6
    assert not model.get_weights()[1].any()
    # The hidden layers are rectified, the output is not.
    hidden = np.maximum(np.array([[2.0]]) @ model.get_weights()[0], 0)
    hidden = np.maximum(hidden @ kernel, 0)
    np.testing.assert_allclose(
        model(np.array([[2.0]], "f")),
        hidden @ model.get_weights()[4],
        rtol=1e-4,
        atol=1e-9,
    )


def test_omniglot_network_without_convolutions():
    model = learners.mlp(
        (28, 28, 1), (256, 128, 64, 64), outputs=5, batch_normalization=True
    )
    widths = [
        layer.units
        for layer in model.layers
        if isinstance(layer, keras.layers.Dense)
    ]
    assert widths == [256, 128, 64, 64, 5]
    norms = [
        layer
        for layer in model.layers
        if isinstance(layer, keras.layers.BatchNormalization)
    ]
    assert len(norms) == 4
    assert all(layer.center and not layer.scale for layer in norms)
    assert model(np.zeros((2, 28, 28, 1))).shape == (2, 5)


def test_omniglot_network():
    model = learners.conv4(n_way=20)
    assert layer_names(model) == [
        "Conv2D",
        "BatchNormalization",
        "ReLU",
    ] * 4 + ["GlobalAveragePooling2D", "Dense"]
    convolutions = model.layers[0:12:3]
    assert [tuple(c.output.shape) for c in convolutions] == [
        (None, 14, 14, 64),
        (None, 7, 7, 64),
        (None, 4, 4, 64),
        (None, 2, 2, 64),
    ]
    # 3·3·1·64 and three times 3·3·64·64 kernels, and a bias and an offset for
    # each of 4·64 channels; then the head.
    assert sum(w.size for w in model.get_weights()) == (
        9 * 64 + 3 * 9 * 64 * 64 + 4 * 64 * 2 + 64 * 20 + 20 + 4 * 64 * 2
    )
    assert model.layers[-1].get_weights()[0].std() == pytest.approx(1, rel=0.1)
    limit = np.sqrt(6 / (9 * 64 + 9 * 64))
    kernel = convolutions[1].get_weights()[0]
    assert 0.98 * limit < np.abs(kernel).max() <= limit
    small = learners.conv4(head_stddev=0.1).layers[-1].get_weights()[0]
    assert small.std() == pytest.approx(0.1, rel=0.15)


def test_mini_imagenet_network():
    model = learners.conv4((84, 84, 3), filters=32, max_pool=True)
    assert layer_names(model) == [
        "Conv2D",
        "BatchNormalization",
        "ReLU",
        "MaxPooling2D",
    ] * 4 + ["Flatten", "Dense"]
    assert model.layers[-1].get_weights()[0].shape == (800, 5)


def test_seed():
    def kernels(seed):
        weights = learners.conv4(seed=seed).get_weights()
        return [w for w in weights if w.ndim > 1]

    for a, b, c in zip(kernels(0), kernels(0), kernels(1)):
        np.testing.assert_array_equal(a, b)
        assert not np.array_equal(a, c)
    # Layers of one shape do not start equal.
    same_shape = [w for w in kernels(0) if w.shape == (3, 3, 64, 64)]
    assert not np.array_equal(same_shape[0], same_shape[1])
    # Nor do the layers of models with seeds that follow one another.
    first, second = (
        learners.mlp((3,), (3, 3), seed=seed).get_weights()[:4:2]
        for seed in (0, 1)
    )
    assert not np.array_equal(first[1], second[0])
