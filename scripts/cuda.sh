#!/usr/bin/env bash
# Builds minerd with the CUDA engine. Needs a C compiler; neither the CUDA SDK nor
# a driver nor a GPU: the driver is opened when the program runs.
#
# cgo needs two things that NVIDIA's packages would bring, and this script makes
# them in bin/cuda: the header cuda.h, from the text that the module
# gorgonia.org/cu carries, and an empty libcuda.a, since that module links with
# -lcuda while gpu/internal/driver defines the functions.
#
# usage: scripts/cuda.sh                     builds bin/minerd-cuda
#        scripts/cuda.sh test [argument ...] tests against a driver made of the kernels' source
#                                            (needs g++); arguments are those of go test
#        scripts/cuda.sh env                 prints what a plain `go build -tags cuda ./cmd/minerd`
#                                            needs: eval "$(scripts/cuda.sh env)"
#        scripts/cuda.sh symbols             prints what gpu/internal/driver/symbols.h should be
set -euo pipefail
cd "$(dirname "$0")/.."
driver=gpu/internal/driver
made=$PWD/bin/cuda

die() { echo "cuda.sh: $*" >&2; exit 1; }

# compiler NAME PACKAGE: a clear word where cgo would only say "not found in PATH".
compiler() { command -v "${1%% *}" >/dev/null || die "no compiler $1: the CUDA engine needs one (Debian: apt-get install $2), or name yours in CC and CXX"; }

header() {
	go mod download gorgonia.org/cu
	local source
	source=$(go list -m -f '{{.Dir}}' gorgonia.org/cu)/cmd/genlib/cuda.h
	mkdir -p "$made/include" "$made/lib"
	# The text has been through the preprocessor: it begins with the C library's own
	# declarations, which are left out here, and has lost include guard and macros.
	{
		echo '// Made by scripts/cuda.sh from gorgonia.org/cu/cmd/genlib/cuda.h.'
		echo '#pragma once'
		echo '#include <stdint.h>'
		echo '#include <stdlib.h>'
		echo '#define CUDA_VERSION 11000'
		echo '#define CU_TRSF_READ_AS_INTEGER 0x01'
		echo '#define CU_TRSF_NORMALIZED_COORDINATES 0x02'
		cat $driver/versions.h
		printf '#ifdef __cplusplus\nextern "C" {\n#endif\n'
		sed -n '/^typedef uint32_t cuuint32_t;/,$p' "$source"
		printf '#ifdef __cplusplus\n}\n#endif\n'
	} | replace "$made/include/cuda.h"
	grep -q '^CUresult cuInit(' "$made/include/cuda.h" || die "$source is not what it was in v0.9.6"
	printf '!<arch>\n' | replace "$made/lib/libcuda.a"
}

# replace FILE: with standard input, all at once, for builds side by side; a file
# that would stay the same keeps its time.
replace() {
	local new
	new=$(mktemp "$1.XXXXXX")
	cat >"$new"
	chmod 644 "$new"
	if cmp -s "$new" "$1"; then rm "$new"; else mv "$new" "$1"; fi
}

# Our folders come first, lest a libcuda.so of an installed SDK be linked. The module
# go-nvml leaves its functions open until they are called, so they must not be bound
# at the start, as some compilers have it; it also wraps all that NVML calls deprecated.
environment() {
	echo "export CGO_ENABLED=1"
	echo "export CGO_CFLAGS='-O2 \"-I$made/include\" -Wno-deprecated-declarations'"
	echo "export CGO_LDFLAGS='\"-L$made/lib\" -Wl,-z,lazy'"
}

compiler "$(go env CC)" "gcc libc6-dev"
header
eval "$(environment)"
case ${1:-build} in
build)
	go build -tags cuda -trimpath -ldflags "-X main.version=${VERSION:-dev}" -o bin/minerd-cuda ./cmd/minerd
	! readelf -d bin/minerd-cuda 2>/dev/null | grep -q 'libcuda' || die "bin/minerd-cuda would not start without libcuda.so.1"
	;;
test)
	shift
	compiler "$(go env CXX)" g++
	gpu/fake/build.sh "$made/fake/libcuda.so.1"
	[ $# -gt 0 ] || set -- ./gpu ./gpu/internal/driver
	# Between two barriers the threads of a block may run in any order.
	for order in forward backward shuffled; do
		echo "threads $order"
		CUDA_DRIVER=$made/fake/libcuda.so.1 FAKECUDA_ORDER=$order go test -count=1 -tags cuda "$@"
	done
	;;
env) environment ;;
symbols)
	export LC_ALL=C
	archive=$(go list -export -f '{{.Export}}' gorgonia.org/cu)
	echo '// Written by scripts/cuda.sh symbols: what gorgonia.org/cu wants of the driver, but cuInit.'
	# Its own C files call each other under such names too.
	comm -23 <(nm -u "$archive" 2>/dev/null | awk '$1 == "U" && $2 ~ /^cu[A-Z]/ && $2 != "cuInit" { print $2 }' | LC_ALL=C sort -u) \
		<(nm --defined-only "$archive" 2>/dev/null | awk '$2 == "T" { print $3 }' | LC_ALL=C sort -u) | sed 's/.*/SYMBOL(&)/'
	;;
*) die "no such word: $1" ;;
esac
