import pytest
import torch

from eet.device import Device
from eet.errors import InputError


@pytest.mark.parametrize(
    ("device", "precision", "expected"),
    [
        ("cpu", "auto", "fp32"),
        ("cpu", "bf16", "bf16"),
        ("cuda", "auto", "bf16"),
        ("cuda:1", "auto", "bf16"),
        (torch.device("cuda"), "fp32", "fp32"),
        (torch.device("cpu"), "fp32", "fp32"),
    ],
)
def test_auto_precision_is_bf16_on_cuda_alone(device, precision, expected):
    found = Device.of(device, precision)
    assert found == Device(torch.device(device), expected)
    assert found.on_gpu == (found.type == "cuda") == str(device).startswith("cuda")


@pytest.mark.parametrize("there", [False, True])
def test_auto_device_is_cuda_where_there_is_one(there, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: there)
    assert Device.of() == (Device.of("cuda", "bf16") if there else Device.of("cpu", "fp32"))
    assert Device.of("cpu").type == "cpu"


@pytest.mark.parametrize(("precision", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_products_have_the_precision(precision, dtype):
    with Device.of("cpu", precision).autocast():
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == dtype


def test_an_unknown_precision_is_refused():
    with pytest.raises(InputError, match="precision='fp8': allowed are auto, fp32, bf16"):
        Device.of("cpu", "fp8")


@pytest.mark.parametrize(
    ("device", "has", "computes"),
    [
        ("cpu", {"avx512_bf16": True, "amx_bf16": False}, True),
        ("cpu", {"avx512_bf16": False, "amx_bf16": True}, True),
        ("cpu", {"avx512_bf16": False, "avx512_vnni": True}, False),
        ("cpu", {}, False),
        ("cuda", {"avx512_bf16": True}, False),
    ],
)
def test_cpus_with_instructions_for_bf16_are_known(device, has, computes, monkeypatch):
    monkeypatch.setattr("torch.cpu.get_capabilities", lambda: has, raising=False)
    assert Device.of(device).computes_bf16 == computes
