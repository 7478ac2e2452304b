"""The long-running client of one site: the link to the server and the worker that runs user code."""
