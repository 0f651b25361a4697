"""Roll-outs: policies acting in an environment."""

import tensorflow as tf

from keras_maml.rl.trajectories import Trajectories


def roll_out(environment, act, tasks, episodes, seed):
    """Runs some episodes of every task, all of them side by side.

    Args:
        environment: an `Environment`.
        act: function of observations `(T, N, *observation_shape)` that returns
            the policies' outputs, `(T, N, ...)`, each task's of its own.
        tasks: structure of tensors `(T, ...)`.
        episodes: int, N.
        seed: two integers, which determine everything.

    Returns:
        `Trajectories` of tensors `(T, N, H, ...)`, with H the horizon.
    """
    count = tf.nest.flatten(tasks)[0].shape[0]
    batch = count * episodes
    horizon = environment.horizon
    tasks = tf.nest.map_structure(lambda t: tf.repeat(t, episodes, 0), tasks)
    seed = tf.cast(seed, tf.int64)

    def split(tensor):
        return tf.reshape(tensor, [count, episodes, *tensor.shape[1:]])

    def join(tensor):
        return tf.reshape(tensor, [batch, *tensor.shape[2:]])

    def body(i, state, alive, arrays):
        seeds = tf.random.experimental.stateless_fold_in(seed, i + 1)
        seeds = tf.random.split(seeds, 2)
        observations = tf.cast(environment.observe(state, tasks), tf.float32)
        if observations.shape != (batch, *environment.observation_shape):
            raise ValueError(
                "The environment's `observe` must return observations of "
                f"shape (B, *{environment.observation_shape}). Received: shape "
                f"{observations.shape} for B={batch}, from {environment!r}"
            )
        actions = join(
            environment.actions.sample(act(split(observations)), seeds[0])
        )
        new_state, rewards, ended = environment.step(
            state, actions, tasks, seeds[1]
        )
        for name, value in (("rewards", rewards), ("ended", ended)):
            if value.shape != (batch,):
                raise ValueError(
                    f"The environment's `step` must return {name} of shape "
                    f"(B,). Received: {name} of shape {value.shape} for "
                    f"B={batch}, from {environment!r}"
                )
        going_on = alive & ~tf.cast(ended, tf.bool)
        # Episodes that are over keep their last state: what would come of it
        # is nobody's concern, and must not become infinite.
        new_state = tf.nest.map_structure(
            lambda new, old: tf.where(
                tf.reshape(going_on, [batch] + [1] * (new.shape.rank - 1)),
                new,
                old,
            ),
            new_state,
            state,
        )
        values = (
            observations,
            actions,
            tf.where(alive, tf.cast(rewards, tf.float32), 0.0),
            tf.cast(alive, tf.float32),
        )
        arrays = [a.write(i, value) for a, value in zip(arrays, values)]
        return i + 1, new_state, going_on, arrays

    shapes = (
        (environment.observation_shape, tf.float32),
        (environment.actions.shape, environment.actions.dtype),
        ((), tf.float32),
        ((), tf.float32),
    )
    _, _, _, arrays = tf.while_loop(
        lambda i, state, alive, arrays: tf.reduce_any(alive),
        body,
        (
            tf.constant(0),
            environment.reset(
                tasks, tf.random.experimental.stateless_fold_in(seed, 0)
            ),
            tf.ones([batch], tf.bool),
            [
                tf.TensorArray(dtype, horizon, element_shape=[batch, *shape])
                for shape, dtype in shapes
            ],
        ),
        parallel_iterations=1,
        maximum_iterations=horizon,
    )
    return Trajectories(
        *(split(tf.einsum("hb...->bh...", array.stack())) for array in arrays)
    )
