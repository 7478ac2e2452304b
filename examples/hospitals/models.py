"""The network that the hospitals train together, and how it is trained and tested. Nothing here knows of federated learning."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional
from tqdm import tqdm

from dataset import Images

torch.set_num_threads(1)  # several hospitals share the machine; and one thread sums in the same order each time


class Net(nn.Module):
    """Two convolutions and two dense layers: 105,866 parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 16, kernel_size=3, padding=1)
        self.conv2 = nn.Conv2d(16, 32, kernel_size=3, padding=1)
        self.dense1 = nn.Linear(32 * 7 * 7, 64)
        self.dense2 = nn.Linear(64, 10)
        nn.init.zeros_(self.dense2.weight)  # an untrained network has no opinion, so it is right one time in ten
        nn.init.zeros_(self.dense2.bias)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Scores of shape (n, 10) for images of shape (n, 1, 28, 28)."""
        hidden = functional.max_pool2d(functional.relu(self.conv1(images)), 2)
        hidden = functional.max_pool2d(functional.relu(self.conv2(hidden)), 2)
        hidden = functional.relu(self.dense1(hidden.flatten(1)))
        return self.dense2(hidden)  # type: ignore[no-any-return]


def train(model: Net, data: Images, *, epochs: int, batch_size: int, learning_rate: float, momentum: float) -> float:
    """Train in place; gives the mean loss of the last epoch. The order of the images follows torch's global seed."""
    optimizer = torch.optim.SGD(model.parameters(), lr=learning_rate, momentum=momentum)
    model.train()
    total = 0.0
    for _ in range(epochs):
        total = 0.0
        for batch in torch.randperm(len(data)).split(batch_size):
            optimizer.zero_grad()
            loss = functional.cross_entropy(model(data.images[batch]), data.labels[batch])
            loss.backward()
            optimizer.step()
            total += loss.item() * len(batch)
    return total / len(data)


@torch.no_grad()
def test(model: Net, data: Images, *, batch_size: int = 32, progress: bool = False) -> tuple[float, float]:
    """The mean loss and the accuracy; with ``progress``, under a bar that counts the batches."""
    model.eval()
    total, correct = 0.0, 0
    batches = zip(data.images.split(batch_size), data.labels.split(batch_size), strict=True)
    for images, labels in tqdm(batches, total=-(-len(data) // batch_size), disable=not progress):
        scores = model(images)
        total += functional.cross_entropy(scores, labels, reduction="sum").item()
        correct += int((scores.argmax(1) == labels).sum())
    return total / len(data), correct / len(data)
