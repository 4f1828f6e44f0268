"""From the bytes of a picture to the crop that the network sees."""

import tensorflow as tf

from alexnet_tf.pipeline.data_set import DataSet

RESIZED = 256  # shorter side, pixels, of a picture before the crop (section 2)
_JPEG = {"channels": 3, "dct_method": "INTEGER_ACCURATE"}


class _AnyPicture:
    """In place of a data set, for pictures that are from none."""

    encoding, image_shape = "jpeg", None


def frame_size(data_set: DataSet, image_size: int) -> int:
    """Height and width, pixels, of the square that crops are cut from."""
    height, width, _ = data_set.image_shape or (0, 0, 3)
    if height == width >= image_size:
        return height
    return max(RESIZED, image_size)


def _decode(
    image_bytes: tf.Tensor, data_set: DataSet, window: tf.Tensor, **jpeg_options
) -> tf.Tensor:
    """Decodes (top, left, height, width) of a picture: uint8 `(height, width, 3)`."""
    top, left, height, width = tf.unstack(window)
    rows, columns = slice(top, top + height), slice(left, left + width)
    if data_set.encoding == "raw":
        image = tf.io.decode_raw(image_bytes, tf.uint8)
        return tf.reshape(image, data_set.image_shape)[rows, columns]
    return tf.cond(
        tf.io.is_jpeg(image_bytes),
        lambda: tf.io.decode_and_crop_jpeg(
            image_bytes, window, **_JPEG, **jpeg_options
        ),
        lambda: decode_any(image_bytes)[rows, columns],
    )


def decode_any(image_bytes: tf.Tensor) -> tf.Tensor:
    """Decodes a whole JPEG, PNG or BMP, or the first frame of a GIF: uint8 RGB."""
    return tf.io.decode_image(image_bytes, channels=3, expand_animations=False)


def decode_crop(
    image_bytes: tf.Tensor,
    data_set: DataSet,
    corner: tf.Tensor,
    size: int,
    frame: int,
    **jpeg_options,
) -> tf.Tensor:
    """Decodes a crop of a picture, after scaling it to the frame where needed.

    Pictures of other sizes are scaled, antialiased, until the shorter side fits the
    frame; of the longer one the middle is kept (section 2). Only what the crop depends
    on is decoded, only the crop is computed.

    Args:
        image_bytes: string scalar.
        data_set: Where it is from.
        corner: int32 `(2,)`, top and left of the crop in the frame, pixels.
        size: Height and width of the crop, pixels.
        frame: Height and width of the frame, pixels.
        **jpeg_options: For `tf.io.decode_and_crop_jpeg`.

    Returns:
        uint8 `(size, size, 3)`.
    """
    if data_set.image_shape == (frame, frame, 3):
        window = tf.concat([corner, [size, size]], axis=0)
        image = _decode(image_bytes, data_set, window)
        return tf.ensure_shape(image, [size, size, 3])
    if data_set.image_shape:
        picture = tf.constant(data_set.image_shape[:2])
    else:
        picture = tf.cond(
            tf.io.is_jpeg(image_bytes),
            lambda: tf.io.extract_jpeg_shape(image_bytes),
            lambda: tf.shape(decode_any(image_bytes)),
        )[:2]
    window, resample = _plan_crop(picture, corner, size, frame)
    part = _decode(image_bytes, data_set, window, **jpeg_options)
    return resample(part[tf.newaxis])[0]


def _plan_crop(picture: tf.Tensor, corner: tf.Tensor, size: int, frame: int) -> tuple:
    """How to get the crop of `decode_crop` out of a picture of another size.

    Args:
        picture: int32 `(2,)`, height and width of the picture, pixels.
        corner: As there.
        size: As there.
        frame: As there.

    Returns:
        int32 `(4,)`, top, left, height and width of the part of the picture that the
        crop depends on; a function from a batch of such parts to their crops, uint8.
    """
    scale = tf.cast(frame / tf.reduce_min(picture), tf.float32)
    corner = tf.cast(corner, tf.float32)
    corner += (scale * tf.cast(picture, tf.float32) - frame) / 2.0
    # What the crop covers in the picture's own pixels, and the reach of the filter. At
    # scale 1 nothing more: at its border, a decoded JPEG depends on where that is.
    reach = tf.where(scale == 1.0, 0.0, tf.maximum(1.0, 1.0 / scale) + 1.0)
    begin = tf.cast(tf.maximum(corner / scale - reach, 0.0), tf.int32)
    end = tf.cast(tf.math.ceil((corner + size) / scale + reach), tf.int32)
    end = tf.minimum(end, picture)

    def resample(parts):
        crops = tf.raw_ops.ScaleAndTranslate(
            images=parts,
            size=[size, size],
            scale=tf.stack([scale, scale]),
            translation=scale * tf.cast(begin, tf.float32) - corner,
            kernel_type="triangle",
            antialias=True,
        )
        return tf.cast(tf.clip_by_value(tf.round(crops), 0.0, 255.0), tf.uint8)

    return tf.concat([begin, end - begin], axis=0), resample


def decode_central_crop(image_bytes: tf.Tensor, size: int) -> tf.Tensor:
    """Decodes the crop that evaluation takes of a picture of any size.

    Args:
        image_bytes: string scalar: what `tf.io.decode_image` takes. Of a JPEG that
            is cut short, what is missing is grey.
        size: Height and width of the crop, pixels.

    Returns:
        uint8 RGB `(size, size, 3)`.
    """
    frame = frame_size(_AnyPicture, size)
    corner = tf.constant([(frame - size) // 2] * 2)
    return decode_crop(
        image_bytes, _AnyPicture, corner, size, frame, try_recover_truncated=True
    )


def central_crop(images: tf.Tensor, size: int) -> tf.Tensor:
    """The crops that evaluation takes of pictures of any one size.

    Args:
        images: uint8 RGB `(batch, height, width, 3)`.
        size: Height and width of the crops, pixels.

    Returns:
        uint8 RGB `(batch, size, size, 3)`.
    """
    frame = frame_size(_AnyPicture, size)
    corner = tf.constant([(frame - size) // 2] * 2)
    window, resample = _plan_crop(tf.shape(images)[1:3], corner, size, frame)
    top, left, height, width = tf.unstack(window)
    return resample(images[:, top : top + height, left : left + width])
