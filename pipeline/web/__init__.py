"""Web app: a small server, a page and one process that computes.

Begin reading at `pipeline.web.app`.
"""
