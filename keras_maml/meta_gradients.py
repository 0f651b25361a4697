"""The `meta_gradient` axis: how the outer loss is derived with respect to θ."""

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from keras_maml.exact.conjugate_gradient import conjugate_gradient
from keras_maml.validation import check_bool
from keras_maml.validation import check_integer
from keras_maml.validation import check_number

__all__ = [
    "FirstOrder",
    "Implicit",
    "MetaGradient",
    "Reptile",
    "SecondOrder",
    "get",
]


class MetaGradient:
    """Base class: the gradient of one task's outer loss.

    Attributes:
        second_order: bool. Whether the derivative goes through the inner
            gradients.
        rematerialize: bool. Whether it computes each inner step anew.
        proximal: float. The strength λ of λ/2 ‖θ_i − θ‖², which the support
            loss gets.
        through_inner_loop: bool. Whether all that the inner loop uses gets a
            gradient, and not only what it starts from: learned rates, and
            outer losses of earlier steps, need that.
    """

    second_order = True
    rematerialize = False
    proximal = 0.0
    through_inner_loop = True

    def __call__(
        self,
        theta: list,
        adapt: Callable,
        query_loss: Callable,
        scale_loss: Callable,
    ) -> tuple[Any, Any, list]:
        """The outer loss of one task and its gradient.

        Args:
            theta: list of tensors.
            adapt: function of θ, `second_order` and `rematerialize` that
                returns a `task_learner.AdaptedTask`.
            query_loss: function of the adapted task that returns
                `(loss, aux)`: a scalar, and anything.
            scale_loss: function of the loss, whose value is derived instead
                (for mixed precision).

        Returns:
            A tuple `(loss, aux, gradients)`; `gradients` has a tensor for
            each of `theta`.
        """
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(theta)
            loss, aux = query_loss(
                adapt(theta, self.second_order, self.rematerialize)
            )
            scaled = scale_loss(loss)
        return loss, aux, _gradients(tape, scaled, theta)

    def get_config(self) -> dict[str, Any]:
        return {}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "MetaGradient":
        return cls(**config)


@keras.saving.register_keras_serializable(package="keras_maml")
class SecondOrder(MetaGradient):
    """The exact gradient, through every inner step.

    For one plain gradient step from θ to φ = θ − α∇L_support(θ) it is
    (I − αH) ∇L_query(φ), with H the support loss's Hessian at θ.

    Args:
        rematerialize: bool. Whether the way back through the inner loop
            computes each step anew, from the weights it began with, instead
            of keeping all that the step computed. The gradient is the same
            and memory stays about that of one step; time grows by the steps'
            forward pass and gradient. With more than five steps all
            but the first are rematerialised in any case; with `True`, with
            fewer too. Random numbers must then come from seeds, as those of
            Keras's layers do. Without effect in eager execution. Defaults to
            `False`.

    Example:

    ```python
    meta_model = keras_maml.MetaModel(
        keras_maml.learners.mlp(),
        inner_steps=5,
        meta_gradient=keras_maml.meta_gradients.SecondOrder(
            rematerialize=True
        ),
    )
    ```

    Reference:
        Finn et al., 2017, Algorithm 1, line 8. Rematerialisation: Chen et al.,
        2016, "Training Deep Nets with Sublinear Memory Cost".
    """

    def __init__(self, rematerialize: bool = False) -> None:
        self.rematerialize = check_bool("rematerialize", rematerialize)

    def get_config(self) -> dict[str, Any]:
        return {"rematerialize": self.rematerialize}


@keras.saving.register_keras_serializable(package="keras_maml")
class FirstOrder(MetaGradient):
    """First-order MAML: the inner gradients count as constants.

    For plain gradient steps it is the query loss's gradient at the adapted
    weights.

    Reference:
        Finn et al., 2017, section 5.2, "first-order approximation".
    """

    second_order = False


@keras.saving.register_keras_serializable(package="keras_maml")
class Reptile(MetaGradient):
    """Reptile: the outer loop moves θ towards the adapted weights.

    The "gradient" is θ − θ_i. So the outer optimizer's rate is Reptile's step
    size ε: with `keras.optimizers.SGD(ε)`, θ ← θ + ε · mean(θ_i − θ), and a
    `keras.optimizers.schedules.PolynomialDecay` from 1 to 0 anneals it as the
    paper does. With one inner step at rate α it is α times the gradient of
    the support loss: joint training.

    All that is to be trained has to adapt. The query set takes no part in the
    gradient; the loss that is logged is still its.

    Example:

    ```python
    meta_model = keras_maml.MetaModel(
        keras_maml.learners.mlp(),
        inner_optimizer=keras_maml.inner_optimizers.Adam(0.02, beta_1=0.0),
        inner_steps=5,
        inner_batch_size=5,
        meta_gradient=keras_maml.meta_gradients.Reptile(),
    )
    meta_model.compile(keras.optimizers.SGD(0.1), loss="mse")
    ```

    Reference:
        Nichol et al., 2018, "On First-Order Meta-Learning Algorithms",
        Algorithm 2.
    """

    second_order = False
    through_inner_loop = False

    def __call__(
        self,
        theta: list,
        adapt: Callable,
        query_loss: Callable,
        scale_loss: Callable,
    ) -> tuple[Any, Any, list]:
        adapted = adapt(theta, self.second_order, self.rematerialize)
        loss, aux = query_loss(adapted)
        gradients = [tf.zeros_like(t) for t in theta]
        for i in adapted.positions:
            # The optimizer divides by the scale of the loss.
            gradients[i] = scale_loss(theta[i] - adapted.weights[i])
        return loss, aux, gradients


@keras.saving.register_keras_serializable(package="keras_maml")
class Implicit(MetaGradient):
    """Implicit MAML: the gradient at the end of the path, not along it.

    The inner loop descends the support loss plus λ/2 ‖φ − θ‖². At its minimum
    φ the implicit function theorem gives dφ/dθ = (I + H/λ)⁻¹, with H the
    support loss's Hessian at φ. The product with the query loss's gradient
    comes from conjugate gradients, whose steps are one Hessian-vector product
    each; H is never formed. Memory is that of one step however many there
    are, and the gradient does not depend on the path, only on how near φ is
    to the minimum.

    Weights that do not adapt get their exact implicit gradient as well.

    Args:
        proximal: float above 0, the strength λ. The inner loop has it at
            evaluation too. Defaults to `2.0`.
        cg_steps: int, at least 1, the steps of conjugate gradients. Defaults
            to `5`.

    Raises:
        ValueError: if an argument is not of that form.

    Example:

    ```python
    meta_model = keras_maml.MetaModel(
        keras_maml.learners.mlp(),
        inner_steps=16,
        meta_gradient=keras_maml.meta_gradients.Implicit(proximal=2.0),
    )
    ```

    Reference:
        Rajeswaran et al., 2019, "Meta-Learning with Implicit Gradients",
        equations 3, 6 and 7, Algorithm 2.
    """

    second_order = False
    through_inner_loop = False

    def __init__(self, proximal: float = 2.0, cg_steps: int = 5) -> None:
        self.proximal = check_number("proximal", proximal, above=0)
        self.cg_steps = check_integer("cg_steps", cg_steps)

    def __call__(
        self,
        theta: list,
        adapt: Callable,
        query_loss: Callable,
        scale_loss: Callable,
    ) -> tuple[Any, Any, list]:
        adapted = adapt(theta, self.second_order, self.rematerialize)
        # Where the inner loop has come to is a constant from here on.
        weights = [tf.stop_gradient(w) for w in adapted.weights]
        adapted = adapted._replace(weights=weights)
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(weights)
            loss, aux = query_loss(adapted)
            scaled = scale_loss(loss)
        query_gradient = _gradients(tape, scaled, weights)

        positions = adapted.positions
        rest = [i for i in range(len(weights)) if i not in positions]
        moving = [weights[i] for i in positions]
        fixed = [weights[i] for i in rest]
        # Recorded once; every product below is one pass back through it.
        with tf.GradientTape(
            persistent=True, watch_accessed_variables=False
        ) as outer:
            outer.watch(weights)
            with tf.GradientTape(watch_accessed_variables=False) as inner:
                inner.watch(moving)
                # Scaled where the learner computes in half precision.
                scaled = adapted.support_loss(weights) * adapted.loss_scale
            support_gradient = [
                g / adapted.loss_scale
                for g in _gradients(inner, scaled, moving)
            ]

        def product(vector):
            """(I + H/λ) times a vector."""
            curvature = outer.gradient(
                support_gradient,
                moving,
                vector,
                unconnected_gradients="zero",
            )
            return [
                v + tf.convert_to_tensor(c) / self.proximal
                for v, c in zip(vector, curvature)
            ]

        solution = conjugate_gradient(
            product, [query_gradient[i] for i in positions], self.cg_steps
        )
        gradients = query_gradient + [
            tf.zeros_like(t) for t in theta[len(weights) :]
        ]
        for i, value in zip(positions, solution):
            gradients[i] = value
        if fixed:
            # −∂/∂ω ⟨∇_φ L_support(φ, ω), x⟩ / λ, with x the solution.
            mixed = outer.gradient(
                support_gradient, fixed, solution, unconnected_gradients="zero"
            )
            for i, value in zip(rest, mixed):
                gradients[i] -= tf.convert_to_tensor(value) / self.proximal
        return loss, aux, gradients

    def get_config(self) -> dict[str, Any]:
        return {"proximal": self.proximal, "cg_steps": self.cg_steps}


def _gradients(tape, loss, sources):
    """Dense gradients; 0 for what the loss does not depend on."""
    return [
        tf.zeros_like(source)
        if gradient is None
        else tf.convert_to_tensor(gradient)
        for gradient, source in zip(tape.gradient(loss, sources), sources)
    ]


_NAMES = {
    "second_order": SecondOrder,
    "first_order": FirstOrder,
    "reptile": Reptile,
    "implicit": Implicit,
}


def get(identifier: str | MetaGradient) -> MetaGradient:
    """A `MetaGradient` from its name or itself.

    Raises:
        ValueError: for anything else.
    """
    if isinstance(identifier, MetaGradient):
        return identifier
    if isinstance(identifier, str) and identifier in _NAMES:
        return _NAMES[identifier]()
    raise ValueError(
        f"`meta_gradient` must be one of {sorted(_NAMES)} or an object of "
        f"`keras_maml.meta_gradients`. Received: meta_gradient={identifier!r}"
    )
