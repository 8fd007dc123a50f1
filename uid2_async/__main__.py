"""``python -m uid2_async`` is ``uid2``."""

from uid2_async.cli import main

main()
