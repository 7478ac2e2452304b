"""Generate the protobuf code from src/hedgerow/wire/proto/*.proto, beside the contracts or into another folder.

    python scripts/generate_proto.py [--into FOLDER]

The protobuf runtime refuses code that is newer than itself, so grpcio-tools is pinned to the oldest version that the package
supports.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

SRC = Path(__file__).resolve().parents[1] / "src"
CONTRACTS = Path("hedgerow/wire/proto")
LIMIT_S = 120
# Contracts without a service, for which the gRPC plugin makes empty modules.
WITHOUT_SERVICE = ("records", "worker")


def generate(into: Path) -> list[Path]:
    """Run protoc on every contract. The modules land in ``into/hedgerow/wire/proto``.

    Returns:
        The files that were written, relative to ``into``.
    """
    contracts = sorted(path.relative_to(SRC).as_posix() for path in (SRC / CONTRACTS).glob("*.proto"))
    outputs = [f"--{kind}_out={into}" for kind in ("python", "pyi", "grpc_python", "mypy_grpc")]
    # The plugins are programs that stand beside this interpreter.
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    subprocess.run(
        [sys.executable, "-m", "grpc_tools.protoc", "-I.", *outputs, *contracts],
        cwd=SRC,
        env={**os.environ, "PATH": path},
        check=True,
        timeout=LIMIT_S,
    )
    for name in WITHOUT_SERVICE:
        for empty in (into / CONTRACTS).glob(f"{name}_pb2_grpc.py*"):
            empty.unlink()
    return sorted(path.relative_to(into) for path in (into / CONTRACTS).glob("*_pb2*.py*"))


def main() -> int:
    """Generate, and tell what was written."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--into", type=Path, default=SRC, help="folder to write to (default: src)")
    for path in generate(parser.parse_args().into.resolve()):
        print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
