"""CvT from transformers (timm has none) as the backbone of a base model.

Shapes: B images, D width, R x C grid of patches, N = R * C; r x c grid of keys, which are strided; H heads, d width of a head.
"""

from collections.abc import Mapping
from typing import Any

import torch
from timm.layers import DropPath
from torch import Tensor

from eet.embedding.backbone import Backbone, BackboneOutput
from eet.errors import InputError
from eet.images import Preprocessing
from eet.storage import one_line
from eet.vit import load_trunk_weights

DEPTHS = {"cvt_13": (1, 2, 10), "cvt_21": (1, 4, 16)}  # blocks of the three stages
_STRIDE = 16  # of the three patch embeddings together


class CvTBackbone(Backbone):
    """vector: CLS of the third stage, the only one that has it, after the final norm. patches: that stage's, after the same norm.

    importance: the CLS row of the last block's attention, mean over heads. Its keys have stride two, so it is a 7 x 7 map at 224 pixels.

    Two details follow the code that trained the published weights, not transformers: the activation is QuickGELU, not GELU, and the rate of
    dropped paths rises from block to block of a stage, while transformers uses one rate for all.
    Source: Wu et al., CvT: Introducing convolutions to vision transformers, ICCV 2021, and its code.
    """

    head_std = 0.02

    def __init__(self, trunk: Any, image_size: tuple[int, int]) -> None:
        super().__init__()
        from transformers.activations import QuickGELUActivation

        for stage, most in zip(trunk.cvt.encoder.stages, trunk.config.drop_path_rate, strict=True):
            for layer, rate in zip(stage.layers, torch.linspace(0, most, len(stage.layers)).tolist(), strict=True):
                layer.intermediate.activation = QuickGELUActivation()
                layer.drop_path = DropPath(rate)
        self.trunk: Any = trunk
        self.width = trunk.config.embed_dim[-1]
        self.grid = (image_size[0] // _STRIDE, image_size[1] // _STRIDE)
        self.preprocessing = Preprocessing.published(image_size)

    @classmethod
    def build(cls, name: str, options: Mapping[str, Any], *, image_size: tuple[int, int] | None, pretrained: bool) -> "CvTBackbone":
        if name not in DEPTHS:
            raise InputError(f"backbone {name!r} is not one of {', '.join(DEPTHS)}")
        height, width = image_size or (224, 224)
        if height % _STRIDE or width % _STRIDE:
            raise InputError(f"{name} takes images whose sides are multiples of {_STRIDE} pixels, not {height} x {width}")
        try:
            from transformers import CvtConfig, CvtForImageClassification
        except ImportError as error:
            raise InputError(f"backbone {name!r} needs the package transformers: pip install 'eet[cvt]'") from error
        if pretrained:
            trunk = CvtForImageClassification.from_pretrained(f"microsoft/{name.replace('_', '-')}", num_labels=0, **options)
        else:
            try:
                trunk = CvtForImageClassification(CvtConfig(**{"depth": DEPTHS[name], **options, "num_labels": 0}))
            except Exception as error:  # its config raises its own kinds of error
                raise InputError(f"backbone {name!r} with options {dict(options)} cannot be built: {one_line(error)}") from error
        return cls(trunk, (height, width))

    def forward(self, images_B3HW: Tensor, *, patches: bool) -> BackboneOutput:
        *stages, third = self.trunk.cvt.encoder.stages
        map_BDRC = images_B3HW
        for stage in stages:
            map_BDRC, _ = stage(map_BDRC)
        map_BDRC = third.embedding(map_BDRC)
        rows, columns = map_BDRC.shape[-2:]
        x_BND = torch.cat([third.cls_token.expand(len(images_B3HW), -1, -1), map_BDRC.flatten(2).transpose(1, 2)], dim=1)
        *layers, last = third.layers
        for layer in layers:
            x_BND = layer(x_BND, rows, columns)
        importance_Brc = cls_attention(last, x_BND, rows, columns) if patches else None
        x_BND = self.trunk.layernorm(last(x_BND, rows, columns))
        return BackboneOutput(x_BND[:, 0], x_BND[:, 1:].unflatten(1, (rows, columns)) if patches else None, importance_Brc)

    def load_weights(self, state: Mapping[str, Tensor], *, source: str) -> None:
        load_trunk_weights(self.trunk, state, source=source, heads=("classifier.",), adapt=lambda weights, _: weights)


@torch.no_grad()
def cls_attention(layer: Any, x_BND: Tensor, rows: int, columns: int) -> Tensor:
    """The attention of CLS to each cell in one block, without the share of CLS itself.

    Args:
        layer: a CvtLayer with CLS.
        x_BND: its input, CLS first.

    Returns:
        float32 (B, r, c), mean over heads.
    """
    attention = layer.attention.attention
    normed_BND = layer.layernorm_before(x_BND)
    map_BDRC = normed_BND[:, 1:].transpose(1, 2).unflatten(2, (rows, columns))
    key_map_BDrc = attention.convolution_projection_key.convolution_projection(map_BDRC)
    keys_BnD = torch.cat([normed_BND[:, :1], key_map_BDrc.flatten(2).transpose(1, 2)], dim=1)
    k_BHnd = attention.projection_key(keys_BnD).unflatten(-1, (attention.num_heads, -1)).transpose(1, 2)
    q_BHd = attention.projection_query(normed_BND[:, 0]).unflatten(-1, (attention.num_heads, -1))
    row_BHn = torch.einsum("bhd,bhnd->bhn", q_BHd * attention.scale, k_BHnd).float().softmax(dim=-1)
    return row_BHn.mean(dim=1)[:, 1:].unflatten(1, key_map_BDrc.shape[-2:])
