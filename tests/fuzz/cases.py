"""A case of the fuzz test: a learner, settings, data, and what is called."""

import dataclasses

import keras
import numpy as np

import keras_maml
from keras_maml import meta_gradients
from keras_maml import outer_loss
from tests.fuzz import plain_rules
from tests.fuzz.plain_networks import VOCABULARY
from tests.fuzz.plain_networks import Network


@dataclasses.dataclass(frozen=True)
class Case:
    """What is drawn. `repr` of a case is the code that makes it again."""

    kind: str = "dense"
    form: str = "functional"
    width: int = 2
    loss: str = "mse"
    reduction: str = "sum_over_batch_size"
    inner_loss: str | None = None
    outputs: int = 1
    dtype: str = "float64"
    policy: str | None = None
    tasks: int = 2
    batch_size: int = 2
    support: int = 4
    queries: int = 3
    support_weight: str | None = None
    sample_weight: str | None = None
    rule: str = "sgd"
    rate: float = 0.1
    inner_steps: int = 1
    evaluation_steps: int | None = None
    inner_batch_size: int | None = None
    meta_gradient: str = "second_order"
    rematerialize: bool = False
    adapted_weights: str = "all"
    annealing: int | None = None
    iterations: int = 0
    normalization: str = "transductive"
    prototypes: bool = False
    task_map: str = "auto"
    task_parallelism: int | None = None
    bad_tasks: str = "raise"
    fault: str | None = None
    mode: str = "eager"
    calls: tuple = ("train_on_batch", "evaluate", "predict", "adapt")
    seed: int = 0


class Settings:
    """The settings of a case, for `PlainMaml`."""

    proximal = 3.0
    cg_steps = 3

    def __init__(self, case):
        self.inner_steps = case.inner_steps
        self.evaluation_steps = case.evaluation_steps
        self.inner_batch_size = case.inner_batch_size
        self.meta_gradient = case.meta_gradient
        self.normalization = case.normalization
        self.head_init = case.prototypes
        self.outer_loss = case.annealing is not None
        self.sums = case.reduction == "sum"
        self.inner_sums = self.sums and case.inner_loss is None
        self.query_losses = plain_rules.PLAIN_LOSSES[case.loss]
        self.inner_losses = plain_rules.PLAIN_LOSSES[
            case.inner_loss or case.loss
        ]
        self._case = case

    def rule(self):
        return plain_rules.plain_rule(self._case.rule, self._case.rate)

    def positions(self, learner):
        """The trainable variables that adapt, by their names."""
        wanted = self._case.adapted_weights
        paths = [v.path for v in learner.trainable_variables]
        head = paths[-1].rsplit("/", 1)[0]
        if wanted == "names":
            selected = ["layer_1/" in p or "head/" in p for p in paths]
        else:
            selected = [
                {
                    "all": True,
                    "head": p.rsplit("/", 1)[0] == head,
                    "body": p.rsplit("/", 1)[0] != head,
                    "kernels": p.endswith("kernel"),
                    "context": p.endswith("context"),
                }[wanted]
                for p in paths
            ]
        return [i for i, is_selected in enumerate(selected) if is_selected]

    def context(self, learner):
        variables = learner.trainable_variables
        return [
            i for i, v in enumerate(variables) if v.path.endswith("context")
        ]

    def outer_weights(self, steps, iteration):
        """Equation 4 of MAML++, with the floor of its code."""
        progress = iteration / self._case.annealing
        earlier = max(1 - progress, 0.03) / steps if progress < 1 else 0.0
        return [earlier] * (steps - 1) + [1 - earlier * (steps - 1)]


@keras.saving.register_keras_serializable(package="keras_maml_tests")
def is_kernel(variable):
    return variable.path.endswith("kernel")


def make(case):
    """Returns the network and the compiled `MetaModel` of a case."""
    keras.config.set_floatx(case.dtype)
    keras.config.set_dtype_policy(case.policy or case.dtype)
    keras.utils.set_random_seed(case.seed)
    outputs = 0 if case.prototypes else case.outputs
    network = Network(case.kind, case.form, outputs, case.width)
    _randomize(network.learner, case.seed)
    keras.config.set_dtype_policy(case.dtype)
    adapted = {"kernels": is_kernel, "names": ["layer_1", "head"]}
    gradient = case.meta_gradient
    if gradient == "implicit":
        gradient = meta_gradients.Implicit(Settings.proximal, Settings.cg_steps)
    elif case.rematerialize:
        gradient = meta_gradients.SecondOrder(rematerialize=True)
    inner_loss = case.inner_loss and plain_rules.keras_loss(case.inner_loss)
    meta_model = keras_maml.MetaModel(
        network.learner,
        inner_optimizer=plain_rules.maker(case.rule, case.rate),
        inner_steps=case.inner_steps,
        meta_gradient=gradient,
        adapted_weights=adapted.get(case.adapted_weights, case.adapted_weights),
        outer_loss="last_step"
        if case.annealing is None
        else outer_loss.MultiStep(case.annealing),
        head_init="prototypes" if case.prototypes else None,
        inner_batch_size=case.inner_batch_size,
        inner_loss=inner_loss,
        normalization=case.normalization,
        evaluation_steps=case.evaluation_steps,
        task_map=case.task_map,
        task_parallelism=case.task_parallelism,
        bad_tasks=case.bad_tasks,
    )
    optimizer = keras.optimizers.SGD(1.0)
    if case.policy == "mixed_float16":
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
    meta_model.compile(
        optimizer,
        loss=plain_rules.keras_loss(case.loss, case.reduction),
        run_eagerly=case.mode == "eager",
        jit_compile={"xla": True, "no_xla": False}.get(case.mode, "auto"),
    )
    meta_model.optimizer.iterations.assign(case.iterations)
    return network, meta_model


def _randomize(learner, seed):
    """Gives every variable a value of its own, also biases and statistics."""
    rng = np.random.default_rng(seed)
    for variable in learner.variables:
        if not variable.dtype.startswith("float"):
            continue
        value = 0.6 * rng.standard_normal(variable.shape)
        if "variance" in variable.path or "gamma" in variable.path:
            value = 1.0 + 0.3 * np.abs(value)
        variable.assign(value)


def data(case, network):
    """Returns the meta-batch `(x, y, sample_weight)` of a case."""
    rng = np.random.default_rng(case.seed + 1)

    def inputs(count):
        shape = (case.tasks, count, *network.input_shape)
        if network.dtype == "int32":
            return rng.integers(0, VOCABULARY, shape).astype("int32")
        if case.kind == "two_inputs":
            return {
                key: rng.standard_normal(shape).astype(case.dtype)
                for key in ("a", "b")
            }
        return rng.standard_normal(shape).astype(case.dtype)

    def targets(count):
        classes = np.stack(
            [
                rng.permutation(np.arange(count) % max(case.outputs, 1))
                for _ in range(case.tasks)
            ]
        )
        if case.loss == "sparse":
            return classes.astype("int32")
        if case.loss == "categorical":
            return np.eye(case.outputs)[classes].astype(case.dtype)
        shape = (case.tasks, count, case.outputs)
        if case.outputs == 1 and case.seed % 2:
            shape = shape[:2]
        return rng.standard_normal(shape).astype(case.dtype)

    x = {
        "support_x": inputs(case.support),
        "support_y": targets(case.support),
        "query_x": inputs(case.queries),
    }
    y = targets(case.queries)
    if case.support_weight:
        x["support_weight"] = _weights(
            case, rng, case.support_weight, case.support
        )
    if case.prototypes:
        # The largest label that counts tells how many classes there are.
        labels = x["support_y"] * (x.get("support_weight", 1) != 0)
        y = np.minimum(y, labels.max(1).min())
    sample_weight = None
    if case.sample_weight in ("tasks", "task of 0"):
        sample_weight = rng.uniform(0.2, 2, (case.tasks, 1)).astype(case.dtype)
        if case.sample_weight == "task of 0" and case.tasks > 1:
            sample_weight[-2] = 0.0
    elif case.sample_weight:
        sample_weight = _weights(case, rng, case.sample_weight, case.queries)
    return x, y, sample_weight


def _weights(case, rng, kind, count):
    weights = rng.uniform(0.2, 2, (case.tasks, count)).astype(case.dtype)
    if kind == "zeros":
        weights[:, 1:] *= rng.integers(0, 2, (case.tasks, count - 1))
    return weights
