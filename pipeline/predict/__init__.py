"""Prediction of one case: networks, windows, engines, memory."""
