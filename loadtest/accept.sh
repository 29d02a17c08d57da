#!/usr/bin/env bash
# The load tests that say whether the edge keeps its promises; each ends with a verdict, and the
# script fails when one of them does. About half an hour.
#
#   accept.sh             all of them
#   accept.sh limits      every level of the tree at three times its limit, 20 s over 64 connections
#   accept.sh fairness    three tenants share a limit, one is greedy: 30 s, then 30 s with two idle
#   accept.sh reload      200 reloads at full speed: no failure, no refill, p99 within twice
#   accept.sh catalogue   100 000 tenants and 300 000 keys come into force under load
#   accept.sh ledger      500 000 requests of every kind, compared with ClickHouse to the unit
#   accept.sh outage      ClickHouse is away for OUTAGE_S seconds (600) at 5 000 requests a second:
#                         no client notices, and it catches up five times faster than it fell behind
#   accept.sh disk        the journal's disk is full, for both settings of journal.on_full (root)
#   accept.sh power       the machine loses power: what is lost is little, and said (root)
#   accept.sh quota       a monthly quota is used up while the gateway is killed: it ends exact
#   accept.sh alerts      1 000 crossings of quotas are told under one id each, while the gateway and
#                         the receiver are killed (needs python3)
#   accept.sh ingest      a million events while the gateway is killed twenty times
# shellcheck source=loadtest/stage.sh
source "$(dirname "$0")/stage.sh"
# shellcheck disable=SC2317 # the functions are called by name

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

fairness() {
    local others
    for others in greedy idle; do
        verdict "fairness, $others" "$BIN/loadtest" run "loadtest/scenarios/fairness-$others.toml" \
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

# These build a stage of their own.
outage() {
    verdict "long outage" "$BIN/loadtest" outage loadtest/scenarios/served.toml \
        --orbit "$BIN/orbit" --rate 5000 --outage-s "${OUTAGE_S:-600}" --quiet
}

disk() {
    local on_full
    for on_full in refuse serve_unmetered; do
        verdict "full disk, $on_full" "$BIN/loadtest" disk loadtest/scenarios/served.toml \
            --orbit "$BIN/orbit" --rate 3000 --on-full "$on_full" --quiet
    done
}

power() {
    local again
    for again in 1 2 3; do
        verdict "power loss $again" "$BIN/loadtest" power loadtest/scenarios/chaos.toml \
            loadtest/scenarios/chaos-h2.toml --orbit "$BIN/orbit" --quiet
    done
}

quota() {
    verdict "quota under a kill" "$BIN/loadtest" quota loadtest/scenarios/quota.toml \
        --orbit "$BIN/orbit" --quiet
}

alerts() {
    verdict "alerts under kills" "$BIN/loadtest" alerts --orbit "$BIN/orbit" --quiet
}

# shellcheck disable=SC2016 # the variables are the ones `kills` sets
ingest() {
    verdict "ingest under kills" "$BIN/loadtest" kills --orbit "$BIN/orbit" --quiet \
        --kills 20 --every-s 0.35 -- sh -c '"$0" ingest --url "$ORBIT_INGEST_URL" --quiet \
        --token-file "$ORBIT_INGEST_TOKEN_FILE" --tenant load --events 1000000 --batch 10 \
        --clients 4' "$BIN/loadtest"
}

[ $# -gt 0 ] || set -- limits fairness reload catalogue ledger outage disk power ingest quota alerts
for part in "$@"; do
    case $part in
    outage | disk | power | ingest | quota | alerts) end_stage ;;
    *) [ ${#PIDS[@]} -gt 0 ] || begin_stage ;;
    esac
    "$part"
done
exit "${FAILED:-0}"
