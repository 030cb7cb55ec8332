package dataset

import (
	"encoding/binary"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
)

// SyntheticCount is the number of samples of a task on built-in digits.
const SyntheticCount = 12000

// SyntheticSplit is the split of a task on built-in digits.
var SyntheticSplit = Split{Train: Range{0, 8000}, Evaluation: Range{8000, 10000}, Test: Range{10000, 12000}}

// Synthetic draws n grey images of 28x28 pixels of the handwritten digits 0 to 9, with their labels. Sample i depends
// on the seed and on i alone, and all arithmetic is on integers, so that every machine draws the same bytes. It panics
// unless n is at least 1 and the files stay within MaxBytes.
func Synthetic(seed uint64, n int) *Data { return synthetic(seed, n, runtime.GOMAXPROCS(0)) }

func synthetic(seed uint64, n, threads int) *Data {
	if n < 1 || n > (MaxBytes-16-8)/(side*side+1) {
		panic(fmt.Sprintf("dataset: %d synthetic digits asked for", n))
	}
	d := &Data{
		rows: side, cols: side, channels: 1, count: n,
		images: append(appendHeader(nil, n, side, side), make([]byte, n*side*side)...),
		labels: append(appendHeader(nil, n), make([]byte, n)...),
	}
	s := d.Samples(0, n)
	const chunk = 64
	var next atomic.Int64
	var wg sync.WaitGroup
	for range threads {
		wg.Go(func() {
			var p pen
			for {
				hi := int(next.Add(chunk))
				if hi-chunk >= n {
					return
				}
				for i := hi - chunk; i < min(hi, n); i++ {
					s.Labels[i] = p.draw(seed, uint64(i), s.Pixels[i*s.Size:(i+1)*s.Size])
				}
			}
		})
	}
	wg.Wait()
	return d
}

// appendHeader appends the header of an IDX file of unsigned bytes.
func appendHeader(b []byte, dims ...int) []byte {
	b = binary.BigEndian.AppendUint32(b, uint32(ubyteMagic+len(dims)))
	for _, n := range dims {
		b = binary.BigEndian.AppendUint32(b, uint32(n))
	}
	return b
}

// How much the samples differ: chosen by measuring, so that a linear classifier gets about three in four right, and a
// small convolutional network needs 350 to 400 steps of 32 samples to 90 % and gets to 98 %.
const (
	minHeight, maxHeight = 15 * one, 21 * one // of a glyph
	maxShift             = 3 * one            // of its centre, each axis
	maxTurn              = 17000              // radians/65536: 15 degrees
	maxShear             = 20000              // /65536
	minWidth, maxWidth   = 75, 120            // percent of the upright form
	maxWarp              = 10 * one           // grid units
	minRadius, maxRadius = 150, 330           // half a stroke's thickness
	minInk               = 170                // of 255
	maxClutter           = 2                  // stray strokes
	maxNoise             = 40                 // grey levels
)

// draw fills the pixels of sample i and returns its label. All its draws come in order from the ChaCha8 stream under
// the 16 bytes "synthetic digits", the seed and i, both little-endian.
func (p *pen) draw(seed, i uint64, pixels []byte) byte {
	var key [32]byte
	copy(key[:], "synthetic digits")
	binary.LittleEndian.PutUint64(key[16:], seed)
	binary.LittleEndian.PutUint64(key[24:], i)
	p.random.Seed(key)
	clear(pixels)
	label := p.below(int64(len(glyphs)))
	for range p.below(maxClutter + 1) {
		p.clutter(pixels)
	}
	variants := glyphs[label]
	p.place()
	p.glyph(variants[p.below(int64(len(variants)))], pixels)
	p.noise(pixels)
	return byte(label)
}

// noise adds to each pixel the difference of two uniform values, scaled to at most maxNoise grey levels either way.
func (p *pen) noise(pixels []byte) {
	for i := 0; i < len(pixels); i += 4 {
		x := p.random.Uint64()
		for j := range 4 {
			d := int(x>>(16*j)&255) - int(x>>(16*j+8)&255)
			pixels[i+j] = byte(min(max(int(pixels[i+j])+d*maxNoise/255, 0), 255))
		}
	}
}
