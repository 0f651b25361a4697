"""The benchmarks run, and say what they should."""

import json
import pathlib
import re
import shutil
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

from benchmarks import ledger
from benchmarks import ledger_table
from benchmarks import report

CHECKOUT = pathlib.Path(__file__).absolute().parent.parent


@pytest.mark.slow
def test_a_run_prints_its_line():
    result = subprocess.run(
        [
            sys.executable,
            "-m",
            "benchmarks.run",
            "--workload=sine1",
            "--engine=loop",
            "--steps=3",
            "--steps_per_execution=1",
        ],
        check=True,
        capture_output=True,
        text=True,
        cwd=CHECKOUT,
    )
    line = json.loads(result.stdout.splitlines()[-1])
    assert line["timed_steps"] == 3
    assert line["tasks_per_s"] == pytest.approx(
        25 / line["median_s_per_step"], rel=1e-2
    )
    assert line["peak_rss_mb"] > line["start_rss_mb"] > 0
    # What every other library computes on the same weights and data.
    assert line["first_loss"] == pytest.approx(4.17916, abs=2e-5)


@pytest.mark.slow
def test_a_first_step_is_a_row():
    result = subprocess.run(
        [
            *(sys.executable, "-m", "benchmarks.first_step"),
            *("--models=mlp", "--inner_steps=1", "--later_steps=1"),
        ],
        check=True,
        capture_output=True,
        text=True,
        cwd=CHECKOUT,
    )
    row = result.stdout.splitlines()[-1]
    assert re.fullmatch(r"\| mlp \| 1 \| ([\d.]+ s \| ){3}\d+ ms \|", row)


def test_the_table_has_the_ratio_to_the_fastest_peer(tmp_path):
    def figures(seconds, growth):
        return {"seconds": seconds, "growth": growth, "compile": 1.0}

    summary = {
        ("omni5w1s", False): {
            "ours": figures(0.1, 50.0),
            "fast": figures(0.25, 500.0),
            "lean": figures(0.8, 20.0),
        },
        ("sine1", True): {"ours": figures(0.002, 10.0)},
    }
    table = report.ratio_table(summary, "ours").splitlines()
    assert table[2] == (
        "| omni5w1s | second order | **2.50** | 100 ms | 250 ms, fast | "
        "50 MiB | 20 MiB, lean | 1.1 s |"
    )
    assert table[3].startswith("| sine1 | first order | – | 2 ms | – |")
    path = tmp_path / "page.md"
    path.write_text("a\n<!-- t -->\nold\n<!-- end of t -->\nb\n")
    report.replace(path, "t", "new")
    assert path.read_text() == "a\n<!-- t -->\nnew\n<!-- end of t -->\nb\n"
    with pytest.raises(ValueError, match="has no"):
        report.replace(path, "other", "new")


def accuracy_line(name, last, minutes=1.0):
    return {
        "algorithm": name,
        "iterations": 7,
        "seconds_per_step": 0.5,
        "accuracy": {"0": 0.05, "1": 0.2, "10": last},
        "ci95": {"0": 0.01, "1": 0.01, "10": 0.01},
        "peak_mib": 1000.4,
        "flags": {
            "n_way": 20,
            "k_shot": 1,
            "minutes": minutes,
            "seed": 0,
            "test_episodes": 600,
        },
    }


def test_algorithms_are_ordered_by_their_last_accuracy(tmp_path):
    results = {
        "worse": accuracy_line("worse", 0.3),
        "better": accuracy_line("better", 0.4),
    }
    table = report.accuracy_table(results).splitlines()
    assert table[2] == (
        "| `better` | 5.0 ± 1.0 % | 20.0 ± 1.0 % | **40.0 ± 1.0 %** (10) | "
        "7 | 500 ms | 1000 MiB |"
    )
    assert table[3].startswith("| `worse` |")
    report.plot_accuracy(results, tmp_path / "picture.png")
    assert (tmp_path / "picture.png").stat().st_size > 5000


def test_what_is_finished_is_not_run_again(tmp_path, monkeypatch, load_program):
    path = tmp_path / "results.jsonl"
    (tmp_path / "images").mkdir()
    page = tmp_path / "algorithms.md"
    page.write_text("<!-- results -->\n<!-- end of results -->\n")
    names = ["maml", "anil", "boil"]
    # A result of another budget is another comparison's.
    path.write_text(
        json.dumps(accuracy_line("maml", 0.4))
        + "\n"
        + json.dumps(accuracy_line("anil", 0.4, minutes=5.0))
        + "\n"
    )
    started = []

    def run(name, path):
        started.append(name)
        with open(path, "a") as file:
            file.write(json.dumps(accuracy_line(name, 0.5)) + "\n")

    algorithms = load_program(
        "benchmarks.algorithms",
        "--minutes=1",
        f"--algorithms={','.join(names)}",
        f"--results={path}",
        f"--docs={tmp_path}",
    )
    monkeypatch.setattr(algorithms, "run", run)
    algorithms.main(["algorithms"])
    assert started == ["anil", "boil"]
    for name in names:
        assert f"`{name}`" in page.read_text()


def test_environments_are_compared(load_program, monkeypatch, capsys):
    program = load_program(
        "benchmarks.rl_environments",
        "--tasks=2",
        "--episodes=2",
        "--horizon=5",
        "--rounds=1",
    )
    # Too late in this process.
    monkeypatch.setattr(program.keras_maml, "configure_threads", lambda: None)
    program.main(["rl_environments"])
    printed = capsys.readouterr().out.splitlines()
    lines = dict(line.rsplit(None, 5)[:2] for line in printed[-3:-1])
    assert set(lines) == {"in the graph", "gymnasium"}
    assert printed[-1].startswith("ratio")


def test_without_a_gpu_there_is_nothing_to_time(load_program, monkeypatch):
    program = load_program("benchmarks.accelerator")
    monkeypatch.setattr(program, "gpu", lambda: None)
    with pytest.raises(SystemExit, match="needs a GPU .* --only_count"):
        program.main(["accelerator"])


def test_what_a_gpu_would_be_timed_on(load_program, monkeypatch, capsys):
    program = load_program(
        "benchmarks.accelerator",
        "--workloads=omni5w1s",
        "--tasks=8",
        "--peak_tflops=10",
        "--peers_python=python",
        "--peers_dir=peers",
    )
    lines = iter(
        [{"median_s_per_step": 0.01, "peak_device_mb": 123.4}] * 4 + [None]
    )
    commands = []
    monkeypatch.setattr(program, "gpu", lambda: "a card")
    monkeypatch.setattr(
        program, "run", lambda command: commands.append(command) or next(lines)
    )
    program.main(["accelerator"])
    printed = capsys.readouterr().out.splitlines()
    # 8 tasks of 5 · (9 + 3) images, and 2 operations for each of the products
    # of four convolutions and the head of an image.
    products = 196 * 576 + 49 * 36864 + 16 * 36864 + 4 * 36864 + 320
    share = 2 * 8 * 60 * products / 0.01 / 1e13
    assert printed[4] == (
        "| omni5w1s | 8 | loop | 10.00 ms | 800 | 123 MiB | "
        f"{100 * share:.1f} % |"
    )
    assert printed[-1] == "| omni5w1s | 8 | torchfunc_vmap | – | – | – | – |"
    assert commands[0][3:6] == [
        "--workload=omni5w1s",
        "--engine=loop_kernels",
        "--tasks=8",
    ]
    assert commands[-1][2:] == [
        "peers",
        "torchfunc_vmap",
        "omni5w1s",
        "8.0",
        "gpu",
        '{"meta_batch": 8}',
    ]


def test_dense_networks_are_timed_beside_peers(
    load_program, monkeypatch, capsys
):
    program = load_program(
        "benchmarks.dense_grid",
        "--networks=20-20:10:3:8",
        "--peers=jax_map",
        "--peers_python=python",
        "--peers_dir=peers",
    )
    line = {"start_rss_mb": 100.0, "peak_rss_mb": 150.0, "first_loss": 1.0}
    lines = [
        {**line, "median_s_per_step": 0.001},
        {**line, "median_s_per_step": 0.002},
    ]
    commands = []
    monkeypatch.setattr(
        program, "run", lambda c: commands.append(c) or lines[len(commands) - 1]
    )
    program.main(["dense_grid"])
    printed = capsys.readouterr().out.splitlines()
    assert printed[-1] == (
        "| 20-20 | 10 | 3 | 8 | 1.00 | 2.00 | 2.00× | 50 | 50 |"
    )
    assert json.loads(commands[1][-1]) == {
        "hidden": [20, 20],
        "support": 10,
        "query": 10,
        "inner_steps": 3,
        "meta_batch": 8,
        "first_order": False,
    }
    lines[1]["first_loss"] = 1.1
    commands.clear()
    with pytest.raises(ValueError, match="Not the same work"):
        program.main(["dense_grid"])


def test_operations_of_a_loop_over_tasks_are_counted(load_program):
    program = load_program("benchmarks.accelerator")

    def body(i, x):
        return i + 1, tf.sin(x)

    @tf.function(autograph=False)
    def step(x):
        return tf.cos(tf.while_loop(lambda i, _: i < 5, body, [0, x])[1])

    graph = step.get_concrete_function(tf.constant(1.0)).graph
    # Five times: less, two counters, and sine. And one cosine.
    assert program.operations(graph, 5) == 5 * 4 + 1
    text = "x = f() \nENTRY main {\n a = f32[2] fusion(b)\n c = f32[] dot(a)}"
    assert program.instructions(text) == 2


def ledger_line(row, test, seed=0, **more):
    scores = {steps: [mean, 0.01] for steps, mean in test.items()}
    return {
        "row": row,
        "seed": seed,
        "validation": scores,
        "test": scores,
        "iterations": 2000,
        "of": 2000,
        "paper_iterations": 60000,
        "minutes": 59.6,
        "processor_minutes": 100.2,
        "commits": ["abc", "def"],
        "date": "2026-11-26",
        **more,
    }


def test_the_ledger_shows_the_worst_seed(tmp_path):
    stopped = ledger_line("omniglot_5way_5shot", {"3": 0.5}, of=60000)
    del stopped["test"]
    lines = [
        # In the order of the runs; a later line of a seed counts.
        ledger_line("sinusoid_k5", {"1": 0.6, "5": 0.5, "10": 0.4}),
        ledger_line("sinusoid_k5", {"1": 0.7, "5": 0.5, "10": 0.4}, seed=1),
        ledger_line("omniglot_20way_1shot", {"5": 0.1}),
        ledger_line("omniglot_20way_1shot", {"5": 0.9}, of=60000),
        ledger_line(
            "omniglot_20way_1shot",
            {"5": 0.95},
            seed=1,
            iterations=1500,
            of=60000,
            commits=["def", "ghi"],
        ),
        # Other settings than the row's.
        ledger_line("omniglot_20way_1shot", {"5": 0.2}, flags="--seed=1"),
        stopped,
        ledger_line(
            "navigation",
            {"0": -40.0, "1": -11.0, "2": -4.0, "3": -3.0},
            machines=["1 × A"],
        ),
    ]
    (tmp_path / "results.jsonl").write_text("\n".join(map(json.dumps, lines)))
    page = tmp_path / "results.md"
    page.write_text("<!-- ledger -->\n<!-- end of ledger -->\n")
    ledger_table.main([f"--docs={tmp_path}"])
    table = page.read_text().splitlines()[3:-1]
    run = "abc, def, 2026-11-26 |"
    assert table == [
        "| Omniglot, 20-way 1-shot, MAML; here one inner step in training, "
        "after 5 steps | 95.8 ± 0.3 | 90.00 ± 1.00 | stopped at 1,500 to 2,000 "
        "of 60,000, 60,000 | 60, 100 | 0, 1 | `omniglot_20way_1shot`, abc, "
        "def, ghi, 2026-11-26 |",
        "| Omniglot, 5-way 5-shot, MAML, after 3 steps | 99.9 ± 0.1 | "
        "50.00 ± 1.00 on validation tasks | stopped at 2,000 of 60,000, "
        f"60,000 | 60, 100 | 0 | `omniglot_5way_5shot`, {run}",
        "| sinusoid, K = 5, MAML, after 1, 5, 10 steps | 0.67 / 0.38 / 0.35 | "
        "0.700 ± 0.010 / 0.500 ± 0.010 / 0.400 ± 0.010 | 2,000, 60,000 | 60, "
        f"100 | 0, 1 | `sinusoid_k5`, {run}",
        "| 2D navigation, MAML, after 0, 1, 2, 3 steps | −40.4 / −11.7 / −3.3 "
        "/ −3.2 | −40.0 ± 0.0 / −11.0 ± 0.0 / −4.0 ± 0.0 / −3.0 ± 0.0 | 2,000, "
        "60,000 | 60, 100 | 0 | `navigation`, abc, def, 2026-11-26, 1 × A |",
    ]


def test_the_page_has_the_table_of_the_lines(tmp_path):
    docs = ledger_table.DOCS
    for name in ("results.jsonl", "results.md"):
        shutil.copy(docs / name, tmp_path)
    ledger_table.main([f"--docs={tmp_path}"])
    page = (docs / "results.md").read_text("utf-8")
    assert (tmp_path / "results.md").read_text("utf-8") == page


class BlackImages:
    """Black images, twice in each meta-batch: drawing would be traced too."""

    def batch(self, tasks, count=None):
        images, labels = np.zeros([2, 2, 28, 28, 1]), np.array([[0, 1]] * 2)
        x = {"support_x": images, "support_y": labels, "query_x": images}
        return tf.data.Dataset.from_tensors((x, labels)).repeat(
            count and -(-count // tasks)
        )


@pytest.mark.filterwarnings("ignore:Even though.*eagerly:UserWarning")
def test_a_row_is_stopped_and_goes_on(tmp_path, monkeypatch, load_program):
    # Most of the time would go into tracing.
    tf.config.run_functions_eagerly(True)
    example = load_program("examples.omniglot")
    monkeypatch.setattr(
        example, "load_tasks", lambda config: [BlackImages()] * 3
    )
    monkeypatch.setattr(
        example,
        "make_learner",
        lambda config: keras.Sequential(
            [
                keras.Input((28, 28, 1)),
                keras.layers.Flatten(),
                keras.layers.Dense(2),
            ]
        ),
    )
    results = tmp_path / "results.jsonl"

    def run(*flags):
        ledger.main(
            [
                *("omniglot_20way_1shot_two_cores", "--seed=1"),
                *(f"--work_dir={tmp_path}", f"--results={results}"),
                *("--iterations=4", "--inner_steps=0", "--test_episodes=2"),
                *flags,
            ]
        )
        return json.loads(results.read_text().splitlines()[-1])

    line = run("--minutes=0")
    assert (line["iterations"], line["of"]) == (1, 4)
    assert sorted(line["validation"]) == ["0", "1"]
    assert "test" not in line
    line = run("--stop_after=3", "--last")
    assert (line["iterations"], line["of"]) == (3, 4)
    assert "seed=1 --stop_after=3 --last --iterations=4" in line["command"]
    with pytest.raises(SystemExit, match="has a test score.*seed=1"):
        run()
    with pytest.raises(SystemExit):
        run("--stop_after=0")
    # Other flags are another row.
    assert line["flags"].endswith("--inner_steps=0 --test_episodes=2")
    line["flags"] = ""
    results.write_text(json.dumps(line) + "\n")
    complete = run()
    assert (complete["iterations"], complete["of"]) == (4, 4)
    assert "stop_after" not in complete["command"]
    assert complete["test"]["0"] == pytest.approx([0.5, 0.0])
    with pytest.raises(SystemExit, match="has a test score.*seed=1"):
        run()
    # What is complete is loaded, with what the stopwatch knew.
    results.write_text("")
    with pytest.raises(SystemExit, match="beyond.*stop_after=2, after 4"):
        run("--stop_after=2")
    monkeypatch.setattr(ledger, "commit", lambda: "later")
    again = run()
    assert again["iterations"] == 4
    assert again["commits"] == [*complete["commits"], "later"]
    assert again["machines"] == [ledger.machine()]
    assert again["test"] == complete["test"]


@pytest.mark.parametrize("name", ledger.ROWS)
def test_the_example_takes_the_flags_of_a_row(load_program, name):
    row = ledger.ROWS[name]
    example = load_program(f"examples.{row.example}")
    ledger.configure(ledger.parse([name]))
    if row.example == "omniglot":
        example.check_flags(example.FLAGS)
        _, steps = example.number_of_steps(example.FLAGS)
        # The table shows the scores after these steps.
        assert set(row.paper) <= {0, 1, steps}


@pytest.mark.slow
def test_a_row_of_policies(tmp_path, load_program):
    load_program("examples.navigation_rl")
    results = tmp_path / "results.jsonl"

    def run(row, *flags):
        ledger.main(
            [
                *(row, f"--work_dir={tmp_path}", f"--results={results}"),
                *("--iterations=2", "--meta_batch_size=2", "--episodes=2"),
                *("--horizon=3", "--hidden_units=2", "--test_goals=2"),
                *flags,
            ]
        )
        return json.loads(results.read_text().splitlines()[-1])

    stopped = run("navigation", "--minutes=0")
    assert (stopped["iterations"], stopped["of"]) == (1, 2)
    complete = run("navigation")
    assert (complete["iterations"], complete["of"]) == (2, 2)
    assert sorted(complete["test"]) == ["0", "1", "2", "3"]
    assert complete["test"] != complete["validation"]
    assert run("navigation_pretrained")["iterations"] == 2
