"""Networks built without initial values: those whose weights are read right afterwards, and those of which only the settings are wanted."""

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

_OF_TENSORS = ("add_", "clamp_", "copy_", "div_", "erfinv_", "fill_", "mul_", "normal_", "sub_", "trunc_", "uniform_", "zero_")
_OF_INIT = ("constant_", "kaiming_uniform_", "normal_", "uniform_")  # the others call functions of tensors
INITIALISING = frozenset({*(getattr(Tensor, name) for name in _OF_TENSORS), *(getattr(nn.init, name) for name in _OF_INIT)})
"""Functions that give a tensor its values in place."""


class WithoutInitialValues(TorchFunctionMode):
    """Inside this context parameters of new modules are allocated and not given values; buffers are computed as always.

    Random numbers for 86 million weights take longer than reading the weights that replace them. On torch's meta device, where there are
    no values, one of the functions even loads torch's compiler.

    Example:
        >>> with WithoutInitialValues():
        ...     layer = nn.Linear(2, 3)
        >>> layer.load_state_dict(state)  # doctest: +SKIP
    """

    def __torch_function__(
        self, function: Callable[..., Any], types: Sequence[type], args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        keywords = kwargs or {}
        if function in INITIALISING:
            target = args[0] if args else keywords.get("tensor")
            if isinstance(target, nn.Parameter) or (isinstance(target, Tensor) and target.is_meta):
                return target
        return function(*args, **keywords)
