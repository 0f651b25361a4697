"""Mutants of the steps: tasks, their sums, bad tasks, the outer step."""

from tests.mutants.runner import Mutant

_BAD = "bad_tasks_test.py"
_STOPS = f"{_BAD}::test_a_bad_task_stops_the_step_before_anything_changes"
_SKIPS = f"{_BAD}::test_a_skipped_task_is_as_if_it_were_not_there"
_EPISODE = f"{_BAD}::test_the_number_of_the_episode_is_named"
_WEIGHT_0 = f"{_BAD}::test_rows_of_weight_0_may_hold_anything"

MUTANTS = [
    # -- The map over tasks
    Mutant(
        "engine/task_map.py",
        "weights = tf.cast(counts, tensor.dtype)",
        "weights = tf.ones_like(counts, tensor.dtype)",
        "engine/task_map_test.py::test_training_in_chunks_equals_the_loop[vectorized-5]",
    ),
    Mutant(
        "engine/task_map.py",
        'return _while_loop(_as_function(fn), chunk["tasks"], 1, count)',
        'return _while_loop(_as_function(fn), chunk["tasks"], 1)',
        "engine/task_map_test.py"
        "::test_training_in_chunks_equals_the_loop[compiled-5]",
    ),
    Mutant(
        "engine/task_map.py",
        "total = [a + b for a, b in zip(total, parts)]",
        "total = parts",
        "engine/task_map_test.py::test_a_replica_may_have_no_task",
    ),
    Mutant(
        "engine/task_map.py",
        "summed if i == 0 else tf.nest.map_structure(tf.add, total, summed)",
        "summed",
        "engine/task_map_test.py::test_stacks_and_sums",
    ),
    Mutant(
        "engine/task_map.py",
        "joined = tf.reshape(tensor, shape)[:count]",
        "joined = tf.reshape(tensor, shape)[-count:]",
        "engine/task_map_test.py"
        "::test_more_chunks_than_cores_are_a_loop[vectorized]",
    ),
    # -- One meta-batch
    Mutant(
        "engine/meta_step.py",
        "weights[i] = tf.zeros_like(weights[i])",
        "pass",
        "algorithms_test.py::test_no_outer_loop_moves_the_context",
    ),
    Mutant(
        "engine/meta_step.py",
        "tf.concat([adapted.watched[1:], last_loss], 0)",
        "tf.concat([adapted.watched[:-1], last_loss], 0)",
        "outer_loss_test.py"
        "::test_the_losses_of_a_loop_of_many_steps_are_in_order[4]",
    ),
    Mutant(
        "engine/compiled_loss.py",
        "return loss * number_of_replicas()",
        "return loss",
        "replicas_test.py::test_two_replicas_train_as_one_device",
    ),
    Mutant(
        "engine/meta_step.py",
        "tf.reduce_mean(tf.cast(weight, floatx))",
        "tf.reduce_sum(tf.cast(weight, floatx))",
        "implicit_gradients_test.py"
        "::test_reptile_takes_the_mean_weight_of_two_outputs",
    ),
    Mutant(
        "engine/meta_step.py",
        "return tf.add_n(means) / len(means) if means",
        "return tf.add_n(means) if means",
        "implicit_gradients_test.py"
        "::test_reptile_takes_the_mean_weight_of_two_outputs",
    ),
    Mutant(
        "engine/learner_state.py",
        "        variables[i] = variable\n",
        "        pass\n",
        "engine/per_step_norm_test.py"
        "::test_training_uses_the_batch_and_moves_the_rows_averages",
    ),
    # -- Bad tasks
    Mutant(
        "engine/meta_step.py",
        'self._checked = ["probes", "loss", "state"]',
        'self._checked = ["probes", "loss"]',
        f"{_BAD}::test_a_state_that_is_not_finite_is_named",
    ),
    Mutant(
        "engine/meta_step.py",
        'self._checked.append("gradients")',
        "pass",
        f"{_BAD}::test_a_gradient_that_is_not_finite_is_named",
    ),
    Mutant(
        "engine/meta_step.py",
        "return self._summary(task, self._sources)",
        "return self._summary(task, lambda task, adapted: [])",
        f"{_BAD}::test_nan_that_a_frozen_layer_hides_is_found",
    ),
    Mutant(
        "engine/meta_step.py",
        "return self._summary(task, self._data)",
        "return self._summary(task, lambda task, adapted: [])",
        f"{_BAD}::test_nan_that_a_loss_leaves_out_is_bad_in_every_form",
    ),
    Mutant(
        "engine/task_forms.py",
        "meta_model.inner_steps if second_order else 1",
        "meta_model.inner_steps",
        "engine/task_map_test.py"
        "::test_auto_counts_the_steps_that_a_derivative_goes_through",
    ),
    Mutant(
        "engine/meta_step.py",
        "lambda t: tf.where(is_good, t, tf.zeros_like(t)), summed",
        "lambda t: t, summed",
        f"{_SKIPS}[loop]",
    ),
    Mutant(
        "engine/meta_step.py",
        "lambda t: tf.boolean_mask(t, good)",
        "lambda t: t",
        f"{_SKIPS}[loop]",
    ),
    Mutant(
        "engine/bad_tasks.py",
        "is_bad = tf.reduce_any(~finite, -1)",
        "is_bad = tf.reduce_all(~finite, -1)",
        f"{_STOPS}[compiled]",
    ),
    Mutant(
        "engine/bad_tasks.py",
        "self.report.assign(_NO_REPORT)",
        "pass",
        f"{_STOPS}[compiled]",
    ),
    Mutant(
        "engine/bad_tasks.py",
        'return tf.where(is_good, tensor, tf.cast(float("nan"), tensor.dtype))',
        "return tensor",
        f"{_BAD}::test_predictions_are_nan_also_where_a_layer_hides_it",
    ),
    Mutant(
        "engine/meta_trainer.py",
        "keras_distribution.run_if(check, self._update, result.mean)",
        "self._update(result.mean)",
        f"{_STOPS}[compiled]",
    ),
    Mutant(
        "engine/meta_trainer.py",
        "with tensorflow_internals.changes_after(check):\n                self",
        "if True:\n                self",
        f"{_STOPS}[loop]",
    ),
    Mutant(
        "engine/meta_trainer.py",
        "healthy = bad_replicas == 0",
        "healthy = result.healthy",
        "replicas_test.py"
        "::test_a_bad_task_of_one_replica_stops_all_and_ends_nothing",
    ),
    Mutant(
        "engine/meta_trainer.py",
        "has_stepped = self.optimizer.iterations > steps_before",
        "has_stepped = self.optimizer.iterations >= steps_before",
        f"{_BAD}"
        "::test_state_stays_where_the_optimizer_leaves_out_a_step"
        "[transductive]",
    ),
    Mutant(
        "engine/meta_trainer.py",
        "tf.cast(all_tasks, result.count.dtype) - result.count",
        "result.count",
        f"{_BAD}::test_skipped_tasks_are_counted_over_an_epoch",
    ),
    Mutant(
        "tasks/task_distribution.py",
        "drawn[_NUMBER] = block * BLOCK + tf.range(low, high)",
        "drawn[_NUMBER] = block * BLOCK + tf.range(high - low)",
        f"{_EPISODE}[loop]",
    ),
    Mutant(
        "evaluation/evaluate_tasks.py",
        "finite &= _finite_tasks([predictions, results[-1]])",
        "pass",
        f"{_BAD}::test_evaluate_tasks_looks_at_predictions_too",
    ),
    # -- Rows and tasks of weight 0
    Mutant(
        "engine/learner_state.py",
        "tf.where(counts, value, tf.cast(variables[i].value, value.dtype))",
        "value",
        "engine/weightless_test.py"
        "::test_tasks_that_do_not_count_move_no_statistics",
    ),
    Mutant(
        "engine/weightless.py",
        "turn = tf.math.floormod(turn, tf.maximum(numbers, 1))",
        "turn = tf.minimum(turn, tf.maximum(numbers, 1))",
        "engine/weightless_test.py"
        "::test_rows_that_count_take_the_places_of_others_in_turn",
    ),
    Mutant(
        "engine/weightless.py",
        "order = tf.argsort(tf.cast(~counted,",
        "order = tf.argsort(tf.cast(counted,",
        f"{_WEIGHT_0}[loop]",
    ),
    Mutant(
        "engine/weightless.py",
        "source = tf.where(counted, numbers, first)",
        "source = numbers",
        f"{_BAD}::test_tasks_of_weight_0_may_hold_anything[loop]",
    ),
    Mutant(
        "engine/weightless.py",
        "filled = tf.where(any_counts, filled, tf.zeros_like(filled))",
        "",
        "engine/weightless_test.py"
        "::test_a_task_without_a_row_that_counts_is_zeros",
    ),
]
