"""Mutants of the axes: update rules, meta-gradients, losses, weights."""

from tests.mutants.runner import Mutant

_KERAS = "inner_optimizers/update_rules_test.py::test_ten_steps_equal_keras"

MUTANTS = [
    # -- Inner optimizers
    Mutant(
        "inner_optimizers/sgd.py",
        "velocity = self.momentum * slots[0] - rate * gradient",
        "velocity = self.momentum * slots[0] + rate * gradient",
        f"{_KERAS}[momentum]",
    ),
    Mutant(
        "inner_optimizers/sgd.py",
        "weight + self.momentum * velocity - rate * gradient,",
        "weight + velocity - rate * gradient,",
        f"{_KERAS}[nesterov]",
    ),
    Mutant(
        "inner_optimizers/adagrad.py",
        "tf.sqrt(total + self.epsilon)",
        "(tf.sqrt(total) + self.epsilon)",
        f"{_KERAS}[adagrad]",
    ),
    Mutant(
        "inner_optimizers/rmsprop.py",
        "tf.sqrt(variance + self.epsilon)",
        "(tf.sqrt(variance) + self.epsilon)",
        f"{_KERAS}[rmsprop]",
    ),
    Mutant(
        "inner_optimizers/rmsprop.py",
        "variance -= tf.square(mean)",
        "pass",
        f"{_KERAS}[centered]",
    ),
    Mutant(
        "inner_optimizers/adam.py",
        "rate *= tf.sqrt(1 - tf.pow(beta_2, count))",
        "rate *= 1 - tf.pow(beta_2, count)",
        f"{_KERAS}[adam]",
    ),
    Mutant(
        "inner_optimizers/adam.py",
        "rate /= 1 - tf.pow(beta_1, count)",
        "pass",
        f"{_KERAS}[adam]",
    ),
    Mutant(
        "inner_optimizers/adam.py",
        "count = tf.cast(number + 1, weight.dtype)",
        "count = tf.cast(number + 2, weight.dtype)",
        f"{_KERAS}[adam]",
    ),
    Mutant(
        "inner_optimizers/adam.py",
        "(safe_root(square) + self.epsilon)",
        "safe_root(square + self.epsilon)",
        f"{_KERAS}[adam]",
    ),
    Mutant(
        "inner_optimizers/adam.py",
        "/ (safe_root(square)",
        "/ (tf.sqrt(square)",
        "inner_optimizers/update_rules_test.py"
        "::test_adam_has_a_derivative_at_zero_under_xla[True]",
    ),
    Mutant(
        "inner_optimizers/gradient_rule.py",
        "positive, tf.sqrt(tf.where(positive, square, 1))",
        "positive, tf.sqrt(square)",
        "inner_optimizers/update_rules_test.py"
        "::test_a_root_has_derivatives_at_zero",
    ),
    Mutant(
        "inner_optimizers/gradient_rule.py",
        "weight -= weight * self.weight_decay * rate",
        "weight -= weight * self.weight_decay",
        f"{_KERAS}[decay]",
    ),
    Mutant(
        "inner_optimizers/gradient_rule.py",
        "limit / tf.maximum(safe_root(square), limit)",
        "limit / safe_root(square)",
        f"{_KERAS}[clipnorm]",
    ),
    Mutant(
        "inner_optimizers/gradient_rule.py",
        "scale = _shrink(gradients, self.global_clipnorm)",
        "scale = _shrink(gradients[:1], self.global_clipnorm)",
        f"{_KERAS}[global_clipnorm]",
    ),
    Mutant(
        "inner_optimizers/gradient_rule.py",
        "return [self.learning_rate(step)] * count",
        "return [self.learning_rate(step + 1)] * count",
        "inner_optimizers/update_rules_test.py"
        "::test_a_schedule_counts_inner_steps",
    ),
    Mutant(
        "inner_optimizers/learned_rate.py",
        "v[tf.minimum(step, v.shape[0] - 1)] for v in values",
        "v[0] for v in values",
        "inner_optimizers/learned_rate_test.py"
        "::test_more_steps_than_trained_use_the_last_rates",
    ),
    Mutant(
        "inner_optimizers/learned_rate.py",
        "step_axis = (steps,) if self.per_step else ()",
        "step_axis = (steps + 1,) if self.per_step else ()",
        "inner_optimizers/learned_rate_test.py"
        "::test_rates_are_trained_saved_and_loaded[LSLR]",
    ),
    # -- Meta-gradients
    Mutant(
        "meta_gradients.py",
        "way_back = theta.weights[i] - adapted.weights[i]",
        "way_back = adapted.weights[i] - theta.weights[i]",
        "implicit_gradients_test.py"
        "::test_reptile_is_the_way_to_the_adapted_weights",
    ),
    Mutant(
        "meta_gradients.py",
        "way_back *= tf.cast(weight, way_back.dtype)",
        "",
        "implicit_gradients_test.py"
        "::test_reptile_takes_the_mean_weight_of_two_outputs",
    ),
    Mutant(
        "meta_gradients.py",
        "gradients.weights[i] = scale_loss(way_back)",
        "gradients.weights[i] = way_back",
        "implicit_gradients_test.py"
        "::test_a_scaled_loss_leads_to_the_same_step[reptile]",
    ),
    Mutant(
        "meta_gradients.py",
        "return 0.5 * self.proximal * tf.add_n(squares)",
        "return self.proximal * tf.add_n(squares)",
        "implicit_gradients_test.py"
        "::test_implicit_has_the_closed_form_on_a_quadratic",
    ),
    Mutant(
        "meta_gradients.py",
        "return plus(vector, 1 / self.proximal, curvature)",
        "return plus(vector, self.proximal, curvature)",
        "implicit_gradients_test.py"
        "::test_implicit_has_the_closed_form_on_a_quadratic",
    ),
    Mutant(
        "meta_gradients.py",
        "gradients[i] -= value / self.proximal",
        "gradients[i] += value / self.proximal",
        "implicit_gradients_test.py"
        "::test_implicit_agrees_with_the_unrolled_gradient",
    ),
    Mutant(
        "meta_gradients.py",
        "g / adapted.loss_scale\n",
        "g\n",
        "mixed_precision_test.py::test_implicit_gradient_is_that_of_float32",
    ),
    # -- Outer losses
    Mutant(
        "outer_loss.py",
        "tf.maximum(1.0 - progress, 0.03) / steps",
        "tf.maximum(1.0 - progress, 0.02) / steps",
        "outer_loss_test.py"
        "::test_the_weights_of_earlier_steps_end_at_3_percent",
    ),
    Mutant(
        "outer_loss.py",
        "tf.where(progress < 1.0, earlier",
        "tf.where(progress <= 1.0, earlier",
        "outer_loss_test.py::test_weights_are_those_of_the_released_code",
    ),
    Mutant(
        "outer_loss.py",
        "last = 1.0 - (steps - 1) * earlier",
        "last = 1.0 - steps * earlier",
        "outer_loss_test.py::test_weights_are_those_of_the_released_code",
    ),
    # -- Weights that adapt
    Mutant(
        "adaptation.py",
        "last = with_weights[-1]",
        "last = with_weights[0]",
        "adaptation_test.py::test_the_head_of_a_nested_model_is_its_last_layer",
    ),
    Mutant(
        "adaptation.py",
        "return _head(last) if isinstance(last, keras.Model) else last",
        "return last",
        "adaptation_test.py::test_the_head_of_a_nested_model_is_its_last_layer",
    ),
    Mutant(
        "adaptation.py",
        'if (id(v) in head) == (adapted_weights == "head")',
        'if (id(v) in head) == (adapted_weights == "body")',
        "algorithms_test.py::test_which_weights_each_loop_moves",
    ),
]
