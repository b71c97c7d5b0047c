"""The losses of one training step: of the teacher alone, and of student and teacher with beta, sigma and masked patches.

Shapes: B images, C labels, b bits.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from eet.distillation.knowledge_transfer import knowledge_transfer_loss
from eet.distillation.region_guidance import mask_patches, most_important_patches
from eet.errors import InputError
from eet.options.defaults import PUBLISHED_BETA, PUBLISHED_MASKED_PATCHES, PUBLISHED_SIGMA
from eet.vit import HashOutput, Student


class StepLosses(NamedTuple):
    """The losses of one step.

    Attributes:
        total: scalar to differentiate.
        terms: its terms by name, detached scalars without their weights.
    """

    total: Tensor
    terms: dict[str, Tensor]


def trained_hash(network: Student, out: HashOutput, target_codes_Cb: Tensor) -> Tensor:
    """The hash in the losses.

    For a joint hash it is the expected target code, softmax(logits) @ target_codes_Cb: its head is fitted after training and gets no
    gradient.

    Args:
        network: the student or teacher.
        out: its outputs.
        target_codes_Cb: float (C, b) in {-1, +1}.

    Returns:
        float32 (B, b).
    """
    if network.hash_input == "joint":
        return out.logits.float().softmax(dim=-1) @ target_codes_Cb
    return out.hash.float()


class HashingObjective(nn.Module):
    """Two-step hashing of a single network: CE(logits, label) + MSE(hash, target code of the label).

    This is the published loss of the teacher; it trains a teacher alone.

    Args:
        teacher: the network.
        target_codes_Cb: (C, b) in {-1, +1}.
    """

    target_codes_Cb: Tensor

    def __init__(self, teacher: Student, target_codes_Cb: Tensor) -> None:
        super().__init__()
        self.teacher = teacher
        teacher.head_hash.requires_grad_(teacher.hash_input != "joint")
        self.register_buffer("target_codes_Cb", target_codes_Cb.float(), persistent=False)

    def forward(self, images_BCHW: Tensor, labels_B: Tensor) -> StepLosses:
        out = self.teacher(images_BCHW, tokens=False)
        classification = F.cross_entropy(out.logits.float(), labels_B)
        hashing = F.mse_loss(trained_hash(self.teacher, out, self.target_codes_Cb), self.target_codes_Cb[labels_B])
        terms = {"teacher_classification": classification.detach(), "teacher_hashing": hashing.detach()}
        return StepLosses(classification + hashing, terms)


class DistillationObjective(nn.Module):
    """The objective of the student, and of its teacher if the two are trained together.

    teacher: CE(logits_t, y) + MSE(hash_t, code_y)
    student: beta [CE(logits_s, y) + CE(logits_s(masked image), y)] + MSE(hash_s, code_y) + sigma (1 - cos(hash_s, hash_t))

    The student runs plain and masked images as one batch.

    Source: EET, published code (beta 0.1, sigma 1, w 4).

    Args:
        student: the network that prunes.
        teacher: another ViT with the same patch grid and input; it may differ from the student in size.
        target_codes_Cb: (C, b) in {-1, +1}.
        joint: True trains the teacher too (published); False freezes it (staged).
        beta: weight of the classification terms, >= 0.
        sigma: weight of the knowledge transfer, >= 0.
        masked_patches: w, 0 to the number of patches; 0 leaves the masked term out.

    Raises:
        InputError: a value outside its range, or networks with different patch grids or numbers of bits.
    """

    target_codes_Cb: Tensor

    def __init__(
        self,
        student: Student,
        teacher: Student,
        target_codes_Cb: Tensor,
        *,
        joint: bool,
        beta: float = PUBLISHED_BETA,
        sigma: float = PUBLISHED_SIGMA,
        masked_patches: int = PUBLISHED_MASKED_PATCHES,
    ) -> None:
        super().__init__()
        if beta < 0 or sigma < 0:
            raise InputError(f"beta {beta} and sigma {sigma} are weights of losses: use 0 or more")
        if not 0 <= masked_patches <= teacher.num_patches:
            raise InputError(
                f"masked_patches {masked_patches}: the teacher has {teacher.num_patches} patches, so use 0 to {teacher.num_patches}"
            )
        if student.grid != teacher.grid or student.patch_size != teacher.patch_size:
            raise InputError(
                f"the student's patch grid is {student.grid} of {student.patch_size} px, the teacher's {teacher.grid} of "
                f"{teacher.patch_size} px: guidance by patches needs the same grid; choose a teacher of the same patch and image size"
            )
        if student.num_bits != teacher.num_bits:
            raise InputError(
                f"the student has {student.num_bits} bits, the teacher {teacher.num_bits}: train a teacher with {student.num_bits}"
            )
        self.student = student
        self.teacher = teacher.requires_grad_(joint)
        student.head_hash.requires_grad_(student.hash_input != "joint")
        teacher.head_hash.requires_grad_(joint and teacher.hash_input != "joint")
        self.joint = joint
        self.beta, self.sigma, self.masked_patches = beta, sigma, masked_patches
        self.register_buffer("target_codes_Cb", target_codes_Cb.float(), persistent=False)
        self.train(self.training)

    def train(self, mode: bool = True) -> "DistillationObjective":
        """Sets the mode; a frozen teacher stays in evaluation mode."""
        super().train(mode)
        if not self.joint:
            self.teacher.eval()
        return self

    def forward(self, images_BCHW: Tensor, labels_B: Tensor) -> StepLosses:
        codes_Bb = self.target_codes_Cb[labels_B]
        terms: dict[str, Tensor] = {}
        total = torch.zeros((), device=images_BCHW.device)
        with torch.set_grad_enabled(self.joint and torch.is_grad_enabled()):
            teacher_out = self.teacher(images_BCHW, tokens=False, mass=self.masked_patches > 0)
            teacher_hash_Bb = trained_hash(self.teacher, teacher_out, self.target_codes_Cb)
            if self.joint:
                terms["teacher_classification"] = F.cross_entropy(teacher_out.logits.float(), labels_B)
                terms["teacher_hashing"] = F.mse_loss(teacher_hash_Bb, codes_Bb)
                total = total + terms["teacher_classification"] + terms["teacher_hashing"]

        batch = images_BCHW
        if self.masked_patches:
            masked_Bw = most_important_patches(teacher_out.token_mass, teacher_out.token_index, self.masked_patches)
            batch = torch.cat([images_BCHW, mask_patches(images_BCHW, masked_Bw, self.teacher.grid)])
        out = self.student(batch, tokens=False)
        size = len(images_BCHW)
        terms["classification"] = F.cross_entropy(out.logits[:size].float(), labels_B)
        total = total + self.beta * terms["classification"]
        if self.masked_patches:
            terms["region_guidance"] = F.cross_entropy(out.logits[size:].float(), labels_B)
            total = total + self.beta * terms["region_guidance"]
        hash_Bb = trained_hash(self.student, out, self.target_codes_Cb)[:size]
        terms["hashing"] = F.mse_loss(hash_Bb, codes_Bb)
        terms["knowledge_transfer"] = knowledge_transfer_loss(hash_Bb, teacher_hash_Bb)
        total = total + terms["hashing"] + self.sigma * terms["knowledge_transfer"]
        return StepLosses(total, {name: value.detach() for name, value in terms.items()})
