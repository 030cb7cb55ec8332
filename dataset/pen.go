package dataset

import (
	"math/bits"
	"math/rand/v2"
)

const (
	side = 28  // pixels per row and column
	one  = 256 // a pixel's side in the fixed point of all lengths below
)

// point is a place in the image in 1/256 pixel, or in a glyph on the grid of glyphs.go or in 1/256 of its units.
type point struct{ x, y int64 }

// pen draws one sample after another, in 64-bit integers on every machine.
type pen struct {
	random rand.ChaCha8
	near   [side * side]int64 // least squared distance of each pixel's centre to the figure being drawn
	path   []point
	warp   [4][4]point // displacements on a lattice over the glyph's box
	m      [2][2]int64 // glyph to image, in units of 1/65536
	centre point
	reach  int64 // from the middle of a stroke to where its soft edge ends
}

// below is uniform over 0..n-1: the high half of n times an output of the generator, drawn again where the low half
// says that the value would come up once too often (Lemire 2019).
func (p *pen) below(n int64) int64 {
	for {
		hi, lo := bits.Mul64(p.random.Uint64(), uint64(n))
		if lo >= -uint64(n)%uint64(n) {
			return int64(hi)
		}
	}
}

// between is uniform over lo..hi.
func (p *pen) between(lo, hi int64) int64 { return lo + p.below(hi-lo+1) }

// place chooses how the next glyph is turned, sheared, scaled, shifted, warped and how thick it is.
func (p *pen) place() {
	h := p.between(minHeight, maxHeight) * 65536 / (glyphHeight * one)
	w := h * p.between(minWidth, maxWidth) / 100
	shear := p.between(-maxShear, maxShear)
	a := p.between(-maxTurn, maxTurn)
	// Taylor's polynomials: up to maxTurn the first term left out is below 1/65536.
	sin := a - a*a/65536*a/65536/6
	cos := 65536 - a*a/65536/2 + a*a/65536*a/65536*a/65536/24
	p.m = [2][2]int64{
		{cos * w / 65536, (cos*shear/65536*h - sin*h) / 65536},
		{sin * w / 65536, (sin*shear/65536*h + cos*h) / 65536},
	}
	p.centre = point{side*one/2 + p.between(-maxShift, maxShift), side*one/2 + p.between(-maxShift, maxShift)}
	for i := range p.warp {
		for j := range p.warp[i] {
			p.warp[i][j] = point{p.between(-maxWarp, maxWarp), p.between(-maxWarp, maxWarp)}
		}
	}
	p.reach = p.between(minRadius, maxRadius) + one/2
}

// glyph draws a digit with the placing chosen last.
func (p *pen) glyph(strokes []stroke, pixels []byte) {
	p.start()
	for _, s := range strokes {
		p.spline(s)
		for i, q := range p.path {
			p.path[i] = p.toImage(q)
		}
		p.trace()
	}
	p.ink(p.between(minInk, 255), pixels)
}

// toImage warps and places a point of a glyph.
func (p *pen) toImage(q point) point {
	const cellX, cellY = glyphWidth * one / 3, glyphHeight * one / 3
	i, j := min(max(q.y/cellY, 0), 2), min(max(q.x/cellX, 0), 2)
	u, v := (q.y-i*cellY)*256/cellY, (q.x-j*cellX)*256/cellX
	lerp := func(a, b, c, d int64) int64 { return ((a*(256-v)+b*v)*(256-u) + (c*(256-v)+d*v)*u) / 65536 }
	a, b, c, d := p.warp[i][j], p.warp[i][j+1], p.warp[i+1][j], p.warp[i+1][j+1]
	x := q.x + lerp(a.x, b.x, c.x, d.x) - glyphWidth*one/2
	y := q.y + lerp(a.y, b.y, c.y, d.y) - glyphHeight*one/2
	return point{p.centre.x + (p.m[0][0]*x+p.m[0][1]*y)/65536, p.centre.y + (p.m[1][0]*x+p.m[1][1]*y)/65536}
}

// clutter draws a stray stroke: short, thin and straight.
func (p *pen) clutter(pixels []byte) {
	p.start()
	p.reach = p.between(minRadius*2/3, minRadius) + one/2
	a := point{p.below(side * one), p.below(side * one)}
	b := point{a.x + p.between(-5*one, 5*one), a.y + p.between(-5*one, 5*one)}
	p.path = append(p.path[:0], a, b)
	p.trace()
	p.ink(p.between(minInk/2, minInk), pixels)
}

// spline sets the path to points along the Catmull-Rom curve through the stroke's points.
func (p *pen) spline(s stroke) {
	const pieces = 6
	p.path = p.path[:0]
	for k := range len(s) - 1 {
		p0, p1, p2, p3 := s[max(k-1, 0)], s[k], s[k+1], s[min(k+2, len(s)-1)]
		for j := range int64(pieces) {
			p.path = append(p.path, point{catmullRom(p0.x, p1.x, p2.x, p3.x, j, pieces), catmullRom(p0.y, p1.y, p2.y, p3.y, j, pieces)})
		}
	}
	end := s[len(s)-1]
	p.path = append(p.path, point{end.x * one, end.y * one})
}

// catmullRom is the curve at t = j/n between b and c, times 256.
func catmullRom(a, b, c, d, j, n int64) int64 {
	sum := 2*b*n*n*n + (c-a)*j*n*n + (2*a-5*b+4*c-d)*j*j*n + (3*b-a-3*c+d)*j*j*j
	return sum * one / (2 * n * n * n)
}

// start begins a figure of one ink.
func (p *pen) start() {
	for i := range p.near {
		p.near[i] = 1 << 60
	}
}

// trace lowers near along the path, out to where the stroke's edge ends.
func (p *pen) trace() {
	for i := range len(p.path) - 1 {
		a, b := p.path[i], p.path[i+1]
		d := point{b.x - a.x, b.y - a.y}
		dd := d.x*d.x + d.y*d.y
		x0, x1 := max((min(a.x, b.x)-p.reach)/one, 0), min((max(a.x, b.x)+p.reach)/one, side-1)
		y0, y1 := max((min(a.y, b.y)-p.reach)/one, 0), min((max(a.y, b.y)+p.reach)/one, side-1)
		for y := y0; y <= y1; y++ {
			for x := x0; x <= x1; x++ {
				w := point{x*one + one/2 - a.x, y*one + one/2 - a.y}
				t := w.x*d.x + w.y*d.y
				var far int64 // squared distance
				switch {
				case t <= 0:
					far = w.x*w.x + w.y*w.y
				case t >= dd:
					far = (w.x-d.x)*(w.x-d.x) + (w.y-d.y)*(w.y-d.y)
				default:
					cross := w.x*d.y - w.y*d.x
					far = cross * cross / dd
				}
				if near := &p.near[y*side+x]; far < *near {
					*near = far
				}
			}
		}
	}
}

// ink darkens the pixels near the figure: fully inside it, falling to nothing over the pixel at its edge.
func (p *pen) ink(level int64, pixels []byte) {
	for i, near := range p.near {
		if near >= p.reach*p.reach {
			continue
		}
		cover := min(p.reach-squareRoot(near), one)
		pixels[i] = max(pixels[i], byte(level*cover/one))
	}
}

// squareRoot is the integer part of the root of n >= 0, by Newton's method from above.
func squareRoot(n int64) int64 {
	if n < 2 {
		return n
	}
	r := int64(1) << ((bits.Len64(uint64(n)) + 1) / 2)
	for {
		next := (r + n/r) / 2
		if next >= r {
			return r
		}
		r = next
	}
}
