package ptx

import (
	"fmt"
	"strings"
)

// A lexer cuts a text into tokens: words (names, directives, opcodes, numbers; with the dots inside), strings and single
// signs. It keeps the first error and is at the end from then on.
type lexer struct {
	text string
	pos  int
	at   int // line of pos
	tok  string
	line int // line of tok
	err  error
}

func isWord(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '_' || c == '$' || c == '%' || c == '.'
}

// fail keeps the error, with the line of the current token, and ends the text.
func (l *lexer) fail(kind Error, format string, args ...any) {
	if l.err == nil {
		l.err = fmt.Errorf("line %d: %w: %s", l.line, kind, fmt.Sprintf(format, args...))
	}
	l.tok, l.pos = "", len(l.text)
}

// next moves to the next token; at the end it is empty.
func (l *lexer) next() {
	l.skip()
	l.tok, l.line = "", l.at
	if l.pos == len(l.text) {
		return
	}
	start := l.pos
	switch c := l.text[start]; {
	case isWord(c):
		for l.pos < len(l.text) && isWord(l.text[l.pos]) {
			l.pos++
		}
	case c == '"':
		end := strings.IndexAny(l.text[start+1:], "\"\n")
		if end < 0 || l.text[start+1+end] != '"' {
			l.fail(ErrSyntax, "a string without an end")
			return
		}
		l.pos += end + 2
	default:
		l.pos++
	}
	l.tok = l.text[start:l.pos]
}

// skip passes over white space and comments.
func (l *lexer) skip() {
	for l.pos < len(l.text) {
		rest := l.text[l.pos:]
		switch {
		case rest[0] == '\n':
			l.at++
			l.pos++
		case rest[0] == ' ' || rest[0] == '\t' || rest[0] == '\r':
			l.pos++
		case strings.HasPrefix(rest, "//"):
			n := strings.IndexByte(rest, '\n')
			if n < 0 {
				n = len(rest)
			}
			l.pos += n
		case strings.HasPrefix(rest, "/*"):
			n := strings.Index(rest[2:], "*/")
			if n < 0 {
				l.line = l.at
				l.fail(ErrSyntax, "a comment without an end")
				return
			}
			l.at += strings.Count(rest[:n+4], "\n")
			l.pos += n + 4
		default:
			return
		}
	}
}

// accept moves on if the token is this one.
func (l *lexer) accept(tok string) bool {
	if l.tok != tok {
		return false
	}
	l.next()
	return true
}

// expect moves on and fails if the token was another.
func (l *lexer) expect(tok string) {
	if l.tok != tok {
		l.fail(ErrSyntax, "%q where %q should be", l.tok, tok)
		return
	}
	l.next()
}

// word returns the token, which must be one, and moves on.
func (l *lexer) word() string {
	w := l.tok
	if w == "" || !isWord(w[0]) {
		l.fail(ErrSyntax, "%q where a word should be", w)
		return ""
	}
	l.next()
	return w
}
