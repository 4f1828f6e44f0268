"""All recipes' networks and training step in NumPy, float64, from the formulas.

Independent of the package's layers and optimizers: it takes the numbers of a recipe,
the weights by path ("conv1/kernel", …) and nothing else.
"""

import numpy as np

# Of a layer's deviation: what is nearer to 0, or to another maximum, float32 may decide
# otherwise than float64, by the order of a sum.
NEAR = 1e-5

WINDOWS = np.lib.stride_tricks.sliding_window_view


class NumpyAlexNet:
    """A recipe's network on batches of RGB images, `(batch, height, width, 3)`.

    With `float32`, what another implementation's ReLUs gave and its poolings took, in
    order, near ties are decided as there, and `ties` counts them; anywhere else both
    must decide alike.
    """

    def __init__(self, recipe, weights, float32=None):
        self.recipe = recipe
        self.weights = weights
        self.float32 = float32
        self.ties = 0

    def forward(self, images, masks=None):
        """Logits; in training with the two dropout masks, of fc6 and fc7."""
        self.tape = []  # what each step's gradient needs, in order
        relus, pools = self.float32 or ((), ())
        self._relus, self._pools = iter(relus), iter(pools)
        r = self.recipe
        if masks is None:
            keep = 1 - r.dropout_rate if r.dropout == "mask" else 1.0
            masks = [keep, keep]
        elif r.dropout == "inverted":
            masks = [mask / (1 - r.dropout_rate) for mask in masks]
        x = images.astype(np.float64) - self.weights["input_normalization/mean"]
        x = x / np.array(r.input_stddev)
        x = x[..., ::-1] if r.bgr else x
        pad = tuple(r.conv1_padding)
        x = self._conv(np.pad(x, ((0, 0), pad, pad, (0, 0))), "conv1", stride=4)
        if r.lrn1_before_relu:
            x = self._relu(self._pool(self._lrn(x)))
        else:
            x = self._lrn_and_pool(self._relu(x))
        x = self._relu(self._conv(x, "conv2", pad=2, groups=r.groups))
        x = self._lrn_and_pool(x, spatial=r.spatial_normalization)
        x = self._relu(self._conv(x, "conv3", pad=1))
        x = self._relu(self._conv(x, "conv4", pad=1, groups=r.groups))
        x = self._relu(self._conv(x, "conv5", pad=1, groups=r.groups))
        x = self._flatten(self._pool(x))
        for name, mask in zip(("fc6", "fc7"), masks, strict=True):
            if r.dropout_before:
                x = self._relu(self._dense(self._multiply(x, mask), name))
            else:
                x = self._multiply(self._relu(self._dense(x, name)), mask)
        return self._dense(x, "fc8")

    def gradients(self, images, labels, masks):
        """The mean cross-entropy, and its derivative by every weight."""
        logits = self.forward(images, masks)
        z = logits - logits.max(1, keepdims=True)
        probabilities = np.exp(z) / np.exp(z).sum(1, keepdims=True)
        rows = np.arange(len(labels))
        loss = -np.log(probabilities[rows, labels]).mean()
        dy = probabilities.copy()
        dy[rows, labels] -= 1
        dy /= len(labels)
        self._found = {}
        for backward in reversed(self.tape):
            dy = backward(dy)
        return loss, self._found

    def _lrn_and_pool(self, x, spatial=False):
        if self.recipe.lrn_after_pool:
            return self._lrn(self._pool(x))
        x = self._lrn(x)
        return self._pool(self._spatial(x) if spatial else x)

    def _relu(self, x):
        positive = x > 0
        if (theirs := next(self._relus, None)) is not None:
            differs = positive != (theirs > 0)
            assert (np.abs(x[differs]) <= NEAR * x.std()).all()
            self.ties += differs.sum()
            positive ^= differs
        self.tape.append(lambda dy: dy * positive)
        return x * positive

    def _multiply(self, x, mask):
        self.tape.append(lambda dy: dy * mask)
        return x * mask

    def _flatten(self, x):
        self.tape.append(lambda dy: dy.reshape(x.shape))
        return x.reshape(len(x), -1)

    def _dense(self, x, name):
        kernel = self.weights[f"{name}/kernel"]

        def backward(dy):
            self._found[f"{name}/kernel"] = x.T @ dy
            self._found[f"{name}/bias"] = dy.sum(0)
            return dy @ kernel.T

        self.tape.append(backward)
        return x @ kernel + self.weights[f"{name}/bias"]

    def _conv(self, x, name, stride=1, pad=0, groups=1):
        kernel = self.weights[f"{name}/kernel"]
        size = kernel.shape[0]
        padded = np.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
        towers = np.split(padded, groups, -1)
        kernels = np.split(kernel, groups, -1)

        def windows(tower):  # batch, row, column, channel, i, j
            return WINDOWS(tower, (size, size), (1, 2))[:, ::stride, ::stride]

        def backward(dy):
            parts = np.split(dy, groups, -1)
            self._found[f"{name}/kernel"] = np.concatenate(
                [
                    np.einsum("brcdij,brco->ijdo", windows(t), p, optimize=True)
                    for t, p in zip(towers, parts, strict=True)
                ],
                -1,
            )
            self._found[f"{name}/bias"] = dy.sum((0, 1, 2))
            dx = np.zeros_like(padded)
            for t, (p, k) in enumerate(zip(parts, kernels, strict=True)):
                depth = k.shape[2]
                channels = slice(t * depth, (t + 1) * depth)
                for i in range(size):
                    for j in range(size):
                        rows = slice(i, i + stride * dy.shape[1], stride)
                        columns = slice(j, j + stride * dy.shape[2], stride)
                        dx[:, rows, columns, channels] += p @ k[i, j].T
            end = dx.shape[1] - pad
            return dx[:, pad:end, pad : dx.shape[2] - pad]

        self.tape.append(backward)
        maps = [
            np.einsum("brcdij,ijdo->brco", windows(t), k, optimize=True)
            for t, k in zip(towers, kernels, strict=True)
        ]
        return np.concatenate(maps, -1) + self.weights[f"{name}/bias"]

    def _pool(self, x):
        size = self.recipe.pool_size
        windows = WINDOWS(x, (size, size), (1, 2))[:, ::2, ::2]
        flat = windows.reshape(*windows.shape[:4], -1)
        chosen = flat.argmax(-1)
        if (theirs := next(self._pools, None)) is not None:
            theirs = WINDOWS(theirs, (size, size), (1, 2))[:, ::2, ::2]
            other = theirs.reshape(flat.shape).argmax(-1)
            gap = flat.max(-1) - np.take_along_axis(flat, other[..., None], -1)[..., 0]
            assert (gap <= NEAR * x.std()).all()
            self.ties += ((other != chosen) & (flat.max(-1) != 0)).sum()
            chosen = other

        def backward(dy):
            dx = np.zeros_like(x)
            b, r, c, d = np.indices(chosen.shape)
            i, j = np.divmod(chosen, size)
            np.add.at(dx, (b, 2 * r + i, 2 * c + j, d), dy)
            return dx

        self.tape.append(backward)
        return flat.max(-1)

    def _lrn(self, x):
        r = self.recipe
        if not r.lrn:
            return x
        groups = r.groups if r.lrn_within_towers else 1
        radius, k, alpha, beta = (
            r.lrn_depth_radius,
            r.lrn_bias,
            r.lrn_alpha,
            r.lrn_beta,
        )

        def window(values):
            parts = []
            for part in np.split(values, groups, -1):
                padded = np.pad(part, [(0, 0)] * 3 + [(radius, radius)])
                depth, steps = part.shape[-1], range(2 * radius + 1)
                parts.append(sum(padded[..., i : i + depth] for i in steps))
            return np.concatenate(parts, -1)

        norm = k + alpha * window(x**2)

        def backward(dy):
            inner = window(dy * x * norm ** (-beta - 1))
            return dy * norm**-beta - 2 * alpha * beta * x * inner

        self.tape.append(backward)
        return x * norm**-beta

    def _spatial(self, x):
        alpha, beta = 0.001 / 25, 0.75

        def window(values):
            padded = np.pad(values, ((0, 0), (2, 2), (2, 2), (0, 0)))
            return WINDOWS(padded, (5, 5), (1, 2)).sum((-1, -2))

        norm = 1 + alpha * window(x**2)

        def backward(dy):
            inner = window(dy * x * norm ** (-beta - 1))
            return dy * norm**-beta - 2 * alpha * beta * x * inner

        self.tape.append(backward)
        return x * norm**-beta


def update(weights, velocities, gradients, rates, momentum, decay, decay_biases):
    """Section 5: v ← momentum·v − decay·rate·w − rate·gradient; w ← w + v."""
    for path, gradient in gradients.items():
        w, rate = weights[path], rates(path)
        decayed = decay if path.endswith("kernel") or decay_biases else 0.0
        v = momentum * velocities[path] - decayed * rate * w - rate * gradient
        velocities[path], weights[path] = v, w + v
