"""Any Keras layer meta-trains, or is known not to."""

import pytest

from tests import layers_table
from tests.layers_table import CASES


def test_every_exported_layer_is_known():
    known = {n for names in layers_table.OTHERS.values() for n in names}
    known |= set(CASES)
    page = layers_table.PAGE.read_text()
    assert layers_table.not_vectorized() in page
    for names in layers_table.exported():
        # Of another version of Keras: add what is new to the table.
        assert names & known, names
        assert any(
            f"| {name} |" in page or name not in CASES for name in names & known
        ), names


# A few of each kind every day; all of them are `slow` together.
QUICK = {
    "Attention",
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
# Keras says that the layers after a mask do not need it.
@pytest.mark.filterwarnings("ignore:Layer 'flatten.*mask attached")
def test_meta_gradient_equals_differences(name):
    if name == "STFTSpectrogram":
        pytest.importorskip("scipy", reason="Keras makes the window with it")
    error, first_order = layers_table.check(name)
    if name == "SpectralNormalization":
        # Keras's own first derivative is not that of its output either.
        assert error > 1e-3
    else:
        assert error < layers_table.tolerance(name)
        # What a layer without second derivatives would look like is far off.
        assert error < 0.2 * first_order
