package dataset

// Error is a kind of failure. The errors of this package wrap one and add the file, what it holds and what was wanted.
type Error string

func (e Error) Error() string { return string(e) }

const (
	ErrNoFiles   = Error("no pair of IDX files")
	ErrAmbiguous = Error("more than one pair of IDX files")
	ErrMagic     = Error("not an IDX file of the wanted kind")
	ErrShape     = Error("a dimension is zero")
	ErrTooLarge  = Error("data set too large")
	ErrTruncated = Error("file too short")
	ErrTrailing  = Error("bytes after the end of the data")
	ErrCount     = Error("wrong count")
	ErrLength    = Error("wrong length")
	ErrRoot      = Error("wrong root")
	ErrLabel     = Error("label out of range")
	ErrRange     = Error("range not inside the data set or empty")
	ErrOverlap   = Error("ranges overlap")
)
