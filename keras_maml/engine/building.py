"""Builds what a trace needs before the trace goes on."""

from concurrent.futures import ThreadPoolExecutor

import tensorflow as tf


def build_outside_trace(owner, *args):
    """Builds metrics or an optimizer outside the trace.

    If a trace makes variables, TensorFlow traces the function a second time.
    A new thread is outside the trace. `tf.init_scope` would not be, because
    the trace also watches variables made there.
    """
    if tf.distribute.has_strategy():
        # Under a strategy, Keras builds both before the trace.
        owner.build(*args)
        return
    with tf.init_scope():
        # The new thread would not know the caller's `tf.device`.
        device = tf.zeros([]).device

    def build():
        with tf.device(device):
            owner.build(*args)

    with ThreadPoolExecutor(1) as thread:
        thread.submit(build).result()
