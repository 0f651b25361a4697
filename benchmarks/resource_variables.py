"""TensorFlow's own recipe for training on a device, to compare with.

Reference:
    TensorFlow's guide "On-Device Training with LiteRT": the weights are
    variables of the file, a signature takes one gradient step and assigns
    them, and operations that LiteRT does not have come from TensorFlow (Flex).
"""

import tempfile

import tensorflow as tf


class Trainable(tf.Module):
    """A learner whose weights change in the file.

    Args:
        meta_model: a `MetaModel`, of which the learner, the inner loss and the
            rate are taken.
        signature: dict of specs, as for `MetaModel.export`.
    """

    def __init__(self, meta_model, signature):
        super().__init__()
        self._learner = meta_model.learner
        self.model_variables = [v.value for v in self._learner.variables]
        self._loss = meta_model.inner_loss
        self._rate = meta_model.inner_optimizer.get_config()["learning_rate"]
        self._signature = signature

    def functions(self):
        """Returns the signatures `train` and `predict`."""
        signature = self._signature
        train = tf.function(self._train, autograph=False)
        predict = tf.function(self._predict, autograph=False)
        return {
            "train": train.get_concrete_function(
                signature["support_x"], signature["support_y"]
            ),
            "predict": predict.get_concrete_function(signature["query_x"]),
        }

    def _train(self, support_x, support_y):
        weights = [v.value for v in self._learner.trainable_variables]
        with tf.GradientTape() as tape:
            outputs = self._learner(support_x[0], training=True)
            if self._loss == "mse":
                loss = tf.reduce_mean(tf.square(outputs - support_y[0]))
            else:
                loss = tf.reduce_mean(
                    tf.nn.sparse_softmax_cross_entropy_with_logits(
                        support_y[0], outputs
                    )
                )
        for weight, gradient in zip(weights, tape.gradient(loss, weights)):
            weight.assign_sub(self._rate * gradient)
        return {"loss": loss}

    def _predict(self, query_x):
        return {"predictions": self._learner(query_x[0])}


def export(meta_model, signature, path):
    """Writes a file with the signatures `train` and `predict`."""
    module = Trainable(meta_model, signature)
    with tempfile.TemporaryDirectory() as folder:
        tf.saved_model.save(module, folder, module.functions())
        converter = tf.lite.TFLiteConverter.from_saved_model(folder)
        converter.target_spec.supported_ops = [
            tf.lite.OpsSet.TFLITE_BUILTINS,
            tf.lite.OpsSet.SELECT_TF_OPS,
        ]
        converter.experimental_enable_resource_variables = True
        path.write_bytes(converter.convert())
