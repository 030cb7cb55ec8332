package ptx

import (
	"fmt"
	"slices"
)

// A launch runs the blocks of one kernel one after the other, and the threads of a block in turn from barrier to barrier.
type launch struct {
	k      *kernel
	mem    *Memory
	spaces [numSpaces]space
	moment
	grid, dims, id [3]int   // id of the block that runs
	next           []int    // of every thread: the instruction where it goes on, or ended
	frames         []uint64 // of all threads, one after the other
	frame          int      // length of one
	template       []uint64 // a frame at the block's beginning, without the thread's id
	tid            [3]int   // frame indices of %tid.x, y and z, or -1
	local          []byte   // of all threads
	fault          error    // why the thread stopped
}

// Launch runs a kernel on every thread of the grid and returns when all have ended. args has one value per parameter, of
// which a narrower type has the low bits. An error names the kernel and, where a thread is at fault, the block, the thread
// and the line; memory is then as the threads before it left it.
func (m *Module) Launch(mem *Memory, kernel string, grid, block [3]int, args []uint64, order Order) error {
	l, err := m.prepare(mem, kernel, grid, block, args)
	if err == nil {
		err = l.run(order)
	}
	if err != nil {
		return fmt.Errorf("kernel %s: %w", kernel, err)
	}
	return nil
}

func (m *Module) prepare(mem *Memory, name string, grid, block [3]int, args []uint64) (*launch, error) {
	k := m.kernels[name]
	if k == nil {
		return nil, fmt.Errorf("%w: there is no such kernel", ErrLaunch)
	}
	if len(args) != len(k.params) {
		return nil, fmt.Errorf("%w: %d arguments for %d parameters", ErrLaunch, len(args), len(k.params))
	}
	if err := k.check(grid, block); err != nil {
		return nil, err
	}
	globals, err := mem.load(m)
	if err != nil {
		return nil, err
	}
	n := block[0] * block[1] * block[2]
	l := &launch{k: k, mem: mem, grid: grid, dims: block, frame: k.regs + len(k.presets)}
	mem.frames = slices.Grow(mem.frames[:0], n*l.frame)[:n*l.frame]
	mem.local = slices.Grow(mem.local[:0], n*k.local)[:n*k.local]
	mem.next = slices.Grow(mem.next[:0], n)[:n]
	l.frames, l.local, l.next = mem.frames, mem.local, mem.next

	l.template = make([]uint64, l.frame)
	for i := range k.regs {
		l.template[i] = ^uint64(0)
	}
	for i, p := range k.presets {
		switch v := &l.template[k.regs+i]; p.kind {
		case immediate:
			*v = p.value
		case parameter:
			*v = args[p.value] & k.params[p.value].mask()
		case globalAddress:
			*v = globals[p.value]
		}
	}

	mem.phase++
	since := mem.phase << markShift
	l.spaces[globalSpace] = space{base: globalBase, shift: globalShift, segs: mem.segs, tracked: true, granule: k.granule[globalSpace], since: since}
	shared := space{base: sharedBase, shift: smallShift, tracked: true, granule: k.granule[sharedSpace], since: since}
	for i, a := range k.shared {
		shared.segs = append(shared.segs, &segment{base: slot(sharedBase, i, a.align), data: make([]byte, a.size), size: uint64(a.size)})
	}
	l.spaces[sharedSpace] = shared
	constants := space{base: constBase, shift: smallShift}
	for _, v := range m.consts {
		constants.segs = append(constants.segs, &segment{base: v.address, data: v.data, size: uint64(len(v.data))})
	}
	l.spaces[constSpace] = constants
	l.spaces[localSpace] = space{base: localBase, shift: smallShift}
	if k.local > 0 {
		l.spaces[localSpace].segs = []*segment{{base: k.localAt, size: uint64(k.local)}}
	}
	return l, nil
}

// check compares the sizes of a launch with the kernel's and the devices' limits.
func (k *kernel) check(grid, block [3]int) error {
	for i, limit := range [3]int{1<<31 - 1, 1<<16 - 1, 1<<16 - 1} {
		if grid[i] < 1 || grid[i] > limit {
			return fmt.Errorf("%w: grid %v", ErrLaunch, grid)
		}
	}
	if blocks := grid[0] * grid[1]; blocks > maxBlocks || blocks*grid[2] > maxBlocks {
		return fmt.Errorf("%w: grid %v has more blocks than this interpreter's %d", ErrLaunch, grid, maxBlocks)
	}
	threads := 1
	for i, limit := range [3]int{maxThreads, maxThreads, 64} {
		if block[i] < 1 || block[i] > limit {
			return fmt.Errorf("%w: block %v", ErrLaunch, block)
		}
		threads *= block[i]
	}
	limit := maxThreads
	if k.maxntid[0] > 0 {
		limit = min(limit, k.maxntid[0]*k.maxntid[1]*k.maxntid[2])
	}
	if threads > limit || k.reqntid && block != k.maxntid {
		return fmt.Errorf("%w: block %v, but the kernel is made for %v", ErrLaunch, block, k.maxntid)
	}
	return nil
}

// run runs all blocks.
func (l *launch) run(order Order) error {
	l.tid = [3]int{-1, -1, -1}
	for i, p := range l.k.presets {
		if p.kind == special && p.value < 3 {
			l.tid[p.value] = l.k.regs + i
		}
	}
	threads := make([]int32, len(l.next))
	perm := order.permuter()
	perm.first(threads)
	blocks := make([]int32, l.grid[0]*l.grid[1]*l.grid[2])
	perm.first(blocks)
	for _, b := range blocks {
		l.id = position(int(b), l.grid)
		l.begin()
		if err := l.runBlock(threads, &perm); err != nil {
			return err
		}
	}
	return nil
}

// position is the i-th place of a box whose first coordinate runs fastest.
func position(i int, box [3]int) [3]int {
	return [3]int{i % box[0], i / box[0] % box[1], i / box[0] / box[1]}
}

// begin makes frames, shared and local memory ready for the next block.
func (l *launch) begin() {
	l.mem.phase++
	l.block = l.mem.phase << markShift
	l.phase = l.block
	shared := &l.spaces[sharedSpace]
	shared.since = l.block
	for _, s := range shared.segs {
		fill(s.data)
	}
	fill(l.local)
	values := [12]int{3: l.dims[0], l.dims[1], l.dims[2], l.id[0], l.id[1], l.id[2], l.grid[0], l.grid[1], l.grid[2]}
	for i, p := range l.k.presets {
		if p.kind == special {
			l.template[l.k.regs+i] = uint64(values[p.value])
		}
	}
	for t := range l.next {
		l.next[t] = 0
		frame := l.frames[t*l.frame : (t+1)*l.frame]
		copy(frame, l.template)
		place := position(t, l.dims)
		for i, at := range l.tid {
			if at >= 0 {
				frame[at] = uint64(place[i])
			}
		}
	}
}

// runBlock runs the threads from barrier to barrier until all have ended.
func (l *launch) runBlock(order []int32, perm *permuter) error {
	local := &l.spaces[localSpace]
	for {
		first := int(order[0])
		for _, t := range order {
			t := int(t)
			l.now = l.phase | uint64(t)
			if l.k.local > 0 {
				local.segs[0].data = l.local[t*l.k.local : (t+1)*l.k.local]
			}
			pc := l.step(l.next[t], l.frames[t*l.frame:(t+1)*l.frame])
			if l.fault != nil {
				return fmt.Errorf("block %v thread %v line %d: %w", l.id, position(t, l.dims), l.k.code[pc].line, l.fault)
			}
			l.next[t] = pc
			if at := l.next[first]; pc != at {
				return fmt.Errorf("block %v: %w: thread %v %s, thread %v %s", l.id, ErrDivergence,
					position(first, l.dims), l.whereabouts(at), position(t, l.dims), l.whereabouts(pc))
			}
		}
		if l.next[first] == ended {
			return nil
		}
		l.mem.phase++
		l.phase = l.mem.phase << markShift
		perm.next(order)
	}
}

// ended is the pc of a thread that has returned.
const ended = -1

func (l *launch) whereabouts(pc int) string {
	if pc == ended {
		return "has ended"
	}
	return fmt.Sprintf("waits in line %d", l.k.code[pc-1].line)
}

// resolve is the space of a generic address, or the space itself.
func (l *launch) resolve(id spaceID, address uint64) *space {
	if id != genericSpace {
		return &l.spaces[id]
	}
	switch {
	case address >= globalBase:
		id = globalSpace
	case address >= constBase:
		id = constSpace
	case address >= localBase:
		id = localSpace
	default:
		id = sharedSpace
	}
	return &l.spaces[id]
}

// load returns the bytes that an instruction reads, or nil and sets the fault.
func (l *launch) load(in *instr, address uint64) []byte {
	n := uint64(in.bytes) * uint64(in.count)
	s := l.resolve(in.space, address)
	seg, offset := s.find(address, n)
	if seg == nil || address&(n-1) != 0 {
		return l.bad(s, seg, "load", address, n)
	}
	if s.tracked {
		if mark := s.onRead(seg, offset, n, &l.moment); mark != 0 {
			return l.race("load", address, n, mark)
		}
		if in.constant {
			for g := offset >> s.granule; g <= (offset+n-1)>>s.granule; g++ {
				if seg.write[g] >= s.since {
					l.fault = fmt.Errorf("%w: ld.global.nc at %#x of what this launch wrote", ErrRace, address)
					return nil
				}
			}
		}
	}
	return seg.data[offset : offset+n]
}

// store returns the bytes that an instruction writes, or nil and sets the fault.
func (l *launch) store(in *instr, address uint64) []byte {
	n := uint64(in.bytes) * uint64(in.count)
	s := l.resolve(in.space, address)
	seg, offset := s.find(address, n)
	if seg == nil || address&(n-1) != 0 || s.base == constBase {
		return l.bad(s, seg, "store", address, n)
	}
	if s.tracked {
		if mark := s.onWrite(seg, offset, n, &l.moment); mark != 0 {
			return l.race("store", address, n, mark)
		}
	}
	return seg.data[offset : offset+n]
}

func (l *launch) bad(s *space, seg *segment, what string, address, n uint64) []byte {
	switch {
	case seg == nil:
		l.fault = fmt.Errorf("%w: %s: %s", ErrAddress, what, s.explain(address, n))
	case address&(n-1) != 0:
		l.fault = fmt.Errorf("%w: %s of %d bytes at %#x", ErrMisaligned, what, n, address)
	default:
		l.fault = fmt.Errorf("%w: %s to constant memory at %#x", ErrAddress, what, address)
	}
	return nil
}

// race sets the fault of an access that races with the one of the mark.
func (l *launch) race(what string, address, n, mark uint64) []byte {
	other := "a thread of another block used"
	switch {
	case mark >= l.block && mark&markBlocks == 0 && mark&markMany == 0:
		other = fmt.Sprintf("thread %v used since the last barrier", position(int(mark&(maxThreads-1)), l.dims))
	case mark >= l.block && mark&markBlocks == 0:
		other = "several threads used since the last barrier"
	}
	l.fault = fmt.Errorf("%w: %s of %d bytes at %#x, which %s", ErrRace, what, n, address, other)
	return nil
}
