"""timm's Swin Transformer as the backbone of a base model."""

from collections.abc import Mapping
from typing import Any

from timm.models.swin_transformer import SwinTransformer, checkpoint_filter_fn
from torch import Tensor

from eet.embedding.backbone import Backbone, BackboneOutput
from eet.embedding.timm_model import timm_model
from eet.vit import load_trunk_weights, preprocessing_of


class SwinBackbone(Backbone):
    """patches: those of the last stage, after the final norm. vector: their mean."""

    def __init__(self, trunk: SwinTransformer) -> None:
        super().__init__()
        self.trunk = trunk
        self.width = trunk.num_features
        reduction = trunk.feature_info[-1]["reduction"]
        height, width = trunk.patch_embed.img_size
        self.grid = (height // reduction, width // reduction)
        self.preprocessing = preprocessing_of(trunk)
        self.patch_size = (reduction, reduction)

    @classmethod
    def build(cls, name: str, options: Mapping[str, Any], *, image_size: tuple[int, int] | None, pretrained: bool) -> "SwinBackbone":
        size = {} if image_size is None else {"img_size": image_size}
        return cls(timm_model(name, {**options, **size}, SwinTransformer, pretrained=pretrained))

    def forward(self, images_B3HW: Tensor, *, patches: bool) -> BackboneOutput:
        patches_BRCD = self.trunk.forward_features(images_B3HW)
        return BackboneOutput(patches_BRCD.mean(dim=(1, 2)), patches_BRCD if patches else None, None)

    def load_weights(self, state: Mapping[str, Tensor], *, source: str) -> None:
        load_trunk_weights(self.trunk, state, source=source, heads=("head.",), adapt=checkpoint_filter_fn)
