"""Where networks run, and in what precision."""

from dataclasses import dataclass
from typing import Literal, get_args

import torch

from eet.errors import InputError
from eet.options.choices import Precision

CPU_BF16 = ("avx512_bf16", "amx_bf16")
"""Instructions of CPUs for products in bf16, as torch names them."""


@dataclass(frozen=True)
class Device:
    """A device that networks run on, and the precision of their arithmetic there. `Device.of` makes one.

    Attributes:
        torch_device: as torch takes it.
        precision: "fp32", or "bf16" (by autocast; weights stay float32).
    """

    torch_device: torch.device
    precision: Literal["fp32", "bf16"]

    @classmethod
    def of(cls, device: torch.device | str = "auto", precision: str = "auto") -> "Device":
        """The device that a user names, with the precision of networks there.

        Args:
            device: as torch takes it; "auto" is CUDA where there is one, else the CPU.
            precision: "auto" (bf16 on CUDA, fp32 on a CPU), "fp32" or "bf16".

        Raises:
            InputError: another precision.
        """
        check_precision(precision)
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        placed = torch.device(device)
        bf16 = precision == "bf16" or (precision == "auto" and placed.type == "cuda")
        return cls(placed, "bf16" if bf16 else "fp32")

    @property
    def type(self) -> str:
        """The kind of device: "cpu", "cuda"."""
        return self.torch_device.type

    @property
    def on_gpu(self) -> bool:
        return self.type == "cuda"

    @property
    def computes_bf16(self) -> bool:
        """Whether this is a CPU of this machine with instructions for products in bf16 (AVX512_BF16, AMX); bf16 is then the faster one."""
        has: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
        return self.type == "cpu" and any(has.get(name) for name in CPU_BF16)

    def autocast(self) -> torch.autocast:
        """The context in which networks run here in this precision."""
        return torch.autocast(self.type, torch.bfloat16, enabled=self.precision == "bf16")


def check_precision(precision: str) -> None:
    """InputError where this is none that `Device.of` knows."""
    if precision not in get_args(Precision):
        raise InputError(f"precision={precision!r}: allowed are {', '.join(get_args(Precision))}")
