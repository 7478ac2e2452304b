"""The long-running server between drivers and clients."""
