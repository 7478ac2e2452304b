"""The process that holds the strategy and runs one run."""
