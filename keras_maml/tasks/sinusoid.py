"""The sinusoid tasks of the MAML paper."""

import math

import tensorflow as tf

from keras_maml.tasks.task_distribution import BLOCK
from keras_maml.tasks.task_distribution import EpisodeTensors
from keras_maml.tasks.task_distribution import TaskDistribution
from keras_maml.tasks.task_distribution import normal
from keras_maml.tasks.task_distribution import split_points
from keras_maml.tasks.task_distribution import split_seed
from keras_maml.tasks.task_distribution import uniform
from keras_maml.validation import check_integer
from keras_maml.validation import check_number
from keras_maml.validation import check_range


class Sinusoid(TaskDistribution):
    """Regression tasks y = A·sin(x − φ), each with its own A and φ.

    The amplitude A, the phase φ and every x are uniform in the given ranges.

    Args:
        k_shot: int. The number of support examples of an episode. Defaults to
            `10`.
        q_query: int. The number of query examples of an episode. Defaults to
            `10`.
        amplitude: pair of floats. The range of A. Defaults to `(0.1, 5.0)`.
        phase: pair of floats, in radians. The range of φ. Defaults to
            `(0.0, math.pi)`.
        x_range: pair of floats. The range of x. Defaults to `(-5.0, 5.0)`.
        noise: float. Standard deviation of the normal noise added to the y of
            support and query. Defaults to `0.0`.
        seed: int. See `TaskDistribution`. Defaults to `0`.

    Raises:
        ValueError: If `k_shot` or `q_query` is not a positive integer, a range
            is not two finite numbers in ascending order, `noise` is negative
            or `seed` is not an integer between 0 and 2**32 - 1.

    Example:

    >>> from keras_maml import tasks
    >>> sinusoid = tasks.Sinusoid(k_shot=5, seed=1)
    >>> x, y = sinusoid.episode(0)
    >>> x["support_x"].shape, x["support_y"].shape, y.shape
    ((5, 1), (5, 1), (10, 1))
    >>> sorted(sinusoid.parameters(0))
    ['amplitude', 'phase']

    Reference:

    - [Finn et al., 2017](https://arxiv.org/abs/1703.03400), section 5.1.
    """

    def __init__(
        self,
        k_shot: int = 10,
        q_query: int = 10,
        *,
        amplitude: tuple[float, float] = (0.1, 5.0),
        phase: tuple[float, float] = (0.0, math.pi),
        x_range: tuple[float, float] = (-5.0, 5.0),
        noise: float = 0.0,
        seed: int = 0,
    ) -> None:
        super().__init__(seed)
        self.k_shot = check_integer("k_shot", k_shot)
        self.q_query = check_integer("q_query", q_query)
        self.amplitude = check_range("amplitude", amplitude)
        self.phase = check_range("phase", phase)
        self.x_range = check_range("x_range", x_range)
        self.noise = check_number("noise", noise, minimum=0)

    def parameters(self, index: int) -> dict[str, float]:
        """Returns the true function of an episode, for plots and checks.

        Args:
            index: int. The episode's number, at least 0.

        Returns:
            `{"amplitude": A, "phase": φ}`, two floats.

        Raises:
            ValueError: If `index` is negative or not an integer.
        """
        drawn = self._drawn(index)
        return {name: float(drawn[name]) for name in ("amplitude", "phase")}

    def _draw(self, seed: tf.Tensor) -> dict[str, tf.Tensor]:
        seeds = split_seed(seed, 4)
        amplitude = uniform(seeds[0], [BLOCK], *self.amplitude)
        phase = uniform(seeds[1], [BLOCK], *self.phase)
        shape = [BLOCK, self.k_shot + self.q_query, 1]
        x = uniform(seeds[2], shape, *self.x_range)
        # Computed here, where shapes never change: the last bit of a sine may
        # depend on the number's place in the tensor.
        y = amplitude[:, None, None] * tf.sin(x - phase[:, None, None])
        if self.noise:
            y += normal(seeds[3], shape, self.noise)
        return {"amplitude": amplitude, "phase": phase, "x": x, "y": y}

    def _realize(self, drawn: dict[str, tf.Tensor]) -> EpisodeTensors:
        return split_points(drawn["x"], drawn["y"], self.k_shot)
