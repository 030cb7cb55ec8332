package nn

// momentCut is the magnitude below which a moment becomes +0: dead units would leave subnormals behind, which slow a
// CPU down for ever.
const momentCut = 0x1p-96

// AdamStep holds the numbers that all parameters share in one step of Adam.
type AdamStep struct{ OneMinusBeta1, OneMinusBeta2, Alpha, Epsilon float32 }

// Adam advances the state's scalars by one step and gives that step's numbers: p1 = p1*b1, p2 = p2*b2,
// alpha = (lr*sqrt(1 - p2))/(1 - p1).
func (o *Optimizer) Adam(s *State) AdamStep {
	s.Steps++
	// The conversions keep a compiler from fusing these products into the subtractions below.
	s.P1 = float32(s.P1 * o.Beta1)
	s.P2 = float32(s.P2 * o.Beta2)
	return AdamStep{
		OneMinusBeta1: 1 - o.Beta1,
		OneMinusBeta2: 1 - o.Beta2,
		Alpha:         float32(o.LearningRate*sqrt(1-s.P2)) / (1 - s.P1),
		Epsilon:       o.Epsilon,
	}
}

// Update takes one step with the gradients of all parameters.
func (o *Optimizer) Update(s *State, grads []float32) {
	switch o.Kind {
	case Adam:
		c := o.Adam(s)
		for i, g := range grads {
			s.Params[i], s.First[i], s.Second[i] = c.update(s.Params[i], s.First[i], s.Second[i], g)
		}
	case SGD:
		s.Steps++
		for i, g := range grads {
			s.Params[i], s.First[i] = o.sgd(s.Params[i], s.First[i], g)
		}
	}
}

// update is Adam as Keras writes it, for one parameter.
func (c *AdamStep) update(w, m, v, g float32) (float32, float32, float32) {
	m += float32((g - m) * c.OneMinusBeta1)
	v += float32((float32(g*g) - v) * c.OneMinusBeta2)
	if m < momentCut && m > -momentCut {
		m = 0
	}
	if v < momentCut {
		v = 0
	}
	w -= float32(m*c.Alpha) / (sqrt(v) + c.Epsilon)
	return w, m, v
}

// sgd is gradient descent with momentum, neither Nesterov's nor dampened, for one parameter.
func (o *Optimizer) sgd(w, u, g float32) (float32, float32) {
	u = float32(u*o.Momentum) - float32(g*o.LearningRate)
	if u < momentCut && u > -momentCut {
		u = 0
	}
	return w + u, u
}
