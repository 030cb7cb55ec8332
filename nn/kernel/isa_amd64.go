package kernel

import "golang.org/x/sys/cpu"

var available = detect()

// detect asks for the instruction sets; x/sys/cpu also checks that the operating system keeps their registers.
func detect() (s []*ISA) {
	if cpu.X86.HasAVX512F && cpu.X86.HasAVX2 && cpu.X86.HasBMI2 && cpu.X86.HasFMA {
		s = append(s, avx512)
	}
	if cpu.X86.HasAVX2 && cpu.X86.HasFMA {
		s = append(s, avx2)
	}
	return s
}

var avx512 = &ISA{
	name:   "avx512",
	lanes:  16,
	narrow: avx2,
	fold: [2][]foldFunc{
		two: {fold1x2AVX512, fold2x2AVX512, fold3x2AVX512, fold4x2AVX512, fold5x2AVX512, fold6x2AVX512, fold7x2AVX512, fold8x2AVX512, fold9x2AVX512, fold10x2AVX512, fold11x2AVX512, fold12x2AVX512, fold13x2AVX512, fold14x2AVX512},
		one: {fold1x1AVX512, fold2x1AVX512, fold3x1AVX512, fold4x1AVX512, fold5x1AVX512, fold6x1AVX512, fold7x1AVX512, fold8x1AVX512, fold9x1AVX512, fold10x1AVX512, fold11x1AVX512, fold12x1AVX512, fold13x1AVX512, fold14x1AVX512},
	},
	foldTail:            []foldTailFunc{fold1xTailAVX512, fold2xTailAVX512, fold3xTailAVX512, fold4xTailAVX512, fold5xTailAVX512, fold6xTailAVX512, fold7xTailAVX512, fold8xTailAVX512, fold9xTailAVX512, fold10xTailAVX512, fold11xTailAVX512, fold12xTailAVX512, fold13xTailAVX512, fold14xTailAVX512},
	foldAdam:            foldAdamAVX512,
	addBias:             [2]biasFunc{addBias2AVX512, addBias1AVX512},
	addBiasTail:         addBiasTailAVX512,
	addBiasReLU:         [2]biasFunc{addBiasReLU2AVX512, addBiasReLU1AVX512},
	addBiasReLUTail:     addBiasReLUTailAVX512,
	sumRows:             [2]sumRowsFunc{sumRows2AVX512, sumRows1AVX512},
	sumRowsTail:         sumRowsTailAVX512,
	maxPool:             [2]maxPoolFunc{maxPool2AVX512, maxPool1AVX512},
	maxPoolTail:         maxPoolTailAVX512,
	maxPoolGradient:     [2]maxPoolGradientFunc{maxPoolGradient2AVX512, maxPoolGradient1AVX512},
	maxPoolGradientTail: maxPoolGradientTailAVX512,
	reluGradient:        reluGradientAVX512,
	add:                 addAVX512,
	adam:                adamAVX512,
	sgd:                 sgdAVX512,
	pixels:              pixelsAVX512,
	transpose8:          transpose8,
	prefetch:            prefetch,
	fmaScalar:           fmaScalar,
	peak:                peakAVX512,
	peakVectors:         24,
}

var avx2 = &ISA{
	name:  "avx2",
	lanes: 8,
	fold: [2][]foldFunc{
		two: {fold1x2AVX2, fold2x2AVX2, fold3x2AVX2, fold4x2AVX2, fold5x2AVX2, fold6x2AVX2},
		one: {fold1x1AVX2, fold2x1AVX2, fold3x1AVX2, fold4x1AVX2, fold5x1AVX2, fold6x1AVX2, fold7x1AVX2, fold8x1AVX2, fold9x1AVX2, fold10x1AVX2, fold11x1AVX2, fold12x1AVX2, fold13x1AVX2},
	},
	foldTail:            []foldTailFunc{fold1xTailAVX2, fold2xTailAVX2, fold3xTailAVX2, fold4xTailAVX2, fold5xTailAVX2, fold6xTailAVX2, fold7xTailAVX2, fold8xTailAVX2, fold9xTailAVX2, fold10xTailAVX2, fold11xTailAVX2, fold12xTailAVX2, fold13xTailAVX2},
	addBias:             [2]biasFunc{addBias2AVX2, addBias1AVX2},
	addBiasTail:         addBiasTailAVX2,
	addBiasReLU:         [2]biasFunc{addBiasReLU2AVX2, addBiasReLU1AVX2},
	addBiasReLUTail:     addBiasReLUTailAVX2,
	sumRows:             [2]sumRowsFunc{sumRows2AVX2, sumRows1AVX2},
	sumRowsTail:         sumRowsTailAVX2,
	maxPool:             [2]maxPoolFunc{maxPool2AVX2, maxPool1AVX2},
	maxPoolTail:         maxPoolTailAVX2,
	maxPoolGradient:     [2]maxPoolGradientFunc{maxPoolGradient2AVX2, maxPoolGradient1AVX2},
	maxPoolGradientTail: maxPoolGradientTailAVX2,
	reluGradient:        reluGradientAVX2,
	add:                 addAVX2,
	adam:                adamAVX2,
	sgd:                 sgdAVX2,
	pixels:              pixelsAVX2,
	transpose8:          transpose8,
	prefetch:            prefetch,
	fmaScalar:           fmaScalar,
	peak:                peakAVX2,
	peakVectors:         12,
}
