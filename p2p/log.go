package p2p

import (
	"context"
	"log/slog"
	"sync"

	golog "github.com/ipfs/go-log/v2"
	"github.com/libp2p/go-libp2p/gologshim"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// zapHandler passes the log of libp2p on to zap, at level debug whatever its own level: to an operator of minerd, a
// dial that failed is no error.
type zapHandler struct {
	log *zap.Logger
}

func (h zapHandler) Enabled(context.Context, slog.Level) bool {
	return h.log.Core().Enabled(zapcore.DebugLevel)
}

func (h zapHandler) Handle(_ context.Context, r slog.Record) error {
	fields := make([]zap.Field, 0, r.NumAttrs())
	r.Attrs(func(a slog.Attr) bool {
		fields = append(fields, zap.Any(a.Key, a.Value.Resolve().Any()))
		return true
	})
	h.log.Debug(r.Message, fields...)
	return nil
}

func (h zapHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	fields := make([]zap.Field, 0, len(attrs))
	for _, a := range attrs {
		fields = append(fields, zap.Any(a.Key, a.Value.Resolve().Any()))
	}
	return zapHandler{h.log.With(fields...)}
}

func (h zapHandler) WithGroup(name string) slog.Handler {
	return zapHandler{h.log.Named(name)}
}

// libp2p has one log for the process: that of the first service that is made.
var routeOnce sync.Once

func routeLibp2pLog(log *zap.Logger) {
	routeOnce.Do(func() {
		gologshim.SetDefaultHandler(zapHandler{log.Named("libp2p")})
		golog.SetPrimaryCore(debugCore{log.Named("libp2p").Core()}) // of the hash table
	})
}

// debugCore writes all that it gets at level debug, like zapHandler.
type debugCore struct{ zapcore.Core }

func (c debugCore) Enabled(zapcore.Level) bool { return c.Core.Enabled(zapcore.DebugLevel) }

func (c debugCore) With(fields []zap.Field) zapcore.Core { return debugCore{c.Core.With(fields)} }

func (c debugCore) Check(e zapcore.Entry, to *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	if !c.Enabled(e.Level) {
		return to
	}
	e.Level = zapcore.DebugLevel
	return to.AddCore(e, c)
}

func (c debugCore) Write(e zapcore.Entry, fields []zap.Field) error {
	e.Level = zapcore.DebugLevel
	return c.Core.Write(e, fields)
}

// onceSet remembers what was said, so that one peer cannot fill the log. It is bounded; when full it starts afresh.
type onceSet struct {
	mu   sync.Mutex
	said map[string]bool
}

const maxOnce = 1024

// first is true the first time that it gets key.
func (o *onceSet) first(key string) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.said[key] {
		return false
	}
	if o.said == nil || len(o.said) >= maxOnce {
		o.said = map[string]bool{}
	}
	o.said[key] = true
	return true
}
