"""What hypothesis draws: cases of every setting."""

from hypothesis import strategies as st

from keras_maml.engine.task_map import FORMS as TASK_MAPS
from tests.fuzz import plain_rules
from tests.fuzz.cases import Case
from tests.fuzz.faults import FAULTS
from tests.fuzz.plain_networks import FORMS
from tests.fuzz.plain_networks import KINDS

ALL_KINDS = tuple(sorted(KINDS))
CALLS = ("train_on_batch", "fit", "evaluate", "predict", "call", "adapt")
MODES = (
    "eager",
    "loop",
    "auto",
    "vectorized",
    "compiled",
    "no_xla",
    "xla",
)

_NOT_TO_A_MINIMUM = (
    "decay",
    "adamw",
    "learned",
    "learned_variable",
    "learned_weight",
    "learned_step",
)

_small = st.integers(1, 3)


def _mostly(usual, *others):
    """Draws the usual value in half of the cases, and one of the others."""
    return st.sampled_from([usual] * max(len(others), 1) + list(others))


@st.composite
def cases(draw, modes=("eager",), faults=False, kinds=ALL_KINDS):
    """Draws a `Case`.

    Args:
        draw: of hypothesis.
        modes: the modes of execution to draw from.
        faults: bool. Whether some of the data are wrong.
        kinds: the kinds of learners to draw from.
    """
    loss = draw(
        st.sampled_from(["mse", "mse", "sparse", "sparse", "categorical"])
    )
    outputs = draw(st.integers(2, 3) if loss != "mse" else st.integers(1, 2))
    reduction = "sum_over_batch_size"
    inner_loss = None
    if draw(st.integers(0, 4)) == 0:
        reduction = "sum"
    elif draw(st.integers(0, 3)) == 0:
        inner_loss = {"mse": "log_cosh", "sparse": "brier"}.get(loss)
    dtype, policy = draw(
        _mostly(
            ("float64", None),
            ("float32", None),
            ("float32", "mixed_bfloat16"),
            ("float32", "mixed_float16"),
        )
    )
    kind = draw(st.sampled_from(kinds))
    adapted = draw(_mostly("all", "head", "body", "kernels"))
    if draw(st.integers(0, 9)) == 0:
        adapted = "names"
    if kind == "context":
        adapted = draw(st.sampled_from(["context", "context", "all", "head"]))
    gradient = draw(
        _mostly("second_order", "first_order", "reptile", "implicit")
    )
    mode = draw(st.sampled_from(modes))
    support = draw(st.integers(1, 5))
    annealing = draw(_mostly(None, 1, 4))
    rule = draw(_mostly("sgd", *plain_rules.NAMES))
    norm = draw(_mostly("transductive", "support", "moving", "per_step"))
    # Keras warns that XLA cannot compile the whole step with prototypes.
    prototypes = loss == "sparse" and draw(st.integers(0, 3)) == 0
    prototypes = prototypes and mode != "xla"
    if gradient in ("reptile", "implicit") and draw(st.integers(0, 3)):
        # Most of these settings go together; the others are refused.
        annealing, prototypes = None, False
        rule = "momentum" if rule in _NOT_TO_A_MINIMUM else rule
        norm = "support" if norm == "per_step" else norm
        adapted = "all" if gradient == "reptile" else adapted
    first = draw(st.sampled_from(["train_on_batch", "fit"]))
    calls = draw(st.lists(st.sampled_from(CALLS[2:]), max_size=2, unique=True))
    task_map = mode if mode in TASK_MAPS else "auto"
    return Case(
        kind=kind,
        form=draw(st.sampled_from(FORMS)),
        width=draw(st.integers(1, 3)),
        loss=loss,
        reduction=reduction,
        inner_loss=inner_loss,
        outputs=outputs,
        dtype=dtype,
        policy=policy,
        tasks=draw(_small),
        batch_size=draw(_small),
        support=support if loss == "mse" else support * outputs,
        queries=draw(_small),
        support_weight=draw(_mostly(None, "positive", "zeros")),
        sample_weight=draw(
            _mostly(None, "positive", "zeros", "tasks", "task of 0")
        ),
        rule=rule,
        rate=draw(st.sampled_from([0.01, 0.1, 0.4])),
        inner_steps=draw(st.sampled_from([1, 1, 2, 2, 3, 0])),
        evaluation_steps=draw(_mostly(None, 0, 1, 3)),
        inner_batch_size=draw(_mostly(None, 1, 2, 3)),
        meta_gradient=gradient,
        rematerialize=draw(st.integers(0, 3)) == 0
        and gradient == "second_order",
        adapted_weights=adapted,
        annealing=annealing,
        iterations=draw(st.sampled_from([0, 0, 1, 2, 9])),
        normalization=norm,
        prototypes=prototypes,
        task_map=task_map,
        task_parallelism=draw(_mostly(None, 1, 2)),
        bad_tasks=draw(_mostly("raise", "skip")),
        fault=draw(st.sampled_from(FAULTS))
        if faults and draw(st.integers(0, 3)) == 0
        else None,
        mode=mode,
        calls=(first, *calls),
        seed=draw(st.integers(0, 999)),
    )
