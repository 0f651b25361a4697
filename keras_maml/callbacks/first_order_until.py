"""FirstOrderUntil: the first epochs of meta-training in first order."""

import keras

from keras_maml.meta_gradients import FirstOrder
from keras_maml.validation import check_integer


class FirstOrderUntil(keras.callbacks.Callback):
    """Meta-trains in first order until an epoch, and then in second order.

    Keras traces the training step again when the order changes.

    Args:
        epoch: int, at least 1, the first epoch in second order.

    Raises:
        ValueError: if `epoch` is not a positive integer. In `fit`, if the
            model's `meta_gradient` is not `SecondOrder`.

    Example:

    ```python
    meta_model = keras_maml.MetaModel(keras_maml.learners.mlp())
    meta_model.compile(optimizer="adam", loss="mse")
    meta_model.fit(
        keras_maml.tasks.Sinusoid().batch(4),
        steps_per_epoch=1,
        epochs=2,
        callbacks=[keras_maml.callbacks.FirstOrderUntil(1)],
        verbose=0,
    )
    ```

    Reference:
        Antoniou et al., 2019, "How to train your MAML", section 4,
        derivative-order annealing.
    """

    def __init__(self, epoch: int) -> None:
        super().__init__()
        self.epoch = check_integer("epoch", epoch)

    def on_train_begin(self, logs: dict | None = None) -> None:
        if not self.model.meta_gradient.second_order:
            raise ValueError(
                "`FirstOrderUntil` needs a model whose `meta_gradient` is "
                "`SecondOrder`. Received: "
                f"meta_gradient={self.model.meta_gradient!r}"
            )

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        self._override_with(FirstOrder() if epoch < self.epoch else None)

    def on_train_end(self, logs: dict | None = None) -> None:
        self._override_with(None)

    def _override_with(self, meta_gradient):
        # `model.meta_gradient` stays as it is, because it is saved.
        state = self.model.meta_state
        if type(state.meta_gradient_for_now) is not type(meta_gradient):
            state.meta_gradient_for_now = meta_gradient
            self.model.make_train_function(force=True)
