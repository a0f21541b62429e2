"""One distribution, two import packages: `hpr` (the paper) and `hpr_kernels` (torch alone, from kernels/)."""

from pathlib import Path

from setuptools import find_packages, setup

REPRO = ["neurogym>=2.3,<2.4", "pooch>=1.8", "scipy>=1.11", "matplotlib>=3.8", "tqdm>=4.66"]
BENCH = ["asv>=0.6.4", "virtualenv>=20"]
DEV = ["pytest>=8", "pytest-xdist>=3.5", "hypothesis>=6.100", "ruff>=0.6", "mypy>=1.11"]

setup(
    name="hpr-richlazy",
    version="0.1.0",
    description="Exact tangent kernels of recurrent networks; rich and lazy learning reproduced",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="MIT",
    python_requires=">=3.10",
    packages=[
        *find_packages(include=["hpr", "hpr.*"]),
        *find_packages(where="kernels", include=["hpr_kernels", "hpr_kernels.*"]),
    ],
    package_dir={"hpr": "hpr", "hpr_kernels": "kernels/hpr_kernels"},
    package_data={
        "hpr": ["py.typed"],
        "hpr.connectivity": ["data/*", "data/*/*"],
        "hpr.tasks": ["data/*"],
        "hpr_kernels": ["py.typed"],
    },
    install_requires=["torch>=2.6", "triton>=3.6; platform_system == 'Linux'", "numpy>=1.26"],
    extras_require={
        "repro": REPRO,
        "em": ["caveclient>=8"],
        "bench": [*REPRO, *BENCH],
        "dev": [*REPRO, *BENCH, *DEV],
    },
    entry_points={"console_scripts": ["hpr-reproduce = hpr.reproduce:main"]},
)
