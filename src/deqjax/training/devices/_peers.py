"""Several processes that train one model: how they find each other, agree, and notice a failure.

All of it goes through the key-value store of `jax.distributed`, never through the devices: a
collective would hang in just the situations that shall be told of here.
"""

import dataclasses
import functools
import ipaddress
import json
import os
import re
import sys
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

from deqjax.training._workdir import differences
from deqjax.training.devices._watchdog import Watchdog, end_with

_PREFIX = "deqjax"
_LONGEST = 1_000_000  # seconds, 11 days
_MOST = 65_536  # processes


class PeerError(RuntimeError):
    """The processes of a run do not fit together, or one of them is gone."""


@dataclasses.dataclass(frozen=True)
class ClusterOptions:
    """Which processes train together.

    Attributes:
        coordinator: HOST:PORT of process 0, or "auto" where the cluster's environment tells
            everything (TPU pods, Slurm, Open MPI, Kubernetes); without it this process is alone.
        num_processes: how many processes train together.
        process_id: this one's number, from 0.
        join_timeout: seconds in which all must have come.
        heartbeat: seconds without a sign of life after which a process counts as dead.
        deadline: seconds without progress (a step, a batch evaluated, a checkpoint) after which a
            process counts as stuck; must be longer than compiling a step takes.
    """

    coordinator: str | None = None
    num_processes: int | None = None
    process_id: int | None = None
    join_timeout: int = 300
    heartbeat: int = 30
    deadline: int = 1800


class Peers:
    """The processes of a run as one of them sees them; alone, if there is no store.

    Attributes:
        index: this process's number.
        count: how many there are.
    """

    def __init__(
        self,
        index: int = 0,
        count: int = 1,
        store: Any = None,
        options: ClusterOptions | None = None,
    ) -> None:
        self.index, self.count = index, count
        self._store, self._options = store, options or ClusterOptions()
        self._watchdog: Watchdog | None = None
        self._told = 0
        if store is not None:
            self._watchdog = Watchdog(
                store, index, count, self._options.heartbeat, self._options.deadline
            )
            self._watchdog.start()

    @property
    def first(self) -> bool:
        """Whether this process speaks and writes for all."""
        return self.index == 0

    def at(self, place: str) -> None:
        """Note that this process has come to a new place, such as a step."""
        if self._watchdog is not None:
            self._watchdog.progress(place)

    def agree(self, what: str, values: Mapping[str, Any]) -> None:
        """Raise a PeerError that names the first differences to process 0's values."""
        own = json.loads(json.dumps(dict(values)))
        there = self.hear(what, own if self.first else None)
        changes = differences(there, own)
        if changes:
            listed = ", ".join(f"{name}: {change}" for name, change in changes.items())
            raise PeerError(
                f"process {self.index} has another {what} than process 0 ({listed}); start all "
                "processes with the same command and files."
            )
        self.meet(what)

    def hear(self, what: str, value: Any) -> Any:
        """What process 0 says, a JSON value; the others' ``value`` is not looked at.

        All processes must call this in the same order.
        """
        if self._store is None:
            return value
        self._told += 1
        key = f"{_PREFIX}/told/{self._told}"
        if self.first:
            self._store.key_value_set(key, json.dumps(value))
            return value
        text = self._wait(lambda: self._store.blocking_key_value_get(key, self._milliseconds), what)
        return json.loads(text)

    def meet(self, what: str) -> None:
        """Wait until all processes have come here."""
        if self._store is None:
            return
        self._told += 1
        name = f"{_PREFIX}/met/{self._told}"
        self._wait(lambda: self._store.wait_at_barrier(name, self._milliseconds), what)

    def abandon(self, error: BaseException) -> NoReturn:
        """Tell the others why this process ends, and end it at once.

        A plain exit would wait in the runtime's shutdown for processes that wait for this one.
        """
        if self._watchdog is None:
            raise error
        self._watchdog.leave(error)

    def leave(self) -> None:
        """Stop watching: from here on a process that is gone has done its work."""
        if self._watchdog is not None:
            self.meet("the end of the run")
            self._watchdog.stop()

    def exit(self, status: int) -> None:
        """End this process with a status if it is one of several, process 0 last.

        A plain exit would meet the others in the runtime's shutdown, and abort if one is killed
        meanwhile, although all work is done.
        """
        if self._store is None:
            return
        print(end="", flush=True)  # standard output may be closed
        sys.stderr.flush()
        left = f"{_PREFIX}/left/"
        if self.first:
            until = time.monotonic() + self._options.heartbeat
            while len(self._store.key_value_dir_get(left)) < self.count - 1:
                if time.monotonic() > until:
                    break
                time.sleep(0.05)
        else:
            self._store.key_value_set(f"{left}{self.index}", "")
        os._exit(status)

    @property
    def _milliseconds(self) -> int:
        return 1000 * self._options.deadline

    def _wait(self, call: Callable[[], Any], what: str) -> Any:
        import jax

        try:
            return call()
        except jax.errors.JaxRuntimeError as error:
            raise PeerError(
                f"process {self.index} waited in vain for the others ({what}): "
                f"{str(error).splitlines()[0][:120]}"
            ) from error


def join(options: ClusterOptions) -> Peers:
    """Connect to the other processes, before anything has touched a device.

    Raises:
        PeerError: the options make no sense, or the others were started with other ones. Where
            some never come, the process ends with a sentence and status 1, because the runtime
            would abort it.
    """
    if options.coordinator is None:
        for name in ("num_processes", "process_id"):
            if getattr(options, name) is not None:
                raise PeerError(
                    f"--{name.replace('_', '-')} {getattr(options, name)} needs --coordinator "
                    "HOST:PORT, the address of process 0."
                )
        return Peers()
    import jax

    _check(options)
    if options.coordinator == "auto":
        arguments: dict[str, Any] = {}
    else:
        arguments = {
            "coordinator_address": options.coordinator,
            "num_processes": options.num_processes,
            "process_id": options.process_id,
            # the default would listen on every interface of the machine
            "coordinator_bind_address": options.coordinator,
        }
    late = threading.Timer(options.join_timeout, _give_up, [options])
    late.daemon = True
    late.start()
    try:
        jax.distributed.initialize(
            initialization_timeout=options.join_timeout + 30,
            # our watchdog comes first, with a sentence; this one aborts
            heartbeat_timeout_seconds=4 * options.heartbeat + 60,
            shutdown_timeout_seconds=options.heartbeat,
            **arguments,
        )
    except (ValueError, RuntimeError) as error:
        # JAX's "coordinator_address should be defined", about what nobody has to define
        if options.coordinator == "auto" and "defined" in str(error):
            raise PeerError(
                "--coordinator auto finds no cluster in this process's environment; start the "
                "processes with Slurm's srun, Open MPI's mpirun, on a TPU pod or in Kubernetes, or "
                "give --coordinator HOST:PORT with --num-processes and --process-id."
            ) from error
        raise PeerError(
            f"the processes cannot be connected ({str(error).splitlines()[0]}); check "
            "--coordinator, --num-processes and --process-id."
        ) from error
    finally:
        late.cancel()
    from jax._src import distributed  # the store has no public name

    found = distributed.global_state
    address = found.coordinator_address or ""  # also the one that "auto" has found
    if _is_loopback(address.rsplit(":", 1)[0]):
        _keep_collectives_on_loopback(found.client)
    peers = Peers(found.process_id, found.num_processes, found.client, options)
    try:
        peers.agree("number of processes", {"--num-processes": found.num_processes})
    except PeerError as error:
        peers.abandon(error)
    return peers


def _check(options: ClusterOptions) -> None:
    for name in ("join_timeout", "heartbeat", "deadline"):
        if not 1 <= getattr(options, name) <= _LONGEST:
            raise PeerError(
                f"--{name.replace('_', '-')} must be from 1 second to {_LONGEST}, got "
                f"{getattr(options, name)}."
            )
    if options.coordinator == "auto":
        for name in ("num_processes", "process_id"):
            if getattr(options, name) is not None:
                raise PeerError(
                    f"--{name.replace('_', '-')} {getattr(options, name)} contradicts "
                    "--coordinator auto, which takes it from the cluster's environment."
                )
        return
    address = options.coordinator or ""
    host, _, port = address.rpartition(":")
    if not host or not re.fullmatch("[0-9]{1,5}", port) or not 0 < int(port) < 2**16:
        raise PeerError(f"--coordinator must be HOST:PORT or auto, got {address!r}.")
    number, index = options.num_processes, options.process_id
    if number is None or index is None:
        raise PeerError("--coordinator needs --num-processes and --process-id as well.")
    if number > _MOST:
        raise PeerError(f"--num-processes must be at most {_MOST}, got {number}.")
    if not 0 <= index < number:
        raise PeerError(f"--process-id must lie in 0 to {number - 1}, got {index}.")


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False  # a name


def _keep_collectives_on_loopback(client: Any) -> None:
    """Let the CPU's collectives listen there too, not where the machine's own name points to."""
    from jax._src import xla_bridge  # the choice of an address has no public name
    from jax._src.lib import _jax  # type: ignore[attr-defined]

    collectives = _jax.make_gloo_tcp_collectives(distributed_client=client, hostname="127.0.0.1")
    factory = functools.partial(xla_bridge.make_cpu_client, collectives=collectives)
    xla_bridge.register_backend_factory("cpu", factory, priority=0, fail_quietly=False)


def _give_up(options: ClusterOptions) -> None:
    if options.coordinator == "auto":
        reason = "not all processes of the cluster's environment came"
    elif options.process_id:
        reason = f"process 0 did not answer at {options.coordinator}"
    else:
        reason = f"not all {options.num_processes} processes came to {options.coordinator}"
    end_with(
        f"{reason} within --join-timeout {options.join_timeout} s; check that all were started, "
        "with the same --coordinator and --num-processes"
    )
