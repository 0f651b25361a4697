"""Callbacks for meta-training."""

from keras_maml.callbacks.adaptation_curves import AdaptationCurves
from keras_maml.callbacks.first_order_until import FirstOrderUntil
from keras_maml.callbacks.pre_adaptation_metrics import PreAdaptationMetrics
from keras_maml.callbacks.resume import Resume

__all__ = [
    "AdaptationCurves",
    "FirstOrderUntil",
    "PreAdaptationMetrics",
    "Resume",
]
