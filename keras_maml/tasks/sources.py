"""Labelled examples from arrays and from folders."""

import os
import pathlib
from collections.abc import Sequence

import numpy as np
import tensorflow as tf
from numpy.typing import ArrayLike

from keras_maml.tasks import image_headers
from keras_maml.tasks.class_pool import ClassPool
from keras_maml.tasks.image_files import find_images
from keras_maml.tasks.loading import Preprocess
from keras_maml.tasks.loading import read_all
from keras_maml.tasks.preprocessing import to_uint8
from keras_maml.validation import check_bool
from keras_maml.validation import check_integer

_CHANNELS = {"grayscale": 1, "rgb": 3}


def from_arrays(
    x: ArrayLike,
    labels: ArrayLike,
    *,
    preprocess: Preprocess | None = None,
    class_names: Sequence[str] | None = None,
) -> ClassPool:
    """Makes a pool of classes from arrays.

    Args:
        x: array of shape `(examples, *input_shape)`; see `ClassPool` for its
            dtypes.
        labels: array of integers or strings, shape `(examples,)`.
        preprocess: function of one example, a tensor of shape `input_shape`,
            in TensorFlow operations. It runs once for each example. Defaults to
            `None`.
        class_names: see `ClassPool`. Defaults to `None`.

    Returns:
        A `ClassPool`.

    Raises:
        ValueError: See `ClassPool`. Also if `preprocess` fails on an example or
            returns examples of different shapes.

    Example:

    >>> import numpy as np
    >>> from keras_maml import tasks
    >>> x = np.random.default_rng(0).normal(size=(40, 16))
    >>> pool = tasks.from_arrays(x, labels=["cat", "dog"] * 20)
    >>> pool.num_classes, pool.counts.tolist()
    (2, [20, 20])
    """
    array = np.asarray(x)
    if preprocess is not None and array.ndim:
        (array,) = read_all(
            tf.data.Dataset.from_tensor_slices(array),
            lambda example: (preprocess(example),),
            lambda index: f"x[{index}]",
        )
    return ClassPool(array, labels, class_names)


def from_folder(
    path: str | os.PathLike,
    *,
    image_size: int | tuple[int, int] | None = None,
    color_mode: str = "rgb",
    preprocess: Preprocess | None = None,
    follow_links: bool = False,
    max_pixels: int = image_headers.MAX_PIXELS,
) -> ClassPool:
    """Makes a pool of classes from a folder of class folders of images.

    Each folder that holds images, at any depth, is a class named by its path:
    `path/cat/1.png` is of class `cat`, `path/Greek/alpha/1.png` of class
    `Greek/alpha`. An image is a regular file that ends in `.bmp`, `.gif`,
    `.jpeg`, `.jpg` or `.png`. Files of other extensions, hidden files and
    hidden folders are passed over. A pipe, socket or device with an image's
    extension is an error; a folder with such a name is a folder like any other.

    Args:
        path: path-like. The folder.
        image_size: int or `(height, width)`. The size to resize each image to,
            with antialiasing. The aspect ratio may change. Defaults to `None`:
            no image is resized, and all must have the same size.
        color_mode: `"rgb"` or `"grayscale"`. Defaults to `"rgb"`.
        preprocess: function of one image, a uint8 tensor of shape
            `(height, width, channels)`, in TensorFlow operations. It runs once
            for each image, after the resize. Defaults to `None`.
        follow_links: bool. Whether a symbolic link counts as the folder or
            image that it leads to. With `False`, such a link is an error, and
            so is a link that leads nowhere. Links to other files are passed
            over. With `True`, links may lead anywhere, also out of `path`: of a
            folder that somebody else has made, pass it only if you trust them.
            Defaults to `False`.
        max_pixels: int, how many pixels an image may have. Its header is read
            before it is decoded, so that a small file cannot fill the memory.
            A file may have 8 bytes for each of them, and a mebibyte more.
            Defaults to 100 million.

    Returns:
        A `ClassPool`.

    Raises:
        ValueError: If `path` is not a folder, holds no images or has images
            beside the class folders; if an image is no regular file, cannot be
            read, has more than `max_pixels` or another size than the first; if
            `path` holds a symbolic link and `follow_links` is `False`, or links
            form a loop or lead nowhere; or if `image_size`, `color_mode`,
            `follow_links` or `max_pixels` is impossible. The error names the
            file or link.

    Example:

    ```python
    import tensorflow as tf
    from keras_maml import tasks

    png = tf.io.encode_png(tf.zeros([100, 120, 3], tf.uint8))
    for file in ("crow/1.png", "crow/2.png", "owl/1.png", "owl/2.png"):
        tf.io.write_file(f"birds/{file}", png)

    pool = tasks.from_folder("birds", image_size=84)
    print(pool.class_names, pool.counts)
    ```
    """
    if color_mode not in _CHANNELS:
        raise ValueError(
            f"`color_mode` must be one of {sorted(_CHANNELS)}. Received: "
            f"color_mode={color_mode!r}"
        )
    size = None if image_size is None else _check_image_size(image_size)
    check_bool("follow_links", follow_links)
    check_integer("max_pixels", max_pixels)
    paths, labels = find_images(pathlib.Path(path), follow_links, max_pixels)

    def read(file):
        image = tf.io.decode_image(
            image_headers.checked(tf.io.read_file(file), max_pixels),
            channels=_CHANNELS[color_mode],
            expand_animations=False,
        )
        image = tf.ensure_shape(image, [None, None, _CHANNELS[color_mode]])
        if size is not None:
            image = to_uint8(tf.image.resize(image, size, antialias=True))
        return (image if preprocess is None else preprocess(image),)

    (x,) = read_all(
        tf.data.Dataset.from_tensor_slices(paths),
        read,
        lambda index: paths[index],
    )
    return ClassPool(x, labels)


def _check_image_size(image_size):
    size = image_size
    if not isinstance(size, tuple | list):
        size = (size, size)
    if len(size) != 2:
        raise ValueError(
            "`image_size` must be an integer or (height, width). Received: "
            f"image_size={image_size!r}"
        )
    return [check_integer("image_size", length) for length in size]
