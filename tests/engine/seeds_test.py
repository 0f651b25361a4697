"""Random numbers of tasks, steps, calls and replicas: none is drawn twice."""

import keras
import numpy as np
import tensorflow as tf

import keras_maml
from keras_maml.engine import seeds


class Recorder(keras.layers.Layer):
    """Draws a mask in every call, and keeps it."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.seed_generator = keras.random.SeedGenerator(3)
        self.drawn = []

    def call(self, inputs, training=False):
        if not training:
            return inputs
        mask = keras.random.uniform((20,), seed=self.seed_generator) < 0.5
        if isinstance(mask, tf.__internal__.EagerTensor):
            self.drawn.append(tuple(mask.numpy().tolist()))
        return inputs * keras.ops.cast(mask, inputs.dtype)


def recording_model(**settings):
    recorder = Recorder()
    learner = keras.Sequential(
        [
            keras.Input((20,)),
            recorder,
            keras.layers.BatchNormalization(),
            keras.layers.Dense(3),
        ]
    )
    meta_model = keras_maml.MetaModel(
        learner, inner_loss="mse", inner_steps=5, **settings
    )
    return meta_model, recorder


def draw(meta_model, numbers, watch=None):
    """Runs tasks one by one, in eager execution and in training mode."""
    x = {
        "support_x": tf.ones((4, 20)),
        "support_y": tf.ones((4, 3)),
    }
    if meta_model.head_init:
        x["support_y"] = tf.constant([0, 1, 0, 1])
    task_learner = meta_model.meta_state.task_learner(
        training=True, support_y=x["support_y"]
    )
    for number in numbers:
        adapted = task_learner.adapt(
            meta_model.meta_state.theta(),
            {"x": x, "number": number},
            watch=watch and (lambda task: watch(task_learner, task)),
        )
        task_learner.predict(adapted, tf.ones((4, 20)))


def test_masks_of_8_tasks_and_6_draws_all_differ():
    meta_model, recorder = recording_model()
    draw(meta_model, seeds.task_numbers(8))
    assert len(recorder.drawn) == 8 * 6
    assert len(set(recorder.drawn)) == 8 * 6


def test_calls_beside_the_inner_loop_draw_their_own():
    def query_loss(task_learner, adapted):
        output = task_learner.predict(adapted, tf.ones((4, 20)))
        return tf.reduce_sum(output.outputs)

    meta_model, recorder = recording_model(normalization="support")
    draw(meta_model, seeds.task_numbers(2), query_loss)
    # Five steps; before four of them, and at the end, the support set's
    # statistics and the queries.
    assert len(recorder.drawn) == 2 * (5 + 2 * 5)
    assert len(set(recorder.drawn)) == len(recorder.drawn)


def test_prototypes_and_implicit_gradients_draw_their_own():
    meta_model, recorder = recording_model(head_init="prototypes")
    meta_model.inner_loss = "sparse_categorical_crossentropy"
    draw(meta_model, seeds.task_numbers(2))
    assert len(set(recorder.drawn)) == len(recorder.drawn) == 2 * (1 + 6)

    meta_model, recorder = recording_model(meta_gradient="implicit")
    meta_model.compile(optimizer="sgd", loss="mse", run_eagerly=True)
    x = {
        "support_x": np.ones((2, 4, 20), "f"),
        "support_y": np.ones((2, 4, 3), "f"),
        "query_x": np.ones((2, 4, 20), "f"),
    }
    meta_model.train_on_batch(x, np.ones((2, 4, 3), "f"))
    assert len(set(recorder.drawn)) == len(recorder.drawn) == 2 * (6 + 1)


def test_calls_that_start_from_one_state_draw_their_own():
    # The state at the end of the inner loop is that of the queries, of the
    # pass that computes their statistics, and of the implicit gradient's
    # support loss.
    meta_model, recorder = recording_model(
        meta_gradient="implicit", normalization="support"
    )
    meta_model.compile(optimizer="sgd", loss="mse", run_eagerly=True)
    x = {
        "support_x": np.ones((1, 4, 20), "f"),
        "support_y": np.ones((1, 4, 3), "f"),
        "query_x": np.ones((1, 4, 20), "f"),
    }
    meta_model.train_on_batch(x, np.ones((1, 4, 3), "f"))
    assert len(set(recorder.drawn)) == len(recorder.drawn) == 5 + 3


def test_a_training_step_moves_the_seeds_by_one_draw():
    meta_model, recorder = recording_model()
    meta_model.compile(optimizer="sgd", loss="mse", run_eagerly=True)
    x = {
        "support_x": np.ones((3, 4, 20), "f"),
        "support_y": np.ones((3, 4, 3), "f"),
        "query_x": np.ones((3, 4, 20), "f"),
    }
    seed = recorder.seed_generator.state
    first, second = np.array(seed).tolist()
    for step in (1, 2):
        meta_model.train_on_batch(x, np.ones((3, 4, 3), "f"))
        assert np.array(seed).tolist() == [first, second + step]


def test_steps_of_the_outer_loop_draw_their_own():
    meta_model, recorder = recording_model()
    for _ in range(3):
        draw(meta_model, seeds.task_numbers(2))
        seeds.advance(meta_model.learner)
    assert len(set(recorder.drawn)) == len(recorder.drawn) == 3 * 2 * 6


def test_replicas_with_uneven_tasks_share_no_number():
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])

    @tf.function
    def numbers():
        def of_replica():
            context = tf.distribute.get_replica_context()
            replica = context.replica_id_in_sync_group
            return seeds.task_numbers(3 - replica)

        return strategy.experimental_local_results(strategy.run(of_replica))

    first, second = numbers()
    assert (first.shape, second.shape) == ((3,), (2,))
    assert not set(first.numpy()) & set(second.numpy())
    # Numbers that far apart still give other seeds.
    meta_model, recorder = recording_model()
    draw(meta_model, [*first, *second])
    assert len(set(recorder.drawn)) == 5 * 6
