#!/usr/bin/env bash
# Kills a mining node at random moments, N times, and checks that nothing it had
# reported is lost: after every start its tip must be at least the last block in
# its log, with no repair in between. At the end `minerd fsck --deep` must find
# no fault, and a fresh node that syncs from it must come to the same tip,
# ledger and model.
#
# usage: scripts/kill-cycles.sh [N]     default 1000; about a second each
#
# A kill leaves what the system has in its caches: what a power cut leaves is
# another matter. MINERD names a binary to use instead of building one; SEED
# repeats the moments of a run.
set -euo pipefail
cd "$(dirname "$0")/.."

cycles=${1:-1000}
seed=${SEED:-$$}
RANDOM=$seed
dir=$(mktemp -d)
pids=()
cleanup() {
	for p in "${pids[@]}"; do kill -9 "$p" 2>/dev/null || true; done
	rm -rf "$dir"
}
trap cleanup EXIT
fail() {
	echo "kill-cycles: FAILED in cycle $cycle (seed $seed): $*" >&2
	tail -n 5 "$dir"/*.log >&2 || true
	exit 1
}

minerd=${MINERD:-$dir/minerd}
[ -n "${MINERD:-}" ] || CGO_ENABLED=0 go build -o "$minerd" ./cmd/minerd

# start NAME FLAG ... runs a node with a log of its own; its process id is in $pid.
start() {
	local name=$1
	shift
	"$minerd" run --network simnet --data-dir "$dir/$name" --mdns=false --listen /ip4/127.0.0.1/tcp/0 \
		--device cpu --threads 1 --log-format json "$@" 2>"$dir/$name.log" &
	pid=$!
	pids=("$pid")
}
# heights EVENT FILE lists the heights of an event in a log.
heights() { sed -n "s/.*\"event\":\"$1\".*\"height\":\([0-9]*\),.*/\1/p" "$2"; }
# await SECONDS COMMAND ... tries a command until it holds.
await() {
	local end=$((SECONDS + $1))
	shift
	until "$@"; do
		[ $SECONDS -lt $end ] || return 1
		sleep 0.1
	done
}

acknowledged=0 early=0 blocks=0 began=$SECONDS
for ((cycle = 1; cycle <= cycles; cycle++)); do
	start node --mine
	# A node is up after some 0.3 s; a quarter of the kills hit it before.
	sleep "$(printf '0.%03d' $((RANDOM % 1000)))"
	kill -9 "$pid" 2>/dev/null || fail "the node ended by itself"
	{ wait "$pid" || true; } 2>/dev/null
	tip=$(heights 'node started' "$dir/node.log")
	if [ -z "$tip" ]; then
		early=$((early + 1))
	elif [ "$tip" -lt "$acknowledged" ]; then
		fail "it starts at height $tip, height $acknowledged was reported before"
	fi
	# Started higher than was reported: a block was kept, and the kill came before its line.
	last=$(heights 'block mined' "$dir/node.log" | tail -n 1)
	blocks=$((blocks + $(heights 'block mined' "$dir/node.log" | wc -l)))
	[ -z "$tip" ] || acknowledged=$tip
	[ -z "$last" ] || acknowledged=$last
	! grep -q '"level":"error"' "$dir/node.log" || fail "the log holds an error"
done
took=$((SECONDS - began))

cycle=end
"$minerd" fsck --network simnet --data-dir "$dir/node" --threads 1 --deep >"$dir/deep.log" || fail "fsck finds faults: $(cat "$dir/deep.log")"

start node
server=$pid
await 20 grep -q '"event":"node started"' "$dir/node.log" || fail "the node does not start"
height=$(heights 'node started' "$dir/node.log")
[ "$height" -ge "$acknowledged" ] || fail "at the end it is at height $height, $acknowledged was reported"
[ "$height" -gt 0 ] || fail "no block was mined"
address=$(sed -n 's/.*"event":"node started".*"addrs":\["\([^"]*\)".*/\1/p' "$dir/node.log")
start fresh --bootstrap "$address"
pids=("$server" "$pid")
caught_up() { [ "$(heights 'block accepted' "$dir/fresh.log" | tail -n 1)" = "$height" ]; }
await 300 caught_up || fail "a fresh node does not come to height $height"
kill "$server" "$pid"
wait "$server" "$pid" || fail "a node ended with an error"
pids=()

for name in node fresh; do
	"$minerd" fsck --network simnet --data-dir "$dir/$name" --threads 1 >"$dir/$name.fsck" || fail "fsck of $name: $(cat "$dir/$name.fsck")"
	grep -E '^(tip|ledger root|model root) ' "$dir/$name.fsck" >"$dir/$name.roots"
done
if [ "$(wc -l <"$dir/node.roots")" != 3 ] || ! cmp -s "$dir/node.roots" "$dir/fresh.roots"; then
	fail "the nodes differ: $(cat "$dir/node.roots" "$dir/fresh.roots")"
fi

echo "kill-cycles: $cycles kills in $took s ($early before the node was up), $height blocks, $blocks of them reported; none lost," \
	"no repair, fsck --deep without faults, a fresh node has the same tip, ledger and model (seed $seed)"
