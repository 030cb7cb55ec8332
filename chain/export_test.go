package chain

// What the tests in package chain_test need to see of the inside.
var (
	Tagged           = tagged
	NextDifficultyOf = nextDifficulty
	MaxDifficulty    = maxDifficulty
)

// MaxBlockBytes and MaxSide are the limits of the same names.
const (
	MaxBlockBytes = maxBlockBytes
	MaxSide       = maxSide
)

// Encode is the spec's canonical encoding.
func (s *Spec) Encode() []byte { return s.encode() }
