"""A TensorBoard event file, written by this thread alone.

tensorboardX's own writer hands its events to a thread through a queue of ten. Where the file cannot
be written that thread ends with a traceback, and the eleventh event after it waits for ever. Hence
its messages and checksums are used here, and its writer is not.
"""

import math
import os
import socket
import struct
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from deqjax.training.records._appended_file import AppendedFile


def new_event_file(folder: Path) -> AppendedFile:
    """A file for the scalars of one process, named so that TensorBoard reads it after older ones.

    Args:
        folder: of the event files.
    """
    from tensorboardX.proto.event_pb2 import Event

    # the clock and the process keep it apart from the file of a run resumed within a second
    name = f"events.out.tfevents.{time.time():.6f}.{socket.gethostname()}.{os.getpid()}"
    file = AppendedFile(folder / name)
    file.append(_framed(Event(wall_time=time.time(), file_version="brain.Event:2")))
    return file


def scalars(step: int, values: Mapping[str, float]) -> bytes:
    """The record of some scalars, by tag; those that are not finite are left out."""
    from tensorboardX.proto.event_pb2 import Event
    from tensorboardX.proto.summary_pb2 import Summary

    shown = [
        Summary.Value(tag=tag, simple_value=value)
        for tag, value in values.items()
        if math.isfinite(value)
    ]
    return _framed(Event(wall_time=time.time(), step=step, summary=Summary(value=shown)))


def purge(step: int) -> bytes:
    """The record that makes TensorBoard hide what earlier files hold of this step and later."""
    from tensorboardX.proto.event_pb2 import Event, SessionLog

    start = SessionLog(status=SessionLog.START)
    return _framed(Event(wall_time=time.time(), step=step, session_log=start))


def _framed(event: Any) -> bytes:
    """Length, its checksum, the message, its checksum: the format TFRecord."""
    from tensorboardX.record_writer import masked_crc32c

    message: bytes = event.SerializeToString()
    length = struct.pack("<Q", len(message))
    checksums = [struct.pack("<I", masked_crc32c(part)) for part in (length, message)]
    return length + checksums[0] + message + checksums[1]
