#!/usr/bin/env bash
# Fails if the compiler fused a multiply and an add in consensus code.
#
# Go may contract x*y + z into one instruction with one rounding where the
# target has it: arm64 always, amd64 from GOAMD64=v3. That changes the bits of a
# result, and with them the state root, on those machines alone. Consensus code
# must say float32(x*y) + z; this script reads the compiler's own listing for
# both targets and names each function in which a fused instruction is left.
#
# Assembly is not in that listing, so the kernels, which mean their FMA, pass.
#
# usage: nofma.sh [package pattern ...]     default: the consensus packages
set -euo pipefail
cd "$(dirname "$0")/.."

# listing GOARCH [pattern ...]: the compiler's assembly listing.
# Go keeps it in the build cache, so an unchanged package costs nothing.
listing() { GOARCH=$1 GOAMD64=v3 CGO_ENABLED=0 go build -gcflags=-S "${@:2}" 2>&1; }

# fused: the fused instructions in a listing, each with function and line.
# Exits 3 if the listing holds no function at all, since then nothing was checked.
fused() {
	awk -F'\t' '
		/ STEXT / { split($0, f, " "); name = f[1]; functions++ }
		/^\t0x/ && $3 ~ /^(FN?M(ADD|SUB)[SD]|VFN?M(ADD|SUB|ADDSUB|SUBADD)[0-9]+[PS][SD])$/ {
			where = $2; sub(/^.*\(/, "", where); sub(/\).*$/, "", where)
			print name ": " $3 " at " where
		}
		END { if (!functions) exit 3 }' | sort -u
}

# The check checks itself first: it must see the fusion it looks for, and
# must not see one where the conversion forbids it.
selftest() {
	local dir=$1 arch out
	mkdir -p "$dir"
	printf 'module scratch\n\ngo 1.26\n' >"$dir/go.mod"
	cat >"$dir/scratch.go" <<-'GO'
		package scratch

		func Fused32(x, y, z float32) float32 { return x*y + z }
		func Fused64(x, y, z float64) float64 { return x*y + z }
		func Split32(x, y, z float32) float32 { return float32(x*y) + z }
		func Split64(x, y, z float64) float64 { return float64(x*y) + z }
	GO
	for arch in arm64 amd64; do
		out=$(cd "$dir" && listing $arch . | fused)
		if [ "$(cut -d: -f1 <<<"$out" | sort -u | paste -sd' ')" != "scratch.Fused32 scratch.Fused64" ]; then
			printf 'nofma: on %s the self-test should find Fused32 and Fused64 alone, found:\n%s\n' $arch "$out" >&2
			return 1
		fi
	done
}

tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
selftest "$tmp/scratch"

[ $# -gt 0 ] || set -- ./nn/... ./chain/... ./dataset/...
bad=0
for arch in arm64 amd64; do
	listing $arch "$@" >"$tmp/listing" || { echo "nofma: does not build for $arch:" && grep -v '^	' "$tmp/listing"; exit 1; } >&2
	found=$(fused <"$tmp/listing") || { echo "nofma: no function of $* was compiled for $arch" >&2; exit 1; }
	if [ -n "$found" ]; then
		printf 'fused on %s:\n%s\n' $arch "$found"
		bad=1
	else
		echo "$arch: no fused multiply-add in $(grep -c ' STEXT ' "$tmp/listing") functions"
	fi
done
exit $bad
