"""What the simulated cloud rents out: instance types, regions, images, invented capacity."""

from __future__ import annotations

import uuid
from dataclasses import dataclass

from .machine import NO_GPU, Gpu


@dataclass(frozen=True)
class InstanceType:
    """One row of the price list of summer 2026."""

    name: str
    description: str
    gpu_description: str
    gpus: int
    vcpus: int
    memory_gib: int
    storage_gib: int
    price_cents_per_hour: int
    architecture: str = "x86_64"

    def body(self) -> dict[str, object]:
        """Return it as the API shows it."""
        specs = ("vcpus", "memory_gib", "storage_gib", "gpus")
        return {
            "name": self.name,
            "description": self.description,
            "gpu_description": self.gpu_description,
            "price_cents_per_hour": self.price_cents_per_hour,
            "specs": {name: getattr(self, name) for name in specs},
            "architecture": self.architecture,
        }

    def gpu(self) -> Gpu:
        """Return what nvidia-smi says on a machine of this type."""
        if not self.gpus:
            return NO_GPU
        name, memory_mib = GPU_NAMES[self.gpu_description]
        return Gpu(count=self.gpus, name=name, memory_mib=memory_mib)


@dataclass(frozen=True)
class Image:
    """A machine image; `image_id` is the same in all regions."""

    family: str
    version: str
    description: str
    architecture: str

    @property
    def image_id(self) -> str:
        words = f"{self.family} {self.version} {self.architecture}"
        return str(uuid.uuid5(uuid.NAMESPACE_OID, words))

    def body(self, region: str) -> dict[str, object]:
        """Return the row of this image and one region."""
        return {
            "id": self.image_id,
            "created_time": "2026-05-07T20:38:55.116000+00:00",
            "updated_time": "2026-06-11T09:12:01.402000+00:00",
            "name": f"{self.family}-{self.version}",
            "description": self.description,
            "family": self.family,
            "version": self.version,
            "architecture": self.architecture,
            "region": region_body(region),
        }


GPU_NAMES = {
    "GH200 (96 GB)": ("NVIDIA GH200 480GB", 97871),
    "B200 (180 GB SXM6)": ("NVIDIA B200", 183359),
    "H100 (80 GB SXM5)": ("NVIDIA H100 80GB HBM3", 81559),
    "H100 (80 GB PCIe)": ("NVIDIA H100 PCIe", 81559),
    "A100 (80 GB SXM4)": ("NVIDIA A100-SXM4-80GB", 81920),
    "A100 (40 GB SXM4)": ("NVIDIA A100-SXM4-40GB", 40960),
    "A100 (40 GB PCIe)": ("NVIDIA A100-PCIE-40GB", 40960),
    "A10 (24 GB PCIe)": ("NVIDIA A10", 23028),
    "A6000 (48 GB)": ("NVIDIA RTX A6000", 49140),
    "RTX 6000 (24 GB)": ("Quadro RTX 6000", 24576),
    "Tesla V100 (16 GB)": ("Tesla V100-SXM2-16GB", 16384),
    "X900 (1 TB)": ("NVIDIA X900", 1048576),
}


def _gpu_type(
    name: str,
    gpus: int,
    gpu: str,
    vcpus: int,
    memory_gib: int,
    storage_gib: int,
    cents: int,
    arch: str = "x86_64",
) -> InstanceType:
    of_what = f"{gpus}x {gpu}"
    return InstanceType(name, of_what, gpu, gpus, vcpus, memory_gib, storage_gib, cents, arch)


def _by_name(*types: InstanceType) -> dict[str, InstanceType]:
    return {row.name: row for row in types}


# name, GPUs, GPU, vcpus, memory GiB, storage GiB, cents an hour
INSTANCE_TYPES = _by_name(
    _gpu_type("gpu_1x_gh200", 1, "GH200 (96 GB)", 64, 432, 4096, 229, arch="arm64"),
    _gpu_type("gpu_8x_b200_sxm6", 8, "B200 (180 GB SXM6)", 208, 2900, 22528, 5352),
    _gpu_type("gpu_2x_b200_sxm6", 2, "B200 (180 GB SXM6)", 52, 720, 5632, 1378),
    _gpu_type("gpu_1x_b200_sxm6", 1, "B200 (180 GB SXM6)", 26, 360, 2816, 699),
    _gpu_type("gpu_8x_h100_sxm5", 8, "H100 (80 GB SXM5)", 208, 1800, 22528, 3192),
    _gpu_type("gpu_4x_h100_sxm5", 4, "H100 (80 GB SXM5)", 104, 900, 11264, 1636),
    _gpu_type("gpu_2x_h100_sxm5", 2, "H100 (80 GB SXM5)", 52, 450, 5632, 838),
    _gpu_type("gpu_1x_h100_sxm5", 1, "H100 (80 GB SXM5)", 26, 225, 2816, 429),
    _gpu_type("gpu_1x_h100_pcie", 1, "H100 (80 GB PCIe)", 26, 200, 1024, 329),
    _gpu_type("gpu_8x_a100_80gb_sxm4", 8, "A100 (80 GB SXM4)", 240, 1800, 20480, 2232),
    _gpu_type("gpu_8x_a100", 8, "A100 (40 GB SXM4)", 124, 1800, 6144, 1592),
    _gpu_type("gpu_4x_a100", 4, "A100 (40 GB PCIe)", 120, 800, 1024, 796),
    _gpu_type("gpu_2x_a100", 2, "A100 (40 GB PCIe)", 60, 400, 1024, 398),
    _gpu_type("gpu_1x_a100", 1, "A100 (40 GB PCIe)", 30, 200, 512, 199),
    _gpu_type("gpu_1x_a100_sxm4", 1, "A100 (40 GB SXM4)", 30, 200, 512, 199),
    _gpu_type("gpu_1x_a10", 1, "A10 (24 GB PCIe)", 30, 200, 1400, 129),
    _gpu_type("gpu_4x_a6000", 4, "A6000 (48 GB)", 56, 400, 1024, 436),
    _gpu_type("gpu_2x_a6000", 2, "A6000 (48 GB)", 28, 200, 1024, 218),
    _gpu_type("gpu_1x_a6000", 1, "A6000 (48 GB)", 14, 100, 200, 109),
    _gpu_type("gpu_1x_rtx6000", 1, "RTX 6000 (24 GB)", 14, 46, 512, 69),
    _gpu_type("gpu_8x_v100", 8, "Tesla V100 (16 GB)", 92, 448, 6041, 632),
    _gpu_type("gpu_8x_v100_n", 8, "Tesla V100 (16 GB)", 88, 448, 6041, 632),
    InstanceType("cpu_4x_general", "4x CPU General (16 GiB)", "N/A", 0, 4, 16, 100, 20),
)

# What a later cloud might rent: nothing in it is known to today's clients.
FUTURE_TYPES = _by_name(_gpu_type("gpu_1x_x900", 1, "X900 (1 TB)", 64, 2048, 8192, 1999, arch="riscv64"))

REGIONS = {
    "us-east-1": "Virginia, USA",
    "us-east-2": "Washington DC, USA",
    "us-east-3": "Washington DC, USA",
    "us-midwest-1": "Illinois, USA",
    "us-midwest-2": "Ohio, USA",
    "us-south-1": "Texas, USA",
    "us-south-2": "North Texas, USA",
    "us-south-3": "Central Texas, USA",
    "us-southeast-1": "Georgia, USA",
    "us-west-1": "California, USA",
    "us-west-2": "Arizona, USA",
    "us-west-3": "Utah, USA",
    "asia-northeast-1": "Osaka, Japan",
    "asia-northeast-2": "Tokyo, Japan",
    "asia-south-1": "India",
    "australia-east-1": "Sydney, Australia",
    "europe-central-1": "Germany",
    "me-west-1": "Israel",
}

# Invented: the real one changes within minutes.
CAPACITY = {
    "gpu_1x_gh200": ("us-east-3",),
    "gpu_8x_h100_sxm5": ("us-south-2", "us-south-3"),
    "gpu_1x_h100_sxm5": ("us-southeast-1",),
    "gpu_1x_h100_pcie": ("us-west-3",),
    "gpu_1x_a100_sxm4": ("us-east-1", "us-west-2"),
    "gpu_1x_a10": ("us-east-1", "us-west-1"),
    "gpu_1x_a6000": ("us-south-1",),
    "gpu_1x_rtx6000": ("us-south-1",),
    "gpu_8x_v100": ("us-south-1",),
    "cpu_4x_general": ("us-east-1", "us-west-1"),
    "gpu_1x_x900": ("us-east-1",),
}

IMAGES = tuple(
    Image(family, version, description, architecture)
    for family, version, description in (
        ("lambda-stack-24-04", "24.4.3-2210", "Ubuntu 24.04 with Lambda Stack"),
        ("lambda-stack-22-04", "22.4.9-2188", "Ubuntu 22.04 with Lambda Stack"),
        ("gpu-base-24-04", "24.4.2-2150", "Ubuntu 24.04 with the NVIDIA driver"),
        ("gpu-base-22-04", "22.4.8-2149", "Ubuntu 22.04 with the NVIDIA driver"),
        ("ubuntu-24-04", "24.4.2-2101", "Ubuntu 24.04"),
        ("ubuntu-22-04", "22.4.7-2100", "Ubuntu 22.04"),
    )
    for architecture in ("x86_64", "arm64")
)


# Clients made from the schema of 2025 know only the regions of then.
NEW_REGIONS = ("us-southeast-1",)


def region_body(name: str) -> dict[str, object]:
    """Return a region as the API shows it."""
    return {"name": name, "description": REGIONS[name]}


def default_image(architecture: str) -> Image:
    """Return the newest Lambda Stack for a processor architecture."""
    stacks = [image for image in IMAGES if image.architecture == architecture]
    return stacks[0] if stacks else IMAGES[0]
