"""Models that adapt where they are used."""

from keras_maml.serving.adaptive_model import AdaptiveModel

__all__ = ["AdaptiveModel"]
