"""The rows of the ledger: the papers' numbers, and the runs to reach them."""

import dataclasses

FINN = "Finn et al., 2017"
PAPER_SINUSOID = "--inner_steps=1 --kernel_stddev=0.01 --learning_rate=1e-3"
# With a rate that does not fall, a run may end at any step: the papers' number
# of steps takes many hours on two cores.
ANY_TIME = "--meta_batch_size=8 --learning_rate=3e-3 --schedule=average"


@dataclasses.dataclass(frozen=True)
class Row:
    """Numbers of a paper, and the run that is to reproduce them.

    Attributes:
        title: string, what the table calls the row.
        source: string, the paper.
        paper: dict from a number of inner steps in our test to a string, the
            paper's number, whose test may have had another number of steps.
            The string is empty if we know of none.
        flags: string, the flags of the example.
        paper_iterations: int, the training steps of the paper, or `None` if
            nobody has looked them up.
        example: string, the name of the example.
        part: string, which network of the example this is about.
        kind: string, what the numbers are: an `"accuracy"` in percent, an
            `"error"` or a `"return"`.
    """

    title: str
    source: str
    paper: dict[int, str]
    flags: str
    paper_iterations: int | None
    example: str = "omniglot"
    part: str = "meta-trained"
    kind: str = "accuracy"


def omniglot(
    ways, shots, title, source, paper, flags="", paper_iterations=60_000
):
    """Returns a row of Omniglot, with as many iterations as the paper has."""
    iterations = paper_iterations or 60_000
    return Row(
        f"Omniglot, {ways}-way {shots}-shot, {title}",
        source,
        paper,
        f"--algorithm=maml --n_way={ways} --k_shot={shots} "
        f"--iterations={iterations} {ANY_TIME} {flags}",
        paper_iterations,
    )


def sinusoid(shots, title, paper, flags=PAPER_SINUSOID, part="meta-trained"):
    """Returns a row of the sinusoid, of table 2, with the paper's settings."""
    return Row(
        f"sinusoid, K = {shots}, {title}",
        FINN,
        {steps: paper.get(steps, "") for steps in (1, 5, 10)},
        f"--k_shot={shots} --iterations=70000 {flags}",
        70_000,
        "sinusoid",
        part,
        "error",
    )


def policy(title, paper, flags, paper_iterations, example, part="maml"):
    """Returns a row of a policy, with returns after 0 to 3 inner steps."""
    return Row(
        title,
        FINN,
        {steps: paper.get(steps, "") for steps in range(4)},
        flags,
        paper_iterations,
        example,
        part,
        "return",
    )


ANTONIOU = "Antoniou et al., 2019"
LI = "Li et al., 2017"
RAJESWARAN = "Rajeswaran et al., 2019"
# As many queries of a class as examples.
FIVE_QUERIES = "--q_query=5"
# In three minutes, one inner step in training teaches more than five: a
# training step takes a quarter of the time.
ONE_STEP = "--inner_steps=1"
# A step of the head only costs about an eighth of five steps of all weights.
# The head's features are normalised, so the step has to be large.
TWO_CORES = (
    "--algorithm=anil --inner_steps=1 --evaluation_steps=1 --inner_rate=10"
)
# With one inner step, first order learned little in three minutes. The rate is
# spelled out, so that a line tells with which it was made; Reptile's too.
FIRST_ORDER = (
    "--algorithm=fomaml --inner_steps=5 --evaluation_steps=5 --inner_rate=0.5"
)
# It predicts with running statistics, which have no average. So its rate has to
# fall, within the steps of about 20 minutes of a core.
MAML_PLUS_PLUS = "--algorithm=maml_plus_plus --schedule=cosine"
# As many tasks and the outer rate of the paper.
REPTILE = (
    "--algorithm=reptile --meta_batch_size=5 --learning_rate=1 "
    "--inner_rate=5e-3"
)
META_SGD = "--algorithm=meta_sgd --inner_steps=1 --evaluation_steps=1"
MAML_K5 = {1: "0.67", 5: "0.38", 10: "0.35"}
PRETRAINED_K5 = {1: "2.41", 5: "2.23", 10: "2.19"}


def prototypes(ways, shots, maml, snell, flags=""):
    """Returns a row of the recommended recipe for two cores and an hour.

    Args:
        ways: int.
        shots: int.
        maml: string, the number of MAML's paper.
        snell: string, that of prototypical networks in Snell et al., 2017,
            table 1.
        flags: string.
    """
    return omniglot(
        ways,
        shots,
        "prototypes, beside MAML's number",
        FINN,
        {0: f"{maml}, Snell et al. {snell}"},
        f"--algorithm=prototypes {flags}",
    )


# In the order in which the table shows them.
ROWS = {
    "omniglot_20way_1shot_prototypes": prototypes(20, 1, "95.8 ± 0.3", "96.0"),
    "omniglot_5way_1shot_prototypes": prototypes(5, 1, "98.7 ± 0.4", "98.8"),
    "omniglot_5way_5shot_prototypes": prototypes(
        5, 5, "99.9 ± 0.1", "99.7", FIVE_QUERIES
    ),
    "omniglot_20way_5shot_prototypes": prototypes(
        20, 5, "98.9 ± 0.2", "98.9", FIVE_QUERIES
    ),
    "omniglot_20way_1shot_two_cores": omniglot(
        20,
        1,
        "MAML; here the head only adapts",
        FINN,
        {1: "95.8 ± 0.3"},
        TWO_CORES,
    ),
    "omniglot_20way_1shot": omniglot(
        20,
        1,
        "MAML; here one inner step in training",
        FINN,
        {5: "95.8 ± 0.3"},
        ONE_STEP,
    ),
    "omniglot_20way_1shot_maml_plus_plus": omniglot(
        20,
        1,
        "MAML++",
        ANTONIOU,
        {5: "97.65"},
        f"{MAML_PLUS_PLUS} --iterations=1600",
        50_000,
    ),
    "omniglot_5way_5shot": omniglot(
        5, 5, "MAML", FINN, {3: "99.9 ± 0.1"}, FIVE_QUERIES
    ),
    "omniglot_20way_5shot": omniglot(
        20,
        5,
        "MAML; here one inner step in training",
        FINN,
        {5: "98.9 ± 0.2"},
        f"{FIVE_QUERIES} {ONE_STEP}",
    ),
    "omniglot_5way_1shot": omniglot(5, 1, "MAML", FINN, {3: "98.7 ± 0.4"}),
    "omniglot_5way_1shot_maml_plus_plus": omniglot(
        5,
        1,
        "MAML++",
        ANTONIOU,
        {5: "99.47"},
        f"{MAML_PLUS_PLUS} --iterations=3500 --inner_steps=5 "
        "--evaluation_steps=5",
        50_000,
    ),
    "omniglot_5way_1shot_dense": omniglot(
        5,
        1,
        "MAML, no convolutions",
        FINN,
        {3: "89.7 ± 1.1"},
        "--network=dense",
    ),
    "omniglot_5way_1shot_fomaml": omniglot(
        5,
        1,
        "first-order MAML",
        "Nichol et al., 2018",
        {5: "98.3 ± 0.5"},
        FIRST_ORDER,
        None,
    ),
    "omniglot_20way_1shot_fomaml": omniglot(
        20,
        1,
        "first-order MAML",
        "Nichol et al., 2018",
        {5: "89.4 ± 0.5"},
        FIRST_ORDER,
        None,
    ),
    "omniglot_20way_1shot_anil": omniglot(
        20,
        1,
        "ANIL",
        "Raghu et al., 2020",
        {5: "96.2 ± 0.5"},
        "--algorithm=anil",
        None,
    ),
    "omniglot_5way_1shot_reptile": omniglot(
        5,
        1,
        "Reptile, transductive",
        "Nichol et al., 2018",
        {50: "97.68"},
        REPTILE,
        100_000,
    ),
    "omniglot_20way_1shot_reptile": omniglot(
        20,
        1,
        "Reptile, transductive",
        "Nichol et al., 2018",
        {50: "89.43"},
        REPTILE,
        200_000,
    ),
    "omniglot_5way_1shot_meta_sgd": omniglot(
        5, 1, "Meta-SGD", LI, {1: "99.53 ± 0.26"}, META_SGD, None
    ),
    "omniglot_20way_1shot_meta_sgd": omniglot(
        20, 1, "Meta-SGD", LI, {1: "95.93 ± 0.38"}, META_SGD, None
    ),
    "omniglot_5way_1shot_imaml": omniglot(
        5,
        1,
        "iMAML, gradient descent inside",
        RAJESWARAN,
        {8: "99.16 ± 0.35"},
        "--algorithm=imaml",
        None,
    ),
    "omniglot_20way_1shot_imaml": omniglot(
        20,
        1,
        "iMAML, gradient descent inside",
        RAJESWARAN,
        {8: "94.46 ± 0.42"},
        "--algorithm=imaml",
        None,
    ),
    "omniglot_20way_1shot_proto_maml": omniglot(
        20,
        1,
        "Proto-MAML; here one inner step in training",
        "Triantafillou et al., 2020",
        {5: ""},
        f"--algorithm=proto_maml {ONE_STEP}",
        None,
    ),
    "sinusoid_k5_two_cores": sinusoid(
        5,
        "MAML; here the recipe for two cores",
        MAML_K5,
        "--inner_steps=1 --kernel_stddev=0.3 --learning_rate=3e-3",
    ),
    "sinusoid_k5_two_cores_two_steps": sinusoid(
        5,
        "MAML; here the same, with two inner steps in training",
        MAML_K5,
        "--inner_steps=2 --kernel_stddev=0.3 --learning_rate=3e-3",
    ),
    "sinusoid_k5": sinusoid(5, "MAML", MAML_K5),
    "sinusoid_k10": sinusoid(10, "MAML", {}),
    "sinusoid_k20": sinusoid(20, "MAML", {}),
    "sinusoid_k5_first_order": sinusoid(
        5,
        "first-order MAML",
        {},
        f"--meta_gradient=first_order {PAPER_SINUSOID}",
    ),
    "sinusoid_k5_pretrained": sinusoid(
        5, "pretrained on all tasks", PRETRAINED_K5, part="pretrained"
    ),
    "sinusoid_k5_meta_sgd": dataclasses.replace(
        sinusoid(5, "Meta-SGD", {}, f"--learn_rates {PAPER_SINUSOID}"),
        source=LI,
        paper_iterations=None,
    ),
    "navigation": policy(
        "2D navigation, MAML",
        {0: "−40.4", 1: "−11.7", 2: "−3.3", 3: "−3.2"},
        "--iterations=150",
        100,
        "navigation_rl",
    ),
    "navigation_pretrained": policy(
        "2D navigation, one policy for all goals",
        {},
        "--iterations=100",
        100,
        "navigation_rl",
        "pretrained",
    ),
    "half_cheetah_direction": policy(
        "half-cheetah, forward or backward, MAML",
        {1: "293"},
        "--task=direction --iterations=400",
        None,
        "half_cheetah_rl",
    ),
    "half_cheetah_direction_pretrained": policy(
        "half-cheetah, forward or backward, one policy for both",
        {},
        "--task=direction --iterations=400",
        None,
        "half_cheetah_rl",
        "pretrained",
    ),
}
