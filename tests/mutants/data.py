"""Mutants of `tasks/` and of the streams of episodes."""

from tests.mutants.runner import Mutant

_ROTATIONS = (
    "tasks/episodes_test.py"
    "::test_rotations_are_drawn_for_each_class_of_an_episode"
)
_DISTRIBUTION = "tasks/task_distribution_test.py"
_RESUMED = (
    f"{_DISTRIBUTION}::test_resuming_equals_never_having_stopped[sinusoid]"
)

MUTANTS = [
    # -- Episodes by number
    Mutant(
        "tasks/task_distribution.py",
        "low = tf.maximum(start - block * BLOCK, 0)",
        "low = tf.maximum(start - block, 0)",
        _RESUMED,
    ),
    Mutant(
        "tasks/task_distribution.py",
        "high = tf.minimum(end - block * BLOCK, BLOCK)",
        "high = tf.minimum(end - block * BLOCK, BLOCK - 1)",
        f"{_DISTRIBUTION}"
        "::test_meta_batches_hold_the_episodes_of_their_numbers[sinusoid]",
    ),
    Mutant(
        "tasks/task_distribution.py",
        "first = start // BLOCK",
        "first = -(-start // BLOCK)",
        _RESUMED,
    ),
    Mutant(
        "tasks/task_distribution.py",
        "tf.stack([tf.constant(self.seed, tf.int64), block])",
        "tf.stack([tf.constant(0, tf.int64), block])",
        f"{_DISTRIBUTION}::test_seeds_and_numbers_give_different_episodes",
    ),
    Mutant(
        "tasks/task_distribution.py",
        "end = start + count",
        "end = count",
        f"{_DISTRIBUTION}::test_count",
    ),
    Mutant(
        "tasks/task_distribution.py",
        '"query_x": x[:, support:],',
        '"query_x": x[:, :support],',
        "tasks/sinusoid_test.py::test_parameters_are_those_of_the_points",
    ),
    Mutant(
        "streams.py",
        "done = meta_batches * self.tasks",
        "done = meta_batches",
        "callbacks/resume_test.py::test_data_go_on",
    ),
    Mutant(
        "streams.py",
        "self.count - done",
        "self.count",
        "callbacks/resume_test.py::test_data_go_on",
    ),
    # -- Classification
    Mutant(
        "tasks/episodes.py",
        "rows[..., self.k_shot :]",
        "rows[..., : self.q_query]",
        "tasks/episodes_test.py::test_support_and_query_never_share_an_example",
    ),
    Mutant(
        "tasks/episodes.py",
        "labels = order // size",
        "labels = order % self.n_way",
        "tasks/episodes_test.py::test_labels_name_classes",
    ),
    Mutant(
        "tasks/episodes.py",
        "order = permutations(order_seed, BLOCK, length)",
        "order = tf.repeat(tf.range(length)[None], BLOCK, 0)",
        "tasks/episodes_test.py"
        "::test_the_place_of_a_row_does_not_tell_its_label",
    ),
    Mutant(
        "tasks/episodes.py",
        "rows[..., : self.k_shot], seeds[3]",
        "rows[..., : self.k_shot], seeds[4]",
        "tasks/episodes_test.py"
        "::test_orders_differ_also_if_support_and_query_are_of_one_size",
    ),
    Mutant(
        "tasks/episodes.py",
        "classes = tf.math.top_k(scores, self.n_way).indices",
        "classes = tf.sort(tf.math.top_k(scores, self.n_way).indices)",
        "tasks/episodes_test.py"
        "::test_the_order_of_classes_does_not_tell_the_label",
    ),
    Mutant(
        "tasks/episodes.py",
        "scores = tf.where(exists, scores, -1.0)",
        "",
        "tasks/episodes_test.py::test_labels_name_classes",
    ),
    Mutant(
        "tasks/episodes.py",
        "maxval=4,",
        "maxval=3,",
        _ROTATIONS,
    ),
    Mutant(
        "tasks/episodes.py",
        "[0, 1, 3, 2, 4]), [2])",
        "[0, 1, 3, 2, 4]), [3])",
        "tasks/episodes_test.py::test_rotations_as_classes",
    ),
    Mutant(
        "tasks/episodes.py",
        "x = tf.where(turns >= 2, tf.reverse(x, [2, 3]), x)",
        "x = tf.where(turns > 2, tf.reverse(x, [2, 3]), x)",
        "tasks/episodes_test.py::test_rotations_as_classes",
    ),
    Mutant(
        "tasks/labelled_examples.py",
        "np.float32(1 / 255)",
        "np.float32(1 / 256)",
        "tasks/class_pool_test.py::test_dtypes",
    ),
    Mutant(
        "tasks/labelled_examples.py",
        "self._starts = np.cumsum(counts) - counts",
        "self._starts = np.arange(len(counts)) * counts",
        "tasks/episodes_test.py::test_labels_name_classes",
    ),
    Mutant(
        "tasks/labelled_examples.py",
        "turned.turns = np.repeat(np.arange(4), self.num_classes)",
        "turned.turns = np.tile(np.arange(4), self.num_classes)",
        "tasks/class_pool_test.py"
        "::test_with_rotations_adds_three_classes_for_each",
    ),
    Mutant(
        "tasks/class_pool.py",
        "order[end - size : end]",
        "order[:size]",
        "tasks/class_pool_test.py::test_split_deals_out_every_class_once",
    ),
    Mutant(
        "tasks/class_pool.py",
        "np.flatnonzero(self.counts >= examples)",
        "np.flatnonzero(self.counts > examples)",
        "tasks/class_pool_test.py::test_with_at_least_leaves_out_small_classes",
    ),
    # -- Others
    Mutant(
        "tasks/sinusoid.py",
        "tf.sin(x - phase[:, None, None])",
        "tf.sin(x + phase[:, None, None])",
        "tasks/sinusoid_test.py::test_parameters_are_those_of_the_points",
    ),
    Mutant(
        "tasks/gaussian_tasks.py",
        "y = first + tf.exp(second) * y",
        "y = first + tf.exp(2 * second) * y",
        "tasks/gaussian_tasks_test.py::test_points_of_a_density_are_gaussian",
    ),
    Mutant(
        "tasks/gaussian_tasks.py",
        "(vectors * np.sqrt(values.clip(0.0))) @ vectors.T",
        "(vectors * values.clip(0.0)) @ vectors.T",
        "tasks/gaussian_tasks_test.py"
        "::test_densities_have_the_parameters_that_p_gives_them",
    ),
    Mutant(
        "tasks/gaussian_tasks.py",
        "nats = 0.5 * distance**2 + log_sigma",
        "nats = 0.5 * distance**2 - log_sigma",
        "tasks/gaussian_tasks_test.py::test_negative_log_likelihood_by_hand",
    ),
    Mutant(
        "tasks/preprocessing.py",
        '"lanczos3", antialias=True',
        '"lanczos3", antialias=False',
        "tasks/preprocessing_test.py::test_omniglot_against_pillow",
    ),
    Mutant(
        "tasks/glyphs.py",
        "split_seed(seed, len(_SPLITS))[_SPLITS.index(self.split)]",
        "split_seed(seed, len(_SPLITS))[0]",
        "tasks/glyphs_test.py"
        "::test_no_class_occurs_twice_in_any_split_or_under_another_seed",
    ),
    Mutant(
        "tasks/glyphs.py",
        "query = permutations(seeds[2],",
        "query = permutations(seeds[1],",
        "tasks/glyphs_test.py"
        "::test_the_order_of_the_support_does_not_tell_that_of_the_query",
    ),
]
