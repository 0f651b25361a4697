"""Random cases: each is right, or refused by a message that names an argument.

A case is a learner, settings, data, and calls in one mode of execution. What
the library returns must equal `PlainMaml`, a slow reference of nested tapes.
Or the case is refused: then the message has an argument in backticks and what
was received, and nothing has changed. No case may take more than a minute.

A failure prints its case. To run it again:
`tests.fuzz.checks.check(Case(...))`.
"""

import collections
import dataclasses
import os

import hypothesis
import pytest

from tests.fuzz import checks
from tests.fuzz import strategies
from tests.fuzz.cases import Case
from tests.fuzz.plain_networks import KINDS

# The same cases each time, and no file of earlier ones. Loaded machines are
# slow, and the fixtures of conftest.py change nothing between cases.
SETTINGS = {
    "database": None,
    "deadline": None,
    "suppress_health_check": list(hypothesis.HealthCheck),
}
LIGHT = ("dense", "linear", "batch_norm", "context", "regularized")


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_every_kind_of_learner_is_compared(kind):
    case = Case(
        kind=kind, inner_steps=2, calls=("train_on_batch", "predict", "adapt")
    )
    if kind == "dropout":
        # The reference draws no random numbers: the loop against eager steps.
        case = dataclasses.replace(case, mode="loop", task_map="loop")
    assert checks.check(case) == checks.EQUAL


# What the fuzz test has found.
FOUND = {
    "XLA read the variables of a frozen layer in a vectorized loop": Case(
        kind="frozen",
        dtype="float32",
        inner_steps=3,
        rematerialize=True,
        task_map="vectorized",
        mode="vectorized",
        calls=("train_on_batch",),
    ),
    "Keras warned of the names of two inputs below a head of prototypes": Case(
        kind="two_inputs",
        loss="sparse",
        outputs=2,
        prototypes=True,
        calls=("adapt",),
    ),
    "Statistics moved to zeros in a meta-batch of which no task counts": Case(
        kind="batch_norm",
        tasks=3,
        batch_size=1,
        sample_weight="task of 0",
        calls=("fit",),
    ),
}


def test_the_error_of_no_task_left_names_its_argument():
    case = Case(tasks=1, bad_tasks="skip", fault="nan in support", calls=())
    assert checks.check(case) == checks.REFUSED


@pytest.mark.parametrize("fault", FOUND)
def test_found_faults_stay_mended(fault):
    assert checks.check(FOUND[fault]) == checks.EQUAL


def test_eager_cases_are_right_or_refused():
    outcomes = collections.Counter()

    @hypothesis.settings(max_examples=75, derandomize=True, **SETTINGS)
    @hypothesis.given(strategies.cases(faults=True))
    def run(case):
        outcomes[checks.check(case)] += 1

    run()
    # Otherwise the test would say little.
    assert outcomes[checks.EQUAL] > outcomes[checks.REFUSED]


@hypothesis.settings(max_examples=5, derandomize=True, **SETTINGS)
@hypothesis.given(strategies.cases(("loop", "no_xla"), kinds=LIGHT))
def test_traced_cases_are_right_or_refused(case):
    checks.check(case)


@pytest.mark.slow
def test_many_cases_are_right_or_refused():
    """Environment variables: `FUZZ_CASES`, `FUZZ_SEED`, `FUZZ_MODES`.

    They are the number of cases, 1000 if it is not set; a number, to draw
    others; and the modes of execution, such as "eager,xla".
    """
    modes = os.environ.get("FUZZ_MODES", ",".join(strategies.MODES))
    outcomes, failures = collections.Counter(), []

    @hypothesis.seed(int(os.environ.get("FUZZ_SEED", "0")))
    @hypothesis.settings(
        max_examples=int(os.environ.get("FUZZ_CASES", "1000")),
        phases=[hypothesis.Phase.generate],
        **SETTINGS,
    )
    @hypothesis.given(strategies.cases(tuple(modes.split(",")), faults=True))
    def run(case):
        try:
            outcome = checks.check(case)
        except Exception as error:
            outcome = f"{type(error).__name__}"
            failures.append(f"{outcome}: {error}\n{case}")
            print(failures[-1], flush=True)
        outcomes[case.mode, outcome] += 1
        if sum(outcomes.values()) % 100 == 0:
            print(dict(outcomes), flush=True)

    run()
    print(dict(outcomes))
    assert not failures, "\n\n".join(failures)
