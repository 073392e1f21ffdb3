"""What the makers' data sheets say of the GPUs that a run may be planned on. Nothing here was measured.

Rates are without sparsity, and of one direction where the sheets give both added up. All are SXM boards, eight to a machine.

    NVIDIA V100 Tensor Core GPU data sheet (2020), DGX-1 user guide: 4 adapters of 100 Gb/s a machine
    NVIDIA A100 Tensor Core GPU data sheet (2022), DGX A100 data sheet: 8 adapters of 200 Gb/s
    NVIDIA H100 Tensor Core GPU data sheet (2023), DGX H100 data sheet: 8 adapters of 400 Gb/s
    NVIDIA H200 Tensor Core GPU data sheet (2024), DGX H200 data sheet: 8 adapters of 400 Gb/s
    NVIDIA DGX B200 data sheet (2024), an eighth of the machine: 8 adapters of 400 Gb/s
"""

from dataclasses import dataclass

from fastgan.checked import UserError, nearest

MACHINE = 8
"""GPUs of a machine."""


@dataclass(frozen=True)
class Gpu:
    """One GPU and its share of the machine that it sits in."""

    title: str
    rates: dict[str, float]
    """Number format -> FLOP/s of matrix products in it; tf32 is what torch lets convolutions of fp32 run in. No format that the
    hardware does not multiply in."""
    memory: float
    """Bytes."""
    bandwidth: float
    """Bytes/s of the memory."""
    link: float
    """Bytes/s to the other GPUs of the machine, in one direction."""
    network: float
    """Bytes/s from the machine to others, in one direction, a GPU's share."""

    def rate(self, precision: str, convolution: bool) -> float:
        """FLOP/s at best of a product in this format. In fp32 torch lets convolutions, but not matrix products, use tf32."""
        return self.rates.get("tf32", self.rates["fp32"]) if precision == "fp32" and convolution else self.rates[precision]


GPUS = {
    "v100": Gpu(
        "V100 SXM2 16 GB", {"fp32": 15.7e12, "fp16": 125e12},
        memory=16e9, bandwidth=0.9e12, link=150e9, network=6.25e9,
    ),
    "a100": Gpu(
        "A100 SXM 80 GB", {"fp32": 19.5e12, "tf32": 156e12, "bf16": 312e12, "fp16": 312e12},
        memory=80e9, bandwidth=2.039e12, link=300e9, network=25e9,
    ),
    "h100": Gpu(
        "H100 SXM 80 GB", {"fp32": 67e12, "tf32": 494.5e12, "bf16": 989.5e12, "fp16": 989.5e12},
        memory=80e9, bandwidth=3.35e12, link=450e9, network=50e9,
    ),
    "h200": Gpu(
        "H200 SXM 141 GB", {"fp32": 67e12, "tf32": 494.5e12, "bf16": 989.5e12, "fp16": 989.5e12},
        memory=141e9, bandwidth=4.8e12, link=450e9, network=50e9,
    ),
    "b200": Gpu(
        "B200 SXM 180 GB", {"fp32": 75e12, "tf32": 1125e12, "bf16": 2250e12, "fp16": 2250e12},
        memory=180e9, bandwidth=8e12, link=900e9, network=50e9,
    ),
}  # fmt: skip


def find(name: str) -> Gpu:
    """The GPU of this name, in any case.

    Raises:
        UserError: there is none.
    """
    if name.lower() not in GPUS:
        raise UserError(f"--gpu: there is no {name!r}: {nearest(name.lower(), GPUS)}")
    return GPUS[name.lower()]


def precision_on(gpu: Gpu, asked: str) -> str:
    """The number format of a run on `gpu` that asks for "auto", "fp32", "bf16" or "fp16": auto is bf16 where the hardware
    multiplies in it.

    Raises:
        UserError: the hardware does not multiply in the one that is asked for.
    """
    chosen = ("bf16" if "bf16" in gpu.rates else "fp32") if asked == "auto" else asked
    if chosen not in gpu.rates:
        raise UserError(f"training.precision is {chosen}, which the {gpu.title} does not multiply in")
    return chosen
