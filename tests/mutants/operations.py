"""Mutants of `exact/`."""

from tests.mutants.runner import Mutant

_BATCH_NORM = "exact/batch_norm_test.py::test_every_derivative_is_the_formulas"
_VECTORS = f"{_BATCH_NORM}[False-shape1-float64]"
_IMAGES = f"{_BATCH_NORM}[False-shape0-float32]"
_CONVOLUTION = "exact/convolution_test.py::test_every_derivative_is_tensorflows"
_MAX_POOL = "exact/lowering_test.py::test_max_pool_equals_tensorflows"

MUTANTS = [
    Mutant(
        "exact/lowering.py",
        'keeps_size = padding == "SAME" and set(_pair(strides)) == {1}',
        "keeps_size = False",
        "exact/lowering_test.py"
        "::test_max_pool_that_keeps_the_size_has_a_second_derivative"
        "[shape1]",
    ),
    # -- Batch normalisation
    Mutant(
        "exact/batch_norm.py",
        "uy = channel_sum(u * dy) - (u_sum * dy_sum + u_x * dy_x) / count",
        "uy = channel_sum(u * dy) - u_sum * dy_sum / count",
        _VECTORS,
    ),
    Mutant(
        "exact/batch_norm.py",
        "factor_dy = a_r - g_u",
        "factor_dy = a_r + g_u",
        _VECTORS,
    ),
    Mutant(
        "exact/batch_norm.py",
        "factor_x = r * (dy_x / count * (g_u - factor_dy) - g * uy)",
        "factor_x = r * (dy_x / count * factor_dy - g * uy)",
        _VECTORS,
    ),
    Mutant(
        "exact/batch_norm.py",
        "projected + _affine(x, mean, a_r, b),",
        "projected + _affine(x, mean, a_r, a),",
        _VECTORS,
    ),
    Mutant(
        "exact/batch_norm.py",
        "d_x = (d_mean + 2.0 * d_variance * centered) / _count(x)",
        "d_x = (d_mean + d_variance * centered) / _count(x)",
        _VECTORS,
    ),
    Mutant(
        "exact/batch_norm.py",
        "d_scale = channel_sum(d_y * (x - mean))",
        "d_scale = channel_sum(d_y * x)",
        _VECTORS,
    ),
    Mutant(
        "exact/batch_norm.py",
        "variance = output.batch_variance - output.batch_variance / count",
        "variance = output.batch_variance",
        _IMAGES,
    ),
    Mutant(
        "exact/batch_norm.py",
        "variance=filled(1.0 - epsilon, (x.shape[-1],), x.dtype),",
        "variance=tf.ones_like(scale),",
        _IMAGES,
    ),
    # -- Constants
    Mutant(
        "exact/constants.py",
        "with tf.control_dependencies(None):",
        "if True:",
        "exact/constants_test.py::test_a_graph_has_each_constant_once",
    ),
    # -- Convolution
    Mutant(
        "exact/convolution.py",
        "kernel_gradient(d_x, d_y, patches(d_x))",
        "kernel_gradient(d_x, d_x, patches(d_x))",
        f"{_CONVOLUTION}[image6-window6-1-VALID-graph]",
    ),
    Mutant(
        "exact/convolution.py",
        "np.arange(window) - padded // 2",
        "np.arange(window) - (padded + 1) // 2",
        f"{_CONVOLUTION}[image3-window3-2-SAME-graph]",
    ),
    Mutant(
        "exact/convolution.py",
        "return max(0, (length - window) // stride + 1)",
        "return max(0, (length - window) // stride)",
        f"{_CONVOLUTION}[image5-window5-strides5-VALID-graph]",
    ),
    Mutant(
        "exact/convolution.py",
        "pixel = (image * height + row) * width + column",
        "pixel = (image * width + row) * height + column",
        f"{_CONVOLUTION}[image3-window3-2-SAME-graph]",
    ),
    # -- Conjugate gradients
    Mutant(
        "exact/conjugate_gradient.py",
        "turn = tf.math.divide_no_nan(new_square, square)",
        "turn = tf.math.divide_no_nan(square, new_square)",
        "implicit_gradients_test.py::test_conjugate_gradient_solves",
    ),
    Mutant(
        "exact/conjugate_gradient.py",
        "residual = plus(residual, -length, image)",
        "residual = plus(residual, -length, direction)",
        "implicit_gradients_test.py::test_conjugate_gradient_solves",
    ),
    # -- TensorFlow's functions
    Mutant(
        "exact/lowering.py",
        "tf.math.squared_difference(y, mean), axes",
        "tf.math.squared_difference(y, tf.stop_gradient(mean)), axes",
        "meta_gradients_test.py"
        "::test_unmodified_keras_normalization_is_exact[layer]",
    ),
    Mutant(
        "exact/lowering.py",
        "value = means * float(window[0] * window[1])",
        "value = means * float(window[0] * window[0])",
        _MAX_POOL,
    ),
    Mutant(
        "exact/lowering.py",
        "or any(w > s for w, s in zip(window, step))",
        "",
        _MAX_POOL,
    ),
    Mutant(
        "exact/lowering.py",
        "return value, lambda u: (masked(u, y), None)",
        "return value, lambda u: (u, None)",
        "exact/lowering_test.py"
        "::test_relu_masks_what_its_gradient_is_multiplied_with",
    ),
    Mutant(
        "exact/lowering.py",
        "return (d_y, channel_sum(d_y)), tf.add",
        "return (d_y, channel_sum(d_y)), tf.subtract",
        "exact/lowering_test.py::test_bias_add_has_every_derivative",
    ),
    Mutant(
        "exact/lowering.py",
        "return tape.gradient(y, zeros, d_y), forward",
        "return tape.gradient(y, zeros, d_y), tf.zeros_like",
        "exact/lowering_test.py::test_resize_has_every_derivative",
    ),
    Mutant(
        "exact/lowering.py",
        'if not getattr(_thread, "depth", 0):',
        "if not _entered:",
        "exact/lowering_test.py"
        "::test_a_thread_that_did_not_enter_gets_tensorflows_own",
    ),
    Mutant(
        "exact/lowering.py",
        "return function.python_function(*args, **kwargs)",
        'return _ORIGINALS["__call__"](function, *args, **kwargs)',
        "engine/learner_checks_test.py"
        "::test_graph_functions_compute_with_the_weights_of_each_step",
    ),
    # -- Pads, and the passes over the graph
    Mutant(
        "exact/pads.py",
        'edge = {"REFLECT": 1, "SYMMETRIC": 0}.get(mode)',
        'edge = {"REFLECT": 1}.get(mode, 0)',
        "exact/vectorized_ops_test.py::test_wrong_pads_are_tensorflows_errors",
    ),
    Mutant(
        "exact/pads.py",
        "return pad(x, sides), lambda d: cut(d)",
        "return pad(x, sides), lambda d: extend(d)",
        "exact/vectorized_ops_test.py"
        "::test_a_second_derivative_gets_a_task_axis[a mirroring pad]",
    ),
    Mutant(
        "tensorflow_internals.py",
        'if not config.graph_options.HasField("rewrite_options"):',
        "if config:",
        "tensorflow_internals_test.py"
        "::test_few_graph_passes_leave_what_the_user_set",
    ),
    Mutant(
        "engine/graph_passes.py",
        "return is_large and not devices.accelerators()",
        "return is_large",
        "engine/graph_passes_test.py::test_an_accelerator_keeps_all_passes",
    ),
    Mutant(
        "engine/graph_passes.py",
        "is_large = len(learner.weights) > _MANY_WEIGHTS",
        "is_large = len(learner.weights) >= _MANY_WEIGHTS",
        "engine/graph_passes_test.py::test_more_than_100_weights_are_many",
    ),
]
