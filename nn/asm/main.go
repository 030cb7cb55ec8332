// Command asm writes the vector kernels of package nn/kernel. It is a module of its own, so that avo stays out of the
// daemon's dependencies. Run it with go generate in nn/kernel.
package main

import . "github.com/mmcloughlin/avo/build"

func main() {
	ConstraintExpr("amd64")
	tailMasks()
	for _, s := range []isa{avx512, avx2} {
		for _, p := range panels {
			for rows := 1; rows <= s.maxRows(p); rows++ {
				foldBlock(s, p, rows, false)
			}
		}
		for _, p := range panels {
			addBias(s, p, false)
			addBias(s, p, true)
			sumRows(s, p)
			maxPool(s, p)
			maxPoolGradient(s, p)
		}
		reluGradient(s)
		add(s)
		adam(s)
		sgd(s)
		pixels(s)
		peak(s)
	}
	foldBlock(avx512, panels[0], adamRows, true)
	transpose8()
	prefetch()
	fmaScalar()
	Generate()
}
