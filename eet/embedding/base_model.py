"""A base model of re-ranking: a backbone, a layer that makes one vector of its output, and a linear head.

Shapes: B images, D width of the backbone, W of the aggregation, E of the embedding, b bits, R x C grid of patches, K = 49 tokens, T their
width.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from eet.embedding.aggregation import Aggregation
from eet.embedding.aggregations import build_aggregation
from eet.embedding.backbone import Backbone, BackboneOutput
from eet.embedding.cvt import CvTBackbone
from eet.embedding.resnet import ResNetBackbone
from eet.embedding.swin import SwinBackbone
from eet.embedding.vgg import VGGBackbone
from eet.embedding.vit import ViTBackbone
from eet.errors import InputError
from eet.hashing.itq import Projection
from eet.images import Preprocessing
from eet.matching import importance
from eet.options.choices import Fit
from eet.options.defaults import PUBLISHED_WIDTH
from eet.vit import check_whole_patches, read_state_dict
from eet.vit.timm_names import sketch
from eet.vit.trunk import WANTED

TOKEN_GRID = 7
"""Side of the grid that patches are pooled to: 49 tokens."""

BACKBONES: dict[str, Callable[..., Backbone]] = {
    "VisionTransformer": ViTBackbone.build,
    "Eva": ViTBackbone.build,
    "SwinTransformer": SwinBackbone.build,
    "ResNet": ResNetBackbone.build,
    "VGG": VGGBackbone.build,
}
"""Name of a class of timm -> builder. A backbone is built by the entry of its own class, or of the nearest class that it inherits from."""


class BaseOutput(NamedTuple):
    """Outputs of a base model for a batch of images; the fields correspond to those of `eet.vit.HashOutput`."""

    embedding: Tensor
    """(B, E) unit length."""
    tokens: Tensor | None = None
    """(B, 49, T) unit length each, row-major from the top left; None where they were not requested, as the next two."""
    token_index: Tensor | None = None
    """(B, 49) int64, the tokens' positions on the 7 x 7 grid: 0 .. 48."""
    token_mass: Tensor | None = None
    """(B, 49) float32 >= 0, sums to 1: the share that each token has in the embedding."""
    projected: Tensor | None = None
    """(B, b) a linear hash of the embedding; None in a model without one."""

    @property
    def hash(self) -> Tensor:
        """(B, b), the linear hash of the embedding; (B, E), the embedding itself, where the model has no such layer.

        The signs of an embedding are a code, whose Hamming distance grows with the angle between embeddings (Charikar, 2002).
        """
        return self.embedding if self.projected is None else self.projected

    @property
    def kept(self) -> tuple[Tensor, ...]:
        """Nothing is pruned."""
        return ()


class BaseModel(nn.Module):
    """A backbone with one linear head: embedding = head(vector); tokens = head(patches), averaged to 7 x 7; both of unit length.

    With another aggregation than 'vector', embedding = head(aggregation(vector, patches)). The tokens are then the patches themselves,
    averaged to 7 x 7, because what the head reads is no patch.

    Pooling comes after the projection and before the norm, as published. Where the vector is the mean of the patches (Swin, ResNet), the
    share of a token t in the embedding e is <t, e>; the shares sum to 1, and negative ones count as 0. Where the vector is CLS (ViT, CvT),
    the share is the attention of the last block's CLS to the patch.

    BatchNorm keeps its stored statistics in training too (published for ResNet-50; here also for CvT), so that an embedding does not
    depend on the rest of its batch.

    Source: the published code of vit-reranking.

    Args:
        backbone: the network.
        aggregation: what makes the input of the head.
        embedding_width: E, at least 1; None for no head: the embedding is the aggregation's vector.
        aggregation_name: name in `eet.embedding.AGGREGATIONS`.
        aggregation_options: further arguments of its constructor.
        tokens_from_block: block that the backbone's patches are from, or None for the last one.
        backbone_name: name from which `build_base` builds the backbone again.
        backbone_options: further arguments of its constructor.

    Raises:
        InputError: embedding_width is below 1, or the grid has fewer than 7 x 7 patches.
    """

    def __init__(
        self,
        backbone: Backbone,
        aggregation: Aggregation,
        *,
        embedding_width: int | None,
        aggregation_name: str,
        aggregation_options: Mapping[str, Any],
        tokens_from_block: int | None,
        backbone_name: str,
        backbone_options: Mapping[str, Any],
    ) -> None:
        super().__init__()
        if embedding_width is not None and embedding_width < 1:
            raise InputError(f"an embedding {embedding_width} wide: use 1 or more")
        if min(backbone.grid) < TOKEN_GRID:
            rows, columns = backbone.grid
            raise InputError(
                f"{backbone_name} has {rows} x {columns} patches at {backbone.preprocessing.image_size} pixels, fewer than the "
                f"{TOKEN_GRID} x {TOKEN_GRID} tokens: use larger images or smaller patches"
            )
        self.backbone = backbone
        self.aggregation = aggregation
        self.head: nn.Module = nn.Identity() if embedding_width is None else nn.Linear(aggregation.width, embedding_width)
        self.code: nn.Linear | None = None
        if isinstance(self.head, nn.Linear) and aggregation.shares_head and backbone.head_std is not None:
            nn.init.trunc_normal_(self.head.weight, std=backbone.head_std)
            nn.init.zeros_(self.head.bias)
        self.backbone_name = backbone_name
        self.backbone_options = dict(backbone_options)
        self.aggregation_name, self.aggregation_options = aggregation_name, dict(aggregation_options)
        self.tokens_from_block = tokens_from_block

    @property
    def embedding_width(self) -> int:
        return self.head.out_features if isinstance(self.head, nn.Linear) else self.aggregation.width

    @property
    def num_bits(self) -> int:
        """b, the length of a code: of the signs of the linear hash if the model has one, else of the embedding."""
        return self.embedding_width if self.code is None else self.code.out_features

    @property
    def token_shape(self) -> tuple[int, int]:
        """(49, T)."""
        return TOKEN_GRID * TOKEN_GRID, self.embedding_width if self.aggregation.shares_head else self.backbone.width

    @torch.no_grad()
    def set_head(self, layer: Projection) -> None:
        """Replaces the head by a fitted linear layer, weights (E, W). A linear hash of the embedding is removed."""
        self.head, self.code = _linear(layer), None

    @torch.no_grad()
    def set_code(self, layer: Projection) -> None:
        """Makes codes by a fitted linear hash of the embedding, weights (b, E)."""
        self.code = _linear(layer)

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
        return self._embedding(self.backbone(images_B3HW, patches=self.aggregation.reads_patches))

    def aggregated(self, images_B3HW: Tensor) -> Tensor:
        """(B, W) float32, what the head reads of preprocessed images."""
        return self._aggregated(self.backbone(images_B3HW, patches=self.aggregation.reads_patches)).float()

    def descriptors(self, images_B3HW: Tensor) -> Tensor:
        """(B, N, D) float32, what `eet.embedding.Aggregation.start` reads of the patches of preprocessed images."""
        patches = self.backbone(images_B3HW, patches=True).patches
        assert patches is not None
        return self.aggregation.descriptors(patches.flatten(1, 2).float())

    def _aggregated(self, out: BackboneOutput) -> Tensor:
        return self.aggregation(out.vector, None if out.patches is None else out.patches.flatten(1, 2))

    def _embedding(self, out: BackboneOutput) -> Tensor:
        return F.normalize(self.head(self._aggregated(out)).float(), dim=-1)

    def forward(self, images_B3HW: Tensor, *, tokens: bool = True) -> BaseOutput:
        """Embeddings of preprocessed images. tokens: return the tokens with positions and mass too."""
        if not tokens:
            embedding_BE = self.embed(images_B3HW)
            return BaseOutput(embedding_BE, projected=self._projected(embedding_BE))
        out = self.backbone(images_B3HW, patches=True)
        assert out.patches is not None
        embedding_BE = self._embedding(out)
        tokens_BKE = _pooled((self.head(out.patches) if self.aggregation.shares_head else out.patches).float()).flatten(1, 2)
        if out.importance is None:
            centre_BE = embedding_BE if self.aggregation.shares_head else F.normalize(out.vector.float(), dim=-1)
            mass_BK = torch.einsum("bke,be->bk", tokens_BKE.detach(), centre_BE.detach())
        else:
            mass_BK = _pooled(out.importance.unsqueeze(-1)).flatten(1)
        index_BK = torch.arange(tokens_BKE.shape[1], device=tokens_BKE.device).expand(tokens_BKE.shape[0], -1)
        return BaseOutput(embedding_BE, F.normalize(tokens_BKE, dim=-1), index_BK, importance(mass_BK), self._projected(embedding_BE))

    def _projected(self, embedding_BE: Tensor) -> Tensor | None:
        return None if self.code is None else self.code(embedding_BE).float()


def _linear(layer: Projection) -> nn.Linear:
    linear = nn.Linear(layer.weight_bD.shape[1], layer.weight_bD.shape[0])
    linear.weight.copy_(torch.from_numpy(layer.weight_bD))
    linear.bias.copy_(torch.from_numpy(layer.bias_b))
    return linear


def _pooled(map_BRCE: Tensor) -> Tensor:
    """(B, 7, 7, E) means over the cells of the grid."""
    return F.adaptive_avg_pool2d(map_BRCE.permute(0, 3, 1, 2), TOKEN_GRID).permute(0, 2, 3, 1)


def build_base(
    backbone: str,
    *,
    embedding_width: int | None = PUBLISHED_WIDTH,
    image_size: tuple[int, int] | None = None,
    weights: str = "timm",
    backbone_options: Mapping[str, Any] | None = None,
    aggregation: str = "vector",
    aggregation_options: Mapping[str, Any] | None = None,
    tokens_from_block: int | None = None,
    fit: Fit = "crop",
    cut_patches: bool = False,
    seed: int = 0,
) -> BaseModel:
    """Builds a base model; its head gets random weights, or begins as the identity.

    Args:
        backbone: a ViT of one resolution, Swin, ResNet or VGG of timm, by its name there; or cvt_13, cvt_21 of transformers.
        embedding_width: E, at least 1. None for that of the backbone: then the head begins as the identity, so that without any training
            the embedding is the backbone's own vector, and the tokens are its patches. With another aggregation, None is for no head: the
            embedding is what the aggregation makes.
        image_size: (height, width) of the input in pixels; None for the backbone's own.
        weights: 'timm' (pretrained, downloaded by timm, or by transformers for CvT), 'none' (random), or a file: .safetensors, or .pt /
            .pth opened with weights_only=True, with weight names of the backbone's library.
        backbone_options: further arguments of the backbone's constructor.
        aggregation: what makes one vector of the backbone's output, one of `AGGREGATIONS`; vector is the backbone's own.
        aggregation_options: further arguments of the aggregation's constructor.
        tokens_from_block: block of a ViT, from 1, that patches and tokens are from; None for the last. Middle blocks are better for places.
        fit: how images of another shape become inputs, see `Preprocessing`.
        cut_patches: accept an image size of which patches do not cover the right and lower edge, as earlier versions did.
        seed: of random weights and of the head.

    Returns:
        The model in training mode, float32, on the CPU.

    Raises:
        InputError: an unknown name or option, weights that do not fit, an input too small for 7 x 7 tokens, or an image size that is no
            multiple of the patch size.
    """
    options = dict(backbone_options or {})
    build = _builder(backbone, options)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = build(backbone, options, image_size=image_size, pretrained=weights == "timm")
        if image_size is not None and not cut_patches:
            check_whole_patches(backbone, image_size, network.patch_size)
        if weights not in ("timm", "none"):
            network.load_weights(read_state_dict(weights), source=weights)
        network.preprocessing = network.preprocessing.with_fit(fit)
        # The head must not depend on how many random numbers the backbone used.
        torch.manual_seed(seed)
        rows, columns = network.grid
        layer = build_aggregation(aggregation, network.width, rows * columns, aggregation_options or {})
        if tokens_from_block is not None:
            network.take_patches_from(tokens_from_block, vector=layer.reads_vector)
        begins_as_identity = embedding_width is None and layer.shares_head
        model = BaseModel(
            network,
            layer,
            embedding_width=network.width if begins_as_identity else embedding_width,
            aggregation_name=aggregation,
            aggregation_options=aggregation_options or {},
            tokens_from_block=tokens_from_block,
            backbone_name=backbone,
            backbone_options=options,
        )
        if begins_as_identity and isinstance(model.head, nn.Linear):
            nn.init.eye_(model.head.weight)
            nn.init.zeros_(model.head.bias)
        return model


def _builder(backbone: str, options: Mapping[str, Any]) -> Callable[..., Backbone]:
    """The builder for the named model. InputError where its class has none."""
    if backbone.startswith("cvt_"):  # transformers has it, timm does not
        return CvTBackbone.build
    kind = type(sketch(backbone, options))
    for parent in kind.__mro__:
        if parent.__name__ in BACKBONES:
            return BACKBONES[parent.__name__]
    raise InputError(
        f"backbone {backbone!r} is a {kind.__name__}; a base model reads {', '.join(BACKBONES)} of timm. Choose {WANTED}; or swin_*, "
        "resnet*, vgg* or cvt_13"
    )
