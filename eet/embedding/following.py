"""Losses that make the embeddings of a student like those of a teacher.

Shapes: B images of a batch, E width of the student's embedding, F of the teacher's. Both are of unit length. Gradients reach the student.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from eet.errors import InputError

PUBLISHED_TEMPERATURE = 0.1


def embedding_loss(student_BE: Tensor, teacher_BF: Tensor) -> Tensor:
    """The mean of smooth L1 over all entries: for unit vectors |s - t|^2 / (2 E). It is small, so weights are 1 to 100.

    Source: the published training code of vit-reranking, whose weights these are. InputError where widths differ.
    """
    _check_widths(student_BE, teacher_BF)
    return F.smooth_l1_loss(student_BE, teacher_BF)


def cosine_loss(student_BE: Tensor, teacher_BF: Tensor) -> Tensor:
    """The mean of 1 - <s, t>, which is E times `embedding_loss`. InputError where widths differ."""
    _check_widths(student_BE, teacher_BF)
    return (1 - (student_BE * teacher_BF).sum(dim=1)).mean()


def distance_loss(student_BE: Tensor, teacher_BF: Tensor) -> Tensor:
    """The mean of smooth L1 over all pairs' distances, of student and teacher, each divided by its own mean over entries above 0.

    Widths may differ. Source: Park et al., Relational knowledge distillation, CVPR 2019, section 3.2.1.
    """
    return F.smooth_l1_loss(_relative_distances(student_BE), _relative_distances(teacher_BF))


def angle_loss(student_BE: Tensor, teacher_BF: Tensor) -> Tensor:
    """The mean of smooth L1 over the cosines <e_ij, e_ik> of all triples, e_ij the direction from image j to image i.

    Widths may differ. It takes B^3 entries. Source: Park et al. (above), section 3.2.2.
    """
    return F.smooth_l1_loss(_angles(student_BE), _angles(teacher_BF))


def similarity_loss(student_BE: Tensor, teacher_BF: Tensor, *, temperature: float = PUBLISHED_TEMPERATURE) -> Tensor:
    """T^2 times the mean over images of KL(teacher || student), of the softmax of <x, y> / T over all other images y.

    Widths may differ. Source: the published training code of vit-reranking, which compares a query with its own positive and negatives
    alone.

    Args:
        student_BE: B >= 2.
        teacher_BF: likewise.
        temperature: T, above 0.
    """
    own_BB = torch.eye(len(student_BE), dtype=torch.bool, device=student_BE.device)
    others_BB = ~own_BB
    student, teacher = (
        F.log_softmax((x @ x.T)[others_BB].unflatten(0, (len(x), -1)) / temperature, dim=1) for x in (student_BE, teacher_BF)
    )
    return F.kl_div(student, teacher, reduction="batchmean", log_target=True) * temperature**2


FOLLOWING: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "embedding": embedding_loss,
    "cosine": cosine_loss,
    "distance": distance_loss,
    "angle": angle_loss,
    "similarity": similarity_loss,
}
"""Name, as users give it -> loss of student and teacher."""


def _check_widths(student_BE: Tensor, teacher_BF: Tensor) -> None:
    if student_BE.shape[1] != teacher_BF.shape[1]:
        raise InputError(
            f"the student's embedding is {student_BE.shape[1]} wide and the teacher's {teacher_BF.shape[1]}: embedding and cosine compare "
            "entry by entry; use the same width, or distance, angle or similarity"
        )


def _relative_distances(x_BE: Tensor) -> Tensor:
    distances_BB = torch.cdist(x_BE, x_BE, compute_mode="donot_use_mm_for_euclid_dist")
    above_0 = distances_BB > 0
    return distances_BB / (distances_BB.sum() / above_0.sum().clamp(min=1)).clamp(min=1e-12)


def _angles(x_BE: Tensor) -> Tensor:
    directions_BBE = F.normalize(x_BE[:, None] - x_BE[None, :], dim=-1)
    return directions_BBE @ directions_BBE.transpose(1, 2)
