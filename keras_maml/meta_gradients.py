"""The `meta_gradient` axis: the gradient of the outer loss for θ."""

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from keras_maml.exact.conjugate_gradient import conjugate_gradient
from keras_maml.exact.conjugate_gradient import plus
from keras_maml.exact.gradients import dense_gradients
from keras_maml.settings import Settings
from keras_maml.settings import resolve
from keras_maml.theta import Theta
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


class MetaGradient(Settings):
    """Base class: the gradient of one task's outer loss.

    Attributes:
        second_order: bool. Whether the derivative goes through the inner
            gradients.
        rematerialize: bool. Whether the backward pass computes each inner
            step again, instead of keeping its results.
        support_term: function `(weights, start)` that returns a scalar, or
            `None`. The inner loop adds the scalar to the support loss.
            `weights` are the adapted weights now, and `start` are the same
            weights before the first step, both lists of tensors.
        through_inner_loop: bool. Whether everything that the inner loop uses
            gets a gradient. Learned rates and query losses after earlier
            steps need `True`. With `False`, only the weights that the inner
            loop starts from get a gradient.
        trains_only_adapted: bool. Whether weights that do not adapt get no
            gradient.
        starts_from_theta: bool. Whether every weight that adapts must start
            from a weight of θ.
        needs_minimum: bool. Whether the gradient assumes that the inner loop
            ends at a minimum of the support loss.

    Example:

    ```python
    class Anchored(keras_maml.meta_gradients.SecondOrder):
        def support_term(self, weights, start):
            pairs = zip(weights, start)
            return tf.add_n([tf.reduce_sum((w - s) ** 2) for w, s in pairs])

    meta_model = keras_maml.MetaModel(
        keras_maml.learners.mlp(), meta_gradient=Anchored()
    )
    ```
    """

    second_order = True
    rematerialize = False
    support_term: Callable[[list, list], tf.Tensor] | None = None
    through_inner_loop = True
    trains_only_adapted = False
    starts_from_theta = False
    needs_minimum = False

    def __call__(
        self,
        theta: Theta,
        adapt: Callable[[Theta], Any],
        query_loss: Callable[[Any], tuple[tf.Tensor, Any]],
        scale_loss: Callable[[tf.Tensor], tf.Tensor],
        weight: float | tf.Tensor = 1.0,
    ) -> tuple[tf.Tensor, Any, Theta]:
        """Computes the outer loss of one task and its gradient.

        Args:
            theta: a `Theta` of tensors.
            adapt: function `(theta)` that returns an `AdaptedTask`.
            query_loss: function `(adapted)` that returns `(loss, aux)`. The
                loss is a scalar, and `aux` is anything.
            scale_loss: function `(loss)` that returns the scaled loss, for
                mixed precision. The gradient is the gradient of this value.
            weight: scalar, the mean `sample_weight` of the task divided by
                the number of replicas. The query loss includes this factor.
                A gradient that does not come from the query loss multiplies
                itself by `weight`.

        Returns:
            A tuple `(loss, aux, gradients)`. `gradients` is a `Theta` with a
            gradient for each tensor of `theta`.
        """
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(theta)
            loss, aux = query_loss(adapt(theta))
            scaled = scale_loss(loss)
        return loss, aux, dense_gradients(tape, scaled, theta)


@keras.saving.register_keras_serializable(package="keras_maml")
class SecondOrder(MetaGradient):
    """The exact gradient, through every inner step.

    For one plain gradient step φ = θ − α∇L_support(θ), the gradient is
    (I − αH) ∇L_query(φ), where H is the Hessian of the support loss at θ.

    Args:
        rematerialize: bool. Whether the backward pass computes each inner
            step again from the weights before the step, instead of keeping
            the results of the step. The gradient is the same. Memory stays
            near the memory of one step, but each step is computed twice. With
            `False`, only loops of more than five inner steps do this. Random
            numbers must come from seeds, as in Keras's layers. Has no effect
            in eager execution. Defaults to `False`.

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
    """First-order MAML: treats the inner gradients as constants.

    For plain gradient steps, the gradient is the gradient of the query loss
    at the adapted weights.

    Example:

    ```python
    meta_model = keras_maml.MetaModel(
        keras_maml.learners.mlp(),
        meta_gradient=keras_maml.meta_gradients.FirstOrder(),
    )
    ```

    Reference:
        Finn et al., 2017, section 5.2, "first-order approximation".
    """

    second_order = False


@keras.saving.register_keras_serializable(package="keras_maml")
class Reptile(MetaGradient):
    """Reptile: the outer loop moves θ towards the adapted weights.

    The "gradient" is θ − θ_i. The learning rate of the outer optimizer is
    therefore Reptile's step size ε: with `keras.optimizers.SGD(ε)`, an outer
    step is θ ← θ + ε · mean(θ_i − θ). To anneal ε as in the paper, use a
    `keras.optimizers.schedules.PolynomialDecay` from 1 to 0.

    All trainable weights must adapt. The query set does not affect the
    gradient, but the logged loss is the query loss.

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
    trains_only_adapted = True

    def __call__(
        self,
        theta: Theta,
        adapt: Callable[[Theta], Any],
        query_loss: Callable[[Any], tuple[tf.Tensor, Any]],
        scale_loss: Callable[[tf.Tensor], tf.Tensor],
        weight: float | tf.Tensor = 1.0,
    ) -> tuple[tf.Tensor, Any, Theta]:
        adapted = adapt(theta)
        loss, aux = query_loss(adapted)
        gradients = tf.nest.map_structure(tf.zeros_like, theta)
        for i in adapted.positions:
            way_back = theta.weights[i] - adapted.weights[i]
            way_back *= tf.cast(weight, way_back.dtype)
            # The optimizer divides by the scale of the loss.
            gradients.weights[i] = scale_loss(way_back)
        return loss, aux, gradients


@keras.saving.register_keras_serializable(package="keras_maml")
class Implicit(MetaGradient):
    """Implicit MAML: the gradient at the end of the inner loop.

    The inner loop minimises the support loss plus λ/2 ‖φ − θ‖². At the minimum
    φ, the implicit function theorem gives dφ/dθ = (I + H/λ)⁻¹, where H is the
    Hessian of the support loss at φ. Conjugate gradients multiply this matrix
    by the gradient of the query loss. Each of their steps computes one
    Hessian-vector product, and H is never formed. Memory does not grow with
    the number of inner steps. The gradient depends on how near φ is to the
    minimum, but not on the path to φ.

    Weights that do not adapt also get their exact implicit gradient.

    Args:
        proximal: float above 0, the strength λ, in training and in
            evaluation. Defaults to `2.0`.
        cg_steps: int, at least 1, the number of steps of conjugate gradients.
            Defaults to `5`.

    Raises:
        ValueError: if an argument does not have this form.

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
    starts_from_theta = True
    needs_minimum = True

    def __init__(self, proximal: float = 2.0, cg_steps: int = 5) -> None:
        self.proximal = check_number("proximal", proximal, above=0)
        self.cg_steps = check_integer("cg_steps", cg_steps)

    def support_term(
        self, weights: list[tf.Tensor], start: list[tf.Tensor]
    ) -> tf.Tensor:
        """Returns λ/2 ‖φ − θ‖², which holds the adapted weights near θ."""
        squares = [
            tf.reduce_sum(tf.square(weight - initial))
            for weight, initial in zip(weights, start, strict=True)
        ]
        return 0.5 * self.proximal * tf.add_n(squares)

    def __call__(
        self,
        theta: Theta,
        adapt: Callable[[Theta], Any],
        query_loss: Callable[[Any], tuple[tf.Tensor, Any]],
        scale_loss: Callable[[tf.Tensor], tf.Tensor],
        weight: float | tf.Tensor = 1.0,
    ) -> tuple[tf.Tensor, Any, Theta]:
        adapted = adapt(theta)
        # The gradient does not go back through the inner loop.
        weights = [tf.stop_gradient(weight) for weight in adapted.weights]
        adapted = adapted._replace(weights=weights)
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(weights)
            loss, aux = query_loss(adapted)
            scaled = scale_loss(loss)
        query_gradient = dense_gradients(tape, scaled, weights)
        gradients = tf.nest.map_structure(tf.zeros_like, theta)
        gradients.weights[:] = self._solve(adapted, query_gradient)
        return loss, aux, gradients

    def _solve(self, adapted, query_gradient):
        """Returns the gradient for each of the learner's weights.

        Let x = (I + H/λ)⁻¹ ∇L_query. The gradient is x for weights φ that
        adapt, and ∇_ω L_query − ∂/∂ω ⟨∇_φ L_support(φ, ω), x⟩ / λ for the
        other weights ω.
        """
        weights, positions = adapted.weights, adapted.positions
        others = [i for i in range(len(weights)) if i not in positions]
        moving = [weights[i] for i in positions]
        fixed = [weights[i] for i in others]
        # Recorded once: each product below is one pass back through the tape.
        with tf.GradientTape(
            persistent=True, watch_accessed_variables=False
        ) as outer:
            outer.watch(weights)
            with tf.GradientTape(watch_accessed_variables=False) as inner:
                inner.watch(moving)
                # Small gradients would vanish in half precision.
                scaled = adapted.support_loss(weights) * adapted.loss_scale
            support_gradient = [
                g / adapted.loss_scale
                for g in dense_gradients(inner, scaled, moving)
            ]

        def product(vector):
            """Multiplies a vector by I + H/λ."""
            curvature = dense_gradients(outer, support_gradient, moving, vector)
            return plus(vector, 1 / self.proximal, curvature)

        solution = conjugate_gradient(
            product, [query_gradient[i] for i in positions], self.cg_steps
        )
        gradients = list(query_gradient)
        for i, value in zip(positions, solution, strict=True):
            gradients[i] = value
        if fixed:
            mixed = dense_gradients(outer, support_gradient, fixed, solution)
            for i, value in zip(others, mixed, strict=True):
                gradients[i] -= value / self.proximal
        return gradients

    def get_config(self) -> dict[str, Any]:
        return {"proximal": self.proximal, "cg_steps": self.cg_steps}


_NAMES = {
    "second_order": SecondOrder,
    "first_order": FirstOrder,
    "reptile": Reptile,
    "implicit": Implicit,
}


def get(identifier: str | dict[str, Any] | MetaGradient) -> MetaGradient:
    """Returns the `MetaGradient` of a name or config, or the object itself.

    Raises:
        ValueError: if `identifier` is something else.

    Example:

    ```python
    meta_gradient = keras_maml.meta_gradients.get("first_order")
    ```
    """
    return resolve("meta_gradient", identifier, MetaGradient, _NAMES)
