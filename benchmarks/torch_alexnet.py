"""The network of the paper in PyTorch, compiled, for the benchmarks."""

from collections.abc import Callable

import torch
from torch import nn


def make_network(width: float) -> nn.Sequential:
    """The layers of recipe `paper` with 1000 classes, from normalised RGB to logits."""

    def scaled(channels: int) -> int:
        return 2 * max(1, round(channels * width / 2))

    first, second, third, last, hidden = map(scaled, (96, 256, 384, 256, 4096))

    def lrn() -> nn.Module:
        return nn.LocalResponseNorm(5, alpha=5e-4, beta=0.75, k=2.0)

    return nn.Sequential(
        nn.ZeroPad2d((0, 3, 0, 3)),
        *(nn.Conv2d(3, first, 11, stride=4), nn.ReLU(), lrn(), nn.MaxPool2d(3, 2)),
        nn.Conv2d(first, second, 5, padding=2, groups=2),
        *(nn.ReLU(), lrn(), nn.MaxPool2d(3, 2)),
        *(nn.Conv2d(second, third, 3, padding=1), nn.ReLU()),
        *(nn.Conv2d(third, third, 3, padding=1, groups=2), nn.ReLU()),
        *(nn.Conv2d(third, last, 3, padding=1, groups=2), nn.ReLU()),
        *(nn.MaxPool2d(3, 2), nn.Flatten()),
        *(nn.Linear(36 * last, hidden), nn.ReLU(), nn.Dropout()),
        *(nn.Linear(hidden, hidden), nn.ReLU(), nn.Dropout()),
        nn.Linear(hidden, 1000),
    )


def make_step(batch: int, precision: str, width: float) -> Callable:
    """A training step on images that are in memory, its result the loss.

    Args:
        batch: Images.
        precision: "float32", "TF32" or "bfloat16".
        width: Multiplies the channels of every layer.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.backends.cuda.matmul.allow_tf32 = precision != "float32"
    torch.backends.cudnn.allow_tf32 = precision != "float32"
    layout = torch.channels_last
    model = make_network(width).to(device, memory_format=layout)
    images = torch.rand(batch, 3, 224, 224, device=device)
    images = images.contiguous(memory_format=layout)
    labels = torch.randint(1000, (batch,), device=device)
    optimizer = torch.optim.SGD(model.parameters(), 0.01, 0.9, weight_decay=5e-4)
    loss_of = torch.compile(lambda x: nn.functional.cross_entropy(model(x), labels))

    def step():
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device, torch.bfloat16, enabled=precision == "bfloat16"):
            loss = loss_of(images)
        loss.backward()
        optimizer.step()
        return loss.detach()

    return step
