"""Everything that is asked of the episodes of one meta-batch, in one pass."""

import tensorflow as tf

from keras_maml import keras_internals
from keras_maml.engine import bad_tasks
from keras_maml.engine import contract
from keras_maml.engine import functional
from keras_maml.engine import normalization
from keras_maml.engine import seeds
from keras_maml.engine import targets
from keras_maml.engine import weightless
from keras_maml.engine.building import build_outside_trace
from keras_maml.engine.class_predictions import class_predictions
from keras_maml.engine.compiled_loss import compiled_loss

# Which statistics can stand in the place of which: the inner loop is the same.
OTHER_STATISTICS = {"transductive": "support", "support": "transductive"}


class EpisodeScorer:
    """A function of a meta-batch that scores each of its episodes.

    Args:
        meta_model: a compiled `MetaModel`.
        steps: int, the number of inner steps.
        visit: function `(task, adapted, outputs)` that returns a dict of more
            tensors to collect before the first inner step and after each:
            `task` is a dict, `adapted` an `AdaptedTask`, and `outputs` are the
            predictions of its queries.

    Attributes:
        names: list of strings, `"loss"` and the names of the compiled
            metrics. Known after the first call.
        directions: dict from a name to `"up"` or `"down"`: where better
            values are. Unknown for functions that Keras does not know.
        other_statistics: the value of `normalization` that the queries are
            also predicted with, or `None`.
        classes: `ClassPredictions`, or `None`. Known after the first call.
    """

    def __init__(self, meta_model, steps, visit=lambda *_: {}):
        self._model = meta_model
        self._more = visit
        self.steps = steps
        self.names = []
        self.directions = {}
        self.classes = class_predictions(meta_model.loss)
        self.other_statistics = None
        if any(
            layer.trainable
            for layer in normalization.batch_normalization_layers(
                meta_model.learner
            )
        ):
            self.other_statistics = OTHER_STATISTICS.get(
                meta_model.normalization
            )

    def __call__(self, x, y, sample_weight=None):
        """Scores a meta-batch.

        Args:
            x: dict of tensors, the inputs of a meta-batch.
            y: structure of tensors, the targets of its queries.
            sample_weight: structure of tensors, or `None`.

        Returns:
            A dict of tensors, the first axis of which is the episode:

            - `"scores"`: `(T, steps + 1, names)`.
            - `"other"`: `(T, names)`, the scores after the last step with the
              other statistics.
            - `"bins"`: `(T, steps + 1, BINS, 3)`, see `ClassPredictions`.
            - `"n_way"`: `(T,)`, the number of classes of the support set.
            - `"support_loss"`, `"gradient_norm"`, `"step_length"`:
              `(T, steps)`, see `adaptation_path`.
            - `"finite"`: `(T,)`, whether all of it is finite.
            - `"counts"`: `(T,)`, whether a query has a weight.
            - `"complete"`: `(T,)`, whether all queries have one.
            - what `visit` returns, `(T, steps + 1, ...)`.
        """
        model = self._model
        x = contract.check_inputs(x)
        y, sample_weight = contract.check_targets(x, y, sample_weight)
        if not model.built:
            model.build(tf.nest.map_structure(lambda t: tuple(t.shape), x))
        x, y = targets.checked(model, x, y, sample_weight)
        count = tf.shape(tf.nest.flatten(y)[0])[0]
        tasks = {"x": x, "y": y, "number": seeds.task_numbers(count)}
        counts = complete = tf.fill([count], True)
        if sample_weight is not None:
            tasks["sample_weight"] = sample_weight
            counts, complete = weightless.tasks_with_weight(sample_weight)
        theta = model.meta_state.theta()
        learner = self._task_learner(x, None)
        other = None
        if self.other_statistics is not None:
            other = self._task_learner(x, self.other_statistics)
        results, _ = model.map_tasks(
            lambda task: (self._episode(theta, task, learner, other), ()),
            tasks,
        )
        return {**results, "counts": counts, "complete": complete}

    def _task_learner(self, x, statistics):
        return self._model.meta_state.task_learner(
            training=False,
            steps=self.steps,
            support_y=x["support_y"],
            normalization=statistics,
        )

    def _episode(self, theta, task, learner, other):
        query_x = task["x"]["query_x"]
        results, facts, adapted = learner.path(
            theta,
            task,
            lambda adapted: self._visit(
                task, adapted, learner.predict(adapted, query_x)
            ),
        )
        results |= facts
        if other is not None:
            output = other.predict(adapted, query_x)
            results["other"] = self._scores(task, output)
        if self.classes is not None:
            results["n_way"] = results["n_way"][0]
        # TensorFlow's kernels may turn NaN into 0 on the way to a score.
        sources = [bad_tasks.learned_from(task["x"]), query_x, task["y"]]
        sources += [bad_tasks.moved(adapted), results]
        return {**results, "finite": bad_tasks.all_finite(sources)}

    def _visit(self, task, adapted, output):
        visited = {
            "scores": self._scores(task, output),
            **self._more(task, adapted, output.outputs),
        }
        if self.classes is not None and not self.classes.fit(
            tf.nest.flatten(output.outputs)[0]
        ):
            self.classes = None
        if self.classes is not None:
            y, outputs, weight = (
                tf.nest.flatten(values)[0]
                for values in (
                    task["y"],
                    output.outputs,
                    task.get("sample_weight"),
                )
            )
            visited["bins"] = self.classes.bins(y, outputs, weight)
            visited["n_way"] = self.classes.count(
                task["x"]["support_y"],
                task["x"].get("support_weight"),
                outputs,
            )
        return visited

    def _scores(self, task, output):
        """Returns the loss and the metrics of a task's queries, `(names,)`."""
        loss = compiled_loss(self._model, task, output, training=False)
        values = {"loss": loss, **self._metrics(task, output.outputs)}
        for name, value in values.items():
            if value.shape.rank:
                raise ValueError(
                    "Each compiled metric must be one number. Received: "
                    f"the metric {name!r} of shape {tuple(value.shape)}"
                )
        self.names = list(values)
        return tf.stack([tf.cast(v, tf.float32) for v in values.values()])

    def _metrics(self, task, outputs):
        metrics = keras_internals.compiled_metrics(self._model)
        if metrics is None:
            return {}
        # Metrics see tasks, as in `evaluate`.
        y, y_pred, weight = tf.nest.map_structure(
            lambda t: t[tf.newaxis],
            (task["y"], outputs, task.get("sample_weight", ())),
        )
        masks = functional.masks(outputs)
        functional.set_masks(
            y_pred, {i: mask[tf.newaxis] for i, mask in masks.items()}
        )
        if not metrics.built:
            build_outside_trace(metrics, y, y_pred)
        # Without variables: tasks run side by side.
        state = metrics.stateless_reset_state()
        state = metrics.stateless_update_state(
            state, y, y_pred, weight if "sample_weight" in task else None
        )
        values = metrics.stateless_result(state)
        self.directions = {
            name: keras_internals.direction(metric)
            for name, metric in zip(values, metrics.metrics)
        }
        return values
