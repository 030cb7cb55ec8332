package ptx

import (
	"fmt"
)

// The address spaces. Each is a range of generic addresses of its own, so that conversion between a space's addresses and
// generic ones changes nothing. Every array lies in a slot of its own; what the array does not fill is a gap in which
// accesses fail.
type spaceID byte

const (
	globalSpace spaceID = iota
	sharedSpace
	localSpace
	constSpace
	numSpaces
	genericSpace = numSpaces // one of the above, by the address
)

var spaceNames = [...]string{"global", "shared", "local", "const", "generic"}

const (
	globalBase = 0x7f00_0000_0000
	sharedBase = 0x0100_0000_0000
	localBase  = 0x0200_0000_0000
	constBase  = 0x0300_0000_0000

	globalShift = 33 // log2 of a slot
	smallShift  = 24 // of the other spaces

	maxAlloc = 1 << (globalShift - 1) // half a slot, so that the gap is wider than any 32-bit index
	maxSlots = 1 << 20

	alignment = 256 // of device memory, as of the driver's own
)

// A segment is one array. Its shadow remembers per granule who used it last; see Races.
type segment struct {
	base        uint64
	data        []byte // nil: freed
	size        uint64
	write, read []uint64
}

// Memory is the memory of a device: allocations with gaps between them. The zero Memory is empty and ready. One goroutine
// at a time may use it.
type Memory struct {
	// Limit is the sum of bytes that allocations may have; 0 means none.
	Limit int

	used    int
	segs    []*segment
	modules map[*Module][]uint64 // addresses of the modules' global variables
	phase   uint64               // counts launches, blocks and barriers; see Races
	frames  []uint64             // this and the next two are kept for the next launch
	local   []byte
	next    []int
}

// Alloc returns the address of fresh memory, a multiple of 256. All its bits are set. It fails with ErrOutOfMemory.
func (m *Memory) Alloc(bytes int) (uint64, error) {
	if bytes <= 0 || bytes > maxAlloc || len(m.segs) == maxSlots || m.Limit > 0 && bytes > m.Limit-m.used {
		return 0, fmt.Errorf("%w: %d bytes were asked for, %d of %d are in use", ErrOutOfMemory, bytes, m.used, m.Limit)
	}
	// A multiple of 256 and of nothing more: kernels may not rely on it.
	s := &segment{base: globalBase + uint64(len(m.segs))<<globalShift + alignment, data: make([]byte, bytes), size: uint64(bytes)}
	fill(s.data)
	m.segs = append(m.segs, s)
	m.used += bytes
	return s.base, nil
}

// Free gives back what Alloc returned. Its addresses are not used again, so that later accesses fail.
func (m *Memory) Free(address uint64) error {
	s, _, err := m.find(address, 1)
	if err == nil && s.base != address {
		err = fmt.Errorf("%w: %#x is not where an allocation begins", ErrAddress, address)
	}
	if err != nil {
		return fmt.Errorf("free: %w", err)
	}
	m.used -= len(s.data)
	s.data, s.write, s.read = nil, nil, nil
	return nil
}

// Used is the sum of the bytes of all allocations, the global variables of launched modules among them.
func (m *Memory) Used() int { return m.used }

// Read copies from device memory.
func (m *Memory) Read(dst []byte, src uint64) error {
	if len(dst) == 0 {
		return nil
	}
	s, offset, err := m.find(src, uint64(len(dst)))
	if err != nil {
		return fmt.Errorf("read: %w", err)
	}
	copy(dst, s.data[offset:])
	return nil
}

// Write copies to device memory.
func (m *Memory) Write(dst uint64, src []byte) error {
	if len(src) == 0 {
		return nil
	}
	s, offset, err := m.find(dst, uint64(len(src)))
	if err != nil {
		return fmt.Errorf("write: %w", err)
	}
	copy(s.data[offset:], src)
	return nil
}

// find is the allocation that has all of n bytes, and where in it they begin.
func (m *Memory) find(address, n uint64) (*segment, uint64, error) {
	s := space{base: globalBase, shift: globalShift, segs: m.segs}
	seg, offset := s.find(address, n)
	if seg == nil {
		return nil, 0, fmt.Errorf("%w: %s", ErrAddress, s.explain(address, n))
	}
	return seg, offset, nil
}

// load returns the addresses of the module's global variables, which it allocates and fills the first time.
func (m *Memory) load(mod *Module) ([]uint64, error) {
	if a, ok := m.modules[mod]; ok {
		return a, nil
	}
	addresses := make([]uint64, len(mod.globals))
	for i, v := range mod.globals {
		a, err := m.Alloc(len(v.data))
		if err != nil {
			return nil, fmt.Errorf("global variable %s: %w", v.name, err)
		}
		if err := m.Write(a, v.data); err != nil {
			return nil, err
		}
		addresses[i] = a
	}
	if m.modules == nil {
		m.modules = map[*Module][]uint64{}
	}
	m.modules[mod] = addresses
	return addresses, nil
}

// fill sets all bits.
func fill(b []byte) {
	n := copy(b, "\xff")
	for n < len(b) {
		n += copy(b[n:], b[:n])
	}
}

// A space is an address space as a thread sees it.
type space struct {
	base    uint64
	shift   uint
	segs    []*segment
	tracked bool   // races are looked for
	granule uint   // log2 of the bytes of one entry of a shadow
	since   uint64 // marks from here on are of threads that share this space
}

// find is the segment that has all of n bytes, and where in it they begin; nil if there is none.
func (s *space) find(address, n uint64) (*segment, uint64) {
	slot := (address - s.base) >> s.shift
	if slot >= uint64(len(s.segs)) {
		return nil, 0
	}
	seg := s.segs[slot]
	offset := address - seg.base
	if size := uint64(len(seg.data)); offset >= size || n > size-offset {
		return nil, 0
	}
	return seg, offset
}

// explain says why find found nothing.
func (s *space) explain(address, n uint64) string {
	slot := (address - s.base) >> s.shift
	if slot >= uint64(len(s.segs)) {
		return fmt.Sprintf("%d bytes at %#x are in no array", n, address)
	}
	seg := s.segs[slot]
	state := ""
	if seg.data == nil {
		state = " (freed)"
	}
	return fmt.Sprintf("%d bytes at %#x are not inside the array of %d bytes at %#x%s", n, address, seg.size, seg.base, state)
}

// Races
//
// Every launch, block and barrier begins a new phase, numbered by Memory.phase. Two accesses of one granule by two threads
// race if at least one writes and nothing orders them: the threads are of different blocks of a launch, or no barrier lies
// between. A shadow entry is a mark: the phase, whether threads of more than one block or more than one thread read in it,
// and the thread. As a write that is not a race comes after all accesses before it, the last write and a summary of the
// reads in the last phase are enough to find every race. Marks of earlier launches are smaller than since, so that shadows
// are never cleared.
const (
	markBlocks = 1 << 11 // threads of several blocks
	markMany   = 1 << 10 // several threads
	markShift  = 12
)

// A moment is the mark of the thread that runs, and where the marks of its phase and its block begin.
type moment struct {
	now, phase, block uint64
}

// granules is the range of shadow entries of n bytes at offset. It makes the shadow if need be.
func (s *space) granules(seg *segment, offset, n uint64) (first, last uint64) {
	first, last = offset>>s.granule, (offset+n-1)>>s.granule
	if last >= uint64(len(seg.read)) {
		entries := (len(seg.data)-1)>>s.granule + 1
		seg.write, seg.read = make([]uint64, entries), make([]uint64, entries)
	}
	return first, last
}

// onRead returns the mark of an access with which this read races, or 0.
func (s *space) onRead(seg *segment, offset, n uint64, t *moment) uint64 {
	first, last := s.granules(seg, offset, n)
	for ; first <= last; first++ {
		if w := seg.write[first]; w >= s.since && w != t.now && (w >= t.phase || w < t.block) {
			return w
		}
		r := seg.read[first]
		switch {
		case r >= t.phase:
			if r&^markBlocks != t.now && r&markMany == 0 {
				seg.read[first] = r | markMany
			}
		case r < s.since:
			seg.read[first] = t.now
		case r < t.block:
			seg.read[first] = t.now | markBlocks
		default:
			seg.read[first] = t.now | r&markBlocks
		}
	}
	return 0
}

// onWrite returns the mark of an access with which this write races, or 0.
func (s *space) onWrite(seg *segment, offset, n uint64, t *moment) uint64 {
	first, last := s.granules(seg, offset, n)
	for ; first <= last; first++ {
		if w := seg.write[first]; w >= s.since && w != t.now && (w >= t.phase || w < t.block) {
			return w
		}
		if r := seg.read[first]; r >= s.since && r != t.now && (r >= t.phase || r < t.block || r&markBlocks != 0) {
			return r
		}
		seg.write[first] = t.now
	}
	return 0
}
