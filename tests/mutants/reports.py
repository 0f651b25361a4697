"""Faults in reports, comparisons and predictions of stated coverage."""

from tests.mutants.runner import Mutant

_STATISTICS = "evaluation/statistics_test.py"
_EPISODES = "evaluation/evaluate_episodes_test.py"
_REPORT = "evaluation/evaluation_report_test.py"
_COMPARE = "evaluation/comparison_test.py"
_CONFORMAL = "evaluation/conformal_test.py"
_CURVES = "callbacks/adaptation_curves_test.py"

MUTANTS = [
    Mutant(
        "evaluation/statistics.py",
        "error = float(np.std(values, ddof=1) / np.sqrt(count))",
        "error = float(np.std(values) / np.sqrt(count))",
        f"{_STATISTICS}::test_mean_over_episodes",
    ),
    Mutant(
        "evaluation/statistics.py",
        "(count - 1) / count * squares",
        "1 / (count - 1) * squares",
        f"{_STATISTICS}::test_mean_over_tasks",
    ),
    Mutant(
        "evaluation/statistics.py",
        "shift + z / (1 - skew * z)",
        "shift + z / (1 + skew * z)",
        f"{_STATISTICS}::test_bootstrap",
    ),
    Mutant(
        "evaluation/statistics.py",
        "for name in set(names):",
        "for name in names[:1]:",
        f"{_STATISTICS}::test_mean_over_shared_classes",
    ),
    Mutant(
        "evaluation/calibration.py",
        "np.nansum(self.weight * gaps) / np.sum(self.weight)",
        "np.nanmean(gaps)",
        f"{_STATISTICS}::test_expected_calibration_error",
    ),
    Mutant(
        "evaluation/comparison.py",
        "differences -= b.scores[metric][steps_b][rows_b]",
        "differences -= b.scores[metric][steps_b][rows_a]",
        f"{_COMPARE}::test_only_shared_episodes_are_compared",
    ),
    Mutant(
        "evaluation/comparison.py",
        "differ = a.checksums[rows_a] != b.checksums[rows_b]",
        "differ = a.checksums[rows_a] != a.checksums[rows_a]",
        f"{_COMPARE}::test_what_cannot_be_compared[data]",
    ),
    Mutant(
        "evaluation/evaluation_report.py",
        'reverse=direction == "down"',
        'reverse=direction == "up"',
        f"{_REPORT}::test_worst_decile",
    ),
    Mutant(
        "evaluation/episode_columns.py",
        'first = results["bins"][:, 0].sum(1)',
        'first = results["bins"][:, -1].sum(1)',
        f"{_EPISODES}::test_scores_of_a_classifier_with_weights",
    ),
    Mutant(
        "evaluation/evaluate_episodes.py",
        'keep = np.flatnonzero(finite & arrays["counts"])',
        "keep = np.flatnonzero(finite)",
        f"{_EPISODES}::test_scores_of_a_classifier_with_weights",
    ),
    Mutant(
        "engine/adaptation_path.py",
        "visited = visit(number + 1, after[0], after[2])",
        "visited = visit(number, after[0], after[2])",
        f"{_EPISODES}::test_statistics_that_have_no_other[per_step]",
    ),
    Mutant(
        "engine/adaptation_path.py",
        "moves = [after - before for after, before in zip(moved, weights)]",
        "moves = gradients",
        f"{_EPISODES}::test_scores_of_regression",
    ),
    Mutant(
        "engine/class_predictions.py",
        "is_right = tf.argmax(probabilities, -1) == labels",
        "is_right = tf.argmin(probabilities, -1) == labels",
        f"{_EPISODES}::test_scores_of_a_classifier_with_weights",
    ),
    Mutant(
        "engine/episode_scorer.py",
        "output = other.predict(adapted, query_x)",
        "output = learner.predict(adapted, query_x)",
        f"{_EPISODES}::test_scores_of_a_classifier_with_weights",
    ),
    Mutant(
        "evaluation/conformal.py",
        "np.sort(queries - residuals, 0)[count - rank.position]",
        "np.sort(queries - residuals, 0)[0]",
        f"{_CONFORMAL}::test_intervals_by_hand",
    ),
    Mutant(
        "evaluation/conformal.py",
        "worse < rank.position",
        "worse <= rank.position",
        f"{_CONFORMAL}::test_sets_by_hand",
    ),
    Mutant(
        "evaluation/conformal.py",
        'if statistics == "transductive":',
        'if statistics == "moving":',
        f"{_CONFORMAL}::test_classes_are_predicted_as_by_the_adapted_model",
    ),
    Mutant(
        "evaluation/folds.py",
        "math.ceil((1 - miscoverage) * (count + 1) - 1e-9)",
        "math.ceil((1 - miscoverage) * count - 1e-9)",
        f"{_CONFORMAL}::test_intervals_by_hand",
    ),
    Mutant(
        "callbacks/adaptation_curves.py",
        "if self._spent + self._expected <= self.share * training:",
        "if self._spent <= self.share * training:",
        f"{_CURVES}::test_the_share_of_the_time",
    ),
    Mutant(
        "callbacks/gradient_cosine.py",
        "for meta_gradient in (FirstOrder(), SecondOrder())",
        "for meta_gradient in (SecondOrder(), SecondOrder())",
        f"{_CURVES}::test_cosine_of_the_two_gradients",
    ),
]
