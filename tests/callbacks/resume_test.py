"""A run that was interrupted ends as one that was not."""

import contextlib
import errno
import types

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_maml
from keras_maml.callbacks import Resume
from keras_maml.callbacks.resume import is_chief
from keras_maml.streams import EpisodeStream
from tests.rl import searches
from tests.sample_models import regression_batch
from tests.sample_models import small_mlp

SINES = keras_maml.tasks.Sinusoid(2, 2, seed=0)


class InterruptError(Exception):
    pass


class Interrupt(keras.callbacks.Callback):
    """Raises at the end of a step, counted from the start of `fit`."""

    def __init__(self, steps):
        super().__init__()
        self.left = steps

    def on_train_batch_end(self, batch, logs=None):
        self.left -= 1
        if not self.left:
            raise InterruptError


def compiled(model, optimizer=None, metrics=("mae",), **kwargs):
    # Without graphs: to trace them would take most of the time.
    model.compile(
        optimizer or keras.optimizers.Adam(0.01),
        loss="mse",
        metrics=list(metrics),
        run_eagerly=True,
        **kwargs,
    )
    return model


def plain(learner=None, **kwargs):
    settings = {"inner_optimizer": 0.1, "task_map": "loop", **kwargs}
    return keras_maml.MetaModel(learner or small_mlp(), **settings)


def scheduled():
    rates = keras.optimizers.schedules.CosineDecay(0.01, 12)
    return compiled(plain(), keras.optimizers.SGD(rates, use_ema=True))


def per_step():
    learner = small_mlp(batch_norm=True)
    return compiled(
        keras_maml.algorithms.maml_plus_plus(
            learner, inner_steps=1, task_map="loop"
        )
    )


def with_dropout():
    layers = [keras.layers.Dropout(0.5, seed=3), small_mlp()]
    learner = keras.Sequential([keras.Input((1,)), *layers])
    return compiled(plain(learner))


def with_scaled_loss():
    keras.config.set_dtype_policy("mixed_float16")
    optimizer = keras.optimizers.LossScaleOptimizer(
        keras.optimizers.Adam(), dynamic_growth_steps=2
    )
    return compiled(plain(), optimizer)


def unbuilt():
    glorot = keras.initializers.GlorotUniform
    layers = [
        keras.layers.Dense(3, "tanh", kernel_initializer=glorot(seed=1)),
        keras.layers.BatchNormalization(),
        keras.layers.Dense(1, kernel_initializer=glorot(seed=2)),
    ]
    return compiled(plain(keras.Sequential(layers)))


def keras_model():
    """A model of Keras alone, whose steps have few operations."""
    layer = keras.layers.Dense(1, kernel_initializer="ones")
    return compiled(
        keras.Sequential([keras.Input((1,)), layer]),
        keras.optimizers.SGD(0.01, momentum=0.9),
        metrics=(),
    )


def numbers(tasks, count=None, start=0):
    """A stream of (x, y) that costs less than one of tasks."""
    return EpisodeStream(points, tasks, count, start).dataset()


def points(tasks, count, start, low, high, numbered):
    end = start + (10_000 if count is None else count)

    def point(i):
        x = tf.math.sin(tf.cast(i, tf.float32))[:, None]
        return x, 3.0 * x + 1.0

    dataset = tf.data.Dataset.range(start, end).batch(tasks).map(point)
    if count is None:
        endless = tf.data.experimental.assert_cardinality(
            tf.data.INFINITE_CARDINALITY
        )
        dataset = dataset.apply(endless)
    return dataset


def keras_fit(model, *callbacks, dataset=None, epochs=3, **kwargs):
    """`fit` of such a model, by `Resume` if there is one."""
    if dataset is None:
        dataset = numbers(2)
        kwargs = {"steps_per_epoch": 4, **kwargs}
    resumes = [c for c in callbacks if isinstance(c, Resume)]
    others = [c for c in callbacks if not isinstance(c, Resume)]
    return (resumes[0].fit if resumes else keras.Model.fit)(
        model,
        dataset,
        epochs=epochs,
        callbacks=others,
        **{"shuffle": False, "verbose": 0, **kwargs},
    )


def fit(model, *callbacks, epochs=2, dataset=None, **kwargs):
    if dataset is None:
        dataset = SINES.batch(2)
        kwargs = {"steps_per_epoch": 3, **kwargs}
    kwargs = {"shuffle": False, "verbose": 0, **kwargs}
    return model.fit(
        dataset, epochs=epochs, callbacks=list(callbacks), **kwargs
    )


def state(model):
    optimizers = [
        getattr(model, name, None) for name in ("optimizer", "outer_optimizer")
    ]
    variables = [v for o in optimizers if o is not None for v in o.variables]
    return [np.array(v) for v in model.variables + variables]


def refuses(path, match, resume, fit=keras_fit, make=keras_model, **kwargs):
    """Checks the message, and that the file stays."""
    before = path.read_bytes()
    with pytest.raises(ValueError, match=match):
        fit(make(), resume, **kwargs)
    assert path.read_bytes() == before


def assert_equal(a, b):
    assert len(a) == len(b)
    for x, y in zip(a, b, strict=True):
        np.testing.assert_array_equal(x, y)


def check(path, make, stops=(3, 3), save_freq=1, run=fit, callbacks=list):
    """Interrupts a run and lets it go on; compares with an unbroken one."""
    unbroken = make()
    wanted = run(unbroken, *callbacks())
    for steps in stops:
        with pytest.raises(InterruptError):
            run(
                make(),
                *callbacks(),
                Resume(path, save_freq),
                Interrupt(steps),
            )
    resumed = make()
    history = run(resumed, Resume(path, save_freq), *callbacks())
    assert history.history == wanted.history
    assert history.epoch == wanted.epoch
    assert_equal(state(resumed), state(unbroken))
    return history


@pytest.fixture
def path(tmp_path):
    return tmp_path / "runs" / "run.resume"


@pytest.mark.parametrize(
    "make",
    [
        scheduled,
        with_dropout,
        pytest.param(unbuilt, marks=pytest.mark.slow),
        pytest.param(per_step, marks=pytest.mark.slow),
        pytest.param(with_scaled_loss, marks=pytest.mark.slow),
    ],
)
def test_a_run_goes_on_bit_for_bit(path, make):
    check(path, make)


@pytest.mark.slow
def test_a_policy_search_goes_on_bit_for_bit(path):
    with searches.eagerly():
        check(path, searches.search, (2, 2), run=search_fit)


def search_fit(search, *callbacks):
    return searches.train(
        search, 2, steps_per_epoch=2, callbacks=list(callbacks)
    )


@pytest.mark.parametrize("save_freq", ["epoch", 3])
def test_save_freq(path, save_freq):
    # After 5 and 3 + 1 more steps nothing, and then one more epoch, is saved.
    check(path, keras_model, (3, 6), save_freq, keras_fit)


def test_steps_are_numbered_on(path):
    seen = []
    callback = keras.callbacks.LambdaCallback(
        on_epoch_begin=lambda epoch, logs: seen.append(f"epoch {epoch}"),
        on_train_batch_begin=lambda batch, logs: seen.append(batch),
    )
    with pytest.raises(InterruptError):
        keras_fit(keras_model(), Resume(path, 2), Interrupt(7))
    keras_fit(keras_model(), Resume(path, 2), callback)
    assert seen == ["epoch 1", 2, 3, "epoch 2", 0, 1, 2, 3]


def datasets():
    own = numbers(2, count=18).map(lambda x, y: (x, y))
    unknown = own.filter(lambda x, y: True)
    return {
        "endless stream": (numbers(2), {"steps_per_epoch": 4}),
        "stream, a pass an epoch": (numbers(2, count=7, start=5), {}),
        "stream, several passes": (
            numbers(2, count=10),
            {"steps_per_epoch": 2},
        ),
        "own, a pass an epoch": (own.take(4), {}),
        "own, several passes": (own.take(6), {"steps_per_epoch": 4}),
        "own, unknown": (unknown.repeat(), {"steps_per_epoch": 4}),
    }


@pytest.mark.parametrize("name", datasets())
@pytest.mark.filterwarnings("ignore:Your input ran out of data")
def test_data_go_on(path, name):
    dataset, kwargs = datasets()[name]

    def run(model, *callbacks):
        return keras_fit(model, *callbacks, epochs=4, dataset=dataset, **kwargs)

    # The third run stops in another epoch than the second.
    check(path, keras_model, stops=(3, 2, 4), run=run)


def test_arrays_go_on(path):
    x = np.linspace(-1, 1, 8)[:, None]

    def run(model, *callbacks):
        return keras_fit(model, *callbacks, dataset=x, y=x**2, batch_size=2)

    check(path, keras_model, run=run)


@pytest.mark.slow
def test_steps_per_execution(path):
    def make(steps=2):
        model = small_mlp()
        # Keras takes several steps at once in a graph alone.
        model.compile("sgd", "mse", steps_per_execution=steps)
        return model

    check(path, make, (3,), 1, keras_fit)
    path = path.with_name("other.resume")
    with pytest.raises(InterruptError):
        keras_fit(make(), Resume(path, 1), Interrupt(2))
    with pytest.raises(ValueError, match="at step 2 of an epoch, which"):
        keras_fit(make(4), Resume(path, 1))


def test_a_run_that_a_callback_stops_is_over(path):
    class Stop(keras.callbacks.Callback):
        """Stops at the second step, and is killed before the epoch's end."""

        def on_train_batch_end(self, batch, logs=None):
            self.model.stop_training = batch == 1

        def on_epoch_end(self, epoch, logs=None):
            if kills:
                kills.pop()
                raise InterruptError

    kills = []
    unbroken, resumed = keras_model(), keras_model()
    wanted = keras_fit(unbroken, Stop())
    kills.append(1)
    with pytest.raises(InterruptError):
        keras_fit(keras_model(), Stop(), Resume(path, 1))
    for _ in range(2):
        resumed = keras_model()
        history = keras_fit(resumed, Stop(), Resume(path, 1))
        assert history.history == wanted.history
        assert_equal(state(resumed), state(unbroken))


def test_dataset_at_is_told_the_place(path):
    asked = []

    def dataset_at(meta_batches):
        asked.append(meta_batches)
        return numbers(2, start=2 * meta_batches)

    unbroken, resumed = keras_model(), keras_model()
    keras_fit(unbroken)
    with pytest.raises(InterruptError):
        keras_fit(keras_model(), Resume(path, 1), Interrupt(6))
    keras_fit(resumed, Resume(path, 1, dataset_at=dataset_at))
    assert asked == [5]
    assert_equal(state(resumed), state(unbroken))


def test_validation_and_callbacks_go_on(path):
    def callbacks():
        callbacks = keras.callbacks
        return [
            # As if it were bad that losses fall.
            callbacks.EarlyStopping(
                "val_loss", patience=4, mode="max", restore_best_weights=True
            ),
            callbacks.ReduceLROnPlateau("loss", 0.5, patience=1, mode="max"),
            callbacks.LearningRateScheduler(lambda epoch, rate: 0.9 * rate),
        ]

    def run(model, *callbacks):
        return keras_fit(
            model,
            *callbacks,
            epochs=12,
            steps_per_epoch=1,
            validation_data=numbers(2, count=4, start=1000),
        )

    def make():
        return compiled(small_mlp(), keras.optimizers.SGD(0.1))

    history = check(path, make, (3, 2), "epoch", run, callbacks)
    # The test means something: it was stopped, and the rate has fallen.
    epochs = len(history.epoch)
    assert 3 < epochs < 12
    assert history.history["learning_rate"][-1] < 0.06 * 0.9**epochs
    # A run that was stopped stays so, and has its best weights.
    again, first = make(), make()
    history_again = run(again, Resume(path), *callbacks())
    assert history_again.history == history.history
    run(first, *callbacks())
    assert_equal(state(again), state(first))


@pytest.mark.slow
def test_the_librarys_callbacks_go_on(path):
    def callbacks():
        return [
            keras_maml.callbacks.FirstOrderUntil(1),
            keras_maml.callbacks.PreAdaptationMetrics(SINES.batch(2, count=2)),
        ]

    check(path, scheduled, (5,), 2, callbacks=callbacks)


def test_swapped_averages_go_on(path):
    def make():
        return compiled(small_mlp(), keras.optimizers.SGD(0.1, use_ema=True))

    def callbacks():
        return [keras.callbacks.SwapEMAWeights(swap_on_epoch=True)]

    check(path, make, (5, 5), "epoch", keras_fit, callbacks)


def test_a_callback_of_ones_own_may_have_a_state(path):
    class Counts(keras.callbacks.Callback):
        def on_train_begin(self, logs=None):
            self.losses = np.zeros([0])

        def on_epoch_end(self, epoch, logs=None):
            self.losses = np.append(self.losses, logs["loss"])

        def get_state(self):
            return {"losses": self.losses}

        def set_state(self, state):
            self.losses = state["losses"]

    with pytest.raises(InterruptError):
        keras_fit(keras_model(), Counts(), Resume(path), Interrupt(6))
    counts = Counts()
    history = keras_fit(keras_model(), Resume(path), counts)
    np.testing.assert_array_equal(counts.losses, history.history["loss"])
    with pytest.raises(ValueError, match="had a callback Counts"):
        keras_fit(keras_model(), Resume(path))


def test_a_complete_run_is_loaded_and_can_be_longer(path):
    first = keras_model()
    history = keras_fit(first, Resume(path), epochs=2)
    again = keras_model()
    assert keras_fit(again, Resume(path), epochs=2).history == history.history
    assert_equal(state(again), state(first))
    longer, unbroken = keras_model(), keras_model()
    assert keras_fit(longer, Resume(path), epochs=3).epoch == [0, 1, 2]
    keras_fit(unbroken, epochs=3)
    assert_equal(state(longer)[:4], state(unbroken)[:4])
    with pytest.raises(ValueError, match="beyond `epochs`: it has trained 3"):
        keras_fit(keras_model(), Resume(path), epochs=2)


def test_a_run_within_the_epoch_behind_the_last_is_refused(path):
    with pytest.raises(InterruptError):
        keras_fit(keras_model(), Resume(path, 1), Interrupt(10))
    with pytest.raises(ValueError, match="trained 2 epochs and 1 steps"):
        keras_fit(keras_model(), Resume(path, 1), epochs=2)


def test_two_callbacks_of_a_class_get_their_own_states(path):
    class Named(keras.callbacks.Callback):
        def __init__(self, name):
            super().__init__()
            self.name = name

        def get_state(self):
            return {"name": self.name}

        def set_state(self, state):
            self.name = state["name"]

    keras_fit(keras_model(), Named("a"), Named("b"), Resume(path), epochs=1)
    new = Named("new"), Named("new")
    keras_fit(keras_model(), *new, Resume(path), epochs=2)
    assert [callback.name for callback in new] == ["a", "b"]


def test_resume_fits_every_model(path):
    history = Resume(path).fit(
        scheduled(), SINES.batch(2), steps_per_epoch=1, verbose=0
    )
    assert history.epoch == [0]
    # `callbacks` need not be a list.
    again = scheduled().fit(
        SINES.batch(2),
        steps_per_epoch=1,
        epochs=2,
        callbacks=Resume(path),
        verbose=0,
    )
    assert again.epoch == [0, 1]


def test_fit_of_another_keras_model_must_be_called_by_resume(path):
    x = np.zeros([2, 1])
    with pytest.raises(ValueError, match="`resume.fit\\(model, ...\\)`"):
        keras_model().fit(x, x, callbacks=[Resume(path)])


@pytest.mark.parametrize(
    ("task_type", "task_id", "jobs", "writes"),
    [
        (None, None, {}, True),
        ("worker", 0, {"worker": ["a", "b"]}, True),
        ("worker", 1, {"worker": ["a", "b"]}, False),
        ("chief", 0, {"chief": ["a"], "worker": ["b"]}, True),
        ("worker", 0, {"chief": ["a"], "worker": ["b"]}, False),
    ],
)
def test_the_chief_writes(task_type, task_id, jobs, writes):
    resolver = tf.distribute.cluster_resolver.SimpleClusterResolver(
        tf.train.ClusterSpec(jobs), task_type=task_type, task_id=task_id
    )
    strategy = types.SimpleNamespace(cluster_resolver=resolver)
    assert is_chief(strategy) is writes
    assert is_chief(tf.distribute.get_strategy())


def test_arguments_are_checked(path):
    with pytest.raises(ValueError, match="`save_freq` must be an integer"):
        Resume(path, save_freq="batch")
    with pytest.raises(ValueError, match="`settings` must be a dict"):
        Resume(path, settings={"a": object()})


def test_two_of_a_kind_are_refused(path):
    with pytest.raises(ValueError, match="must have one `Resume`"):
        fit(scheduled(), Resume(path), Resume(path))
    with pytest.raises(ValueError, match="no `BackupAndRestore` beside"):
        fit(
            scheduled(),
            Resume(path),
            keras.callbacks.BackupAndRestore(path.parent),
        )
    model = scheduled()
    with pytest.raises(ValueError, match="pass `callbacks` as a list"):
        model.fit(
            SINES.batch(2),
            steps_per_epoch=1,
            callbacks=keras.callbacks.CallbackList([Resume(path)]),
        )


def test_two_runs_with_one_file_are_refused(path):
    class Second(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            with pytest.raises(ValueError, match="Another run uses this"):
                keras_fit(keras_model(), Resume(path))

    keras_fit(keras_model(), Resume(path), Second(), epochs=1)
    # The lock is free again.
    keras_fit(keras_model(), Resume(path), epochs=1)


def test_data_that_cannot_be_repeated_are_refused(path):
    x, y = regression_batch()
    model = scheduled()
    with pytest.raises(ValueError, match="arrays need `shuffle=False`"):
        model.fit(x, y, callbacks=[Resume(path)])
    with pytest.raises(ValueError, match="must be a `tf.data.Dataset`"):
        fit(model, Resume(path), dataset=(b for b in [(x, y)]))
    shuffled = SINES.batch(2, count=4).shuffle(4)
    with pytest.raises(ValueError, match="Pass a `seed` to `shuffle`"):
        fit(model, Resume(path), dataset=shuffled)
    unknown = SINES.batch(2, count=4).filter(lambda x, y: True)
    with pytest.raises(ValueError, match="Pass `steps_per_epoch`"):
        fit(model, Resume(path, 1), dataset=unknown)
    assert not path.exists()


def other_model():
    return compiled(plain(small_mlp(outputs=1, batch_norm=True)))


def other_optimizer():
    return compiled(plain(), "rmsprop")


@pytest.mark.parametrize("make", [other_model, other_optimizer])
def test_a_foreign_checkpoint_is_left_alone(path, make):
    fit(scheduled(), Resume(path), epochs=1)
    match = r"run\.resume' holds a run of another"
    refuses(path, match, Resume(path), fit, make)


def test_other_data_and_settings_are_refused(path):
    first = Resume(path, settings={"k": 1, "names": ("a",)})
    keras_fit(keras_model(), first, epochs=1)
    other = Resume(path, settings={"k": 2, "names": ["a"]})
    refuses(path, "other `settings`: k was 1.*k=2", other)
    same = Resume(path, settings={"k": 1, "names": ["a"]})
    data = {"dataset": numbers(3), "steps_per_epoch": 4}
    refuses(path, "tasks was 2.*tasks=3", same, **data)
    data = {"dataset": numbers(2), "steps_per_epoch": 5}
    refuses(path, "steps_per_epoch was 4", same, **data)


def test_a_damaged_checkpoint_gives_way_to_the_one_before(path):
    with pytest.raises(InterruptError):
        keras_fit(keras_model(), Resume(path, 1), Interrupt(7))
    path.write_bytes(path.read_bytes()[:-100])
    resumed, unbroken = keras_model(), keras_model()
    with pytest.warns(UserWarning, match=r"run\.resume' is damaged.*previous"):
        history = keras_fit(resumed, Resume(path, 1))
    assert history.history == keras_fit(unbroken).history
    assert_equal(state(resumed), state(unbroken))


def test_a_full_disk_leaves_the_checkpoint_alone(path, monkeypatch):
    with pytest.raises(InterruptError):
        keras_fit(keras_model(), Resume(path), Interrupt(6))
    before = path.read_bytes()

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", full)
        with pytest.raises(OSError, match=r"No space left.*run\.resume") as e:
            keras_fit(keras_model(), Resume(path))
        assert e.value.errno == errno.ENOSPC
    assert path.read_bytes() == before
    assert {p.name for p in path.parent.iterdir()} == {
        path.name,
        f"{path.name}.lock",
    }
    keras_fit(keras_model(), Resume(path))


def test_a_folder_that_cannot_be_written_is_found_at_once(tmp_path):
    (tmp_path / "file").write_text("")
    steps = []
    count = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: steps.append(batch)
    )
    with pytest.raises(OSError, match="cannot write its checkpoint"):
        keras_fit(
            keras_model(), Resume(tmp_path / "file" / "run.resume"), count
        )
    assert not steps


def test_an_interrupted_fit_leaves_the_model_as_it_was(path):
    model = scheduled()
    with pytest.raises(InterruptError):
        fit(model, Resume(path), Interrupt(1))
    assert "_maybe_symbolic_build" not in vars(model)
    with contextlib.suppress(InterruptError):
        fit(model, Interrupt(1))
