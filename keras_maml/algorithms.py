"""Named algorithms: well-known points of the space that `MetaModel` spans.

Each algorithm is a few settings of `MetaModel`. Further arguments of
`MetaModel` can be passed to each function, and override these settings.
"""

from typing import Any

import keras

from keras_maml.inner_optimizers import SGD
from keras_maml.inner_optimizers import Adam
from keras_maml.inner_optimizers import InnerOptimizer
from keras_maml.inner_optimizers import LearnedRate
from keras_maml.meta_gradients import Implicit
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
    inner_optimizer: float | str | dict | InnerOptimizer = 0.01,
    inner_steps: int = 1,
    **kwargs: Any,
) -> MetaModel:
    """MAML: finds weights from which gradient descent learns a task fast.

    Args:
        learner: a Keras model of one task.
        inner_optimizer: as in `MetaModel`. Defaults to `0.01`.
        inner_steps: int. Defaults to `1`.
        **kwargs: further arguments of `MetaModel`.

    Example:

    ```python
    meta_model = keras_maml.algorithms.maml(keras_maml.learners.mlp())
    ```

    Reference:
        Finn et al., 2017, "Model-Agnostic Meta-Learning for Fast Adaptation of
        Deep Networks", Algorithms 1 and 2. Deviation: the outer loss is the
        mean over tasks, as in the released code. Algorithm 2 has the sum.
    """
    return _make(learner, inner_optimizer, inner_steps, kwargs)


def fomaml(
    learner: keras.Model,
    inner_optimizer: float | str | dict | InnerOptimizer = 0.01,
    inner_steps: int = 1,
    **kwargs: Any,
) -> MetaModel:
    """First-order MAML: the gradient of the query loss at the adapted weights.

    Args:
        learner: a Keras model of one task.
        inner_optimizer: as in `MetaModel`. Defaults to `0.01`.
        inner_steps: int. Defaults to `1`.
        **kwargs: further arguments of `MetaModel`.

    Example:

    ```python
    meta_model = keras_maml.algorithms.fomaml(keras_maml.learners.mlp())
    ```

    Reference:
        Finn et al., 2017, section 5.2; Nichol et al., 2018, "On First-Order
        Meta-Learning Algorithms", section 2. Deviations: none.
    """
    return _make(
        learner,
        inner_optimizer,
        inner_steps,
        kwargs,
        meta_gradient="first_order",
    )


def reptile(
    learner: keras.Model,
    inner_optimizer: float | str | dict | InnerOptimizer | None = None,
    inner_steps: int = 5,
    inner_batch_size: int | None = 10,
    **kwargs: Any,
) -> MetaModel:
    """Reptile: moves θ towards the adapted weights of each task.

    Compile the model with `keras.optimizers.SGD`. Its learning rate is
    Reptile's step size ε. As in the paper, let a `PolynomialDecay` lower it
    from 1 to 0 over all outer steps.

    Args:
        learner: a Keras model of one task.
        inner_optimizer: as in `MetaModel`. Defaults to
            `Adam(0.001, beta_1=0.0)`.
        inner_steps: int. Defaults to `5`.
        inner_batch_size: int, the number of support examples of an inner
            step. Defaults to `10`.
        **kwargs: further arguments of `MetaModel`.

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
        Algorithm 2 and appendix A. Deviations: every pass over a support set
        has the same order, while the paper shuffles it for each pass. Adam's
        averages start from 0 in each task, while the released code keeps them
        from task to task.
    """
    if inner_optimizer is None:
        inner_optimizer = Adam(0.001, beta_1=0.0)
    return _make(
        learner,
        inner_optimizer,
        inner_steps,
        kwargs,
        inner_batch_size=inner_batch_size,
        meta_gradient="reptile",
    )


def anil(
    learner: keras.Model,
    inner_optimizer: float | str | dict | InnerOptimizer = 0.01,
    inner_steps: int = 1,
    **kwargs: Any,
) -> MetaModel:
    """ANIL: the inner loop moves only the head; all tasks share the body.

    Args:
        learner: a Keras model of one task.
        inner_optimizer: as in `MetaModel`. Defaults to `0.01`.
        inner_steps: int. Defaults to `1`.
        **kwargs: further arguments of `MetaModel`.

    Example:

    ```python
    meta_model = keras_maml.algorithms.anil(keras_maml.learners.mlp())
    ```

    Reference:
        Raghu et al., 2020, "Rapid Learning or Feature Reuse? Towards
        Understanding the Effectiveness of MAML", section 4. Deviations: none.
    """
    return _make(
        learner, inner_optimizer, inner_steps, kwargs, adapted_weights="head"
    )


def boil(
    learner: keras.Model,
    inner_optimizer: float | str | dict | InnerOptimizer = 0.01,
    inner_steps: int = 1,
    **kwargs: Any,
) -> MetaModel:
    """BOIL: the inner loop moves only the body; all tasks share the head.

    Args:
        learner: a Keras model of one task.
        inner_optimizer: as in `MetaModel`. Defaults to `0.01`.
        inner_steps: int. Defaults to `1`.
        **kwargs: further arguments of `MetaModel`.

    Example:

    ```python
    meta_model = keras_maml.algorithms.boil(keras_maml.learners.mlp())
    ```

    Reference:
        Oh et al., 2021, "BOIL: Towards Representation Change for Few-shot
        Learning", section 3. Deviations: none.
    """
    return _make(
        learner, inner_optimizer, inner_steps, kwargs, adapted_weights="body"
    )


def meta_sgd(
    learner: keras.Model,
    inner_rate: float = 0.01,
    inner_steps: int = 1,
    **kwargs: Any,
) -> MetaModel:
    """Meta-SGD: learns a rate, including its sign, for every single weight.

    Args:
        learner: a Keras model of one task.
        inner_rate: float, the initial value of all rates. Defaults to `0.01`.
        inner_steps: int. Defaults to `1`.
        **kwargs: further arguments of `MetaModel`.

    Example:

    ```python
    meta_model = keras_maml.algorithms.meta_sgd(keras_maml.learners.mlp())
    ```

    Reference:
        Li et al., 2017, "Meta-SGD: Learning to Learn Quickly for Few-Shot
        Learning", equation 2, Algorithm 1. Deviation: all rates start from
        the same value, and not from random values.
    """
    return _make(
        learner, SGD(LearnedRate(inner_rate, per="weight")), inner_steps, kwargs
    )


def maml_plus_plus(
    learner: keras.Model,
    inner_rate: float = 0.1,
    inner_steps: int = 5,
    annealing_iterations: int = 5000,
    **kwargs: Any,
) -> MetaModel:
    """MAML++: learned rates, query losses and batch norm of each inner step.

    For all of MAML++, compile the model with a cosine decay of the learning
    rate, and pass the callback `callbacks.FirstOrderUntil` to `fit`.

    Args:
        learner: a Keras model of one task.
        inner_rate: float, the initial value of all rates. Defaults to `0.1`.
        inner_steps: int. Defaults to `5`.
        annealing_iterations: int, the number of outer steps until only the
            query loss after the last inner step counts. Defaults to `5000`,
            ten epochs of 500.
        **kwargs: further arguments of `MetaModel`.

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
        Deviations: in evaluation, the running statistics of a step normalise
        only the query set. The support set keeps its own statistics, because
        training has derived through these. The released code never uses its
        running statistics. As in that code, each variable of a layer has a
        rate.
    """
    return _make(
        learner,
        SGD(LearnedRate(inner_rate, per="variable", per_step=True)),
        inner_steps,
        kwargs,
        outer_loss=MultiStep(annealing_iterations),
        normalization="per_step",
    )


def imaml(
    learner: keras.Model,
    inner_optimizer: float | str | dict | InnerOptimizer = 0.1,
    inner_steps: int = 16,
    proximal: float = 2.0,
    cg_steps: int = 5,
    **kwargs: Any,
) -> MetaModel:
    """iMAML: the gradient at the end of the inner loop, whatever its path.

    Args:
        learner: a Keras model of one task.
        inner_optimizer: as in `MetaModel`. Defaults to `0.1`.
        inner_steps: int. Defaults to `16`.
        proximal: float, the strength λ with which the inner loop holds the
            weights near θ. Defaults to `2.0`.
        cg_steps: int, the number of steps of conjugate gradients. Defaults to
            `5`.
        **kwargs: further arguments of `MetaModel`.

    Example:

    ```python
    meta_model = keras_maml.algorithms.imaml(keras_maml.learners.mlp())
    ```

    Reference:
        Rajeswaran et al., 2019, "Meta-Learning with Implicit Gradients",
        Algorithms 1 and 2. Deviation: the inner loop is plain gradient
        descent, while the paper's best results use a Hessian-free optimizer.
    """
    return _make(
        learner,
        inner_optimizer,
        inner_steps,
        kwargs,
        meta_gradient=Implicit(proximal=proximal, cg_steps=cg_steps),
    )


def proto_maml(
    learner: keras.Model,
    inner_optimizer: float | str | dict | InnerOptimizer = 0.01,
    inner_steps: int = 1,
    **kwargs: Any,
) -> MetaModel:
    """Proto-MAML: the head starts from the mean features of a task's classes.

    One model learns tasks with any number of classes.

    Args:
        learner: a Keras model that outputs one vector of features for each
            example, not class scores.
        inner_optimizer: as in `MetaModel`. Defaults to `0.01`.
        inner_steps: int. Defaults to `1`.
        **kwargs: further arguments of `MetaModel`.

    Example:

    ```python
    body = keras.Sequential([keras.Input((28, 28, 1)), keras.layers.Flatten()])
    body.add(keras.layers.Dense(64))
    meta_model = keras_maml.algorithms.proto_maml(body)
    ```

    Reference:
        Triantafillou et al., 2020, "Meta-Dataset: A Dataset of Datasets for
        Learning to Learn from Few Examples", section 3. Deviation: the
        gradient is exact by default. The paper uses the first-order gradient.
    """
    return _make(
        learner, inner_optimizer, inner_steps, kwargs, head_init="prototypes"
    )


def cavia(
    learner: keras.Model,
    inner_optimizer: float | str | dict | InnerOptimizer = 1.0,
    inner_steps: int = 2,
    **kwargs: Any,
) -> MetaModel:
    """CAVIA: the inner loop moves only context parameters.

    Args:
        learner: a Keras model of one task with a `ContextParameters` layer.
        inner_optimizer: as in `MetaModel`. Defaults to `1.0`.
        inner_steps: int. Defaults to `2`.
        **kwargs: further arguments of `MetaModel`.

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
        learner, inner_optimizer, inner_steps, kwargs, adapted_weights="context"
    )


def _make(learner, inner_optimizer, inner_steps, overrides, **settings):
    settings |= {"inner_optimizer": inner_optimizer, "inner_steps": inner_steps}
    return MetaModel(learner, **{**settings, **overrides})
