#!/usr/bin/env bash
# The load tests that say whether the edge keeps its promises; each ends with a verdict, and the
# script fails when one of them does. About ten minutes.
#
#   accept.sh             all of them
#   accept.sh limits      every level of the tree at three times its limit, 20 s over 64 connections
#   accept.sh reload      200 reloads at full speed: no failure, no refill, p99 within twice
#   accept.sh ledger      500 000 requests of every kind, compared with ClickHouse to the unit
# shellcheck source=loadtest/stage.sh
source "$(dirname "$0")/stage.sh"
# shellcheck disable=SC2317 # the functions are called by name
begin_stage

verdict() { # NAME COMMAND...
    local name=$1
    shift
    echo "=== $name"
    if "$@" >"$STAGE/report" 2>&1; then echo "=== $name: ok"; else
        FAILED=1
        echo "=== $name: FAILED"
    fi
    cat "$STAGE/report"
}

limits() {
    local level
    for level in key team department business-unit subsidiary holding plan; do
        verdict "limit at $level" "$BIN/loadtest" run "loadtest/scenarios/limit-$level.toml" \
            --url "$GATEWAY_URL" --quiet
    done
}

reload() {
    verdict "reloads" "$BIN/loadtest" reload loadtest/scenarios/reload.toml --url "$GATEWAY_URL" \
        --policy-dir "$STAGE/documents" --admin-url "$ADMIN_URL" --token-file "$STAGE/admin.token" \
        --times 200 --quiet
}

ledger() {
    verdict "ledger" "$BIN/loadtest" run loadtest/scenarios/mixed.toml --url "$GATEWAY_URL" \
        --ledger --quiet
}

[ $# -gt 0 ] || set -- limits reload ledger
for part in "$@"; do
    "$part"
done
exit "${FAILED:-0}"
