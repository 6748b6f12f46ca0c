"""Devices, processes and their signals: the only room that maps a step or knows its neighbours.

The loop and the launch of a run come here. No file of a run is read or written, and no metric is
named.
"""

from deqjax.training.devices._parallel import first_replica

__all__ = ["first_replica"]
