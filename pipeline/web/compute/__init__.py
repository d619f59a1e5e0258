"""Processes that compute for the web app: worker, results, views."""
