"""Runs a case, and compares it with the slow reference."""

import dataclasses
import re
import time

import keras
import numpy as np
import tensorflow as tf

from tests.fuzz import cases
from tests.fuzz import faults
from tests.fuzz.fills import filled
from tests.fuzz.plain_maml import PlainMaml

MAX_SECONDS = 60
EQUAL, REFUSED = "equal", "refused"

# In these, XLA runs the tasks of every learner.
_XLA_MODES = ("xla", "vectorized", "compiled")

# Of the norm of what is compared, in the dtype of the case.
_TOLERANCE = {"float64": 1e-6, "float32": 2e-3}


def check(case):
    """Raises `AssertionError` unless a case is right or refused by name.

    Returns:
        `EQUAL` or `REFUSED`.
    """
    before = keras.config.floatx(), keras.config.dtype_policy()
    start = time.process_time()
    try:
        outcome = _check(case)
    finally:
        keras.config.set_floatx(before[0])
        keras.config.set_dtype_policy(before[1])
        keras.utils.clear_session(free_memory=False)
    # Of all threads; another process may have the machine meanwhile.
    seconds = time.process_time() - start
    assert seconds < MAX_SECONDS, f"{seconds:.0f} s: {case}"
    return outcome


def _check(case):
    try:
        network, model = cases.make(case)
    except ValueError as error:
        return _refused(case, error)
    batch = cases.data(case, network)
    if case.fault:
        wrong = faults.with_fault(case.fault, *batch)
        if wrong is not None:
            return _check_fault(case, network, model, batch, wrong)
    run = _Run(case, network, model, batch)
    for call in case.calls:
        run.expect(call)
        try:
            actual = run.actual(call)
        except (ValueError, tf.errors.InvalidArgumentError) as error:
            return _refused(case, error)
        run.compare(call, actual)
    return EQUAL


def _check_fault(case, network, model, batch, wrong):
    """A step with wrong data is refused, and changes nothing."""
    before = model.get_weights()
    if case.fault in faults.NOT_FINITE:
        return _check_not_finite(case, network, model, batch, wrong, before)
    try:
        train_on_batch(model, wrong)
    except (ValueError, tf.errors.InvalidArgumentError) as error:
        _assert_same(case, "weights", model.get_weights(), before)
        return _refused(case, error)
    raise AssertionError(f"{case.fault!r} was not refused: {case}")


def _check_not_finite(case, network, model, batch, wrong, before):
    """The last task is left out, or refused with nothing changed."""
    if case.bad_tasks == "skip" and case.tasks > 1:
        batch = tf.nest.map_structure(
            lambda t: None if t is None else t[:-1], batch
        )
    else:
        # Right only where the number makes no difference.
        batch = wrong
    run = _Run(case, network, model, batch)
    run.expected = np.nan, []
    if not run.is_random:
        run.expect("train_on_batch")
    elif batch is not wrong:
        run.expected = run.eager_training("train_on_batch")
    try:
        actual = train_on_batch(model, wrong)
    except (ValueError, tf.errors.InvalidArgumentError) as error:
        _assert_same(case, "weights", model.get_weights(), before)
        return _refused(case, error)
    assert np.isfinite(run.expected[0]), f"Trained on {case.fault}: {case}"
    run.compare("train_on_batch", actual)
    return EQUAL


def _refused(case, error):
    """Checks that an error names an argument and says what was received."""
    text = str(error)
    assert re.search("`[^`]+`", text), f"No argument is named: {case}\n{text}"
    assert "Received" in text, f"Nothing was received: {case}\n{text}"
    return REFUSED


def train_on_batch(model, batch):
    """Returns the loss of a step, as a float."""
    x, y, weight = batch
    logs = model.train_on_batch(x, y, sample_weight=weight, return_dict=True)
    return float(logs["loss"])


class _Run:
    """The calls of a case, one after another, on one model."""

    def __init__(self, case, network, model, batch):
        self.case = case
        self.model = model
        self.batch = batch
        self.plain = PlainMaml(network, model, cases.Settings(case))
        # Half precision is not the reference's. It draws no random numbers:
        # dropout in training is compared with that of eager execution.
        self.is_half = case.policy is not None
        self.is_random = case.kind == "dropout"

    def expect(self, call):
        """Keeps what the reference says that a call returns."""
        x, y, weight = self.batch
        filled_x = filled(x, None, None)[0]
        if call in ("train_on_batch", "fit"):
            # Dropout: what an eager model does, see `actual`.
            if not self.is_random:
                self.expected = self._reference_training(call)
        elif call == "evaluate":
            self.expected = self.plain.evaluate(*filled(x, y, weight)).loss
        elif call == "adapt":
            self.expected = self.plain.adapted_predictions(filled_x, 0)
        else:
            self.expected = self.plain.evaluate(filled_x, y, None).predictions

    def actual(self, call):
        """Calls the library."""
        x, y, weight = self.batch
        size = self.case.batch_size
        if call in ("train_on_batch", "fit"):
            if self.is_random:
                self.expected = self.eager_training(call)
            return self._training(call)
        if call == "evaluate":
            return self.model.evaluate(
                x,
                y,
                sample_weight=weight,
                batch_size=size,
                verbose=0,
                return_dict=True,
            )["loss"]
        if call == "predict":
            return self.model.predict(x, batch_size=size, verbose=0)
        if call == "call":
            return self.model(x).numpy()
        support = [
            None
            if key not in x
            else tf.nest.map_structure(lambda t: t[0], x[key])
            for key in ("support_x", "support_y", "support_weight")
        ]
        adapted = self.model.adapt(*support[:2], support_weight=support[2])
        query = tf.nest.map_structure(lambda t: t[0], x["query_x"])
        return adapted(query, training=False).numpy()

    def _training(self, call):
        """Trains the model, and returns the loss."""
        if call == "train_on_batch":
            return train_on_batch(self.model, self.batch)
        x, y, weight = self.batch
        history = self.model.fit(
            x,
            y,
            sample_weight=weight,
            batch_size=self.case.batch_size,
            shuffle=False,
            verbose=0,
        )
        return history.history["loss"][0]

    def compare(self, call, actual):
        if call not in ("train_on_batch", "fit"):
            self._assert_near(call, [actual], [self.expected])
            return
        loss, variables = self.expected
        if self.is_half and call == "fit":
            return
        if self.is_random and self.case.mode in _XLA_MODES:
            # XLA draws other numbers from the same seeds.
            return
        self._assert_near("loss", [actual], [loss])
        if self.is_half:
            return
        start, end = self.start, [v.numpy() for v in self._variables()]
        # Plain gradient descent with the rate 1.
        self._assert_near(
            "meta-gradient and state",
            [b - a for a, b in zip(end, start)],
            [b - a for a, b in zip(variables, start)],
        )

    def _variables(self):
        theta = self.model.meta_state.variables()
        return [*tf.nest.flatten(theta), *self._state_variables()]

    def _state_variables(self):
        learner = self.model.learner
        replaced = self.model.meta_state.statistics
        return [
            replaced.get(i, v)
            for i, v in enumerate(learner.non_trainable_variables)
            if "float" in str(v.dtype)
        ]

    def _reference_training(self, call):
        """Returns the loss and the variables after training, and undoes it."""
        x, y, weight = self.batch
        size = self.case.batch_size if call == "fit" else len(y)
        self.start = [v.numpy() for v in self._variables()]
        iterations = int(self.model.optimizer.iterations)
        losses = []
        for first in range(0, len(y), size):
            part = tf.nest.map_structure(
                lambda t, i=first: None if t is None else t[i : i + size],
                self.batch,
            )
            step = self.plain.train(*filled(*part))
            losses.append(step.loss * len(part[1]))
            self._assign(step)
            self.model.optimizer.iterations.assign_add(1)
        end = [v.numpy() for v in self._variables()]
        for variable, value in zip(self._variables(), self.start):
            variable.assign(value)
        self.model.optimizer.iterations.assign(iterations)
        return sum(losses) / len(y), end

    def eager_training(self, call):
        """Returns the same as `_reference_training`, of an eager model."""
        eager = dataclasses.replace(self.case, mode="eager", task_map="loop")
        network, model = cases.make(eager)
        run = _Run(eager, network, model, self.batch)
        self.start = [v.numpy() for v in self._variables()]
        loss = run._training(call)
        return loss, [v.numpy() for v in run._variables()]

    def _assign(self, step):
        theta = tf.nest.flatten(self.model.meta_state.variables())
        for variable, gradient in zip(theta, step.gradients, strict=True):
            variable.assign(variable.numpy() - gradient)
        learner = self.model.learner
        replaced = self.model.meta_state.statistics
        for i, variable in enumerate(learner.non_trainable_variables):
            if id(variable) in step.state:
                replaced.get(i, variable).assign(step.state[id(variable)])

    def _assert_near(self, what, actual, expected):
        tolerance = 0.1 if self.is_half else _TOLERANCE[self.case.dtype]
        for a, e in zip(actual, expected, strict=True):
            assert np.shape(a) == np.shape(e), (
                f"{what} of shape {np.shape(a)}, not {np.shape(e)}: {self.case}"
            )
        actual, expected = (
            np.concatenate([np.ravel(v).astype("float64") for v in values])
            for values in (actual, expected)
        )
        if self.is_half and np.linalg.norm(expected) > 100:
            # Diverged: no digit of half precision is left.
            return
        error = np.linalg.norm(actual - expected)
        limit = tolerance * (np.linalg.norm(expected) + 1e-2)
        assert error <= limit, (
            f"{what}: {error:.2e} above {limit:.2e}: {self.case}\n"
            f"actual   {actual}\nexpected {expected}"
        )


def _assert_same(case, what, actual, expected):
    for a, e in zip(actual, expected, strict=True):
        np.testing.assert_array_equal(a, e, f"{what}: {case}")
