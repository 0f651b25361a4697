"""The devices that TensorFlow computes on."""

import tensorflow as tf


def accelerators() -> list[tf.config.LogicalDevice]:
    """Returns the devices of this process that are no CPUs: GPUs and TPUs."""
    return [
        device
        for device in tf.config.list_logical_devices()
        if device.device_type in ("GPU", "TPU")
    ]
