"""A federation behind nginx, with the configuration files that the guide ships. Without nginx these tests are skipped."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from hedgerow.audit import AUDIT_FILE, read_audit
from hedgerow.authority import Authority, files_of
from hedgerow.certificates import CERTIFICATES_VARIABLE, Certificates
from hedgerow.security import Role
from hedgerow.testing import Process, eventually, free_port
from hedgerow.waits import Limit

WORKLOAD = Path(__file__).parent / "workload"
SHIPPED = Path(__file__).parents[2] / "docs" / "reverse_proxy"
SPOKEN, JOB = Limit("spoken_s", 60.0), Limit("job_s", 150.0)
SERVER = [sys.executable, "-c", "import sys; from hedgerow.cli.server import main; sys.exit(main())"]
CLIENT = [sys.executable, "-m", "hedgerow.cli.client"]
MODULES = Path("/usr/lib/nginx/modules")


def nginx() -> str:
    """The program, or no test."""
    found = os.environ.get("NGINX") or shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin:/usr/local/sbin")
    if not found:
        pytest.skip("nginx is not installed: the configurations for a reverse proxy were not tried")
    return found


def in_folder(shipped: str, folder: Path) -> str:
    """A shipped configuration for somebody who is not root: its own files in this folder."""
    text = (SHIPPED / shipped).read_text()
    temporary = "".join(f"{kind}_temp_path {folder / kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
    changes = {
        "/run/nginx.pid": str(folder / "pid"),
        "/var/log/nginx/error.log": str(folder / "error.log"),
        "worker_rlimit_nofile 65536;": "",
        "worker_connections 32768;": "worker_connections 512;",
    }
    if shipped == "terminated.conf":
        changes["access_log off;"] = f"access_log off; {temporary}"
    return changed(text, changes)


def changed(text: str, changes: Mapping[str, str]) -> str:
    """The text with these words in place of those, each of which it must have."""
    for old, new in changes.items():
        assert old in text
        text = text.replace(old, new)
    return text


class Site:
    """A server behind nginx on one port, which asks for certificates."""

    def __init__(self, folder: Path, stack: contextlib.ExitStack) -> None:
        self.folder = folder
        self.authority = Authority.create(folder / "certificates")
        self._stack = stack
        fleet, driver, blobs, web, self.port = (free_port() for _ in range(5))
        self.address = f"localhost:{self.port}"
        own = self.authority.issue(Role.SERVER, "server", ["localhost"])
        (folder / "nginx").mkdir()
        changes = {
            "listen 443": f"listen 127.0.0.1:{self.port}",
            "fl.example.org": "localhost",
            "/etc/nginx/hedgerow": str(own),
            "127.0.0.1:9091": f"127.0.0.1:{fleet}",
            "127.0.0.1:9092": f"127.0.0.1:{driver}",
            "127.0.0.1:9093": f"127.0.0.1:{blobs}",
            "# ssl_": "ssl_",  # certificates are asked for
        }
        text = changed(in_folder("terminated.conf", folder / "nginx"), changes)
        (folder / "nginx" / "nginx.conf").write_text(text)
        options = {"fleet-api": fleet, "driver-api": driver, "blob": blobs, "web": web}
        flags = [f"--{name}-address=127.0.0.1:{port}" for name, port in options.items()]
        public = f"--blob-public-url=https://{self.address}"
        self.server = self.start("server", *SERVER, "--insecure", public, f"--state-dir={folder / 'state'}", *flags)
        self.server.wait_for_output("health and metrics on", SPOKEN)
        prefix = str(folder / "nginx")
        self.start("nginx", nginx(), "-p", prefix, "-c", "nginx.conf", "-e", f"{prefix}/error.log", "-g", "daemon off;")

    def start(self, name: str, *command: str, **env: str) -> Process:
        """Let a command run until the test ends."""
        process = Process(name, command, self.folder / f"{name}.log", {"EXECUTIONS": str(self.folder / "executions"), **env})
        self._stack.callback(process.clear_away)
        return process.start()

    def files(self, name: str, role: Role) -> Certificates:
        """A new peer's certificate."""
        return files_of(self.authority.issue(role, name))

    def client(self, name: str, *security: object) -> Process:
        """Start a client."""
        where = (f"--server={self.address}", f"--name={name}", f"--state-dir={self.folder / name}")
        what = ("--callable=training_site:site", f"--callable-dir={WORKLOAD}")
        return self.start(name, *CLIENT, *where, *what, *map(str, security))


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    nginx()
    with contextlib.ExitStack() as stack:
        yield Site(tmp_path, stack)


def test_federation_trains_through_one_port_where_the_proxy_ends_tls(site: Site) -> None:
    for name in ("a", "b"):
        own = site.files(name, Role.CLIENT)
        site.client(name, "--certificates", own.ca, own.certificate, own.key)
    own, out = site.files("ann", Role.DRIVER), site.folder / "out"
    words = ("--address", site.address, "--out", str(out), "--rounds", "2", "--seconds", "0")
    certificates = os.pathsep.join(map(str, (own.ca, own.certificate, own.key)))
    driver = site.start("driver", sys.executable, str(WORKLOAD / "job.py"), *words, **{CERTIFICATES_VARIABLE: certificates})
    assert driver.wait(JOB) == 0, driver.tail() + site.server.tail()
    folded = [line.split()[1:] for line in (out / "folds").read_text().splitlines()]
    assert folded == [[server_round, name] for server_round in "12" for name in "ab"]
    assert json.loads((out / "history.json").read_text())["failures"] == []

    def transfers() -> set[object]:
        return {entry["what"] for entry in read_audit(site.folder / "state" / AUDIT_FILE) if entry["outcome"] in ("200", "206")}

    eventually(lambda: transfers() >= {"PUT", "GET"}, SPOKEN, "blobs to have gone through the proxy, too")
    stranger = site.client("stranger", "--root-certificates", own.ca)
    stranger.wait_for_output("400", SPOKEN)


def test_configuration_that_hands_tls_through_is_one_of_nginx(tmp_path: Path) -> None:
    program = nginx()
    modules = Path(os.environ.get("NGINX_MODULES", MODULES))
    if not (modules / "ngx_stream_module.so").exists():
        pytest.skip("nginx's module for streams is not installed: the configuration that hands TLS through was not tried")
    text = in_folder("passthrough.conf", tmp_path).replace("modules/", f"{modules}/")
    (tmp_path / "nginx.conf").write_text(re.sub(r"listen \d+;", f"listen 127.0.0.1:{free_port()};", text))
    command = [program, "-t", "-p", str(tmp_path), "-c", "nginx.conf", "-e", str(tmp_path / "error.log")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20)
    assert done.returncode == 0, done.stderr
