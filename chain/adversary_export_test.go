package chain

// Limits of what a manager holds in memory.
const MaxExecuted = maxExecuted

// Held counts what a manager holds in memory: pending blocks, executions and verdicts.
func (m *Manager) Held() (pending, executed, verdicts int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.pending), len(m.executed.byClaim), len(m.verdicts.byID)
}
