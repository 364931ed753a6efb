"""A Triton with TLS and a key for everything but predictions, as deployments run it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from support.certificates import write_certificates
from support.triton import Triton, triton
from thresher_serving import Runtime

__all__ = ["KEY", "guarded_triton"]

KEY = "a-key-that-is-long-enough"
_RESTRICTED = "model-repository,shared-memory,logging,trace,statistics"


@contextmanager
def guarded_triton(
    runtime: Runtime,
    repository: Path,
    models: Sequence[str],
    *,
    folder: Path,
    is_mutual: bool = False,
) -> Iterator[Triton]:
    """Run a server until the block ends.

    Args:
        runtime: Which Triton.
        repository: The model repository.
        models: What it loads.
        folder: Gets its log, ca.crt, and certificate and key of the server and of a client.
        is_mutual: Whether its clients need a certificate too.
    """
    write_certificates(folder)
    options = [
        "--grpc-use-ssl=true",
        f"--grpc-server-cert={folder / 'server.crt'}",
        f"--grpc-server-key={folder / 'server.key'}",
        f"--grpc-restricted-protocol={_RESTRICTED}:thresher-key={KEY}",
    ]
    if is_mutual:
        options += ["--grpc-use-ssl-mutual=true", f"--grpc-root-cert={folder / 'ca.crt'}"]
    with triton(runtime, repository, models, *options, log=folder / "log") as server:
        yield server
