"""Execution of cases: executors, clusters, interruption, the lock of a folder."""
