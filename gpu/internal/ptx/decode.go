package ptx

import (
	"math/bits"
	"strings"
)

// binaryOps are the instructions with two sources of the type, by the name without its type: the operations for s32, u32,
// s64 and u64. Narrower ones are computed in 32 bits.
var binaryOps = map[string][4]opcode{
	"add":    {opAdd32, opAdd32, opAdd64, opAdd64},
	"sub":    {opSub32, opSub32, opSub64, opSub64},
	"mul.lo": {opMul32, opMul32, opMul64, opMul64},
	"mul.hi": {opMulHiS32, opMulHiU32, opMulHiS64, opMulHiU64},
	"div":    {opDivS32, opDivU, opDivS64, opDivU},
	"rem":    {opRemS32, opRemU, opRemS64, opRemU},
	"min":    {opMinS32, opMinU, opMinS64, opMinU},
	"max":    {opMaxS32, opMaxU, opMaxS64, opMaxU},
}

// floatOps are the permitted instructions on f32 and their numbers of sources.
var floatOps = map[string]struct {
	op      opcode
	sources int
}{
	"add.rn": {opFAdd, 2}, "sub.rn": {opFSub, 2}, "mul.rn": {opFMul, 2}, "div.rn": {opFDiv, 2},
	"fma.rn": {opFma, 3}, "sqrt.rn": {opFSqrt, 1}, "neg": {opFNeg, 1}, "abs": {opFAbs, 1},
	"min": {opFMin, 2}, "max": {opFMax, 2}, "copysign": {opFCopysign, 2},
}

// bitOps work on all bits alike, whatever the width.
var bitOps = map[string]opcode{"and": opAnd, "or": opOr, "xor": opXor}

// A comparison, perhaps with its sources exchanged.
type comparison struct {
	op   opcode
	swap bool
}

var floatComparisons = map[string]comparison{
	"eq": {opFEq, false}, "ne": {opFNe, false}, "lt": {opFLt, false}, "le": {opFLe, false}, "gt": {opFLt, true}, "ge": {opFLe, true},
	"equ": {opFEqu, false}, "neu": {opFNeu, false}, "ltu": {opFLtu, false}, "leu": {opFLeu, false}, "gtu": {opFLtu, true}, "geu": {opFLeu, true},
	"num": {opFNum, false}, "nan": {opFNan, false},
}

var unsignedComparisons = map[string]comparison{
	"eq": {opEq, false}, "ne": {opNe, false}, "lt": {opLtU, false}, "le": {opLeU, false}, "gt": {opLtU, true}, "ge": {opLeU, true},
	"lo": {opLtU, false}, "ls": {opLeU, false}, "hi": {opLtU, true}, "hs": {opLeU, true},
}

var signedComparisons = map[string]comparison{
	"eq": {opEq, false}, "ne": {opNe, false}, "lt": {opLtS32, false}, "le": {opLeS32, false}, "gt": {opLtS32, true}, "ge": {opLeS32, true},
}

// testpKinds number the properties of testp as the interpreter knows them.
var testpKinds = map[string]int64{"finite": 0, "infinite": 1, "number": 2, "notanumber": 3, "normal": 4, "subnormal": 5}

var specialRegisters = map[string]uint64{
	"%tid.x": 0, "%tid.y": 1, "%tid.z": 2, "%ntid.x": 3, "%ntid.y": 4, "%ntid.z": 5,
	"%ctaid.x": 6, "%ctaid.y": 7, "%ctaid.z": 8, "%nctaid.x": 9, "%nctaid.y": 10, "%nctaid.z": 11,
}

var (
	b32  = typ{'b', 32}
	u32  = typ{'u', 32}
	f32  = typ{'f', 32}
	b64  = typ{'b', 64}
	pred = typ{'p', 1}
)

// statement reads a label or an instruction with its guard.
func (p *parser) statement() {
	p.start = p.line
	guarded := p.accept("@")
	branch, skip := opBraIf, opBraUnless
	if guarded && p.accept("!") {
		branch, skip = skip, branch
	}
	var guard uint16
	if guarded {
		guard = p.source(pred)
	}
	op := p.word()
	if !guarded && p.tok == ":" {
		p.next()
		if _, ok := p.labels[op]; ok {
			p.fail(ErrSyntax, "label %s is there twice", op)
		}
		p.labels[op] = len(p.k.code)
		return
	}
	at := len(p.k.code)
	switch {
	case op == "bra" || op == "bra.uni":
		p.jumps = append(p.jumps, jump{at, p.word(), p.start})
		if !guarded {
			branch = opBra
		}
		p.emit(instr{op: branch, a: guard})
	case guarded:
		p.emit(instr{op: skip, a: guard})
		p.instruction(op)
		p.k.code[at].imm = int64(len(p.k.code))
	default:
		p.instruction(op)
	}
	p.expect(";")
}

// instruction reads the operands of an instruction of this name and emits it.
func (p *parser) instruction(op string) {
	switch op {
	case "ret", "exit":
		p.emit(instr{op: opRet})
		return
	case "bar.sync", "barrier.sync", "barrier.sync.aligned":
		if n := p.word(); n != "0" || p.tok == "," {
			p.fail(ErrUnknown, "%s %s: barrier 0 of the whole block is the only one", op, n)
		}
		p.emit(instr{op: opBar})
		return
	}
	if why := forbidden(op); why != "" {
		p.fail(ErrForbidden, "%s: %s", op, why)
		return
	}
	name, suffix, _ := cutLast(op)
	family, modifiers, _ := strings.Cut(op, ".")
	switch family {
	case "ld":
		p.load(op, modifiers)
		return
	case "st":
		p.store(op, modifiers)
		return
	case "cvt":
		p.convert(op, strings.Split(modifiers, "."))
		return
	}
	t, ok := types[suffix]
	if !ok {
		p.fail(ErrUnknown, "instruction %s", op)
		return
	}
	if t.kind == 'f' && p.float(name, t) || t.kind != 'f' && p.integer(name, t) || p.either(name, t) {
		return
	}
	if t.kind == 'f' {
		p.fail(ErrForbidden, "%s: not among the permitted float operations (add, sub, mul, div, sqrt and fma want .rn)", op)
		return
	}
	p.fail(ErrUnknown, "instruction %s", op)
}

// forbidden says why no instruction with this family or these modifiers may be used, if so.
func forbidden(op string) string {
	parts := strings.Split(op, ".")
	switch parts[0] {
	case "ex2", "lg2", "sin", "cos", "tanh", "rcp", "rsqrt":
		return "an approximation"
	case "atom", "red":
		return "atomics depend on the order of threads"
	case "mma", "wmma", "wgmma":
		return "tensor cores round in their own ways"
	}
	for _, m := range parts[1:] {
		switch m {
		case "ftz":
			return "flushes to zero"
		case "approx", "full":
			return "an approximation"
		case "sat", "relu":
			return "saturates"
		case "rz", "rm", "rp", "rna":
			return "rounds other than to the nearest even"
		case "f16", "f16x2", "bf16", "bf16x2", "tf32", "f64", "e4m3", "e5m2":
			return "f32 is the only float type"
		}
	}
	return ""
}

func cutLast(s string) (before, after string, found bool) {
	i := strings.LastIndexByte(s, '.')
	if i < 0 {
		return s, "", false
	}
	return s[:i], s[i+1:], true
}

// fits tells whether a register of type r can be an operand of type t.
func fits(r, t typ) bool {
	return r.bits == t.bits && (r.kind == 'b' || t.kind == 'b' || (r.kind == 'f') == (t.kind == 'f')) && (r.kind == 'p') == (t.kind == 'p')
}

// comma passes the sign between two operands.
func (p *parser) comma() { p.expect(",") }

// target reads a register that the instruction writes. Those of loads and conversions may be wider than the type.
func (p *parser) target(t typ, wider bool) (uint16, typ) {
	line := p.line
	name := p.word()
	i, r, ok := p.register(name)
	if p.err != nil {
		return 0, t
	}
	if !ok {
		p.line = line
		p.fail(ErrUnknown, "register %s", name)
		return 0, t
	}
	if !fits(r, t) && !(wider && r.kind != 'p' && r.kind != 'f' && t.kind != 'p' && t.kind != 'f' && r.bits > t.bits) {
		p.line = line
		p.fail(ErrSyntax, "register %s of type %c%d for type %c%d", name, r.kind, r.bits, t.kind, t.bits)
	}
	return i, r
}

func (p *parser) dest(t typ) uint16 {
	i, _ := p.target(t, false)
	p.comma()
	return i
}

// source reads an operand of the type: a register, special register, number, or (of 64 bits) an array's address.
func (p *parser) source(t typ) uint16 {
	switch {
	case p.tok == "" || p.tok == "-" || p.tok[0] >= '0' && p.tok[0] <= '9':
		return p.preset(immediate, p.immediate(t))
	case p.tok[0] == '%':
		if s, ok := specialRegisters[p.tok]; ok && fits(u32, t) {
			p.next()
			return p.preset(special, s)
		}
		i, _ := p.target(t, false)
		return i
	}
	if i, _, ok := p.register(p.tok); ok { // a name of an inner scope may have no %
		p.target(t, false)
		return i
	}
	name := p.tok
	i, _ := p.symbolAddress()
	if p.err == nil && (t.bits != 64 || t.kind == 'p') {
		p.fail(ErrSyntax, "address of %s for type %c%d", name, t.kind, t.bits)
	}
	return i
}

// then reads a comma and a source.
func (p *parser) then(t typ) uint16 {
	p.comma()
	return p.source(t)
}

// symbolAddress reads an array's name: its address and space.
func (p *parser) symbolAddress() (uint16, spaceID) {
	line := p.line
	name := p.word()
	s, ok := p.names[name]
	if !ok {
		s, ok = p.symbols[name]
	}
	switch {
	case p.err != nil:
		return 0, 0
	case !ok || s.space == paramSymbol:
		p.line = line
		p.fail(ErrUnknown, "name %s", name)
		return 0, 0
	}
	switch s.space {
	case globalSymbol:
		return p.preset(globalAddress, s.value), globalSpace
	case sharedSymbol:
		return p.preset(immediate, p.sharedAddress(s.array)), sharedSpace
	case localSymbol:
		return p.preset(immediate, s.value), localSpace
	default:
		return p.preset(immediate, s.value), constSpace
	}
}

// sharedAddress is the address of a shared array, which the kernel has from its first use on.
func (p *parser) sharedAddress(a sharedArray) uint64 {
	address, ok := p.sharedAt[a.name]
	if !ok {
		p.shared = (p.shared+a.align-1)/a.align*a.align + a.size
		if p.shared > maxShared || len(p.k.shared) == maxArrays {
			p.fail(ErrUnknown, "more than %d bytes of shared memory", maxShared)
			return 0
		}
		address = slot(sharedBase, len(p.k.shared), a.align)
		p.sharedAt[a.name] = address
		p.k.shared = append(p.k.shared, a)
	}
	return address
}

// float reads the arithmetic on f32 that is permitted; false: it is none.
func (p *parser) float(name string, t typ) bool {
	if f, ok := floatOps[name]; ok {
		in := instr{op: f.op, d: p.dest(t), a: p.source(t)}
		if f.sources > 1 {
			in.b = p.then(t)
		}
		if f.sources > 2 {
			in.c = p.then(t)
		}
		if f.op == opFCopysign {
			in.a, in.b = in.b, in.a // PTX has the sign first
		}
		p.emit(in)
		return true
	}
	family, kind, _ := strings.Cut(name, ".")
	if k, ok := testpKinds[kind]; ok && family == "testp" {
		p.emit(instr{op: opFTestp, imm: k, d: p.dest(pred), a: p.source(t)})
		return true
	}
	return false
}

// either reads what is alike for floats and integers: moves, choices and comparisons.
func (p *parser) either(name string, t typ) bool {
	switch {
	case name == "mov" && t.bits != 8:
		p.move(t)
	case name == "selp" && t.bits >= 16:
		p.emit(instr{op: opSelp, d: p.dest(t), a: p.source(t), b: p.then(t), c: p.then(pred)})
	default:
		family, rest, _ := strings.Cut(name, ".")
		relation, resultType, _ := strings.Cut(rest, ".")
		switch {
		case family == "setp" && resultType == "":
			return p.compare(relation, t, pred)
		case family == "set" && (resultType == "u32" || resultType == "s32"):
			return p.compare(relation, t, u32)
		}
		return false
	}
	return true
}

// compare reads the operands of setp and set.
func (p *parser) compare(relation string, t, result typ) bool {
	table := unsignedComparisons
	switch {
	case t.kind == 'p' || t.bits == 8:
		return false
	case t.kind == 'f':
		table = floatComparisons
	case t.kind == 's':
		table = signedComparisons
	}
	c, ok := table[relation]
	if !ok || t.kind == 'b' && relation != "eq" && relation != "ne" {
		return false
	}
	in := instr{op: c.op, d: p.dest(result), a: p.source(t), b: p.then(t)}
	if t.kind == 's' {
		switch {
		case t.bits == 16:
			in.a, in.b = p.widened(t, in.a, 0), p.widened(t, in.b, 1)
		case t.bits == 64 && c.op == opLtS32:
			in.op = opLtS64
		case t.bits == 64 && c.op == opLeS32:
			in.op = opLeS64
		}
	}
	if c.swap {
		in.a, in.b = in.b, in.a
	}
	p.emit(in)
	if result.bits == 32 { // 0 or all bits
		p.emit(instr{op: opSub32, d: in.d, a: p.preset(immediate, 0), b: in.d})
	}
	return true
}

// widened puts a 16-bit source into a scratch register as 32 bits; wider ones stay where they are.
func (p *parser) widened(t typ, source uint16, temporary int) uint16 {
	if t.bits != 16 || !t.signed() {
		return source
	}
	p.emit(instr{op: opSExt16, bits: 32, d: uint16(temporary), a: source})
	return uint16(temporary)
}

// narrowed cuts a result that was computed in 32 bits to the type's.
func (p *parser) narrowed(t typ, d uint16) {
	if t.bits == 16 {
		p.emit(instr{op: opAnd, d: d, a: d, b: p.preset(immediate, t.mask())})
	}
}

// pick chooses the operation of a row of s32, u32, s64 and u64.
func pick(row [4]opcode, t typ) opcode {
	i := 0
	if !t.signed() {
		i = 1
	}
	if t.bits == 64 {
		i += 2
	}
	return row[i]
}

// integer reads the operations on integers, bits and predicates; false: it is none.
func (p *parser) integer(name string, t typ) bool {
	arithmetic := (t.kind == 's' || t.kind == 'u') && t.bits >= 16
	bitwise := t.kind == 'b' && t.bits >= 16
	if row, ok := binaryOps[name]; ok {
		if !arithmetic || name == "mul.hi" && t.bits == 16 {
			return false
		}
		d, a, b := p.dest(t), p.source(t), p.then(t)
		p.emit(instr{op: pick(row, t), d: d, a: p.widened(t, a, 0), b: p.widened(t, b, 1)})
		p.narrowed(t, d)
		return true
	}
	if op, ok := bitOps[name]; ok {
		if !bitwise && t.kind != 'p' {
			return false
		}
		p.emit(instr{op: op, d: p.dest(t), a: p.source(t), b: p.then(t)})
		return true
	}
	switch name {
	case "not":
		if !bitwise && t.kind != 'p' {
			return false
		}
		p.emit(instr{op: opXor, d: p.dest(t), a: p.source(t), b: p.preset(immediate, t.mask())})
	case "neg":
		if !t.signed() || !arithmetic {
			return false
		}
		d, a := p.dest(t), p.source(t)
		p.emit(instr{op: pick(binaryOps["sub"], t), d: d, a: p.preset(immediate, 0), b: a})
		p.narrowed(t, d)
	case "abs":
		if !t.signed() || !arithmetic {
			return false
		}
		op := opAbs32
		if t.bits == 64 {
			op = opAbs64
		}
		d, a := p.dest(t), p.source(t)
		p.emit(instr{op: op, d: d, a: p.widened(t, a, 0)})
		p.narrowed(t, d)
	case "mul.wide", "mad.wide":
		return arithmetic && t.bits < 64 && p.wide(name, t)
	case "mad.lo":
		if !arithmetic {
			return false
		}
		op := opMad32
		if t.bits == 64 {
			op = opMad64
		}
		d := p.dest(t)
		p.emit(instr{op: op, d: d, a: p.source(t), b: p.then(t), c: p.then(t)})
		p.narrowed(t, d)
	case "mad.hi":
		if !arithmetic || t.bits == 16 {
			return false
		}
		d, a, b, c := p.dest(t), p.source(t), p.then(t), p.then(t)
		p.emit(instr{op: pick(binaryOps["mul.hi"], t), a: a, b: b}) // into a scratch register
		p.emit(instr{op: pick(binaryOps["add"], t), d: d, b: c})
	case "shl":
		if !bitwise {
			return false
		}
		op := opShl32
		if t.bits == 64 {
			op = opShl64
		}
		d := p.dest(t)
		p.emit(instr{op: op, d: d, a: p.source(t), b: p.then(u32)})
		p.narrowed(t, d)
	case "shr":
		if t.bits < 16 {
			return false
		}
		op := opShrU
		if t.signed() {
			if op = opShrS32; t.bits == 64 {
				op = opShrS64
			}
		}
		d, a, b := p.dest(t), p.source(t), p.then(u32)
		p.emit(instr{op: op, d: d, a: p.widened(t, a, 0), b: b})
		p.narrowed(t, d)
	case "cvta.to.global", "cvta.to.shared", "cvta.to.local", "cvta.to.const", "cvta.global", "cvta.shared", "cvta.local", "cvta.const":
		if t != (typ{'u', 64}) {
			return false
		}
		p.emit(instr{op: opMov, d: p.dest(t), a: p.source(t)}) // see spaceID
	default:
		return p.bits(name, t)
	}
	return true
}

// wide reads a multiplication whose result has twice the bits.
func (p *parser) wide(name string, t typ) bool {
	result := typ{t.kind, 2 * t.bits}
	d, a, b := p.dest(result), p.source(t), p.then(t)
	var c uint16
	if name == "mad.wide" {
		c = p.then(result)
	}
	in := instr{d: d, a: p.widened(t, a, 0), b: p.widened(t, b, 1), c: c}
	switch {
	case t.bits == 16 && name == "mul.wide":
		in.op = opMul32
	case t.bits == 16:
		in.op = opMad32
	case name == "mul.wide" && t.signed():
		in.op = opMulWideS32
	case name == "mul.wide":
		in.op = opMulWideU32
	case t.signed():
		in.op = opMadWideS32
	default:
		in.op = opMadWideU32
	}
	p.emit(in)
	return true
}

// bits reads the operations that move bits about; false: it is none.
func (p *parser) bits(name string, t typ) bool {
	shf := map[string]opcode{"shf.l.wrap": opShfLWrap, "shf.r.wrap": opShfRWrap, "shf.l.clamp": opShfLClamp, "shf.r.clamp": opShfRClamp}
	count := map[string]opcode{"clz": opClz, "popc": opPopc, "brev": opBrev}
	wide := t.bits == 32 || t.bits == 64
	switch {
	case shf[name] != 0 && t == b32:
		p.emit(instr{op: shf[name], d: p.dest(t), a: p.source(t), b: p.then(t), c: p.then(u32)})
	case count[name] != 0 && t.kind == 'b' && wide:
		result := u32
		if name == "brev" {
			result = t
		}
		p.emit(instr{op: count[name], bits: uint8(t.bits), d: p.dest(result), a: p.source(t)})
	case name == "prmt" && t == b32:
		p.emit(instr{op: opPrmt, d: p.dest(t), a: p.source(t), b: p.then(t), c: p.then(t)})
	case name == "bfe" && wide && (t.kind == 's' || t.kind == 'u'):
		op := opBfeU
		if t.signed() {
			op = opBfeS
		}
		p.emit(instr{op: op, bits: uint8(t.bits), d: p.dest(t), a: p.source(t), b: p.then(u32), c: p.then(u32)})
	case name == "bfi" && wide && t.kind == 'b':
		p.emit(instr{op: opBfi, bits: uint8(t.bits), d: p.dest(t), a: p.source(t), b: p.then(t), c: p.then(u32), e: p.then(u32)})
	case name == "lop3" && t == b32:
		in := instr{op: opLop3, d: p.dest(t), a: p.source(t), b: p.then(t), c: p.then(t)}
		p.comma()
		in.imm = int64(p.number(p.word(), 255))
		p.emit(in)
	default:
		return false
	}
	return true
}

// move reads a mov, which also packs and unpacks: {a, b} has a in the low bits.
func (p *parser) move(t typ) {
	if p.tok == "{" {
		parts, part := p.vector(t, true)
		p.comma()
		p.emit(instr{op: opMov, a: p.source(t)}) // into a scratch register: a part may be the source
		for i, d := range parts {
			if d == 0 {
				continue // _
			}
			p.emit(instr{op: opShrU, d: d, b: p.preset(immediate, uint64(i*part.bits))})
			p.emit(instr{op: opAnd, d: d, a: d, b: p.preset(immediate, part.mask())})
		}
		return
	}
	d := p.dest(t)
	if p.tok != "{" {
		p.emit(instr{op: opMov, d: d, a: p.source(t)})
		return
	}
	parts, part := p.vector(t, false)
	p.emit(instr{op: opMov, a: p.preset(immediate, 0)})
	for i, a := range parts {
		p.emit(instr{op: opShl64, d: 1, a: a, b: p.preset(immediate, uint64(i*part.bits))})
		p.emit(instr{op: opOr, d: 0, a: 0, b: 1})
	}
	p.emit(instr{op: opMov, d: d, a: 0})
}

// vector reads the two or four parts that make up a value of type t. Those of a target may be _, which gives 0.
func (p *parser) vector(t typ, target bool) (parts []uint16, part typ) {
	p.expect("{")
	for p.err == nil {
		i, r := uint16(0), typ{}
		if target && p.tok == "_" {
			p.next()
		} else {
			line, name := p.line, p.word()
			var ok bool
			if i, r, ok = p.register(name); p.err == nil && (!ok || r.kind == 'p' || part.bits != 0 && r.bits != part.bits) {
				p.line = line
				p.fail(ErrSyntax, "%s as a part of type %c%d", name, t.kind, t.bits)
			}
			part = typ{'b', r.bits}
		}
		if parts = append(parts, i); len(parts) > 4 || !p.accept(",") {
			break
		}
	}
	p.expect("}")
	if p.err == nil && len(parts)*part.bits != t.bits {
		p.fail(ErrSyntax, "%d parts of %d bits for type %c%d", len(parts), part.bits, t.kind, t.bits)
	}
	return parts, part
}

// convert reads a cvt. Between integers it cuts and extends; from an integer it rounds to the nearest f32; to an integer it
// rounds toward zero or to the nearest even and holds what is out of range at the limits.
func (p *parser) convert(op string, modifiers []string) {
	rounding := ""
	if len(modifiers) == 3 {
		rounding, modifiers = modifiers[0], modifiers[1:]
	}
	if len(modifiers) != 2 {
		p.fail(ErrUnknown, "instruction %s", op)
		return
	}
	to, ok1 := types[modifiers[0]]
	from, ok2 := types[modifiers[1]]
	isInt := func(t typ) bool { return t.kind == 's' || t.kind == 'u' }
	switch {
	case !ok1 || !ok2:
		p.fail(ErrUnknown, "instruction %s", op)
	case isInt(to) && isInt(from) && rounding == "":
		d, r := p.target(to, true)
		p.comma()
		a, have := p.wideSource(from)
		a, have = p.extend(d, a, have, from, 64)
		a, _ = p.extend(d, a, have, to, r.bits)
		if a != d {
			p.emit(instr{op: opMov, d: d, a: a})
		}
	case to == f32 && isInt(from) && rounding == "rn":
		d := p.dest(to)
		a, have := p.wideSource(from)
		a, _ = p.extend(0, a, have, from, 64)
		in := instr{op: opU64ToF, d: d, a: a}
		if from.signed() {
			in.op = opS64ToF
		}
		p.emit(in)
	case isInt(to) && from == f32 && to.bits >= 16 && (rounding == "rzi" || rounding == "rni"):
		d := p.dest(to)
		in := instr{op: opFToU, bits: uint8(to.bits), d: d, a: p.source(from)}
		if to.signed() {
			in.op = opFToS
		}
		if rounding == "rni" {
			p.emit(instr{op: opFRoundEven, a: in.a}) // into a scratch register
			in.a = 0
		}
		p.emit(in)
	case to.kind == 'f' || from.kind == 'f':
		p.fail(ErrForbidden, "%s: not an exact conversion, nor a rounding to the nearest even", op)
	default:
		p.fail(ErrUnknown, "instruction %s", op)
	}
}

// wideSource reads a source of a conversion or store, whose register may be wider than the type: have is its width.
func (p *parser) wideSource(t typ) (index uint16, have int) {
	if _, _, ok := p.register(p.tok); ok {
		i, r := p.target(t, true)
		return i, r.bits
	}
	return p.source(t), t.bits
}

// extend takes the low bits of a, which has so many, that type t has, and extends them to that many bits, in d if there is
// something to do.
func (p *parser) extend(d, a uint16, have int, t typ, width int) (result uint16, bits int) {
	switch {
	case t.signed() && t.bits < width:
		op := map[int]opcode{8: opSExt8, 16: opSExt16, 32: opSExt32}[t.bits]
		p.emit(instr{op: op, bits: uint8(width), d: d, a: a})
		return d, width
	case t.bits < have:
		p.emit(instr{op: opAnd, d: d, a: a, b: p.preset(immediate, t.mask())})
		return d, t.bits
	}
	return a, have
}

// access reads the modifiers of a load or store: its space, type and number of elements.
func (p *parser) access(op, modifiers string) (in instr, t typ, ok bool) {
	in = instr{space: genericSpace, count: 1}
	parts := strings.Split(modifiers, ".")
	t, ok = types[parts[len(parts)-1]]
	if !ok || t.kind == 'p' {
		p.fail(ErrUnknown, "instruction %s", op)
		return in, t, false
	}
	parts = parts[:len(parts)-1]
	next := func(words ...string) (word string, ok bool) {
		for _, w := range words {
			if len(parts) > 0 && parts[0] == w {
				parts = parts[1:]
				return w, true
			}
		}
		return "", false
	}
	next("volatile")
	if word, ok := next(spaceNames[:genericSpace]...); ok {
		for s, name := range spaceNames {
			if name == word {
				in.space = spaceID(s)
			}
		}
	}
	if in.space == globalSpace && op[:2] == "ld" {
		_, in.constant = next("nc")
	}
	if word, ok := next("v2", "v4"); ok {
		in.count = word[1] - '0'
	}
	in.bytes = uint8(t.bits / 8)
	if len(parts) != 0 || in.bytes*in.count > 16 {
		p.fail(ErrUnknown, "instruction %s", op)
		return in, t, false
	}
	first, last := in.space, in.space
	if in.space == genericSpace {
		first, last = 0, numSpaces-1
	}
	for s := first; s <= last; s++ {
		p.k.granule[s] = min(p.k.granule[s], uint(bits.TrailingZeros8(in.bytes)))
	}
	return in, t, true
}

// address reads [register], [array] or [register+offset] into the instruction.
func (p *parser) address(in *instr) {
	p.expect("[")
	switch {
	case p.err != nil:
		return
	case p.tok != "" && (p.tok[0] == '-' || p.tok[0] >= '0' && p.tok[0] <= '9'):
		p.fail(ErrUnknown, "the absolute address %s", p.tok)
		return
	}
	if _, _, ok := p.register(p.tok); ok {
		in.e, _ = p.target(b64, false)
	} else {
		name := p.tok
		var s spaceID
		if in.e, s = p.symbolAddress(); p.err == nil && in.space != genericSpace && s != in.space {
			p.fail(ErrSyntax, "%s lies in %s memory", name, spaceNames[s])
		}
	}
	if p.accept("+") {
		in.imm = int64(int32(p.immediate(b32)))
	}
	p.expect("]")
}

// elements reads the registers of a load or store.
func (p *parser) elements(in *instr, read func() uint16) {
	if in.count == 1 {
		in.d = read()
		return
	}
	p.expect("{")
	for i, r := range []*uint16{&in.d, &in.a, &in.b, &in.c}[:in.count] {
		if i > 0 {
			p.comma()
		}
		*r = read()
	}
	p.expect("}")
}

func (p *parser) load(op, modifiers string) {
	if rest, ok := strings.CutPrefix(modifiers, "param."); ok {
		p.loadParameter(op, rest)
		return
	}
	in, t, ok := p.access(op, modifiers)
	if !ok {
		return
	}
	in.op = opLoad
	p.elements(&in, func() uint16 {
		i, r := p.target(t, true)
		in.bits = uint8(r.bits)
		return i
	})
	p.comma()
	p.address(&in)
	in.signed = t.signed() && int(in.bits) > t.bits
	if in.bytes == 4 && in.count == 1 && !in.signed {
		in.op = opLoad4
	}
	p.emit(in)
}

// loadParameter reads an argument, which is a preset.
func (p *parser) loadParameter(op, suffix string) {
	t, ok := types[suffix]
	if !ok {
		p.fail(ErrUnknown, "instruction %s", op)
		return
	}
	d, r := p.target(t, true)
	p.comma()
	p.expect("[")
	line, name := p.line, p.word()
	s, ok := p.names[name]
	if p.err == nil && (!ok || s.space != paramSymbol || s.element.bits != t.bits || p.tok != "]") {
		p.line = line
		p.fail(ErrUnknown, "%s of parameter %s: parameters are read whole", op, name)
		return
	}
	p.expect("]")
	if a, _ := p.extend(d, p.preset(parameter, s.value), t.bits, t, r.bits); a != d {
		p.emit(instr{op: opMov, d: d, a: a})
	}
}

func (p *parser) store(op, modifiers string) {
	in, t, ok := p.access(op, modifiers)
	if !ok {
		return
	}
	if in.space == constSpace {
		p.fail(ErrUnknown, "instruction %s", op)
		return
	}
	in.op = opStore
	p.address(&in)
	p.comma()
	p.elements(&in, func() uint16 {
		i, _ := p.wideSource(t)
		return i
	})
	if in.bytes == 4 && in.count == 1 {
		in.op = opStore4
	}
	p.emit(in)
}
