package chain_test

import (
	"crypto/sha256"
	"go/ast"
	"go/parser"
	"go/token"
	"strconv"
	"strings"
	"testing"

	"github.com/descentnet/minerd/chain"
)

// constants are the string constants of a source file whose names begin with prefix.
func constants(t *testing.T, file, prefix string) map[string]string {
	t.Helper()
	f, err := parser.ParseFile(token.NewFileSet(), file, nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]string{}
	for _, d := range f.Decls {
		g, ok := d.(*ast.GenDecl)
		if !ok || g.Tok != token.CONST {
			continue
		}
		for _, s := range g.Specs {
			v := s.(*ast.ValueSpec)
			for i, name := range v.Names {
				if !strings.HasPrefix(name.Name, prefix) {
					continue
				}
				text, err := strconv.Unquote(v.Values[i].(*ast.BasicLit).Value)
				if err != nil {
					t.Fatal(err)
				}
				out[name.Name] = text
			}
		}
	}
	return out
}

// TestTags pins H(tag, "abc") for every tag of the table in hash.go.
func TestTags(t *testing.T) {
	golden := map[string]string{
		"network": "1714dc5229c15a11cb14494941d086b1e35e844be584c40f42ae9aac24b97c44",
		"task":    "ce5ec994f4ead1dd4c14e241fbb46d8e87a6a0a1804c601874aa7bca985a6622",
		"init":    "443ef8985f2d75d7de7c99a3c33a82735895580c94d1363e1b8c1db6490b94c4",
		"claim":   "94927ed7d981ad3dc31de7925b03103eaf97eed88ae8f84e0cc67ee71e674069",
		"block":   "17e814932a4be9ee356b8368ca63ecb32ff4a86ccb42904ec71e7da8b3b4e645",
		"batch":   "9ef9e11a77b364bc1836db0c45f1f6aa10657c24dfe11155d2ce16393c1f9417",
		"ticket":  "99f16a8cd3eba7a93fb1cc3f960d65758679f721794091cc51dc069b899a3898",
		"account": "afaffda1544a0d0313408e8e6ed2e8998448c35c27a1012d4026760ed4ec6bc0",
		"node":    "590b7c9a2e57dc6008eb1718933dfa5d69a2f1502b96f0390e785b440c0f476c",
	}
	tags := constants(t, "hash.go", "tag")
	seen := map[string]string{}
	for name, tag := range tags {
		if seen[tag] != "" {
			t.Errorf("%s and %s are both %q", name, seen[tag], tag)
		}
		seen[tag] = name
		if got := chain.Tagged(tag, []byte("a"), []byte("bc")).String(); got != golden[tag] {
			t.Errorf("H(%q, \"abc\") is %s, want %q", tag, got, golden[tag])
		}
	}
	if len(seen) != len(golden) {
		t.Errorf("%d tags, %d pinned", len(seen), len(golden))
	}
}

// TestRoots spells the Merkle trees of RFC 6962 out.
func TestRoots(t *testing.T) {
	leaf := func(b []byte) chain.Hash { return sha256.Sum256(append([]byte{0}, b...)) }
	node := func(l, r chain.Hash) chain.Hash {
		return sha256.Sum256(append(append([]byte{1}, l[:]...), r[:]...))
	}
	a, b, c := []byte("a"), []byte{}, []byte("a longer transaction")
	for name, g := range map[string]struct{ got, want chain.Hash }{
		"no transactions":  {chain.TxRoot(nil), sha256.Sum256(nil)},
		"one":              {chain.TxRoot([][]byte{a}), leaf(a)},
		"two":              {chain.TxRoot([][]byte{a, b}), node(leaf(a), leaf(b))},
		"three":            {chain.TxRoot([][]byte{a, b, c}), node(node(leaf(a), leaf(b)), leaf(c))},
		"no early roots":   {chain.EarlyRoot(nil), sha256.Sum256(nil)},
		"two early roots":  {chain.EarlyRoot([]chain.Hash{{1}, {2}}), node(leaf(hashBytes(1)), leaf(hashBytes(2)))},
		"swapped":          {chain.EarlyRoot([]chain.Hash{{2}, {1}}), node(leaf(hashBytes(2)), leaf(hashBytes(1)))},
		"one of two alike": {chain.EarlyRoot([]chain.Hash{{1}, {1}}), node(leaf(hashBytes(1)), leaf(hashBytes(1)))},
	} {
		if g.got != g.want {
			t.Errorf("%s: %v, want %v", name, g.got, g.want)
		}
	}
}

func hashBytes(first byte) []byte {
	h := chain.Hash{first}
	return h[:]
}

func TestEarlyRootCount(t *testing.T) {
	for steps, want := range map[uint32]int{1: 0, 2: 1, 3: 2, 4: 2, 5: 3, 63: 6, 64: 6, 65: 7, 100: 7, 128: 7, 129: 8, 4096: 12} {
		if got := chain.EarlyRootCount(steps); got != want {
			t.Errorf("%d steps have %d early roots, want %d", steps, got, want)
		}
	}
}
