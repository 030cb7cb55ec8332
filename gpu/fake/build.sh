#!/bin/sh
# build.sh OUT makes the fake libcuda.so.1 from the kernels' source. Needs g++ and
# Go, no CUDA. OUT is left alone if it is newer than all that it is made of.
#
# In the environment: CXX, another compiler; KERNELS, another folder with
# kernels.cu and entries.h.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
out=$1
kernels=${KERNELS:-$here/../kernels}
cxx=${CXX:-g++}
command -v "$cxx" >/dev/null || { echo "build.sh: no $cxx: a C++ compiler is needed (Debian: apt-get install g++)" >&2; exit 1; }
if [ -e "$out" ] && [ -z "$(find "$here" "$kernels" -newer "$out" \( -name '*.[ch]pp' -o -name '*.cu' -o -name '*.cuh' -o -name '*.h' -o -name build.sh \))" ]; then
	exit 0
fi
root=$here/../..
"$root/scripts/cuda.sh" env >/dev/null # which makes cuda.h
case $("$cxx" -dumpmachine) in
x86_64*) machine=-mfma ;; # the fused multiply-add as an instruction
*) machine= ;;
esac
mkdir -p "$(dirname "$out")"
new=$(mktemp "$out.XXXXXX") started=$(mktemp)
trap 'rm -f "$new" "$started"' EXIT
# No operation may be contracted or reordered. UNROLL is a hint for other compilers.
"$cxx" -std=c++17 -O3 ${machine:+"$machine"} -ffp-contract=off -fno-fast-math -fno-strict-aliasing -fPIC -shared -fvisibility=hidden \
	-Wall -Wextra -Wno-unknown-pragmas -Wl,-soname,libcuda.so.1 -Wl,-z,defs \
	-I"$kernels" -I"$root/bin/cuda/include" "$here/libcuda.cpp" "$here/host.cpp" -o "$new"
chmod 755 "$new"
touch -r "$started" "$new" # what changed meanwhile is newer
mv "$new" "$out"
