"""Faults in verdicts: what leaks, what is unfair, what is concluded."""

from tests.mutants.runner import Mutant

_PARTS = "verdict/parts_test.py"
_VERDICT = "verdict/verdict_test.py"

MUTANTS = [
    Mutant(
        "verdict/parts.py",
        "start = self.start + size * after",
        "start = size * after",
        f"{_PARTS}::test_a_distribution_without_an_end_gives_other_episodes",
    ),
    Mutant(
        "verdict/parts.py",
        "if tasks.task_names([0]) is not None:",
        "if False:",
        f"{_PARTS}::test_episodes_that_share_classes_are_refused",
    ),
    Mutant(
        "verdict/rows.py",
        "both = tf.concat([support, query], 1)",
        "both = tf.concat([query, support], 1)",
        f"{_PARTS}::test_rows",
    ),
    Mutant(
        "verdict/plan.py",
        "round(self.budget / gradients / self.rounds)",
        "round(self.budget / self.rounds)",
        f"{_PARTS}::test_the_budget_counts_gradients",
    ),
    Mutant(
        "verdict/decision.py",
        "key=lambda name: reports[name].facts",
        "key=lambda name: -reports[name].summary().mean or reports[name].facts",
        f"{_VERDICT}::test_validation_tasks_choose_the_candidate_of_the_test",
    ),
    Mutant(
        "verdict/decision.py",
        'not a.facts["skipped"]',
        "True",
        f"{_VERDICT}::test_a_candidate_that_diverges_is_not_chosen",
    ),
    Mutant(
        "verdict/decision.py",
        "and _gain(a, b) >= _WORTHWHILE",
        "and _gain(a, b) > 0",
        f"{_VERDICT}::test_it_says_not_to_adapt",
    ),
    Mutant(
        "verdict/decision.py",
        "and compare(a, b).p_value < _CHANCE",
        "",
        f"{_VERDICT}::test_it_says_that_it_does_not_know",
    ),
    Mutant(
        "verdict/decision.py",
        "choice = next(name for name in adapting if name in (*rivals, best))",
        "choice = best",
        f"{_VERDICT}::test_a_simpler_candidate_that_is_as_good_is_chosen",
    ),
]
