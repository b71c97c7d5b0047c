"""A base model of re-ranking: a backbone, and one linear head that projects the image's vector and its patches alike.

Shapes: B images, D width of the backbone, E of the embedding, R x C grid of patches, K = 49 tokens.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from eet.embedding.backbone import Backbone
from eet.embedding.cvt import CvTBackbone
from eet.embedding.resnet import ResNetBackbone
from eet.embedding.swin import SwinBackbone
from eet.embedding.vit import ViTBackbone
from eet.errors import InputError
from eet.images import Preprocessing
from eet.matching import importance
from eet.vit import read_state_dict

PUBLISHED_WIDTH = 128
TOKEN_GRID = 7
"""Side of the grid that patches are pooled to: 49 tokens."""

BACKBONES: dict[str, Callable[..., Backbone]] = {
    "deit": ViTBackbone.build,
    "vit": ViTBackbone.build,
    "swin": SwinBackbone.build,
    "cvt": CvTBackbone.build,
    "resnet": ResNetBackbone.build,
}
"""Builder of each family; a backbone's name begins with its family's."""


class BaseOutput(NamedTuple):
    """Outputs of a base model for a batch of images; the fields correspond to those of `eet.vit.HashOutput`."""

    embedding: Tensor
    """(B, E) unit length."""
    tokens: Tensor | None = None
    """(B, 49, E) unit length each, row-major from the top left; None where they were not requested, as the next two."""
    token_index: Tensor | None = None
    """(B, 49) int64, the tokens' positions on the 7 x 7 grid: 0 .. 48."""
    token_mass: Tensor | None = None
    """(B, 49) float32 >= 0, sums to 1: the share that each token has in the embedding."""

    @property
    def hash(self) -> Tensor:
        """(B, E) the embedding: its signs are a code, whose Hamming distance grows with the angle between embeddings (Charikar, 2002)."""
        return self.embedding

    @property
    def kept(self) -> tuple[Tensor, ...]:
        """Nothing is pruned."""
        return ()


class BaseModel(nn.Module):
    """A backbone with one linear head: embedding = head(vector); tokens = head(patches), averaged to 7 x 7; both of unit length.

    Pooling comes after the projection and before the norm, as published. Where the vector is the mean of the patches (Swin, ResNet), the
    share of a token t in the embedding e is <t, e>; the shares sum to 1, and negative ones count as 0. Where the vector is CLS (ViT, CvT),
    the share is the attention of the last block's CLS to the patch.

    BatchNorm keeps its stored statistics in training too (published for ResNet-50; here also for CvT), so that an embedding does not
    depend on the rest of its batch.

    Source: the published code of vit-reranking.

    Args:
        backbone: the network.
        embedding_width: E, at least 1.
        backbone_name: name from which `build_base` builds the backbone again.
        backbone_options: further arguments of its constructor.

    Raises:
        InputError: embedding_width is below 1, or the grid has fewer than 7 x 7 patches.
    """

    def __init__(self, backbone: Backbone, *, embedding_width: int, backbone_name: str, backbone_options: Mapping[str, Any]) -> None:
        super().__init__()
        if embedding_width < 1:
            raise InputError(f"an embedding {embedding_width} wide: use 1 or more")
        if min(backbone.grid) < TOKEN_GRID:
            rows, columns = backbone.grid
            raise InputError(
                f"{backbone_name} has {rows} x {columns} patches at {backbone.preprocessing.image_size} pixels, fewer than the "
                f"{TOKEN_GRID} x {TOKEN_GRID} tokens: use larger images or smaller patches"
            )
        self.backbone = backbone
        self.head = nn.Linear(backbone.width, embedding_width)
        if backbone.head_std is not None:
            nn.init.trunc_normal_(self.head.weight, std=backbone.head_std)
            nn.init.zeros_(self.head.bias)
        self.backbone_name = backbone_name
        self.backbone_options = dict(backbone_options)

    @property
    def embedding_width(self) -> int:
        return self.head.out_features

    @property
    def num_bits(self) -> int:
        """Length of a code: the signs of an embedding."""
        return self.embedding_width

    @property
    def token_shape(self) -> tuple[int, int]:
        """(49, E)."""
        return TOKEN_GRID * TOKEN_GRID, self.embedding_width

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of the tokens' grid."""
        return TOKEN_GRID, TOKEN_GRID

    @property
    def patch_size(self) -> tuple[int, int]:
        """Height and width of the area of a token, in whole pixels."""
        height, width = self.preprocessing.image_size
        return height // TOKEN_GRID, width // TOKEN_GRID

    @property
    def preprocessing(self) -> Preprocessing:
        return self.backbone.preprocessing

    @property
    def preprocess(self) -> Callable[[Image.Image], Tensor]:
        """PIL image -> float32 tensor (3, H, W), the input of this model."""
        return self.preprocessing

    def train(self, mode: bool = True) -> "BaseModel":
        """Sets the mode; BatchNorm stays in evaluation mode, but its scale and shift are trained."""
        super().train(mode)
        for module in self.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()
        return self

    def embed(self, images_B3HW: Tensor) -> Tensor:
        """Embeddings (B, E) of preprocessed images, of unit length, without tokens."""
        return F.normalize(self.head(self.backbone(images_B3HW, patches=False).vector).float(), dim=-1)

    def forward(self, images_B3HW: Tensor, *, tokens: bool = True) -> BaseOutput:
        """Embeddings of preprocessed images. tokens: return the tokens with positions and mass too."""
        if not tokens:
            return BaseOutput(self.embed(images_B3HW))
        out = self.backbone(images_B3HW, patches=True)
        embedding_BE = F.normalize(self.head(out.vector).float(), dim=-1)
        tokens_BKE = _pooled(self.head(out.patches).float()).flatten(1, 2)
        if out.importance is None:
            mass_BK = torch.einsum("bke,be->bk", tokens_BKE.detach(), embedding_BE.detach())
        else:
            mass_BK = _pooled(out.importance.unsqueeze(-1)).flatten(1)
        index_BK = torch.arange(tokens_BKE.shape[1], device=tokens_BKE.device).expand(len(tokens_BKE), -1)
        return BaseOutput(embedding_BE, F.normalize(tokens_BKE, dim=-1), index_BK, importance(mass_BK))


def _pooled(map_BRCE: Tensor) -> Tensor:
    """(B, 7, 7, E) means over the cells of the grid."""
    return F.adaptive_avg_pool2d(map_BRCE.permute(0, 3, 1, 2), TOKEN_GRID).permute(0, 2, 3, 1)


def build_base(
    backbone: str,
    *,
    embedding_width: int = PUBLISHED_WIDTH,
    image_size: tuple[int, int] | None = None,
    weights: str = "timm",
    backbone_options: Mapping[str, Any] | None = None,
    seed: int = 0,
) -> BaseModel:
    """Builds a base model; its head gets random weights.

    Args:
        backbone: a timm ViT with a CLS token (deit_*, vit_*), Swin (swin_*) or ResNet (resnet*), or cvt_13, cvt_21 of transformers.
        embedding_width: E, at least 1.
        image_size: (height, width) of the input in pixels; None for the backbone's own.
        weights: 'timm' (pretrained, downloaded by timm, or by transformers for CvT), 'none' (random), or a file: .safetensors, or .pt /
            .pth opened with weights_only=True, with weight names of the backbone's library.
        backbone_options: further arguments of the backbone's constructor.
        seed: of random weights and of the head.

    Returns:
        The model in training mode, float32, on the CPU.

    Raises:
        InputError: an unknown name or option, weights that do not fit, or an input too small for 7 x 7 tokens.
    """
    family = next((family for family in BACKBONES if backbone.startswith(family)), None)
    if family is None:
        raise InputError(f"backbone {backbone!r}: its name begins with none of {', '.join(BACKBONES)}")
    options = dict(backbone_options or {})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = BACKBONES[family](backbone, options, image_size=image_size, pretrained=weights == "timm")
        if weights not in ("timm", "none"):
            network.load_weights(read_state_dict(weights), source=weights)
        # The head must not depend on how many random numbers the backbone used.
        torch.manual_seed(seed)
        return BaseModel(network, embedding_width=embedding_width, backbone_name=backbone, backbone_options=options)
