"""Bytes between processes: tensor format, conversion to protobuf, transfer of blobs, addresses and status codes."""
