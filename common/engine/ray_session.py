"""One Ray session for as long as a block lasts: a local cluster of its own, or a cluster that runs already."""

from __future__ import annotations

import shutil
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from common.disk import free_bytes
from common.errors import ConfigError

OBJECT_STORE = 256 << 20
"""Bytes of shared memory for a local cluster's objects; what does not fit is spilled to disk."""
MIN_DISK = 1 << 30
"""Bytes that must be free, beside room for the object store, where a local cluster writes logs and spilled objects."""
PROBE_SECONDS = 5.0
"""How long a cluster's address may take to answer. Ray's own wait is minutes."""

# An HTTP/2 client's greeting (RFC 9113, 3.4) with an empty SETTINGS frame: a gRPC server answers with its own.
_GREETING = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\x00\x00\x00\x04\x00\x00\x00\x00\x00"
_SETTINGS, _TLS_ALERT = b"\x04", b"\x15\x03"


@contextmanager
def connect(address: str | None, workers: int, *, object_store: int = OBJECT_STORE) -> Iterator[Any]:
    """Yield the module `ray`, connected.

    Parameters
    ----------
    address
        HOST:PORT of a running cluster of which this machine is a node; None starts a cluster on this machine,
        which ends with the block. A session that is connected already is used as it is, and left connected.
    workers
        CPUs of the cluster that is started: so many tasks run at once.
    object_store
        Bytes of its shared memory for objects.

    Raises
    ------
    ConfigError
        Ray is not installed, the address is malformed, nothing answers there, the disk is full, or Ray cannot start
        or join.
    """
    ray = require_ray()
    if ray.is_initialized():
        yield ray
        return
    started = _join(ray, address) if address is not None else _start(ray, workers, object_store)
    try:
        yield ray
    finally:
        ray.shutdown()
    if address is None:
        # Its logs and spilled objects; after an error they stay, for who wants to read them.
        shutil.rmtree(started.address_info["session_dir"], ignore_errors=True)


def probe(address: str, seconds: float = PROBE_SECONDS) -> None:
    """Check that a gRPC server, as a Ray cluster is one, answers at HOST:PORT.

    Raises
    ------
    ConfigError
        The address is malformed, or no such server answers within `seconds`.
    """
    host, _, port = address.rpartition(":")
    if "://" in address or not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise ConfigError(
            "not the address of a Ray cluster",
            where="--ray-address",
            expected="HOST:PORT of its head node, as `ray start --head` prints it; run this on a node of the cluster",
            got=address,
        )
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=seconds) as link:
            link.sendall(_GREETING)
            answer = link.recv(9)
    except OSError as error:
        raise _silent(address, str(error) or type(error).__name__) from error
    if answer[3:4] != _SETTINGS and answer[:2] != _TLS_ALERT:
        raise _silent(address, "something else than Ray answers there")


def require_ray() -> Any:
    """Return the module `ray`; raise `ConfigError` where it is not installed."""
    try:
        import ray
    except ImportError as error:
        raise ConfigError(
            "Ray is not installed",
            where="--engine ray",
            got=str(error),
            todo="pip install -r requirements-cluster.txt",
        ) from error
    return ray


def _start(ray: Any, workers: int, object_store: int) -> Any:
    folder, needed = _folder(), object_store + MIN_DISK
    if (free := free_bytes(folder)) < needed:
        raise ConfigError(
            "too little disk for a local Ray cluster",
            where=folder,
            expected=f"{needed / 2**30:.1f} GiB for its logs and spilled objects",
            got=f"{free / 2**30:.1f} GiB free",
            todo="free some, set RAY_TMPDIR to a folder of another disk, or leave out --engine ray",
        )
    try:
        return ray.init(
            address="local",  # None would join whatever runs on the machine
            num_cpus=workers,
            include_dashboard=False,
            object_store_memory=object_store,
            # Ray keeps 5 % of the disk free, which may be many gigabytes, and fails where it can no longer spill.
            _system_config={"local_fs_capacity_threshold": 1.0},
            **_quiet(),
        )
    except Exception as error:
        ray.shutdown()
        raise _refused("a local Ray cluster cannot start", None, error) from error


def _folder() -> Path:
    """Return where a local cluster writes; Ray asks the environment."""
    try:
        from ray._common.utils import get_default_system_temp_dir
    except ImportError:
        return Path(tempfile.gettempdir())
    return Path(get_default_system_temp_dir())


def _join(ray: Any, address: str) -> Any:
    probe(address)
    try:
        return ray.init(address=address, **_quiet())
    except Exception as error:
        ray.shutdown()
        raise _refused("this process cannot join the Ray cluster", address, error) from error


def _quiet() -> dict[str, Any]:
    from ray.job_config import JobConfig

    # Ray asks the environment alone whether it may report its use over the network: it may not.
    try:
        from ray._common.usage.usage_lib import set_usage_stats_enabled_via_env_var

        set_usage_stats_enabled_via_env_var(False)
    except ImportError:
        pass
    # Workers find the project where this process does, whatever folder it was started in.
    job = JobConfig(_py_driver_sys_path=[str(Path(__file__).resolve().parents[2])])
    return {"logging_level": "error", "log_to_driver": False, "job_config": job}


def _silent(address: str, reason: str) -> ConfigError:
    return ConfigError(
        "no Ray cluster answers",
        where="--ray-address",
        expected="a cluster started by `ray start --head`, reachable from here",
        got=f"{address}: {reason}",
        todo="start it, or leave out --ray-address to use a local one",
    )


def _refused(what: str, address: str | None, error: Exception) -> ConfigError:
    lines = [line for line in str(error).splitlines() if line.strip()]
    reason = f"{type(error).__name__}: {lines[0] if lines else ''}"
    return ConfigError(
        what,
        where=None if address is None else f"--ray-address {address}",
        got=reason,
        todo="use the same versions of Python and Ray on every node, and run this on one of them" if address else None,
    )
