"""Moving blobs over HTTP, the caller's side: uploads and downloads that survive cuts, and the words of the protocol.

::

    HEAD /uploads/<id>?signature       → 200, Upload-Offset: n             how much the server has
    PUT  /uploads/<id>?signature       Upload-Offset: n and the bytes from there on
                                       → 200 {"digest": …, "size": …}       complete
                                       → 204, Upload-Offset: n             stored, more to come
                                       → 409, Upload-Offset: n             the server has another number of bytes
    GET  /blobs/<digest>?signature     Range: bytes=n-
                                       → 200 or 206 and the bytes
    otherwise                          → {"error": "PermissionDenied", "message": …}

A cut costs nothing but time: the transfer goes on at the offset that the receiver has. It gives up with :class:`Unavailable`
only when no byte has got through for :attr:`TransferLimits.transfer_stalled_s`. Files go from disk to socket and back without
passing through Python objects as a whole; uploads use ``sendfile`` where there is no TLS.

What was received in one piece from our own server is not hashed again; what was put together from pieces is.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import logging
import select
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO
from urllib.parse import urlsplit

import blake3

from hedgerow import errors
from hedgerow.errors import ConfigError, CorruptData, HedgerowError, Unauthenticated, Unavailable, WaitTimeout
from hedgerow.records import Blob
from hedgerow.waits import Backoff, Limit, wait_condition
