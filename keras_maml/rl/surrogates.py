"""Surrogates: losses whose gradient is the policy gradient.

Each is a function `(log_probs, old_log_probs, advantages, valid)` of tensors
`(N, H)` for one task. It returns a scalar, the mean over the steps that were
taken. `log_probs` are the actions' log-probabilities under the weights to
differentiate, `old_log_probs` those under the policy that drew the actions.
Where the two are equal, all surrogates have the same gradient. Their second
derivatives differ, which matter in a second-order meta-gradient.
"""

import tensorflow as tf

from keras_maml.rl.meta_objective import mean


def score_function(log_probs, old_log_probs, advantages, valid):
    """Minus the mean of log π · A, as in MAML's released code.

    Its Hessian ignores that the weights decide which actions are drawn.
    """
    return -mean(log_probs * advantages, valid)


def lvc(log_probs, old_log_probs, advantages, valid):
    """Minus the mean of π/π_old · A: low-variance curvature.

    Its Hessian takes into account how the weights decide each action, and
    ignores how earlier actions decide the state: little variance, a small bias.

    Reference:
        Rothfuss et al., 2019, "ProMP: Proximal Meta-Policy Search", section
        5.1.
    """
    # Ratios after the end of an episode do not count, but could overflow.
    ratio = tf.exp((log_probs - old_log_probs) * valid)
    return -mean(ratio * advantages, valid)


def dice(log_probs, old_log_probs, advantages, valid):
    """Minus the mean of Σ_t (M_t − M_{t−1}) A_t: DiCE, with a baseline.

    M_t is the ratio of the probabilities of all actions up to t. For given
    advantages, its derivatives of any order are unbiased estimates of the
    expected return's derivatives. Its variance is the largest of the three. As
    in the other two, advantages count as constants.

    Reference:
        Foerster et al., 2018, "DiCE: The Infinitely Differentiable Monte Carlo
        Estimator", equation 6; Farquhar et al., 2019, "Loaded DiCE", equation
        10, for advantages. Deviation: later states are not discounted.
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
