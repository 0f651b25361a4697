"""Settings of a `MetaModel` that cannot go together, and why."""


def check(meta_model):
    """Raises `ValueError` if two settings contradict each other."""
    gradient = meta_model.meta_gradient
    if not gradient.through_inner_loop:
        name = type(gradient).__name__
        per_step = type(meta_model.outer_loss).__name__
        if per_step != "LastStep":
            raise ValueError(
                f"`meta_gradient` {name} looks at the end of the inner loop "
                "alone: the query losses of earlier steps cannot count. "
                f"Received: outer_loss={per_step}"
            )
        if meta_model.normalization == "per_step":
            raise ValueError(
                f"`meta_gradient` {name} does not go through the inner steps, "
                "so their scales would not be trained. "
                'Received: normalization="per_step"'
            )
    if gradient.proximal and getattr(
        meta_model.inner_optimizer, "weight_decay", None
    ):
        raise ValueError(
            "The implicit gradient holds where the inner loop ends at a "
            "minimum, which weight decay moves. Put it into the learner as an "
            "L2 regulariser. Received: weight_decay="
            f"{meta_model.inner_optimizer.weight_decay}"
        )
    if meta_model.head_init is not None:
        rate = getattr(meta_model.inner_optimizer, "learning_rate", None)
        if getattr(rate, "per", "model") != "model":
            raise ValueError(
                "A head that starts from prototypes has no weights of its own "
                'to learn rates for; use `LearnedRate(per="model")`. '
                f"Received: per={rate.per!r}"
            )
        if gradient.proximal:
            raise ValueError(
                "A head that starts from prototypes is not part of θ, from "
                "which the implicit gradient starts. "
                f"Received: head_init={meta_model.head_init!r}"
            )
        if meta_model.task_map == "vectorized":
            raise ValueError(
                '`task_map="vectorized"` needs sizes that are known when the '
                "step is traced, and the number of classes of a head from "
                "prototypes is not. "
                f"Received: head_init={meta_model.head_init!r}"
            )


def check_built(meta_model, positions):
    """The same, where it takes the learner's weights to tell.

    Args:
        meta_model: a `MetaModel` with a built learner.
        positions: list of ints, which of the trainable variables adapt.
    """
    gradient = meta_model.meta_gradient
    if gradient.through_inner_loop:
        return
    name = type(gradient).__name__
    if meta_model._untracked.outer.parameters:
        raise ValueError(
            f"`meta_gradient` {name} does not go through the inner steps, so "
            "learned rates would never change. Received: inner_optimizer="
            f"{meta_model.inner_optimizer.get_config()}"
        )
    variables = meta_model.learner.trainable_variables
    if not gradient.proximal and len(positions) < len(variables):
        left = [v.path for i, v in enumerate(variables) if i not in positions]
        raise ValueError(
            f"`meta_gradient` {name} trains only what adapts. Freeze the other "
            "weights (`layer.trainable = False`), or let them adapt. "
            f"Received: {left} that do not adapt"
        )
