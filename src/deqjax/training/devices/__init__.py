"""Devices, processes and their signals: the only room that maps a step or knows its neighbours.

The loop and the launch of a run come here. No file of a run is read or written, and no metric is
named.
"""

from deqjax.training.devices._compilation import keep_compiled_programs
from deqjax.training.devices._interrupts import StopRequest
from deqjax.training.devices._parallel import (
    AXIS,
    DataParallel,
    ReplicaError,
    first_replica,
    step_of_replica,
)
from deqjax.training.devices._peers import ClusterOptions, PeerError, Peers, join
from deqjax.training.devices._resources import memory_in_use
from deqjax.training.devices._tracing import Trace

__all__ = [
    "AXIS",
    "ClusterOptions",
    "DataParallel",
    "PeerError",
    "Peers",
    "ReplicaError",
    "StopRequest",
    "Trace",
    "first_replica",
    "join",
    "keep_compiled_programs",
    "memory_in_use",
    "step_of_replica",
]
