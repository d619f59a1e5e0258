"""The web app: a small server, a page and one process that computes. `pipeline.web.app` is where to begin."""
