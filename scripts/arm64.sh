#!/usr/bin/env bash
# Runs the tests of the consensus arithmetic as an arm64 program: FMA, exp, log,
# the order of every sum, the golden vectors and the known answer must give the
# same bits there.
#
# An arm64 machine runs them itself, any other under qemu-user (Debian:
# qemu-user-static). Installs nothing: without an emulator it says so and exits
# with 77.
#
# usage: scripts/arm64.sh [test flag ...]     default: the quick tests below
set -euo pipefail
cd "$(dirname "$0")/../nn"

runner=()
if [ "$(uname -m)" != aarch64 ]; then
	runner=("$(command -v qemu-aarch64-static || command -v qemu-aarch64)") || {
		echo "skipped: this is no arm64 machine, and neither qemu-aarch64-static nor qemu-aarch64 is installed"
		exit 77
	}
fi

# Left out are the tests that run the go command, those of engines that arm64
# does not have, and slow comparisons with binary64 that show nothing about bits.
tests='^Test(FMA|Sqrt|Exp|Log|Fold|Sum|ReLU|Pool|Conv|Dense|Loss|Optimizer|Moment|Mean|Argmax|Pixel|NaN|Init|State|Float|Bytes|Merkle|DrawBatch|Golden|KnownAnswer)'
[ $# -gt 0 ] || set -- -test.run "$tests" -test.short -test.v

binary=$(mktemp)
trap 'rm -f "$binary"' EXIT
CGO_ENABLED=0 GOARCH=arm64 go test -c -o "$binary" .
"${runner[@]}" "$binary" "$@" | grep -Ev '^=== |^ +--- PASS'
