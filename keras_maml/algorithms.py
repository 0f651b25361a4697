"""Named algorithms: well-known points of the space that `MetaModel` spans.

Each is a few settings. Whatever `MetaModel` takes can be passed along, and
overrides them.
"""

from typing import Any

import keras

from keras_maml.inner_optimizers import SGD
from keras_maml.inner_optimizers import Adam
from keras_maml.inner_optimizers import LearnedRate
from keras_maml.meta_gradients import FirstOrder
from keras_maml.meta_gradients import Implicit
from keras_maml.meta_gradients import Reptile
from keras_maml.meta_gradients import SecondOrder
from keras_maml.meta_model import MetaModel
from keras_maml.outer_loss import MultiStep

__all__ = [
    "anil",
    "boil",
    "cavia",
    "fomaml",
    "imaml",
    "maml",
    "maml_plus_plus",
    "meta_sgd",
    "proto_maml",
    "reptile",
]


def maml(
    learner: keras.Model,
    inner_optimizer: Any = 0.01,
    inner_steps: int = 1,
    **kwargs: Any,
) -> MetaModel:
    """MAML: an initialisation from which gradient descent learns a task fast.

    Args:
        learner: a Keras model of one task.
        inner_optimizer: as in `MetaModel`. Defaults to `0.01`.
        inner_steps: int. Defaults to `1`.
        **kwargs: of `MetaModel`.

    Returns:
        A `MetaModel`.

    Example:

    ```python
    meta_model = keras_maml.algorithms.maml(keras_maml.learners.mlp())
    ```

    Reference:
        Finn et al., 2017, "Model-Agnostic Meta-Learning for Fast Adaptation of
        Deep Networks", Algorithms 1 and 2. Deviation: the outer loss is the
        mean over tasks, as in the released code, and not the sum.
    """
    return _make(
        kwargs,
        learner,
        inner_optimizer=inner_optimizer,
        inner_steps=inner_steps,
        meta_gradient=SecondOrder(),
    )


def fomaml(
    learner: keras.Model,
    inner_optimizer: Any = 0.01,
    inner_steps: int = 1,
    **kwargs: Any,
) -> MetaModel:
    """First-order MAML: the query loss's gradient at the adapted weights.

    Args:
        learner: a Keras model of one task.
        inner_optimizer: as in `MetaModel`. Defaults to `0.01`.
        inner_steps: int. Defaults to `1`.
        **kwargs: of `MetaModel`.

    Returns:
        A `MetaModel`.

    Example:

    ```python
    meta_model = keras_maml.algorithms.fomaml(keras_maml.learners.mlp())
    ```

    Reference:
        Finn et al., 2017, section 5.2; Nichol et al., 2018, "On First-Order
        Meta-Learning Algorithms", section 2. Deviations: none.
    """
    return _make(
        kwargs,
        learner,
        inner_optimizer=inner_optimizer,
        inner_steps=inner_steps,
        meta_gradient=FirstOrder(),
    )


def reptile(
    learner: keras.Model,
    inner_optimizer: Any = None,
    inner_steps: int = 5,
    inner_batch_size: int | None = 10,
    **kwargs: Any,
) -> MetaModel:
    """Reptile: moves θ towards what it becomes on each task.

    Compile it with `keras.optimizers.SGD` at the rate ε of the outer step: a
    `PolynomialDecay` from 1 to 0 over all outer steps, as in the paper.

    Args:
        learner: a Keras model of one task.
        inner_optimizer: as in `MetaModel`. Defaults to
            `Adam(0.001, beta_1=0.0)`.
        inner_steps: int. Defaults to `5`.
        inner_batch_size: int, the support examples of a step. Defaults to
            `10`.
        **kwargs: of `MetaModel`.

    Returns:
        A `MetaModel`.

    Example:

    ```python
    meta_model = keras_maml.algorithms.reptile(keras_maml.learners.mlp())
    meta_model.compile(
        keras.optimizers.SGD(
            keras.optimizers.schedules.PolynomialDecay(1.0, 10_000, 0.0)
        ),
        loss="mse",
    )
    ```

    Reference:
        Nichol et al., 2018, "On First-Order Meta-Learning Algorithms",
        Algorithm 2 and appendix A. Deviations: a support set is gone through
        in its own order, over and over, and not shuffled for each pass; Adam's
        averages start anew in each task, while the released code hands those
        of one task to the next.
    """
    return _make(
        kwargs,
        learner,
        inner_optimizer=(
            Adam(0.001, beta_1=0.0)
            if inner_optimizer is None
            else inner_optimizer
        ),
        inner_steps=inner_steps,
        inner_batch_size=inner_batch_size,
        meta_gradient=Reptile(),
    )


def anil(
    learner: keras.Model,
    inner_optimizer: Any = 0.01,
    inner_steps: int = 1,
    **kwargs: Any,
) -> MetaModel:
    """ANIL: the inner loop moves the head alone; the body is one for all.

    Args:
        learner: a Keras model of one task.
        inner_optimizer: as in `MetaModel`. Defaults to `0.01`.
        inner_steps: int. Defaults to `1`.
        **kwargs: of `MetaModel`.

    Returns:
        A `MetaModel`.

    Example:

    ```python
    meta_model = keras_maml.algorithms.anil(keras_maml.learners.mlp())
    ```

    Reference:
        Raghu et al., 2020, "Rapid Learning or Feature Reuse? Towards
        Understanding the Effectiveness of MAML", section 4. Deviations: none.
    """
    return _make(
        kwargs,
        learner,
        inner_optimizer=inner_optimizer,
        inner_steps=inner_steps,
        adapted_weights="head",
    )


def boil(
    learner: keras.Model,
    inner_optimizer: Any = 0.01,
    inner_steps: int = 1,
    **kwargs: Any,
) -> MetaModel:
    """BOIL: the inner loop moves the body alone, and the head stays.

    Args:
        learner: a Keras model of one task.
        inner_optimizer: as in `MetaModel`. Defaults to `0.01`.
        inner_steps: int. Defaults to `1`.
        **kwargs: of `MetaModel`.

    Returns:
        A `MetaModel`.

    Example:

    ```python
    meta_model = keras_maml.algorithms.boil(keras_maml.learners.mlp())
    ```

    Reference:
        Oh et al., 2021, "BOIL: Towards Representation Change for Few-shot
        Learning", section 3. Deviations: none.
    """
    return _make(
        kwargs,
        learner,
        inner_optimizer=inner_optimizer,
        inner_steps=inner_steps,
        adapted_weights="body",
    )


def meta_sgd(
    learner: keras.Model,
    inner_rate: float = 0.01,
    inner_steps: int = 1,
    **kwargs: Any,
) -> MetaModel:
    """Meta-SGD: learns a rate, with its sign, for every single weight.

    Args:
        learner: a Keras model of one task.
        inner_rate: float, what all rates start from. Defaults to `0.01`.
        inner_steps: int. Defaults to `1`.
        **kwargs: of `MetaModel`.

    Returns:
        A `MetaModel`.

    Example:

    ```python
    meta_model = keras_maml.algorithms.meta_sgd(keras_maml.learners.mlp())
    ```

    Reference:
        Li et al., 2017, "Meta-SGD: Learning to Learn Quickly for Few-Shot
        Learning", equation 2, Algorithm 1. Deviation: the rates start from
        one value, and not from random ones.
    """
    return _make(
        kwargs,
        learner,
        inner_optimizer=SGD(LearnedRate(inner_rate, per="weight")),
        inner_steps=inner_steps,
    )


def maml_plus_plus(
    learner: keras.Model,
    inner_rate: float = 0.1,
    inner_steps: int = 5,
    annealing_iterations: int = 5000,
    **kwargs: Any,
) -> MetaModel:
    """MAML++: learned rates, query losses and batch norm of each inner step.

    The rest of MAML++ is the user's to pass: a cosine decay as the outer
    optimizer's rate, and `callbacks.FirstOrderUntil` to begin in first order.

    Args:
        learner: a Keras model of one task.
        inner_rate: float, what all rates start from. Defaults to `0.1`.
        inner_steps: int. Defaults to `5`.
        annealing_iterations: int, the outer steps until the last inner step's
            query loss alone counts. Defaults to `5000`, ten epochs of 500.
        **kwargs: of `MetaModel`.

    Returns:
        A `MetaModel`.

    Example:

    ```python
    meta_model = keras_maml.algorithms.maml_plus_plus(
        keras_maml.learners.mlp(), inner_rate=0.01
    )
    meta_model.compile(
        keras.optimizers.Adam(
            keras.optimizers.schedules.CosineDecay(1e-3, 50_000, alpha=0.01)
        ),
        loss="mse",
    )
    ```

    Reference:
        Antoniou et al., 2019, "How to train your MAML", section 4.
        Deviations: in evaluation the running statistics of a step normalise
        the query set, and its own do so for the support set, since gradients
        through stored statistics are others than those that were trained;
        the released code keeps running statistics and never uses them. Rates
        are for each variable of a layer, as in that code.
    """
    return _make(
        kwargs,
        learner,
        inner_optimizer=SGD(
            LearnedRate(inner_rate, per="variable", per_step=True)
        ),
        inner_steps=inner_steps,
        outer_loss=MultiStep(annealing_iterations),
        normalization="per_step",
    )


def imaml(
    learner: keras.Model,
    inner_optimizer: Any = 0.1,
    inner_steps: int = 16,
    proximal: float = 2.0,
    cg_steps: int = 5,
    **kwargs: Any,
) -> MetaModel:
    """iMAML: the gradient of where the inner loop ends, whatever its path.

    Args:
        learner: a Keras model of one task.
        inner_optimizer: as in `MetaModel`. Defaults to `0.1`.
        inner_steps: int. Defaults to `16`.
        proximal: float, λ: how strongly θ holds the weights. Defaults to
            `2.0`.
        cg_steps: int, steps of conjugate gradients. Defaults to `5`.
        **kwargs: of `MetaModel`.

    Returns:
        A `MetaModel`.

    Example:

    ```python
    meta_model = keras_maml.algorithms.imaml(keras_maml.learners.mlp())
    ```

    Reference:
        Rajeswaran et al., 2019, "Meta-Learning with Implicit Gradients",
        Algorithms 1 and 2. Deviation: the inner loop is plain gradient
        descent; the paper's best results have a Hessian-free one.
    """
    return _make(
        kwargs,
        learner,
        inner_optimizer=inner_optimizer,
        inner_steps=inner_steps,
        meta_gradient=Implicit(proximal=proximal, cg_steps=cg_steps),
    )


def proto_maml(
    learner: keras.Model,
    inner_optimizer: Any = 0.01,
    inner_steps: int = 1,
    **kwargs: Any,
) -> MetaModel:
    """Proto-MAML: the head starts from the mean features of a task's classes.

    One model learns tasks of any number of classes.

    Args:
        learner: a Keras model that gives each example one vector of features,
            not class scores.
        inner_optimizer: as in `MetaModel`. Defaults to `0.01`.
        inner_steps: int. Defaults to `1`.
        **kwargs: of `MetaModel`.

    Returns:
        A `MetaModel`.

    Example:

    ```python
    body = keras.Sequential([keras.Input((28, 28, 1)), keras.layers.Flatten()])
    body.add(keras.layers.Dense(64))
    meta_model = keras_maml.algorithms.proto_maml(body)
    ```

    Reference:
        Triantafillou et al., 2020, "Meta-Dataset: A Dataset of Datasets for
        Learning to Learn from Few Examples", section 3. Deviation: the exact
        gradient by default, where the paper's is of first order.
    """
    return _make(
        kwargs,
        learner,
        inner_optimizer=inner_optimizer,
        inner_steps=inner_steps,
        head_init="prototypes",
    )


def cavia(
    learner: keras.Model,
    inner_optimizer: Any = 1.0,
    inner_steps: int = 2,
    **kwargs: Any,
) -> MetaModel:
    """CAVIA: the inner loop moves context parameters, inputs of the learner.

    Args:
        learner: a Keras model of one task with a `ContextParameters` layer.
        inner_optimizer: as in `MetaModel`. Defaults to `1.0`.
        inner_steps: int. Defaults to `2`.
        **kwargs: of `MetaModel`.

    Returns:
        A `MetaModel`.

    Example:

    ```python
    x = keras.Input((1,))
    context = keras_maml.ContextParameters(5)(x)
    h = keras.layers.Concatenate()([x, context])
    h = keras.layers.Dense(40, activation="relu")(h)
    meta_model = keras_maml.algorithms.cavia(
        keras.Model(x, keras.layers.Dense(1)(h))
    )
    ```

    Reference:
        Zintgraf et al., 2019, "Fast Context Adaptation via Meta-Learning",
        Algorithm 1. Deviations: none.
    """
    return _make(
        kwargs,
        learner,
        inner_optimizer=inner_optimizer,
        inner_steps=inner_steps,
        adapted_weights="context",
    )


def _make(kwargs, learner, **settings):
    return MetaModel(learner, **{**settings, **kwargs})
