"""Devices, processes and their signals: the only room that maps a step or knows its neighbours.

The loop and the launch of a run come here. No file of a run is read or written, and no metric is
named.
"""

from deqjax.training.devices._compilation import keep_compiled_programs
from deqjax.training.devices._copies import first_replica
from deqjax.training.devices._division import MODEL, Rules
from deqjax.training.devices._engine import AXIS, Parallel, ReplicaError
from deqjax.training.devices._interrupts import StopRequest
from deqjax.training.devices._parallel import DataParallel
from deqjax.training.devices._peers import ClusterOptions, PeerError, Peers, join
from deqjax.training.devices._resources import memory_in_use
from deqjax.training.devices._sharded import ShardedParallel
from deqjax.training.devices._sharded_steps import ShardedSteps, mesh_of
from deqjax.training.devices._tracing import Trace

__all__ = [
    "AXIS",
    "MODEL",
    "ClusterOptions",
    "DataParallel",
    "Parallel",
    "PeerError",
    "Peers",
    "ReplicaError",
    "Rules",
    "ShardedParallel",
    "ShardedSteps",
    "StopRequest",
    "Trace",
    "first_replica",
    "join",
    "keep_compiled_programs",
    "memory_in_use",
    "mesh_of",
]
