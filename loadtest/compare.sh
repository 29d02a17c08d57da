#!/usr/bin/env bash
# CPU time per request: Orbit doing its whole job (identity, limits of five levels and a plan, journal,
# shipping) beside a bare pingora proxy with the same threads, timeouts and allocator; five
# alternating rounds, medians. Then a refused request beside an admitted one.
# shellcheck source=loadtest/stage.sh
source "$(dirname "$0")/stage.sh"
begin_stage

mkfifo "$STAGE/hold"
"$BIN/examples/bare_proxy" 127.0.0.1:0 "$UPSTREAM" "$(nproc)" <"$STAGE/hold" >"$STAGE/bare.log" 2>&1 &
BARE_PID=$!
PIDS+=("$BARE_PID")
exec 9>"$STAGE/hold"
BARE_URL=http://$(await "$STAGE/bare.log" '(127\.0\.0\.1:[0-9]+)')

"$BIN/loadtest" compare loadtest/scenarios/max.toml --rounds 5 --duration-s "${SECONDS_EACH:-8}" --max-ratio 1.15 \
    --a-url "$GATEWAY_URL" --a-pid "$GATEWAY_PID" --b-url "$BARE_URL" --b-pid "$BARE_PID" || FAILED=1

for scenario in max refused; do
    "$BIN/loadtest" run "loadtest/scenarios/$scenario.toml" --url "$GATEWAY_URL" --pid "$GATEWAY_PID" \
        --duration-s 5 --quiet --json "$STAGE/$scenario.json" >"$STAGE/$scenario.out" || FAILED=1
done
python3 - "$STAGE/max.json" "$STAGE/refused.json" <<'PY' || FAILED=1
import json, sys
def us(path):
    found = []
    def walk(value, key=""):
        if isinstance(value, dict):
            for k, v in value.items(): walk(v, k)
        elif key == "us_per_answer" and isinstance(value, (int, float)): found.append(value)
    walk(json.load(open(path)))
    return found[0]
admitted, refused = map(us, sys.argv[1:])
print(f"\nadmitted {admitted:.1f} us, refused {refused:.1f} us of CPU a request: ratio {refused / admitted:.2f}")
sys.exit(refused >= admitted)
PY
exit "${FAILED:-0}"
