"""DeiT and every other timm ViT with a CLS token, as the backbone of a base model."""

from collections.abc import Mapping
from typing import Any

from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from eet.embedding.backbone import Backbone, BackboneOutput
from eet.vit import check_block, forward_block, load_trunk_weights, preprocessing_of, timm_vit


class ViTBackbone(Backbone):
    """vector: CLS after the final norm. patches: those of the last block, after the same norm. importance: CTP's M of the last block."""

    def __init__(self, trunk: VisionTransformer, name: str) -> None:
        super().__init__()
        check_block(trunk.blocks[-1], name)
        self.trunk = trunk
        self.width = trunk.embed_dim
        self.grid = trunk.patch_embed.grid_size
        self.preprocessing = preprocessing_of(trunk)

    @classmethod
    def build(cls, name: str, options: Mapping[str, Any], *, image_size: tuple[int, int] | None, pretrained: bool) -> "ViTBackbone":
        size = {} if image_size is None else {"img_size": image_size}
        return cls(timm_vit(name, {**options, **size}, num_classes=0, pretrained=pretrained), name)

    def forward(self, images_B3HW: Tensor, *, patches: bool) -> BackboneOutput:
        trunk, num_prefix = self.trunk, self.trunk.num_prefix_tokens
        x_BND = trunk.norm_pre(trunk.patch_drop(trunk._pos_embed(trunk.patch_embed(images_B3HW))))
        *blocks, last = trunk.blocks
        for block in blocks:
            x_BND = block(x_BND)
        x_BND, importance_BN, _ = forward_block(last, x_BND, num_prefix=num_prefix, importance=patches, prefix_output=not patches)
        x_BND = trunk.norm(x_BND)
        if not patches:
            return BackboneOutput(x_BND[:, 0], None, None)
        assert importance_BN is not None
        return BackboneOutput(x_BND[:, 0], x_BND[:, num_prefix:].unflatten(1, self.grid), importance_BN.unflatten(1, self.grid))

    def load_weights(self, state: Mapping[str, Tensor], *, source: str) -> None:
        load_trunk_weights(self.trunk, state, source=source)
