"""Where a network looks, against sums of NumPy."""

import numpy as np

from alexnet_tf.evaluation.occlusion import find_where, light


def test_what_is_hidden_is_where_the_class_is_lost():
    """One bright cell of 32 × 32 pixels; the class is the mean brightness."""
    image = np.zeros((128, 160, 3), np.uint8)
    image[32:64, 96:128] = 255

    def classify(images):
        assert len(images) <= 7
        return images.mean((1, 2, 3)) / 255

    found = find_where(classify, image, 7)
    brightness = image.mean().round()
    base = image.mean() / 255
    expected = np.zeros((4, 5))
    for top in range(-1, 4):  # each square hides up to 2 × 2 cells
        for left in range(-1, 5):
            hidden = np.float64(image)
            rows = slice(max(top, 0) * 32, (top + 2) * 32)
            columns = slice(max(left, 0) * 32, (left + 2) * 32)
            hidden[rows, columns] = brightness
            fall = base - hidden.mean() / 255
            for i in (top, top + 1):
                for j in (left, left + 1):
                    if 0 <= i < 4 and 0 <= j < 5:
                        expected[i, j] += fall / 4
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert np.unravel_index(found.argmax(), found.shape) == (1, 3)
    lit = light(np.full_like(image, 200), found)
    assert lit[48, 112].min() > 195
    assert lit[112, 16].max() == 60  # the far corner keeps 0.3 of its brightness
