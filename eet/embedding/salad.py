"""SALAD: NetVLAD whose assignment of patches to words is an optimal transport with a dustbin.

Shapes: B images, N patches, D their width, K words, C width of a word, G of the global part.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from eet.embedding.aggregation import Aggregation
from eet.embedding.words import check_words
from eet.errors import InputError
from eet.matching import sinkhorn

ROUNDS = 3
"""Differentiable rounds after the solution, through which gradients reach the scores. Published: 3, from nothing."""


def transported_shares(scores_BKN: Tensor, dustbin: Tensor, *, rounds: int = ROUNDS) -> Tensor:
    """How much of each patch goes to each word, and not to the dustbin.

    The plan maximises <P, S> + entropy(P), where a patch has the mass 1 / N, a word takes 1 / N, and the dustbin the other (N - K) / N. It
    is solved by `eet.matching.sinkhorn`, which has no gradient. Then a few Sinkhorn rounds on logarithms follow, starting from the
    solution: they change no value, and gradients pass through them. SALAD's published code has the same rounds alone, from zero, so that
    its plans have not converged.

    Source: Izquierdo and Civera, Optimal transport aggregation for visual place recognition (SALAD), CVPR 2024, section 3.2.

    Args:
        scores_BKN: S, of words and patches; N > K.
        dustbin: scalar, its score for every patch.
        rounds: at least 1.

    Returns:
        float32 (B, K, N), all mass together is 1; each word has 1 / N.
    """
    batch, words, patches = scores_BKN.shape
    scores_BLN = torch.cat([scores_BKN.float(), dustbin.float().expand(batch, 1, patches)], dim=1)
    taken_BL = scores_BLN.new_full((batch, words + 1), 1 / patches)
    taken_BL[:, -1] = (patches - words) / patches
    sent_BN = scores_BLN.new_full((batch, patches), 1 / patches)
    plan_BLN = sinkhorn(-scores_BLN.detach(), taken_BL, sent_BN, epsilon=1.0).plan
    # log P = S + u + v, so the dustbin's row gives v up to a constant; every entry of that row has mass.
    v_BN = (plan_BLN[:, -1].clamp(min=1e-30)).log() - scores_BLN[:, -1].detach()
    for _ in range(rounds):
        u_BL = taken_BL.log() - (scores_BLN + v_BN[:, None]).logsumexp(dim=2)
        v_BN = sent_BN.log() - (scores_BLN + u_BL[:, :, None]).logsumexp(dim=1)
    return (scores_BLN + u_BL[:, :, None] + v_BN[:, None]).exp()[:, :-1]


class SaladAggregation(Aggregation):
    """V_k = sum_i P_ki f(x_i), each at unit length, and g(vector), at unit length, in one row at unit length.

    P are the `transported_shares` of scores s(x_i). s, f and g are networks of two layers.

    Source: Izquierdo and Civera (above), sections 3.1 to 3.3.

    Args:
        width: D.
        num_patches: N.
        words: K, 1 to N - 1.
        word_width: C, at least 1.
        global_width: G, at least 1.
        hidden: width of the hidden layers, at least 1.

    Raises:
        InputError: an option is out of range.
    """

    reads_vector = True

    def __init__(
        self, width: int, num_patches: int, *, words: int = 64, word_width: int = 128, global_width: int = 256, hidden: int = 512
    ) -> None:
        super().__init__()
        check_words(words)
        if words >= num_patches:
            raise InputError(f"words={words} of salad: an image has {num_patches} patches, and some are for the dustbin; use fewer words")
        if min(word_width, global_width, hidden) < 1:
            raise InputError(f"word_width={word_width}, global_width={global_width}, hidden={hidden} of salad: use 1 or more")
        self.width = words * word_width + global_width
        self.scores = _two_layers(width, hidden, words)
        self.features = _two_layers(width, hidden, word_width)
        self.overall = _two_layers(width, hidden, global_width)
        self.dustbin = nn.Parameter(torch.ones(()))

    def forward(self, vector_BD: Tensor, patches_BND: Tensor | None) -> Tensor:
        assert patches_BND is not None
        scores_BKN = self.scores(patches_BND).transpose(1, 2)
        shares_BKN = transported_shares(scores_BKN, self.dustbin)
        words_BKC = torch.einsum("bkn,bnc->bkc", shares_BKN, self.features(patches_BND).float())
        parts = [F.normalize(self.overall(vector_BD).float(), dim=-1), F.normalize(words_BKC, dim=-1).flatten(1)]
        return F.normalize(torch.cat(parts, dim=1), dim=-1)


def _two_layers(width: int, hidden: int, out: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, out))
