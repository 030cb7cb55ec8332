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

// Times of verdicts, in milliseconds, and their number.
const (
	MaxVerdicts  = maxVerdicts
	VerdictLasts = verdictLasts
	VerdictMost  = verdictMost
)

// HasVerdict says whether a block is remembered as invalid by what training here has shown.
func (m *Manager) HasVerdict(id Hash) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	_, ok := m.verdicts.byID[id]
	return ok
}

// Encode is the spec's canonical encoding.
func (s *Spec) Encode() []byte { return s.encode() }
