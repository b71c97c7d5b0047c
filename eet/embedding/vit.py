"""DeiT and every other timm ViT of one resolution, as the backbone of a base model."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from eet.embedding.backbone import Backbone, BackboneOutput
from eet.errors import InputError
from eet.vit import load_trunk_weights, preprocessing_of, timm_vit
from eet.vit.pruned_block import forward_block
from eet.vit.trunk import RotaryPositions, Trunk, final_outputs, first_tokens, has_cls, pooling_importance


class ViTBackbone(Backbone):
    """vector: what the model pools, after the final norm: CLS, the mean of the patches, or its trained query's attention.

    patches: those of the last block, after the same norm. importance: the attention of that trained query; CTP's M of the last block for
    the other two.

    With `take_patches_from`, patches and CTP's M are those of that block, without a norm. If that does not need the vector, the vector is
    CLS of that block, or without CLS the mean of its patches.
    """

    def __init__(self, trunk: Trunk, name: str) -> None:
        super().__init__()
        self.trunk = trunk
        self.width = trunk.embed_dim
        self.grid = trunk.patch_embed.grid_size
        self.preprocessing = preprocessing_of(trunk)
        self.patch_size = trunk.patch_embed.patch_size
        self.name, self.patch_block = name, len(trunk.blocks)

    def take_patches_from(self, block: int, *, vector: bool) -> None:
        trunk, blocks = self.trunk, self.trunk.blocks
        if not 1 <= block <= len(blocks):
            raise InputError(f"tokens from block {block}: {self.name} has blocks 1 to {len(blocks)}")
        if block == len(blocks):
            return
        self.patch_block = block
        if not vector:
            trunk.blocks, trunk.norm, trunk.fc_norm, trunk.attn_pool = blocks[:block], nn.Identity(), nn.Identity(), None
            trunk.global_pool = "token" if has_cls(trunk) else "avg"

    @classmethod
    def build(cls, name: str, options: Mapping[str, Any], *, image_size: tuple[int, int] | None, pretrained: bool) -> "ViTBackbone":
        size = {} if image_size is None else {"img_size": image_size}
        return cls(timm_vit(name, {**options, **size}, num_classes=0, pretrained=pretrained), name)

    def forward(self, images_B3HW: Tensor, *, patches: bool) -> BackboneOutput:
        trunk, num_prefix = self.trunk, self.trunk.num_prefix_tokens
        x_BND, rotary = first_tokens(trunk, images_B3HW)
        positions = RotaryPositions(rotary)
        last, patches_BND, importance_BN = len(trunk.blocks), None, None
        for number, block in enumerate(trunk.blocks, start=1):
            taken = patches and number == self.patch_block
            rotation = positions.of_block(number - 1)
            if not taken and number < last:
                x_BND = block(x_BND) if rotation is None else block(x_BND, rope=rotation)
                continue
            x_BND, scores_BN, _ = forward_block(
                block,
                x_BND,
                num_prefix=num_prefix,
                importance=taken and (number < last or trunk.global_pool != "map"),
                prefix_output=not taken and trunk.global_pool == "token",
                rotary=rotation,
                has_cls=has_cls(trunk),
            )
            if taken:
                patches_BND, importance_BN = x_BND[:, num_prefix:], scores_BN
        vector_BD, final_BND = final_outputs(trunk, x_BND, tokens=patches_BND is not None and self.patch_block == last)
        if patches_BND is None:
            return BackboneOutput(vector_BD, None, None)
        if final_BND is not None:
            patches_BND = final_BND
        if importance_BN is None:
            importance_BN = pooling_importance(trunk, x_BND)
        assert importance_BN is not None
        return BackboneOutput(vector_BD, patches_BND.unflatten(1, self.grid), importance_BN.unflatten(1, self.grid))

    def load_weights(self, state: Mapping[str, Tensor], *, source: str) -> None:
        load_trunk_weights(self.trunk, state, source=source)
