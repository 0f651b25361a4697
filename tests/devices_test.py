"""The devices that TensorFlow computes on."""

import tensorflow as tf

from keras_maml import devices


def test_what_is_no_cpu_is_an_accelerator(monkeypatch):
    names = ["CPU", "GPU", "TPU_SYSTEM", "TPU"]
    shown = [tf.config.LogicalDevice(f"/device:{n}:0", n) for n in names]
    monkeypatch.setattr(tf.config, "list_logical_devices", lambda: shown)
    found = [device.device_type for device in devices.accelerators()]
    assert found == ["GPU", "TPU"]
