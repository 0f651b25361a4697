import numpy as np
import pytest
import tensorflow as tf

from keras_maml import tasks


def drawing(seed):
    """Black strokes on white, as Omniglot's are."""
    rng = np.random.default_rng(seed)
    image = np.full((105, 105), 255, "uint8")
    for row, column in rng.integers(10, 85, (4, 2)):
        image[row : row + 3, column : column + 20] = 0
        image[row : row + 20, column : column + 3] = 0
    return image


@pytest.mark.parametrize("seed", [0, 1])
def test_omniglot_against_pillow(seed):
    from PIL import Image

    image = drawing(seed)
    # In floats: on bytes, Pillow also clips between columns and rows.
    expected = Image.fromarray((255 - image).astype("float32")).resize(
        (28, 28), Image.Resampling.LANCZOS
    )
    expected = np.asarray(expected).clip(0, 255)
    got = tasks.preprocess_omniglot(tf.constant(np.stack([image] * 3, -1)))
    assert got.dtype == tf.uint8
    assert got.shape == (28, 28, 1)
    assert abs(expected - got.numpy()[..., 0]).max() <= 0.51
    assert got.numpy().max() > 200


def test_omniglot_ink_is_bright():
    got = tasks.preprocess_omniglot(drawing(0)[..., None])
    assert tf.reduce_max(got) > 200
    assert got[0, 0, 0] == 0
    black = tasks.preprocess_omniglot(tf.zeros([105, 105, 3], tf.uint8))
    assert (black.numpy() == 255).all()
