"""``flwr.client``: what a site implements, and how it is started."""

from hedgerow.client import Client, NumPyClient, start_client, start_numpy_client
from hedgerow.client.app import ClientFn

__all__ = ["Client", "ClientFn", "NumPyClient", "start_client", "start_numpy_client"]
