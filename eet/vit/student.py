"""The network that turns an image into a hash code: a timm ViT that can drop background patches between its blocks.

Shapes: B images, C labels, b bits, D width, N patches of the image, K living patches at the end, k living patches after one stage.
"""

from collections.abc import Callable
from typing import NamedTuple, get_args

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from eet.errors import InputError
from eet.hashing import Projection
from eet.images import Preprocessing
from eet.options.choices import HashInput
from eet.options.defaults import DEFAULT_LABEL_WEIGHT
from eet.options.schedule import PruningSchedule
from eet.vit.pruned_block import forward_block
from eet.vit.trunk import RotaryPositions, Trunk, check_trunk, final_outputs, first_tokens, has_cls, pooling_importance

HEAD_INIT_STD = 0.02  # published: trunc_normal(0.02) for both heads


class HashOutput(NamedTuple):
    """Outputs of the network for a batch of images."""

    logits: Tensor
    """(B, C), outputs of the label head."""
    hash: Tensor
    """(B, b) real-valued; the code is its signs."""
    embedding: Tensor
    """(B, D), what the model pools, after the final norm: CLS in most models, see `final_outputs` in `eet.vit.trunk`."""
    tokens: Tensor | None
    """(B, K, D), the kept patch tokens after the final norm; None where they were not requested."""
    token_index: Tensor | None
    """(B, K) int64, original patch positions in 0 .. N - 1 (row-major), ascending; None where mass was not requested."""
    token_mass: Tensor | None
    """(B, K) float32, the importance of the kept patches in the last block, or for the pooling query of a model that has one; sums to 1.
    None where it was not requested."""
    kept: tuple[Tensor, ...]
    """For each pruning stage the original positions (B, k) int64 of the patches that it kept, ascending."""


class Student(nn.Module):
    """A ViT with content-based token pruning and the two heads of two-step hashing; without a schedule, the teacher.

    logits = head(CLS), hash = head_hash(hash input). Prefix tokens (CLS, registers, distillation) are never pruned and not counted. In a
    model that does not pool by CLS, the pooled vector of the living patches takes its place everywhere below. Rotary positions stay with
    their patches.

    The hash input e, with p = softmax(logits / temperature):
        logits: the logits, as published. The code then depends only on the label.
        probabilities: p. If the weights of head_hash are the target codes (`start_hash_at_codes`), the hash is the expected target code
            of the image, which is the minimum of the MSE. This also holds after a short training, when the logits of the many wrong labels
            are not small yet. The code depends only on the label.
        joint: [a / |a|, label_weight p / |p|], where a is the CLS, whitened if the student has a whitening layer (`set_whitening`). The
            code depends on the label and on the appearance of the image, so that a search also finds images of labels that were never
            trained. head_hash is a rotation of this input (`eet.hashing.fit_itq`).

    Args:
        trunk: timm VisionTransformer or Eva that pools by CLS, the mean or attention; its own head is the label head (`num_classes` of
            timm).
        num_bits: length of the hash, >= 1.
        schedule: pruning stages; empty for a teacher.
        preprocessing: of the images.
        hash_input: "logits", "probabilities" or "joint".
        temperature: of p, > 0. It is chosen on held-out images after training. A softer p gives the codes of other labels more influence
            on the signs.
        label_weight: weight of p in the joint hash input, >= 0; 0 for appearance only.
        backbone, backbone_options: timm name and options from which the trunk is built again; None if the student was built from a state
            dict only.

    Raises:
        InputError: a trunk that is not such a ViT, a schedule that does not fit its depth, or a value outside its range.

    Source: EET (arXiv 2504.16691) and its published code; what differs from it gives the same outputs, see `pruned_block`.
    """

    def __init__(
        self,
        trunk: Trunk,
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
        check_trunk(trunk, f"backbone {backbone!r}" if backbone else "the given trunk")
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
        self.whitening: nn.Linear | None = None
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
        """(K, D): number of living patches at the end of the network, and their width."""
        counts = self.schedule.kept_counts(self.num_patches)
        return (counts[-1] if counts else self.num_patches), self.embedding_width

    @property
    def embedding_width(self) -> int:
        """D, the width of the final CLS vector."""
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
        """PIL image -> float32 tensor (3, H, W), the input of this model."""
        return self.preprocessing

    def with_schedule(self, schedule: PruningSchedule) -> "Student":
        """This network with another pruning schedule. Trunk and heads are shared, not copied.

        Raises:
            InputError: a stage is outside the trunk.
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
        student.head_hash, student.whitening = self.head_hash, self.whitening
        return student.train(self.training)

    def reset_heads(self, generator: torch.Generator) -> None:
        """Gives both heads random weights: trunc_normal(0.02), biases 0 (published)."""
        for head in (self.trunk.head, self.head_hash):
            nn.init.trunc_normal_(head.weight, std=HEAD_INIT_STD, generator=generator)
            nn.init.zeros_(head.bias)

    @torch.no_grad()
    def start_hash_at_codes(self, target_codes_Cb: Tensor) -> None:
        """Sets the weights of head_hash to the target codes of the labels, bias 0.

        The hash is then the mean of the target codes, weighted by the probabilities of the labels.

        Args:
            target_codes_Cb: (C, b) in {-1, +1}.

        Raises:
            InputError: the hash does not read probabilities.
        """
        if self.hash_input != "probabilities":
            raise InputError(f"the hash reads {self.hash_input}: only a hash of probabilities can be a mean of target codes")
        self.head_hash.weight.copy_(target_codes_Cb.T)
        self.head_hash.bias.zero_()

    @torch.no_grad()
    def set_whitening(self, whitening: Projection | None) -> None:
        """Sets the linear layer that whitens the CLS in a joint hash input, or removes it.

        Args:
            whitening: its weights (D, D) and bias (D,), see `eet.hashing.fit_within_label_whitening`; None removes the layer.

        Raises:
            InputError: the hash is not joint.
        """
        if whitening is None:
            self.whitening = None
            return
        if self.hash_input != "joint":
            raise InputError(f"the hash reads {self.hash_input}: only a joint hash reads the CLS, which can be whitened")
        like = self.head_hash.weight
        layer = nn.utils.skip_init(nn.Linear, self.embedding_width, self.embedding_width, device=like.device, dtype=like.dtype)
        layer.weight.copy_(torch.from_numpy(np.array(whitening.weight_bD)))  # a copy, because arrays from Ray are read-only
        layer.bias.copy_(torch.from_numpy(np.array(whitening.bias_b)))
        self.whitening = layer.requires_grad_(False).train(self.training)

    def heads(self, embedding_BD: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (B, C) and hash (B, b) of final CLS vectors, for example those that a gallery stores."""
        logits = self.trunk.head(self.trunk.head_drop(embedding_BD))
        return logits, self.head_hash(self.hash_features(embedding_BD, logits))

    def hash_features(self, embedding_BD: Tensor, logits_BC: Tensor, *, temperature: float | None = None) -> Tensor:
        """The hash input, see the class.

        Args:
            embedding_BD: final CLS vectors.
            logits_BC: their logits.
            temperature: of the probabilities; None for the temperature of the student.

        Returns:
            (B, C); (B, D + C) if hash_input is "joint".
        """
        if self.hash_input == "logits":
            return logits_BC
        probabilities_BC = (logits_BC.float() / (temperature or self.temperature)).softmax(dim=-1)
        if self.hash_input == "probabilities":
            return probabilities_BC
        labels_BC = self.label_weight * F.normalize(probabilities_BC, dim=-1)
        appearance_BD = embedding_BD.float()
        if self.whitening is not None:
            appearance_BD = self.whitening(appearance_BD).float()
        return torch.cat([F.normalize(appearance_BD, dim=-1), labels_BC], dim=-1)

    @torch.inference_mode()
    def stored_hash_features(self, embedding_ND: np.ndarray, *, temperature: float | None = None) -> np.ndarray:
        """`hash_features` of stored CLS vectors, float32 (N, D), computed where the network is. Returns float32 (N, E)."""
        embedding = torch.from_numpy(embedding_ND).to(self.head_hash.weight.device)
        return self.hash_features(embedding, self.trunk.head(embedding), temperature=temperature).cpu().numpy()

    def forward(self, images_BCHW: Tensor, *, tokens: bool = True, mass: bool | None = None) -> HashOutput:
        """Hashes a batch of preprocessed images.

        Args:
            images_BCHW: float, preprocessed images.
            tokens: return the kept patch tokens with their positions and mass too. Without them the last block computes only the outputs
                of the prefix tokens.
            mass: return positions and mass. True with tokens=False is for the region guidance of a teacher; None for the value of
                `tokens`.

        Raises:
            InputError: tokens without mass.
        """
        mass = tokens if mass is None else mass
        if tokens and not mass:
            raise InputError("tokens=True, mass=False: tokens are always returned with their mass; leave mass out")
        trunk, num_prefix = self.trunk, self.trunk.num_prefix_tokens
        x_BND, rotary = first_tokens(trunk, images_BCHW)
        positions = RotaryPositions(rotary)
        alive_BK = torch.arange(self.num_patches, device=x_BND.device).expand(x_BND.shape[0], -1)
        kept: list[Tensor] = []
        importance_BK: Tensor | None = None
        depth = len(trunk.blocks)
        pools_cls = trunk.global_pool == "token"
        pools_attention = trunk.global_pool == "map"
        for number, block in enumerate(trunk.blocks, start=1):
            last = number == depth
            x_BND, importance_BK, kept_Bk = forward_block(
                block,
                x_BND,
                num_prefix=num_prefix,
                keep=self._keep_after.get(number),
                importance=last and mass and not pools_attention,
                prefix_output=last and not tokens and pools_cls,
                rotary=positions.of_block(number - 1),
                has_cls=has_cls(trunk),
            )
            if kept_Bk is not None:
                alive_BK = alive_BK.gather(1, kept_Bk)
                kept.append(alive_BK)
                positions.keep(alive_BK)
        embedding_BD, tokens_BKD = final_outputs(trunk, x_BND, tokens=tokens)
        logits, hash_Bb = self.heads(embedding_BD)
        token_mass = None
        if mass:
            if pools_attention:
                importance_BK = pooling_importance(trunk, x_BND)
            assert importance_BK is not None
            token_mass = normalised_mass(importance_BK)
        return HashOutput(
            logits=logits,
            hash=hash_Bb,
            embedding=embedding_BD,
            tokens=tokens_BKD,
            token_index=alive_BK if mass else None,
            token_mass=token_mass,
            kept=tuple(kept),
        )


def normalised_mass(importance_BK: Tensor) -> Tensor:
    """Importance (B, K) >= 0, divided by its sum over K; uniform where the sum is not a positive number."""
    total_B1 = importance_BK.sum(dim=1, keepdim=True)
    degenerate_B1 = ~(total_B1 > 0) | ~torch.isfinite(total_B1)
    uniform = 1.0 / importance_BK.shape[1]
    return torch.where(degenerate_B1, uniform, importance_BK / torch.where(degenerate_B1, 1.0, total_B1))
