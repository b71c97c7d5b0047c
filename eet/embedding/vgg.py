"""timm's VGG up to its last convolution, as the backbone of a base model: that of NetVLAD."""

from collections.abc import Mapping
from typing import Any

from timm.models.vgg import VGG
from torch import Tensor, nn

from eet.embedding.backbone import Backbone, BackboneOutput
from eet.embedding.timm_model import timm_model
from eet.vit import load_trunk_weights, preprocessing_of

_STRIDE = 16


class VGGBackbone(Backbone):
    """patches: the locations of the last convolution's map, before its ReLU and without the last pooling. vector: their mean.

    Source: Arandjelovic et al., NetVLAD, CVPR 2016, section 3.2: VGG16 up to conv5_3.
    """

    def __init__(self, trunk: VGG, image_size: tuple[int, int] | None) -> None:
        super().__init__()
        height, width = image_size or trunk.pretrained_cfg["input_size"][-2:]
        self.width = trunk.pre_logits.fc1.in_channels
        trunk.pre_logits = nn.Identity()  # the layers of the classifier would be trained without being used
        self.trunk = trunk
        self.grid = (height // _STRIDE, width // _STRIDE)
        self.preprocessing = preprocessing_of(trunk, (height, width))

    @classmethod
    def build(cls, name: str, options: Mapping[str, Any], *, image_size: tuple[int, int] | None, pretrained: bool) -> "VGGBackbone":
        return cls(timm_model(name, options, VGG, pretrained=pretrained), image_size)

    def forward(self, images_B3HW: Tensor, *, patches: bool) -> BackboneOutput:
        patches_BRCD = self.trunk.features[:-2](images_B3HW).permute(0, 2, 3, 1)
        return BackboneOutput(patches_BRCD.mean(dim=(1, 2)), patches_BRCD if patches else None, None)

    def load_weights(self, state: Mapping[str, Tensor], *, source: str) -> None:
        load_trunk_weights(self.trunk, state, source=source, heads=("pre_logits.", "head."), adapt=lambda weights, _: weights)
