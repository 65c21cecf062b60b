"""A world of stand-ins with files of some hundred MB; prints its addresses as JSON.

    python ingest_server.py FOLDER

Serves until its standard input ends.
"""

import json
import sys
from pathlib import Path

from em_platform.standins.world import running_world

if __name__ == "__main__":
    with running_world(
        Path(sys.argv[1]), sources=("epfl", "openorganelle"), size="bench"
    ) as world:
        print(json.dumps({"urls": world.urls, "settings": world.settings}), flush=True)
        sys.stdin.read()
