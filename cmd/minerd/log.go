package main

import (
	"fmt"
	"os"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// newLogger writes to standard error: lines for people on a terminal, JSON elsewhere, unless format says which.
func newLogger(level, format string) (*zap.Logger, error) {
	lvl, err := zapcore.ParseLevel(level)
	if err != nil {
		return nil, fmt.Errorf("--log-level %q: there are debug, info, warn, error", level)
	}
	if format == "" {
		format = "json"
		if info, err := os.Stderr.Stat(); err == nil && info.Mode()&os.ModeCharDevice != 0 {
			format = "console"
		}
	}
	c := zap.NewProductionEncoderConfig()
	c.TimeKey, c.MessageKey, c.LevelKey = "time", "event", "level"
	var enc zapcore.Encoder
	switch format {
	case "json":
		c.EncodeTime = zapcore.RFC3339NanoTimeEncoder
		c.EncodeDuration = zapcore.SecondsDurationEncoder
		enc = zapcore.NewJSONEncoder(c)
	case "console":
		c.EncodeTime = zapcore.TimeEncoderOfLayout(time.TimeOnly + ".000")
		c.EncodeLevel = zapcore.CapitalLevelEncoder
		c.EncodeDuration = func(d time.Duration, e zapcore.PrimitiveArrayEncoder) {
			e.AppendString(d.Round(time.Millisecond).String())
		}
		c.ConsoleSeparator = "  "
		enc = zapcore.NewConsoleEncoder(c)
	default:
		return nil, fmt.Errorf("--log-format %q: there are console and json", format)
	}
	return zap.New(zapcore.NewCore(enc, zapcore.Lock(os.Stderr), lvl)), nil
}
