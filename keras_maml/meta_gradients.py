"""The `meta_gradient` axis: how the outer loss is derived with respect to θ."""

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
        rematerialize: bool. Whether it computes each inner step anew.
        support_term: function of the adapted weights and of those that the
            inner loop started from, two lists of tensors, that returns a
            scalar which the support loss gets; or `None`.
        through_inner_loop: bool. Whether all that the inner loop uses gets a
            gradient, and not only what it starts from: learned rates, and
            outer losses of earlier steps, need that.
        trains_adapted_alone: bool. Whether weights that do not adapt get no
            gradient.
        starts_from_theta: bool. Whether every weight that adapts must start
            from one of θ.
        needs_minimum: bool. Whether it takes the end of the inner loop for a
            minimum of the support loss.
    """

    second_order = True
    rematerialize = False
    support_term: Callable | None = None
    through_inner_loop = True
    trains_adapted_alone = False
    starts_from_theta = False
    needs_minimum = False

    def __call__(
        self,
        theta: Theta,
        adapt: Callable,
        query_loss: Callable,
        scale_loss: Callable,
        weight: Any = 1.0,
    ) -> tuple[Any, Any, Theta]:
        """The outer loss of one task and its gradient.

        Args:
            theta: a `Theta` of tensors.
            adapt: function of θ that returns an `AdaptedTask`.
            query_loss: function of the adapted task that returns
                `(loss, aux)`: a scalar, and anything.
            scale_loss: function of the loss, whose value is derived instead
                (for mixed precision).
            weight: scalar, how much the task counts where the gradient is
                not that of the loss, which has this factor in it already: the
                mean `sample_weight` over the number of replicas.

        Returns:
            A tuple `(loss, aux, gradients)`; `gradients` is a `Theta` with a
            tensor for each in `theta`.
        """
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(theta)
            loss, aux = query_loss(adapt(theta))
            scaled = scale_loss(loss)
        return loss, aux, dense_gradients(tape, scaled, theta)


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
    trains_adapted_alone = True

    def __call__(
        self,
        theta: Theta,
        adapt: Callable,
        query_loss: Callable,
        scale_loss: Callable,
        weight: Any = 1.0,
    ) -> tuple[Any, Any, Theta]:
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
    starts_from_theta = True
    needs_minimum = True

    def __init__(self, proximal: float = 2.0, cg_steps: int = 5) -> None:
        self.proximal = check_number("proximal", proximal, above=0)
        self.cg_steps = check_integer("cg_steps", cg_steps)

    def support_term(self, weights: list, start: list) -> Any:
        """λ/2 ‖φ − θ‖², what holds the adapted weights near θ."""
        squares = [
            tf.reduce_sum(tf.square(w - s))
            for w, s in zip(weights, start, strict=True)
        ]
        return 0.5 * self.proximal * tf.add_n(squares)

    def __call__(
        self,
        theta: Theta,
        adapt: Callable,
        query_loss: Callable,
        scale_loss: Callable,
        weight: Any = 1.0,
    ) -> tuple[Any, Any, Theta]:
        adapted = adapt(theta)
        # Where the inner loop has come to is a constant from here on.
        weights = [tf.stop_gradient(w) for w in adapted.weights]
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
        """The gradient for each of the learner's weights.

        With x = (I + H/λ)⁻¹ ∇L_query, it is x for weights φ that adapt and
        −∂/∂ω ⟨∇_φ L_support(φ, ω), x⟩ / λ + ∇_ω L_query for the others, ω.
        """
        weights, positions = adapted.weights, adapted.positions
        others = [i for i in range(len(weights)) if i not in positions]
        moving = [weights[i] for i in positions]
        fixed = [weights[i] for i in others]
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
                for g in dense_gradients(inner, scaled, moving)
            ]

        def product(vector):
            """(I + H/λ) times a vector."""
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


def get(identifier: str | dict | MetaGradient) -> MetaGradient:
    """A `MetaGradient` from a name, a config or itself.

    Raises:
        ValueError: for anything else.
    """
    return resolve("meta_gradient", identifier, MetaGradient, _NAMES)
