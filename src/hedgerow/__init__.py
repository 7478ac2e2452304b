"""Federated learning as a service: a long-running server, long-running clients, and drivers that come and go."""
