"""Numbers in the bytes of a file, in a graph."""

import tensorflow as tf


def number(data: tf.Tensor, at, length: int, byteorder: str = "little") -> tf.Tensor:
    """The number in some bytes of a file; an error past its end.

    Args:
        data: uint8 `(bytes,)`.
        at: Where it begins.
        length: Of it, bytes.
        byteorder: "little" or "big".

    Returns:
        int64 scalar.
    """
    digits = tf.cast(tf.slice(data, [at], [length]), tf.int64)
    powers = [256**power for power in range(length)]
    return tf.reduce_sum(digits * (powers if byteorder == "little" else powers[::-1]))


def part(file: tf.Tensor, at, length) -> tf.Tensor:
    """Some bytes of a file, a string scalar; fewer where it ends before them."""
    at, length = tf.cast(at, tf.int64), tf.cast(length, tf.int64)
    end = tf.cast(tf.strings.length(file), tf.int64)
    return tf.strings.substr(file, tf.minimum(at, end), tf.maximum(length, 0))


def head(file: tf.Tensor, length: int, at=0) -> tf.Tensor:
    """The bytes from `at` on, uint8 `(length,)`, zeros past the end of the file."""
    return tf.io.decode_raw(part(file, at, length), tf.uint8, fixed_length=length)
