"""Data, model and evaluation of the examples: scikit-learn's digits, or MNIST from the folder that RAIS_DATA names."""

from __future__ import annotations

import argparse
import os

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn.functional import cross_entropy


def arguments(description: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--mnist", action="store_true", help="MNIST in place of the digits of scikit-learn")
    parser.add_argument("--epochs", type=float, default=8, help="budget in epochs of plain SGD")
    parser.add_argument("--uniform", action="store_true", help="plain SGD, to compare with")
    return parser.parse_args()


def data(mnist: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Images (n, 1, 28, 28) or (n, 1, 8, 8) in [0, 1] and labels (n,): training set, test set."""
    if not mnist:
        digits = load_digits()
        x, y = torch.tensor(digits.images).float().div(16)[:, None], torch.tensor(digits.target)
        order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
        return x[order[:1437]], y[order[:1437]], x[order[1437:]], y[order[1437:]]
    if "RAIS_DATA" not in os.environ:
        raise SystemExit("--mnist: set RAIS_DATA to a folder with MNIST/raw, the four files of MNIST unpacked")
    files = [os.path.join(os.environ["RAIS_DATA"], "MNIST", "raw", name) for name in ("train", "t10k")]
    x = [np.fromfile(f"{file}-images-idx3-ubyte", np.uint8, offset=16).reshape(-1, 1, 28, 28) for file in files]
    y = [torch.tensor(np.fromfile(f"{file}-labels-idx1-ubyte", np.uint8, offset=8)).long() for file in files]
    return torch.tensor(x[0]) / 255, y[0], torch.tensor(x[1]) / 255, y[1]


def network(size: int) -> nn.Module:
    """LeNet-5 for images of 28 × 28 pixels, two linear layers for 8 × 8; the same at every start."""
    torch.manual_seed(0)
    if size == 8:
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))
    features = [nn.Conv2d(1, 6, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 16, 5), nn.ReLU()]
    classifier = [nn.Linear(400, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, 10)]
    return nn.Sequential(*features, nn.MaxPool2d(2), nn.Flatten(), *classifier)


def schedule(t_hat: float | Tensor) -> float | Tensor:
    """The learning rate of plain SGD after t̂ iterations."""
    return 3.4 / (100 + t_hat) ** 0.5


@torch.no_grad()
def report(model: nn.Module, x: Tensor, y: Tensor, x_test: Tensor, y_test: Tensor, text: str) -> float:
    """Print loss and test error; returns the loss."""
    loss = cross_entropy(torch.cat([model(part) for part in x.split(5000)]), y).item()
    wrong = (model(x_test).argmax(1) != y_test).float().mean().item()
    print(f"{text}  training loss {loss:.4f}  test error {wrong:.2%}", flush=True)
    return loss
