"""Exit status 0 when a Jupyter server of this container answers, 1 with a line that says why when none does.

Each server writes its address to a file when it starts (jpserver-PID.json): one behind a hub has its own path there.
"""

import glob
import json
import os
import sys
import urllib.request

TIMEOUT = 4  # seconds; Docker's own limit is 5


def main():
    folder = os.environ.get("JUPYTER_RUNTIME_DIR", "/tmp/jupyter-runtime")
    records = sorted(glob.glob(os.path.join(folder, "jpserver-*.json")), key=os.path.getmtime, reverse=True)
    problem = f"no server has written its address to {folder}"
    for record in records:  # the newest first; a killed server leaves its file behind
        try:
            with open(record) as file:
                server = json.load(file)
            address = f"http://127.0.0.1:{server['port']}{server['base_url']}api"
            # No proxy: the server is in this container, whatever the environment says of others.
            opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
            with opener.open(address, timeout=TIMEOUT) as answer:
                json.load(answer)["version"]
            return 0
        except (OSError, ValueError, KeyError) as error:
            problem = f"{os.path.basename(record)}: {error}"
    print(f"not healthy: {problem}")
    return 1


if __name__ == "__main__":
    sys.exit(main())
