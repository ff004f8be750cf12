"""The image's health check: status 0 when the gateway answers /healthz with 200, which says that its loop turns.

    python health.py [PATH]

PATH is another that is asked, such as /readyz; what is answered but 200 is shown.
"""

from __future__ import annotations

import http.client
import os
import sys


def main() -> int:
    port = int(os.environ.get("DROPGATE_PORT") or 8001)
    path = sys.argv[1] if len(sys.argv) > 1 else "/healthz"
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=4)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        body = answer.read().decode(errors="replace").strip()
    except (OSError, http.client.HTTPException) as error:
        print(f"no answer on port {port}: {error}")
        return 1
    finally:
        connection.close()
    well = answer.status == 200
    print(f"{path} answered {answer.status}" + ("" if well else f": {body}"))
    return 0 if well else 1


if __name__ == "__main__":
    sys.exit(main())
