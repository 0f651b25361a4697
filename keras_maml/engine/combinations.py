"""Settings of a `MetaModel` that cannot go together, and why.

Each answer of an axis says what it needs; here needs meet what is there. No
answer is known by its name.
"""


def check(meta_model):
    """Raises `ValueError` if two settings contradict each other."""
    gradient = meta_model.meta_gradient
    name = type(gradient).__name__
    if not gradient.through_inner_loop:
        if meta_model.outer_loss.needs_every_step:
            raise ValueError(
                f"`meta_gradient` {name} looks at the end of the inner loop "
                "alone: the query losses of earlier steps cannot count. "
                f"Received: outer_loss={type(meta_model.outer_loss).__name__}"
            )
        if meta_model.normalization == "per_step":
            raise ValueError(
                f"`meta_gradient` {name} does not go through the inner steps, "
                "so their scales would not be trained. "
                'Received: normalization="per_step"'
            )
    if gradient.needs_minimum and not meta_model.inner_optimizer.seeks_minimum:
        raise ValueError(
            f"`meta_gradient` {name} holds where the inner loop ends at a "
            "minimum of the support loss, and this `inner_optimizer` seeks "
            "another point. In the place of weight decay, add an L2 "
            "regulariser to the learner. Received: inner_optimizer="
            f"{meta_model.inner_optimizer.get_config()}"
        )
    if meta_model.head_init is not None:
        _check_head(meta_model)


def _check_head(meta_model):
    if meta_model.inner_optimizer.needs_fixed_weights:
        raise ValueError(
            "A head that starts from prototypes has no weights of its own "
            'to learn rates for; use `LearnedRate(per="model")`. '
            "Received: inner_optimizer="
            f"{meta_model.inner_optimizer.get_config()}"
        )
    if meta_model.meta_gradient.starts_from_theta:
        raise ValueError(
            "A head that starts from prototypes is not part of θ, from "
            f"which `meta_gradient` {type(meta_model.meta_gradient).__name__} "
            f"starts. Received: head_init={meta_model.head_init!r}"
        )
    if meta_model.task_map == "vectorized":
        raise ValueError(
            '`task_map="vectorized"` needs sizes that are known when the '
            "step is traced, and the number of classes of a head from "
            "prototypes is not. "
            f"Received: head_init={meta_model.head_init!r}"
        )


def check_built(meta_model, positions, parameters):
    """The same, where it takes the learner's weights to tell.

    Args:
        meta_model: a `MetaModel` with a built learner.
        positions: list of ints, which of the trainable variables adapt.
        parameters: list, what the inner optimizer learns.
    """
    gradient = meta_model.meta_gradient
    name = type(gradient).__name__
    if parameters and not gradient.through_inner_loop:
        raise ValueError(
            f"`meta_gradient` {name} does not go through the inner steps, so "
            "learned rates would never change. Received: inner_optimizer="
            f"{meta_model.inner_optimizer.get_config()}"
        )
    variables = meta_model.learner.trainable_variables
    if gradient.trains_adapted_alone and len(positions) < len(variables):
        left = [v.path for i, v in enumerate(variables) if i not in positions]
        raise ValueError(
            f"`meta_gradient` {name} trains only what adapts. Freeze the other "
            "weights (`layer.trainable = False`), or let them adapt. "
            f"Received: {left} that do not adapt"
        )
