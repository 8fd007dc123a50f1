"""A publisher's site with FastAPI, against an embedded operator."""
