package ptx

import (
	"encoding/binary"
	"math/bits"
	"strconv"
	"strings"
)

// Limits of a module: those of devices, or what keeps a bad text from taking memory.
const (
	maxRegisters = 1 << 14 // of a kernel, and so many presets
	maxShared    = 48 << 10
	maxConst     = 64 << 10
	maxLocal     = 64 << 10
	maxGlobal    = 16 << 20 // of a module's variables
	maxArrays    = 1 << 10  // of a kernel's shared memory
	maxThreads   = 1024     // of a block
	maxBlocks    = 1 << 24  // of a launch
)

// presetFlag marks a frame index as one of a preset until the number of registers is known.
const presetFlag = 1 << 15

// scratch is the number of registers at the beginning of a frame that the decoder uses inside an instruction.
const scratch = 3

// Parse reads and checks a module. Errors have the line.
func Parse(text string) (*Module, error) {
	p := &parser{lexer: lexer{text: text, at: 1}, mod: &Module{kernels: map[string]*kernel{}}, symbols: map[string]symbol{}}
	p.next()
	for p.tok != "" {
		p.directive()
	}
	if p.err != nil {
		return nil, p.err
	}
	return p.mod, nil
}

type parser struct {
	lexer
	mod                     *Module
	symbols                 map[string]symbol // of the module
	constBytes, globalBytes int

	// of the kernel being read
	k         *kernel
	names     map[string]symbol // parameters and arrays
	shared    int               // bytes
	registers int               // used now; the kernel's own number is the most there ever were
	scopes    []map[string]register
	labels    map[string]int
	jumps     []jump
	presetAt  map[preset]uint16
	sharedAt  map[string]uint64
	start     int // line of the statement being read
}

// A symbol is a variable, array or parameter.
type symbol struct {
	space   symbolSpace
	value   uint64 // parameter or global: its index; const or local: its address
	array   sharedArray
	element typ // of a parameter
}

type symbolSpace byte

const (
	paramSymbol symbolSpace = iota
	globalSymbol
	constSymbol
	sharedSymbol
	localSymbol
)

// A register, or a range of count registers with a number after the name.
type register struct {
	typ
	first, count int
	ranged       bool
}

type jump struct {
	instr int
	label string
	line  int
}

// directive reads one directive of the module.
func (p *parser) directive() {
	switch p.tok {
	case ".version":
		p.next()
		if major, _, ok := strings.Cut(p.word(), "."); !ok || p.number(major, 99) == 0 {
			p.fail(ErrSyntax, "a version looks like 5.0")
		}
	case ".target":
		p.next()
		if target := p.word(); !strings.HasPrefix(target, "sm_") || p.tok == "," {
			p.fail(ErrUnknown, "target %s", target)
		}
	case ".address_size":
		p.next()
		if size := p.word(); size != "64" {
			p.fail(ErrUnknown, "addresses of %s bits", size)
		}
	case ".visible", ".weak":
		p.next()
	case ".global", ".const", ".shared":
		p.variable()
	case ".entry":
		p.entry()
	case ".func", ".extern":
		p.fail(ErrUnknown, "%s: everything must be inlined and defined here", p.tok)
	default:
		p.fail(ErrUnknown, "directive %q", p.tok)
	}
}

// number is a whole number from 0 to limit.
func (p *parser) number(s string, limit int) int {
	n, err := parseUint(s)
	if err != nil || n > uint64(limit) {
		p.fail(ErrSyntax, "%q is not a number from 0 to %d", s, limit)
		return 0
	}
	return int(n)
}

// parseUint reads a number as C writes it; Go's underscores are none of it.
func parseUint(s string) (uint64, error) {
	if strings.Contains(s, "_") {
		return 0, strconv.ErrSyntax
	}
	return strconv.ParseUint(s, 0, 64)
}

func (p *parser) typeWord() typ {
	word := p.word()
	t, ok := types[strings.TrimPrefix(word, ".")]
	if !ok || word[0] != '.' {
		p.unknownType(word)
		return typ{'b', 32}
	}
	return t
}

func (p *parser) unknownType(word string) {
	switch name := strings.TrimPrefix(word, "."); {
	case len(name) > 1 && (name[0] == 'f' || strings.HasPrefix(name, "bf") || strings.HasPrefix(name, "tf") || name[0] == 'e'):
		p.fail(ErrForbidden, "type %q: f32 is the only float type", word)
	default:
		p.fail(ErrUnknown, "type %q", word)
	}
}

// variable reads an array or scalar in a memory space, with the initial values of a module's one.
func (p *parser) variable() {
	spaceWord := p.word()
	align := 0
	if p.accept(".align") {
		if align = p.number(p.word(), 256); bits.OnesCount(uint(align)) != 1 {
			p.fail(ErrSyntax, "an alignment is a power of two")
			return
		}
	}
	t := p.typeWord()
	if t.kind == 'p' {
		p.fail(ErrSyntax, "a predicate in memory")
		return
	}
	width := t.bits / 8
	align = max(align, width)
	name := p.word()
	count := 1
	if p.accept("[") {
		count = p.number(p.word(), maxGlobal/width)
		p.expect("]")
	}
	size := count * width
	if size == 0 {
		p.fail(ErrUnknown, "%s has no bytes", name)
		return
	}
	s := symbol{array: sharedArray{name, size, align}}
	var limit int
	var total *int
	switch spaceWord {
	case ".global":
		s.space, s.value, limit, total = globalSymbol, uint64(len(p.mod.globals)), maxGlobal, &p.globalBytes
	case ".const":
		s.space, s.value, limit, total = constSymbol, slot(constBase, len(p.mod.consts), align), maxConst, &p.constBytes
	case ".shared":
		s.space = sharedSymbol
	case ".local":
		if p.k.local != 0 {
			p.fail(ErrUnknown, "a second local array")
			return
		}
		s.space, s.value, limit, total = localSymbol, slot(localBase, 0, align), maxLocal, &p.k.local
		p.k.localAt = s.value
	default:
		p.fail(ErrUnknown, "space %s", spaceWord)
		return
	}
	if total != nil {
		if *total += size; *total > limit {
			p.fail(ErrUnknown, "more than %d bytes of %s memory", limit, spaceWord)
			return
		}
	}
	var data []byte
	if s.space == globalSymbol || s.space == constSymbol {
		data = make([]byte, size)
	}
	if p.accept("=") {
		if data == nil {
			p.fail(ErrSyntax, "initial values in %s memory", spaceWord)
			return
		}
		p.initial(t, count, data)
	}
	p.expect(";")
	if p.err != nil {
		return
	}
	switch s.space {
	case globalSymbol:
		p.mod.globals = append(p.mod.globals, variable{name: name, data: data})
	case constSymbol:
		p.mod.consts = append(p.mod.consts, variable{name, data, s.value})
	}
	if p.k != nil {
		p.declare(p.names, name, s)
	} else {
		p.declare(p.symbols, name, s)
	}
}

func (p *parser) declare(table map[string]symbol, name string, s symbol) {
	if _, ok := table[name]; ok {
		p.fail(ErrSyntax, "%s is declared twice", name)
		return
	}
	table[name] = s
}

// slot is the address of the i-th array of a small space: aligned to no more than asked for.
func slot(base uint64, i, align int) uint64 { return base + uint64(i)<<smallShift + uint64(align) }

// initial reads a variable's first values; what is not given is zero.
func (p *parser) initial(t typ, count int, data []byte) {
	width := t.bits / 8
	put := func(i int) {
		var b [8]byte
		binary.LittleEndian.PutUint64(b[:], p.immediate(t))
		copy(data[i*width:(i+1)*width], b[:])
	}
	if !p.accept("{") {
		put(0)
		return
	}
	for i := 0; p.tok != "}"; i++ {
		if i == count {
			p.fail(ErrSyntax, "more values than the %d of the array", count)
			return
		}
		put(i)
		if !p.accept(",") {
			break
		}
	}
	p.expect("}")
}

// immediate reads a number of the type: its bits.
func (p *parser) immediate(t typ) uint64 {
	negative := p.accept("-")
	word := p.word()
	if p.err != nil {
		return 0
	}
	if len(word) == 10 && (strings.HasPrefix(word, "0f") || strings.HasPrefix(word, "0F")) {
		v, err := strconv.ParseUint(word[2:], 16, 32)
		if err != nil || negative || t.bits != 32 || t.kind != 'f' && t.kind != 'b' {
			p.fail(ErrSyntax, "%s is no value of type %c%d", word, t.kind, t.bits)
		}
		return v
	}
	v, err := parseUint(strings.TrimSuffix(word, "U"))
	if err != nil || t.kind == 'f' {
		p.fail(ErrSyntax, "%s is no value of type %c%d", word, t.kind, t.bits)
		return 0
	}
	// Signed and unsigned readings of the bits are both written.
	if limit := t.mask(); !negative && v > limit || negative && v > limit/2+1 {
		p.fail(ErrSyntax, "%s does not fit type %c%d", word, t.kind, t.bits)
		return 0
	}
	if negative {
		v = -v
	}
	return v & t.mask()
}

// entry reads a kernel.
func (p *parser) entry() {
	p.next()
	k := &kernel{name: p.word()}
	if p.mod.kernels[k.name] != nil {
		p.fail(ErrSyntax, "kernel %s is there twice", k.name)
		return
	}
	p.k, p.names, p.labels, p.jumps = k, map[string]symbol{}, map[string]int{}, nil
	p.presetAt, p.sharedAt, p.shared = map[preset]uint16{}, map[string]uint64{}, 0
	p.registers, p.scopes = 0, []map[string]register{{}}
	p.reserve(scratch)
	for s := range k.granule {
		k.granule[s] = 2 // a word, if no access is narrower
	}
	p.parameters()
	p.limits()
	p.expect("{")
	p.body()
	p.emit(instr{op: opRet}) // of a text that ends without one
	p.finish()
	p.mod.kernels[k.name] = k
	p.k = nil
}

func (p *parser) parameters() {
	if !p.accept("(") {
		return
	}
	for p.tok == ".param" {
		p.next()
		t := p.typeWord()
		name := p.word()
		if p.tok == "[" || t.kind == 'p' {
			p.fail(ErrUnknown, "parameter %s: only numbers and pointers can be arguments", name)
			return
		}
		p.declare(p.names, name, symbol{space: paramSymbol, value: uint64(len(p.k.params)), element: t})
		p.k.params = append(p.k.params, t)
		if !p.accept(",") {
			break
		}
	}
	p.expect(")")
}

// limits reads what a kernel says about its launches.
func (p *parser) limits() {
	for strings.HasPrefix(p.tok, ".") {
		switch word := p.word(); word {
		case ".maxntid", ".reqntid":
			p.k.maxntid = [3]int{1, 1, 1}
			p.k.reqntid = word == ".reqntid"
			for i := range 3 {
				p.k.maxntid[i] = p.number(p.word(), maxThreads)
				if i < 2 && !p.accept(",") {
					break
				}
			}
			if p.k.maxntid[0]*p.k.maxntid[1]*p.k.maxntid[2] == 0 {
				p.fail(ErrSyntax, "a block without threads")
			}
		case ".minnctapersm", ".maxnreg":
			p.number(p.word(), 1<<20)
		default:
			p.fail(ErrUnknown, "directive %q", word)
		}
	}
}

// body reads a kernel's statements up to its closing brace.
func (p *parser) body() {
	for {
		switch {
		case p.tok == "":
			p.fail(ErrSyntax, "kernel %s has no end", p.k.name)
			return
		case p.accept("{"):
			p.scopes = append(p.scopes, map[string]register{})
		case p.tok == "}":
			p.next()
			last := len(p.scopes) - 1
			for _, r := range p.scopes[last] {
				p.registers -= r.count
			}
			if p.scopes = p.scopes[:last]; last == 0 {
				return
			}
		case p.tok == ".reg":
			p.declareRegisters()
		case p.tok == ".shared" || p.tok == ".local":
			p.variable()
		case p.tok == ".pragma":
			p.next()
			if p.tok != `"nounroll"` {
				p.fail(ErrUnknown, "pragma %s", p.tok)
			}
			p.next()
			p.expect(";")
		case p.tok[0] == '.':
			p.fail(ErrUnknown, "directive %q", p.tok)
		default:
			p.statement()
		}
	}
}

// reserve takes n registers.
func (p *parser) reserve(n int) int {
	first := p.registers
	p.registers += n
	p.k.regs = max(p.k.regs, p.registers)
	return first
}

func (p *parser) declareRegisters() {
	p.next()
	t := p.typeWord()
	for {
		name, count, ranged := p.word(), 1, false
		if ranged = p.accept("<"); ranged {
			count = p.number(p.word(), maxRegisters)
			p.expect(">")
		}
		if p.registers+count > maxRegisters {
			p.fail(ErrUnknown, "more than %d registers", maxRegisters)
			return
		}
		scope := p.scopes[len(p.scopes)-1]
		if _, ok := scope[name]; ok {
			p.fail(ErrSyntax, "%s is declared twice", name)
			return
		}
		scope[name] = register{t, p.reserve(count), count, ranged}
		if !p.accept(",") {
			break
		}
	}
	p.expect(";")
}

// register finds a register by its name.
func (p *parser) register(name string) (index uint16, t typ, ok bool) {
	prefix := strings.TrimRight(name, "0123456789")
	for i := len(p.scopes) - 1; i >= 0; i-- {
		if r, ok := p.scopes[i][name]; ok && !r.ranged {
			return uint16(r.first), r.typ, true
		}
		r, ok := p.scopes[i][prefix]
		if !ok || !r.ranged || prefix == name {
			continue
		}
		if n, err := strconv.Atoi(name[len(prefix):]); err == nil && n < r.count {
			return uint16(r.first + n), r.typ, true
		}
	}
	return 0, typ{}, false
}

func (p *parser) emit(in instr) {
	in.line = int32(p.start)
	p.k.code = append(p.k.code, in)
}

// preset is the frame index of a value that no instruction writes.
func (p *parser) preset(kind presetKind, value uint64) uint16 {
	key := preset{kind, value}
	i, ok := p.presetAt[key]
	if !ok {
		if len(p.k.presets) == maxRegisters {
			p.fail(ErrUnknown, "more than %d constants", maxRegisters)
			return 0
		}
		i = uint16(len(p.k.presets)) | presetFlag
		p.presetAt[key] = i
		p.k.presets = append(p.k.presets, key)
	}
	return i
}

// finish resolves branches and the places of presets.
func (p *parser) finish() {
	for _, j := range p.jumps {
		target, ok := p.labels[j.label]
		if !ok {
			p.line = j.line
			p.fail(ErrSyntax, "there is no label %s", j.label)
			return
		}
		p.k.code[j.instr].imm = int64(target)
	}
	if p.err != nil {
		return
	}
	n, ok := allocate(p.k.code, p.k.regs)
	if !ok {
		p.fail(ErrUnknown, "kernel %s is too large", p.k.name)
		return
	}
	p.k.regs = n
	place := func(x *uint16) {
		if *x&presetFlag != 0 {
			*x = *x&^presetFlag + uint16(n)
		}
	}
	for i := range p.k.code {
		p.k.code[i].operands(place, place)
	}
}
