"""The network that turns an image into a hash code: a timm ViT that may drop background patches as it goes.

Shapes: B images, D width, N patches of the image, K patches alive at the end, k patches alive behind one stage.
"""

from collections.abc import Callable
from typing import Literal, NamedTuple, get_args

import torch
import torch.nn.functional as F
from PIL import Image
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from eet.errors import InputError
from eet.images import Preprocessing
from eet.vit.pruned_block import check_block, forward_block
from eet.vit.schedule import PruningSchedule

HEAD_INIT_STD = 0.02  # published: trunc_normal(0.02) for both heads
HashInput = Literal["logits", "probabilities", "joint"]
DEFAULT_LABEL_WEIGHT = 0.6  # measured: above it codes know less of labels that were not trained, below it less of those that were


class HashOutput(NamedTuple):
    """What the network says of a batch of images."""

    logits: Tensor
    """(B, classes) of the label head."""
    hash: Tensor
    """(B, bits) real-valued; the code is its signs."""
    embedding: Tensor
    """(B, D) the CLS token behind the final norm."""
    tokens: Tensor | None
    """(B, K, D) the kept patch tokens behind the final norm."""
    token_index: Tensor | None
    """(B, K) int64 original patch positions (row-major), ascending."""
    token_mass: Tensor | None
    """(B, K) float32, the last block's importance of the kept patches, sums to 1."""
    kept: tuple[Tensor, ...]
    """For each pruning stage the original positions (B, k) int64 of what it kept, ascending."""


class Student(nn.Module):
    """A ViT with content-based token pruning and the two heads of two-step hashing; without a schedule, the teacher.

    logits = head(CLS), hash = head_hash(hash input). Prefix tokens (CLS, registers, distillation) are never pruned nor counted.

    The hash input e, with p = softmax(logits / temperature):
        logits: the logits, as published. The code then holds the label alone.
        probabilities: p. With weights at the target codes (`start_hash_at_codes`) the hash is the expected target code of the image,
            which is what the MSE asks for, and stays right when training is too short for the logits of the many wrong labels to
            become small. The code holds the label alone.
        joint: [CLS / |CLS|, label_weight p / |p|]. The code holds the label and what the image looks like, so that it also finds
            images of labels that were never trained. head_hash is a rotation of it (`eet.hashing.fit_itq`).

    Args:
        trunk: timm VisionTransformer with a CLS token; its own head is the label head (`num_classes` of timm).
        num_bits: width of the hash, >= 1.
        schedule: pruning stages; empty for a teacher.
        preprocessing: how an image becomes an input.
        hash_input: "logits", "probabilities" or "joint".
        temperature: of p, > 0. It is chosen on held-out images after training: how soft p is decides which bits of the codes of
            other labels survive the sign.
        label_weight: of p in the joint hash input, >= 0. 0: appearance alone.
        backbone, backbone_options: timm name and options that build the trunk again; None where it came from a bare state dict.

    Raises:
        ValueError: a trunk that is no ViT with a CLS token, or a value outside its range.

    Source: EET (arXiv 2504.16691) and its published code; deviations are exact (same outputs): see `pruned_block`.
    """

    def __init__(
        self,
        trunk: VisionTransformer,
        *,
        num_bits: int,
        schedule: PruningSchedule,
        preprocessing: Preprocessing,
        hash_input: HashInput = "logits",
        temperature: float = 1.0,
        label_weight: float = DEFAULT_LABEL_WEIGHT,
        backbone: str | None = None,
        backbone_options: dict[str, object] | None = None,
    ) -> None:
        super().__init__()
        name = backbone or "the given ViT"
        if not isinstance(trunk, VisionTransformer) or trunk.cls_token is None:
            raise InputError(f"{name} is not a timm VisionTransformer with a CLS token; choose a deit_* or vit_* model that has one")
        for block in trunk.blocks:
            check_block(block, name)
        if num_bits < 1:
            raise InputError(f"{num_bits} bits: a code needs at least 1")
        if hash_input not in get_args(HashInput):
            raise InputError(f"hash_input {hash_input!r}: use {' or '.join(get_args(HashInput))}")
        if not (temperature > 0 and label_weight >= 0):
            raise InputError(f"temperature {temperature} must be above 0, label_weight {label_weight} 0 or more")
        schedule.check_depth(len(trunk.blocks))
        self.trunk = trunk
        width = trunk.head.out_features + (trunk.embed_dim if hash_input == "joint" else 0)
        self.head_hash = nn.Linear(width, num_bits)
        self.schedule = schedule
        self.preprocessing = preprocessing
        self.hash_input = hash_input
        self.temperature = temperature
        self.label_weight = label_weight
        self.backbone = backbone
        self.backbone_options = dict(backbone_options or {})
        self._keep_after = dict(zip(schedule.prune_after, schedule.kept_counts(self.num_patches), strict=True))

    @property
    def num_bits(self) -> int:
        return self.head_hash.out_features

    @property
    def num_classes(self) -> int:
        return self.trunk.head.out_features

    @property
    def num_patches(self) -> int:
        return self.trunk.patch_embed.num_patches

    @property
    def token_shape(self) -> tuple[int, int]:
        """(K, D): patches alive at the end of the network, and their width."""
        counts = self.schedule.kept_counts(self.num_patches)
        return (counts[-1] if counts else self.num_patches), self.embedding_width

    @property
    def embedding_width(self) -> int:
        """D of the final CLS vector."""
        return self.trunk.embed_dim

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of the patch grid."""
        rows, columns = self.trunk.patch_embed.grid_size
        return rows, columns

    @property
    def patch_size(self) -> tuple[int, int]:
        """Height and width of a patch, in pixels."""
        height, width = self.trunk.patch_embed.patch_size
        return height, width

    @property
    def preprocess(self) -> Callable[[Image.Image], Tensor]:
        """PIL image -> float32 tensor (3, H, W), as this model wants it."""
        return self.preprocessing

    def with_schedule(self, schedule: PruningSchedule) -> "Student":
        """This network with another pruning schedule. Trunk and heads are shared with it, not copied.

        ValueError where a stage lies outside the trunk.
        """
        student = Student(
            self.trunk,
            num_bits=self.num_bits,
            schedule=schedule,
            preprocessing=self.preprocessing,
            hash_input=self.hash_input,
            temperature=self.temperature,
            label_weight=self.label_weight,
            backbone=self.backbone,
            backbone_options=self.backbone_options,
        )
        student.head_hash = self.head_hash
        return student.train(self.training)

    def reset_heads(self, generator: torch.Generator) -> None:
        """Draws both heads anew: weights trunc_normal(0.02), biases 0 (published)."""
        for head in (self.trunk.head, self.head_hash):
            nn.init.trunc_normal_(head.weight, std=HEAD_INIT_STD, generator=generator)
            nn.init.zeros_(head.bias)

    @torch.no_grad()
    def start_hash_at_codes(self, target_codes_Cb: Tensor) -> None:
        """Sets head_hash to the labels' target codes (C, bits) in {-1, +1}, bias 0: the hash is the mean code under its input.

        Raises:
            ValueError: the hash does not read probabilities.
        """
        if self.hash_input != "probabilities":
            raise InputError(f"the hash reads {self.hash_input}: only one of probabilities is a mean of target codes")
        self.head_hash.weight.copy_(target_codes_Cb.T)
        self.head_hash.bias.zero_()

    def heads(self, embedding_BD: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (B, classes) and hash (B, bits) of final CLS vectors, such as a gallery stores."""
        logits = self.trunk.head(self.trunk.head_drop(embedding_BD))
        return logits, self.head_hash(self.hash_features(embedding_BD, logits))

    def hash_features(self, embedding_BD: Tensor, logits_BC: Tensor, *, temperature: float | None = None) -> Tensor:
        """The hash input: (B, C) of labels alone, (B, D + C) of both (see the class). temperature: default the student's own."""
        if self.hash_input == "logits":
            return logits_BC
        probabilities_BC = (logits_BC.float() / (temperature or self.temperature)).softmax(dim=-1)
        if self.hash_input == "probabilities":
            return probabilities_BC
        labels_BC = self.label_weight * F.normalize(probabilities_BC, dim=-1)
        return torch.cat([F.normalize(embedding_BD.float(), dim=-1), labels_BC], dim=-1)

    def forward(self, images_BCHW: Tensor, *, tokens: bool = True, mass: bool | None = None) -> HashOutput:
        """Hashes a batch of preprocessed images.

        tokens: give the kept patch tokens, their positions and mass too. Without them the last block works for the prefix alone.
        mass: give positions and mass without the tokens (what a teacher's guidance needs); default: as `tokens`.
        """
        mass = tokens if mass is None else mass
        if tokens and not mass:
            raise InputError("tokens=True, mass=False: the tokens come with their mass; leave mass out")
        trunk, num_prefix = self.trunk, self.trunk.num_prefix_tokens
        x_BND = trunk.norm_pre(trunk.patch_drop(trunk._pos_embed(trunk.patch_embed(images_BCHW))))
        alive_BK = torch.arange(self.num_patches, device=x_BND.device).expand(len(x_BND), -1)
        kept: list[Tensor] = []
        importance_BK: Tensor | None = None
        depth = len(trunk.blocks)
        for number, block in enumerate(trunk.blocks, start=1):
            last = number == depth
            x_BND, importance_BK, places_Bk = forward_block(
                block,
                x_BND,
                num_prefix=num_prefix,
                keep=self._keep_after.get(number),
                importance=last and mass,
                prefix_output=last and not tokens,
            )
            if places_Bk is not None:
                alive_BK = alive_BK.gather(1, places_Bk)
                kept.append(alive_BK)
        x_BND = trunk.fc_norm(trunk.norm(x_BND))
        embedding_BD = x_BND[:, 0]
        logits, hash_Bb = self.heads(embedding_BD)
        token_mass = None
        if mass:
            assert importance_BK is not None
            token_mass = normalised_mass(importance_BK)
        return HashOutput(
            logits=logits,
            hash=hash_Bb,
            embedding=embedding_BD,
            tokens=x_BND[:, num_prefix:] if tokens else None,
            token_index=alive_BK if mass else None,
            token_mass=token_mass,
            kept=tuple(kept),
        )


def normalised_mass(importance_BK: Tensor) -> Tensor:
    """Importance (B, K) >= 0 divided by its sum over K; uniform where the sum is not a positive number."""
    total_B1 = importance_BK.sum(dim=1, keepdim=True)
    degenerate_B1 = ~(total_B1 > 0) | ~torch.isfinite(total_B1)
    uniform = 1.0 / importance_BK.shape[1]
    return torch.where(degenerate_B1, uniform, importance_BK / torch.where(degenerate_B1, 1.0, total_B1))
