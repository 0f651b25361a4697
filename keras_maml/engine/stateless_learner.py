"""Adaptation as a function from a support set to named weights."""

import re

import keras
import tensorflow as tf

from keras_maml import keras_internals
from keras_maml.engine import prototypes
from keras_maml.engine import seeds
from keras_maml.engine.adapted_task import AdaptedTask

HEAD = ("head_kernel", "head_bias")
STEPS = "inner_steps"


class StatelessLearner:
    """`adapt` and `predict` of a `MetaModel`, as functions of tensors alone.

    `adapt` returns the weights of a task by name, and `predict` takes them.
    They are all that a prediction needs beside θ:

    - `weight_3_kernel`: a weight that adapts, or a statistic that the support
      set gives. The number is the position in `learner.weights`, and the rest
      is the name that the layer gave the variable.
    - `head_kernel`, `head_bias`: the head that started from prototypes.
    - `inner_steps`: the number of steps taken, if predictions depend on it, as
      with `normalization="per_step"`.
    - `seed_0`: the seed of a layer that draws random numbers in a prediction.
      The number is the position among the seeds of the learner.

    Args:
        meta_model: a built `MetaModel`.
        signature: dict from `"support_x"`, `"support_y"` and `"query_x"` to
            structures of specs with a `shape` and a `dtype`, with the axes of
            tasks and examples.
        n_way: int, the number of classes if the head starts from prototypes.
            Defaults to the largest label plus one.
        steps: int, the number of inner steps of every task. `None` if
            `adapt` gets it.

    Attributes:
        specs: dict from each name to the `tf.TensorSpec` of one task's value.
    """

    def __init__(self, meta_model, signature, n_way=None, steps=None):
        self._meta_model = meta_model
        self._state = meta_model.meta_state
        self._learner = meta_model.learner
        self._n_way = n_way
        self._positions = self._state.positions()
        names = _names(self._learner)
        variables = self._learner.trainable_variables
        moving = [] if steps == 0 else self._positions
        self._weight_names = {i: names[id(variables[i])] for i in moving}
        self.specs = {
            self._weight_names[i]: _spec(variables[i]) for i in moving
        }
        needed, needs_steps, features = self._needed(signature)
        variables = self._learner.non_trainable_variables
        self._state_names = {i: names[id(variables[i])] for i in needed}
        for i, name in self._state_names.items():
            self.specs[name] = _spec(variables[i])
        if meta_model.head_init is not None:
            floatx = keras.backend.floatx()
            self.specs[HEAD[0]] = tf.TensorSpec((features, n_way), floatx)
            self.specs[HEAD[1]] = tf.TensorSpec((n_way,), floatx)
        if needs_steps and steps is None:
            self.specs[STEPS] = tf.TensorSpec((), tf.int32)
        self._traces = {}

    def adapt(self, x, steps=None):
        """Learns one task.

        Args:
            x: dict of tensors, the support set of one task: `"support_x"`,
                `"support_y"` and optionally `"support_weight"`.
            steps: optional integer tensor, the number of inner steps. Defaults
                to the model's `evaluation_steps`, which the graph then has one
                after the other.

        Returns:
            A dict of tensors of the form of `specs`.
        """
        tasks = self._tasks({"x": tf.nest.map_structure(_with_axis, x)}, steps)
        task = tf.nest.map_structure(lambda t: t[0], tasks)
        return self._adapt(self._state.theta(), task)

    def predict(self, query_x, weights):
        """Returns the outputs for queries of one task.

        Args:
            query_x: structure of tensors `(Q, ...)`.
            weights: dict of tensors, as `adapt` returns it.
        """
        return self._predict(self._state.theta(), query_x, weights)

    def _predict(self, theta, query_x, weights):
        learner = self._task_learner()
        values = list(learner.task_start(theta).weights)
        for i, name in self._weight_names.items():
            values[i] = weights[name]
        state = {i: weights[name] for i, name in self._state_names.items()}
        task = self._task(learner, theta, values, state)
        head = tuple(weights[name] for name in HEAD if name in weights)
        step = weights.get(STEPS, learner.steps)
        task = task._replace(head=head, step=step)
        return learner.predict_alone(task, query_x).outputs

    def adapt_tasks(self, x, steps=None):
        """As `adapt`, of tensors with a leading axis of tasks."""
        theta = self._state.theta()

        def adapt(task):
            return self._call(self._adapt, theta, task), ()

        return self._map(adapt, self._tasks({"x": x}, steps))

    def predict_tasks(self, query_x, weights):
        """As `predict`, of tensors with a leading axis of tasks."""
        theta = self._state.theta()

        def predict(task):
            query, weights = task["query_x"], task["weights"]
            return self._call(self._predict, theta, query, weights), ()

        return self._map(predict, {"query_x": query_x, "weights": weights})

    def adapt_and_predict_tasks(self, x, query_x):
        """Returns the weights of `adapt_tasks`, and the outputs for queries."""
        theta = self._state.theta()

        def adapt_and_predict(task):
            weights = self._call(self._adapt, theta, task["support"])
            outputs = self._call(self._predict, theta, task["query_x"], weights)
            return (weights, outputs), ()

        tasks = {"support": self._tasks({"x": x}), "query_x": query_x}
        return self._map(adapt_and_predict, tasks)

    def _call(self, function, *arguments):
        """Calls a function that is traced once, for all graphs.

        A `tf.function` is traced twice, in case that it makes variables.
        """
        specs = tf.nest.map_structure(
            lambda t: tf.TensorSpec(t.shape, t.dtype), arguments
        )
        # Not the structure: dicts that are equal may have another order.
        key = f"{function.__name__} {tf.nest.flatten(specs)}"
        if key not in self._traces:
            self._traces[key] = tf.function(
                function, autograph=False
            ).get_concrete_function(*specs)
        return self._traces[key](*arguments)

    def _map(self, function, tasks):
        return self._meta_model.map_tasks(function, tasks)[0]

    def _tasks(self, tasks, steps=None):
        """Returns what `_adapt` needs of each task."""
        labels = tasks["x"]["support_y"]
        first = tf.nest.flatten(labels)[0]
        count = first.shape[0] or tf.shape(first)[0]
        tasks["number"] = seeds.task_numbers(count)
        if steps is not None:
            tasks["steps"] = tf.broadcast_to(steps, [count])
        if self._meta_model.head_init is not None and self._n_way is None:
            # Heads of one width can be stacked.
            n_way = prototypes.count_classes(labels)
            tasks["n_way"] = tf.broadcast_to(n_way, [count])
        return tasks

    def _adapt(self, theta, task):
        task = dict(task)
        learner = self._task_learner(task.pop("n_way", None))
        adapted = learner.adapt(theta, task)
        adapted = learner.with_query_statistics(adapted)
        weights = {
            name: adapted.weights[i] for i, name in self._weight_names.items()
        }
        variables = self._learner.non_trainable_variables
        for i, name in self._state_names.items():
            value = adapted.state.get(i, variables[i].value)
            weights[name] = tf.convert_to_tensor(value)
        weights.update(zip(HEAD, adapted.head))
        if STEPS in self.specs:
            weights[STEPS] = tf.cast(adapted.step, tf.int32)
        return weights

    def _task_learner(self, n_way=None):
        return self._state.task_learner(
            training=False, n_way=self._n_way if n_way is None else n_way
        )

    def _task(self, learner, theta, weights, state):
        return AdaptedTask(
            weights=weights,
            head=(),
            scales=theta.scales,
            state={**self._state.statistics_values(), **state},
            step=learner.steps,
            support_x=None,
            positions=self._positions,
        )

    def _needed(self, signature):
        """Finds out what a prediction needs beside the adapted weights.

        Returns:
            A tuple of the positions of the state that the support set changes
            and that predictions depend on, whether they depend on the number
            of steps, and the number of the learner's outputs.
        """
        variables = self._learner.non_trainable_variables
        candidates = [
            i for i in range(len(variables)) if i not in self._state.statistics
        ]
        if not variables and self._meta_model.head_init is None:
            return [], False, None
        support, query = (
            tf.nest.map_structure(_without_tasks, signature[key])
            for key in ("support_x", "query_x")
        )
        changed = set(seeds.seed_positions(self._learner))

        def probe(support_x, query_x, step, *state):
            learner, theta = self._task_learner(), self._state.theta()
            weights = learner.task_start(theta).weights
            task = self._task(learner, theta, weights, {})
            on_support = learner.call(
                task, 0, support_x, learner.batch_statistics
            )
            changed.update(on_support.state)
            state = dict(zip(candidates, state))
            task = self._task(learner, theta, weights, state)
            task = task._replace(step=step)
            return learner.predict_alone(task, query_x).outputs

        function = tf.function(probe, autograph=False).get_concrete_function(
            support,
            query,
            tf.TensorSpec((), tf.int32),
            *(_spec(variables[i]) for i in candidates),
        )
        reached = _operations_before(function.outputs)
        first = len(tf.nest.flatten([support, query]))
        step, *state = [
            tensor.op in reached
            for tensor in function.inputs[first : first + 1 + len(candidates)]
        ]
        needed = [
            i
            for i, is_reached in zip(candidates, state)
            if is_reached and i in changed
        ]
        return needed, step, function.outputs[0].shape[-1]


def _names(learner):
    """Returns the name of each variable, by its `id`."""
    names = {}
    for i, variable in enumerate(learner.weights):
        # Keras numbers the names that it makes up anew in each process.
        name = re.sub(r"^variable_\d+$", "variable", variable.name)
        name = re.sub(r"\W", "_", name, flags=re.ASCII)
        names[id(variable)] = f"weight_{i}_{name}"
    for i, variable in enumerate(keras_internals.seed_variables(learner)):
        names[id(variable)] = f"seed_{i}"
    return names


def _spec(variable):
    return tf.TensorSpec(variable.shape, variable.dtype)


def _with_axis(tensor):
    return tensor[tf.newaxis]


def _without_tasks(spec):
    return tf.TensorSpec(spec.shape[1:], spec.dtype)


def _operations_before(tensors):
    """Returns the operations of a graph that tensors are computed from."""
    found = set()
    ahead = [tensor.op for tensor in tensors]
    while ahead:
        operation = ahead.pop()
        if operation not in found:
            found.add(operation)
            ahead += [tensor.op for tensor in operation.inputs]
    return found
