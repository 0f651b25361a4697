"""Mutants of what a user sees: learners, callbacks, files, scores, checks."""

from tests.mutants.runner import Mutant

_FILE = "callbacks/checkpoint_file_test.py"
_RESUME = "callbacks/resume_test.py"

MUTANTS = [
    # -- Learners
    Mutant(
        "learners.py",
        "strides=1 if max_pool else 2,",
        "strides=2 if max_pool else 1,",
        "learners_test.py::test_omniglot_network",
    ),
    Mutant(
        "learners.py",
        "stddev=1.0 if stddev is None else stddev",
        "stddev=0.1 if stddev is None else stddev",
        "learners_test.py::test_omniglot_network",
    ),
    Mutant(
        "validation.py",
        "return 1000 * seed + index",
        "return seed + index",
        "learners_test.py::test_seed",
    ),
    # -- Ranges of arguments
    Mutant(
        "validation.py",
        "if not is_integer or value < minimum:",
        "if not is_integer or value < minimum - 1:",
        "bad_settings_test.py::test_error_names_the_argument_and_its_value",
    ),
    Mutant(
        "validation.py",
        "is_valid = is_valid and value > above",
        "is_valid = is_valid and value >= above",
        "bad_settings_test.py::test_error_names_the_argument_and_its_value",
    ),
    Mutant(
        "validation.py",
        "is_valid = is_valid and value < below",
        "is_valid = is_valid and value <= below",
        "bad_settings_test.py::test_error_names_the_argument_and_its_value",
    ),
    Mutant(
        "validation.py",
        "and math.isfinite(high) and low <= high",
        "and math.isfinite(high)",
        "tasks/bad_input_test.py::test_bad_input",
    ),
    Mutant(
        "validation.py",
        "MAX_SEED = 2**32 - 1",
        "MAX_SEED = 2**32",
        "tasks/bad_input_test.py::test_bad_input",
    ),
    # -- Callbacks
    Mutant(
        "callbacks/first_order_until.py",
        "FirstOrder() if epoch < self.epoch else None",
        "FirstOrder() if epoch <= self.epoch else None",
        "callbacks_test.py::test_first_order_until_changes_once",
    ),
    Mutant(
        "callbacks/first_order_until.py",
        "        self._override_with(None)\n",
        "        pass\n",
        "callbacks_test.py"
        "::test_first_order_until_retraces_once_and_leaves_the_setting",
    ),
    Mutant(
        "callbacks/pre_adaptation_metrics.py",
        "model.test_function = 0, self._test_function",
        "model.test_function = 1, self._test_function",
        "callbacks_test.py::test_pre_adaptation_metrics",
    ),
    Mutant(
        "callbacks/pre_adaptation_metrics.py",
        'x = {**x, "query_x": x["support_x"]}',
        "x = dict(x)",
        "callbacks_test.py::test_pre_adaptation_metrics",
    ),
    Mutant(
        "callbacks/pre_adaptation_metrics.py",
        'if "support_weight" in x else []',
        'if "weight" in x else []',
        "callbacks_test.py::test_padded_support_does_not_count",
    ),
    Mutant(
        "callbacks/resume.py",
        "self._save(epoch + 1, 0, self._epochs.place_after_epoch)",
        "self._save(epoch, 0, self._epochs.place_after_epoch)",
        f"{_RESUME}::test_a_complete_run_is_loaded_and_can_be_longer",
    ),
    Mutant(
        "callbacks/resume.py",
        "self._save(self._epoch, epochs.step, epochs.place)",
        "self._save(self._epoch, epochs.step - 1, epochs.place)",
        f"{_RESUME}::test_steps_are_numbered_on",
    ),
    Mutant(
        "callbacks/resume.py",
        'self.model, self._loaded["variables"], only=("metrics",)',
        'self.model, self._loaded["variables"], only=()',
        f"{_RESUME}::test_arrays_go_on",
    ),
    Mutant(
        "callbacks/resume.py",
        "rest = epochs.dataset.skip(place)",
        "rest = epochs.dataset",
        f"{_RESUME}::test_arrays_go_on",
    ),
    Mutant(
        "callbacks/resume.py",
        'begun = saved["epoch"] + (saved["step"] > 0)',
        'begun = saved["epoch"]',
        f"{_RESUME}::test_a_run_within_the_epoch_behind_the_last_is_refused",
    ),
    Mutant(
        "callbacks/run_state.py",
        "left.remove(callback)",
        "",
        f"{_RESUME}::test_two_callbacks_of_a_class_get_their_own_states",
    ),
    Mutant(
        "callbacks/checkpoint_file.py",
        "if hashlib.sha256(body).digest() != digest:",
        "if len(digest) != _HASH_SIZE:",
        f"{_FILE}::test_a_changed_byte_is_noticed",
    ),
    Mutant(
        "callbacks/checkpoint_file.py",
        "os.replace(self.path, self.previous)",
        "pass",
        f"{_FILE}::test_the_one_before_is_kept",
    ),
    Mutant(
        "callbacks/checkpoint_file.py",
        "if state is None:\n"
        "            state = read(self.previous, self.max_bytes)\n"
        "        return state",
        "return state",
        f"{_FILE}::test_a_writer_may_be_killed_between_its_two_renamings",
    ),
    # -- Scores
    Mutant(
        "task_scores.py",
        "np.std(self.values, ddof=1)",
        "np.std(self.values)",
        "evaluation/evaluate_tasks_test.py::test_mean_and_interval",
    ),
    Mutant(
        "evaluation/evaluate_tasks.py",
        "weights *= tf.cast(weight, values.dtype)",
        "pass",
        "evaluation/evaluate_tasks_test.py::test_scores_are_those_of_the_predictions",
    ),
    # -- Files
    Mutant(
        "engine/stateless_learner.py",
        "training=False, n_way=self._n_way if",
        "training=True, n_way=self._n_way if",
        "serving/saved_model_test.py"
        "::test_every_choice_of_statistics_is_served[moving]",
    ),
    Mutant(
        "engine/stateless_learner.py",
        "if is_reached and i in changed",
        "if i in changed",
        "engine/stateless_learner_test.py"
        "::test_only_what_a_prediction_needs_has_a_name[settings1-names1]",
    ),
    Mutant(
        "engine/stateless_learner.py",
        "step = weights.get(STEPS, learner.steps)",
        "step = learner.steps",
        "engine/stateless_learner_test.py"
        "::test_each_task_may_take_a_number_of_steps_of_its_own",
    ),
    Mutant(
        "serving/endpoints.py",
        "_finite({**query, **weights}),",
        "",
        "serving/adaptive_model_test.py"
        "::test_bad_queries_and_weights_are_named",
    ),
    Mutant(
        "serving/endpoints.py",
        "check = _finite(weights, _DIVERGED)",
        "check = None",
        "serving/adaptive_model_test.py"
        "::test_a_bad_support_set_is_named[numbers that diverge]",
    ),
    Mutant(
        "engine/contract.py",
        'if key != "support_y" and len(learner_inputs) == 1:',
        "if len(learner_inputs) == 1:",
        "serving/saved_model_test.py"
        "::test_every_choice_of_statistics_is_served[moving]",
    ),
    Mutant(
        "saving.py",
        'endswith((".h5", ".hdf5"))',
        'endswith(".h5")',
        "saving_test.py::test_the_old_format_is_refused",
    ),
    Mutant(
        "saved_layers.py",
        "if not isinstance(child, keras.layers.InputLayer)",
        "if child is not None",
        "saved_layers_test.py"
        "::test_an_unbuilt_learner_says_where_its_layers_are",
    ),
    Mutant(
        "saved_layers.py",
        "if len(layers) == namesakes == kept_names(learner_config)[name]:",
        "if len(layers) == namesakes:",
        "saved_layers_test.py"
        "::test_an_unbuilt_learner_says_where_its_layers_are",
    ),
    Mutant(
        "saved_layers.py",
        "if _without_number(name) in made_up:",
        "if name in made_up:",
        "saved_layers_test.py::test_a_made_up_name_in_an_old_file_is_refused",
    ),
]
