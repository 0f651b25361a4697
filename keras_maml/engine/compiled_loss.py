"""The compiled loss of one task."""

from keras_maml.engine.replicas import number_of_replicas


def compiled_loss(meta_model, task, output, training):
    """Returns the compiled loss of a task's queries, a scalar.

    Args:
        meta_model: a compiled `MetaModel`.
        task: dict of one task's `"x"`, `"y"` and optionally
            `"sample_weight"`.
        output: the `LearnerOutput` of the adapted learner on its queries.
        training: bool, the argument of `compute_loss`.
    """
    state = meta_model.meta_state
    state.task_losses = output.losses
    try:
        loss = meta_model.compute_loss(
            x=task["x"],
            y=task["y"],
            y_pred=output.outputs,
            sample_weight=task.get("sample_weight"),
            training=training,
        )
    finally:
        state.task_losses = None
    # Keras divides it by the number of replicas, to sum over them. Here
    # the mean over the tasks of all replicas follows.
    return loss * number_of_replicas()
