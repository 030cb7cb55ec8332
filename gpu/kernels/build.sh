#!/bin/sh
# build.sh [FILE] makes kernels.ptx, or FILE as seen from this folder, from the sources here. It needs clang 19 alone, no CUDA SDK:
#   apt-get install --no-install-recommends clang-19
# The PTX is part of the repository, and the same clang gives the same bytes in any directory.
set -eu
cd "$(dirname "$0")"
clang=${CLANG:-clang-19}
command -v "$clang" >/dev/null || {
	echo "build.sh: no $clang: apt-get install --no-install-recommends clang-19, or name it in CLANG" >&2
	exit 1
}
version=$("$clang" -dumpversion)
case $version in
19.*) ;;
*)
	echo "build.sh: $clang is version $version, needed is 19: another would give other bytes" >&2
	exit 1
	;;
esac
exec "$clang" -x cuda --cuda-device-only --cuda-gpu-arch=sm_60 -nocudainc -nocudalib -nostdinc \
	-O3 -ffp-contract=off -fno-fast-math -std=c++17 -Wall -Wextra -Werror -S -o "${1:-kernels.ptx}" kernels.cu
