"""timm's ResNet as the backbone of a base model: the baseline of deep interpretable metric learning (DIML)."""

from collections.abc import Mapping
from typing import Any

from timm.models.resnet import ResNet
from torch import Tensor

from eet.embedding.backbone import Backbone, BackboneOutput
from eet.embedding.timm_model import timm_model
from eet.vit import load_trunk_weights, preprocessing_of


class ResNetBackbone(Backbone):
    """patches: the locations of the last stage's map. vector: their mean."""

    def __init__(self, trunk: ResNet, image_size: tuple[int, int] | None) -> None:
        super().__init__()
        self.trunk = trunk
        self.width = trunk.num_features
        height, width = image_size or trunk.pretrained_cfg["input_size"][-2:]
        reduction = trunk.feature_info[-1]["reduction"]
        self.grid = (-(-height // reduction), -(-width // reduction))
        self.preprocessing = preprocessing_of(trunk, (height, width))

    @classmethod
    def build(cls, name: str, options: Mapping[str, Any], *, image_size: tuple[int, int] | None, pretrained: bool) -> "ResNetBackbone":
        return cls(timm_model(name, options, ResNet, pretrained=pretrained), image_size)

    def forward(self, images_B3HW: Tensor, *, patches: bool) -> BackboneOutput:
        patches_BRCD = self.trunk.forward_features(images_B3HW).permute(0, 2, 3, 1)
        return BackboneOutput(patches_BRCD.mean(dim=(1, 2)), patches_BRCD if patches else None, None)

    def load_weights(self, state: Mapping[str, Tensor], *, source: str) -> None:
        load_trunk_weights(self.trunk, state, source=source, heads=("fc.",), adapt=lambda weights, _: weights)
