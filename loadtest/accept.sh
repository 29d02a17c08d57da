#!/usr/bin/env bash
# The load tests that say whether the edge keeps its promises; each ends with a verdict, and the
# script fails when one of them does. About ten minutes.
#
#   accept.sh             all of them
#   accept.sh limits      every level of the tree at three times its limit, 20 s over 64 connections
#   accept.sh reload      200 reloads at full speed: no failure, no refill, p99 within twice
#   accept.sh catalogue   100 000 tenants and 300 000 keys come into force under load
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

# Documents of 100 000 tenants in holdings of a hundred, three keys each.
large_catalogue() {
    awk 'BEGIN { for (t = 0; t < 100000; t++) {
        printf "[[tenant]]\nid = \"tenant-%06d\"\n", t
        if (t % 100) printf "parent = \"tenant-%06d\"\n", t - t % 100; else print "plan = \"load\""
        print "limits = [{ name = \"requests\", rate = 100, per = \"second\" }]\n"
        for (k = 0; k < 3; k++)
            printf "[[key]]\nid = \"k%09d\"\ntenant = \"tenant-%06d\"\nhash = \"sha256:%064d\"\n\n", t * 3 + k, t, k
    } }'
}

catalogue() {
    large_catalogue >"$STAGE/large.toml"
    { sleep 6; mv "$STAGE/large.toml" "$STAGE/documents/large.toml"; } &
    verdict "catalogue under load" "$BIN/loadtest" run loadtest/scenarios/max.toml \
        --url "$GATEWAY_URL" --rate 6000 --duration-s 15 --quiet
    local took_ms
    took_ms=$(await "$STAGE/gateway.log" '.*tenants=100[0-9]{3} .*took_ms=([0-9]+).*')
    echo "100 000 tenants and 300 000 keys in force after $took_ms ms"
    [ "$took_ms" -lt 3000 ] || FAILED=1
    rm "$STAGE/documents/large.toml"
}

ledger() {
    verdict "ledger" "$BIN/loadtest" run loadtest/scenarios/mixed.toml --url "$GATEWAY_URL" \
        --ledger --quiet
}

[ $# -gt 0 ] || set -- limits reload catalogue ledger
for part in "$@"; do
    "$part"
done
exit "${FAILED:-0}"
