"""The long-running client of one site: the link to the server and the worker that runs user code.

The face of the package is light: importing it loads neither gRPC nor asyncio's network side, so that workers start fast.
"""

from hedgerow.client.app import ClientApp, Flower
from hedgerow.client.client import Client
from hedgerow.client.context import Context
from hedgerow.client.numpy_client import NumPyClient
from hedgerow.client.start import start_client, start_numpy_client

__all__ = ["Client", "ClientApp", "Context", "Flower", "NumPyClient", "start_client", "start_numpy_client"]
