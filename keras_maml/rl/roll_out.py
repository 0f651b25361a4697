"""Roll-outs: policies acting in an environment."""

import tensorflow as tf

from keras_maml.rl.trajectories import Trajectories


def roll_out(environment, act, tasks, episodes, seed):
    """Runs some episodes of every task, all of them side by side.

    Args:
        environment: an `Environment`.
        act: function of observations `(T, N, *observation_shape)` that returns
            outputs `(T, N, ...)`: each task's observations go to its policy.
        tasks: structure of tensors `(T, ...)`.
        episodes: int, N.
        seed: a `StatelessSeed`, which determines everything.

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

    def draw(observations, seed):
        outputs = act(split(observations))
        actions = environment.actions.sample(outputs, seed)
        return tf.reshape(actions, [batch, *actions.shape[2:]])

    def body(i, state, alive, arrays):
        step_seed = tf.random.experimental.stateless_fold_in(seed, i + 1)
        state, still_alive, values = _step(
            environment, draw, tasks, state, alive, step_seed
        )
        arrays = [a.write(i, value) for a, value in zip(arrays, values)]
        return i + 1, state, still_alive, arrays

    _, _, _, arrays = tf.while_loop(
        lambda i, state, alive, arrays: tf.reduce_any(alive),
        body,
        (
            tf.constant(0),
            environment.reset(
                tasks, tf.random.experimental.stateless_fold_in(seed, 0)
            ),
            tf.ones([batch], tf.bool),
            _empty_arrays(environment, batch),
        ),
        parallel_iterations=1,
        maximum_iterations=horizon,
    )
    return Trajectories(
        *(split(tf.einsum("hb...->bh...", array.stack())) for array in arrays)
    )


def _step(environment, draw, tasks, state, alive, seed):
    """Takes a step in B episodes.

    Returns:
        A tuple of the new states, a tensor `(B,)` that tells which episodes
        continue, and the fields of `Trajectories` for this step.
    """
    seeds = tf.random.split(seed, 2)
    observations = tf.cast(environment.observe(state, tasks), tf.float32)
    batch = alive.shape[0]
    _check_observations(observations, environment, batch)
    actions = draw(observations, seeds[0])
    new_state, rewards, ended = environment.step(
        state, actions, tasks, seeds[1]
    )
    _check_shape("rewards", rewards, environment, batch)
    _check_shape("ended", ended, environment, batch)
    still_alive = alive & ~tf.cast(ended, tf.bool)
    values = (
        observations,
        actions,
        tf.where(alive, tf.cast(rewards, tf.float32), 0.0),
        tf.cast(alive, tf.float32),
    )
    # Episodes that are over keep their last state, which stays finite.
    return _where(still_alive, new_state, state), still_alive, values


def _empty_arrays(environment, batch):
    """The fields of `Trajectories`, by step."""
    fields = (
        (environment.observation_shape, tf.float32),
        (environment.actions.shape, environment.actions.dtype),
        ((), tf.float32),
        ((), tf.float32),
    )
    return [
        tf.TensorArray(
            dtype, environment.horizon, element_shape=[batch, *shape]
        )
        for shape, dtype in fields
    ]


def _where(condition, new, old):
    """Structures `new` for episodes where `condition` is true, else `old`."""

    def choose(new, old):
        shape = [condition.shape[0]] + [1] * (new.shape.rank - 1)
        return tf.where(tf.reshape(condition, shape), new, old)

    return tf.nest.map_structure(choose, new, old)


def _check_observations(observations, environment, batch):
    if observations.shape != (batch, *environment.observation_shape):
        raise ValueError(
            "The environment's `observe` must return observations of "
            f"shape (B, *{environment.observation_shape}). Received: shape "
            f"{observations.shape} for B={batch}, from {environment!r}"
        )


def _check_shape(name, value, environment, batch):
    if value.shape != (batch,):
        raise ValueError(
            f"The environment's `step` must return {name} of shape "
            f"(B,). Received: {name} of shape {value.shape} for "
            f"B={batch}, from {environment!r}"
        )
