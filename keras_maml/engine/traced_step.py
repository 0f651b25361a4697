"""An inner step that is traced once, for all steps of an inner loop."""

import tensorflow as tf

from keras_maml import keras_internals
from keras_maml import tensorflow_internals


class TracedStep:
    """A step and its derivative, as two functions that a graph calls.

    An unrolled step adds its operations to the graph, and its derivative adds
    several times as many. TensorFlow optimises all of them. This step adds a
    call, and its derivative another. TensorFlow does not inline these: its
    memory optimiser breaks large sums in a loop that it sees inlined
    ("tmp_var ... already exists").

    Args:
        step: function `(number, carry, frozen)` that returns
            `(carry, scalars)`. `carry` is a tuple that ends with the learner's
            state, which has no derivative, and `scalars` is a list of scalars.
        carry: the carry before a step. The one after it has the same structure.
        frozen: list of tensors that the steps do not change.
        is_derived: bool. Whether to trace the derivative. Defaults to whether
            a `tf.GradientTape` watches the carry or `frozen`.

    Attributes:
        width: int, the length of the flat carry.
        changed: list of ints, the positions in the flat carry of what a step
            changes.
        sources: list of ints, the positions of the inputs that a derivative is
            for. The inputs are the flat carry, followed by `frozen`.
        targets: list of ints, the positions of the outputs that have a
            derivative. The outputs are the flat carry, followed by the scalars.
        scalar_dtypes: list with the dtype of each scalar.
    """

    def __init__(self, step, carry, frozen, is_derived=None):
        self._step = step
        self._structure = carry
        inputs = self.inputs(carry, frozen)
        self.width = len(inputs) - len(frozen)
        state_start = self.width - len(tf.nest.flatten(carry[-1]))
        self.sources = [
            i
            for i, tensor in enumerate(inputs)
            if tensor.dtype.is_floating and not state_start <= i < self.width
        ]
        if is_derived is None:
            is_derived = tensorflow_internals.is_watched(
                [inputs[i] for i in self.sources]
            )
        self._is_derived = is_derived
        self._forward = tf.function(
            self._trace, autograph=False
        ).get_concrete_function(
            tf.TensorSpec([], tf.int32),
            [tf.TensorSpec(t.shape, t.dtype) for t in inputs],
        )
        self._call_forward = keras_internals.out_of_line(
            lambda number, inputs: self._forward(number, inputs)
        )
        self._call_backward = keras_internals.out_of_line(self.backward)

    def __call__(self, number, carry, frozen):
        """Takes a step, which has exact derivatives of any order."""
        inputs = self.inputs(carry, frozen)
        # For each constant, TensorFlow would make, and optimise, a function of
        # its own.
        number = tf.compat.v1.placeholder_with_default(number, [])
        computed, saved = self._call_forward(number, inputs)
        outputs = self._outputs(computed, inputs)
        if self._is_derived:
            results = self._with_gradient(
                [outputs[i] for i in self.targets],
                [inputs[i] for i in self.sources],
                saved,
            )
            for i, result in zip(self.targets, results):
                outputs[i] = result
        return self.pack(outputs)

    def derived(self, inputs):
        """Returns a step that has been traced with its derivative."""
        if self._is_derived:
            return self
        carry, frozen = self.pack(inputs)
        return TracedStep(self._step, carry, frozen, is_derived=True)

    def inputs(self, carry, frozen):
        """Returns the list of a step's inputs."""
        flat = [*tf.nest.flatten(carry), *frozen]
        return [tf.convert_to_tensor(tensor) for tensor in flat]

    def pack(self, outputs):
        """Returns `(carry, rest)`, from a list that begins with a carry."""
        carry = tf.nest.pack_sequence_as(self._structure, outputs[: self.width])
        return carry, outputs[self.width :]

    def forward(self, number, inputs):
        """Takes a step, as a call that TensorFlow inlines.

        Returns:
            A tuple `(outputs, saved)`: the list of outputs, and what `backward`
            needs. What the step does not change is the input itself.
        """
        computed, saved = self._forward(number, inputs)
        return self._outputs(computed, inputs), saved

    def backward(self, saved, d_targets):
        """Returns a gradient or `None` for each of `sources`."""
        gradients = iter(
            tensorflow_internals.call_with_captured(
                self._backward, d_targets, list(saved)
            )
        )
        return [
            next(gradients) if is_connected else None
            for is_connected in self._connected
        ]

    def _outputs(self, computed, inputs):
        """Returns the outputs, of which a trace has only what changes."""
        outputs = [*inputs[: self.width], *computed[len(self.changed) :]]
        for i, tensor in zip(self.changed, computed):
            outputs[i] = tensor
        return outputs

    def _trace(self, number, inputs):
        sources = [inputs[i] for i in self.sources]
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            if self._is_derived:
                tape.watch(sources)
            carry, scalars = self._step(number, *self.pack(inputs))
            outputs = [tf.convert_to_tensor(t) for t in tf.nest.flatten(carry)]
        self.changed = [
            i
            for i, (before, after) in enumerate(zip(inputs, outputs))
            if after is not before
        ]
        self.scalar_dtypes = [scalar.dtype for scalar in scalars]
        outputs += scalars
        self.targets = [
            i
            for i, tensor in enumerate(outputs)
            if tensor.dtype.is_floating
            and tensor.op.type not in ("Const", "StopGradient")
            and (i in self.sources and i in self.changed or i >= self.width)
        ]
        saved = []
        if self._is_derived:
            saved = self._trace_backward(
                tape, [outputs[i] for i in self.targets], sources
            )
        return [outputs[i] for i in self.changed] + scalars, saved

    def _trace_backward(self, tape, targets, sources):
        """Traces the derivative, and returns the tensors that it needs."""

        def backward(d_targets):
            gradients = tape.gradient(targets, sources, d_targets)
            self._connected = [gradient is not None for gradient in gradients]
            return [tf.convert_to_tensor(g) for g in gradients if g is not None]

        self._backward = tf.function(
            backward, autograph=False
        ).get_concrete_function(
            [tf.TensorSpec(t.shape, t.dtype) for t in targets]
        )
        return self._backward.captured_inputs

    def _with_gradient(self, targets, sources, saved):
        """Returns `targets`, with the gradient that `backward` gives.

        All tensors are arguments, so that further derivatives go through what
        was saved.
        """
        first, last = len(targets), len(targets) + len(sources)

        @tensorflow_internals.custom_gradient
        def results(*tensors):
            def gradient(*d_targets):
                gradients = self._call_backward(tensors[last:], d_targets)
                return [None] * first + gradients + [None] * len(saved)

            return list(tensors[:first]), gradient

        return results(*targets, *sources, *saved)
