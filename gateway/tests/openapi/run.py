#!/usr/bin/env python3
"""Holds a running gateway to its own document, gateway/openapi/tenant.json.

Starts a whole `orbit up` on free ports, lets a tenant make requests, and has schemathesis ask
everything the document describes and much that it does not. Ends with a line of results as cargo's.

    usage: run.py [--orbit target/debug/orbit] [--seed N] [--seconds N]
"""

import argparse
import http.server
import json
import os
import pathlib
import random
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
import xml.etree.ElementTree as xml

HERE = pathlib.Path(__file__).resolve().parent
REPOSITORY = HERE.parent.parent.parent
# Whose keys they are, and who is below it.
TENANTS = ["acme-retail", "acme-marketing", "acme-web", "acme-stores"]
# With ten questions a second for each, more than schemathesis asks.
KEYS = 60
BOUND_S = 60


def tools():
    """The virtual environment with the pinned schemathesis; made when it is not there."""
    requirements = (HERE / "requirements.txt").read_text()
    place = REPOSITORY / "target" / "openapi"
    made = place / "requirements.txt"
    if not made.exists() or made.read_text() != requirements:
        shutil.rmtree(place, ignore_errors=True)
        subprocess.run([sys.executable, "-m", "venv", place], check=True)
        install = [place / "bin" / "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*install, "-r", HERE / "requirements.txt"], check=True)
        # Last: an installation that broke off is made again.
        made.write_text(requirements)
    return place / "bin" / "schemathesis"


class Hello(http.server.BaseHTTPRequestHandler):
    """An upstream."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", "5")
        self.end_headers()
        self.wfile.write(b"hello")

    def log_message(self, *_):
        pass


def upstream():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hello)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return f"127.0.0.1:{server.server_port}"


def prepare(home, orbit):
    """The example configuration with keys of our own. Returns the keys."""
    policy = home / "policy"
    policy.mkdir()
    address = upstream()
    for file in (REPOSITORY / "config" / "policy").glob("*.toml"):
        text = file.read_text().replace("127.0.0.1:8090", address)
        (policy / file.name).write_text(text)
    shutil.copy(REPOSITORY / "config" / "orbit.toml", home)
    keys = []
    with open(policy / "keys.toml", "w") as file:
        for _ in range(KEYS):
            command = [orbit, "key", "new", "--env", "test", "--tenant", TENANTS[0]]
            told = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            keys.append(re.search(r"^orb_\S+$", told, re.MULTILINE)[0])
            file.write(told[told.index("[[key]]"):] + "\n")
    return keys


def start(home, orbit):
    """A running gateway and its base URL."""
    command = [orbit, "up", "--config", home / "orbit.toml", "--data", home / "data"]
    for listen in ("--listen", "--admin-listen", "--ingest-listen", "--demo-listen"):
        command += [listen, "127.0.0.1:0"]
    command += ["--http-port", "0", "--tcp-port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    # Its log matters when it ends early; read, so that it never waits for us.
    log = []
    threading.Thread(target=lambda: log.extend(process.stderr), daemon=True).start()
    base = None
    for line in process.stdout:
        found = re.search(r"proxy (http://[^,\s/]+)", line)
        base = found[1] if found else base
        if "Ctrl-C stops everything" in line:
            threading.Thread(target=process.stdout.read, daemon=True).start()
            return process, base
    process.wait()
    sys.exit("orbit up ended before it served:\n" + "".join(log))


def get(url, key):
    request = urllib.request.Request(url, headers={"X-Api-Key": key})
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def use(base, keys):
    """Requests and refusals, until the gateway tells of both: answers then have rows."""
    for number in range(40):
        get(f"{base}/crm/{number}", keys[number % len(keys)])
    get(f"{base}/ai/chat", keys[0])
    for endpoint in ("usage", "refusals"):
        deadline = time.monotonic() + BOUND_S
        for key in keys * 1000:
            if '"rows":[{' in get(f"{base}/orbit/v1/{endpoint}", key)[1]:
                break
            if time.monotonic() > deadline:
                sys.exit(f"there is no {endpoint} after {BOUND_S} s")
            time.sleep(0.1)


def check(base, keys, home, seed, seconds):
    """Runs schemathesis. Returns its exit status and how many tests passed and failed."""
    report = home / "report.xml"
    command = [tools(), "--config-file", HERE / "schemathesis.toml", "run"]
    command += [f"{base}/orbit/v1/openapi.json", "--checks", "all", "--mode", "all"]
    command += ["--phases", "examples,coverage,fuzzing", "--max-examples", "100"]
    command += ["--seed", str(seed), "--max-time", str(seconds), "--workers", "2"]
    command += ["--request-timeout", "20", "--continue-on-failure", "--no-color"]
    command += ["--generation-database", "none", "--suppress-health-check", "all"]
    command += ["--report", "junit", "--report-junit-path", report]
    environment = {**os.environ, "ORBIT_KEYS": " ".join(keys), "PYTHONPATH": str(HERE)}
    answers = home / "answers.json"
    environment |= {"ORBIT_TENANTS": " ".join(TENANTS), "ORBIT_ANSWERS": str(answers)}
    environment |= {"ORBIT_SEED": str(seed), "SCHEMATHESIS_HOOKS": "hooks"}
    # That examples are drawn one by one is schemathesis's own affair.
    environment["PYTHONWARNINGS"] = "ignore"
    status = subprocess.run(command, env=environment, cwd=home).returncode
    cases = list(xml.parse(report).iter("testcase")) if report.exists() else []
    bad = sum(case.find("failure") is not None or case.find("error") is not None for case in cases)
    return status, len(cases) - bad, bad + unasked(answers)


def unasked(answers):
    """How many answers never came that should have; told one by one."""
    answers = json.loads(answers.read_text()) if answers.exists() else {}
    for answer, count in sorted(answers.items()):
        print(f"{count:6} x {answer}")
    missing = [
        f"{endpoint} {status}"
        for endpoint in ("usage", "limits", "refusals")
        for status in (200, 400, 401, 404, 405)
        if f"/orbit/v1/{endpoint} {status}" not in answers
    ]
    for answer in missing:
        print(f"never answered: {answer}")
    return len(missing)


def main():
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--orbit", type=pathlib.Path, default=REPOSITORY / "target/debug/orbit")
    arguments.add_argument("--seed", type=int, default=random.randrange(1 << 32))
    arguments.add_argument("--seconds", type=int, default=60)
    arguments = arguments.parse_args()
    orbit = arguments.orbit.resolve()
    tools()
    with tempfile.TemporaryDirectory(prefix="orbit-openapi-") as home:
        home = pathlib.Path(home)
        keys = prepare(home, orbit)
        process, base = start(home, orbit)
        try:
            use(base, keys)
            print(f"schemathesis, seed {arguments.seed}", flush=True)
            outcome = check(base, keys, home, arguments.seed, arguments.seconds)
        finally:
            process.terminate()
            process.wait()
    status, passed, failed = outcome
    failed += status != 0 and failed == 0
    verdict = "ok" if failed == 0 and passed > 0 and process.returncode == 0 else "FAILED"
    if verdict == "FAILED" and failed == 0:
        failed = 1
    print(f"test result: {verdict}. {passed} passed; {failed} failed", flush=True)
    sys.exit(verdict != "ok")


if __name__ == "__main__":
    main()
