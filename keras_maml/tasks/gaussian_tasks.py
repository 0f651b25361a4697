"""A distribution over distributions: Gaussian tasks drawn from a Gaussian."""

import math

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import ArrayLike

from keras_maml.tasks.task_distribution import BLOCK
from keras_maml.tasks.task_distribution import EpisodeTensors
from keras_maml.tasks.task_distribution import TaskDistribution
from keras_maml.tasks.task_distribution import normal
from keras_maml.tasks.task_distribution import split_points
from keras_maml.tasks.task_distribution import split_seed
from keras_maml.validation import check_integer
from keras_maml.validation import check_number

_KINDS = ("density", "regression")


class GaussianTasks(TaskDistribution):
    """Gaussian distributions as tasks, drawn from a Gaussian distribution.

    P = N(0, Σ) is a distribution over distributions. A draw from P is the
    parameter vector ω_i of a distribution p_i, which is the task. Draws from
    p_i are the data of the support and query sets. With d for `dimension`:

    - `kind="density"`: ω_i = (μ_i, log σ_i), 2d numbers, and
      p_i(y) = N(y; μ_i, diag(σ_i²)). The task is to estimate ω_i from points of
      p_i. Targets are the points, `(d,)`. A density has no input, so the input
      is the constant 1, `(1,)`. The learner's output is its estimate of ω_i,
      `(2d,)`. To score the estimate on points, use
      `GaussianTasks.negative_log_likelihood` as the inner and the outer loss.
    - `kind="regression"`: ω_i = (w_i, b_i), d + 1 numbers, and
      p_i(x, y) = N(x; 0, I) N(y; w_i·x + b_i, `noise`²). Inputs are `(d,)`,
      targets `(1,)`. The loss is the mean squared error, and no learner gets it
      below `noise`² on average.

    P is known, so the best estimate is known as well: P is the prior of a
    Bayesian estimate of ω_i, and a few steps of MAML approximate the mode of
    the posterior.

    Args:
        k_shot: int. The number of support examples of an episode. Defaults to
            `10`.
        q_query: int. The number of query examples of an episode. Defaults to
            `10`.
        kind: `"density"` or `"regression"`. Defaults to `"density"`.
        dimension: int. d above. Defaults to `2`.
        covariance: array of shape `(parameters, parameters)`, with 2d
            parameters for a density and d + 1 for a regression, in the order
            above. Σ, symmetric and positive semidefinite. Defaults to `None`:
            independent parameters. Their standard deviations are 2 for μ and
            0.5 for log σ of a density, and 1 for w and b of a regression.
        noise: float. For a regression, the standard deviation of y about the
            line. Defaults to `0.1`.
        seed: int. See `TaskDistribution`. Defaults to `0`.

    Attributes:
        covariance: float64 array. Σ.

    Raises:
        ValueError: If `k_shot`, `q_query` or `dimension` is not a positive
            integer, `kind` is unknown, `covariance` has the wrong shape, holds
            NaN or infinity or is not a covariance, `noise` is negative or
            `seed` is not an integer between 0 and 2**32 - 1.

    Example:

    >>> from keras_maml import tasks
    >>> densities = tasks.GaussianTasks(k_shot=5, kind="density", dimension=2)
    >>> x, y = densities.episode(0)
    >>> x["support_x"].shape, x["support_y"].shape, y.shape
    ((5, 1), (5, 2), (10, 2))
    >>> sorted(densities.parameters(0))
    ['log_sigma', 'mean']

    Reference:

    - [Grant et al., 2018](https://arxiv.org/abs/1801.08930), section 3, for
      MAML as inference of each task's parameters under a learned prior.
    """

    def __init__(
        self,
        k_shot: int = 10,
        q_query: int = 10,
        *,
        kind: str = "density",
        dimension: int = 2,
        covariance: ArrayLike | None = None,
        noise: float = 0.1,
        seed: int = 0,
    ) -> None:
        super().__init__(seed)
        self.k_shot = check_integer("k_shot", k_shot)
        self.q_query = check_integer("q_query", q_query)
        if kind not in _KINDS:
            raise ValueError(
                f"`kind` must be one of {_KINDS}. Received: kind={kind!r}"
            )
        self.kind = kind
        self.dimension = check_integer("dimension", dimension)
        self.noise = check_number("noise", noise, minimum=0)
        if covariance is None:
            if kind == "density":
                stddev = np.repeat([2.0, 0.5], self.dimension)
            else:
                stddev = np.ones(self.dimension + 1)
            covariance = np.diag(stddev**2)
        size = 2 * self.dimension if kind == "density" else self.dimension + 1
        self.covariance, self._root = _check_covariance(covariance, size)

    @staticmethod
    @keras.saving.register_keras_serializable(package="keras_maml")
    def negative_log_likelihood(
        y_true: tf.Tensor, y_pred: tf.Tensor
    ) -> tf.Tensor:
        """Scores predicted parameters of a density on points drawn from it.

        This is the loss function of `kind="density"`: pass it to `compile` or
        as `inner_loss`. With the true parameters, its mean over points of p_i
        is the entropy of p_i. No learner gets below the entropy on average.

        Args:
            y_true: tensor of shape `(..., d)`. Points.
            y_pred: tensor of shape `(..., 2 * d)`. μ and log σ.

        Returns:
            Tensor of shape `(...)`, in nats.

        Example:

        >>> import numpy as np
        >>> from keras_maml import tasks
        >>> loss = tasks.GaussianTasks.negative_log_likelihood
        >>> print(f"{float(loss(np.zeros([2]), np.zeros([4]))):.4f}")
        1.8379
        """
        y_pred = keras.ops.convert_to_tensor(y_pred)
        y_true = keras.ops.cast(y_true, y_pred.dtype)
        mean, log_sigma = keras.ops.split(y_pred, 2, axis=-1)
        distance = (y_true - mean) * keras.ops.exp(-log_sigma)
        nats = 0.5 * distance**2 + log_sigma + 0.5 * math.log(2 * math.pi)
        return keras.ops.sum(nats, axis=-1)

    def parameters(self, index: int) -> dict[str, np.ndarray]:
        """Returns the true parameters of an episode's p_i.

        Args:
            index: int. The episode's number, at least 0.

        Returns:
            For a density `{"mean": μ_i, "log_sigma": log σ_i}`, each of shape
            `(d,)`; for a regression `{"weights": w_i, "bias": b_i}`, of shapes
            `(d,)` and `()`.

        Raises:
            ValueError: If `index` is negative or not an integer.
        """
        drawn = self._drawn(index)["parameters"]
        first, second = drawn[: self.dimension], drawn[self.dimension :]
        if self.kind == "density":
            return {"mean": first, "log_sigma": second}
        return {"weights": first, "bias": second[0]}

    def _draw(self, seed: tf.Tensor) -> dict[str, tf.Tensor]:
        seeds = split_seed(seed, 3)
        standard = normal(seeds[0], [BLOCK, 1, len(self._root)])
        parameters = tf.reduce_sum(self._root * standard, axis=-1)
        first = parameters[:, None, : self.dimension]
        second = parameters[:, None, self.dimension :]
        shape = [BLOCK, self.k_shot + self.q_query]
        if self.kind == "density":
            x = tf.ones([*shape, 1])
            y = normal(seeds[1], [*shape, self.dimension])
            y = first + tf.exp(second) * y
        else:
            x = normal(seeds[1], [*shape, self.dimension])
            y = tf.reduce_sum(first * x, axis=-1, keepdims=True) + second
            y += self.noise * normal(seeds[2], [*shape, 1])
        return {"parameters": parameters, "x": x, "y": y}

    def _realize(self, drawn: dict[str, tf.Tensor]) -> EpisodeTensors:
        return split_points(drawn["x"], drawn["y"], self.k_shot)


def _check_covariance(covariance, size):
    """Returns Σ in float64 and its symmetric square root in float32."""
    try:
        covariance = np.asarray(covariance, "float64")
    except (TypeError, ValueError):
        covariance = np.array(math.nan)
    problem = None
    if covariance.shape != (size, size):
        problem = f"of shape {covariance.shape}"
    elif not np.isfinite(covariance).all():
        problem = "that holds NaN or infinity"
    elif not np.allclose(covariance, covariance.T):
        problem = "that is not symmetric"
    else:
        values, vectors = np.linalg.eigh(covariance)
        if values.min() < -1e-9 * np.abs(values).max():
            problem = f"with an eigenvalue of {values.min():.3g}"
    if problem is not None:
        raise ValueError(
            f"`covariance` must be a covariance matrix of shape {size, size}. "
            f"Received: covariance {problem}"
        )
    root = (vectors * np.sqrt(values.clip(0.0))) @ vectors.T
    return covariance, root.astype("float32")
