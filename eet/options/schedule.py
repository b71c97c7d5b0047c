"""When a ViT drops patch tokens, and how many it keeps."""

import math
from dataclasses import dataclass

from eet.errors import InputError

PUBLISHED_PRUNE_AFTER = (4, 8, 10)
PUBLISHED_KEEP_RATIOS = (0.5, 0.5, 0.25)
PUBLISHED_DEPTH = 12


@dataclass(frozen=True)
class PruningSchedule:
    """The pruning stages of a student: after block `prune_after[s]` (1-based) a share `keep_ratios[s]` of the living patches stays.

    An empty schedule makes the unpruned teacher. The published schedule (EET's code) keeps 98, 49 and 12 of 196 patches after blocks
    4, 8 and 10.

    Attributes:
        prune_after: strictly increasing block numbers, 1 .. depth.
        keep_ratios: one ratio in (0, 1] for each stage. A stage keeps k = floor(ratio * living patches), at least 1.

    Raises:
        InputError: the two do not describe a schedule.
    """

    prune_after: tuple[int, ...] = PUBLISHED_PRUNE_AFTER
    keep_ratios: tuple[float, ...] = PUBLISHED_KEEP_RATIOS

    def __post_init__(self) -> None:
        object.__setattr__(self, "prune_after", tuple(int(block) for block in self.prune_after))
        object.__setattr__(self, "keep_ratios", tuple(float(ratio) for ratio in self.keep_ratios))
        if len(self.prune_after) != len(self.keep_ratios):
            raise InputError(
                f"prune_after names {len(self.prune_after)} blocks {list(self.prune_after)} but keep_ratios has "
                f"{len(self.keep_ratios)} ratios {list(self.keep_ratios)}: give one ratio for each block"
            )
        if any(block < 1 for block in self.prune_after):
            raise InputError(f"prune_after {list(self.prune_after)}: blocks are counted from 1")
        if any(later <= earlier for earlier, later in zip(self.prune_after, self.prune_after[1:], strict=False)):
            raise InputError(f"prune_after {list(self.prune_after)} must be strictly increasing")
        bad = [ratio for ratio in self.keep_ratios if not 0.0 < ratio <= 1.0]
        if bad:
            raise InputError(f"keep ratios {bad} are outside (0, 1]: a keep ratio is the share of living patches that a stage keeps")

    def check_depth(self, depth: int) -> None:
        """Raises InputError where a stage lies outside a ViT of `depth` blocks."""
        if self.prune_after and self.prune_after[-1] > depth:
            raise InputError(
                f"prune_after {list(self.prune_after)} does not fit a ViT of {depth} blocks: use blocks 1 to {depth}, for example "
                f"{list(scaled_prune_after(depth, min(len(self.prune_after), depth)))}"
            )

    def kept_counts(self, num_patches: int) -> tuple[int, ...]:
        """Number of living patches after each stage, from `num_patches` at the start.

        The published schedule turns 196 into (98, 49, 12).
        """
        counts = []
        for ratio in self.keep_ratios:
            # 1e-9 so that rounding of a decimal ratio (0.7 of 10) does not lose a patch.
            num_patches = max(1, math.floor(ratio * num_patches + 1e-9))
            counts.append(num_patches)
        return tuple(counts)

    def rounded(self, num_patches: int, *, num_prefix: int, multiple: int) -> "PruningSchedule":
        """This schedule, changed so that the number of tokens after each stage is the nearest multiple of `multiple`.

        The matrix units of a GPU work best on such sizes. At least one patch stays, and no stage adds patches.

        Args:
            num_patches: number of patches at the start.
            num_prefix: number of prefix tokens (CLS, registers), which are never dropped; they count as tokens.
            multiple: 1 or more; 1 returns this schedule.

        Raises:
            InputError: a multiple below 1.
        """
        if multiple < 1:
            raise InputError(f"tokens_multiple {multiple}: use 1 or more, 1 for any number of tokens")
        if multiple == 1:
            return self
        ratios, living = [], num_patches
        for kept in self.kept_counts(num_patches):
            least = -(-(num_prefix + 1) // multiple)
            kept = min(living, max(least, round((kept + num_prefix) / multiple)) * multiple - num_prefix)
            ratios.append(kept / living)
            living = kept
        return PruningSchedule(self.prune_after, tuple(ratios))


def scaled_prune_after(depth: int, num_stages: int = len(PUBLISHED_PRUNE_AFTER)) -> tuple[int, ...]:
    """The published stages (after blocks 4, 8 and 10 of 12) moved to a ViT of another depth.

    Args:
        depth: number of blocks.
        num_stages: number of stages, 1 .. depth. 3 scales the published stages; another number is spread evenly over the same range,
            from a third to five sixths of the depth.

    Returns:
        Strictly increasing block numbers, 1 .. depth.

    Raises:
        InputError: the depth cannot hold the stages.
    """
    if not 1 <= num_stages <= depth:
        raise InputError(f"{num_stages} pruning stages do not fit a ViT of {depth} blocks: use 1 to {depth}")
    if num_stages == len(PUBLISHED_PRUNE_AFTER):
        shares = [block / PUBLISHED_DEPTH for block in PUBLISHED_PRUNE_AFTER]
    else:
        first, last = PUBLISHED_PRUNE_AFTER[0] / PUBLISHED_DEPTH, PUBLISHED_PRUNE_AFTER[-1] / PUBLISHED_DEPTH
        shares = [first + (last - first) * stage / max(1, num_stages - 1) for stage in range(num_stages)]
    blocks = [round(share * depth) for share in shares]
    for stage in range(num_stages):  # upwards: no two stages in one block
        blocks[stage] = max(blocks[stage], 1 if stage == 0 else blocks[stage - 1] + 1)
    for stage in reversed(range(num_stages)):  # downwards: leave a block for each later stage
        blocks[stage] = min(blocks[stage], depth - (num_stages - 1 - stage))
    return tuple(blocks)
