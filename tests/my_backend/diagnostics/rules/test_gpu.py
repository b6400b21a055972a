"""A graphics card and how the model computes → what is wrong."""

import pytest

from my_backend.diagnostics.rules.gpu import Gpu, gpu_problems, no_driver

H100 = Gpu("NVIDIA H100 80GB HBM3", "580.82.07", 81559 << 20, 81000 << 20)
OLD_DRIVER = Gpu("NVIDIA H100 80GB HBM3", "535.104.05", 81559 << 20, 81000 << 20)
FULL = Gpu("NVIDIA H100 80GB HBM3", "580.82.07", 81559 << 20, 300 << 20)
CUDA = {"device": "cuda", "cuda": "13.0"}
CPU = {"device": "cpu", "cuda": "13.0"}


@pytest.mark.parametrize(
    ("gpu", "computes", "said"),
    [
        (H100, CUDA, ""),
        (H100, {}, ""),
        (H100, {"device": "cpu", "cuda": ""}, "The installed torch supports only the CPU"),
        (OLD_DRIVER, CPU, "driver 535.104.05 is too old for CUDA 13.0: install 580"),
        (OLD_DRIVER, {"device": "cpu", "cuda": "12.4"}, "whether the container was started with access to the GPU"),
        (H100, CPU, "whether the container was started with access to the GPU (`--gpus all`)"),
        (FULL, CUDA, "Only 0.3 GB of memory is free on NVIDIA H100 80GB HBM3 (86 GB, driver 580.82.07)."),
        (FULL, {}, ""),
    ],
)
def test_card_that_is_not_used_as_it_could_be(gpu: Gpu, computes: dict[str, str], said: str) -> None:
    told = gpu_problems(gpu, computes)

    assert [problem.code for problem in told] == (["gpu"] if said else [])
    assert said in "".join(map(str, told))


def test_driver_that_does_not_respond() -> None:
    problem = no_driver("no luck.")

    assert (problem.code, problem.message) == ("gpu", "The NVIDIA driver isn't responding: no luck.")
