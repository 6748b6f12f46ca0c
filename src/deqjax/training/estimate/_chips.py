"""What the chips of a TPU can do, by what their maker publishes."""

from typing import NamedTuple

GIB = 2**30


class Chip(NamedTuple):
    """Published figures of one chip.

    Attributes:
        name: as in a topology.
        hbm: bytes of its main memory.
        bandwidth: of that memory, bytes a second.
        flops: bfloat16 operations a second, at peak.
        interconnect: bytes a second that leave it over all links to other chips together.
        dimensions: of the grid or torus that its chips are linked in.
        source: where these figures are published.
    """

    name: str
    hbm: int
    bandwidth: float
    flops: float
    interconnect: float
    dimensions: int
    source: str


_DOCS = "https://cloud.google.com/tpu/docs"

CHIPS = {
    chip.name: chip
    for chip in (
        # six links of 50 GB/s each: Jouppi et al., ISCA 2023, arXiv 2304.01433
        Chip("v4", 32 * GIB, 1.2e12, 275e12, 0.30e12, 3, f"{_DOCS}/v4, arXiv 2304.01433"),
        Chip("v5e", 16 * GIB, 0.819e12, 197e12, 0.20e12, 2, f"{_DOCS}/v5e"),
        Chip("v5p", 95 * GIB, 2.765e12, 459e12, 0.60e12, 3, f"{_DOCS}/v5p"),
        Chip("v6e", 32 * GIB, 1.6e12, 918e12, 0.40e12, 2, f"{_DOCS}/v6e"),
    )
}
"""By name. The interconnect is one direction: half of what is published as bidirectional."""
