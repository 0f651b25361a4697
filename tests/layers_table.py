"""Every layer class that `keras.layers` exports, in a small learner.

    python -m tests.layers_table

runs them all and writes docs/layers.md; tests/layers_test.py asserts the same.
"""

import inspect
import pathlib

import keras
import numpy as np
import tensorflow as tf
from keras import layers

import keras_maml

PAGE = pathlib.Path(__file__).parent.parent / "docs" / "layers.md"

VECTOR, SEQUENCE, IMAGE, VOLUME = (4,), (4, 3), (6, 6, 2), (4, 4, 4, 2)
TOKENS = "tokens"


def cell(make):
    return lambda: layers.RNN(make())


RANGE = {"value_range": (0, 1)}

# Augmentation and the like, as the first layer, where its input needs no
# gradient: TensorFlow's gradient of a projective transform is an approximation,
# and some of these have none.
FIRST_LAYERS = {
    "AugMix": lambda: layers.AugMix(**RANGE),
    "AutoContrast": lambda: layers.AutoContrast(**RANGE),
    "ContrastLimitedAdaptiveHistogramEqualization": lambda: (
        layers.ContrastLimitedAdaptiveHistogramEqualization(**RANGE)
    ),
    "CutMix": layers.CutMix,
    "Equalization": lambda: layers.Equalization(**RANGE),
    "MixUp": layers.MixUp,
    "RandAugment": lambda: layers.RandAugment(**RANGE),
    "RandomColorDegeneration": lambda: layers.RandomColorDegeneration(
        0.5, **RANGE
    ),
    "RandomColorJitter": lambda: layers.RandomColorJitter(
        brightness_factor=0.2, hue_factor=0.2, **RANGE
    ),
    "RandomElasticTransform": lambda: layers.RandomElasticTransform(
        0.5, 0.5, **RANGE
    ),
    "RandomErasing": lambda: layers.RandomErasing(0.5, **RANGE),
    "RandomGaussianBlur": lambda: layers.RandomGaussianBlur(0.5, **RANGE),
    "RandomGrayscale": lambda: layers.RandomGrayscale(0.5),
    "RandomHue": lambda: layers.RandomHue(0.5, **RANGE),
    "RandomInvert": lambda: layers.RandomInvert(0.5, **RANGE),
    "RandomPerspective": lambda: layers.RandomPerspective(0.5),
    "RandomPosterization": lambda: layers.RandomPosterization(4, **RANGE),
    "RandomRotation": lambda: layers.RandomRotation(0.2),
    "RandomSaturation": lambda: layers.RandomSaturation(0.5, **RANGE),
    "RandomSharpness": lambda: layers.RandomSharpness(0.5, **RANGE),
    "RandomShear": lambda: layers.RandomShear(0.2, 0.2),
    "RandomTranslation": lambda: layers.RandomTranslation(0.2, 0.2),
    "RandomZoom": lambda: layers.RandomZoom(0.2),
    "Solarization": lambda: layers.Solarization(
        addition_factor=0.1, threshold_factor=0.5, **RANGE
    ),
}

# A layer's name to how it is made and what it is given: a shape of floats, or
# TOKENS. Those with weights or state first.
CASES = {
    "BatchNormalization": (layers.BatchNormalization, IMAGE),
    "Bidirectional": (
        lambda: layers.Bidirectional(layers.LSTM(2, use_cudnn=False)),
        SEQUENCE,
    ),
    "Conv1D": (lambda: layers.Conv1D(2, 2), SEQUENCE),
    "Conv1DTranspose": (lambda: layers.Conv1DTranspose(2, 2), SEQUENCE),
    "Conv2D": (lambda: layers.Conv2D(2, 3, strides=2, padding="same"), IMAGE),
    "Conv2DTranspose": (lambda: layers.Conv2DTranspose(2, 2), IMAGE),
    "Conv3D": (lambda: layers.Conv3D(2, 2), VOLUME),
    "Conv3DTranspose": (lambda: layers.Conv3DTranspose(2, 2), VOLUME),
    "ConvLSTM1D": (lambda: layers.ConvLSTM1D(2, 2), (3, 4, 2)),
    "ConvLSTM2D": (lambda: layers.ConvLSTM2D(2, 2), (3, 4, 4, 2)),
    "ConvLSTM3D": (lambda: layers.ConvLSTM3D(2, 2), (2, 3, 3, 3, 2)),
    "Dense": (lambda: layers.Dense(3), VECTOR),
    "DepthwiseConv1D": (lambda: layers.DepthwiseConv1D(2), SEQUENCE),
    "DepthwiseConv2D": (lambda: layers.DepthwiseConv2D(2), IMAGE),
    "EinsumDense": (
        lambda: layers.EinsumDense("abc,cd->abd", (4, 2), bias_axes="d"),
        SEQUENCE,
    ),
    "Embedding": (lambda: layers.Embedding(5, 2), TOKENS),
    "GRU": (lambda: layers.GRU(2, use_cudnn=False), SEQUENCE),
    "GRUCell": (cell(lambda: layers.GRUCell(2)), SEQUENCE),
    "GroupNormalization": (lambda: layers.GroupNormalization(2), IMAGE),
    "GroupQueryAttention": (
        lambda: twice(layers.GroupQueryAttention(2, 2, 1)),
        SEQUENCE,
    ),
    "LSTM": (lambda: layers.LSTM(2, use_cudnn=False), SEQUENCE),
    "LSTMCell": (cell(lambda: layers.LSTMCell(2)), SEQUENCE),
    "LayerNormalization": (layers.LayerNormalization, SEQUENCE),
    "MultiHeadAttention": (
        lambda: twice(layers.MultiHeadAttention(2, 2)),
        SEQUENCE,
    ),
    "AdditiveAttention": (lambda: listed(layers.AdditiveAttention()), SEQUENCE),
    "Attention": (
        lambda: listed(layers.Attention(use_scale=True)),
        SEQUENCE,
    ),
    "Normalization": (
        lambda: layers.Normalization(mean=1.0, variance=2.0),
        VECTOR,
    ),
    "PReLU": (layers.PReLU, VECTOR),
    "RMSNormalization": (layers.RMSNormalization, SEQUENCE),
    "RNN": (cell(lambda: layers.SimpleRNNCell(2)), SEQUENCE),
    "ReversibleEmbedding": (lambda: layers.ReversibleEmbedding(5, 2), TOKENS),
    "SeparableConv1D": (lambda: layers.SeparableConv1D(2, 2), SEQUENCE),
    "SeparableConv2D": (lambda: layers.SeparableConv2D(2, 2), IMAGE),
    "SimpleRNN": (lambda: layers.SimpleRNN(2), SEQUENCE),
    "SimpleRNNCell": (cell(lambda: layers.SimpleRNNCell(2)), SEQUENCE),
    "SpectralNormalization": (
        lambda: layers.SpectralNormalization(layers.Dense(3)),
        VECTOR,
    ),
    "StackedRNNCells": (
        cell(
            lambda: layers.StackedRNNCells(
                [layers.SimpleRNNCell(2), layers.GRUCell(2)]
            )
        ),
        SEQUENCE,
    ),
    "TimeDistributed": (
        lambda: layers.TimeDistributed(layers.Dense(2)),
        SEQUENCE,
    ),
    # Random numbers: a seed is state.
    "AlphaDropout": (lambda: layers.AlphaDropout(0.3), VECTOR),
    "Dropout": (lambda: layers.Dropout(0.3), VECTOR),
    "GaussianDropout": (lambda: layers.GaussianDropout(0.3), VECTOR),
    "GaussianNoise": (lambda: layers.GaussianNoise(0.3), VECTOR),
    "SpatialDropout1D": (lambda: layers.SpatialDropout1D(0.3), SEQUENCE),
    "SpatialDropout2D": (lambda: layers.SpatialDropout2D(0.3), IMAGE),
    "SpatialDropout3D": (lambda: layers.SpatialDropout3D(0.3), VOLUME),
    "RandomBrightness": (
        lambda: layers.RandomBrightness(0.3, value_range=(-1, 1)),
        (6, 6, 3),
    ),
    "RandomContrast": (
        lambda: layers.RandomContrast(0.3, value_range=(-1, 1)),
        (6, 6, 3),
    ),
    "RandomCrop": (lambda: layers.RandomCrop(4, 4), IMAGE),
    "RandomFlip": (layers.RandomFlip, IMAGE),
    # Neither weights nor state, but with derivatives to get right.
    "Activation": (lambda: layers.Activation("gelu"), VECTOR),
    "ActivityRegularization": (
        lambda: layers.ActivityRegularization(l2=0.1),
        VECTOR,
    ),
    "AdaptiveAveragePooling1D": (
        lambda: layers.AdaptiveAveragePooling1D(2),
        SEQUENCE,
    ),
    "AdaptiveAveragePooling2D": (
        lambda: layers.AdaptiveAveragePooling2D(2),
        IMAGE,
    ),
    "AdaptiveAveragePooling3D": (
        lambda: layers.AdaptiveAveragePooling3D(2),
        VOLUME,
    ),
    "AdaptiveMaxPooling1D": (lambda: layers.AdaptiveMaxPooling1D(2), SEQUENCE),
    "AdaptiveMaxPooling2D": (lambda: layers.AdaptiveMaxPooling2D(2), IMAGE),
    "AdaptiveMaxPooling3D": (lambda: layers.AdaptiveMaxPooling3D(2), VOLUME),
    "AveragePooling1D": (lambda: layers.AveragePooling1D(2), SEQUENCE),
    "AveragePooling2D": (lambda: layers.AveragePooling2D(2), IMAGE),
    "AveragePooling3D": (lambda: layers.AveragePooling3D(2), VOLUME),
    "Add": (lambda: listed(layers.Add()), VECTOR),
    "Average": (lambda: listed(layers.Average()), VECTOR),
    "Concatenate": (lambda: listed(layers.Concatenate()), VECTOR),
    "Dot": (lambda: listed(layers.Dot(1)), VECTOR),
    "Maximum": (lambda: squared(layers.Maximum()), VECTOR),
    "Minimum": (lambda: squared(layers.Minimum()), VECTOR),
    "Multiply": (lambda: listed(layers.Multiply()), VECTOR),
    "Subtract": (lambda: squared(layers.Subtract()), VECTOR),
    "CenterCrop": (lambda: layers.CenterCrop(4, 4), IMAGE),
    "Cropping1D": (layers.Cropping1D, SEQUENCE),
    "Cropping2D": (lambda: layers.Cropping2D(1), IMAGE),
    "Cropping3D": (layers.Cropping3D, VOLUME),
    "ELU": (layers.ELU, VECTOR),
    "Flatten": (layers.Flatten, IMAGE),
    "GlobalAveragePooling1D": (layers.GlobalAveragePooling1D, SEQUENCE),
    "GlobalAveragePooling2D": (layers.GlobalAveragePooling2D, IMAGE),
    "GlobalAveragePooling3D": (layers.GlobalAveragePooling3D, VOLUME),
    "GlobalMaxPooling1D": (layers.GlobalMaxPooling1D, SEQUENCE),
    "GlobalMaxPooling2D": (layers.GlobalMaxPooling2D, IMAGE),
    "GlobalMaxPooling3D": (layers.GlobalMaxPooling3D, VOLUME),
    "Identity": (layers.Identity, VECTOR),
    "Lambda": (lambda: layers.Lambda(keras.ops.square), VECTOR),
    "LeakyReLU": (layers.LeakyReLU, VECTOR),
    "Masking": (layers.Masking, SEQUENCE),
    "MaxPooling1D": (layers.MaxPooling1D, SEQUENCE),
    "MaxPooling2D": (layers.MaxPooling2D, IMAGE),
    "MaxPooling3D": (layers.MaxPooling3D, VOLUME),
    "Permute": (lambda: layers.Permute((2, 1)), SEQUENCE),
    "ReLU": (layers.ReLU, VECTOR),
    "RepeatVector": (lambda: layers.RepeatVector(2), VECTOR),
    "Rescaling": (lambda: layers.Rescaling(2.0), VECTOR),
    "Reshape": (lambda: layers.Reshape((2, 2)), VECTOR),
    "Resizing": (lambda: layers.Resizing(4, 4), IMAGE),
    "Softmax": (layers.Softmax, VECTOR),
    "UnitNormalization": (layers.UnitNormalization, VECTOR),
    "UpSampling1D": (layers.UpSampling1D, SEQUENCE),
    "UpSampling2D": (
        lambda: layers.UpSampling2D(interpolation="bilinear"),
        IMAGE,
    ),
    "UpSampling3D": (layers.UpSampling3D, VOLUME),
    "ZeroPadding1D": (layers.ZeroPadding1D, SEQUENCE),
    "ZeroPadding2D": (layers.ZeroPadding2D, IMAGE),
    "ZeroPadding3D": (layers.ZeroPadding3D, VOLUME),
    "MelSpectrogram": (
        lambda: layers.MelSpectrogram(
            num_mel_bins=4,
            fft_length=16,
            sequence_stride=8,
            power_to_db=False,
        ),
        (64,),
    ),
    "STFTSpectrogram": (
        lambda: layers.STFTSpectrogram(
            frame_length=8, frame_step=4, fft_length=8
        ),
        (32, 1),
    ),
    **{name: (make, (8, 8, 3)) for name, make in FIRST_LAYERS.items()},
    "CategoryEncoding": (
        lambda: layers.CategoryEncoding(5, output_mode="multi_hot"),
        TOKENS,
    ),
    "Discretization": (
        lambda: layers.Discretization(bin_boundaries=[0.0, 0.5]),
        VECTOR,
    ),
}

# TensorFlow or Keras computes these in float32 alone, in which differences
# have three digits.
FLOAT32 = {
    "AdaptiveAveragePooling3D",
    "AdaptiveMaxPooling3D",
    "AveragePooling3D",
    "CategoryEncoding",
    "Discretization",
    "MaxPooling3D",
    "MelSpectrogram",
    "RandomCrop",
    "Resizing",
    "UpSampling2D",
    *FIRST_LAYERS,
}
FIRST = {"Discretization", *FIRST_LAYERS}

# What is said of a layer beside the measured difference.
NOTES = {
    "GRU": "needs `use_cudnn=False` on a GPU",
    "LSTM": "needs `use_cudnn=False` on a GPU",
    "Bidirectional": "an LSTM or GRU in it needs `use_cudnn=False` on a GPU",
    "Lambda": "`adapt()` cannot copy it",
    "CutMix": "mixes the images of a set, but not their labels",
    "MixUp": "mixes the images of a set, but not their labels",
    "SpectralNormalization": "its first derivative is an approximation, "
    "because Keras treats the singular vectors as constants",
}

# What `tf.vectorized_map` or XLA cannot do, so that tasks run in a loop.
NOT_VECTORIZED = [
    "SpectralNormalization",
    "RandomCrop",
    "AugMix",
    "CutMix",
    "MixUp",
    "RandAugment",
    "RandomColorJitter",
    "RandomElasticTransform",
    "RandomHue",
    "RandomPerspective",
    "RandomRotation",
    "RandomSaturation",
    "RandomShear",
    "RandomTranslation",
    "RandomZoom",
    "CategoryEncoding",
]

# What is not a layer of a learner, and why.
OTHERS = {
    "Base classes": ["InputLayer", "Layer", "Wrapper"],
    "Layers that run code of other frameworks or a finished SavedModel": [
        "FlaxLayer",
        "JaxLayer",
        "TFSMLayer",
        "TorchModuleWrapper",
    ],
    "Layers that prepare data (apply them in `tf.data`)": [
        "HashedCrossing",
        "Hashing",
        "IntegerLookup",
        "MaxNumBoundingBoxes",
        "Pipeline",
        "StringLookup",
        "TextVectorization",
    ],
}


def exported():
    """The names, of which there may be several, of each layer class."""
    names = {}
    for name in dir(layers):
        value = getattr(layers, name)
        if inspect.isclass(value) and issubclass(value, layers.Layer):
            names.setdefault(value, set()).add(name)
    return list(names.values())


def twice(layer):
    """For layers that take a query and a value."""
    return lambda x: layer(x, x)


def listed(layer):
    """For layers that take a list."""
    return lambda x: layer([x, keras.ops.tanh(x)])


def squared(layer):
    """For layers of a list whose inputs have to differ."""
    return lambda x: layer([x, keras.ops.square(x)])


def learner(name):
    """A layer between others with weights."""
    make, shape = CASES[name]
    if shape == TOKENS:
        x = h = keras.Input((4,), dtype="int32")
    else:
        x = keras.Input(shape)
        h = x
        if name not in FIRST:
            # In a tanh's open range: nothing is cut off at a border.
            h = layers.Dense(shape[-1], activation="tanh")(x)
    h = make()(h)
    if len(h.shape) > 2:
        h = layers.Flatten()(h)
    return keras.Model(x, layers.Dense(1)(h))


def meta_batch(name, tasks=2, examples=3):
    _, shape = CASES[name]
    rng = np.random.default_rng(0)

    def inputs():
        if shape == TOKENS:
            return rng.integers(0, 5, (tasks, examples, 4)).astype("int32")
        return draw(*shape)

    def draw(*shape):
        values = rng.standard_normal((tasks, examples, *shape))
        return values.astype(keras.config.floatx())

    x = {
        "support_x": inputs(),
        "support_y": draw(1),
        "query_x": inputs(),
    }
    return x, draw(1)


def tolerance(name):
    return 2e-2 if name in FLOAT32 else 1e-6


def make_step(name, task_map):
    """A `MetaModel` with a layer, its step, and random numbers.

    The step returns a loss, and the gradients.
    """
    dtype = "float32" if name in FLOAT32 else "float64"
    keras.config.set_floatx(dtype)
    keras.config.set_dtype_policy(dtype)
    keras.utils.set_random_seed(0)
    meta_model = keras_maml.MetaModel(
        learner(name), inner_optimizer=0.1, task_map=task_map
    )
    meta_model.compile("sgd", loss="mse")
    data = meta_batch(name)
    rng = np.random.default_rng(1)
    for variable in meta_model.learner.trainable_variables:
        # Off zeros and ones, where some gradients would not show.
        noise = rng.standard_normal(variable.shape)
        variable.assign(variable.numpy() + 0.3 * noise)

    @tf.function(autograph=False)
    def step():
        mean = meta_model._step(data, training=True)[0].mean
        return mean["loss"], tf.nest.flatten(mean["gradients"])

    return meta_model, step, rng


def check_vectorized(name):
    """The relative difference of the vectorized gradient and the loop's."""
    loop, vectorized = (
        np.concatenate([np.ravel(g) for g in make_step(name, form)[1]()[1]])
        for form in ("loop", "vectorized")
    )
    return np.linalg.norm(vectorized - loop) / np.linalg.norm(loop)


def check(name):
    """How far the meta-gradient of a learner with that layer is from right.

    Returns:
        Two numbers, of the exact gradient and of the first-order one: the
        relative difference of the component along a random direction to a
        central difference of losses.

    Raises:
        AssertionError: if a gradient is not finite.
    """
    epsilon = 2e-3 if name in FLOAT32 else 1e-5
    meta_model, step, rng = make_step(name, "loop")
    variables = meta_model.learner.trainable_variables
    _, exact = step()
    meta_model.meta_gradient = keras_maml.meta_gradients.FirstOrder()
    _, first_order = step.python_function()
    start = [v.numpy() for v in variables]
    direction = [rng.standard_normal(v.shape) for v in start]
    derivatives = []
    for gradients in (exact, first_order):
        for gradient in gradients:
            assert np.isfinite(gradient).all(), name
        derivatives.append(
            sum(np.sum(g.numpy() * d) for g, d in zip(gradients, direction))
        )
    losses = []
    for sign in (1, -1):
        for v, s, d in zip(variables, start, direction):
            v.assign(s + sign * epsilon * d)
        losses.append(float(step()[0]))
    difference = (losses[0] - losses[1]) / (2 * epsilon)
    return [abs(d - difference) / abs(difference) for d in derivatives]


def not_vectorized():
    return f'Not with `task_map="vectorized"`: {", ".join(NOT_VECTORIZED)}.'


def main():
    rows = []
    for name in CASES:
        error, first_order = check(name)
        words = ["works" if error < tolerance(name) else "first order only"]
        if name in FLOAT32:
            words.append("in float32")
        if name in FIRST:
            words.append("as the first layer")
        if name in NOTES:
            words.append(NOTES[name])
        rows.append(
            (name, "; ".join(words), f"{error:.0e}", f"{first_order:.0e}")
        )
        print(*rows[-1], flush=True)
    before, _, rest = PAGE.read_text().partition("<!-- layers -->")
    _, _, after = rest.partition("<!-- end of layers -->")
    table = [
        "| layer | result | exact | first order |",
        "|---|---|---|---|",
    ]
    table += [f"| {' | '.join(row)} |" for row in rows]
    others = [f"- {why}: {', '.join(n)}" for why, n in OTHERS.items()]
    text = "\n".join(
        [
            *(*table, "", not_vectorized(), ""),
            *("These classes are not meant for a learner:", "", *others),
        ]
    )
    PAGE.write_text(
        f"{before}<!-- layers -->\n{text}\n<!-- end of layers -->{after}"
    )


if __name__ == "__main__":
    main()
