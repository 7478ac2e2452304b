"""The protobuf code in the repository is what its contracts say."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.source_tree import PACKAGE, ROOT


def test_the_generated_code_is_up_to_date(tmp_path: Path) -> None:
    pytest.importorskip("grpc_tools", reason="grpcio-tools is not installed: the generated code was not compared")
    pytest.importorskip("mypy_protobuf", reason="mypy-protobuf is not installed: the generated code was not compared")
    script = ROOT / "scripts" / "generate_proto.py"
    subprocess.run([sys.executable, str(script), "--into", str(tmp_path)], check=True, timeout=120, stdout=subprocess.DEVNULL)
    fresh = {path.name: path.read_text() for path in tmp_path.rglob("*.py*")}
    kept = {path.name: path.read_text() for path in (PACKAGE / "wire" / "proto").glob("*_pb2*.py*")}
    assert fresh.keys() == kept.keys()
    assert [name for name in sorted(fresh) if fresh[name] != kept[name]] == [], "run: make proto"
