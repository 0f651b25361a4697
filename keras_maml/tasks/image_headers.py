"""The size of an image, read from its header.

A few kilobytes may decode to many gigabytes, so the size is known before.
"""

import struct

import numpy as np
import tensorflow as tf

# The default of `max_pixels`: no more than a large camera takes.
MAX_PIXELS = 100_000_000

# Markers of a JPEG that begin a frame; the others in their range do not.
_JPEG_FRAMES = set(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
# Markers that stand alone: no marker at all, TEM, RST0 to RST7, and SOI.
_JPEG_ALONE = {0x00, 0x01, *range(0xD0, 0xD9)}


def checked(content: tf.Tensor, max_pixels: int) -> tf.Tensor:
    """Returns the bytes of an image, after a check of its header.

    Args:
        content: string scalar, the image as it is stored.
        max_pixels: int, how many pixels it may have. Those of all frames of a
            GIF count.

    Returns:
        The string scalar. Reading it raises `tf.errors.InvalidArgumentError`
        if the image is larger or no BMP, GIF, JPEG or PNG.
    """
    count = tf.numpy_function(
        lambda content: np.int64(pixels(content)), [content], tf.int64
    )
    is_image = tf.debugging.Assert(
        count >= 0, ["It is no whole BMP, GIF, JPEG or PNG image."]
    )
    is_small = tf.debugging.Assert(
        count <= max_pixels,
        ["It has more pixels than `max_pixels`:", count, ">", max_pixels],
    )
    with tf.control_dependencies([is_image, is_small]):
        return tf.identity(content)


def pixels(content: bytes) -> int:
    """Returns the number of pixels that an image decodes to.

    Args:
        content: bytes, the stored image.

    Returns:
        An int; -1 if the header is of no image that is known here.
    """
    try:
        if content.startswith(b"\x89PNG\r\n\x1a\n"):
            width, height = struct.unpack_from(">II", content, 16)
            return width * height
        if content.startswith(b"BM"):
            # A negative height: the rows stand from top to bottom.
            width, height = struct.unpack_from("<ii", content, 18)
            return abs(width * height)
        if content.startswith(b"\xff\xd8\xff"):
            return _jpeg_pixels(content)
        if content.startswith(b"GIF8"):
            return _gif_pixels(content)
    except (struct.error, IndexError):
        # The header ends too early.
        pass
    return -1


def _jpeg_pixels(content):
    place = 2
    while True:
        # As decoders do, pass over what is no marker, and over padding.
        while content[place] != 0xFF:
            place += 1
        while content[place] == 0xFF:
            place += 1
        marker = content[place]
        place += 1
        if marker in _JPEG_ALONE:
            continue
        (length,) = struct.unpack_from(">H", content, place)
        if marker in _JPEG_FRAMES:
            height, width = struct.unpack_from(">HH", content, place + 3)
            return height * width
        place += max(length, 2)


def _gif_pixels(content):
    """Returns the pixels of all frames, for TensorFlow decodes them all."""
    width, height, flags = struct.unpack_from("<HHB", content, 6)
    screen = width * height
    place = 13 + _gif_colours(flags)
    total = 0
    while place < len(content) and content[place] != 0x3B:
        if content[place] == 0x2C:
            width, height, flags = struct.unpack_from(
                "<HHB", content, place + 5
            )
            total += max(width * height, screen)
            # The length of the first code stands behind the colours.
            place += 10 + _gif_colours(flags) + 1
        elif content[place] == 0x21:
            place += 2
        else:
            return -1
        # Blocks of up to 255 bytes, up to an empty one.
        while content[place]:
            place += 1 + content[place]
        place += 1
    return total or screen


def _gif_colours(flags):
    return 3 * 2 ** ((flags & 7) + 1) if flags & 0x80 else 0
