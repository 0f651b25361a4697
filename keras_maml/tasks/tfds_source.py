"""Labelled examples from TensorFlow Datasets."""

import os
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from keras_maml.tasks import image_headers
from keras_maml.tasks.class_pool import ClassPool
from keras_maml.tasks.loading import Preprocess
from keras_maml.tasks.loading import read_all
from keras_maml.validation import check_integer


def from_tfds(
    name: str,
    *,
    splits: str | Sequence[str] | None = None,
    data_dir: str | os.PathLike | None = None,
    download: bool = True,
    preprocess: Preprocess | None = None,
    image_key: str = "image",
    label_key: str = "label",
    max_pixels: int = image_headers.MAX_PIXELS,
) -> ClassPool:
    """Makes a pool of classes from a dataset of TensorFlow Datasets.

    The pool holds the examples of all `splits` together. To divide the classes
    among training, validation and test, call `ClassPool.split`. If several
    splits hold an example with the same image and label, the pool keeps it
    once, so that support and query cannot share it. In Omniglot, `small1` and
    `small2` repeat parts of `train`.

    Args:
        name: str. The dataset's name, such as `"omniglot"` or `"cifar100"`.
        splits: string or sequence of strings, in TFDS's notation, such as
            `"train"` or `["train[:50%]", "test"]`. Defaults to `None`, every
            split of the dataset.
        data_dir: path-like. The folder of prepared datasets. Defaults to the
            environment variable `TFDS_DATA_DIR`, then to TFDS's own default.
        download: bool. Whether to download and prepare the dataset if
            `data_dir` does not hold it. Defaults to `True`.
        preprocess: function of one image, in TensorFlow operations. It runs
            once for each image. Defaults to `None`: images stay as they are,
            and all must have the same size.
        image_key: str. The feature that holds the image. Defaults to `"image"`.
        label_key: str. The feature that holds the class, an integer or string.
            Defaults to `"label"`.
        max_pixels: int, how many pixels an image may have, as in
            `from_folder`. Defaults to 100 million.

    Returns:
        A `ClassPool`.

    Raises:
        ValueError: If there is no such dataset; if `data_dir` does not hold the
            dataset and `download` is `False` or the download fails; if the
            dataset has no such split or feature; or if an image cannot be read
            or preprocessed, has more than `max_pixels` or differs in size from
            the first.

    Example:

    ```python
    from keras_maml import tasks

    characters = tasks.from_tfds(
        "omniglot", preprocess=tasks.preprocess_omniglot
    )
    train, validation, test = characters.split(1100, 100, 423, seed=0)
    train_tasks = train.episodes(5, 1, 1, rotations=True).batch(32)
    ```
    """
    import tensorflow_datasets as tfds

    check_integer("max_pixels", max_pixels)
    builder = _prepared_builder(name, data_dir, download)
    features = builder.info.features
    _check_feature("image_key", image_key, name, features)
    _check_feature("label_key", label_key, name, features)
    names = _check_splits(builder, splits)

    # The fingerprint of an image is taken before the image is decoded.
    image_feature = features[image_key]
    is_image = isinstance(image_feature, tfds.features.Image)
    decoders = tfds.decode.PartialDecoding(
        {image_key: True, label_key: True},
        decoders={image_key: tfds.decode.SkipDecoding()} if is_image else None,
    )

    def read(example, split):
        image = stored = example[image_key]
        if is_image:
            content = image_headers.checked(stored, max_pixels)
            image = image_feature.decode_example(content)
        else:
            stored = tf.io.serialize_tensor(stored)
        if preprocess is not None:
            image = preprocess(image)
        fingerprint = tf.strings.to_hash_bucket_fast(stored, 2**63 - 1)
        return image, example[label_key], fingerprint, split

    dataset = None
    for number, split in enumerate(names):
        part = builder.as_dataset(split=split, decoders=decoders)
        numbered = tf.data.Dataset.zip(
            part, tf.data.Dataset.from_tensors(number).repeat()
        )
        dataset = numbered if dataset is None else dataset.concatenate(numbered)
    x, labels, fingerprints, origins = read_all(
        dataset,
        read,
        lambda index: f"example {index} of {'+'.join(names)} of {name!r}",
    )
    if labels.dtype.kind in "SO":
        labels = np.array([label.decode() for label in labels])
    kept = _distinct(labels, fingerprints, origins)
    if len(kept) < len(x):
        x, labels = x[kept], labels[kept]
    class_names = None
    if isinstance(features[label_key], tfds.features.ClassLabel):
        to_name = features[label_key].int2str
        class_names = [to_name(int(label)) for label in np.unique(labels)]
    return ClassPool(x, labels, class_names)


def _prepared_builder(name, data_dir, download):
    import tensorflow_datasets as tfds

    data_dir = data_dir or os.environ.get("TFDS_DATA_DIR") or None
    try:
        builder = tfds.builder(name, data_dir=data_dir)
    except tfds.core.registered.DatasetNotFoundError:
        # TFDS's own message lists its thousand datasets.
        raise ValueError(
            "`name` must be a dataset of TensorFlow Datasets or one prepared "
            f"in `data_dir`. Received: name={name!r}, data_dir={data_dir!r}"
        ) from None
    if builder.is_prepared():
        return builder
    where = f"The dataset {name!r} is not in {builder.data_dir}"
    if not download:
        raise ValueError(f"{where}. Received: download={download}")
    try:
        builder.download_and_prepare()
    except Exception as error:
        raise ValueError(
            f"{where} and could not be downloaded or prepared "
            f"({type(error).__name__}: {error}). Received: name={name!r}, "
            f"data_dir={data_dir!r}"
        ) from error
    return builder


def _check_feature(argument, key, name, features):
    if key not in features:
        raise ValueError(
            f"`{argument}` must be a feature of the dataset {name!r}, one of "
            f"{sorted(features)}. Received: {argument}={key!r}"
        )


def _check_splits(builder, splits):
    available = list(builder.info.splits)
    names = available if splits is None else splits
    if isinstance(names, str):
        names = [names]
    try:
        names = [part for name in names for part in name.split("+")]
        for name in names:
            builder.info.splits[name]
    except (AttributeError, KeyError, TypeError, ValueError):
        names = []
    if not names:
        raise ValueError(
            f"`splits` must be of the dataset's splits, {available}, or parts "
            f"of them. Received: splits={splits!r}"
        )
    return names


def _distinct(labels, fingerprints, splits):
    """Returns the examples that do not repeat an example of another split.

    Of several equal examples, the i-th of one split counts as the i-th of
    another. Equal examples of one split are all kept: Omniglot's class
    `Braille_0` has two drawings that are equal to the last bit.
    """
    _, classes = np.unique(labels, return_inverse=True)
    examples = np.stack([fingerprints, classes, splits], axis=1)
    _, inverse = np.unique(examples, axis=0, return_inverse=True)
    inverse = inverse.reshape(-1)
    order = np.argsort(inverse, kind="stable")
    place = np.empty_like(order)
    place[order] = np.arange(len(order))
    occurrence = place - np.searchsorted(inverse[order], inverse)
    examples = np.stack([fingerprints, classes, occurrence], axis=1)
    _, first = np.unique(examples, axis=0, return_index=True)
    return np.sort(first)
