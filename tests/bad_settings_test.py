"""Settings of the four axes with a value that they cannot have."""

import pytest

import keras_maml
from keras_maml import inner_optimizers
from keras_maml import meta_gradients
from keras_maml import outer_loss
from tests.sample_models import small_mlp


def model(**kwargs):
    return lambda: keras_maml.MetaModel(small_mlp(), **kwargs)


CASES = {
    "momentum": (
        lambda: inner_optimizers.SGD(0.1, momentum=1.0),
        "`momentum` must be a finite number of at least 0 and below 1. "
        "Received: momentum=1.0",
    ),
    "nesterov": (
        lambda: inner_optimizers.SGD(0.1, nesterov="yes"),
        "`nesterov` must be True or False. Received: nesterov='yes'",
    ),
    "beta_1": (lambda: inner_optimizers.Adam(beta_1=-0.1), "beta_1=-0.1"),
    "beta_2": (lambda: inner_optimizers.AdamW(beta_2=2), "beta_2=2"),
    "epsilon": (lambda: inner_optimizers.RMSprop(epsilon=0), "epsilon=0"),
    "rho": (lambda: inner_optimizers.RMSprop(rho="a"), "rho='a'"),
    "centered": (lambda: inner_optimizers.RMSprop(centered=1), "centered=1"),
    "accumulator": (
        lambda: inner_optimizers.Adagrad(initial_accumulator_value=-1),
        "initial_accumulator_value=-1",
    ),
    "weight_decay": (
        lambda: inner_optimizers.SGD(weight_decay=-1),
        "weight_decay=-1",
    ),
    "clipvalue": (lambda: inner_optimizers.SGD(clipvalue=0), "clipvalue=0"),
    "two ways to clip": (
        lambda: inner_optimizers.SGD(clipvalue=1, clipnorm=1),
        "Only one of",
    ),
    "initial rate": (
        lambda: inner_optimizers.LearnedRate(0.0),
        "`initial` must be a finite number above 0. Received: initial=0.0",
    ),
    "per": (
        lambda: inner_optimizers.LearnedRate(per="layer"),
        "`per` must be one of .* Received: per='layer'",
    ),
    "per_step": (
        lambda: inner_optimizers.LearnedRate(per_step=3),
        "per_step=3",
    ),
    "proximal": (lambda: meta_gradients.Implicit(proximal=0), "proximal=0"),
    "cg_steps": (lambda: meta_gradients.Implicit(cg_steps=0), "cg_steps=0"),
    "annealing": (
        lambda: outer_loss.MultiStep(0),
        "`annealing_iterations` must be an integer of at least 1. "
        "Received: annealing_iterations=0",
    ),
    "outer_loss": (
        model(outer_loss="multi_step"),
        r"`outer_loss` must be one of \['last_step'\], an object of "
        "`keras_maml.outer_loss`, or .* Received: outer_loss='multi_step'",
    ),
    "head_init": (model(head_init="zeros"), "head_init='zeros'"),
    "inner_batch_size": (model(inner_batch_size=0), "inner_batch_size=0"),
    "units": (lambda: keras_maml.ContextParameters(0), "units=0"),
    "epoch": (lambda: keras_maml.callbacks.FirstOrderUntil(0), "epoch=0"),
    "adapt without context": (
        model(adapted_weights="context"),
        "`adapted_weights` selects none .* Received: adapted_weights='context'",
    ),
    "adapt without LoRA": (
        model(adapted_weights="lora"),
        "adapted_weights='lora'",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_error_names_the_argument_and_its_value(case):
    make, message = CASES[case]
    with pytest.raises(ValueError, match=message):
        make()
