"""SavedModels of policies that adapt without this library."""

import keras
import tensorflow as tf

from keras_maml.rl.trajectories import Trajectories


def export(search, filepath, verbose, **options):
    """Writes a `MetaPolicySearch`, see `MetaPolicySearch.export`."""
    if options != {"format": "tf_saved_model", "input_signature": None}:
        received = (f"{name}={value!r}" for name, value in options.items())
        raise ValueError(
            'Only `format="tf_saved_model"` can hold the inner loop, and the '
            f"environment gives the shapes. Received: {', '.join(received)}"
        )
    environment = search.environment
    steps = (search.episodes, environment.horizon)
    seen = environment.observation_shape
    actions = environment.actions
    query = tf.TensorSpec((None, *seen), tf.float32, "query_observations")

    def act(query_observations):
        return search.policy(query_observations)

    def serve(observations, actions, rewards, valid, query_observations):
        task_learner, adapted = search.search_state.learner.adapt(
            [Trajectories(observations, actions, rewards, valid)]
        )
        return task_learner.predict(adapted, query_observations).outputs

    archive = keras.export.ExportArchive()
    archive.track(search)
    archive.add_endpoint(
        "serve",
        serve,
        input_signature=[
            tf.TensorSpec((*steps, *seen), tf.float32, "observations"),
            tf.TensorSpec((*steps, *actions.shape), actions.dtype, "actions"),
            tf.TensorSpec(steps, tf.float32, "rewards"),
            tf.TensorSpec(steps, tf.float32, "valid"),
            query,
        ],
    )
    archive.add_endpoint("act", act, input_signature=[query])
    archive.write_out(filepath, verbose=verbose)
