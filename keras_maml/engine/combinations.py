"""Checks that the settings of a `MetaModel` fit together.

The object of each axis has attributes that say what it needs. The checks use
these attributes, and never the class of an object.
"""


def check(meta_model):
    """Raises `ValueError` if two settings contradict each other."""
    gradient = meta_model.meta_gradient
    name = type(gradient).__name__
    if not gradient.through_inner_loop:
        if meta_model.outer_loss.needs_every_step:
            raise ValueError(
                f"`meta_gradient` {name} uses only the end of the inner loop, "
                "so the query losses of earlier steps cannot count. "
                f"Received: outer_loss={type(meta_model.outer_loss).__name__}"
            )
        if meta_model.normalization == "per_step":
            raise ValueError(
                f"`meta_gradient` {name} does not go through the inner steps, "
                "so the scales of these steps would not be trained. "
                'Received: normalization="per_step"'
            )
    if gradient.needs_minimum and not meta_model.inner_optimizer.seeks_minimum:
        raise ValueError(
            f"`meta_gradient` {name} needs an inner loop that ends at a "
            "minimum of the support loss, and this `inner_optimizer` seeks "
            "another point. Instead of weight decay, add an L2 "
            "regulariser to the learner. Received: inner_optimizer="
            f"{meta_model.inner_optimizer.get_config()}"
        )
    if meta_model.head_init is not None:
        _check_head(meta_model)


def _check_head(meta_model):
    if meta_model.inner_optimizer.needs_fixed_weights:
        raise ValueError(
            "`LearnedRate` cannot learn rates for the weights of a head that "
            "starts from prototypes, because each task makes a new head. Use "
            '`LearnedRate(per="model")`. '
            "Received: inner_optimizer="
            f"{meta_model.inner_optimizer.get_config()}"
        )
    if meta_model.meta_gradient.starts_from_theta:
        raise ValueError(
            "A head that starts from prototypes is not part of θ, but "
            f"`meta_gradient` {type(meta_model.meta_gradient).__name__} needs "
            "an inner loop that starts from θ. "
            f"Received: head_init={meta_model.head_init!r}"
        )
    if meta_model.task_map == "compiled":
        raise ValueError(
            '`task_map="compiled"` needs sizes that are known '
            "when the step is traced, but the number of classes of a head that "
            "starts from prototypes is not known then. "
            f"Received: head_init={meta_model.head_init!r}"
        )


def check_built(meta_model, positions, parameters):
    """Raises `ValueError` if a setting does not fit the learner's weights.

    Args:
        meta_model: a `MetaModel` with a built learner.
        positions: list of ints, the positions of the trainable variables that
            adapt.
        parameters: list, the learned parameters of the inner optimizer.
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
    if gradient.trains_only_adapted and len(positions) < len(variables):
        fixed = [v.path for i, v in enumerate(variables) if i not in positions]
        raise ValueError(
            f"`meta_gradient` {name} trains only weights that adapt. Freeze "
            "the other weights (`layer.trainable = False`), or let them adapt. "
            f"Received: adapted_weights={meta_model.adapted_weights!r}, which "
            f"leaves out {fixed}"
        )
