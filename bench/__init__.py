"""Measurements of the program: scores here, times and memory in the wings."""
