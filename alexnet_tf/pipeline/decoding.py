"""From the bytes of a picture to the crop that the network sees."""

import tensorflow as tf

from alexnet_tf.pipeline.data_set import DataSet

RESIZED = 256  # shorter side, pixels, of a picture before the crop (section 2)
_JPEG = {"channels": 3, "dct_method": "INTEGER_ACCURATE"}


def frame_size(data_set: DataSet, image_size: int) -> int:
    """Height and width, pixels, of the square that crops are cut from."""
    height, width, _ = data_set.image_shape or (0, 0, 3)
    if height == width >= image_size:
        return height
    return max(RESIZED, image_size)


def decode_any(image_bytes: tf.Tensor) -> tf.Tensor:
    """Decodes a whole JPEG, PNG or BMP, or the first frame of a GIF: uint8 RGB."""
    return tf.io.decode_image(image_bytes, channels=3, expand_animations=False)


def decode_crop(
    image_bytes: tf.Tensor, data_set: DataSet, corner: tf.Tensor, size: int, frame: int
) -> tf.Tensor:
    """Decodes a picture, fits it to the frame where needed, and cuts out a crop.

    Pictures of other sizes are scaled, antialiased, until the shorter side fits the
    frame; of the longer one the middle is kept (section 2). With the fit "warp" both
    sides are scaled to the frame.

    Args:
        image_bytes: string scalar.
        data_set: Where it is from.
        corner: int32 `(2,)`, top and left of the crop in the frame, pixels.
        size: Height and width of the crop, pixels.
        frame: Height and width of the frame, pixels.

    Returns:
        uint8 `(size, size, 3)`.
    """
    if data_set.image_shape == (frame, frame, 3):
        image = tf.ensure_shape(_decode(image_bytes, data_set), [frame, frame, 3])
        return tf.slice(image, tf.concat([corner, [0]], axis=0), [size, size, 3])

    def scale_whole():
        image = _decode(image_bytes, data_set)
        fitted = _fit(tf.shape(image)[:2], corner, frame, data_set.fit)
        return _cut_scaled(image, *fitted, size)

    if data_set.encoding == "raw":
        return scale_whole()
    return tf.cond(
        tf.io.is_jpeg(image_bytes),
        lambda: _decode_scaled_jpeg(image_bytes, corner, size, frame, data_set.fit),
        scale_whole,
    )


def _decode(image_bytes: tf.Tensor, data_set: DataSet) -> tf.Tensor:
    if data_set.encoding == "raw":
        pixels = tf.io.decode_raw(image_bytes, tf.uint8)
        return tf.reshape(pixels, data_set.image_shape)
    return tf.cond(
        tf.io.is_jpeg(image_bytes),
        lambda: tf.io.decode_jpeg(image_bytes, **_JPEG),
        lambda: decode_any(image_bytes),
    )


def _fit(
    picture: tf.Tensor, corner: tf.Tensor, frame: int, fit: str
) -> tuple[tf.Tensor, tf.Tensor]:
    """The scales that fit a picture to the frame, and the crop's corner in all of it.

    Args:
        picture: int32 `(2,)`, height and width of the picture, pixels.
        corner: int32 `(2,)`, of the crop in the frame.
        frame: Height and width of the frame, pixels.
        fit: "warp" scales the sides apart, another one together.

    Returns:
        float32 `(2,)`, of height and width; float32 `(2,)`, top and left in the scaled
        picture.
    """
    sides = picture if fit == "warp" else tf.fill([2], tf.reduce_min(picture))
    scale = tf.cast(frame / sides, tf.float32)
    margins = scale * tf.cast(picture, tf.float32) - frame
    return scale, tf.cast(corner, tf.float32) + margins / 2.0


def _cut_scaled(
    image: tf.Tensor, scale: tf.Tensor, corner: tf.Tensor, size: int
) -> tf.Tensor:
    """A crop of the scaled picture, of which nothing else is computed."""
    crops = tf.raw_ops.ScaleAndTranslate(
        images=image[tf.newaxis],
        size=[size, size],
        scale=scale,
        translation=-corner,
        kernel_type="triangle",
        antialias=True,
    )
    return tf.cast(tf.clip_by_value(tf.round(crops[0]), 0.0, 255.0), tf.uint8)


def _decode_scaled_jpeg(
    image_bytes: tf.Tensor, corner: tf.Tensor, size: int, frame: int, fit: str
) -> tf.Tensor:
    """The same crop, of a JPEG of which only what it depends on is decoded."""
    picture = tf.io.extract_jpeg_shape(image_bytes)[:2]
    scale, corner = _fit(picture, corner, frame, fit)
    # What the crop covers in the picture's own pixels, and the reach of the filter. At
    # scale 1 nothing more: at its border, a decoded JPEG depends on where that is.
    reach = tf.where(scale == 1.0, 0.0, tf.maximum(1.0, 1.0 / scale) + 1.0)
    begin = tf.cast(tf.maximum(corner / scale - reach, 0.0), tf.int32)
    end = tf.cast(tf.math.ceil((corner + size) / scale + reach), tf.int32)
    end = tf.minimum(end, picture)
    window = tf.concat([begin, end - begin], axis=0)
    part = tf.io.decode_and_crop_jpeg(image_bytes, window, **_JPEG)
    corner -= scale * tf.cast(begin, tf.float32)
    return _cut_scaled(part, scale, corner, size)
