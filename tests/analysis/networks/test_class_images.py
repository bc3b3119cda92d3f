"""Class images: the closed form of LI-9, a literal twin, and what is shown."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from analysis.networks.class_images import Ascent, class_images, shown
from bench.core.errors import DataError
from bench.data.colours import IMAGENET_STD
from bench.models.inputs import CAFFE, attach


class Linear(nn.Module):
    def __init__(self, classes: int, size: int) -> None:
        super().__init__()
        self.scores = nn.Linear(3 * size * size, classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.scores(images.flatten(1))
        return found


def linear(classes: int = 3, size: int = 4) -> Linear:
    torch.manual_seed(0)
    return Linear(classes, size)


def small(size: int = 8) -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Conv2d(3, 6, 3),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.AdaptiveMaxPool2d(2),
        nn.Flatten(),
        nn.Linear(24, 4),
    )


@pytest.mark.parametrize("l2", [0.02, 0.5, 30.0])
@pytest.mark.parametrize("steps", [1, 7])
def test_linear_scores_have_the_closed_form(l2: float, steps: int) -> None:
    net = linear()
    found = class_images(net, [2, 0], 4, Ascent(l2=l2, steps=steps))
    weight = net.scores.weight.detach().numpy().reshape(3, 3, 4, 4)[[2, 0]]
    np.testing.assert_allclose(found.images, weight / (2 * l2), rtol=1e-5, atol=1e-7)
    bias = net.scores.bias.detach().numpy()[[2, 0]]
    squared = (weight.astype(np.float64) ** 2).sum((1, 2, 3))
    np.testing.assert_allclose(found.scores, squared / (2 * l2) + bias, rtol=1e-4)
    np.testing.assert_allclose(found.objectives, squared / (4 * l2) + bias, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found.start_scores, bias, rtol=1e-6)


def test_the_default_penalty_is_the_same_on_every_scale() -> None:
    """A network on Caffe's scale, whose weights are so much smaller, has the same image."""
    usual, caffe = linear(), linear()
    caffe.load_state_dict(usual.state_dict())
    scale = torch.tensor(IMAGENET_STD).view(1, 3, 1, 1).expand(3, 3, 4, 4).flatten(1) * 255
    with torch.no_grad():
        caffe.scores.weight /= scale
    attach(caffe, CAFFE)
    a, b = class_images(usual, [1], 4), class_images(caffe, [1], 4)
    assert b.l2 == pytest.approx(a.l2 / np.square(np.multiply(IMAGENET_STD, 255)).mean())
    # The same pixels but for the ratio of each channel's deviation to the root mean square of all.
    pixels = [
        (found.images[0] * np.reshape(std, (3, 1, 1)))
        for found, std in ((a, IMAGENET_STD), (b, CAFFE.std))
    ]
    np.testing.assert_allclose(pixels[1], pixels[0], rtol=0.1)


def test_the_mean_is_added_back() -> None:
    net, mean, std = linear(), (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
    found = class_images(net, [1], 4, Ascent(l2=1.0))
    pixels, cut = shown(found.images, mean, std, "as is")
    weight = net.scores.weight.detach().numpy()[1].reshape(3, 4, 4)
    wanted = weight.transpose(1, 2, 0) / 2 * np.array(std) + np.array(mean)
    np.testing.assert_allclose(pixels[0] / 255, wanted, atol=0.51 / 255)
    assert cut[0] == 0
    stretched, _ = shown(found.images, mean, std)
    assert np.ptp(stretched.astype(int)) > np.ptp(pixels.astype(int))
    loud, cut = shown(100 * found.images, mean, std, "as is")
    assert cut[0] > 0.5
    assert loud.min() == 0


def literal(net: nn.Module, label: int, size: int, l2: float, steps: int) -> torch.Tensor:
    """The ascent step by step: I + (∇S - 2λI) / (λ (t + 2)), the best image kept."""
    net.eval()
    image, best, value = torch.zeros(3, size, size), None, -float("inf")
    for step in range(steps + 1):
        image = image.detach().requires_grad_()
        objective = net(image[None])[0, label] - l2 * (image**2).sum()
        if objective.item() > value:
            best, value = image.detach(), objective.item()
        (gradient,) = torch.autograd.grad(objective, image)
        image = image + gradient / (l2 * (step + 2))
    assert best is not None
    return best


def test_every_image_is_that_of_a_literal_ascent() -> None:
    net = small()
    found = class_images(net, [3, 1, 1], 8, Ascent(l2=0.05, steps=25))
    for row, label in enumerate([3, 1, 1]):
        wanted = literal(net, label, 8, 0.05, 25)
        np.testing.assert_allclose(found.images[row], wanted.numpy(), atol=1e-4)
    assert (found.objectives >= found.start_scores).all()
    with torch.no_grad():
        outputs = net(torch.from_numpy(found.images)).numpy()
    np.testing.assert_allclose(found.scores, outputs[[0, 1, 2], [3, 1, 1]], rtol=1e-5)
    assert ((found.probabilities > 0) & (found.probabilities <= 1)).all()


def test_modes_are_left_and_jitter_is_repeatable() -> None:
    net = small()
    net.train()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    options = Ascent(steps=12, jitter=2, blur=0.7)
    first, second = (class_images(net, [0, 2], 8, options) for _ in range(2))
    np.testing.assert_array_equal(first.images, second.images)
    assert net.training
    assert net[3].training
    assert all(torch.equal(value, net.state_dict()[name]) for name, value in before.items())
    other = class_images(net, [0, 2], 8, Ascent(steps=12, jitter=2, blur=0.7, seed=1))
    assert not np.array_equal(first.images, other.images)


def test_blur_makes_smoother_images_and_the_penalty_smaller_ones() -> None:
    net = small()

    def roughness(options: Ascent) -> float:
        image = class_images(net, [0], 8, options).images[0]
        return float(np.abs(np.diff(image, axis=2)).mean() / np.abs(image).mean())

    assert roughness(Ascent(steps=20, blur=1.0)) < roughness(Ascent(steps=20))
    sizes = [class_images(net, [0], 8, Ascent(l2=l2)).rms[0] for l2 in (0.01, 0.1, 1.0)]
    assert sizes == sorted(sizes, reverse=True)


def test_more_classes_than_a_batch_holds_and_a_score_that_is_constant() -> None:
    net = linear(classes=40)
    with torch.no_grad():
        net.scores.weight[7] = 0
    found = class_images(net, list(range(40)), 4, Ascent(l2=1.0, steps=2))
    assert found.images.shape == (40, 3, 4, 4)
    assert found.rms[7] == 0
    pixels, _ = shown(found.images[7:8], (0.5, 0.5, 0.5), (0.2, 0.2, 0.2))
    assert (pixels == 128).all()


def test_wrong_input() -> None:
    net = linear()
    with pytest.raises(DataError, match="no class"):
        class_images(net, [], 4)
    with pytest.raises(DataError, match="0 to 2"):
        class_images(net, [3], 4)
    with torch.no_grad():
        net.scores.weight[0] = torch.nan
    with pytest.raises(DataError, match="not finite"):
        class_images(net, [0], 4)
    for options in ({"l2": 0.0}, {"steps": 0}, {"jitter": -1}, {"contrast_cost": 0.0}):
        with pytest.raises(DataError, match=next(iter(options))):
            Ascent(**options)
