#!/usr/bin/env python3
"""A receiver of webhooks that has its bad moments, and checks every signature by an implementation
that is not ours: the package standardwebhooks.

Of each delivery that arrives whole a line of JSON goes to the log before it is answered: what the
package said of its signature, its id, its body, and what was done about it (ok, error, stall, close).
May be killed at any time and started again with the same arguments.

    usage: receiver.py --port N --secret-file FILE --log FILE --seed N [--trouble 0.35]
"""

import argparse
import http.server
import json
import os
import pathlib
import random
import shutil
import subprocess
import sys
import threading
import time

HERE = pathlib.Path(__file__).resolve().parent
REPOSITORY = HERE.parent.parent.parent
# Longer than the gateway waits.
STALL_S = 3


def enter_environment():
    """Goes on in the virtual environment with the pinned package; made when it is not there."""
    place = REPOSITORY / "target" / "webhooks"
    if pathlib.Path(sys.prefix).resolve() == place.resolve():
        return
    requirements = (HERE / "requirements.txt").read_text()
    made = place / "requirements.txt"
    if not made.exists() or made.read_text() != requirements:
        shutil.rmtree(place, ignore_errors=True)
        subprocess.run([sys.executable, "-m", "venv", place], check=True)
        install = [place / "bin" / "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*install, "-r", HERE / "requirements.txt"], check=True)
        # Last: an installation that broke off is made again.
        made.write_text(requirements)
    python = str(place / "bin" / "python")
    os.execv(python, [python, __file__, *sys.argv[1:]])


def handler(webhook, log, trouble, chance):
    from standardwebhooks import WebhookVerificationError

    lock = threading.Lock()

    def act():
        with lock:
            if chance.random() >= trouble:
                return "ok"
            return chance.choice(["error", "error", "stall", "close"])

    class Receiver(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"])).decode()
            fields = {name.lower(): value for name, value in self.headers.items()}
            did = act()
            line = {"id": fields.get("webhook-id"), "did": did, "body": None, "wrong": None}
            try:
                webhook.verify(body, fields)
                line["body"] = json.loads(body)
            except (WebhookVerificationError, ValueError) as error:
                line["wrong"] = f"{type(error).__name__}: {error}"
            # One write, so that a kill leaves a line whole or not there.
            os.write(log, (json.dumps(line) + "\n").encode())
            if did == "stall":
                time.sleep(STALL_S)
            if did in ("stall", "close"):
                self.close_connection = True
                return
            self.send_response(204 if did == "ok" else 500)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_):
            pass

    return Receiver


class Server(http.server.ThreadingHTTPServer):
    # Many deliveries begin at once when it was away.
    request_queue_size = 128


def main():
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--port", type=int, required=True)
    arguments.add_argument("--secret-file", type=pathlib.Path, required=True)
    arguments.add_argument("--log", type=pathlib.Path, required=True)
    arguments.add_argument("--seed", type=int, required=True)
    arguments.add_argument("--trouble", type=float, default=0.35)
    arguments = arguments.parse_args()
    enter_environment()
    from standardwebhooks import Webhook

    webhook = Webhook(arguments.secret_file.read_text().strip())
    log = os.open(arguments.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    # Another start has other troubles.
    chance = random.Random(f"{arguments.seed} {os.fstat(log).st_size}")
    kind = handler(webhook, log, arguments.trouble, chance)
    Server(("127.0.0.1", arguments.port), kind).serve_forever()


if __name__ == "__main__":
    main()
