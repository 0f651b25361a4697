"""Mutants of `rl/`."""

from tests.mutants.runner import Mutant

_ADVANTAGES = (
    "rl/advantages_test.py::test_advantages_of_episodes_that_end_early"
)

MUTANTS = [
    # -- Advantages
    Mutant(
        "rl/advantages.py",
        "later = np.arange(horizon)[:, None] - np.arange(horizon)",
        "later = np.arange(horizon) - np.arange(horizon)[:, None]",
        "rl/advantages_test.py::test_discounted_sums",
    ),
    Mutant(
        "rl/advantages.py",
        "residuals = (rewards + discount * following - values) * valid",
        "residuals = (rewards + following - values) * valid",
        _ADVANTAGES,
    ),
    Mutant(
        "rl/advantages.py",
        "    values *= valid\n",
        "",
        _ADVANTAGES,
    ),
    Mutant(
        "rl/advantages.py",
        "return discounted_sums(residuals, discount * gae_lambda) * valid",
        "return discounted_sums(residuals, gae_lambda) * valid",
        _ADVANTAGES,
    ),
    Mutant(
        "rl/advantages.py",
        "count = tf.reduce_sum(valid, [-2, -1], keepdims=True)",
        "count = tf.cast(tf.size(valid[0]), valid.dtype)",
        _ADVANTAGES,
    ),
    Mutant(
        "rl/baseline.py",
        "weighted = features * tf.cast(valid, tf.float64)[..., tf.newaxis]",
        "weighted = features",
        "rl/advantages_test.py::test_baseline_is_least_squares_of_each_task",
    ),
    Mutant(
        "rl/baseline.py",
        'tf.einsum("tnhi,tnhj->tij", weighted, features)',
        'tf.einsum("tnhi,unhj->tij", weighted, features)',
        "rl/advantages_test.py::test_baseline_is_least_squares_of_each_task",
    ),
    # -- Surrogates
    Mutant(
        "rl/surrogates.py",
        "return -mean(log_probs * advantages, valid)",
        "return mean(log_probs * advantages, valid)",
        "rl/surrogates_test.py::test_derivatives",
    ),
    Mutant(
        "rl/surrogates.py",
        "ratio = tf.exp((log_probs - old_log_probs) * valid)",
        "ratio = tf.exp(log_probs - old_log_probs)",
        "rl/surrogates_test.py::test_ratios_after_the_end_do_not_overflow",
    ),
    Mutant(
        "rl/surrogates.py",
        "until = tf.cumsum(steps, axis=-1)",
        "until = tf.cumsum(steps, axis=-2)",
        "rl/surrogates_test.py::test_derivatives",
    ),
    Mutant(
        "rl/surrogates.py",
        "before = until - steps",
        "before = tf.stop_gradient(until - steps)",
        "rl/surrogates_test.py::test_derivatives",
    ),
    Mutant(
        "rl/meta_objective.py",
        "/ tf.reduce_sum(valid)",
        "/ tf.reduce_sum(tf.ones_like(valid))",
        "rl/surrogates_test.py"
        "::test_a_loss_is_the_mean_over_the_steps_that_were_taken",
    ),
    # -- Outer updates
    Mutant(
        "rl/meta_objective.py",
        'self._actions.kl(query["outputs"], outputs)',
        'self._actions.kl(outputs, query["outputs"])',
        "rl/outer_updates_test.py::test_loss_and_divergence_by_hand",
    ),
    Mutant(
        "rl/meta_objective.py",
        'ratio = tf.exp((log_probs - query["log_probs"]) * valid)',
        'ratio = tf.exp((query["log_probs"] - log_probs) * valid)',
        "rl/outer_updates_test.py::test_loss_and_divergence_by_hand",
    ),
    Mutant(
        "rl/meta_objective.py",
        "loss += sum(tf.cast(t, loss.dtype) for t in output.losses)",
        "",
        "rl/policy_trainer_test.py::test_regularisers_count_in_the_outer_loop",
    ),
    Mutant(
        "rl/outer_updates.py",
        "tf.math.divide_no_nan(2 * self.max_kl,",
        "tf.math.divide_no_nan(self.max_kl,",
        "rl/outer_updates_test.py"
        "::test_trpo_takes_the_natural_gradient_to_the_bound",
    ),
    Mutant(
        "rl/outer_updates.py",
        "return plus(image, self.damping, vector)",
        "return plus(image, -self.damping, vector)",
        "rl/outer_updates_test.py::test_damping_adds_to_the_curvature",
    ),
    Mutant(
        "rl/outer_updates.py",
        "return plus(theta, -length, direction)",
        "return plus(theta, length, direction)",
        "rl/outer_updates_test.py"
        "::test_trpo_takes_the_natural_gradient_to_the_bound",
    ),
    Mutant(
        "rl/outer_updates.py",
        "good = (new_loss < loss) & (kl <= self.max_kl)",
        "good = new_loss < loss",
        "rl/outer_updates_test.py"
        "::test_trpo_shortens_a_step_whose_kl_is_larger_than_it_looked",
    ),
    Mutant(
        "rl/outer_updates.py",
        "tf.where(found, new, old)",
        "tf.where(found, new, new)",
        "rl/outer_updates_test.py::test_trpo_stays_where_no_step_is_right",
    ),
    Mutant(
        "rl/outer_updates.py",
        "-tf.minimum(ratio * advantages, clipped * advantages)",
        "-tf.maximum(ratio * advantages, clipped * advantages)",
        "rl/outer_updates_test.py::test_ppo_does_not_gain_from_large_ratios",
    ),
    # -- Acting
    Mutant(
        "rl/roll_out.py",
        "tf.where(alive, tf.cast(rewards, tf.float32), 0.0)",
        "tf.where(still_alive, tf.cast(rewards, tf.float32), 0.0)",
        "rl/environments/environments_test.py"
        "::test_the_last_step_counts_and_the_state_stays_after_it",
    ),
    Mutant(
        "rl/roll_out.py",
        "tf.cast(alive, tf.float32),",
        "tf.cast(still_alive, tf.float32),",
        "rl/environments/environments_test.py"
        "::test_an_episode_is_over_at_its_end",
    ),
    Mutant(
        "rl/roll_out.py",
        "return _where(still_alive, new_state, state), still_alive, values",
        "return new_state, still_alive, values",
        "rl/environments/environments_test.py"
        "::test_the_last_step_counts_and_the_state_stays_after_it",
    ),
    Mutant(
        "rl/roll_out.py",
        "stateless_fold_in(seed, i + 1)",
        "stateless_fold_in(seed, 1)",
        "rl/environments/environments_test.py"
        "::test_steps_and_episodes_draw_their_own_numbers",
    ),
    Mutant(
        "rl/actions.py",
        "+ 0.5 * math.log(2 * math.pi),",
        "+ 0.5 * math.log(math.pi),",
        "rl/actions_test.py::test_gaussian_log_prob",
    ),
    Mutant(
        "rl/actions.py",
        'ratio = tf.exp(2 * (old["log_std"] - new["log_std"]))',
        'ratio = tf.exp(old["log_std"] - new["log_std"])',
        "rl/actions_test.py"
        "::test_samples_have_the_distribution_and_kl_is_its_mean",
    ),
    Mutant(
        "rl/actions.py",
        '-2 * new["log_std"]',
        '-2 * old["log_std"]',
        "rl/actions_test.py"
        "::test_samples_have_the_distribution_and_kl_is_its_mean",
    ),
    Mutant(
        "rl/environments/navigation.py",
        "state += 0.1 * self.actions.clip(actions)",
        "state += 0.1 * actions",
        "rl/environments/environments_test.py::test_navigation",
    ),
    Mutant(
        "rl/environments/double_integrator.py",
        "position = state[:, 0] + self.time_step * velocity",
        "position = state[:, 0] + self.time_step * state[:, 1]",
        "rl/environments/environments_test.py::test_goal_velocity",
    ),
    # -- Search
    Mutant(
        "rl/policy_learner.py",
        '"advantages": advantages_lib.standardized(advantages, valid),',
        '"advantages": advantages,',
        "rl/policy_trainer_test.py"
        "::test_an_outer_update_sees_the_roll_outs_of_the_adapted_policies",
    ),
    Mutant(
        "rl/policy_learner.py",
        "support = support_of([e for _, e in history])",
        "support = support_of([e for _, e in history[-1:] * number])",
        "rl/meta_policy_search_test.py::test_adapt_is_what_collecting_does",
    ),
    Mutant(
        "rl/policy_trainer.py",
        '"query": experiences[-1],',
        '"query": experiences[0],',
        "rl/policy_trainer_test.py"
        "::test_an_outer_update_sees_the_roll_outs_of_the_adapted_policies",
    ),
    Mutant(
        "rl/policy_trainer.py",
        "self.iteration.assign_add(1)",
        "",
        "rl/policy_trainer_test.py"
        "::test_what_is_saved_goes_on_as_if_nothing_had_been",
    ),
]
