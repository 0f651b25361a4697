"""Mutants of `engine/`."""

from tests.mutants.runner import Mutant

MUTANTS = [
    # -- Inner loop
    Mutant(
        "engine/inner_loop.py",
        "state = _changes_as_constants(carry[2], state)",
        "state = tf.nest.map_structure(tf.identity, state)",
        "engine/inner_loop_test.py"
        "::test_derivatives_do_not_go_through_the_state[unrolled]",
    ),
    Mutant(
        "engine/inner_loop.py",
        "gradients = [tf.stop_gradient(gradient) for gradient in gradients]",
        "gradients = [tf.identity(gradient) for gradient in gradients]",
        "meta_gradients_test.py"
        "::test_quadratic_has_the_closed_form[first_order-1]",
    ),
    Mutant(
        "engine/inner_loop.py",
        "[gradient / self._loss_scale for gradient in gradients]",
        "gradients",
        "mixed_precision_test.py"
        "::test_meta_gradient_is_that_of_float32[2-mixed_float16]",
    ),
    Mutant(
        "engine/inner_loop.py",
        "pairs = zip(columns, others)",
        "pairs = zip(others, columns)",
        "outer_loss_test.py"
        "::test_the_losses_of_a_loop_of_many_steps_are_in_order[0]",
    ),
    # -- Support loss
    Mutant(
        "engine/inner_loss.py",
        'reduce_sum = loss.reduction == "sum"',
        "reduce_sum = False",
        "adaptation_test.py::test_sum_reduction_of_the_inner_loss",
    ),
    Mutant(
        "engine/inner_loss.py",
        "for w in (weight, mask) if w is not None",
        "for w in (weight,) if w is not None",
        "engine/inner_loop_test.py::test_masked_steps_do_not_count",
    ),
    Mutant(
        "engine/inner_loss.py",
        "return tf.math.divide_no_nan(total, tf.reduce_sum(total_weight))",
        "return total / tf.cast(tf.size(total_weight), total.dtype)",
        "engine/inner_loop_test.py"
        "::test_inner_loss_is_the_mean_over_examples[object]",
    ),
    Mutant(
        "engine/support_loss.py",
        "loss += sum(tf.cast(term, loss.dtype) for term in output.losses)",
        "",
        "meta_gradients_test.py"
        "::test_regularizers_and_added_losses_count_at_the_weights_in_use",
    ),
    Mutant(
        "engine/support_loss.py",
        'support.get("support_weight"),',
        "None,",
        "adaptation_test.py::test_support_weight_masks_padded_rows",
    ),
    Mutant(
        "engine/support_loss.py",
        'frozen = {**self.frozen, "weights": self._without_adapted(weights)}',
        "frozen = self.frozen",
        "implicit_gradients_test.py"
        "::test_implicit_agrees_with_the_unrolled_gradient",
    ),
    Mutant(
        "engine/support_loss.py",
        "state = seeds.fork(learner.learner, state, "
        "seeds.SUPPORT_AFTER_ADAPTING)",
        "",
        "engine/seeds_test.py"
        "::test_prototypes_and_implicit_gradients_draw_their_own",
    ),
    # -- One task
    Mutant(
        "engine/task_learner.py",
        "weights[i] = tf.zeros_like(weights[i])",
        "weights[i] = tf.identity(weights[i])",
        "algorithms_test.py::test_context_is_zero_at_the_start_of_every_task",
    ),
    Mutant(
        "engine/task_learner.py",
        "step = tf.maximum(adapted.step - 1, 0)",
        "step = adapted.step",
        "engine/per_step_norm_test.py"
        "::test_fewer_steps_than_rows_predict_with_the_row_of_the_last_step",
    ),
    Mutant(
        "engine/task_learner.py",
        "rows = (number * size + tf.range(size)) % count",
        "rows = (number + tf.range(size)) % count",
        "implicit_gradients_test.py::test_each_step_takes_the_next_examples",
    ),
    Mutant(
        "engine/task_learner.py",
        "self._batch_norms, momentum=0.0",
        "self._batch_norms, momentum=None",
        "engine/normalization_test.py"
        "::test_statistics_are_those_of_the_right_examples[support]",
    ),
    Mutant(
        "engine/task_learner.py",
        'elif self._normalization == "support":\n            use = False',
        'elif self._normalization == "support":\n            use = True',
        "engine/normalization_test.py::test_what_a_prediction_depends_on",
    ),
    Mutant(
        "engine/task_learner.py",
        'return self._normalization != "moving"',
        "return True",
        "engine/normalization_test.py"
        "::test_statistics_are_those_of_the_right_examples[moving]",
    ),
    Mutant(
        "engine/task_learner.py",
        "return output._replace(state={**state, **averages})",
        "return output._replace(state={**averages, **output.state})",
        "engine/normalization_test.py"
        "::test_training_uses_the_right_statistics[support]",
    ),
    Mutant(
        "engine/task_learner.py",
        "# A layer that was not called has no statistics.\n"
        "            if id(variable) in statistics and i in state",
        "if id(variable) in statistics",
        "engine/normalization_test.py"
        "::test_a_layer_that_is_not_called_has_no_statistics",
    ),
    # -- Seeds
    Mutant(
        "engine/task_learner.py",
        'seeds.task_seeds(self.learner, task["number"])',
        'seeds.task_seeds(self.learner, 0 * task["number"])',
        "engine/seeds_test.py::test_masks_of_8_tasks_and_6_draws_all_differ",
    ),
    Mutant(
        "engine/task_learner.py",
        "state = seeds.fork(self.learner, state, seeds.QUERY_WHILE_ADAPTING)",
        "",
        "engine/seeds_test.py::test_calls_beside_the_inner_loop_draw_their_own",
    ),
    Mutant(
        "engine/seeds.py",
        "_folded(state[i], tf.constant(purpose, tf.int64))",
        "_folded(state[i], tf.constant(1, tf.int64))",
        "engine/seeds_test.py"
        "::test_calls_that_start_from_one_state_draw_their_own",
    ),
    Mutant(
        "engine/seeds.py",
        "first = tf.cast(replica, tf.int64) * _TASKS_OF_A_REPLICA",
        "first = tf.cast(replica, tf.int64)",
        "engine/seeds_test.py::test_replicas_with_uneven_tasks_share_no_number",
    ),
    Mutant(
        "engine/seeds.py",
        "variables[i].assign(seed + increment)",
        "variables[i].assign(seed)",
        "engine/seeds_test.py::test_steps_of_the_outer_loop_draw_their_own",
    ),
    # -- State
    Mutant(
        "engine/functional.py",
        "values = {**fixed, **state}",
        "values = fixed",
        "engine/functional_test.py::test_moving_averages_and_counters_move",
    ),
    Mutant(
        "engine/learner_state.py",
        "if i not in seed_positions",
        "if value is not None",
        "engine/seeds_test.py"
        "::test_a_training_step_moves_the_seeds_by_one_draw",
    ),
    # -- Statistics
    Mutant(
        "engine/normalization.py",
        "value(average) * kept + statistic * new",
        "value(average) * new + statistic * kept",
        "exact/batch_norm_test.py"
        "::test_the_layer_computes_what_keras_computes[kwargs0-float32]",
    ),
    Mutant(
        "engine/normalization.py",
        "if threading.get_ident() != thread:",
        "if thread is None:",
        "engine/normalization_test.py"
        "::test_another_thread_sees_the_layer_as_it_is",
    ),
    Mutant(
        "engine/normalization.py",
        "and layer.axis % len(inputs.shape) == len(inputs.shape) - 1",
        "",
        "exact/batch_norm_test.py::test_other_forms_are_left_to_keras[kwargs0]",
    ),
    Mutant(
        "engine/normalization.py",
        "and layer.trainable\n",
        "\n",
        "exact/batch_norm_test.py::test_other_forms_are_left_to_keras[kwargs2]",
    ),
    Mutant(
        "engine/per_step_norm.py",
        "return tf.minimum(step, stacked.shape[0] - 1)",
        "return tf.minimum(step + 1, stacked.shape[0] - 1)",
        "engine/per_step_norm_test.py"
        "::test_the_rows_of_a_step_are_used_at_that_step",
    ),
    Mutant(
        "engine/per_step_norm.py",
        "stacked, [[_row(step, stacked)]], step_state[i][tf.newaxis]",
        "stacked, [[0]], step_state[i][tf.newaxis]",
        "engine/per_step_norm_test.py"
        "::test_training_uses_the_batch_and_moves_the_rows_averages",
    ),
    Mutant(
        "engine/task_learner.py",
        "step_state = output.state if self._training else {}",
        "step_state = output.state",
        "engine/per_step_norm_test.py"
        "::test_the_rows_of_a_step_are_used_at_that_step",
    ),
    # -- The loop of many steps
    Mutant(
        "engine/rematerialized_loop.py",
        "row = self._count - 1 - i",
        "row = i",
        "inner_optimizers/update_rules_test.py"
        "::test_meta_gradient_equals_differences[adam-7]",
    ),
    Mutant(
        "engine/rematerialized_loop.py",
        "take(self._start + i, now)",
        "take(i, now)",
        "engine/traced_step_test.py::test_a_loop_may_begin_at_a_later_step",
    ),
    Mutant(
        "engine/rematerialized_loop.py",
        "self._start + row, now, [d_outputs[k] for k in step.targets]",
        "row, now, [d_outputs[k] for k in step.targets]",
        "engine/traced_step_test.py::test_a_loop_may_begin_at_a_later_step",
    ),
    Mutant(
        "engine/rematerialized_loop.py",
        "total if gradients[i] is None else total + gradients[i]",
        "gradients[i]",
        "inner_optimizers/learned_rate_test.py::test_gradient_of_rates[LSLR-7]",
    ),
    Mutant(
        "engine/rematerialized_loop.py",
        "d_outputs[step.width + k] = d_column[row]",
        "d_outputs[step.width + k] = 0 * d_column[row]",
        "outer_loss_test.py::test_gradient[7-False]",
    ),
    # -- Steps that are traced once
    Mutant(
        "engine/traced_step.py",
        "number = tf.compat.v1.placeholder_with_default(number, [])",
        "number = tf.constant(0)",
        "engine/traced_step_test.py::test_it_equals_steps_one_by_one"
        "[traced_once]",
    ),
    Mutant(
        "engine/traced_step.py",
        "if after is not before",
        "if True",
        "engine/traced_step_test.py::test_it_equals_steps_one_by_one"
        "[traced_once]",
    ),
    Mutant(
        "engine/packing.py",
        "for i, part in zip(group, parts):",
        "for i, part in zip(group, parts[::-1]):",
        "engine/packing_test.py::test_small_tensors_of_a_dtype_become_one",
    ),
    # -- Prototypes
    Mutant(
        "engine/prototypes.py",
        "return 2 * tf.transpose(means), bias",
        "return tf.transpose(means), bias",
        "engine/prototypes_test.py"
        "::test_the_first_head_classifies_by_distance_to_the_means",
    ),
    Mutant(
        "engine/prototypes.py",
        "-tf.reduce_sum(tf.square(means), 1),",
        "tf.reduce_sum(tf.square(means), 1),",
        "engine/prototypes_test.py"
        "::test_the_first_head_classifies_by_distance_to_the_means",
    ),
    Mutant(
        "engine/prototypes.py",
        "counts > 0,",
        "counts >= 0,",
        "engine/prototypes_test.py"
        "::test_padding_and_missing_classes_do_not_count",
    ),
    Mutant(
        "engine/prototypes.py",
        "members *= tf.cast(weight, features.dtype)",
        "pass",
        "engine/prototypes_test.py"
        "::test_padding_and_missing_classes_do_not_count",
    ),
    # -- Targets
    Mutant(
        "engine/targets.py",
        "is_wrong |= numbers >= tf.cast(target.classes, numbers.dtype)",
        "is_wrong |= numbers > tf.cast(target.classes, numbers.dtype)",
        "engine/targets_test.py::test_in_call_adapt_and_evaluate_tasks",
    ),
    Mutant(
        "engine/targets.py",
        "is_wrong |= numbers != tf.floor(numbers)",
        "pass",
        "engine/targets_test.py::test_floats_that_are_no_class",
    ),
    Mutant(
        "engine/loss_rules.py",
        "ignore_class=loss.ignore_class",
        "ignore_class=None",
        "engine/targets_test.py::test_labels_that_keras_ignores",
    ),
    Mutant(
        "engine/loss_rules.py",
        "    _losses.MeanSquaredError,\n",
        "",
        "engine/targets_test.py::test_the_losses_of_keras_have_rules",
    ),
    Mutant(
        "engine/contract.py",
        "if len(sizes) > 1 or 0 in sizes:",
        "if len(sizes) > 1:",
        "bad_input_test.py::test_in_adapt",
    ),
    Mutant(
        "engine/contract.py",
        "check_lengths(support, 1, _SUPPORT, received),",
        "",
        "bad_input_test.py::test_in_fit",
    ),
    # -- Replicas
    Mutant(
        "engine/replicas.py",
        "lambda t, n=counts[key]: t * tf.cast(n, t.dtype), mean",
        "lambda t, n=counts[key]: t, mean",
        "replicas_test.py::test_two_replicas_train_as_one_device",
    ),
]
