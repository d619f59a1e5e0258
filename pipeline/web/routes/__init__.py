"""Routes of the web app: pages, cases, uploads, lists."""
