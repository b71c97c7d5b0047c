"""DKT, discriminative knowledge transfer: the student's hash follows the teacher's."""

import torch.nn.functional as F
from torch import Tensor


def knowledge_transfer_loss(student_hash_Bb: Tensor, teacher_hash_Bb: Tensor) -> Tensor:
    """Mean over images of 1 - cos(student hash, teacher hash); the teacher gets no gradient.

    Source: EET, DKT; published code.

    Args:
        student_hash_Bb: real-valued hashes.
        teacher_hash_Bb: real-valued hashes of the same images.

    Returns:
        A scalar in [0, 2].
    """
    return (1 - F.cosine_similarity(student_hash_Bb, teacher_hash_Bb.detach(), dim=1)).mean()
