"""Drives the examples: each at its smallest, for real, with its own flags."""

import contextlib
import io
import json
import os
import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from absl import app
from absl import flags

import keras_maml
from keras_maml import tasks

CHECKOUT = pathlib.Path(__file__).absolute().parent.parent
# Each with a flag that is out of its bounds.
EXAMPLES = {
    "distributed": "--workers=0",
    "gaussian": "--k_shot=0",
    "half_cheetah_rl": "--horizon=0",
    "navigation_rl": "--horizon=0",
    "omniglot": "--k_shot=0",
    "on_device": "--iterations=0",
    "own_images": "--k_shot=0",
    "own_tables": "--support=0",
    "serve": "--seed=-1",
    "sinusoid": "--k_shot=0",
    "wearable": "--support=0",
}


@pytest.fixture
def load(load_program):
    """Imports an example and sets its flags, which go again after the test."""
    return lambda name, *flags: load_program(f"examples.{name}", *flags)


def run(*command):
    done = subprocess.run(
        [sys.executable, *map(str, command)],
        cwd=CHECKOUT,
        env={**os.environ, "PYTHONPATH": str(CHECKOUT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def sinusoid(program, tmp_path_factory):
    """What the main job prints, its models, and the folder of what it writes.

    With fewer rates and steps than it has by itself: a graph for each of them
    is what takes long. `.ci/run` runs it as it is.
    """
    path = tmp_path_factory.mktemp("sinusoid")
    models = {}
    calls = []

    def train(config):
        calls.append("train")
        results = trained(config)
        models.update(results[1])
        return results

    with (
        program(
            "examples.sinusoid",
            "--iterations=2",
            "--meta_batch_size=2",
            "--test_tasks=2",
            "--progress=line",
            f"--output_dir={path}",
        ) as example,
        pytest.MonkeyPatch.context() as patch,
        contextlib.redirect_stdout(io.StringIO()) as printed,
    ):
        trained = example.train
        patch.setattr(example, "train", train)
        patch.setattr(example, "RATES", [1.0, 0.02])
        patch.setattr(example, "STEPS", [0, 1])
        # Too late in this process.
        patch.setattr(
            example.keras_maml,
            "configure_threads",
            lambda: calls.append("configure_threads"),
        )
        example.main(["sinusoid"])
    assert calls == ["configure_threads", "train"]
    return printed.getvalue(), path, models


def is_picture(path):
    from matplotlib import image

    pixels = image.imread(path)
    return min(pixels.shape[:2]) > 100 and np.ptp(pixels[..., :3]) > 0.5


@pytest.mark.parametrize("name", EXAMPLES)
def test_main_refuses_more_arguments(load, name):
    example = load(name)
    with pytest.raises(app.UsageError, match="extra"):
        example.main([name, "extra"])


@pytest.mark.parametrize("name", EXAMPLES)
def test_flags_have_bounds(load, name):
    with pytest.raises(flags.IllegalFlagValueError):
        load(name, EXAMPLES[name])


def distributed(folder, *more):
    """What the example prints, but for its speed."""
    printed = run(
        *("examples/distributed.py", "--meta_batch_size=3", "--iterations=2"),
        *("--epochs=1", "--filters=2", "--test_tasks=4"),
        *(f"--output_dir={folder}", *more),
    )
    assert (folder / "model.keras").is_file()
    return printed.splitlines()[-1]


@pytest.mark.slow
def test_distributed_works_alone(tmp_path):
    assert "unseen tasks" in distributed(tmp_path)


@pytest.mark.slow
def test_distributed_scores_alike_with_workers(tmp_path):
    alone = distributed(tmp_path / "alone")
    assert distributed(tmp_path / "shared", "--workers=2") == alone


@pytest.mark.slow
def test_sinusoid_prints_the_comparison(sinusoid):
    printed, path, _ = sinusoid
    rows = [line.split() for line in printed.splitlines() if "±" in line]
    table = {int(row[0]): row[1:] for row in rows if row[0].isdigit()}
    assert sorted(table) == [0, 1]
    for maml, _, _, pretrained, _, _ in table.values():
        assert 0 < float(maml) < 50
        assert 0 < float(pretrained) < 50
    assert is_picture(path / "task.png")


def test_sinusoid_is_compared_with_the_same_network(sinusoid):
    models = sinusoid[2]
    learner = keras_maml.learners.mlp(kernel_stddev=0.3, seed=0)
    before = learner.get_weights()
    pretrained = models["pretrained on all tasks"]
    # The other rate is so large that the errors are.
    assert pretrained.inner_optimizer.learning_rate == 0.02
    for model in models.values():
        after = model.learner.get_weights()
        assert [w.shape for w in after] == [w.shape for w in before]
        assert any(np.any(a != b) for a, b in zip(after, before))
    # Two steps of Adam, at most as long as its rate of 3e-3, from the same
    # weights.
    for model in models.values():
        for a, b in zip(model.learner.get_weights(), before):
            np.testing.assert_allclose(a, b, atol=6.1e-3)


def test_sinusoid_notices_a_wrong_saved_model(sinusoid, load):
    example = load("sinusoid")
    sines = tasks.Sinusoid(seed=0)
    model = keras.models.load_model(sinusoid[1] / "meta_model.keras")
    path = str(sinusoid[1] / "saved_model")
    assert example.check_saved_model(path, model, sines) < 1e-4
    model.learner.layers[-1].bias.assign([0.5])
    with pytest.raises(RuntimeError, match="different values"):
        example.check_saved_model(path, model, sines)


@pytest.mark.slow
def test_serve_needs_neither_keras_nor_the_library(sinusoid):
    # None makes every import of a module fail.
    program = (
        "import runpy, sys; sys.modules.update(keras=None, keras_maml=None);"
        "sys.argv.pop(0); runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    printed = run(
        "-c",
        program,
        "examples/serve.py",
        f"--saved_model={sinusoid[1] / 'saved_model'}",
        "--k_shot=3",
    )
    assert "Adapted to 3 support examples" in printed
    assert "Mean squared error" in printed


def test_serve_predicts_as_the_model_does(sinusoid, load, tmp_path, capsys):
    x, y = tasks.Sinusoid(k_shot=4, q_query=6, seed=5).episode(0)
    data = str(tmp_path / "task.npz")
    np.savez(data, **x, query_y=y)
    path = sinusoid[1] / "saved_model"
    example = load("serve", f"--saved_model={path}", f"--data={data}")
    example.main(["serve"])
    printed = capsys.readouterr().out

    model = keras.models.load_model(sinusoid[1] / "meta_model.keras")
    expected = model.predict({k: v[None] for k, v in x.items()}, verbose=0)[0]
    error = np.mean(np.square(expected - y))
    assert f"Mean squared error: {error:.3f}" in printed


def test_serve_refuses_what_it_cannot_use(sinusoid, load, tmp_path):
    example = load("serve")
    with pytest.raises(app.UsageError, match="no SavedModel.*sinusoid.py"):
        example.load(str(tmp_path))
    _, specs = example.load(str(sinusoid[1] / "saved_model"))
    assert example.takes_sines(specs)

    data = tmp_path / "task.npz"
    np.savez(data, support_x=np.zeros([2, 1]))
    with pytest.raises(app.UsageError, match="must hold support_x, support_y"):
        example.load_data(str(data))

    task = {name: np.zeros([2, 1]) for name in specs}
    assert example.check_task(task, specs)["query_x"].shape == (1, 2, 1)
    with pytest.raises(app.UsageError, match="same number of examples"):
        example.check_task({**task, "support_y": np.zeros([3, 1])}, specs)
    with pytest.raises(app.UsageError, match="query_x of one task"):
        example.check_task({**task, "query_x": np.zeros([2, 2])}, specs)


def test_serve_refuses_another_signature(load, tmp_path):
    class Square(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec([None], name="x")])
        def __call__(self, x):
            return {"y": x * x}

    square = Square()
    tf.saved_model.save(square, str(tmp_path), signatures=square.__call__)
    with pytest.raises(app.UsageError, match=r"takes \['x'\]"):
        load("serve").load(str(tmp_path))


def test_serve_scores_classes(load, capsys):
    example = load("serve")
    specs = {"support_y": tf.TensorSpec([None, None], "int64")}
    logits = np.array([[0.0, 1.0], [2.0, 1.0], [0.0, 3.0]])
    score = example.report({"query_y": np.array([1, 0, 0])}, specs, logits)
    assert score == pytest.approx(2 / 3)
    assert "Accuracy: 66.7 % of 3 queries" in capsys.readouterr().out
    assert example.report({}, specs, logits) is None


@pytest.mark.slow
def test_gaussian(load, capsys, tmp_path):
    example = load(
        "gaussian",
        f"--output_dir={tmp_path}",
        "--iterations=2",
        "--meta_batch_size=2",
        "--inner_steps=1",
        "--progress=line",
    )
    meta_model, gaussians = example.train(flags.FLAGS)
    comparison = example.compare(meta_model, gaussians, 3)
    assert comparison["truth"][1].mean == 0
    example.print_table(comparison)
    printed = capsys.readouterr().out
    assert "MAML, 0 steps" in printed
    assert "MAML, 1 step " in printed
    x, y = next(iter(gaussians.batch(3, count=3, start=example.TEST_START)))
    for steps in (0, 1):
        estimated = example.estimate(meta_model, x, steps)
        nats, _ = comparison[f"MAML, {steps} step{'s' * (steps != 1)}"]
        loss = gaussians.negative_log_likelihood(y, estimated[:, None])
        assert nats.mean == pytest.approx(np.mean(loss), rel=1e-5)

    # The same command again goes on, here at the end of the run.
    again, _ = example.train(flags.FLAGS)
    for a, b in zip(again.get_weights(), meta_model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    flags.FLAGS.seed = 1
    with pytest.raises(ValueError, match="other `settings`: seed was 0"):
        example.train(flags.FLAGS)
    example.forget_runs(flags.FLAGS)
    assert not list(tmp_path.iterdir())


def test_gaussian_picture_shows_points_and_estimates(
    load, tmp_path, monkeypatch
):
    from matplotlib import pyplot

    example = load("gaussian", "--inner_steps=1")
    gaussians = tasks.GaussianTasks(3, 4)
    model = example.make_model(flags.FLAGS)
    model.compile(loss=gaussians.negative_log_likelihood)
    figures = []
    monkeypatch.setattr(pyplot, "close", figures.append)
    example.draw(model, gaussians, tmp_path / "estimates.png", count=2)
    monkeypatch.undo()
    assert is_picture(tmp_path / "estimates.png")

    panels = figures[0].axes
    x, query_y = next(
        iter(gaussians.batch(2, count=2, start=example.TEST_START))
    )
    for panel in panels:
        drawn = [line.get_xydata() for line in panel.lines]
        for task in range(2):
            is_drawn = [
                any(np.array_equal(points[task], other) for other in drawn)
                for points in (x["support_y"], query_y)
            ]
            assert is_drawn == [True, panel is panels[0]]
    truth = example.true_parameters(gaussians, 2)
    for panel, estimates in zip(
        panels,
        [
            np.zeros([0, 4]),
            example.estimate(model, x, 0)[:1],
            example.estimate(model, x, 1),
            example.maximum_likelihood(x["support_y"]),
        ],
    ):
        expected = np.concatenate([truth, estimates])
        outlines = [
            [*patch.center, *np.log([patch.width / 4, patch.height / 4])]
            for patch in panel.patches
            if not patch.get_fill()
        ]
        np.testing.assert_allclose(outlines, expected, rtol=1e-5, atol=1e-6)
    pyplot.close(figures[0])


def test_gaussian_estimates_are_optimal(load):
    example = load("gaussian")
    points = np.random.default_rng(0).normal(1.0, 2.0, [3, 5, 2])
    covariance = np.diag([4.0, 1.0, 0.25, 0.5])

    def objective(parameters, prior):
        mean, log_sigma = np.split(parameters[:, None], 2, axis=-1)
        scaled = (points - mean) * np.exp(-log_sigma)
        value = np.sum(scaled**2 / 2 + log_sigma, axis=(1, 2))
        return value + prior * np.sum(
            parameters**2 / np.diag(covariance) / 2, axis=-1
        )

    for prior, estimate in [
        (0, example.maximum_likelihood(points)),
        (1, example.posterior_mode(points, covariance)),
    ]:
        for direction in np.vstack([np.eye(4), -np.eye(4)]):
            moved = objective(estimate + 1e-3 * direction, prior)
            assert np.all(moved > objective(estimate, prior))


@pytest.mark.parametrize(
    "algorithm",
    [
        pytest.param(name, marks=pytest.mark.slow)
        for name in ("prototypes", *keras_maml.algorithms.__all__)
    ],
)
def test_omniglot_on_glyphs(load, tmp_path, monkeypatch, algorithm):
    example = load(
        "omniglot",
        "--dataset=glyphs",
        f"--algorithm={algorithm}",
        "--n_way=2",
        "--iterations=2",
        "--meta_batch_size=2",
        "--test_episodes=2",
        "--progress=line",
        f"--results={tmp_path / 'results.jsonl'}",
        f"--output_dir={tmp_path}",
    )
    steps = {"reptile": 50, "imaml": 8, "prototypes": 0}.get(algorithm, 3)
    assert example.make_model(flags.FLAGS, 1).evaluation_steps == steps
    if algorithm == "maml":
        # Every day, with smaller graphs than those of the default.
        steps = flags.FLAGS.evaluation_steps = 1
    # Too late in this process.
    monkeypatch.setattr(example.keras_maml, "configure_threads", lambda: None)
    example.main(["omniglot"])
    result = json.loads((tmp_path / "results.jsonl").read_text())
    assert result["algorithm"] == algorithm
    assert result["iterations"] == 2
    assert sorted(result["accuracy"]) == sorted({"0", "1", str(steps)})
    assert all(0 <= mean <= 1 for mean in result["accuracy"].values())
    assert is_picture(tmp_path / "episode.png")
    assert (tmp_path / "saved_model").is_dir()
    assert not list(tmp_path.glob("**/*.resume*"))


@pytest.mark.parametrize(
    ("algorithm", "rate"), [("maml", 4e-3), ("reptile", 1.0)]
)
def test_the_rate_falls_or_the_weights_are_averaged(load, algorithm, rate):
    example = load("omniglot", f"--algorithm={algorithm}")
    falling = example.make_optimizer(flags.FLAGS, 2)
    assert float(falling.learning_rate) == pytest.approx(rate)
    falling.iterations.assign(2)
    assert float(falling.learning_rate) == pytest.approx(0.0)
    assert not falling.use_ema
    flags.FLAGS.schedule = "average"
    constant = example.make_optimizer(flags.FLAGS, 2)
    constant.iterations.assign(2)
    assert float(constant.learning_rate) == pytest.approx(rate)
    assert constant.use_ema


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["--inner_steps=3"], "prototypes takes no inner steps"),
        (["--evaluation_steps=3"], "prototypes takes no inner steps"),
        (["--network=dense"], "prototypes needs --network=conv4"),
        (
            ["--schedule=average", "--normalization=moving"],
            "Running statistics.*prototypes, --normalization=moving",
        ),
        (
            ["--schedule=average", "--algorithm=maml_plus_plus"],
            "Running statistics.*maml_plus_plus, --normalization=per_step",
        ),
    ],
)
def test_flags_that_do_not_go_together(load, settings, message):
    example = load("omniglot", *settings)
    with pytest.raises(app.UsageError, match=message):
        example.make_model(flags.FLAGS, 1)


def test_a_run_under_way_knows_its_defaults(load):
    example = load("omniglot", "--algorithm=reptile")
    settings = example.resume(flags.FLAGS, "run").settings
    assert (settings["inner_rate"], settings["learning_rate"]) == (5e-3, 1.0)
    assert (settings["inner_steps"], settings["evaluation_steps"]) == (10, 50)
    assert settings["meta_batch_size"] == 5


@pytest.mark.slow
def test_omniglot_for_some_minutes(load, tmp_path, monkeypatch):
    example = load(
        "omniglot",
        "--dataset=glyphs",
        "--algorithm=maml",
        "--n_way=2",
        "--minutes=0.001",
        "--meta_batch_size=2",
        "--test_episodes=2",
        "--inner_steps=0",
        "--evaluation_steps=0",
        "--progress=line",
        f"--output_dir={tmp_path}",
    )
    # To draw glyphs and to train the convolutions takes longer to trace.
    images = np.zeros([8, 28, 28, 1], "uint8")
    pool = tasks.from_arrays(images, np.repeat(np.arange(4), 2))
    monkeypatch.setattr(
        example, "load_tasks", lambda config: [pool.episodes(2, 1, 1)] * 3
    )
    monkeypatch.setattr(
        example.keras_maml.learners,
        "conv4",
        lambda **kwargs: keras.Sequential(
            [
                keras.Input((28, 28, 1)),
                keras.layers.Flatten(),
                keras.layers.Dense(2),
            ]
        ),
    )
    *training_tasks, _ = example.load_tasks(flags.FLAGS)
    meta_model, times = example.train(flags.FLAGS, *training_tasks)
    assert int(meta_model.optimizer.iterations) == len(times.ends)
    # 60 ms of each core, for steps that take about a millisecond.
    assert 1 <= len(times.ends) <= 1000
    # A run that goes on keeps its number of steps, and when they ended.
    again, times_again = example.train(flags.FLAGS, *training_tasks)
    assert int(again.optimizer.iterations) == len(times.ends)
    assert times_again.ends == times.ends


def policy_search(load, monkeypatch, name, folder, *flags):
    example = load(
        name,
        "--horizon=4",
        "--hidden_units=6",
        "--meta_batch_size=2",
        "--episodes=2",
        "--test_steps=1",
        f"--output_dir={folder}",
        *flags,
    )
    monkeypatch.setattr(example.keras_maml, "configure_threads", lambda: None)
    example.main([name])


@pytest.mark.slow
def test_navigation(load, monkeypatch, tmp_path, capsys):
    small = ("--test_goals=2", "--progress=line", "--nobaselines")
    policy_search(
        load, monkeypatch, "navigation_rl", tmp_path, "--iterations=2", *small
    )
    printed = capsys.readouterr().out
    rows = [line.split()[0] for line in printed.splitlines() if "±" in line]
    assert rows == ["mean", "MAML", "untrained"]
    assert is_picture(tmp_path / "paths.png")
    assert is_picture(tmp_path / "training.png")
    assert (tmp_path / "saved_model").is_dir()
    returns = json.loads((tmp_path / "returns.json").read_text())
    assert list(returns["MAML"]) == ["0", "1"]
    assert (tmp_path / "maml" / "run.resume").exists()


@pytest.mark.slow
def test_half_cheetah(load, monkeypatch, tmp_path, capsys):
    policy_search(
        load,
        monkeypatch,
        "half_cheetah_rl",
        tmp_path,
        "--task=velocity",
        "--iterations=1",
        "--pretraining_iterations=0",
        "--test_tasks=2",
    )
    assert "untrained" in capsys.readouterr().out
    folder = tmp_path / "velocity"
    assert is_picture(folder / "training.png")
    assert (folder / "maml" / "run.resume").exists()


def test_wearable_reads_its_file(load, tmp_path):
    example = load("wearable")
    rng = np.random.default_rng(0)
    signals = [rng.normal(size=(n, 6)).astype("float32") for n in (30, 40)]
    np.savez(
        tmp_path / "watch.npz",
        signal=np.concatenate(signals),
        lengths=[30, 40],
        exercise=[1, 0],
        exercise_names=["lift", "pull"],
        subject=[3, 4],
        right=[0, 1],
    )
    found = example.read(str(tmp_path / "watch.npz"))
    assert [s.shape for s in found.signals] == [(30, 6), (40, 6)]
    np.testing.assert_array_equal(found.signals[1], signals[1])
    assert found.exercises.tolist() == ["pull", "lift"]
    assert found.people.tolist() == [3, 4]
    assert found.arms.tolist() == ["3 left", "4 right"]
    with pytest.raises(app.UsageError, match="must be a .npz file"):
        example.read("watch_dataset.npy")


def test_wearable_keeps_a_person_on_one_side(load):
    example = load("wearable")
    recordings = example.make_up(0, people=6)
    flags.FLAGS.folds, flags.FLAGS.imagined = 3, 1
    tested = []
    for parts in example.make_folds(flags.FLAGS, recordings):
        people = [{name.split()[0] for name in part.names} for part in parts]
        assert [len(p) for p in people] == [3, 1, 2]
        assert len(set.union(*people)) == 6
        imagined = [["imagined" in n for n in part.names] for part in parts]
        assert list(map(sum, imagined)) == [6, 0, 0]
        tested += parts[-1].names
    assert sorted(tested) == sorted(np.unique(recordings.arms))


def test_wearable_imagines_six_channels(load):
    example = load("wearable")
    signals = [np.zeros((40, 12), "float32")] * 2
    names = np.array(["a", "b"])
    with pytest.raises(app.UsageError, match="--imagined=3 and 12 channels"):
        example.with_imagined_wearers(
            flags.FLAGS, example.Recordings(signals, names, names, names)
        )


def test_wearable_imagines_a_watch_askew(load):
    example = load("wearable")
    signal = np.random.default_rng(0).normal(size=(9, 6)).astype("float32")
    same = example.imagine(signal, np.eye(3), pace=1.0)
    np.testing.assert_array_equal(same, signal[:-1])
    # A quarter turn about z, at twice the pace.
    turn = np.array([[0, -1, 0], [1, 0, 0], [0, 0, 1]])
    found = example.imagine(signal, turn, pace=2.0)
    x, y, z, *rates = signal[::2][:4].T
    expected = [-y, x, z, -2 * rates[1], 2 * rates[0], 2 * rates[2]]
    np.testing.assert_allclose(found.T, expected, rtol=1e-6)
    # Where rounding puts a moment at the end.
    assert np.arange(0, 25, 25 / 29)[-1] >= 25
    assert len(example.imagine(np.zeros([26, 6]), np.eye(3), 25 / 29)) == 29
    turn = example.random_turn(np.random.default_rng(0))
    np.testing.assert_allclose(turn @ turn.T, np.eye(3), atol=1e-12)
    assert np.linalg.det(turn) == pytest.approx(1)
    angle = np.arccos((np.trace(turn) - 1) / 2)
    rng = np.random.default_rng(0)
    rng.normal(size=3)
    assert angle == pytest.approx(abs(np.deg2rad(rng.normal(0, 20))))


def test_own_tables_scales_by_training_tasks(load, tmp_path):
    example = load("own_tables")
    path = tmp_path / "shops.csv"
    example.make_up(path, seed=0, shops=10, days=40)
    train, validation, test = example.read_tasks(flags.FLAGS, path)
    assert [len(t.names) for t in (train, validation, test)] == [7, 1, 2]
    learner = example.make_learner(flags.FLAGS, train)
    x, y = train.episode(0)
    assert learner(x["query_x"]).shape == y.shape
    assert abs(learner.layers[-1].offset - y.mean()) < 30


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("own_images", ["--filters=2", "--episodes=10"]),
        ("own_tables", ["--episodes=10"]),
        (
            "wearable",
            ["--folds=2", "--filters=2", "--length=64", "--step=32"],
        ),
    ],
)
def test_own_data_from_files_to_an_exported_model(name, settings, tmp_path):
    printed = run(
        f"examples/{name}.py",
        "--budget=2",
        "--trials=1",
        "--meta_batch_size=2",
        f"--output_dir={tmp_path}",
        *settings,
    )
    assert "# Should I adapt?" in printed
    assert keras_maml.Verdict.load(tmp_path / "verdict.json").reports["maml"]
    assert (tmp_path / "verdict.png").exists()
    served = tf.saved_model.load(str(tmp_path / "saved_model"))
    inputs = served.signatures["serving_default"].structured_input_signature[1]
    assert any(key.startswith("support_y") for key in inputs)
    # Nothing to go on with is left.
    assert not list(tmp_path.glob("**/*.resume*"))
