"""Simulation of many patients on 1 to 64 GPUs."""
