"""Any Keras layer meta-trains, or is known not to."""

import keras
import pytest

from tests import layers_table
from tests.layers_table import CASES


def test_every_exported_layer_is_known():
    others = {n for names in layers_table.OTHERS.values() for n in names}
    # Of another version of Keras: add what is new to the table.
    assert layers_table.exported() - others - set(CASES) == set()


# A few of each kind every day; all of them are `slow` together.
QUICK = {
    "Attention",
    "Bidirectional",
    "Conv2DTranspose",
    "Dropout",
    "Embedding",
    "GroupNormalization",
    "MaxPooling3D",
    "MultiHeadAttention",
    "PReLU",
    "RandomRotation",
    "Resizing",
    "SeparableConv2D",
}


@pytest.mark.parametrize(
    "name",
    [
        name if name in QUICK else pytest.param(name, marks=pytest.mark.slow)
        for name in CASES
    ],
)
def test_meta_gradient_equals_differences(name):
    error = layers_table.check(name)
    if name == "SpectralNormalization":
        # Keras's own first derivative is not that of its output either.
        assert error > 1e-3
    else:
        assert error < layers_table.tolerance(name)


def test_the_page_has_every_layer():
    page = (
        layers_table.pathlib.Path(__file__).parent.parent / "docs" / "layers.md"
    ).read_text()
    for name in layers_table.exported():
        assert name in page, name
    assert keras.__version__.startswith("3.")
