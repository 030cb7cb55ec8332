#!/bin/sh
# build-nvml.sh OUT makes the fake libnvidia-ml.so.1. Needs g++ and Go, no CUDA. OUT
# is left alone if it is newer than what it is made of. In the environment: CXX,
# another compiler.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
out=$1
cxx=${CXX:-g++}
command -v "$cxx" >/dev/null || { echo "build-nvml.sh: no $cxx: a C++ compiler is needed (Debian: apt-get install g++)" >&2; exit 1; }
if [ -e "$out" ] && [ -z "$(find "$here/libnvml.cpp" "$here/build-nvml.sh" -newer "$out")" ]; then
	exit 0
fi
module=$(cd "$here" && go list -m -f '{{.Dir}}' github.com/NVIDIA/go-nvml) # where nvml.h is
mkdir -p "$(dirname "$out")"
new=$(mktemp "$out.XXXXXX") started=$(mktemp)
trap 'rm -f "$new" "$started"' EXIT
"$cxx" -std=c++17 -O1 -fPIC -shared -fvisibility=hidden -Wall -Wextra -Wno-deprecated-declarations \
	-Wl,-soname,libnvidia-ml.so.1 -Wl,-z,defs -I"$module/pkg/nvml" "$here/libnvml.cpp" -o "$new"
chmod 755 "$new"
touch -r "$started" "$new" # what changed meanwhile is newer
mv "$new" "$out"
