package nn

// SampleLoss is the loss of one sample with outputs z and class label. Where grad is given it receives the gradient of
// the batch's mean loss by z.
//
// Softmax cross-entropy: m is the greatest z, e_j = exp(z_j - m), s = fold(e, ones), loss = log(s) - (z_y - m),
// gradient (e_j/s - [j = y]) * (1/batch). Mean squared error: d = z - onehot, loss = fold(d*d, ones)/outputs,
// gradient (d + d) * (1/(outputs*batch)).
func (n *Net) SampleLoss(z []float32, label byte, grad []float32) float32 {
	y := int(label)
	var f Fold
	if n.Model.Loss == MeanSquaredError {
		scale := 1 / float32(n.Outputs*n.Model.Batch)
		for j, v := range z {
			d := v - onehot(j, y)
			f.Add(float32(d*d), 1)
			if grad != nil {
				grad[j] = (d + d) * scale
			}
		}
		return f.Sum() / float32(n.Outputs)
	}
	m := z[0]
	for _, v := range z[1:] {
		if v > m {
			m = v
		}
	}
	var buf [256]float32
	e := buf[:len(z)]
	for j, v := range z {
		e[j] = Exp(v - m)
		f.Add(e[j], 1)
	}
	s := f.Sum()
	if grad != nil {
		scale := 1 / float32(n.Model.Batch)
		for j := range grad {
			grad[j] = (e[j]/s - onehot(j, y)) * scale
		}
	}
	return Log(s) - (z[y] - m)
}

func onehot(j, y int) float32 {
	if j == y {
		return 1
	}
	return 0
}
