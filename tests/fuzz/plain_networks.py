"""Random learners, each with a plain function that computes the same.

A learner is described by a tuple of blocks. `Network` makes a Keras model of
it, and computes the same without Keras: `forward` is a function of the values
of the variables, written with TensorFlow's elementary operations.
"""

import keras
import tensorflow as tf

import keras_maml

EPSILON = 1e-3
L2 = 0.05

_ACTIVATIONS = {
    "linear": lambda x: x,
    "tanh": tf.tanh,
    "softplus": tf.math.softplus,
    "sigmoid": tf.sigmoid,
}

# Name of a kind of learner → its input shape, and its blocks.
# "dense*" is one layer that is used twice, and "!" behind a name freezes it.
KINDS = {
    "dense": ((3,), ("dense tanh", "dense softplus")),
    "linear": ((2,), ()),
    "batch_norm": ((3,), ("dense linear", "batch_norm", "softplus")),
    "two_norms": (
        (3,),
        ("dense linear", "batch_norm", "tanh", "dense linear", "batch_norm"),
    ),
    "no_scale": ((3,), ("dense linear", "batch_norm_plain", "tanh")),
    "frozen_norm": ((3,), ("dense tanh", "batch_norm!", "dense tanh")),
    "layer_norm": ((3,), ("dense linear", "layer_norm", "tanh")),
    "regularized": ((3,), ("dense_l2 tanh",)),
    "dropout": ((3,), ("dense tanh", "dropout", "batch_norm")),
    "frozen": ((3,), ("dense! tanh", "dense tanh")),
    "shared": ((3,), ("dense tanh", "dense* tanh", "dense* tanh")),
    "context": ((3,), ("context", "dense tanh")),
    "conv": ((5, 5, 1), ("conv softplus", "batch_norm", "pool")),
    "conv1d": ((5, 2), ("conv1d tanh", "layer_norm", "pool1d")),
    "flatten": ((4, 4, 1), ("conv tanh", "flatten")),
    "embedding": ((3,), ("embedding", "flatten", "dense tanh")),
    "simple_rnn": ((3, 2), ("simple_rnn",)),
    "lstm": ((3, 2), ("lstm", "layer_norm")),
    "gru": ((2, 2), ("gru",)),
    "sequence": ((3,), ("embedding", "gru")),
    "two_inputs": ((3,), ("join", "dense tanh")),
}
FORMS = ("sequential", "functional", "subclassed", "nested")
VOCABULARY = 5


def layers_of(kind, outputs, width):
    """Returns pairs of a block and its layer; a shared layer stands twice."""
    blocks = (*KINDS[kind][1], *(["head"] if outputs else []))
    shared, pairs = {}, []
    for i, block in enumerate(blocks):
        name = block.split(" ")[0].rstrip("!")
        if name not in shared or not name.endswith("*"):
            shared[name] = _layer(name, f"layer_{i}", outputs, width)
            if "!" in block:
                shared[name].trainable = False
        pairs.append((block, shared[name]))
    return pairs


def _layer(name, unique, outputs, width):
    layers = keras.layers
    if name == "head":
        return layers.Dense(outputs, name="head")
    if name in ("dense", "dense*"):
        return layers.Dense(width, name=unique)
    if name == "dense_l2":
        regularizer = keras.regularizers.L2(L2)
        return layers.Dense(width, kernel_regularizer=regularizer, name=unique)
    if name == "batch_norm":
        return layers.BatchNormalization(momentum=0.8, name=unique)
    if name == "batch_norm_plain":
        return layers.BatchNormalization(
            momentum=0.8, center=False, scale=False, name=unique
        )
    make = {
        "layer_norm": layers.LayerNormalization,
        "pool": layers.GlobalAveragePooling2D,
        "pool1d": layers.GlobalAveragePooling1D,
        "flatten": layers.Flatten,
        "dropout": lambda **kwargs: layers.Dropout(0.3, seed=1, **kwargs),
        "context": lambda **kwargs: keras_maml.ContextParameters(2, **kwargs),
        "conv": lambda **k: layers.Conv2D(width, 3, padding="same", **k),
        "conv1d": lambda **k: layers.Conv1D(width, 2, strides=2, **k),
        "embedding": lambda **k: layers.Embedding(VOCABULARY, width, **k),
        "simple_rnn": lambda **k: layers.SimpleRNN(width, **k),
        "lstm": lambda **k: layers.LSTM(width, use_cudnn=False, **k),
        "gru": lambda **k: layers.GRU(width, use_cudnn=False, **k),
    }
    if name in make:
        return make[name](name=unique)
    # An activation, or `join`.
    return layers.Activation("linear" if name == "join" else name, name=unique)


def run_layers(pairs, x):
    """Calls Keras's layers in turn."""
    for block, layer in pairs:
        if block == "join":
            x = keras.ops.concatenate([x["a"], x["b"]], -1)
        elif block == "context":
            x = keras.ops.concatenate([x, layer(x)], -1)
        else:
            x = layer(x)
        activation = block.partition(" ")[2]
        if activation:
            x = keras.activations.get(activation)(x)
    return x


@keras.saving.register_keras_serializable(package="keras_maml_tests")
class SubclassedNetwork(keras.Model):
    """A learner into whose `call` Keras cannot see."""

    def __init__(self, kind, outputs, width, **kwargs):
        super().__init__(**kwargs)
        self.arguments = {"kind": kind, "outputs": outputs, "width": width}
        pairs = layers_of(**self.arguments)
        self.blocks = [block for block, _ in pairs]
        self.parts = [layer for _, layer in pairs]

    def call(self, x):
        return run_layers(zip(self.blocks, self.parts), x)

    def get_config(self):
        return {**super().get_config(), **self.arguments}


class Network:
    """A Keras model, and a plain function that computes the same.

    Args:
        kind: a key of `KINDS`.
        form: one of `FORMS`. A kind that cannot have it gets another.
        outputs: int, the width of the head; 0 for no head.
        width: int, the width of the hidden layers.

    Attributes:
        learner: a built Keras model.
        input_shape: shape of one example. With two inputs, that of each.
    """

    def __init__(self, kind, form, outputs, width):
        self.kind = kind
        self.input_shape = KINDS[kind][0]
        if form == "subclassed":
            self.learner = SubclassedNetwork(kind, outputs, width)
            self.pairs = list(zip(self.learner.blocks, self.learner.parts))
            self.learner(self._input())
            return
        self.pairs = layers_of(kind, outputs, width)
        blocks = {block.split(" ")[0] for block, _ in self.pairs}
        is_chain = not blocks & {"context", "join", "dense*"}
        if form == "sequential" and is_chain:
            chain = [keras.Input(self.input_shape, dtype=self.dtype)]
            for block, layer in self.pairs:
                chain.append(layer)
                if " " in block:
                    chain.append(
                        keras.layers.Activation(block.partition(" ")[2])
                    )
            self.learner = keras.Sequential(chain)
            return
        x = self._input()
        if form == "nested" and len(self.pairs) > 1:
            inner = keras.Model(x, run_layers(self.pairs[:-1], x), name="body")
            y = run_layers(self.pairs[-1:], inner(x))
        else:
            y = run_layers(self.pairs, x)
        self.learner = keras.Model(x, y)

    @property
    def dtype(self):
        is_integer = any(block == "embedding" for block in KINDS[self.kind][1])
        return "int32" if is_integer else keras.backend.floatx()

    def _input(self):
        if self.kind == "two_inputs":
            return {
                key: keras.Input(self.input_shape, dtype=self.dtype, name=key)
                for key in ("a", "b")
            }
        return keras.Input(self.input_shape, dtype=self.dtype)

    # -- The same without Keras

    def forward(self, values, x, *, batch_statistics, momentum=None):
        """Computes the outputs for given values of the variables.

        Args:
            values: dict from `id(variable)` to a tensor; other variables have
                their own value.
            x: tensor, or a dict of them.
            batch_statistics: bool, what batch normalisation uses, if it is
                not frozen.
            momentum: float that replaces the layers' momentum, or `None`.

        Returns:
            `(outputs, statistics)`, the second a dict such as `values`.
        """

        def read(variable):
            value = values.get(id(variable))
            return tf.convert_to_tensor(variable) if value is None else value

        statistics = {}
        for block, layer in self.pairs:
            name, _, activation = block.partition(" ")
            name = name.rstrip("!*")
            if name == "batch_norm" or name == "batch_norm_plain":
                x, new = _batch_norm(
                    layer,
                    read,
                    x,
                    batch_statistics and layer.trainable,
                    momentum,
                )
                statistics.update(new)
            else:
                x = _plain(name, layer, read, x)
            if activation:
                x = _ACTIVATIONS[activation](x)
        return x, statistics

    def regularization(self, values):
        """Returns the sum of the regularisers."""
        total = 0.0
        for block, layer in self.pairs:
            if block.startswith("dense_l2"):
                kernel = values.get(id(layer.kernel), layer.kernel)
                total += L2 * tf.reduce_sum(tf.square(kernel))
        return total


def _batch_norm(layer, read, x, use_batch, momentum):
    mean, variance = read(layer.moving_mean), read(layer.moving_variance)
    new = {}
    if use_batch:
        axes = list(range(x.shape.rank - 1))
        batch_mean = tf.reduce_mean(x, axes)
        batch_variance = tf.reduce_mean((x - batch_mean) ** 2, axes)
        rate = layer.momentum if momentum is None else momentum
        new = {
            id(layer.moving_mean): mean * rate + batch_mean * (1 - rate),
            id(layer.moving_variance): variance * rate
            + batch_variance * (1 - rate),
        }
        mean, variance = batch_mean, batch_variance
    x = (x - mean) / tf.sqrt(variance + EPSILON)
    if layer.scale:
        x = x * read(layer.gamma) + read(layer.beta)
    return x, new


def _plain(name, layer, read, x):
    if name in ("dense", "dense_l2", "head"):
        return tf.matmul(x, read(layer.kernel)) + read(layer.bias)
    if name == "layer_norm":
        mean = tf.reduce_mean(x, -1, keepdims=True)
        variance = tf.reduce_mean((x - mean) ** 2, -1, keepdims=True)
        x = (x - mean) / tf.sqrt(variance + EPSILON)
        return x * read(layer.gamma) + read(layer.beta)
    if name == "conv":
        return tf.nn.conv2d(x, read(layer.kernel), 1, "SAME") + read(layer.bias)
    if name == "conv1d":
        # Steps 0 and 2 of five, each a product of two columns.
        kernel = read(layer.kernel)
        rows = [x[:, i : i + 2] for i in (0, 2)]
        return tf.stack(
            [tf.einsum("bkc,kcd->bd", row, kernel) for row in rows], 1
        ) + read(layer.bias)
    if name in ("pool", "pool1d"):
        return tf.reduce_mean(x, list(range(1, x.shape.rank - 1)))
    if name == "flatten":
        return tf.reshape(x, [x.shape[0], -1])
    if name == "embedding":
        # A product, so that derivatives are dense.
        table = read(layer.embeddings)
        return tf.matmul(tf.one_hot(x, VOCABULARY, dtype=table.dtype), table)
    if name == "context":
        context = read(layer.context)
        context = tf.broadcast_to(context, [x.shape[0], context.shape[0]])
        return tf.concat([x, context], -1)
    if name == "join":
        return tf.concat([x["a"], x["b"]], -1)
    if name in ("simple_rnn", "lstm", "gru"):
        return _recurrent(name, layer.cell, read, x)
    # Dropout is off, or the case is not compared with the reference.
    return _ACTIVATIONS.get(name, lambda x: x)(x)


def _recurrent(name, cell, read, x):
    kernel, recurrent = read(cell.kernel), read(cell.recurrent_kernel)
    bias = read(cell.bias)
    units = recurrent.shape[0]
    h = c = tf.zeros([x.shape[0], units], x.dtype)
    for t in range(x.shape[1]):
        now = x[:, t]
        if name == "simple_rnn":
            h = tf.tanh(now @ kernel + bias + h @ recurrent)
        elif name == "lstm":
            z = now @ kernel + h @ recurrent + bias
            i, f, g, o = tf.split(z, 4, -1)
            c = tf.sigmoid(f) * c + tf.sigmoid(i) * tf.tanh(g)
            h = tf.sigmoid(o) * tf.tanh(c)
        else:
            from_x = tf.split(now @ kernel + bias[0], 3, -1)
            from_h = tf.split(h @ recurrent + bias[1], 3, -1)
            z = tf.sigmoid(from_x[0] + from_h[0])
            r = tf.sigmoid(from_x[1] + from_h[1])
            new = tf.tanh(from_x[2] + r * from_h[2])
            h = z * h + (1 - z) * new
    return h
