"""Networks of the benchmark that no package has; copied beside the policy, so that a policy can name this module."""

from torch import nn
from torchvision.models import ResNet, resnet18


def small_image_resnet18(*, labels: int = 2) -> ResNet:
    """ResNet-18 for grey images of 28×28 pixels.

    The usual stem would leave 7×7 of them. This one keeps the resolution, as is customary for small images
    (He et al., arXiv 1512.03385, section 4.2), which also makes the gradient steps as heavy as they are in practice.
    """
    network = resnet18(num_classes=labels)
    network.conv1 = nn.Conv2d(1, 64, kernel_size=3, stride=1, padding=1, bias=False)
    network.maxpool = nn.Identity()
    return network
