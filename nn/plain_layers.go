package nn

// The layers' sums, one function each. In all of them n is the number of samples, x the input, y the output, g the
// gradient by the output; activations are (sample, row, column, channel).

// Forward makes the layer's output y of its input x. params are those of the whole net.
func (l *NetLayer) Forward(n int, x, params, y []float32) {
	w, bias := l.weights(params)
	switch l.Kind {
	case Conv2D:
		convForward(l, n, x, w, bias, y)
	case MaxPool2D:
		poolForward(l, n, x, y)
	case Flatten:
		copy(y, x)
	case Dense:
		denseForward(l, n, x, w, bias, y)
	}
}

// ParamGradient makes the gradients by the layer's parameters, in their place among grads, those of the whole net. g
// has passed the layer's ReLU.
func (l *NetLayer) ParamGradient(n int, x, g, grads []float32) {
	dw, dbias := l.weights(grads)
	switch l.Kind {
	case Conv2D:
		convWeightGradient(l, n, x, g, dw, dbias)
	case Dense:
		denseWeightGradient(l, n, x, g, dw, dbias)
	}
}

// InputGradient makes the gradient dx by the layer's input. g has passed the layer's ReLU.
func (l *NetLayer) InputGradient(n int, x, g, params, dx []float32) {
	w, _ := l.weights(params)
	switch l.Kind {
	case Conv2D:
		convInputGradient(l, n, g, w, dx)
	case MaxPool2D:
		poolInputGradient(l, n, x, g, dx)
	case Flatten:
		copy(dx, g)
	case Dense:
		denseInputGradient(l, n, g, w, dx)
	}
}

// convForward: y = fold over the patch in order (kernel row, kernel column, input channel) + bias, then activation.
// What lies outside the input is +0 and a term like any other.
func convForward(l *NetLayer, n int, x, w, bias, y []float32) {
	at := 0
	for b := range n {
		for row := range l.Out.Rows {
			for col := range l.Out.Cols {
				for o := range l.Units {
					var f Fold
					for r := range l.KernelRows {
						for s := range l.KernelCols {
							for c := range l.In.Channels {
								f.Add(l.input(x, b, row*l.Stride-l.PadTop+r, col*l.Stride-l.PadLeft+s, c), w[l.tap(r, s, c, o)])
							}
						}
					}
					y[at] = l.activate(f.Sum() + bias[o])
					at++
				}
			}
		}
	}
}

// input is the value of sample b at (row, col, channel), +0 outside.
func (l *NetLayer) input(x []float32, b, row, col, c int) float32 {
	if row < 0 || row >= l.In.Rows || col < 0 || col >= l.In.Cols {
		return 0
	}
	return x[((b*l.In.Rows+row)*l.In.Cols+col)*l.In.Channels+c]
}

// tap is the index of the weight (kernel row, kernel column, input channel, output channel).
func (l *NetLayer) tap(r, s, c, o int) int {
	return ((r*l.KernelCols+s)*l.In.Channels+c)*l.Units + o
}

func (l *NetLayer) activate(x float32) float32 {
	if l.Activation == ReLU && !(x > 0) {
		return 0
	}
	return x
}

// convWeightGradient: folds over samples and output positions; the row-major positions of one sample are cut into
// blocks, no block holds two samples.
func convWeightGradient(l *NetLayer, n int, x, g, dw, dbias []float32) {
	overPositions := func(o int, value func(b, row, col int) float32) float32 {
		var f Fold
		for b := range n {
			for row := range l.Out.Rows {
				for col := range l.Out.Cols {
					f.Add(value(b, row, col), g[((b*l.Out.Rows+row)*l.Out.Cols+col)*l.Units+o])
				}
			}
			f.EndBlock()
		}
		return f.Sum()
	}
	for o := range l.Units {
		for r := range l.KernelRows {
			for s := range l.KernelCols {
				for c := range l.In.Channels {
					dw[l.tap(r, s, c, o)] = overPositions(o, func(b, row, col int) float32 {
						return l.input(x, b, row*l.Stride-l.PadTop+r, col*l.Stride-l.PadLeft+s, c)
					})
				}
			}
		}
		dbias[o] = overPositions(o, func(int, int, int) float32 { return 1 })
	}
}

// convInputGradient: fold over all (kernel row, kernel column, output channel); a tap that met no output position has
// the gradient +0 and is a term like any other.
func convInputGradient(l *NetLayer, n int, g, w, dx []float32) {
	at := 0
	for b := range n {
		for y := range l.In.Rows {
			for x := range l.In.Cols {
				for c := range l.In.Channels {
					var f Fold
					for r := range l.KernelRows {
						for s := range l.KernelCols {
							for o := range l.Units {
								f.Add(l.outputGradient(g, b, y+l.PadTop-r, x+l.PadLeft-s, o), w[l.tap(r, s, c, o)])
							}
						}
					}
					dx[at] = f.Sum()
					at++
				}
			}
		}
	}
}

// outputGradient is the gradient at output position (row/Stride, col/Stride), +0 where that is none.
func (l *NetLayer) outputGradient(g []float32, b, row, col, o int) float32 {
	if row < 0 || col < 0 || row%l.Stride != 0 || col%l.Stride != 0 {
		return 0
	}
	row, col = row/l.Stride, col/l.Stride
	if row >= l.Out.Rows || col >= l.Out.Cols {
		return 0
	}
	return g[((b*l.Out.Rows+row)*l.Out.Cols+col)*l.Units+o]
}

// poolWinner is the index into x of the window's best: it starts as the first element in (row, column) order and is
// replaced if and only if a later one is greater.
func (l *NetLayer) poolWinner(x []float32, b, row, col, c int) int {
	best := -1
	for r := range l.KernelRows {
		for s := range l.KernelCols {
			i := ((b*l.In.Rows+row*l.KernelRows+r)*l.In.Cols+col*l.KernelCols+s)*l.In.Channels + c
			if best < 0 || x[i] > x[best] {
				best = i
			}
		}
	}
	return best
}

func (l *NetLayer) eachPool(n int, do func(at, b, row, col, c int)) {
	at := 0
	for b := range n {
		for row := range l.Out.Rows {
			for col := range l.Out.Cols {
				for c := range l.Out.Channels {
					do(at, b, row, col, c)
					at++
				}
			}
		}
	}
}

func poolForward(l *NetLayer, n int, x, y []float32) {
	l.eachPool(n, func(at, b, row, col, c int) { y[at] = x[l.poolWinner(x, b, row, col, c)] })
}

// poolInputGradient: the gradient goes to the winner alone; all others have +0.
func poolInputGradient(l *NetLayer, n int, x, g, dx []float32) {
	l.eachPool(n, func(at, b, row, col, c int) { dx[l.poolWinner(x, b, row, col, c)] = g[at] })
}

// denseForward: y = fold over inputs + bias, then activation.
func denseForward(l *NetLayer, n int, x, w, bias, y []float32) {
	k := l.In.Size()
	for b := range n {
		for o := range l.Units {
			var f Fold
			for i := range k {
				f.Add(x[b*k+i], w[i*l.Units+o])
			}
			y[b*l.Units+o] = l.activate(f.Sum() + bias[o])
		}
	}
}

// denseWeightGradient: folds over the batch.
func denseWeightGradient(l *NetLayer, n int, x, g, dw, dbias []float32) {
	k := l.In.Size()
	for o := range l.Units {
		for i := range k {
			var f Fold
			for b := range n {
				f.Add(x[b*k+i], g[b*l.Units+o])
			}
			dw[i*l.Units+o] = f.Sum()
		}
		var f Fold
		for b := range n {
			f.Add(g[b*l.Units+o], 1)
		}
		dbias[o] = f.Sum()
	}
}

// denseInputGradient: fold over outputs.
func denseInputGradient(l *NetLayer, n int, g, w, dx []float32) {
	k := l.In.Size()
	for b := range n {
		for i := range k {
			var f Fold
			for o := range l.Units {
				f.Add(g[b*l.Units+o], w[i*l.Units+o])
			}
			dx[b*k+i] = f.Sum()
		}
	}
}
