"""What a policy gradient descends: losses whose derivatives are its own.

Each is a function `(log_probs, old_log_probs, advantages, valid)` of tensors
`(N, H)` for one task that returns a scalar: the mean over the steps that were
taken. `log_probs` are those of the weights to derive for, `old_log_probs` those
of the policy that drew the actions. All have the same value of the gradient
where the two are equal: the policy gradient. They differ in the second
derivatives, which a meta-gradient goes through.
"""

import tensorflow as tf

from keras_maml.rl.meta_objective import mean


def score_function(log_probs, old_log_probs, advantages, valid):
    """Minus the mean of log π · A, as in MAML's released code.

    Its Hessian leaves out that the weights decide which actions are drawn.
    """
    return -mean(log_probs * advantages, valid)


def lvc(log_probs, old_log_probs, advantages, valid):
    """Minus the mean of π/π_old · A: low-variance curvature.

    The Hessian has the dependence of each action on the weights, without that
    of what earlier ones led to: little variance, and a small bias.

    Reference:
        Rothfuss et al., 2019, "ProMP: Proximal Meta-Policy Search", section
        5.1.
    """
    # Where no step was taken the ratio is 1, and must not overflow.
    ratio = tf.exp((log_probs - old_log_probs) * valid)
    return -mean(ratio * advantages, valid)


def dice(log_probs, old_log_probs, advantages, valid):
    """Minus the mean of Σ_t (M_t − M_{t−1}) A_t: DiCE, with a baseline.

    M_t is the ratio of the probabilities of all actions up to t. For given
    advantages, derivatives of any order are those of the expected return,
    without bias; its variance is the largest of the three. What baselines and
    standardized advantages owe to the weights is left out, as always.

    Reference:
        Foerster et al., 2018, "DiCE: The Infinitely Differentiable Monte Carlo
        Estimator", equation 6; Farquhar et al., 2019, "Loaded DiCE", equation
        10, for advantages. As usual, states do not count less for being
        later.
    """
    steps = (log_probs - old_log_probs) * valid
    until = tf.cumsum(steps, axis=-1)
    before = until - steps
    return -mean((tf.exp(until) - tf.exp(before)) * advantages, valid)


SURROGATES = {"score_function": score_function, "lvc": lvc, "dice": dice}


def check_surrogate(surrogate):
    """Raises `ValueError` if no surrogate has this name."""
    if surrogate not in SURROGATES:
        raise ValueError(
            f"`surrogate` must be one of {sorted(SURROGATES)}. "
            f"Received: surrogate={surrogate!r}"
        )
