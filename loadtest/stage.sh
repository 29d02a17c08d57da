#!/usr/bin/env bash
# A stage for load tests: fake upstream, keys, engine and gateway from target/release, everything on
# free ports of the loopback interface and below one temporary directory, gone at the end.
#
# Sourced by the other scripts. Sets STAGE (the directory), GATEWAY_URL, GATEWAY_PID, ADMIN_URL,
# UPSTREAM (host:port) and what `loadtest run --ledger` reads from the environment.

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
BIN=target/release
STAGE=$(mktemp -d)
PIDS=()

end_stage() {
    local pid
    for pid in ${PIDS[@]+"${PIDS[@]}"}; do kill "$pid" 2>/dev/null || true; done
    for pid in ${PIDS[@]+"${PIDS[@]}"}; do wait "$pid" 2>/dev/null || true; done
    PIDS=()
}
trap 'end_stage; rm -rf "$STAGE"' EXIT

# Waits until a file has a line that matches, and prints what the expression's group caught.
await() { # FILE SED-EXPRESSION
    local caught
    for _ in $(seq 300); do
        caught=$(sed -nE "s/$2/\1/p" "$1" 2>/dev/null | head -n 1)
        if [ -n "$caught" ]; then echo "$caught"; return; fi
        sleep 0.1
    done
    echo "nothing in $1 matches $2:" >&2
    cat "$1" >&2
    return 1
}

begin_stage() {
    "$BIN/loadtest" upstream --port 0 >"$STAGE/upstream.log" 2>&1 &
    PIDS+=($!)
    UPSTREAM=$(await "$STAGE/upstream.log" '.*(127\.0\.0\.1:[0-9]+).*')

    mkdir -p "$STAGE/documents"
    sed "s/127\.0\.0\.1:9900/$UPSTREAM/" loadtest/policy/load.toml >"$STAGE/documents/load.toml"
    "$BIN/loadtest" keys --dir "$STAGE" >/dev/null
    export LOADTEST_KEYS_FILE=$STAGE/load.env

    cat >"$STAGE/orbit.toml" <<TOML
[server]
listen = ["127.0.0.1:0"]
[admin]
listen = "127.0.0.1:0"
token_file = "admin.token"
[ingest]
listen = "127.0.0.1:0"
token_file = "ingest.token"
[policy]
paths = ["documents", "policy"]
[limits]
directory = "state"
[journal]
directory = "journal"
[clickhouse]
data = "clickhouse"
http_port = 0
tcp_port = 0
TOML
    start_gateway
}

# shellcheck disable=SC2034 # for the scripts that source this
start_gateway() {
    "$BIN/orbit" gateway --config "$STAGE/orbit.toml" >"$STAGE/gateway.log" 2>&1 &
    GATEWAY_PID=$!
    PIDS+=("$GATEWAY_PID")
    GATEWAY_URL=http://$(await "$STAGE/gateway.log" '.* serving .*proxy=\[([0-9.:]+)\].*')
    ADMIN_URL=http://$(await "$STAGE/gateway.log" '.* serving .*admin=([0-9.:]+).*')
    ORBIT_CLICKHOUSE_URL=$(await "$STAGE/gateway.log" '.*usage database answers url="([^"]+)".*')
    ORBIT_CLICKHOUSE_PASSWORD_FILE=$STAGE/clickhouse/orbit.password
    export ORBIT_CLICKHOUSE_URL ORBIT_CLICKHOUSE_PASSWORD_FILE
    export ORBIT_CLICKHOUSE_USER=orbit ORBIT_CLICKHOUSE_DATABASE=orbit
}
