"""The state of a `MetaModel` beside its settings and its learner."""

import keras
import tensorflow as tf

from keras_maml import adaptation
from keras_maml.engine import bad_tasks
from keras_maml.engine import combinations
from keras_maml.engine import inner_loss
from keras_maml.engine import learner_checks
from keras_maml.engine import prototypes
from keras_maml.engine.per_step_norm import PerStepNorm
from keras_maml.engine.task_learner import TaskLearner
from keras_maml.theta import Theta
from keras_maml.validation import check_integer


class MetaState:
    """The state of one `MetaModel`, which Keras does not track.

    If the layers in `adapted_weights` were an attribute of the model, Keras
    would save them a second time. `MetaModel.add_weight` makes the variables
    of this class, so Keras saves them with the model.

    Args:
        meta_model: a `MetaModel`.
        adapted_weights: the argument of the model, which may hold layers.

    Attributes:
        built: bool. Whether the variables exist.
        parameters: list of variables, the inner optimizer's learned
            parameters.
        per_step_norm: a `PerStepNorm`, or `None`.
        scales: list of variables, the per-step scales and shifts.
        statistics: dict of variables, the per-step statistics, by position in
            the learner's state.
        input_signature: dict, the signature of the last meta-batch, for
            `export`. `None` before the first meta-batch.
        meta_gradient_for_now: a `MetaGradient` that replaces the model's
            setting for some epochs, see `FirstOrderUntil`; or `None`.
        task_losses: list of tensors, the learner's regularisers and
            `add_loss` terms in the task that is being traced; or `None`.
        bad_tasks: a `BadTasks`.
        skipped_tasks: the metric that counts tasks that are left out, or
            `None` with `bad_tasks="raise"`.
        output_shapes: dict, the shapes of the learner's outputs for inputs
            that were seen, see `targets`.
    """

    def __init__(self, meta_model, adapted_weights):
        self._meta_model = meta_model
        self.adapted_weights = adapted_weights
        self.built = False
        self.parameters = []
        self.per_step_norm = None
        self.scales = []
        self.statistics = {}
        self.input_signature = None
        self.meta_gradient_for_now = None
        self.task_losses = None
        self.bad_tasks = bad_tasks.BadTasks()
        self.skipped_tasks = None
        if meta_model.bad_tasks == "skip":
            self.skipped_tasks = keras.metrics.Sum(name="skipped_tasks")
        self.output_shapes = {}
        self._learner_variables = []
        self._saved_selection = None

    @property
    def meta_gradient(self):
        """Returns the `MetaGradient` in use."""
        return self.meta_gradient_for_now or self._meta_model.meta_gradient

    def build(self):
        """Makes the variables, once the learner is built."""
        model = self._meta_model
        # To raise now, and not in the middle of a trace.
        learner_checks.check_layers(model.learner)
        if not self.built:
            self.adapted_weights = adaptation.with_layers(
                self.adapted_weights, model.learner
            )
            if model.normalization == "per_step":
                self._build_per_step_norm()
            self.parameters = [
                model.add_weight(
                    shape=value.shape,
                    initializer=_FromArray(value),
                    name=f"inner_optimizer_{i}",
                )
                for i, value in enumerate(self._initial_parameters())
            ]
            self._learner_variables = _identities(model.learner)
            self.built = True
            self._check_selection()
        combinations.check_built(model, self.positions(), self.parameters)

    def check(self):
        """Raises `ValueError` if the variables no longer fit the settings.

        The number and order of the variables follow the learner's variables
        at the time when the model was built.
        """
        model = self._meta_model
        combinations.check(model)
        per_step = model.normalization == "per_step"
        wanted = [tuple(value.shape) for value in self._initial_parameters()]
        changed = per_step != (self.per_step_norm is not None) or wanted != [
            tuple(variable.shape) for variable in self.parameters
        ]
        if self.parameters or per_step:
            now = _identities(model.learner)
            changed = changed or now != self._learner_variables
        if changed:
            raise ValueError(
                "Learned rates and per-step normalisation belong to the "
                "variables that the learner had when the `MetaModel` was "
                "built. Freeze layers and set `inner_optimizer`, `inner_steps` "
                "and `normalization` before that. Received: changed variables "
                "or settings"
            )

    def positions(self):
        """Returns the positions of the trainable variables that adapt."""
        positions = adaptation.adapted_positions(
            self._meta_model.learner, self.adapted_weights
        )
        if self.per_step_norm is None:
            return positions
        # Only the outer loop moves the scales of each step.
        moving = [i for i in positions if i not in self.per_step_norm.scales]
        if not moving:
            raise ValueError(
                'With `normalization="per_step"`, only the outer loop moves '
                "the scales of batch normalisation, and `adapted_weights` "
                "selects nothing else. "
                f"Received: adapted_weights={self.adapted_weights!r}"
            )
        return moving

    def selection(self):
        """Returns which weights adapt, in the order of `learner.weights`.

        Returns:
            A string with `a` for each weight that adapts, `t` for each other
            trainable weight and `f` for each frozen weight. `None` if
            `adapted_weights` does not depend on names, or if the learner
            cannot adapt as it is now.
        """
        if not self.built or isinstance(self.adapted_weights, str):
            return None
        learner = self._meta_model.learner
        trainable = learner.trainable_variables
        try:
            adapted = {id(trainable[i]) for i in self.positions()}
        except ValueError:  # All of it is frozen.
            return None
        trainable = set(map(id, trainable))
        return "".join(
            "a" if id(v) in adapted else "t" if id(v) in trainable else "f"
            for v in learner.weights
        )

    def expect_selection(self, selection):
        """Makes sure that the weights adapt that did in a saved model.

        Args:
            selection: the `selection()` of the saved model.

        Raises:
            ValueError: if other weights adapt, now or once the model is built.
        """
        self._saved_selection = selection
        if self.built:
            self._check_selection()

    def _check_selection(self):
        saved, now = self._saved_selection, self.selection()
        if saved is None or now is None:
            return
        # Keras forgets what was frozen within a layer of the user's own.
        if len(saved) != len(now) or any(
            was != "f" and (was == "a") != (is_now == "a")
            for was, is_now in zip(saved, now)
        ):
            weights = [v.path for v in self._meta_model.learner.weights]
            raise ValueError(
                "`adapted_weights` selects other weights than in the model "
                "that was saved. Keras makes up names of layers, such as "
                '"dense_1", anew in each process. Pass a `name` to each layer '
                "that the learner's class makes, and look for that name. Make "
                "the `MetaModel` in code, call its `load_weights` with this "
                "file, and save it again. If you changed this config, set its "
                '"selection" to `None`. '
                f"Received: adapted_weights={self.adapted_weights!r}, which "
                f"selects {_adapted(weights, now)} in the place of "
                f"{_adapted(weights, saved)}"
            )

    def variables(self):
        """Returns the variables of θ, a `Theta`."""
        learner = self._meta_model.learner
        return Theta(
            list(learner.trainable_variables), self.parameters, self.scales
        )

    def theta(self):
        """Returns the values of θ, a `Theta` of tensors."""
        return tf.nest.map_structure(
            lambda variable: tf.convert_to_tensor(variable.value),
            self.variables(),
        )

    def statistics_values(self):
        """Returns the per-step statistics, by position in the state."""
        return {
            i: tf.convert_to_tensor(variable.value)
            for i, variable in self.statistics.items()
        }

    def task_learner(
        self,
        *,
        training,
        steps=None,
        support_y=None,
        n_way=None,
        support_loss=None,
        inner_batch_size=None,
        normalization=None,
    ):
        """Returns a `TaskLearner` with the current settings of the model.

        Args:
            training: bool, the `training` argument of the learner.
            steps: int, the number of inner steps. Defaults to `inner_steps`
                if `training`, and to `evaluation_steps` otherwise.
            support_y: tensor, the support targets of the meta-batch. If the
                head starts from prototypes, they tell the number of classes.
            n_way: integer tensor, the number of classes, in the place of
                `support_y`.
            support_loss: function, see `TaskLearner`. Defaults to the model's
                inner loss.
            inner_batch_size: int. Defaults to the model's.
            normalization: string. Defaults to the model's.
        """
        model = self._meta_model
        self.check()
        if steps is not None:
            check_integer("inner_steps", steps, minimum=0)
        elif training or model.evaluation_steps is None:
            steps = model.inner_steps
        else:
            steps = model.evaluation_steps
        if support_loss is None:
            support_loss = inner_loss.resolve(
                model.inner_loss, getattr(model, "loss", None)
            )
        if model.head_init is not None and support_y is not None:
            n_way = prototypes.count_classes(support_y)
        return TaskLearner(
            model,
            support_loss=support_loss,
            steps=steps,
            training=training,
            inner_batch_size=inner_batch_size or model.inner_batch_size,
            n_way=n_way,
            normalization=normalization,
        )

    def _build_per_step_norm(self):
        model = self._meta_model
        self.per_step_norm = PerStepNorm(model.learner)
        steps = max(model.inner_steps, 1)

        def add(name, initializer, trainable):
            return model.add_weight(
                shape=(steps, *initializer.shape),
                initializer=initializer,
                trainable=trainable,
                name=f"per_step_{name}",
            )

        self.scales = [
            add(f"scale_{i}", initializer, True)
            for i, initializer in enumerate(
                self.per_step_norm.scale_initializers
            )
        ]
        statistics = zip(
            self.per_step_norm.statistics,
            self.per_step_norm.statistic_initializers,
            strict=True,
        )
        self.statistics = {
            position: add(f"statistic_{i}", initializer, False)
            for i, (position, initializer) in enumerate(statistics)
        }

    def _initial_parameters(self):
        model = self._meta_model
        variables = model.learner.trainable_variables
        return model.inner_optimizer.parameters(
            [variables[i] for i in self.positions()],
            max(model.inner_steps, 1),
        )


def _adapted(paths, selection):
    return [path for path, kind in zip(paths, selection) if kind == "a"]


def _identities(learner):
    return [
        [id(v) for v in variables]
        for variables in (
            learner.trainable_variables,
            learner.non_trainable_variables,
        )
    ]


class _FromArray(keras.initializers.Initializer):
    """Initialises a variable with an array."""

    def __init__(self, value):
        self.value = value

    def __call__(self, shape, dtype=None):
        return tf.constant(self.value, dtype)
